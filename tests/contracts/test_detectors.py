"""One suite for every detector, discovered: causal, online equals replay, bounded, serialisable."""

from __future__ import annotations

import math
import pickle
import random
from dataclasses import replace
from pathlib import Path

import pytest

import foreshock.detectors as detectors
from foreshock import Run, replay
from foreshock.detectors import (
    BY_NAME,
    Calibration,
    ConformalAlarm,
    ForecastAlarm,
    Hazard,
    Judge,
    PublishedProbability,
    PublishedTransitions,
    Term,
)
from foreshock.detectors.record import detector_record, recorded_detectors
from foreshock.types import Alarm, Detector, Estimate, Flag

# The one rule without a default: it needs what safe runs looked like.
SAFE = Calibration(
    ("x", "y"),
    ("above", "both"),
    tuple(range(3000)),
    ((0.4,) * 3000, (0.5,) * 3000),
    ((0.2,) * 3000, (0.3,) * 3000),
    threshold=4.0,
    alpha=0.05,
)

# And what a forecaster was fitted to.
FITTED = Hazard(
    "onset",
    100,
    (Term("step", log=True), Term("x"), Term("x", "missing"), Term("y", "slope", log=True)),
    (-5.0, 0.1, 3.0, 0.5, 1.0),
)


def made(name: str) -> Detector:
    if name == "forecast":
        return ForecastAlarm(FITTED)
    if name == "loss_spike":  # noise of 50 % hides every spike at its defaults
        return BY_NAME[name](height=1.5, warmup=20)
    if name == "divergence":
        return BY_NAME[name](height=1.0, block=4, lag=8)
    if name == "published_transitions":  # its plateau is nowhere in noise of this size
        return PublishedTransitions(tolerance=100.0)
    return ConformalAlarm(SAFE) if name == "conformal" else BY_NAME[name]()


ALL = [made(name) for name in sorted(BY_NAME)]
rules = pytest.mark.parametrize("rule", ALL, ids=sorted(BY_NAME))

Rows = list[tuple[int, dict[str, Estimate]]]


def rows(rule: Detector, n: int = 400, seed: int = 0) -> Rows:
    """Noise, a ramp, gaps, nan and infinity in every series the rule reads."""
    draw = random.Random(seed)
    found: Rows = []
    for step in range(n):
        values = {}
        for place, name in enumerate(rule.reads):
            if draw.random() < 0.1:
                continue
            # Noise, then a ramp up to 3.4, and down again in the first series: something for every
            # rule to find.
            ramp = max(0, min(step - 200, 350 - step + 150 if place == 0 else 450, 150))
            x = draw.gauss(0.4, 0.2) + 0.02 * ramp
            # And one moment at which the first series drops while the second spikes.
            x += (-5.0, 5.0, 0.0)[place] if step == 650 else 0.0
            x = {0: math.nan, 1: math.inf, 2: -math.inf}.get(draw.randrange(200), x)
            values[name] = Estimate.exact(x)
        if values:
            found.append((step, values))
    return found


def alarms(rule: Detector, given: Rows) -> list[Alarm]:
    judge = Judge([rule])
    return [alarm for step, values in given for alarm in judge.feed(step, values)]


def test_the_names_reach_every_detector() -> None:
    classes = {
        value
        for value in vars(detectors).values()
        if isinstance(value, type) and isinstance(value, type) and hasattr(value, "reads")
    } - {Judge, Detector, Hazard, PublishedProbability}  # forecasters give no alarms
    assert classes == set(BY_NAME.values())


@rules
def test_something_fires_so_that_the_suite_can_fail(rule: Detector) -> None:
    assert any(alarms(rule, rows(rule, n=700, seed=seed)) for seed in range(20))


@rules
def test_causal(rule: Detector) -> None:
    given = rows(rule, n=700)
    whole = alarms(rule, given)
    for cut in (50, 210, 300, 500):
        assert alarms(rule, given[:cut]) == [a for a in whole if a.step <= given[cut - 1][0]]


@rules
def test_online_equals_replay(rule: Detector, tmp_path: Path) -> None:
    given = rows(rule)
    with Run.create(tmp_path / "run") as run:
        for step, values in given:
            run.append(step, values)
        run.event("detectors", "test", {"detectors": [detector_record(rule)]})
    with Run.open(tmp_path / "run") as run:
        assert replay(run, [rule]) == alarms(rule, given)
        assert recorded_detectors(run.events("detectors")) == [rule]


@rules
def test_resumable_serialisable_and_bounded(rule: Detector) -> None:
    state, sizes, resumed = rule.init(), [], []
    for step, values in rows(rule, n=3000):
        state, alarm = rule.update(pickle.loads(pickle.dumps(state)), step, values)
        sizes.append(len(pickle.dumps(state)))
        resumed += [alarm] if alarm else []
    assert max(sizes) < 2000
    assert resumed == alarms(rule, rows(rule, n=3000))


# Rules on numbers that a user logs, or fitted to them: any finite number is one.
READ_FLAGGED = {
    "conformal",
    "forecast",
    "gold_selection",
    "gold_turnover",
    "kl_threshold",
    "over_optimisation",
    "proxy_spread",
    "turnover",
}


@pytest.mark.parametrize("rule", [made(name) for name in sorted({*BY_NAME} - READ_FLAGGED)])
def test_what_is_flagged_as_unresolved_never_fires(rule: Detector) -> None:
    # The same rows that make every rule fire, with a sentence that says not to trust them.
    for seed in range(3):
        given = [
            (
                step,
                {
                    n: replace(e, flags=Flag.UNRESOLVED, reason="Too few samples.")
                    for n, e in values.items()
                    if math.isfinite(e.value)
                },
            )
            for step, values in rows(rule, n=700, seed=seed)
        ]
        assert alarms(rule, given) == []


@rules
def test_nan_alone_never_fires(rule: Detector) -> None:
    given = [(t, {n: Estimate.exact(math.nan) for n in rule.reads}) for t in range(200)]
    assert alarms(rule, given) == []
