"""How far a recorded cloud of latents is from the last one recorded: a distance with hindsight."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from foreshock.store import Run

#: Coordinates of the cloud, one array (particles, d) a measurement, in one fixed basis.
CLOUD = "latent/z"


def w2_to_final(run: Run) -> tuple[tuple[int, float], ...]:
    r"""Distance W2 of every recorded cloud of latents to the last one: fokker_planck.md 7.4.

    Uses the future: the last cloud is known only when the run is over, so no alarm may read this,
    and it is no series of the run. The document fits a Gaussian mixture to the final cloud; this
    is a mixture of one, on either side: W2^2 = |m - m'|^2 + tr(S + S' - 2 (S^1/2 S' S^1/2)^1/2)
    (Gelbrich 1990), which is exact for Gaussian clouds and a lower bound for all others: clouds
    with equal mean and covariance have distance 0, however many clusters they fall into.

    The particles are the same at every step, so their choice moves all clouds alike. No interval
    is claimed. Cost: O(n d^2 + d^3) a record. The last distance is 0 by construction, and any run
    that stops moving comes near it.

    Args:
        run: A run with `latent/z`, closed or flushed.

    Returns:
        Steps and distances in the unit of the coordinates, nan where a cloud is not finite or has
        another number of coordinates; nothing if there are fewer than two clouds.

    Examples:
        >>> import tempfile
        >>> z = np.random.default_rng(0).standard_normal((200, 3)).astype("float32")
        >>> with Run.create(tempfile.mkdtemp() + "/a") as run:
        ...     for step, shift in enumerate([4.0, 1.0, 0.0]):
        ...         run.append_array(step, "latent/z", z + np.array([shift, 0, 0], "float32"))
        ...     [(step, round(w2, 3)) for step, w2 in w2_to_final(run)]
        [(0, 4.0), (1, 1.0), (2, 0.0)]
    """
    return distances_to_last(run.arrays(CLOUD)) if CLOUD in run.names() else ()


def distances_to_last(
    records: Sequence[tuple[int, NDArray[np.floating]]],
) -> tuple[tuple[int, float], ...]:
    """`w2_to_final` of clouds that were read already.

    Args:
        records: Step and cloud (particles, d), by step.

    Returns:
        Steps and distances.
    """
    if len(records) < 2:
        return ()
    last = records[-1][1]
    return tuple((int(step), _bures(cloud, last)) for step, cloud in records)


def _bures(x: NDArray[np.floating], y: NDArray[np.floating]) -> float:
    alike = x.ndim == y.ndim == 2 and x.shape[1] == y.shape[1] and min(len(x), len(y)) > 1
    if not alike or not (np.isfinite(x).all() and np.isfinite(y).all()):
        return math.nan
    a, b = x.astype(np.float64), y.astype(np.float64)
    s, t = (np.atleast_2d(np.cov(cloud, rowvar=False)) for cloud in (a, b))
    values, vectors = np.linalg.eigh(s)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    inner = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ t @ root), 0.0)).sum()
    shift = np.square(a.mean(0) - b.mean(0)).sum()
    # Negative by rounding only: W2 of a cloud to itself is about 1e-8 of its width.
    return math.sqrt(max(float(shift + np.trace(s) + np.trace(t) - 2 * inner), 0.0))
