"""`Hazard` online against the array form, its rule for what is missing, its file, its alarm."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from foreshock.detectors import (
    ForecastAlarm,
    Hazard,
    PublishedProbability,
    Term,
    load_forecasters,
    resolve,
    save_forecasters,
)
from foreshock.detectors.hazard import logistic
from foreshock.stats.published import p_signal, phi_levy
from foreshock.types import Estimate, Flag, Probability

TERMS = (
    Term("step", log=True, location=5.0, scale=0.5),
    Term("step", "square", log=True, location=5.0, scale=0.5),
    Term("x", location=0.3, scale=2.0),
    Term("x", "slope", location=0.01, scale=0.1),
    Term("x", "missing"),
    Term("y", log=True, location=-1.0, scale=0.7),
    Term("y", "slope", log=True, scale=0.2),
    Term("y", "missing", log=True),
)
B = (-1.0, 0.5, -0.2, 1.0, -2.0, 0.3, 0.8, 0.4, -0.6)
RULE = Hazard("onset", 40, TERMS, B, window=4, stale=25)


def test_online_equals_the_array_form() -> None:
    rng = np.random.default_rng(0)
    steps = np.cumsum(rng.integers(1, 15, 200))
    x, y = rng.standard_normal((2, 200))  # y is negative half of the time: no reading under log
    x[rng.random(200) < 0.3] = math.nan
    y[rng.random(200) < 0.5] = math.inf
    x[60:70] = math.nan  # longer than stale
    state, found = RULE.init(), []
    for t, a, b in zip(steps.tolist(), x, y, strict=True):
        state, p = RULE.update(state, t, {"x": Estimate.exact(a), "y": Estimate.exact(b)})
        found.append(p.value)

    def covariates(values: np.ndarray, log: bool, now: int) -> tuple[float, float, float]:
        known = np.flatnonzero(np.isfinite(values) & (steps <= now))[-4:]
        if log:
            known = known[values[known] > 0]
        if not len(known) or now - steps[known[-1]] > 25:
            return math.nan, math.nan, 1.0
        v = np.log(values[known]) if log else values[known]
        slope = np.polyfit(steps[known], v, 1)[0] if len(known) >= 3 else math.nan
        return float(v[-1]), float(slope), 0.0

    expected, raws = [], []
    for t in steps.tolist():
        clock = (math.log1p(t) - 5) / 0.5
        (x1, x2, x3), (y1, y2, y3) = covariates(x, False, t), covariates(y, True, t)
        z = [(x1 - 0.3) / 2, (x2 - 0.01) / 0.1, x3, (y1 + 1) / 0.7, y2 / 0.2, y3]
        raws.append(z)
        logit = np.dot(B, [1, clock, clock**2, *np.nan_to_num(z)])
        expected.append(1 / (1 + math.exp(-logit)))
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    missed = np.isnan(raws).mean(axis=0)
    assert (missed[[0, 1, 3, 4]] > 0.03).all() and (missed < 0.97).all()  # both branches were seen


def test_unresolved_counts_and_nan_does_not() -> None:
    rule = Hazard("onset", 50, (Term("x"), Term("x", "missing")), (0.0, 1.0, -9.0))
    unresolved = Estimate(-0.4, -1, 1, n=3, flags=Flag.UNRESOLVED, reason="The interval holds 0.")
    state, p = rule.update(rule.init(), 10, {"x": unresolved})
    assert p.value == pytest.approx(logistic(-0.4), rel=1e-12)
    state, p = rule.update(state, 20, {"x": Estimate.missing("No gradient.")})
    assert p.value == pytest.approx(logistic(-0.4), rel=1e-12)  # carried forward
    assert rule.at(state, 60).value == p.value  # 50 steps old
    assert rule.at(state, 61).value == pytest.approx(logistic(-9.0), rel=1e-12)


def test_what_was_never_missing_makes_it_silent() -> None:
    rule = Hazard("onset", 50, (Term("x"),), (0.0, 1.0))
    p = rule.at(rule.init(), 10)
    assert math.isnan(p.value) and "x has no reading of the last 50 steps" in p.basis


def test_the_clock_is_not_extrapolated() -> None:
    rule = Hazard("onset", 50, (Term("step", log=True),), (0.0, 1.0), until=300)
    assert math.isfinite(rule.at(rule.init(), 300).value)
    p = rule.at(rule.init(), 301)
    assert math.isnan(p.value) and "fitted at steps up to 300" in p.basis


def test_the_interval_is_the_delta_method() -> None:
    covariance = ((0.2, 0.05), (0.05, 0.1))
    rule = Hazard("onset", 50, (Term("x"),), (-1.0, 2.0), covariance)
    _, p = rule.update(rule.init(), 0, {"x": Estimate(0.7)})
    half = 1.959963984540054 * math.sqrt(0.2 + 2 * 0.7 * 0.05 + 0.7**2 * 0.1)
    expected = [logistic(0.4), logistic(0.4 - half), logistic(0.4 + half)]
    np.testing.assert_allclose([p.value, p.low, p.high], expected, rtol=1e-12)


def test_small_probabilities_are_not_rounded_to_0() -> None:
    assert logistic(-700.0) == pytest.approx(math.exp(-700), rel=1e-12)
    assert (logistic(0.0), logistic(800.0), logistic(-800.0)) == (0.5, 1.0, 0.0)


def test_the_file(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    clock = Hazard("onset", 40, TERMS[:2], (0.1, 1 / 3, -2e-17), runs=("a", "b"),
                   setups=("0f",), versions="{}", basis="why")  # fmt: skip
    save_forecasters(path, {"forecast": RULE, "clock": clock})
    assert load_forecasters(path) == {"forecast": RULE, "clock": clock}  # every bit
    assert Hazard.load(path) == RULE
    assert resolve(f"forecast:{path}") == ForecastAlarm(RULE)
    content = json.loads(path.read_text())
    for change, sentence in (
        ({"version": 1}, "has version 1 of the format"),
        ({"format": "else"}, "is no forecaster"),
        ({"forecasters": {"clock": {}}}, "is damaged"),
        ({"forecasters": {"forecast": {"event": "onset"}}}, "is damaged"),
    ):
        path.write_text(json.dumps({**content, **change}))
        with pytest.raises(ValueError, match=sentence):
            load_forecasters(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        load_forecasters(path)
    for name in ("forecast", "forecast:"):
        with pytest.raises(ValueError, match="needs its forecaster"):
            resolve(name)


def test_the_alarm_needs_two_in_a_row_and_fires_once() -> None:
    rule = ForecastAlarm(Hazard("onset", 100, (Term("x"),), (0.0, 1.0)), threshold=0.8)
    state, fired = rule.init(), []
    for t, x in enumerate([2, 0, 2, math.nan, 2, 2, 0, 2, 2]):
        state, alarm = rule.update(state, t, {"x": Estimate.exact(float(x))})
        fired += [alarm] if alarm else []
    # A nan is no reading: the one of step 2 counts once, and the second in a row is that of step 4.
    (one,) = fired
    assert (one.step, one.series) == (4, "P(onset within 100)")
    assert one.value == pytest.approx(logistic(2.0), rel=1e-12)
    assert "within 100 steps is 0.88, above 0.8 at 2 updates in a row" in one.reason


def test_one_reading_counts_once() -> None:
    # Another series, the clock or a value that is missing brings no news of x.
    terms = (Term("step", location=10.0), Term("x"), Term("loss"))
    rule = ForecastAlarm(Hazard("onset", 100, terms, (0.0, 0.1, 1.0, 0.0)))
    state, fired = rule.init(), []
    rows = [{"x": 3.0, "loss": 1.0}, {"x": math.nan, "loss": 1.0}, {"loss": 1.0}, {"x": 3.0}]
    for t, row in enumerate(rows):
        state, alarm = rule.update(state, t, {n: Estimate.exact(v) for n, v in row.items()})
        fired += [alarm] if alarm else []
    assert [alarm.step for alarm in fired] == [3]


def test_more_readings_than_the_fit_had_change_nothing() -> None:
    # A slope of readings ten steps apart; the same path logged at every step, beside noise between.
    terms = (Term("x"), Term("x", "slope", scale=0.01))
    rule = Hazard("onset", 50, terms, (-2.0, 1.0, 1.0), cadence=(10,))
    rng = np.random.default_rng(1)
    x = np.cumsum(rng.standard_normal(200)) / 10
    often, rarely = rule.init(), rule.init()
    for t in range(200):
        often, p = rule.update(often, t, {"x": Estimate(x[t])})
        if t % 10 == 0:
            rarely, q = rule.update(rarely, t, {"x": Estimate(x[t])})
            assert p == q and math.isfinite(p.value)
    # A slope of five readings in a row is another number.
    naive, apart = Hazard("onset", 50, terms, (-2.0, 1.0, 1.0)), 0.0
    state, often = naive.init(), rule.init()
    for t in range(200):
        state, p = naive.update(state, t, {"x": Estimate(x[t])})
        often, q = rule.update(often, t, {"x": Estimate(x[t])})
        apart = max(apart, abs(p.value - q.value))
    assert apart > 0.5
    # Readings that are more than twice as rare are refused, in words.
    state = rule.init()
    for t in range(0, 200, 25):
        state, p = rule.update(state, t, {"x": Estimate(0.0)})
    assert math.isnan(p.value)
    assert p.basis == "x comes every 25 steps; the forecaster was fitted on one every 10."


def test_a_step_that_does_not_grow_is_no_reading() -> None:
    rule = Hazard("e", 50, (Term("x"), Term("x", "slope"), TERMS[0]), (0.0, 1.0, 1.0, 0.0))
    state = rule.init()
    for t in (10, 10, 10, 9, -1):
        state, p = rule.update(state, t, {"x": Estimate(1.0)})
        assert p.value == pytest.approx(logistic(1.0), rel=1e-12)
    assert len(state.readings[0]) == 1


def test_published_numbers_as_probabilities() -> None:
    for rule, value in (
        (PublishedProbability.p("onset", 10), p_signal(0.7)),
        (PublishedProbability.phi("onset", 10), phi_levy(0.9, 0.1, 0.8)),
    ):
        state, p = rule.update(rule.init(), 5, {rule.reads[0]: Estimate.plain(value)})
        source = "signal" if rule.reads[0].startswith("grad") else "levy"
        expected = Probability("onset", 10, value, basis=f"as published ({source})")
        assert repr(p) == repr(expected)
        assert rule.at(state, 5000).value == value
        for bad, sentence in ((math.nan, "no reading yet"), (1.2, "is 1.2, which is no prob")):
            p = rule.at(bad, 5)
            assert math.isnan(p.value) and sentence in p.basis


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Hazard("e", 10, TERMS, (0.0,)), "of 8 terms needs 9 coefficients"),
        (lambda: Hazard("e", 10, (), (0.0,), ((1.0, 2.0),)), "needs 1 coefficients"),
        (lambda: Hazard("e", 10, (), (math.nan,)), "must be finite"),
        (lambda: Hazard("e", 9, (), (0.0,), cadence=(1,)), "one for each of 0 series, or none"),
        (lambda: Hazard("e", 0, (), (0.0,)), "`within` of `Hazard` must be at least 1. Got 0"),
        (lambda: Term("x", "mean"), "must be one of last, slope, square, missing. Got 'mean'"),  # type: ignore[arg-type]
        (lambda: Term("x", scale=0.0), "positive `scale`. Got 0.0 and 0.0"),
        (lambda: ForecastAlarm(RULE, threshold=1.0), r"in \(0, 1\) .* Got 1.0 and 2"),
        (lambda: ForecastAlarm(Hazard("e", 9, TERMS[:1], (0.0, 1.0))), "no series but the clock"),
        (lambda: PublishedProbability("x", "e", 0), "must be positive. Got 0"),
    ],
)
def test_refusals(make: object, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make()  # type: ignore[operator]
