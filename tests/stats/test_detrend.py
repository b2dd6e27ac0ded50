"""Detrending against least squares and kernel regression, and what it takes from AR(1) series."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import signal

from foreshock.stats.detrend import Kind, detrend


def autoregressive(phi: float, n: int, cases: int, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal((cases, n + 200))
    return signal.lfilter([math.sqrt(1 - phi * phi)], [1.0, -phi], noise, axis=1)[:, 200:]


def test_detrending_is_least_squares_and_kernel_regression() -> None:
    x = np.random.default_rng(0).standard_normal(30).cumsum() + 100.0
    t = np.arange(30)
    np.testing.assert_allclose(
        detrend(x, "linear").values, x - np.polyval(np.polyfit(t, x, 1), t), atol=1e-9
    )
    np.testing.assert_allclose(detrend(x, "mean").values, x - x.mean())
    line = x - np.polyval(np.polyfit(t, x, 1), t)
    smooth = [np.average(line, weights=np.exp(-0.5 * ((t - centre) / 4.0) ** 2)) for centre in t]
    found = detrend(x, "gaussian", 4.0)
    np.testing.assert_allclose(found.values, line - smooth, atol=1e-9)
    assert detrend(x, "mean").freedom == pytest.approx(1.0)
    assert detrend(x, "linear").freedom == pytest.approx(2.0)
    assert 2.0 < found.freedom < 10.0


@pytest.mark.parametrize("kind", ["mean", "linear", "gaussian"])
@pytest.mark.parametrize("phi", [0.0, 0.8])
def test_what_a_trend_takes_from_a_series_with_memory(kind: Kind, phi: float) -> None:
    # E[sum of squares] of 4,000 series of variance 1; its relative sd at φ = .8 is √(2 · 4.6/40)
    # = .5, over √4000 .0076; four of these
    x = autoregressive(phi, 40, 4000, 1)
    found = [detrend(row, kind, 8.0) for row in x]
    mean = np.mean([f.values @ f.values for f in found])
    assert mean == pytest.approx(found[0].left(phi), rel=0.03)


def test_the_door() -> None:
    x = np.arange(30.0)
    with pytest.raises(ValueError, match="'mean', 'linear' or 'gaussian'. Got 'loess'"):
        detrend(x, "loess")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`bandwidth`.*positive. Got 0"):
        detrend(x, "gaussian")
