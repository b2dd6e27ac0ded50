"""Triggers of alarms, of levels, and of clocks: when they fire, and that nan never does it."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest

from foreshock.policies import Alarmed, Below, Every, PoissonRate, PublishedBelow, TurnsUp
from foreshock.policies.triggers import Trigger, as_trigger, trusted
from foreshock.types import Alarm, Estimate, Flag


def fired(trigger: Trigger, series: Sequence[float | Estimate]) -> list[int]:
    state, steps = trigger.init(), []
    for step, x in enumerate(series):
        estimate = x if isinstance(x, Estimate) else Estimate.exact(x)
        state, cause = trigger.update(state, step, {"c": estimate}, [])
        steps += [step] if cause else []
    return steps


def test_published_trigger_fires_every_step() -> None:
    # `if C < theta and step > 10`, as the code of the document has it.
    series = [0.1] * 30 + [0.9] * 5 + [0.5] * 5
    assert fired(PublishedBelow("c"), series) == list(range(11, 30))


def test_below_fires_once_an_excursion() -> None:
    assert fired(Below("c", 0.5), [0.6, 0.4, 0.3, math.nan, 0.2, 0.5, 0.4]) == [1, 6]


def test_turns_up_fires_after_the_minimum_and_knows_no_future() -> None:
    # A parabola without noise: sigma is that of its own slope, so the price is delay only.
    series = [0.2 + 0.001 * (t - 30) ** 2 for t in range(60)]
    (step,) = fired(TurnsUp("c", 0.5), series)
    assert 30 < step < 45
    for cut in (25, 31, step):
        assert fired(TurnsUp("c", 0.5), series[:cut]) == []
    assert fired(TurnsUp("c", 0.5), series[: step + 1]) == [step]


def test_turns_up_needs_a_minimum_below_and_then_a_new_excursion() -> None:
    dip = [0.9 - 0.05 * t for t in range(15)] + [0.2 + 0.05 * t for t in range(15)]
    assert len(fired(TurnsUp("c", 0.5), dip)) == 1
    assert fired(TurnsUp("c", 0.1), dip) == []
    # Back above the threshold, a second dip is another minimum; staying below it is the same one.
    assert len(fired(TurnsUp("c", 0.5), dip + dip)) == 2
    below = [x * 0.5 for x in dip]
    assert len(fired(TurnsUp("c", 0.5), below + below)) == 1


def test_turns_up_waits_for_noise_to_be_known_and_exceeded() -> None:
    assert fired(TurnsUp("c", 0.5), [0.4, 0.1, 0.4, 0.1]) == []
    draw = random.Random(0)
    falling = [0.45 - 0.001 * t + draw.gauss(0, 0.02) for t in range(200)]
    # One noisy value above its neighbours is no turn at seven standard deviations.
    assert fired(TurnsUp("c", 0.5, rise=0.0, noise=12.0), falling) == []
    assert fired(TurnsUp("c", 0.5, rise=0.0, noise=0.5), falling) != []


@pytest.mark.parametrize(
    "trigger", [Below("c", 0.5), PublishedBelow("c"), TurnsUp("c", 0.5, rise=0.0, noise=0.0)]
)
def test_what_is_flagged_or_not_finite_fires_nothing(trigger: Trigger) -> None:
    flagged = Estimate(0.1, flags=Flag.NONSTATIONARY, reason="It drifted.")
    bad: list[float | Estimate] = [math.nan, math.inf, -math.inf, flagged, Estimate.missing("no")]
    assert fired(trigger, [0.45, 0.4, 0.42, 0.41, 0.4, 0.3] * 4)  # so that the test can fail
    assert fired(trigger, bad * 20) == []
    # Nor does it move the state: with such values in between, the same values fire.
    clean = [0.9, 0.7, 0.45, 0.4, 0.42, 0.41, 0.4, 0.3, 0.6, 0.7, 0.2, 0.8] * 2
    mixed = [x for value in clean for x in (value, flagged)]
    assert [s // 2 for s in fired(trigger, mixed) if s > 21] == [
        s for s in fired(trigger, clean) if s > 10
    ]


def test_alarms_are_heard_by_name_unless_they_rest_on_nothing() -> None:
    trigger = as_trigger("cusum", "Test")
    assert trigger == Alarmed("cusum")

    def heard(alarm: Alarm, values: dict[str, Estimate]) -> bool:
        return trigger.update(trigger.init(), 7, values, [alarm])[1] is not None

    alarm = Alarm(7, "cusum", "loss", 11.0, 10.0, "It rose.")
    assert heard(alarm, {}) and heard(alarm, {"loss": Estimate(2.0)})
    assert not heard(Alarm(7, "turnover", "loss", 11.0, 10.0, "It fell."), {})
    assert not heard(Alarm(7, "cusum", "loss", math.nan, 10.0, "It rose."), {})
    assert not heard(alarm, {"loss": Estimate.missing("no batch")})


def test_every_keeps_its_beat_over_gaps() -> None:
    trigger, steps = Every(10), []
    state = trigger.init()
    for step in [0, 5, 12, 13, 20, 47, 50]:
        state, cause = trigger.update(state, step, {}, [])
        steps += [step] if cause else []
    assert steps == [12, 20, 47, 50]


@pytest.mark.parametrize("rate", [0.02, 0.5])
def test_poisson_waits_are_exponential(rate: float) -> None:
    # In every step an event falls with probability p = 1 - exp(-rate), independently: the count
    # over n steps is binomial. The waits, geometric, have standard deviation sqrt(1 - p)/p.
    n, counts, waits = 2000, [], []
    for seed in range(20):
        trigger, last = PoissonRate(rate, seed), 0
        state = trigger.init()
        for step in range(1, n + 1):
            state, cause = trigger.update(state, step, {}, [])
            if cause:
                waits.append(step - last)
                last = step
        counts.append(len(waits))
    p, total = 1 - math.exp(-rate), 20 * n
    assert abs(len(waits) - total * p) < 4 * math.sqrt(total * p * (1 - p))
    mean = sum(waits) / len(waits)
    spread = math.sqrt(sum((w - mean) ** 2 for w in waits) / len(waits))
    # Kurtosis 9 of an exponential: the standard error of its standard deviation is sd sqrt(2/n).
    assert abs(spread / (math.sqrt(1 - p) / p) - 1) < 4 * math.sqrt(2 / len(waits))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Alarmed(""), "`detector` of `Alarmed`"),
        (lambda: Below("c", math.nan), "`threshold` of `Below` must be finite. Got nan"),
        (lambda: PublishedBelow(threshold=math.inf), "`threshold` of `PublishedBelow`"),
        (lambda: TurnsUp("c", 0.5, rise=-1), "`rise` of `TurnsUp` must be finite and at least 0"),
        (lambda: TurnsUp("c", 0.5, noise=math.inf), "`noise` of `TurnsUp`"),
        (lambda: TurnsUp("c", 0.5, span=4), "`span` of `TurnsUp` must be at least 5. Got 4"),
        (lambda: Every(0), "`period` of `Every` must be at least 1. Got 0"),
        (lambda: PoissonRate(0.0), "`rate` of `PoissonRate` must be positive. Got 0.0"),
        (lambda: as_trigger(3, "Mine"), "`on` of `Mine` must be the name of a detector"),  # type: ignore[arg-type]
        (lambda: as_trigger(Below, "Mine"), "`on` of `Mine` must be"),  # type: ignore[arg-type]
    ],
)
def test_arguments(make, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make()


def test_trusted() -> None:
    assert trusted({"c": Estimate(2.0)}, "c") == 2.0
    assert trusted({}, "c") is None
    assert trusted({"c": Estimate(-math.inf)}, "c") is None  # infinite, and nobody flagged it
