"""Dimension of a path of updates, from their Gram matrix, against an AR(1) walk."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreshock.stats.intervals import jackknife_se, t_quantile
from foreshock.types import Estimate, Flag

Array = NDArray[np.float64]

#: Fewest pairs that a correlation dimension rests on.
SMALLEST_PAIRS = 32

#: Fewest updates with a correlation dimension, and number of groups of its jackknife.
SMALLEST_CLOUD = 20


def gram_dimension(
    gram: ArrayLike, *, dimension: float, draws: int = 199, seed: int = 0
) -> dict[str, Estimate]:
    r"""How many dimensions n successive updates use, and how many an AR(1) walk would.

    From the n x n Gram of the *uncentred* updates δ_t, with r_ij = \|δ_i - δ_j\|:

        ``trajectory/participation_ratio`` = (tr G)² / tr(G²)
        ``trajectory/correlation_dimension`` = lim d log C(r) / d log r, C(r) = share of r_ij < r
        ``trajectory/rho_1`` = Σ δ_t'δ_{t+1} / Σ (\|δ_t\|² + \|δ_{t+1}\|²)/2

    The participation ratio of these updates is exact. The correlation dimension of Grassberger and
    Procaccia is taken as Takens' maximum likelihood, 1/mean log(r_c/r_ij) over r_ij < r_c, with r_c
    the distance that 5 % of the pairs (at least 32) fall short of. Edges of the cloud bias it down
    in proportion to r_c (a 3-ball reads 2.8), so its interval is the hull of two: a jackknife over
    20 groups of successive updates, on the log, of the reading and of its extrapolation to r = 0
    from a quarter of the pairs. Beyond 2 log10 n (Eckmann and Ruelle) it is ``unresolved``, with
    no interval.

    **Null.** A stationary, isotropic Gaussian AR(1) walk in ``dimension`` dimensions,
    δ_t = ρ δ_{t-1} + noise with ρ the observed ``rho_1``, so that momentum does not pass for a low
    dimension. It is drawn as a Wishart matrix, without vectors of d numbers. The bands hold 95 % of
    its readings; ``rho_1`` has that of independent updates. Two things lie below this null without
    structure in time: updates whose length follows a schedule (divide them by the learning rate),
    and anisotropic noise (pass the noise's own dimension, tr(S)²/tr(S²)).

    Args:
        gram: ``(n, n)`` Products of the updates, in order of time.
        dimension: Number of dimensions p of the null, >= 1.
        draws: Number of walks, at least 39.
        seed: Seed of the walks.

    Returns:
        The three series. All missing below 3 updates or where one is zero or not finite; the
        correlation dimension also below 20 updates, or where close pairs are rounding. Cost:
        draws · n³ operations at most (n = 200: 2 s).

    Raises:
        ValueError: If the matrix is not square or ``dimension`` or ``draws`` is too small.

    References:
        Grassberger & Procaccia, Physica D 9 (1983) 189; Takens, Lect. Notes Math. 1125 (1985) 99;
        Eckmann & Ruelle, Physica D 56 (1992) 185.

    Examples:
        >>> got = gram_dimension(np.diag([1.0, 1.0, 2.0]), dimension=1000)
        >>> round(got["trajectory/participation_ratio"].value, 3)  # 4²/6
        2.667
        >>> got["trajectory/correlation_dimension"].flags.names
        ('unresolved',)
    """
    matrix = np.asarray(gram, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"The `gram` of `gram_dimension` must be square. Got {matrix.shape}.")
    if not dimension >= 1:
        raise ValueError(
            f"The `dimension` of `gram_dimension` must be at least 1. Got {dimension}."
        )
    if draws < 39:
        raise ValueError(f"The `draws` of `gram_dimension` must be at least 39. Got {draws}.")
    n = len(matrix)
    squares = np.diagonal(matrix)
    if n < 3 or not (np.isfinite(matrix).all() and (squares > 0).all()):
        sentence = (
            f"A dimension needs at least 3 updates. Got {n}."
            if n < 3
            else "An update is zero or not finite."
        )
        names = ("participation_ratio", "correlation_dimension", "rho_1")
        return {f"trajectory/{name}": Estimate.missing(sentence, n=n) for name in names}
    # A pure number is wanted, so the scale goes, before it could overflow in tr(G²).
    matrix = matrix / squares.mean()
    squares = np.diagonal(matrix)
    rho = float(np.diagonal(matrix, 1).sum() / ((squares[:-1] + squares[1:]).sum() / 2))
    rng = np.random.default_rng(seed)
    ratios, dimensions = np.empty(draws), np.empty(draws)
    for i in range(draws):
        walk = _walk(n, float(dimension), rho, rng)
        ratios[i] = _participation(walk)
        dimensions[i] = _takens(*_close(walk))[0] if n >= SMALLEST_CLOUD else math.nan
    ratio = _participation(matrix)
    half = 1.96 / math.sqrt(dimension * (n - 1))
    return {
        "trajectory/participation_ratio": Estimate(ratio, ratio, ratio, n=n, null=_band(ratios)),
        "trajectory/correlation_dimension": _correlation_dimension(matrix, _band(dimensions)),
        "trajectory/rho_1": Estimate(rho, rho, rho, n=n - 1, null=(-half, half)),
    }


def _participation(gram: Array) -> float:
    return float(np.trace(gram) ** 2 / (gram**2).sum())


def _band(draws: Array) -> tuple[float, float] | None:
    """The middle 95 % of the null, nothing where it has no value."""
    if not np.isfinite(draws).all():
        return None
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def _walk(n: int, p: float, rho: float, rng: np.random.Generator) -> Array:
    """Gram of n steps of a stationary AR(1) walk in p dimensions."""
    if p >= n:  # Bartlett: no vector of p numbers
        noise = np.tril(rng.standard_normal((n, n)), -1)
        rows = np.arange(n)
        noise[rows, rows] = np.sqrt(rng.chisquare(p - rows))
    else:
        noise = rng.standard_normal((n, round(p)))
    fresh = math.sqrt(max(1 - rho**2, 0.0))
    for t in range(1, n):
        noise[t] = rho * noise[t - 1] + fresh * noise[t]
    return noise @ noise.T


def _close(gram: Array) -> tuple[Array, Array, int]:
    """Squared distances, the sorted ones of distinct pairs, and how many of them are close."""
    squares = np.diagonal(gram)
    distances = squares[:, None] + squares - 2 * gram
    pairs = np.sort(distances[np.triu_indices(len(gram), 1)])
    return distances, pairs, max(SMALLEST_PAIRS, math.ceil(len(pairs) / 20))


def _takens(distances: Array, pairs: Array, count: int, groups: int = 0) -> Array:
    """1/mean log(r_c/r) over the closest pairs: of all, and without each group of updates."""
    radius = pairs[count]
    with np.errstate(divide="ignore", invalid="ignore"):
        value = 2 * count / np.log(radius / pairs[:count]).sum(keepdims=True)
        if not groups:
            return value
        near = np.triu(distances < radius, 1)
        near |= near.T
        logs = np.zeros_like(distances)
        logs[near] = np.log(radius / distances[near])
        starts = np.linspace(0, len(distances), groups + 1).astype(int)[:-1]

        def without(table: Array) -> Array:
            by_row = np.add.reduceat(table, starts, axis=0)
            within = np.diagonal(np.add.reduceat(by_row, starts, axis=1))
            return table.sum() - 2 * by_row.sum(1) + within

        left_out = 2 * without(near.astype(np.float64)) / without(logs)
    return np.concatenate([value, left_out])


def _correlation_dimension(gram: Array, null: tuple[float, float] | None) -> Estimate:
    """Takens' estimate with its interval and flags."""
    n = len(gram)
    if n < SMALLEST_CLOUD:
        return Estimate.missing(
            f"A correlation dimension needs at least {SMALLEST_CLOUD} updates. Got {n}.", n=n
        )
    distances, pairs, count = _close(gram)
    # A squared distance is a difference of products, each rounded in its 16th digit. One close pair
    # of a hundred may drown in that, which moves the mean little, but not the scale of the slope.
    rounding = 16 * np.finfo(np.float64).eps * float(np.diagonal(gram).max())
    if pairs[count // 100] < rounding or pairs[count // 4] < 1e4 * rounding:
        return Estimate.missing(
            "Updates coincide up to the rounding of their products.",
            flags=Flag.UNRESOLVED | Flag.BELOW_PRECISION,
            n=n,
        )
    distances, pairs = np.maximum(distances, rounding), np.maximum(pairs, rounding)
    limit, value = 2 * math.log10(n), float(_takens(distances, pairs, count)[0])
    if value > limit:
        return Estimate(
            value,
            n=n,
            flags=Flag.UNRESOLVED,
            reason=f"{n} updates resolve no correlation dimension above 2 log10 n = {limit:.1f}.",
            null=null,
        )
    coarse = _takens(distances, pairs, count, SMALLEST_CLOUD)
    fine = _takens(distances, pairs, count // 4, SMALLEST_CLOUD)
    both = np.stack([coarse, fine])
    if not (np.isfinite(both).all() and (both > 0).all()):
        return Estimate.missing("Too few close pairs remain without one group of updates.", n=n)
    coarse, fine = np.log(both)
    shrunk = 0.25 ** (1 / value)  # r_c of a quarter of the pairs over r_c
    limits = np.stack([coarse, fine + (fine - coarse) * shrunk / (1 - shrunk)])
    half = t_quantile(SMALLEST_CLOUD - 1) * jackknife_se(limits[:, 1:])
    with np.errstate(over="ignore"):
        low = float(np.exp(limits[:, 0] - half).min())
        high = float(np.exp(limits[:, 0] + half).max())
    return Estimate(value, low, high, n=n, null=null)
