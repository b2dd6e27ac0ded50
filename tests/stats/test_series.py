"""Series statistics against the definitions, scipy, laws of AR(1) series, and exact lines."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import signal, stats

from foreshock.stats import series
from foreshock.stats.autocorrelation import memory
from foreshock.types import Estimate
from tests import oracles


def autoregressive(phi: float, n: int, cases: int, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal((cases, n + 200))
    return signal.lfilter([math.sqrt(1 - phi * phi)], [1.0, -phi], noise, axis=1)[:, 200:]


EVERY: dict[str, Callable[[np.ndarray], Estimate]] = {
    "variance": series.variance,
    "skewness": series.skewness,
    "autocorrelation": series.autocorrelation,
    "slope": series.slope,
    "kendall_trend": series.kendall_trend,
    "mobility": lambda x: series.hjorth(x)["mobility"],
}
every = pytest.mark.parametrize("statistic", EVERY.values(), ids=EVERY)


def test_moments_are_those_of_scipy() -> None:
    x = np.random.default_rng(2).exponential(size=60)
    assert series.skewness(x, "mean").value == pytest.approx(stats.skew(x))
    # The divisor of the variance knows of the estimated memory; the sum of squares is the plain one
    residuals = series.detrend(x, "mean")
    phi = memory(x)
    assert series.variance(x, "mean").value == pytest.approx(x.var() * 60 / residuals.left(phi))
    assert series.kendall_trend(x).value == pytest.approx(
        stats.kendalltau(np.arange(60), x).statistic
    )
    assert series.slope(x).value == pytest.approx(stats.linregress(np.arange(60), x).slope)


def test_hjorth_of_a_sine_and_of_independent_values() -> None:
    # Of sin ωt: every difference multiplies the amplitude by 2 sin(ω/2). 628 values are 10 turns.
    omega = 0.1
    found = series.hjorth(3 * np.sin(omega * np.arange(6283)))
    assert found["activity"].value == pytest.approx(4.5, rel=2e-3)
    assert found["mobility"].value == pytest.approx(2 * math.sin(omega / 2), rel=2e-3)
    assert found["complexity"].value == pytest.approx(1.0, abs=2e-3)
    x = np.random.default_rng(3).standard_normal(50)
    d, dd = np.diff(x)[1:], np.diff(x, 2)
    mobility = math.sqrt(d.var() / x[1:-1].var())
    found = series.hjorth(x)
    assert found["mobility"].value == pytest.approx(mobility)
    assert found["complexity"].value == pytest.approx(math.sqrt(dd.var() / d.var()) / mobility)


def test_nulls_hold_independent_values() -> None:
    # 400 series in bands of 95 %: sd .011, four of these .044; the bands are asymptotic
    x = autoregressive(0.0, 100, 400, 4)
    for name in ("mobility", "complexity", "skewness", "autocorrelation", "kendall", "slope"):
        inside = 0
        for row in x:
            if name in ("mobility", "complexity"):
                e = series.hjorth(row)[name]
            elif name == "kendall":
                e = series.kendall_trend(row)
            else:
                e = getattr(series, name)(row)
            assert e.null is not None
            inside += e.null[0] <= e.value <= e.null[1]
        assert abs(inside / 400 - 0.95) < 0.044, name


@pytest.mark.parametrize("phi", [0.0, 0.6])
def test_slope_and_variance_cover_where_the_textbook_does_not(phi: float) -> None:
    x = autoregressive(phi, 100, 300, 7) + 0.02 * np.arange(100)
    found = [series.slope(row) for row in x]
    assert abs(np.mean([e.low <= 0.02 <= e.high for e in found]) - 0.95) < 0.05
    if phi:
        naive = [stats.linregress(np.arange(100), row) for row in x]
        share = np.mean([abs(f.slope - 0.02) < 1.984 * f.stderr for f in naive])
        assert share < 0.8
    found = [series.variance(row) for row in x]
    assert abs(np.mean([e.low <= 1.0 <= e.high for e in found]) - 0.95) < 0.06


def test_a_trend_is_seen_and_a_short_memory_is_not_taken_for_one() -> None:
    assert series.kendall_trend(-np.arange(40.0)).value == -1.0
    outside = 0
    for row in autoregressive(0.7, 120, 300, 8):
        e = series.kendall_trend(row)
        assert e.null is not None
        outside += not e.null[0] <= e.value <= e.null[1]
    assert outside / 300 < 0.09  # .05 and four sd of .0126, rounded down; without φ it is .3


@every
def test_what_carries_no_statistic_is_missing(
    statistic: Callable[[np.ndarray], Estimate],
) -> None:
    rng = np.random.default_rng(9)
    for values, sentence in (
        (rng.standard_normal(19), "at least 20"),
        (np.full(50, 0.1), "constant"),
        (np.r_[rng.standard_normal(30), math.nan], "nan or inf"),
        (rng.standard_normal((5, 30)), "at least 20"),
    ):
        found = statistic(values)
        assert math.isnan(found.value) and sentence in found.reason


@every
@pytest.mark.parametrize("factor", [1e-150, 1e150])
def test_units_do_not_matter(statistic: Callable[[np.ndarray], Estimate], factor: float) -> None:
    x = np.random.default_rng(10).standard_normal(60)
    one, other = statistic(x), statistic(factor * x)
    power = {series.variance: 2, series.slope: 1}.get(statistic, 0)  # type: ignore[arg-type]
    assert other.value == pytest.approx(one.value * factor**power, rel=1e-9)
    assert other.high == pytest.approx(one.high * factor**power, rel=1e-9)


def test_a_line_leaves_nothing() -> None:
    line = 2.0 * np.arange(50) + 7
    for statistic in (series.variance, series.skewness, series.autocorrelation):
        assert "Nothing is left" in statistic(line).reason
    assert series.slope(line).value == pytest.approx(2.0)
    assert "do not vary" in series.hjorth(line)["complexity"].reason


def test_the_interval_deletes_blocks() -> None:
    x = np.random.default_rng(12).exponential(size=100)
    x = x - x.mean()
    assert abs(memory(x)) < 0.5  # so that ten blocks are long enough
    without = [stats.skew(np.delete(x, block)) for block in np.array_split(np.arange(100), 10)]
    half = 2.2621571628540993 * oracles.jackknife_se(np.array(without))  # t_9(.975)
    found = series.skewness(x, "mean")
    assert found.high - found.value == pytest.approx(half)
    assert found.value - found.low == pytest.approx(half)
