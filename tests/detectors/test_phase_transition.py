"""The causal rule: what it finds, what it passes over, and its false alarms on noise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from foreshock.detectors import PhaseTransition, resolve
from foreshock.types import Estimate

RULE = PhaseTransition("c", "s", "loss")


def run(rule: PhaseTransition, *columns: np.ndarray) -> list[int]:
    state, found = rule.init(), []
    for step, row in enumerate(zip(*columns, strict=True)):
        values = {n: Estimate.exact(float(v)) for n, v in zip(rule.reads, row, strict=True)}
        state, alarm = rule.update(state, step, values)
        found += [alarm.step] if alarm else []
    return found


def quiet(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    c, s, loss = np.random.default_rng(seed).standard_normal((3, n))
    return 5 + c, 2 + s, 1 + 0.01 * loss


def test_an_event_is_found_at_its_step() -> None:
    # The loss stands with probability erf(2/sqrt 2) = 95.4 %, a little less with an estimated
    # scale; 12 and 8 standard deviations leave the other two no doubt. 60 runs: 57 expected, and
    # 49 is 4 standard deviations (sqrt(60 .046 .954) = 1.6) and a bit of that scale below.
    found = 0
    for seed in range(60):
        c, s, loss = quiet(200, seed)
        c[150] -= 12
        s[150] += 8
        found += run(RULE, c, s, loss) == [150]
    assert found >= 49


def test_each_of_the_three_is_needed() -> None:
    c, s, loss = quiet(200, 3)
    loss[140] = loss[150] = 1.0
    dropped, spiked = c.copy(), s.copy()
    dropped[150] -= 12
    spiked[150] += 8
    falling = loss - 0.01 * np.arange(200)  # ten standard deviations in ten steps
    assert run(RULE, dropped, spiked, loss) == [150]
    assert run(RULE, c, spiked, loss) == []
    assert run(RULE, dropped, s, loss) == []
    assert run(RULE, dropped, spiked, falling) == []
    # A steady fall is no noise of its own, however short the lag.
    steep = loss - np.arange(200)
    assert run(PhaseTransition("c", "s", "loss", lag=2), dropped, spiked, steep) == []
    # .85 standard deviations of a difference in ten steps, 3.4 in forty: the longer lag sees it.
    loss[[110, 140, 150]] = 1.0
    slow = loss - 0.0012 * np.arange(200)
    assert run(RULE, dropped, spiked, slow) == [150]
    assert run(PhaseTransition("c", "s", "loss", lag=40), dropped, spiked, slow) == []


@pytest.mark.parametrize(("step", "found"), [(149, []), (150, [150])])
def test_the_loss_is_compared_with_itself_ten_values_ago(step: int, found: list[int]) -> None:
    c, s, _ = quiet(200, 7)
    c[step] -= 12
    s[step] += 8
    loss = np.where(np.arange(200) < 140, 2.0, 1.0) + 1e-3 * np.sin(7.0 * np.arange(200))
    assert run(RULE, c, s, loss) == found


def test_it_rests_after_an_alarm() -> None:
    c, s, loss = quiet(300, 4)
    loss = np.ones(300)
    for step in (100, 130, 200):
        c[step] -= 12
        s[step] += 8
    assert run(RULE, c, s, loss) == [100, 200]
    assert run(PhaseTransition("c", "s", "loss", refractory=0), c, s, loss) == [100, 130, 200]


def test_units_do_not_matter() -> None:
    c, s, loss = quiet(2000, 5)
    eager = PhaseTransition("c", "s", "loss", drop=1.5, spike=1.5, refractory=0)
    alarms = run(eager, c, s, loss)
    assert len(alarms) > 5
    assert run(eager, 1e3 * c - 7, 1e-6 * s, 50 * loss + 3) == alarms


def test_false_alarms_on_independent_noise() -> None:
    # Two Gaussian exceedances of 3: 1.35e-3 each, .003 with a scale from 50 values, so less than
    # 1e-5 a step and .4 in 40,000. Five or more have probability 1e-4.
    assert sum(len(run(RULE, *quiet(5000, seed))) for seed in range(8)) < 5


def test_gaps_and_what_is_not_a_number_are_passed_over() -> None:
    c, s, loss = quiet(200, 6)
    state = RULE.init()
    for row in (
        {"c": Estimate.exact(1.0), "s": Estimate.exact(1.0)},
        {"c": Estimate.exact(math.nan), "s": Estimate.exact(1.0), "loss": Estimate.exact(1.0)},
        {"c": Estimate.missing("No."), "s": Estimate.exact(1.0), "loss": Estimate.exact(1.0)},
    ):
        assert RULE.update(state, 0, row) == (state, None)
    # A series that never moved has no scale, so nothing is a drop of it.
    flat = np.full(200, 5.0)
    flat[150] = 0.0
    s[150] += 100
    assert run(RULE, flat, s, np.ones(200)) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"drop": 0.0}, "`drop` of `PhaseTransition` must be positive. Got 0"),
        ({"spike": math.nan}, "`spike` of `PhaseTransition` must be positive. Got nan"),
        ({"lag": 0}, "`lag` of `PhaseTransition` must be at least 1"),
        ({"window": 10}, "longer than its `lag` of 10. Got 10"),
    ],
)
def test_unfit_arguments_are_refused(arguments: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        PhaseTransition(**arguments)


def test_it_resolves_by_name() -> None:
    rule = resolve("phase_transition:fp/c")
    assert rule.reads == ("fp/c", "latent/entropy_production", "loss")
