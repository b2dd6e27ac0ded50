"""Lag-1 autocorrelation of one series, free of the bias of detrending, by inversion of its law."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from foreshock.stats.detrend import Array, Kind, detrend, detrended
from foreshock.stats.intervals import Z95
from foreshock.types import Estimate, Flag

#: Shortest series that any statistic here is taken of.
SHORTEST = 20
#: Longest series whose autocorrelation is calibrated: the simulation takes seconds there.
LONGEST = 2000
#: Simulated series a coefficient, and coefficients: a level of 2.5 % is then known to 0.5 %.
SIMULATED = 1000
GRID = (*np.linspace(-0.95, 0.7, 12).tolist(), 0.8, 0.85, 0.9, 0.93, 0.96, 0.98, 0.99, 1.0)


def autocorrelation(values: ArrayLike, kind: Kind = "linear", bandwidth: float = 0.0) -> Estimate:
    r"""Lag-1 autocorrelation φ of the detrended series, free of the bias of detrending.

    r = Σ r_t r_{t+1}/Σ r_t² reads too little: E[r] ≈ φ − (1 + 3φ)/n after taking a mean,
    φ − (2 + 4φ)/n after a line, more after a kernel. So its quantiles are simulated for Gaussian
    AR(1) series of this length and detrending, as functions of φ from −.95 to 1, and inverted:
    the value is the φ whose median is the observed r, the interval all φ for which r lies within
    95 % (median-unbiased, Andrews). The simulation has a private generator and is kept for the
    next series of this length: 0.2 s for 200 values, 0.8 s for 1,000.

    The interval holds φ of an AR(1) process; another process has one number for a memory of
    several. Where it reaches 1, a unit root is not excluded, flagged `nonstationary`.

    Args:
        values: (n,), 20 <= n <= 2,000.
        kind: See `detrend`.
        bandwidth: See `detrend`.

    Returns:
        φ^; null: the 95 % band of independent values, ±1.96/√n.

    References:
        Andrews, Econometrica 61 (1993) 139; Marriott & Pope, Biometrika 41 (1954) 390.

    Examples:
        >>> x = np.random.default_rng(0).standard_normal(100)
        >>> found = autocorrelation(x)
        >>> found.low < 0.0 < found.high
        True
    """
    x = np.asarray(values, dtype=np.float64)
    if problem := problem_of(x):
        return Estimate.missing(problem, n=x.size)
    n, residuals = len(x), detrend(x, kind, bandwidth)
    if n > LONGEST:
        return Estimate.missing(f"At most {LONGEST} values are simulated. Got {n}.", n=n)
    if residuals.freedom > n / 3:
        return Estimate.missing(
            f"The trend takes {residuals.freedom:.0f} of {n} degrees of freedom.", n=n
        )
    if float(np.abs(residuals.values).max()) <= 1e-12 * float(np.abs(x).max()):
        return Estimate.missing("Nothing is left after detrending.", n=n)
    raw = lag_one(residuals.values)
    curves = _quantile_curves(n, kind, float(bandwidth))
    # Each curve rises with φ; beyond its ends the interval ends where the family does.
    high, value, low = (float(np.interp(raw, curve, GRID)) for curve in curves)
    band = (-Z95 / math.sqrt(n), Z95 / math.sqrt(n))
    if GRID[0] < value and high < 1:
        return Estimate(value, low, high, n=n, null=band)
    sentence = (
        "A unit root is not excluded: the series may have no level to return to."
        if high >= 1
        else "The series alternates: φ lies below -.95."
    )
    return Estimate(value, low, high, n=n, flags=Flag.NONSTATIONARY, reason=sentence, null=band)


def lag_one(residuals: Array) -> Array:
    """Σ r_t r_{t+1} / Σ r_t² over the last axis."""
    r = residuals / np.abs(residuals).max(-1, keepdims=True)
    return (r[..., :-1] * r[..., 1:]).sum(-1) / (r * r).sum(-1)


@lru_cache(maxsize=32)
def _quantile_curves(n: int, kind: Kind, bandwidth: float) -> Array:
    """(3, len(GRID)) Levels .025, .5, .975 of r for every φ of the grid, rising."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((n, SIMULATED))
    curves = np.empty((3, len(GRID)))
    for column, phi in enumerate(GRID):
        x = np.empty_like(noise)
        # A random walk has no stationary start; its level is taken away with the trend.
        x[0] = noise[0] / math.sqrt(1 - phi * phi) if phi < 1 else noise[0]
        for t in range(1, n):
            x[t] = phi * x[t - 1] + noise[t]
        curves[:, column] = np.quantile(
            lag_one(detrended(x, kind, bandwidth).T), [0.025, 0.5, 0.975]
        )
    return np.maximum.accumulate(curves, axis=1)


def memory(x: Array) -> float:
    """φ of the residuals of a line, bias-corrected, kept where the window can show it."""
    r, n = detrend(x, "linear").values, len(x)
    if float(np.abs(r).max()) <= 1e-12 * float(np.abs(x).max()):
        return 0.0
    # E[r] = φ − (2 + 4φ)/n after a line (Marriott & Pope 1954).
    phi = (n * float(lag_one(r)) + 2) / (n - 4)
    # Beyond 1 − 4/n the window is shorter than twice the memory 2/(1 − φ): no length to estimate.
    return min(max(phi, -0.9), 1 - 4 / n)


def problem_of(x: Array) -> str:
    """Why a series carries no statistic; empty if it does."""
    if x.ndim != 1 or len(x) < SHORTEST:
        return f"A series of at least {SHORTEST} values is needed. Got {x.shape}."
    if not np.isfinite(x).all():
        return "The series holds nan or inf."
    spread = float(np.ptp(x))
    if spread <= 1e-12 * float(np.abs(x).max()):
        return "The series is constant."
    return ""
