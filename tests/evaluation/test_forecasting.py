"""Forecasters on simulated runs whose hazard is known: coefficients, scores, leaks, the clock."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from foreshock import Run
from foreshock.detectors import Hazard, PublishedProbability, Term
from foreshock.evaluation import (
    Landmarks,
    compare_forecasts,
    crossfit,
    fit_baselines,
    fit_hazard,
    forecast,
    landmarks,
    landmarks_of,
    reliability,
    score_forecasts,
)
from foreshock.types import Estimate

H = 10


def simulated(
    seed: int, runs: int, *, a: float = -2.0, b: float = 1.0, blocks: int = 15, name: str = "run"
) -> tuple[Landmarks, np.ndarray]:
    """Landmarks H apart and the true P(event in (t, t+H]) = logistic(a + b x_t), x AR(1) at .8."""
    rng = np.random.default_rng(seed)
    histories, events, ends, truth = {}, {}, {}, []
    for r in range(runs):
        x = rng.standard_normal(blocks + 1)
        for k in range(1, blocks + 1):
            x[k] = 0.8 * x[k - 1] + 0.6 * x[k]
        junk = rng.standard_normal(blocks + 1)
        p = 1 / (1 + np.exp(-(a + b * x)))
        came = None
        for k in range(1, blocks):
            if came is None:
                truth.append(p[k])
                if rng.random() < p[k]:
                    came = H * k + int(rng.integers(1, H + 1))
        one = f"{name}{r}"
        histories[one] = [
            (H * k, {"x": Estimate(x[k]), "junk": Estimate(junk[k])}) for k in range(blocks + 1)
        ]
        events[one], ends[one] = came, H * blocks
    rows = landmarks_of(histories, events, ends, within=H, every=H)
    return rows, np.array(truth)


def test_a_known_hazard_is_recovered() -> None:
    rows, truth = simulated(0, 400)
    assert len(rows) == len(truth)
    fitted = fit_hazard(rows, "x", clock=False, ridge=1e-6)
    level, slope = fitted.terms
    assert (level.kind, slope.kind) == ("last", "slope")
    # b0 + b1 (x - m)/s + b2 slope = a + b x with a = -2, b = 1, so b0 = a + b m, b1 = b s, b2 = 0.
    expected = np.array([-2 + level.location, level.scale, 0.0])
    se = np.sqrt(np.diag(fitted.covariance))
    assert (np.abs(fitted.coefficients - expected) < 4 * se).all()
    # Rows that do not overlap have uncorrelated scores: the covariance over runs is the one of
    # maximum likelihood, here by its formula, up to 3 standard errors of a variance of 400 runs.
    z = (rows_x(rows) - level.location) / level.scale
    assert np.isfinite(z).all()
    information = np.sum(truth * (1 - truth))
    assert se[0] == pytest.approx(1 / math.sqrt(information), rel=0.4)
    assert (se[1:] < 0.2).all()  # and 4 of them are no excuse


def rows_x(rows: Landmarks) -> np.ndarray:
    return np.array(
        [dict(rows.histories[r])[t]["x"].value for r, t in zip(rows.run, rows.step, strict=True)]
    )


def test_the_brier_score_of_the_truth_is_the_expected_one() -> None:
    rows, truth = simulated(1, 300)
    (score,) = score_forecasts(rows, {"clock": truth})
    y = rows.outcome.astype(float)
    # Given p, (p-y)^2 has mean p(1-p) and variance p(1-p)(1-2p)^2; the log score likewise.
    v = truth * (1 - truth)
    se = math.sqrt(np.sum(v * (1 - 2 * truth) ** 2)) / len(y)
    assert abs(score.brier.value - v.mean()) < 4 * se
    odds = np.log(truth / (1 - truth))
    entropy = np.mean(truth * np.log(truth) + (1 - truth) * np.log1p(-truth))
    assert abs(score.log_score.value - entropy) < 4 * math.sqrt(np.sum(v * odds**2)) / len(y)
    assert score.skill.value == 0.0 and score.gain.value == 0.0
    # The truth is calibrated: slope 1 and intercept 0, within 4/1.96 half intervals.
    for found, expected in ((score.slope, 1.0), (score.intercept, 0.0)):
        assert abs(found.value - expected) < 2.1 * (found.high - found.low) / 2
        assert found.high - found.low < 0.8
    # And twice its logit is overconfident.
    bold = 1 / (1 + np.exp(-2 * odds))
    worse = score_forecasts(rows, {"clock": truth, "bold": bold})[1]
    assert worse.slope.value == pytest.approx(score.slope.value / 2, rel=1e-6)
    assert worse.gain.high < 0 and worse.skill.high < 0


def test_the_reliability_curve_of_the_truth() -> None:
    rows, truth = simulated(2, 300)
    curve = reliability(rows, truth)
    assert len(curve) == 10 and sum(one.rows for one in curve) == len(rows)
    # 10 intervals of at least 95 %: three misses have a probability of 1.2 %.
    assert sum(one.observed.low <= one.forecast <= one.observed.high for one in curve) >= 8
    wrong = reliability(rows, np.sqrt(truth))
    assert sum(one.observed.low <= one.forecast <= one.observed.high for one in wrong) <= 2
    assert [one.rows for one in reliability(rows, np.full(len(rows), 0.3))] == [len(rows)]


@pytest.mark.parametrize("series", ["junk", "x"])
def test_a_useless_covariate_gains_nothing(series: str) -> None:
    # Fitted on 100 runs and scored on 30 others, many times.
    above = below = 0
    for seed in range(100 if series == "junk" else 20):
        fit, _ = simulated(1000 + seed, 100, b=1.5, name="fit")
        rows, _ = simulated(3000 + seed, 30, b=1.5, name="score")
        clock = forecast(rows, fit_hazard(fit, ridge=1.0))
        one = forecast(rows, fit_hazard(fit, series, ridge=1.0))
        gain = compare_forecasts(rows, {"forecast": one, "clock": clock}, resamples=300)["clock"]
        above, below = above + (gain.low > 0), below + (gain.high < 0)
    if series == "x":
        assert above >= 10  # and the test has the power to see a gain (three quarters of them)
        return
    # Of 95 % intervals 2.5 % may lie above 0 and 95 % hold it, each +- 4 binomial standard errors.
    # (Fitted on 30 runs the cost of two more coefficients shows: 17 of 100 lie below 0.)
    assert above <= 8
    assert 100 - above - below >= 86


def test_the_clock_is_exact_for_geometric_events() -> None:
    rng, q, h, end = np.random.default_rng(4), 0.01, 20, 200
    when = {str(i): int(t) if t <= end else None for i, t in enumerate(rng.geometric(q, 600))}
    rows = landmarks_of(dict.fromkeys(when, ()), when, dict.fromkeys(when, end), within=h, every=h)
    exact = 1 - (1 - q) ** h
    # Censoring that looked at the outcome would be biased; this share is not.
    share = rows.outcome.mean()
    assert abs(share - exact) < 4 * math.sqrt(exact * (1 - exact) / len(rows))
    constant = fit_hazard(rows, clock=False)
    assert constant.at(constant.init(), 7).value == pytest.approx(share, rel=1e-9)
    clock = fit_hazard(rows, ridge=1e-6)
    se = np.sqrt(np.diag(clock.covariance))
    assert (np.abs(clock.coefficients[1:]) < 4 * se[1:]).all()
    for t in (20, 100, 180):
        p = clock.at(clock.init(), t)
        assert abs(math.log(p.value / (1 - p.value)) - math.log(exact / (1 - exact))) < 2.1 * (
            math.log(p.high / (1 - p.high)) - math.log(p.value / (1 - p.value))
        )


def test_a_disguised_clock_is_exposed() -> None:
    # The event comes at 300 +- 30 in every run; the series is the step with a little noise.
    def drawn(seed: int, name: str) -> Landmarks:
        rng, histories, events = np.random.default_rng(seed), {}, {}
        for r in range(40):
            one = f"{name}{r}"
            histories[one] = [(t, {"x": Estimate(t + 3 * rng.standard_normal())}) for t in GRID]
            events[one] = round(300 + 30 * rng.standard_normal())
        return landmarks_of(histories, events, dict.fromkeys(events, 500), within=50, every=10)

    GRID = range(10, 510, 10)
    fit, rows = drawn(0, "fit"), drawn(1, "score")
    found = {"clock": fit_hazard(fit), "forecast": fit_hazard(fit, "x")}
    found["alone"] = fit_hazard(fit, "x", clock=False)
    p = {name: forecast(rows, one) for name, one in found.items()}
    p["share"] = np.full(len(rows), fit.outcome.mean())
    assert compare_forecasts(rows, p, of="alone")["share"].low > 0.1  # it looks very good
    for name in ("forecast", "alone"):
        assert compare_forecasts(rows, p, of=name)["clock"].low <= 0.0


def test_a_penalised_fit_claims_no_interval() -> None:
    rows, _ = simulated(13, 40)
    for ridge, claimed in ((None, False), (0.1, False), (1e-6, True), (0.0, True)):
        fitted = fit_hazard(rows, "x", clock=False, ridge=ridge)
        _, p = fitted.update(fitted.init(), 10, {"x": Estimate(1.0)})
        assert math.isnan(p.low) is math.isnan(p.high) is not claimed
        assert math.isfinite(p.value)


def test_the_latest_events_are_scored_when_their_run_is_left_out() -> None:
    # Runs end at their own time: without the last one the clock was fitted only up to 79.
    when = {"a": 45, "b": 62, "c": 71, "d": 150}
    ends = {one: came + 60 for one, came in when.items()}
    rows = landmarks_of(dict.fromkeys(when, ()), when, ends, within=20, every=5)
    assert rows.outcome[rows.step > 71].sum() == 4
    p = crossfit(rows, folds=4)
    assert np.isfinite(p).all()
    # A clock that stands still gives the same number from there on.
    late = p[(rows.run == 3) & (rows.step >= 70)]
    assert len(late) > 10 and np.ptp(late) == 0.0


def test_the_fit_remembers_cadence_units_and_setups() -> None:
    rows, _ = simulated(14, 20)
    rows = replace(rows, units={"x": "nats", "junk": "1"}, setups=("one", "two") * 10)
    fitted = fit_hazard(rows, ("junk", "x"))
    assert fitted.reads == ("junk", "x") and fitted.cadence == (10, 10)
    assert fitted.units == ("1", "nats") and fitted.setups == ("one", "two")
    assert rows.only(["run1", "run3"]).setups == ("two", "two")
    other = replace(rows, units={"x": "nats/token"})
    with pytest.raises(ValueError, match="fitted on x in nats, the runs to score .* nats/token"):
        forecast(other, replace(fitted, runs=()))
    # Of runs with several cadences the coarsest is the one that all of them have.
    dense = [(t, {"x": Estimate(0.1 * t)}) for t in range(150)]
    mixed = replace(rows, histories=(dense, *rows.histories[1:]))
    assert fit_hazard(mixed, "x").cadence == (10,)


def test_the_penalty_is_chosen_for_each_forecaster() -> None:
    # The same clock-driven event: a steep clock wants almost no penalty, or the baseline is lame.
    rng = np.random.default_rng(5)
    when = {str(i): round(300 + 10 * rng.standard_normal()) for i in range(60)}
    rows = landmarks_of(
        dict.fromkeys(when, ()), when, dict.fromkeys(when, 500), within=50, every=10
    )
    fit, held = rows.halves()
    p = {
        name: forecast(held, fit_hazard(fit, ridge=r))
        for name, r in (("clock", None), ("lame", 10.0))
    }
    assert compare_forecasts(held, p, of="clock")["lame"].low > 0


def test_truncating_the_future_changes_nothing_before() -> None:
    rows, _ = simulated(6, 20)
    fitted = replace(fit_hazard(rows, ("x", "junk"), ridge=1.0), runs=())
    whole = forecast(rows, fitted)
    for cut in (30, 80):
        short = replace(
            rows, histories=tuple([row for row in h if row[0] <= cut] for h in rows.histories)
        )
        before = rows.step <= cut
        assert np.array_equal(forecast(short, fitted)[before], whole[before])
        assert not np.array_equal(forecast(short, fitted)[~before], whole[~before])


def test_runs_stay_whole() -> None:
    rows, _ = simulated(7, 20)
    fitted = fit_hazard(rows.only(["run0", "run1", "run2", "run3", "run4", "run5"]), "x")
    with pytest.raises(
        ValueError, match="6 of the runs to score were used to fit this .*run0, run1"
    ):
        forecast(rows, fitted)
    # Cross-fitting is fitting on the other folds.
    folds = rows.folds(4)
    assert sorted(one for fold in folds for one in fold) == sorted(rows.ids)
    found = crossfit(rows, "x", folds=4, ridge=1.0)
    for fold in folds:
        others = rows.only(one for one in rows.ids if one not in fold)
        assert not set(others.ids) & set(fold)
        place = np.isin(rows.run, [rows.ids.index(one) for one in fold])
        expected = forecast(rows.only(fold), fit_hazard(others, "x", ridge=1.0))
        np.testing.assert_array_equal(found[place], expected)
    first, second = rows.halves()
    assert not set(first.ids) & set(second.ids) and len(first.ids) == len(second.ids) == 10


def test_a_run_that_stops_at_its_event_needs_the_planned_end() -> None:
    events = {"a": 45, "b": None}
    ends = {"a": 46, "b": 100}
    histories: dict[str, list] = {"a": [], "b": []}
    # Of run a only landmarks whose outcome is "not yet" would count.
    with pytest.raises(ValueError, match="1 runs with the event end less than 20 steps .*horizon"):
        landmarks_of(histories, events, ends, within=20, every=10)
    # An event shortly before an end that is planned, as all runs have it, is none of that.
    late = landmarks_of(histories, {"a": 95, "b": None}, {"a": 100, "b": 100}, within=20, every=10)
    assert late.step.tolist() == 2 * list(range(10, 90, 10))
    planned = landmarks_of(histories, events, ends, within=20, every=10, horizon=100)
    steps = planned.step[planned.run == 0].tolist()
    assert (steps, planned.outcome[planned.run == 0].tolist()) == (
        [10, 20, 30, 40],
        [False, False, True, True],
    )
    # A broken run is censored where it broke, an event after the planned end is none of ours.
    broken = landmarks_of(histories, events, {"a": 46, "b": 60}, within=20, every=10, horizon=100)
    assert broken.step[broken.run == 1].tolist() == [10, 20, 30, 40]


def test_more_landmarks_of_the_same_runs_are_no_more_evidence() -> None:
    rows, truth = simulated(11, 25)
    often = replace(
        rows,
        run=np.repeat(rows.run, 5),
        step=np.repeat(rows.step, 5),
        outcome=np.repeat(rows.outcome, 5),
    )
    half = np.full(len(rows), 0.5)
    for one, other in zip(
        score_forecasts(rows, {"clock": half, "p": truth}),
        score_forecasts(often, {"clock": np.repeat(half, 5), "p": np.repeat(truth, 5)}),
        strict=True,
    ):
        for name in ("brier", "log_score", "gain"):
            a, b = getattr(one, name), getattr(other, name)
            np.testing.assert_allclose((a.value, a.low, a.high), (b.value, b.low, b.high))
    fitted = [fit_hazard(some, "x", clock=False, ridge=1e-9) for some in (rows, often)]
    np.testing.assert_allclose(*(one.covariance for one in fitted), rtol=1e-5)


def test_what_happened_at_probability_0_costs_everything() -> None:
    rows, truth = simulated(8, 20)
    never = np.where(rows.outcome, 0.0, truth)
    clock, bad = score_forecasts(rows, {"clock": truth, "never": never})
    assert bad.log_score.value == -math.inf and bad.log_score.flags
    assert bad.gain.value == -math.inf
    assert "0 or 1 has no logit" in bad.slope.reason
    # A forecaster that does not say at some landmarks takes them from everybody.
    hole = np.where(rows.step > 50, math.nan, truth)
    for score in score_forecasts(rows, {"clock": truth, "hole": hole}):
        assert score.rows == (rows.step <= 50).sum()
        assert score.events == rows.outcome[rows.step <= 50].sum()
    # Unless it is pairwise: then only its own rows are fewer, beside the clock on the same.
    noisy = np.sqrt(truth)
    p = {"clock": truth, "noisy": noisy, "hole": hole}
    whole = score_forecasts(rows, {"clock": truth, "noisy": noisy})
    assert score_forecasts(rows, p, pairwise=["hole"])[:2] == whole
    (_, _, sparse) = score_forecasts(rows, p, pairwise=["hole"])
    assert sparse.rows == (rows.step <= 50).sum() and sparse.gain.value == 0.0
    gains = compare_forecasts(rows, p, of="noisy", pairwise=["hole"])
    assert gains["clock"] == whole[1].gain
    assert gains["hole"].value != gains["clock"].value
    never = np.where(rows.outcome, math.nan, truth)
    with pytest.raises(ValueError, match="none of them with the event .clock [0-9]+, rare [0-9]+"):
        score_forecasts(rows, {"clock": truth, "rare": never})


def recorded(folder: Path, count: int) -> list[Run]:
    rng, runs = np.random.default_rng(9), []
    for i in range(count):
        onset = 100 + 10 * int(rng.integers(0, 8)) if i % 2 else None
        with Run.create(folder / f"{i:02}") as run:
            for t in range(0, 300, 5):
                rise = 0.0 if onset is None else max(0.0, (t - onset + 60) / 20)
                p = 0.3 + 0.01 * (i % 5)
                x = rise + 0.3 * rng.standard_normal()
                run.append(t, {"x": x, "loss": 1 / (1 + t), "grad/p_published": p})
            if onset is not None:
                run.event("milestone", "test", {"name": "onset"}, step=onset)
        runs.append(Run.open(folder / f"{i:02}"))
    return runs


def test_recorded_runs_and_their_baselines(tmp_path: Path) -> None:
    runs = recorded(tmp_path, 24)
    rows = landmarks(runs, "onset", 40, every=10)
    fit, held = rows.halves()
    fitted = fit_hazard(fit, "x")
    found = {"forecast": fitted, **fit_baselines(fit, ("val_acc", "log:loss"))}
    assert list(found) == ["forecast", "clock", "log:loss"]  # no run has a val_acc
    p = {name: forecast(held, one) for name, one in found.items()}
    p["p"] = forecast(held, PublishedProbability.p("onset", 40))
    gains = compare_forecasts(held, p)
    assert min(gain.low for gain in gains.values()) > 0
    by_name = {score.name: score for score in score_forecasts(held, p)}
    assert by_name["p"].gain.high < 0
    # The forecaster of a file is the detector's; its state is that of a replay.
    online, last = fitted.init(), []
    one = held.histories[0]
    for step, values in one:
        online, now = fitted.update(online, step, values)
        last.append((step, now.value))
    at = [dict(last)[t] for t in held.step[held.run == 0].tolist()]
    np.testing.assert_array_equal(at, forecast(held, fitted)[held.run == 0])
    with pytest.raises(ValueError, match="A run is given twice"):
        landmarks([runs[0], runs[0]], "onset", 40)
    for run in runs:
        run.close()


def test_refusals() -> None:
    rows, truth = simulated(10, 10)
    other = Hazard("onset", 5, (Term("x"),), (0.0, 1.0))
    for act, sentence in (
        (lambda: forecast(rows, other), "of onset within 5 steps, .* of event within 10"),
        (lambda: fit_hazard(rows, "nothing"), "nothing has no finite value at any landmark"),
        (lambda: rows.folds(11), "at most the 10 runs. Got 11"),
        (lambda: landmarks_of({"a": []}, {"a": None}, {"a": 5}, within=10), "No run is at risk"),
        (lambda: landmarks_of({}, {}, {}, within=0), "must be positive"),
        (lambda: score_forecasts(rows, {"x": truth}), "reference 'clock' among .* Got x"),
        (lambda: compare_forecasts(rows, {"x": truth}), "no forecaster 'forecast' but .* Got x"),
        (lambda: reliability(rows, truth[1:]), "one probability for each of the"),
        (lambda: reliability(rows, truth + 1), r"outside \[0, 1\]"),
        (lambda: reliability(rows, truth * math.nan), "0 have a probability of every forecaster"),
    ):
        with pytest.raises(ValueError, match=sentence):
            act()
