r"""Statistics of one recorded series: the classical early-warning indicators, with uncertainty.

Pure functions on the values of a window, oldest first and evenly spaced: Hjorth's activity,
mobility and complexity, variance, skewness, lag-1 autocorrelation, Kendall's trend, slope. They are
baselines that a claim must beat, and serve any series that was written: loss, gradient norm, the
readings of an observable. So they are functions and no observable: an observable sees no series
but its own past.

**Detrending** is explicit (`detrend`): the mean, a line, or a Gaussian kernel smoother. Its cost in
degrees of freedom, ν = tr(2S − SS') for the smoother S, is accounted for.

**Uncertainty.** Variance, skewness and Hjorth's numbers: jackknife over 10 blocks of consecutive
values, Student's t with 9 degrees of freedom; blocks must be long against the memory of the series,
and the window against the blocks. Autocorrelation, slope and trend: formulas for AR(1) residuals
with bias-corrected φ. Measured coverage: `benchmarks/coverages/series.py`, and the docstrings.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreshock.stats.intervals import Z95, jackknife_se, t_quantile
from foreshock.types import Estimate, Flag

Array = NDArray[np.float64]
Kind = Literal["mean", "linear", "gaussian"]

#: Blocks of the jackknife: few enough to be long, enough for t_9, which is 15 % wider than normal.
BLOCKS = 10
#: Shortest series: two values a block.
SHORTEST = 2 * BLOCKS


@dataclass(frozen=True)
class Residuals:
    """A detrended series.

    Args:
        values: (n,) What is left.
        freedom: ν, degrees of freedom the trend took: 1 for a mean, 2 for a line.
    """

    values: Array
    freedom: float


def detrend(values: ArrayLike, kind: Kind = "linear", bandwidth: float = 0.0) -> Residuals:
    r"""Take the mean, a line or a Gaussian-kernel smooth from a series.

    The smoother is S_ts = w(t − s)/Σ_s w(t − s), w(u) = exp(−u²/2h²), normalised at the ends
    (Nadaraya-Watson). What is slower than h is lost from every statistic of the residuals; h
    must be long against the memory one wants to see.

    Args:
        values: (n,).
        kind: ``mean``, ``linear`` or ``gaussian``.
        bandwidth: h in samples, for ``gaussian``.

    Returns:
        Residuals and the freedom taken.

    Raises:
        ValueError: If `kind` is unknown or a Gaussian kernel has no positive bandwidth.

    Examples:
        >>> found = detrend(3.0 * np.arange(9) + 1)
        >>> bool(np.abs(found.values).max() < 1e-12), found.freedom
        (True, 2.0)
    """
    x = np.asarray(values, dtype=np.float64)
    t = np.arange(len(x)) - (len(x) - 1) / 2
    if kind == "mean":
        return Residuals(x - x.mean(), 1.0)
    if kind == "linear":
        return Residuals(x - x.mean() - t * float(t @ x) / max(float(t @ t), 1.0), 2.0)
    if kind != "gaussian":
        raise ValueError(
            f"The `kind` of `detrend` must be 'mean', 'linear' or 'gaussian'. Got {kind!r}."
        )
    if not bandwidth > 0:
        raise ValueError(f"The `bandwidth` of `detrend` must be positive. Got {bandwidth}.")
    smoother = np.exp(-0.5 * ((t[:, None] - t) / bandwidth) ** 2)
    smoother /= smoother.sum(1, keepdims=True)
    freedom = 2 * float(np.trace(smoother)) - float((smoother**2).sum())
    return Residuals(x - smoother @ x, freedom)


def _blocks(columns: Array, statistic: Callable[[Array], Array]) -> tuple[Array, Array]:
    """A statistic of sums over time, and its standard error by deleting blocks.

    Args:
        columns: (n, q) What is summed.
        statistic: From sums per value, (..., q), to (..., r).

    Returns:
        (r,) values and (r,) standard errors.
    """
    parts = np.array_split(columns, BLOCKS)
    sums, sizes = np.array([p.sum(0) for p in parts]), np.array([len(p) for p in parts])
    whole = statistic(sums.sum(0) / sizes.sum())
    rest = (sums.sum(0) - sums) / (sizes.sum() - sizes)[:, None]
    return whole, jackknife_se(statistic(rest).T)


def _problem(x: Array) -> str:
    """Why a series carries no statistic; empty if it does."""
    if x.ndim != 1 or len(x) < SHORTEST:
        return f"A series of at least {SHORTEST} values is needed. Got {x.shape}."
    if not np.isfinite(x).all():
        return "The series holds nan or inf."
    spread = float(np.ptp(x))
    if spread <= 1e-12 * float(np.abs(x).max()):
        return "The series is constant."
    return ""


def variance(values: ArrayLike, kind: Kind = "linear", bandwidth: float = 0.0) -> Estimate:
    r"""Variance of the detrended series, Σ r²/(n − ν).

    Unbiased for independent values; a trend removed from a series with memory τ takes its slow part
    along, a share of order ν τ/n too little. Interval on the logarithm.

    Args:
        values: (n,), n >= 20.
        kind: See `detrend`.
        bandwidth: See `detrend`.

    Returns:
        The variance, in squared units of the series; without a null of its own.

    Examples:
        >>> x = np.random.default_rng(0).standard_normal(400)
        >>> found = variance(x)
        >>> found.low < 1.0 < found.high
        True
    """
    x = np.asarray(values, dtype=np.float64)
    if problem := _problem(x):
        return Estimate.missing(problem, n=x.size)
    residuals = detrend(x, kind, bandwidth)
    r = residuals.values
    if float(np.abs(r).max()) <= 1e-12 * float(np.abs(x).max()):
        return Estimate.missing("Nothing is left after detrending.", n=len(x))
    scale = float(np.abs(r).max())
    logs, errors = _blocks((r[:, None] / scale) ** 2, np.log)
    size = len(r) / (len(r) - residuals.freedom) * scale * scale
    return _exponential(float(logs[0]), float(errors[0]), len(x), size)


def _exponential(log: float, error: float, n: int, factor: float = 1.0) -> Estimate:
    """The estimate whose logarithm and its standard error are known."""
    half = t_quantile(BLOCKS - 1) * error
    value, low, high = (factor * math.exp(log + s * half) for s in (0, -1, 1))
    return Estimate(value, low, high, n=n)


def skewness(values: ArrayLike, kind: Kind = "linear", bandwidth: float = 0.0) -> Estimate:
    r"""Skewness of the detrended series, mean r³ / (mean r²)^(3/2).

    Biased towards 0 in short windows: |skewness| cannot exceed √n.

    Args:
        values: (n,), n >= 20.
        kind: See `detrend`.
        bandwidth: See `detrend`.

    Returns:
        The skewness. Its null is the 95 % band of independent Gaussian values, ±1.96 √(6/n);
        memory widens it.

    Examples:
        >>> x = np.random.default_rng(0).exponential(size=2000)
        >>> found = skewness(x)
        >>> found.low < 2.0 < found.high
        True
    """
    x = np.asarray(values, dtype=np.float64)
    if problem := _problem(x):
        return Estimate.missing(problem, n=x.size)
    r = detrend(x, kind, bandwidth).values
    scale = float(np.abs(r).max())
    if scale <= 1e-12 * float(np.abs(x).max()):
        return Estimate.missing("Nothing is left after detrending.", n=len(x))
    powers = (r / scale)[:, None] ** np.array([1, 2, 3])

    def third(m: Array) -> Array:
        centred = m[..., 1] - m[..., 0] ** 2
        return ((m[..., 2] - 3 * m[..., 0] * m[..., 1] + 2 * m[..., 0] ** 3) / centred**1.5)[
            ..., None
        ]

    value, error = _blocks(powers, third)
    half = t_quantile(BLOCKS - 1) * float(error[0])
    band = Z95 * math.sqrt(6 / len(x))
    found = float(value[0])
    return Estimate(found, found - half, found + half, n=len(x), null=(-band, band))


def hjorth(values: ArrayLike) -> dict[str, Estimate]:
    r"""Hjorth's activity, mobility and complexity of a series about its mean.

    activity = var x, mobility = √(var Δx / var x) per sample, complexity = mobility(Δx)/mobility(x),
    with Δ the difference of neighbours. Mobility is a mean frequency, √2 for independent values and
    small for a smooth series; complexity is 1 for a sine and √1.5 for independent values. A trend
    counts as low frequency; nothing is detrended but the mean.

    Args:
        values: (n,), n >= 20.

    Returns:
        ``activity``, ``mobility``, ``complexity``. The nulls of the latter two are the 95 % bands
        of independent Gaussian values, √2 ± 1.96/√(2n) and √1.5 ± 1.96 √(5/24n), both from the
        variance 1/n of the autocorrelations.

    References:
        Hjorth, Electroencephalogr. Clin. Neurophysiol. 29 (1970) 306; used on the early loss curve
        as a predictor of grokking by Notsawo et al., arXiv:2306.13253.

    Examples:
        >>> found = hjorth(np.sin(0.1 * np.arange(2000)))
        >>> round(found["mobility"].value, 2), round(found["complexity"].value, 2)
        (0.1, 1.0)
    """
    x = np.asarray(values, dtype=np.float64)
    names = ("activity", "mobility", "complexity")
    if problem := _problem(x):
        return dict.fromkeys(names, Estimate.missing(problem, n=x.size))
    scale = float(np.abs(x - x.mean()).max())
    centred = (x - x.mean()) / scale
    n = len(x)
    # Rows aligned in time, two values shorter, so that a block deletes the same stretch of all.
    first, second = np.diff(centred), np.diff(centred, 2)
    kept = centred[1:-1]
    columns = np.stack([kept, kept**2, first[1:], first[1:] ** 2, second, second**2], axis=1)

    def logs(m: Array) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            v0, v1, v2 = (np.log(m[..., 2 * i + 1] - m[..., 2 * i] ** 2) for i in range(3))
        return np.stack([v0, (v1 - v0) / 2, (v2 - v1) / 2 - (v1 - v0) / 2], axis=-1)

    value, error = _blocks(columns, logs)
    if not (np.isfinite(value).all() and np.isfinite(error).all()):
        sentence = "The differences of the series do not vary: it is a line, or too still."
        return dict.fromkeys(names, Estimate.missing(sentence, n=n))
    bands = (
        None,
        (math.sqrt(2) - Z95 / math.sqrt(2 * n), math.sqrt(2) + Z95 / math.sqrt(2 * n)),
        (
            math.sqrt(1.5) - Z95 * math.sqrt(5 / (24 * n)),
            math.sqrt(1.5) + Z95 * math.sqrt(5 / (24 * n)),
        ),
    )
    factors = (scale * scale * n / (n - 1), 1.0, 1.0)
    return {
        name: replace(_exponential(float(v), float(e), n, f), null=band)
        for name, v, e, f, band in zip(names, value, error, factors, bands, strict=True)
    }


def autocorrelation(values: ArrayLike, kind: Kind = "linear", bandwidth: float = 0.0) -> Estimate:
    r"""Lag-1 autocorrelation φ of the detrended series, corrected for the bias of detrending.

    r = Σ r_t r_{t+1}/Σ r_t² reads E[r] ≈ φ − (ν + (ν + 2)φ)/n after a trend of ν degrees of freedom
    (the classical −(1 + 3φ)/n for a mean and −(2 + 4φ)/n for a line), so

        φ^ = (n r + ν)/(n − ν − 2).

    Interval: arcsin φ^ has the standard deviation 1/√n for AR(1) whatever φ, so
    sin(arcsin φ^ ± 1.96/√(n − ν)). It holds φ of an AR(1) process; of another process it is too
    narrow or too wide by Bartlett's formula. Where φ^ >= 1 the upper end is 1 at least, flagged
    `nonstationary`: a unit root is not excluded.

    Args:
        values: (n,), n >= 20.
        kind: See `detrend`.
        bandwidth: See `detrend`.

    Returns:
        φ^; null: the 95 % band of independent values, ±1.96/√n.

    References:
        Marriott & Pope, Biometrika 41 (1954) 390; Kendall, Biometrika 41 (1954) 403.

    Examples:
        >>> x = np.random.default_rng(0).standard_normal(400)
        >>> found = autocorrelation(x)
        >>> found.low < 0.0 < found.high
        True
    """
    x = np.asarray(values, dtype=np.float64)
    if problem := _problem(x):
        return Estimate.missing(problem, n=x.size)
    residuals = detrend(x, kind, bandwidth)
    n, freedom = len(x), residuals.freedom
    if freedom > n / 3:
        return Estimate.missing(f"The trend takes {freedom:.0f} of {n} degrees of freedom.", n=n)
    if float(np.abs(residuals.values).max()) <= 1e-12 * float(np.abs(x).max()):
        return Estimate.missing("Nothing is left after detrending.", n=n)
    value = _phi(residuals)
    half = Z95 / math.sqrt(n - freedom)
    angle = math.asin(max(-1.0, min(1.0, value)))
    low = math.sin(max(angle - half, -math.pi / 2))
    high = math.sin(min(angle + half, math.pi / 2))
    band = (-Z95 / math.sqrt(n), Z95 / math.sqrt(n))
    if abs(value) < 1:
        return Estimate(value, low, high, n=n, null=band)
    return Estimate(
        value,
        min(low, value),
        max(high, value),
        n=n,
        flags=Flag.NONSTATIONARY,
        reason="A unit root is not excluded: the series wanders without a level to return to.",
        null=band,
    )


def _phi(residuals: Residuals) -> float:
    """Bias-corrected lag-1 coefficient."""
    r, n, nu = residuals.values, len(residuals.values), residuals.freedom
    r = r / float(np.abs(r).max())
    raw = float(r[:-1] @ r[1:]) / float(r @ r)
    return (n * raw + nu) / (n - nu - 2)


def _memory(x: Array) -> float:
    """φ of the residuals of a line, kept where an AR(1) process has a finite memory."""
    r = detrend(x, "linear")
    if float(np.abs(r.values).max()) <= 1e-12 * float(np.abs(x).max()):
        return 0.0
    # Beyond 1 − 4/n the window is shorter than twice the memory 2/(1 − φ): no length to estimate.
    return min(max(_phi(r), -0.9), 1 - 4 / len(x))


def slope(values: ArrayLike) -> Estimate:
    r"""Least-squares slope per sample, with an interval that knows of AR(1) memory.

    b = Σ c_t x_t with c_t = t/Σ t² about the middle; Var b = σ² Σ_ts c_t c_s φ^|t−s|, φ the
    bias-corrected lag-1 coefficient of the residuals and σ² their variance, enlarged for what a
    line takes from a series with this memory. Student's t with n(1 − φ)/(1 + φ) − 2 degrees of
    freedom. Where the window holds fewer than three memories it is flagged `nonstationary`: a slope
    and a wandering series cannot be told apart.

    Args:
        values: (n,), n >= 20.

    Returns:
        The slope; null: the band that it would read without a slope, 0 ± the same half width.

    References:
        Santer et al., J. Geophys. Res. 105 (2000) 7337.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> found = slope(0.1 * np.arange(100) + rng.standard_normal(100))
        >>> found.low < 0.1 < found.high
        True
    """
    x = np.asarray(values, dtype=np.float64)
    if problem := _problem(x):
        return Estimate.missing(problem, n=x.size)
    n = len(x)
    t = np.arange(n) - (n - 1) / 2
    c = t / float(t @ t)
    value = float(c @ x)
    r = detrend(x, "linear").values
    phi = _memory(x)
    decay = phi ** np.arange(n)
    overlap = np.correlate(c, c, "full")[n - 1 :]
    factor = float(overlap[0] + 2 * (overlap[1:] @ decay[1:]))
    # E Σ r² = σ² (n − what mean and line take), each a quadratic form in the same memory.
    ones = np.arange(n, 0, -1) / n
    taken = float(ones[0] + 2 * (ones[1:] @ decay[1:])) + factor * float(t @ t)
    sigma2 = float(r @ r) / max(n - taken, 1.0)
    effective = n * (1 - phi) / (1 + phi)
    half = t_quantile(max(effective - 2, 1.0)) * math.sqrt(factor * sigma2)
    short = effective < 6
    return Estimate(
        value,
        value - half,
        value + half,
        n=n,
        flags=Flag.NONSTATIONARY if short else Flag.NONE,
        reason="The window is shorter than three memories of the series." if short else "",
        null=(-half, half),
    )


def kendall_trend(values: ArrayLike) -> Estimate:
    r"""Kendall's τ of a series with time: share of rising pairs less share of falling ones.

    Interval: τ is a mean of pairs, with the projection h_t = mean_s sign((x_t − x_s)(t − s)), so
    Var τ ≈ (4/n) var(h) (1 + φ)/(1 − φ) with φ the bias-corrected lag-1 coefficient about a line.
    Independent values without trend: 4/9n, as it should be. The interval lives on Fisher's scale
    and holds the mean of τ over repetitions.

    Args:
        values: (n,), n >= 20.

    Returns:
        τ; null: 95 % band without a trend, ±1.96 √(2(2n + 5)/(9n(n − 1)) · (1 + φ)/(1 − φ)).

    References:
        Kendall, Biometrika 30 (1938) 81; Hamed & Rao, J. Hydrol. 204 (1998) 182.

    Examples:
        >>> kendall_trend(np.arange(30.0)).value
        1.0
    """
    x = np.asarray(values, dtype=np.float64)
    if problem := _problem(x):
        return Estimate.missing(problem, n=x.size)
    n = len(x)
    signs = np.sign(x[:, None] - x)
    order = np.sign(np.subtract.outer(np.arange(n), np.arange(n)))
    projection = (signs * order).sum(1) / (n - 1)  # (n,)
    value = float(projection.mean())
    phi = _memory(x)
    inflation = (1 + phi) / (1 - phi)
    error = math.sqrt(4 / n * float(projection.var(ddof=1)) * inflation)
    band = Z95 * math.sqrt(2 * (2 * n + 5) / (9 * n * (n - 1)) * inflation)
    if abs(value) == 1:
        return Estimate(value, value, value, n=n, null=(-band, band))
    half = Z95 * error / (1 - value * value)
    centre = math.atanh(value)
    return Estimate(
        value, math.tanh(centre - half), math.tanh(centre + half), n=n, null=(-band, band)
    )
