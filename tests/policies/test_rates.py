"""Rate, batch and stop rules by hand on made-up series; published ones against their listings."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from foreshock.policies import (
    Below,
    Council,
    DescentMargin,
    LangevinBatch,
    LangevinBoost,
    LangevinRate,
    LangevinReduce,
    LangevinWarmup,
    NoiseScaleBatch,
    Pause,
    PhaseRate,
    PublishedEarlyStop,
    StableWarmup,
    Stop,
    TargetBatch,
    TemperatureAnnealing,
    resolve,
)
from foreshock.types import Action, Alarm, Estimate, Policy


def acted(policy: Policy, rows: Iterable[tuple[int, Mapping[str, Estimate]]]) -> list[Action]:
    council = Council([policy])
    return [action for step, values in rows for action in council.feed(step, values, [])]


def series(name: str, values: Iterable[float], every: int = 1) -> list[tuple[int, dict]]:
    return [(t * every, {name: Estimate.plain(x)}) for t, x in enumerate(values)]


def numbers(found: list[Action], key: str = "factor") -> list[tuple[int, Any]]:
    return [(a.step, round(float(a.arguments[key]), 10)) for a in found]


def wander(seed: int, n: int = 400, top: float = 1.0) -> list[float]:
    """A bounded random walk."""
    draw, x, found = random.Random(seed), 0.5, []
    for _ in range(n):
        x = min(max(x + draw.gauss(0, 0.05), 0.0), 1.0)
        found.append(top * x)
    return found


# ---------------------------------------------------------------- signal


def get_adaptive_lr(base_lr, p):
    """The listing of signal 11.3, letter by letter."""
    if p < 0.40:
        return base_lr * 0.1  # noqa
    elif p < 0.50:
        return base_lr * 0.5  # noqa
    elif p < 0.60:
        return base_lr * 1.0  # noqa
    elif p < 0.75:
        return base_lr * 1.5  # noqa
    else:
        return base_lr * 2.0  # noqa


@pytest.mark.parametrize("seed", range(3))
def test_the_phase_rate_is_the_listing_at_every_evaluation(seed: int) -> None:
    p = [*wander(seed), 0.4, 0.5, 0.6, 0.75]
    found = dict(numbers(acted(PhaseRate("p"), series("p", p))))
    standing, seen = 1.0, set()
    for t, x in enumerate(p):
        standing = found.get(t, standing)
        assert standing == get_adaptive_lr(1.0, x)
        seen.add(standing)
    assert seen == {0.1, 0.5, 1.0, 1.5, 2.0}
    assert len(found) < len(p)  # where nothing changes, nothing is wanted


def test_the_phase_rate_rests_and_is_bounded() -> None:
    rows = series("p", [0.3, 0.8, 0.55, 0.45, 0.8])
    policy = PhaseRate("p", refractory=3, low=0.2, high=1.5)
    assert numbers(acted(policy, rows)) == [(0, 0.2), (3, 0.5)]


def test_the_warm_up_waits_for_a_stable_p() -> None:
    p = [0.2, 0.6, 0.9, 0.61, 0.60, 0.62, 0.63, 0.61, 0.3, 0.62, 0.62, 0.62]
    policy = StableWarmup("p", start=0.25, growth=2.0, window=3, spread=0.05)
    # .61 .60 .62 is the first stable window; then one a value; a p below one half lowers nothing.
    assert numbers(acted(policy, series("p", p))) == [(0, 0.25), (5, 0.5), (6, 1.0)]
    never = series("p", [0.49] * 50)
    assert numbers(acted(StableWarmup("p"), never)) == [(0, 0.1)]


# ---------------------------------------------------------------- langevin


@pytest.mark.parametrize("seed", range(3))
def test_the_c_rule_without_bounds_is_the_listing(seed: int) -> None:
    c = wander(seed, top=25.0)
    found = dict(
        numbers(acted(LangevinRate("c", refractory=1, low=1e-300, high=1e300), series("c", c)))
    )
    learning_rate = standing = 1.0
    for t, C in enumerate(c):  # noqa: N806
        if C < 0.5:
            learning_rate *= 1.5  # Boost exploration
        elif C > 20:
            learning_rate *= 0.7  # Converging too fast, may be stuck
        standing *= found.get(t, 1.0)
        # Factors were rounded to ten digits, 400 of them.
        assert math.isclose(standing, learning_rate, rel_tol=1e-7)
    assert {round(f, 6) for f in found.values()} <= {1.5, 0.7}
    assert len(found) > 5


def test_the_c_rule_stops_at_its_bound_and_comes_back() -> None:
    rows = series("c", [0.1] * 9 + [30.0] * 2, every=100)
    found = acted(LangevinRate("c", high=4.0), rows)
    assert [a.step for a in found] == [0, 100, 200, 300, 900, 1000]
    total = math.prod(float(a.arguments["factor"]) for a in found[:4])
    assert math.isclose(total, 4.0)
    assert numbers(found)[4:] == [(900, 0.7), (1000, 0.7)]


def test_two_rules_of_one_document_and_one_of_another_contradict_each_other() -> None:
    """At C = .4 the one raises, the other reduces; p = C/(1 + C) = .29 cuts to a tenth."""
    rows = [(0, {"c": Estimate.plain(0.4), "p": Estimate.plain(0.4 / 1.4)})]
    found = {p.name: numbers(acted(p, rows)) for p in
             (LangevinRate("c"), LangevinReduce("c"), PhaseRate("p"))}  # fmt: skip
    assert found == {
        "langevin_rate": [(0, 1.5)],
        "langevin_reduce": [(0, 0.7)],
        "phase_rate": [(0, 0.1)],
    }


def test_reduce_below_one_only() -> None:
    rows = series("c", [1.0, 0.99, 5.0, 0.5], every=100)
    assert numbers(acted(LangevinReduce("c"), rows)) == [(100, 0.7), (300, 0.7)]


def test_the_boost_needs_a_fall_below_two_and_lasts_a_stated_time() -> None:
    rows = series("c", [3.0, 2.5, 1.9, 1.5, 1.6, 1.2, 1.1], every=10)
    found = acted(LangevinBoost("c", steps=20, refractory=30), rows)
    # 1.9 falls below 2 at 20; 1.5 lies in the refractory time; 1.2 at 50 is the next fall.
    assert numbers(found) == [(20, 1.5), (50, 1.5)]
    assert {a.arguments["steps"] for a in found} == {20.0}
    with pytest.raises(ValueError, match="boosts would add up"):
        LangevinBoost(steps=50, refractory=49)


def test_the_published_warm_up_is_linear_from_a_tenth_over_a_twentieth() -> None:
    found = acted(LangevinWarmup(total=400), ((t, {}) for t in range(400)))
    expected = [(t, round(0.1 + 0.9 * t / 20, 10)) for t in range(21)]
    assert numbers(found) == expected
    late = acted(LangevinWarmup(total=400), ((t, {}) for t in range(20, 400)))
    assert late == []  # resumed after it: the rate is left alone


def test_annealing_is_half_a_cosine_to_within_its_grain() -> None:
    found = dict(numbers(acted(TemperatureAnnealing(total=500), ((t, {}) for t in range(600)))))
    standing = 1.0
    for t in range(600):
        standing = found.get(t, standing)
        x = 0.01 + 0.99 * (1 + math.cos(math.pi * min(t, 500) / 500)) / 2
        assert abs(standing - x) < 0.01
    assert standing == 0.01
    # A move is at least .01, and at most that and the greatest slope, .99 pi/2/500.
    assert 0.99 / (0.01 + 0.0032) <= len(found) <= 100


# ---------------------------------------------------------------- descent margin


def best(low: float, value: float, high: float) -> dict[str, Estimate]:
    return {"grad/descent_factor": Estimate(value, low, high, n=8)}


def test_the_margin_acts_only_where_the_whole_interval_is_beyond_its_band() -> None:
    policy = DescentMargin()
    below, above = policy.band
    for f in policy.band:  # there the rate keeps exactly `share` of the greatest descent
        assert math.isclose((2 - 1 / f) / f, policy.share)
    for row in (best(0.3, 0.6, below), best(below, 1.0, above), best(above, 2.0, 9.0),
                best(0.1, 0.3, 5.0)):  # fmt: skip
        assert acted(policy, [(0, row)]) == []
    eps = 1e-9
    assert numbers(acted(policy, [(0, best(0.3, 0.6, below - eps))])) == [(0, 0.6)]
    assert numbers(acted(policy, [(0, best(above + eps, 1.7, 9.0))])) == [(0, 1.7)]


def test_the_margin_moves_by_a_bounded_factor_and_stays_within_bounds() -> None:
    far = [(50 * t, best(7.0, 8.0, 9.0)) for t in range(9)]
    found = acted(DescentMargin(high=5.0), far)
    assert numbers(found) == [(0, 2.0), (50, 2.0), (100, 1.25)]
    uphill = [(0, best(-0.3, -0.2, -0.1)), (1, best(-0.3, -0.2, -0.1))]
    assert numbers(acted(DescentMargin(), uphill)) == [(0, 0.5)]


@pytest.mark.parametrize("low", [math.nan, -math.inf])
def test_the_margin_does_nothing_without_a_finite_interval(low: float) -> None:
    high = low if math.isnan(low) else 0.3
    rows = [(0, {"grad/descent_factor": Estimate(0.2, low, high, n=8)})]
    assert acted(DescentMargin(), rows) == []
    assert numbers(acted(DescentMargin(), [(0, best(0.1, 0.2, 0.3))])) == [(0, 0.5)]


def test_on_a_noisy_parabola_the_margin_finds_the_best_single_step() -> None:
    """f* of rate r is r*/r exactly, r* = s/(q + T): the standing factor must end near r*/r."""
    for start in (0.03, 30.0):
        factor, policy = 1.0, DescentMargin(low=0.01, high=100.0)
        state = policy.init()
        for t in range(0, 1000, 50):
            f = start / factor
            row = best(0.98 * f, f, 1.02 * f)
            state, actions = policy.update(state, t, row, [])
            for action in actions:
                factor *= float(action.arguments["factor"])
        low, high = policy.band
        assert low * 0.98 <= start / factor <= high * 1.02


# ---------------------------------------------------------------- batch


def test_the_loss_that_stagnates_halves_and_the_chaotic_one_doubles() -> None:
    flat = [1.0 + 0.01 * (-1) ** t for t in range(40)]
    falls = [2.0 - 0.03 * t + 0.001 * (-1) ** t for t in range(40)]
    rises = [1.0 + 0.1 * t + 0.001 * (-1) ** t for t in range(20)]
    wild = [0.1, 9.0, 0.1, 0.1, 0.2] * 4
    policy = LangevinBatch(256, window=20, refractory=1)
    assert numbers(acted(policy, series("loss", flat)), "batch") == [(19, 128), (39, 64)]
    assert acted(policy, series("loss", falls)) == []
    assert numbers(acted(policy, series("loss", rises)), "batch") == [(19, 512)]
    assert numbers(acted(policy, series("loss", wild)), "batch") == [(19, 512)]
    small = LangevinBatch(256, window=20, refractory=1, least=200)
    assert numbers(acted(small, series("loss", flat)), "batch") == [(19, 200)]


def test_the_target_band_is_met_at_the_batch_that_is_advised() -> None:
    for c in (0.1, 1.49, 3.01, 40.0):
        (action,) = acted(TargetBatch(100, "c"), series("c", [c]))
        # C is proportional to the batch; half an example of rounding.
        at = c * float(action.arguments["batch"]) / 100
        assert abs(at - math.sqrt(4.5)) < 0.5 * c / 100 + 1e-12
    assert acted(TargetBatch(100, "c"), series("c", [1.5, 2.0, 3.0, 0.0, -1.0])) == []
    wide = [(0, {"c": Estimate(0.5, -1.0, 2.0, n=8)})]
    assert acted(TargetBatch(100, "c"), wide) == []  # the band is not excluded
    again = series("c", [0.5, 0.5, 0.45, 0.1], every=200)
    assert [a.step for a in acted(TargetBatch(100, "c"), again)] == [0, 600]


def test_the_noise_scale_is_advised_where_it_is_resolved_beyond_a_factor_two() -> None:
    def rows(*ends: tuple[float, float, float]) -> list[tuple[int, dict]]:
        return [(t, {"b": Estimate(v, lo, hi, n=8)}) for t, (lo, v, hi) in enumerate(ends)]

    policy = NoiseScaleBatch(100, "b", window=3)
    far, high = (300.0, 500.0, 800.0), (500.0, 900.0, 1500.0)
    assert numbers(acted(policy, rows(far, high, (250.0, 400.0, 700.0))), "batch") == [(2, 500)]
    assert acted(policy, rows((150.0, 400.0, 900.0), (51.0, 60.0, 70.0), (10.0, 30.0, 50.0))) == []
    assert numbers(acted(policy, rows((10.0, 20.0, 30.0)) * 3), "batch") == [(0, 20)]


def test_a_batch_beyond_what_a_float_holds_is_the_limit() -> None:
    for c, batch in ((5e-324, 4096), (1e-300, 4096), (1e308, 1)):
        assert numbers(acted(TargetBatch(64, "c"), series("c", [c])), "batch") == [(0, batch)]
    vast = series("b", [1e308, 1.7e308])  # whose median is infinite
    assert numbers(acted(NoiseScaleBatch(64, "b", window=2), vast), "batch") == [(1, 4096)]


# ---------------------------------------------------------------- stop, pause


def should_stop_early(history, window=10):
    """The listing of signal 11.4, letter by letter."""
    if len(history) < window:
        return False, "Insufficient history"
    recent = history[-window:]
    p_vals = [h["p"] for h in recent]
    ca_vals = [h["C_alpha"] for h in recent]
    if all(p < 0.45 for p in p_vals):
        return True, f"p < 0.45 for {window} consecutive steps"
    if ca_vals[-1] < ca_vals[0] and all(ca_vals[i] >= ca_vals[i + 1] for i in range(window - 1)):
        return True, f"C_α decreasing for {window} steps"
    if history[-1]["I"] < 0:
        return True, "I < 0: divergence detected"
    return False, "Training healthy"


def test_the_early_stop_is_the_listing() -> None:
    draw, stopped = random.Random(0), set()
    for case in range(300):
        history = []
        kind = case % 3
        for t in range(25):
            p = draw.uniform(0.2, 0.47) if kind == 0 else draw.uniform(0.4, 0.9)
            c = 3.0 - 0.01 * t * draw.choice([1, 1, 1, 1, 1, 1, 2]) if kind == 1 else draw.random()
            i = draw.uniform(-0.02, 0.4) if kind == 2 else 0.1
            history.append({"p": p, "C_alpha": c, "I": i})
        rows = [(t, {k: Estimate.plain(v) for k, v in h.items()}) for t, h in enumerate(history)]
        found = acted(PublishedEarlyStop("p", "C_alpha", "I"), rows)
        first = next((t for t in range(25) if should_stop_early(history[: t + 1])[0]), None)
        assert [a.step for a in found] == ([] if first is None else [first])
        if first is not None:
            series_of = {"p": "p <", "C_alpha": "C_α", "I": "I <"}
            (name,) = [n for n, w in series_of.items()
                       if should_stop_early(history[: first + 1])[1].startswith(w)]  # fmt: skip
            assert found[0].reason.startswith(f"Stop: {name} ")
            stopped.add(name)
    assert stopped == {"p", "C_alpha", "I"}


def test_without_an_intelligence_coefficient_its_rule_is_silent() -> None:
    rows = [(t, {"p": Estimate(0.9), "c": Estimate(1.0 + t % 2)}) for t in range(30)]
    assert acted(PublishedEarlyStop("p", "c", "i"), rows) == []


def test_stop_and_pause_listen() -> None:
    assert [a.kind for a in acted(Stop(on=Below("p", 0.4)), series("p", [0.5, 0.3, 0.2]))] == [
        "stop"
    ]
    policy = resolve("pause:turnover")
    assert policy == Pause(on="turnover") and resolve("stop:cusum") == Stop(on="cusum")
    alarm = Alarm(7, "turnover", "loss", 2.0, 1.0, "It turned.")
    assert [a.kind for a in policy.update(policy.init(), 7, {}, [alarm])[1]] == ["pause"]
    with pytest.raises(ValueError, match="pause:DETECTOR and stop:DETECTOR"):
        resolve("stop")
    with pytest.raises(ValueError, match="'phase_rate' listens to no detector"):
        resolve("phase_rate:turnover")


# ---------------------------------------------------------------- at the door


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: PhaseRate(low=0.0), "The `low` of `PhaseRate` must be in"),
        (lambda: PhaseRate(high=math.inf), "The `high` of `PhaseRate` must be finite"),
        (lambda: LangevinRate(refractory=0), "The `refractory` of `LangevinRate` must be finite"),
        (lambda: LangevinReduce(factor=1.0), "The `factor` of `LangevinReduce` must be in"),
        (lambda: LangevinBoost(factor=1.0), "The `factor` of `LangevinBoost` must exceed 1"),
        (lambda: StableWarmup(start=1.0), "The `start` of `StableWarmup` must be in"),
        (lambda: StableWarmup(growth=1.0), "The `growth` of `StableWarmup` must exceed 1"),
        (lambda: LangevinWarmup(total=0), "The `total` of `LangevinWarmup` must be finite"),
        (lambda: TemperatureAnnealing(9, least=0.0), "The `least` of `TemperatureAnnealing`"),
        (lambda: DescentMargin(share=1.0), "The `share` of `DescentMargin` must be in"),
        (lambda: DescentMargin(most=1.0), "The `most` of `DescentMargin` must exceed 1"),
        (lambda: LangevinBatch(0), "The `batch` of `LangevinBatch` must be finite"),
        (lambda: TargetBatch(1, low=3.0), "The `high` of `TargetBatch` must exceed"),
        (lambda: NoiseScaleBatch(1, most=0), "The `most` of `NoiseScaleBatch` must be finite"),
        (lambda: PublishedEarlyStop(window=1), "The `window` of `PublishedEarlyStop` must be"),
        (lambda: Stop(on=""), "The `detector` of `Alarmed`"),
    ],
)
def test_what_cannot_be_used_is_refused_at_the_door(make: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make()
