"""Coverage of the intervals of `foreshock.stats.series` on AR(1) series, Gaussian and not."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.signal import lfilter

from benchmarks.coverages import Cell
from foreshock.stats import series
from foreshock.types import Estimate

LENGTHS = (50, 200)
MEMORIES = (0.0, 0.5, 0.9)


def draws(phi: float, n: int, cases: int, rng: np.random.Generator, law: str = "gauss"):
    """(cases, n) stationary series of variance 1."""
    size = (cases, n + 200)
    noise = rng.standard_normal(size) if law == "gauss" else rng.exponential(size=size) - 1.0
    return lfilter([math.sqrt(1 - phi * phi)], [1.0, -phi], noise, axis=1)[:, 200:]


def measured(
    name: str, where: str, samples: np.ndarray, truth: float, estimate: Callable[..., Estimate]
) -> Cell:
    """The cell; asked for less where most intervals are flagged as resting on too little."""
    found = [estimate(x) for x in samples]
    coverage = float(np.mean([e.low <= truth <= e.high for e in found]))
    flagged = float(np.mean([bool(e.flags) for e in found]))
    low, high, why = 0.92, 0.98, ""
    if name in ("kendall_trend", "hjorth complexity"):
        high, why = 1.0, "conservative"
    if len(samples[0]) == 50:
        low, why = 0.88, why or "50 values: four to ten short blocks, a rough φ"
    if flagged > 0.25 and not name.startswith("autocorrelation"):
        low, why = 0.60, f"flagged in {flagged:.0%}"
    return Cell(name, where, len(samples), coverage, low, high, why)


def cells(cases: int, seed: int) -> list[Cell]:
    """One cell a statistic, memory and length."""
    rng = np.random.default_rng(seed)
    out = []
    for n in LENGTHS:
        for phi in MEMORIES:
            x = draws(phi, n, cases, rng)
            ramp = x + 0.02 * np.arange(n)
            t = np.arange(n)
            where = f"AR(1) {phi}, n = {n}"
            mobility = math.sqrt(2 * (1 - phi))
            second = (6 - 8 * phi + 2 * phi**2) / (2 - 2 * phi)
            tau = float(np.mean([series.kendall_trend(v).value for v in draws(phi, n, 400, rng)
                                 + 0.02 * t]))  # fmt: skip
            for name, truth, samples, estimate in (
                ("variance, line", 1.0, ramp, series.variance),
                ("skewness, line", 0.0, ramp, series.skewness),
                ("autocorrelation, line", phi, ramp, series.autocorrelation),
                ("autocorrelation, kernel n/5", phi, ramp,
                 lambda v: series.autocorrelation(v, "gaussian", len(v) / 5)),
                ("slope", 0.02, ramp, series.slope),
                ("kendall_trend", tau, ramp, series.kendall_trend),
                ("hjorth activity", 1.0, x, lambda v: series.hjorth(v)["activity"]),
                ("hjorth mobility", mobility, x, lambda v: series.hjorth(v)["mobility"]),
                ("hjorth complexity", math.sqrt(second) / mobility, x,
                 lambda v: series.hjorth(v)["complexity"]),
            ):  # fmt: skip
                out.append(measured(name, where, samples, truth, estimate))
    return out
