r"""What a window of updates reads when nothing happens: three laws, and a test of order.

Each law gives Grams of n updates of the observed norms; they differ in the directions.

``"effective"`` (default): independent directions in the *effective* dimension p = tr(S)²/tr(S²) of
    the noise, estimated from the window (`effective_dimension`).
``"norms"``: independent directions in as many dimensions as there are parameters. Exact for
    isotropic noise only; any anisotropy passes for an edge.
``"toeplitz"``: the effective dimension, and the autocorrelation of the window itself. It asks
    whether anything is there *beyond* the autocorrelation.

A Wishart law in p dimensions has the second moment of the noise, not its tail: where one direction
carries most of it (p below some hundred), the largest ratio of pure noise exceeds that of the
Wishart law. No law of the spectrum can cure that, since independent updates of *any* covariance
are noise. What such noise cannot have is order: with independent directions, symmetric about 0,
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

    Args:
        correlation: (W, W) R.

    Returns:
        The mean and the degrees of freedom.

    Examples:
        >>> [round(one, 9) for one in scatter_law(np.eye(10))]
        [36.0, 36.0]
    """
    width = len(correlation)
    lags = [np.arange(width - lag) for lag in range(1, width - 1)]
    first = np.concatenate(lags)
    lag = np.repeat(np.arange(1, width - 1), [len(one) for one in lags])
    covariance = cosine_covariance(correlation, first, first + lag)
    same = (lag[:, None] == lag[None, :]) / (width - lag)[:, None]
    centring = np.eye(len(lag)) - same
    a = centring @ covariance @ centring
    # Collinear updates do not scatter at all; the floor keeps 0/0 out, a law of no size remains.
    mean = max(float(np.trace(a)), 1e-12)
    freedom = mean**2 / max(float((a * a).sum()), 1e-24)
    return mean, max(freedom, 1.0)


def effective_dimension(cosines: ArrayLike, correlation: Array | None = None) -> float:
    r"""tr(S)²/tr(S²) of the updates' noise, from the scatter of their cosines at each lag.

    Cosines of independent updates have mean 0 and mean square 1/p. We pool their variance *around
    the mean at each lag* over all lags: momentum and drift move the means and must not pass for a
    small p, or they would hide behind a null as wide as themselves. p^ = (ν-2)/ν over it, with
    ν = (W-1)(W-2)/2 degrees of freedom; (ν-2)/ν removes the bias of the reciprocal at large p. The
    relative error is about sqrt(2/ν): 24 % at W = 10, which is enough, since the null depends on
    sqrt(p). Kept within [W, 1e15]: below W the null's Wishart law would be singular.

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
    return min(max(expected / max(scatter(cosines), 1e-300), float(width)), 1e15)


@lru_cache(maxsize=256)
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


def null_grams(
    cosines: Array,
    norms: Array,
    *,
    null: Null,
    parameters: int | None = None,
    draws: int = 199,
    seed: int = 0,
) -> Array:
    """Grams that the chosen law gives for updates of these norms.

    Args:
        cosines: (W, W) Of the observed window; p and the autocorrelation come from it.
        norms: (n,) Norms of the updates of the null, n = W or W + 1.
        null: One of `NULLS`.
        parameters: Number of parameters; only for ``"norms"``.
        draws: Monte-Carlo windows.
        seed: Seed of the private generator.

    Returns:
        (draws, n, n).

    Raises:
        ValueError: If ``null`` is ``"norms"`` and `parameters` is missing.

    Examples:
        >>> null_grams(np.eye(4), np.ones(4), null="norms", parameters=100, draws=19).shape
        (19, 4, 4)
    """
    width, n = len(cosines), len(norms)
    freedom = (width - 1) * (width - 2) / 2
    if null == "norms":
        if parameters is None:
            raise ValueError("The null 'norms' needs the number of `parameters`. Got None.")
        drawn = null_cosines(n, _log(max(parameters, n)), draws, seed)
    elif null == "effective":
        drawn = null_cosines(n, _log(effective_dimension(cosines)), draws, seed, freedom)
    else:
        means = lag_means(cosines)
        correlation = toeplitz(means)
        p = effective_dimension(cosines, correlation)
        _, freedom = scatter_law(correlation)
        # A longer window than the observed one: the last lag once more, as a guess of the next.
        longer = toeplitz(np.append(means, means[-1])[:n])
        values, vectors = np.linalg.eigh(longer)
        root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
        drawn = null_cosines(n, _log(p), draws, seed, freedom)
        drawn = _unit_diagonal(root @ drawn @ root)
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


def _log(p: float) -> int:
    """Log p in steps of `LOG_STEP`."""
    return round(math.log(p) / LOG_STEP)


def _unit_diagonal(gram: Array) -> Array:
    """Cosines of a stack of Grams."""
    norms = np.sqrt(np.einsum("dii->di", gram))
    return gram / (norms[:, :, None] * norms[:, None, :])
