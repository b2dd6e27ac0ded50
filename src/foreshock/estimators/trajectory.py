"""Dimension of the path: how many directions successive updates use."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from foreshock.estimators.gradient_noise import add_gram
from foreshock.stats.trajectory import gram_dimension
from foreshock.types import Estimate


def trajectory_dimension(
    updates: Tensor | ArrayLike,
    *,
    dimension: float | None = None,
    draws: int = 199,
    seed: int = 0,
) -> dict[str, Estimate]:
    """`gram_dimension` of n updates in order of time.

    Args:
        updates: ``(n, d)``, a tensor of any float type or an array.
        dimension: Number of dimensions of the null; d by default.
        draws: Number of walks that the null is made from.
        seed: Seed of the null.

    Returns:
        See `gram_dimension`. Cost of the Gram: n² d/2 products.

    Raises:
        ValueError: If the updates are no matrix, or as in `gram_dimension`.

    Examples:
        Two hundred independent updates in 3 of 1,000 dimensions:

        >>> rng = np.random.default_rng(0)
        >>> cloud = rng.standard_normal((200, 3)) @ np.eye(3, 1000)
        >>> got = trajectory_dimension(cloud)
        >>> ratio = got["trajectory/participation_ratio"]
        >>> round(ratio.value, 1), ratio.null[0] > 100  # the walk has all 1,000 to itself
        (3.0, True)
        >>> 2.4 < got["trajectory/correlation_dimension"].value < 3.2
        True
    """
    if isinstance(updates, Tensor):
        rows = updates.detach()
    else:
        rows = torch.from_numpy(np.array(updates, dtype=np.float64))
    if rows.ndim != 2:
        raise ValueError(
            "The `updates` of `trajectory_dimension` must be a matrix (n, d). "
            f"Got shape {tuple(rows.shape)}."
        )
    gram = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
    add_gram(gram, rows)
    return gram_dimension(
        gram.cpu().numpy(),
        dimension=rows.shape[1] if dimension is None else dimension,
        draws=draws,
        seed=seed,
    )
