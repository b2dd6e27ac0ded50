"""Lag-1 autocorrelation: unbiased in the median, covering, and open at a unit root."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import signal

from foreshock.stats.autocorrelation import autocorrelation, lag_one
from foreshock.stats.detrend import Kind, detrend
from foreshock.types import Flag


def autoregressive(phi: float, n: int, cases: int, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal((cases, n + 200))
    return signal.lfilter([math.sqrt(1 - phi * phi)], [1.0, -phi], noise, axis=1)[:, 200:]


@pytest.mark.parametrize("phi", [0.0, 0.9])
@pytest.mark.parametrize("kind", ["linear", "gaussian"])
def test_autocorrelation_is_median_unbiased_and_covers(phi: float, kind: Kind) -> None:
    x = autoregressive(phi, 60, 1500, 5)
    found = [autocorrelation(row, kind, 12.0) for row in x]
    # 1,500 draws: a share of .5 has sd .013, one of .95 .0056; the simulated levels behind them
    # are known to .016 and .005: four of both together
    below = np.mean([e.value < phi for e in found])
    assert abs(below - 0.5) < 0.082
    assert abs(np.mean([e.low <= phi <= e.high for e in found]) - 0.95) < 0.03
    # while the raw one is far off: (2 + 4φ)/n and more
    raw = np.median([lag_one(detrend(row, kind, 12.0).values) for row in x])
    assert phi - raw > 0.02


def test_a_random_walk_has_no_upper_end() -> None:
    walks = np.random.default_rng(6).standard_normal((100, 80)).cumsum(1)
    found = [autocorrelation(row) for row in walks]
    flagged = [Flag.NONSTATIONARY in e.flags for e in found]
    assert np.mean(flagged) > 0.9  # at φ = 1 the upper end is below 1 in 2.5 %
    assert all(e.high == 1.0 for e, flag in zip(found, flagged, strict=True) if flag)


def test_a_trend_that_takes_most_of_the_freedom_and_a_series_too_long() -> None:
    noisy = np.random.default_rng(11).standard_normal(2001)
    assert "degrees of freedom" in autocorrelation(noisy[:30], "gaussian", 0.5).reason
    assert "At most 2000 values" in autocorrelation(noisy).reason
