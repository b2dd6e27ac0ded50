"""Parts of a cloud of latents: classes of their labels, and clusters."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: Largest number of classes written.
PARTS = 16
#: What needs no score, and so may be read of a part with a hard edge.
SCORELESS = {
    f"latent/{name}"
    for name in (
        *("drift", "diffusion", "drift_power"),
        *("common_noise", "noise_correlation", "diffusion_spread"),
    )
}


def members(kind: str, labels: NDArray[np.int64], z: Tensor) -> list[tuple[str, Tensor]]:
    """Rows of each label, of the most frequent ones where there are many.

    Args:
        kind: What a part is called, before its label.
        labels: (N,) One a particle.
        z: (N, d) For the device.

    Returns:
        Name and rows of each part, by label.

    Examples:
        >>> found = members("class", np.array([3, 0, 3]), torch.ones(3, 1))
        >>> [(name, rows.tolist()) for name, rows in found]
        [('class0', [1]), ('class3', [0, 2])]
    """
    there = torch.as_tensor(labels, device=z.device)
    names, counts = np.unique(labels, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:PARTS]
    return [(f"{kind}{n}", (there == int(n)).nonzero()[:, 0]) for n in sorted(names[order])]


def clusters(
    z: Tensor, count: int, centres: NDArray[np.float64] | None, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.float64] | None]:
    """k-means from the centres of the last record, so that a cluster keeps its number.

    Args:
        z: (N, d) Particles.
        count: Clusters.
        centres: Of the last record; None to begin anew.
        seed: Of the first centres.

    Returns:
        Labels (N,), none where a cluster has lost its last particle, and the centres for next time.

    Examples:
        >>> z = torch.tensor([[0.0], [0.1], [9.0], [9.1]])
        >>> labels, centres = clusters(z, 2, None, seed=0)
        >>> bool(labels[0] == labels[1] != labels[2] == labels[3])
        True
    """
    from scipy.cluster.vq import ClusterError, kmeans2

    points = z.cpu().numpy()
    none = np.zeros(0, dtype=np.int64)
    if count > len(points):
        return none, centres
    try:
        if centres is None:
            found, labels = kmeans2(points, count, minit="++", seed=seed, missing="raise")
        else:
            found, labels = kmeans2(points, centres, minit="matrix", missing="raise")
    except ClusterError:  # one of them has lost its last particle: begin anew next time
        return none, None
    return labels.astype(np.int64), found
