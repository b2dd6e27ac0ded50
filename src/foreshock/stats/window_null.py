r"""What a window of updates reads when nothing happens: three laws, and a test of order.

Each law gives Grams of n updates of the observed norms; they differ in the directions.

``"effective"`` (default): independent directions in the *effective* dimension p = tr(S)²/tr(S²) of
    the noise, estimated from the window (`effective_dimension`).
``"norms"``: independent directions in as many dimensions as there are parameters. Exact for
    isotropic noise only; any anisotropy passes for an edge.
``"toeplitz"``: the effective dimension, and the autocorrelation of the window itself. It asks
    whether anything is there *beyond* the autocorrelation.

A Wishart law in p dimensions has the second moment of the noise, not its tail: where few directions
carry most of it, the largest ratio of pure noise exceeds that of the Wishart law. Independent
updates of *any* covariance are noise, so each band is the wider of two extremes of the same p:
isotropic (Wishart), and all of the second moment in one to three directions (`spiked_cosines`).
That costs width, σ_1 and gap_1 most: 2 to 5 times that of the Wishart band.

**Measured level of the bands** (share of pure noise outside, nominal 5 %; W = 10, 300 windows, so
+-1.3 %), isotropic noise in 20,000 directions and spectra j^-.5, j^-.6, j^-.8, j^-1:

    p                       20,000   7,555   3,415   443    67
    σ_1, σ_2, rank             0 %     0 %     0 %   0 %   1 %
    gap_1, gap_2, gap_3      3-5 %   1-2 %   1-2 % 1-3 % 0-3 %
    angle_1                    6 %     4 %     5 %   5 %   4 %
    angle_2, angle_3           1 %   1-2 %   1-2 % 1-2 %   3 %
    turning_bound              5 %     3 %     2 %   1 %   1 %
    k*, weighted k*          0-1 %     0 %     0 % 0-1 %   0 %
    ρ_1, ρ_2, ρ_3            2-4 %   3-5 %   3-5 % 2-6 %   4 %
    ratio                      4 %     4 %    17 %  32 %  13 %

The ratio carries the Wishart band alone, since that decides first; the sign test below decides
last. ``"toeplitz"`` has the same levels (200 windows: at most 6 %, ratio 2 to 26 %). ``"norms"``
has only the Wishart law: 2 to 11 % at p = 20,000, 1 to 98 % at 7,555 (rank and σ_1 worst), and 41
to 100 % of σ, gaps and ratio from 3,415 down. With p = 14, 6 and 2 dimensions, about as few as
updates, σ_1 lies outside in 4, 22 and 52 %, gap_1 in 4, 13 and 37 %, the rank in 2, 16 and 47 %
(150 windows).

What independent updates cannot have is order: with independent directions, symmetric about 0,
flipping signs of updates changes nothing in law, while σ stays as it is. `sign_test` is exact under
that, whatever the covariance, so an edge over ``"effective"`` must pass it as well.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Places = NDArray[np.signedinteger]

Null = Literal["effective", "norms", "toeplitz"]
NULLS: tuple[Null, ...] = ("effective", "norms", "toeplitz")

#: p is rounded to this step of log p before the null is drawn, so that windows share cached draws.
#: 5 % of p is 2.5 % of a ratio's excess over 1, far below the Monte-Carlo error of 199 draws.
LOG_STEP = 0.05

#: Up to this many updates every pattern of signs is tried, beyond it that many drawn ones.
ALL_SIGNS = 13

#: Below this a sign test cannot reach 5 %: 2^(W-1) patterns, two of which always tie.
SIGN_WIDTH = 7


def lag_means(cosines: ArrayLike) -> Array:
    """Mean cosine at every lag, r_0 = 1 to r_(W-1).

    Args:
        cosines: (W, W) Matrix with unit diagonal.

    Returns:
        (W,) The means.

    Examples:
        >>> lag_means([[1.0, 0.5, 0.1], [0.5, 1.0, 0.3], [0.1, 0.3, 1.0]]).tolist()
        [1.0, 0.4, 0.1]
    """
    matrix = np.asarray(cosines, dtype=np.float64)
    return np.array([np.diagonal(matrix, lag).mean() for lag in range(len(matrix))])


def toeplitz(means: ArrayLike) -> Array:
    """Symmetric matrix whose l-th diagonals hold ``means[l]``.

    Args:
        means: (W,) Values by lag.

    Returns:
        (W, W) The matrix.

    Examples:
        >>> toeplitz([1.0, 0.5]).tolist()
        [[1.0, 0.5], [0.5, 1.0]]
    """
    r = np.asarray(means, dtype=np.float64)
    index = np.arange(len(r))
    return r[np.abs(index[:, None] - index[None, :])]


def cosine_covariance(correlation: Array, first: Places, second: Places) -> Array:
    r"""Covariance of cosines of pairs of updates, times p, for Gaussian updates with correlation R.

    Pearson and Filon: p Cov(c_ij, c_kl) = ½ r_ij r_kl (r_ik² + r_il² + r_jk² + r_jl²) + r_ik r_jl
    + r_il r_jk - r_ij (r_ik r_il + r_jk r_jl) - r_kl (r_ik r_jk + r_il r_jl), to first order in
    1/p. The identity for independent updates.

    Args:
        correlation: (W, W) R.
        first: (m,) The i of every pair.
        second: (m,) The j of every pair.

    Returns:
        (m, m) The covariance.

    Examples:
        >>> cosine_covariance(np.eye(4), np.array([0, 1]), np.array([2, 3])).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    r = correlation
    ik, jl = r[np.ix_(first, first)], r[np.ix_(second, second)]
    il, jk = r[np.ix_(first, second)], r[np.ix_(second, first)]
    ij = r[first, second][:, None]
    kl = r[first, second][None, :]
    squares = ik**2 + il**2 + jk**2 + jl**2
    out = 0.5 * ij * kl * squares + ik * jl + il * jk
    return out - ij * (ik * il + jk * jl) - kl * (ik * jk + il * jl)


def scatter(cosines: ArrayLike) -> float:
    """Sum of squares of the cosines around their mean at each lag, over lags 1 to W-2.

    Args:
        cosines: (W, W) Matrix with unit diagonal, W >= 3.

    Returns:
        The sum.

    Examples:
        >>> scatter(toeplitz([1.0, 0.5, 0.2]))
        0.0
    """
    matrix = np.asarray(cosines, dtype=np.float64)
    diagonals = [np.diagonal(matrix, lag) for lag in range(1, len(matrix) - 1)]
    return sum(float(((one - one.mean()) ** 2).sum()) for one in diagonals)


def scatter_law(correlation: Array) -> tuple[float, float]:
    """Mean (times p) and degrees of freedom of the scatter of cosines around their lag means.

    With A the covariance of all cosines of lags 1 to W-2, centred lag by lag, the scatter has mean
    tr A and about (tr A)²/tr A² degrees of freedom (Satterthwaite); both (W-1)(W-2)/2 where updates
    are independent.

    R is Toeplitz, so the covariance of the cosines of i, i+a and k, k+b depends on a, b and k-i
    only: rows, columns and squares of each block of A are cumulated sums. O(W³) time, O(W²) memory.

    Args:
        correlation: (W, W) R, constant along its diagonals; only the first row is read.

    Returns:
        The mean and the degrees of freedom.

    Examples:
        >>> [round(one, 9) for one in scatter_law(np.eye(10))]
        [36.0, 36.0]
    """
    width = len(correlation)
    r = np.zeros(3 * width)  # lags beyond the window stand in no pair; zeros keep the index simple
    r[:width] = correlation[0]
    shift = np.arange(1 - width, width)  # k - i
    b = np.arange(1, width - 1)[:, None]
    columns = width - b  # cosines at lag b
    mean = total = 0.0
    for a in range(1, width - 1):
        rows = width - a
        ik, jl = r[np.abs(shift)][None, :], r[np.abs(shift + b - a)]
        il, jk = r[np.abs(shift + b)], r[np.abs(shift - a)][None, :]
        ij, kl = r[a], r[b]
        covariance = 0.5 * ij * kl * (ik**2 + il**2 + jk**2 + jl**2) + ik * jl + il * jk
        covariance = covariance - ij * (ik * il + jk * jl) - kl * (ik * jk + il * jl)
        count = np.minimum(rows, columns - shift) - np.maximum(0, -shift)
        squares = (np.maximum(count, 0) * covariance**2).sum(1)
        sums = np.pad(np.cumsum(covariance, 1), ((0, 0), (1, 0)))
        i, k = np.arange(rows)[None, :], np.arange(width - 1)[None, :]
        along = np.take_along_axis(sums, width - 1 + columns - i, 1) - sums[:, width - 1 - i[0]]
        down = sums[:, width + k[0]] - sums[:, np.maximum(width + k[0] - rows, 0)]
        down = np.where(k < columns, down, 0.0)
        whole, size = along.sum(1), columns[:, 0]
        centred = squares - (along**2).sum(1) / size - (down**2).sum(1) / rows
        total += float((centred + whole**2 / (rows * size)).sum())
        mean += float(rows * covariance[a - 1, width - 1] - whole[a - 1] / rows)
    # Collinear updates do not scatter at all; the floor keeps 0/0 out, a law of no size remains.
    mean = max(mean, 1e-12)
    freedom = mean**2 / max(total, 1e-24)
    return mean, max(freedom, 1.0)


def effective_dimension(cosines: ArrayLike, correlation: Array | None = None) -> float:
    r"""tr(S)²/tr(S²) of the updates' noise, from the scatter of their cosines at each lag.

    Cosines of independent updates have mean 0 and mean square 1/p. We pool their variance *around
    the mean at each lag* over all lags: momentum and drift move the means and must not pass for a
    small p, or they would hide behind a null as wide as themselves. p^ = (ν-2)/ν over it, with
    ν = (W-1)(W-2)/2 degrees of freedom; (ν-2)/ν removes the bias of the reciprocal at large p. The
    relative error is about sqrt(2/ν): 24 % at W = 10, which is enough, since the null depends on
    sqrt(p). Kept within [1, 1e15].

    Autocorrelated updates scatter less than 1/p, and neighbouring cosines together; with
    `correlation` the scatter expected of them and its ν (`scatter_law`) stand in.

    Args:
        cosines: (W, W) Matrix with unit diagonal, W >= 3.
        correlation: (W, W) Autocorrelation of the updates; independent ones if not given.

    Returns:
        p^.

    Examples:
        >>> g = np.random.default_rng(0).standard_normal((10, 5000))
        >>> g /= np.linalg.norm(g, axis=1, keepdims=True)
        >>> 2000 < effective_dimension(g @ g.T) < 12000
        True
    """
    width = len(np.asarray(cosines))
    freedom = (width - 1) * (width - 2) / 2
    expected = freedom
    if correlation is not None:
        expected, freedom = scatter_law(correlation)
    if freedom > 2:  # W = 3 has a single degree of freedom
        expected *= (freedom - 2) / freedom
    else:
        expected /= freedom
    return min(max(expected / max(scatter(cosines), 1e-300), 1.0), 1e15)


@lru_cache(maxsize=32)
def null_cosines(width: int, log_p: int, draws: int, seed: int, freedom: float = math.inf) -> Array:
    """Cosine matrices of W independent Gaussian directions in p = exp(`log_p` LOG_STEP) dimensions.

    Bartlett's decomposition of a Wishart matrix, L L' with normals below the diagonal and
    sqrt(chi²_{p-i}) on it, needs no vector of p numbers. Each draw has its own p, times χ²_ν/ν, so
    that quantiles pay for p being an estimate.

    Args:
        width: W.
        log_p: log p in steps of `LOG_STEP`.
        draws: Number of matrices.
        seed: Seed of the private generator.
        freedom: ν; infinite where p is known.

    Returns:
        (draws, W, W), read-only, since it is cached.

    Examples:
        >>> null_cosines(4, 100, 19, 0).shape
        (19, 4, 4)
    """
    rng = np.random.default_rng([seed, width, max(log_p, 0)])
    p = np.full(draws, math.exp(log_p * LOG_STEP))
    if math.isfinite(freedom):
        p = p * rng.chisquare(freedom, draws) / freedom
    p = np.maximum(p, width)
    lower = np.tril(rng.standard_normal((draws, width, width)), -1)
    rows = np.arange(width)
    lower[:, rows, rows] = np.sqrt(rng.chisquare(p[:, None] - rows))
    cosines = _unit_diagonal(lower @ lower.swapaxes(1, 2))
    cosines.flags.writeable = False
    return cosines


@lru_cache(maxsize=32)
def spiked_cosines(
    width: int, log_p: int, draws: int, seed: int, freedom: float = math.inf
) -> Array:
    """Cosines of updates whose second moment lies in one direction, or in three, by turns.

    The other extreme of a Wishart law of the same p = tr(S)²/tr(S²): m directions of share
    f = 1/sqrt(m p) each, and a rest of so many directions that it is orthogonal.

    Args:
        width: W.
        log_p: log p in steps of `LOG_STEP`.
        draws: Number of matrices; one direction in even ones, three in odd ones.
        seed: Seed of the private generator.
        freedom: ν of the estimate of p; infinite where p is known.

    Returns:
        (draws, W, W), read-only, since it is cached.

    Examples:
        >>> spiked_cosines(4, 100, 19, 0).shape
        (19, 4, 4)
    """
    rng = np.random.default_rng([seed, width, max(log_p, 0), 1])
    p = np.full(draws, math.exp(log_p * LOG_STEP))
    if math.isfinite(freedom):
        p = p * rng.chisquare(freedom, draws) / freedom
    number = np.where(np.arange(draws) % 2, 3, 1)
    share = 1 / np.sqrt(number * np.maximum(p, number))
    loads = rng.standard_normal((draws, width, 3)) * (np.arange(3) < number[:, None])[:, None, :]
    gram = share[:, None, None] * (loads @ loads.swapaxes(1, 2))
    rows = np.arange(width)
    # A rest of nothing leaves collinear updates; the floor keeps their norms above 0.
    gram[:, rows, rows] += np.maximum(1 - number * share, 1e-12)[:, None]
    cosines = _unit_diagonal(gram)
    cosines.flags.writeable = False
    return cosines


def band(values: Array) -> tuple[float, float]:
    """Band that holds 95 % of the draws of each law: the widest of them.

    Args:
        values: (laws, draws).

    Returns:
        Its ends.

    Examples:
        >>> band(np.array([np.arange(101.0), np.arange(101.0) + 50]))
        (2.5, 147.5)
    """
    low, high = np.quantile(values, [0.025, 0.975], axis=-1)
    return float(low.min()), float(high.max())


def null_grams(
    cosines: Array,
    norms: Array,
    *,
    null: Null,
    parameters: int | None = None,
    sketch: int | None = None,
    draws: int = 199,
    seed: int = 0,
) -> Array:
    """Grams that the chosen null gives for updates of these norms.

    Args:
        cosines: (W, W) Of the observed window; p and the autocorrelation come from it.
        norms: (n,) Norms of the updates of the null, n = W or W + 1.
        null: One of `NULLS`.
        parameters: Number of parameters; only for ``"norms"``.
        sketch: Dimensions of the sketch the cosines are of; only for ``"norms"``, since the other
            nulls see it in the window. Its error adds: 1/p = 1/parameters + 1/sketch.
        draws: Monte-Carlo windows of each law.
        seed: Seed of the private generator.

    Returns:
        (laws, draws, n, n): the Wishart law first, which decides `no_edge`; then, but for
        ``"norms"``, `spiked_cosines`, which only widens the bands.

    Raises:
        ValueError: If ``null`` is ``"norms"`` and `parameters` is missing.

    Examples:
        >>> null_grams(np.eye(4), np.ones(4), null="norms", parameters=100, draws=19).shape
        (1, 19, 4, 4)
    """
    width, n = len(cosines), len(norms)
    freedom = (width - 1) * (width - 2) / 2
    if null == "norms":
        if parameters is None:
            raise ValueError("The null 'norms' needs the number of `parameters`. Got None.")
        p = float(parameters) if sketch is None else 1 / (1 / parameters + 1 / sketch)
        drawn = null_cosines(n, _log(max(p, n)), draws, seed)[None]
    elif null == "effective":
        drawn = _both(n, effective_dimension(cosines), draws, seed, freedom)
    else:
        means = lag_means(cosines)
        correlation = toeplitz(means)
        p = effective_dimension(cosines, correlation)
        _, freedom = scatter_law(correlation)
        # A longer window than the observed one: the last lag once more, as a guess of the next.
        longer = toeplitz(np.append(means, means[-1])[:n])
        values, vectors = np.linalg.eigh(longer)
        root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
        drawn = _unit_diagonal(root @ _both(n, p, draws, seed, freedom) @ root)
    return drawn * np.outer(norms, norms)


def sign_test(cosines: ArrayLike, seed: int = 0) -> float:
    r"""P-value of "the updates come in no order", exact for any covariance of independent noise.

    Statistic Σ_l (Σ_i c_{i,i+l})²/(W-l), over lags 1 to W/2: large for drift, momentum and
    oscillation. Under the hypothesis (independent, symmetric about 0) the signs of the updates are
    fair coins given all else, so the statistic of all 2^(W-1) patterns of signs is its exact law;
    for W > 13, of 4095 drawn ones and the window's own. Two patterns always tie (alternating signs
    only turn odd lags over), so the smallest p-value is 2^(2-W): no use below W = 7.

    Args:
        cosines: (W, W) Matrix with unit diagonal, in order of time.
        seed: Seed of the drawn patterns.

    Returns:
        The p-value.

    Examples:
        >>> sign_test(toeplitz(0.5 ** np.arange(10)))
        0.00390625
    """
    matrix = np.asarray(cosines, dtype=np.float64)
    width = len(matrix)
    signs = _signs(width, seed)
    statistic = np.zeros(len(signs))
    for lag in range(1, max(width // 2, 1) + 1):
        flipped = signs[:, :-lag] * signs[:, lag:]
        statistic += (flipped @ np.diagonal(matrix, lag)) ** 2 / (width - lag)
    observed = statistic[0] * (1 - 1e-12)  # ties are ties, whatever the order of a sum
    return float((statistic >= observed).mean())


@lru_cache(maxsize=16)
def _signs(width: int, seed: int) -> Array:
    """Patterns of signs, the one without a flip first."""
    if width <= ALL_SIGNS:
        patterns = [(1.0, *rest) for rest in product((1.0, -1.0), repeat=width - 1)]
        return np.array(patterns)
    drawn = np.random.default_rng([seed, width]).choice([1.0, -1.0], (4095, width))
    return np.vstack([np.ones(width), drawn])


def _both(width: int, p: float, draws: int, seed: int, freedom: float) -> Array:
    """Both extremes of the noise of effective dimension p."""
    settings = (width, _log(p), draws, seed, freedom)
    return np.stack([null_cosines(*settings), spiked_cosines(*settings)])


def _log(p: float) -> int:
    """Log p in steps of `LOG_STEP`."""
    return round(math.log(p) / LOG_STEP)


def _unit_diagonal(gram: Array) -> Array:
    """Cosines of a stack of Grams."""
    norms = np.sqrt(np.einsum("...ii->...i", gram))
    return gram / (norms[..., :, None] * norms[..., None, :])
