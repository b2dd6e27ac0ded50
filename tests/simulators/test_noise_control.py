"""Adaptive noise comes back, once, after its time; the published loop never does."""

from __future__ import annotations

import math

import pytest
import torch

from foreshock.simulators.noise_control import AdaptiveNoise


def factors(control: AdaptiveNoise, values: list[float]) -> list[float]:
    state, seen = control.init(1), []
    for step, value in enumerate(values):
        state, factor = control.update(state, step, torch.tensor([value]))
        seen.append(factor.item())
    return seen


def test_a_boost_lasts_as_long_as_it_should_and_rests_as_long() -> None:
    control = AdaptiveNoise(threshold=0.5, boost=4.0, hold=3, refractory=5, start=2)
    # Stalled throughout: 2 steps of waiting, then periods of 3 boosted and 5 quiet steps.
    assert factors(control, [0.0] * 18) == [1.0] * 2 + ([4.0] * 3 + [1.0] * 5) * 2


def test_a_boost_ends_even_when_the_ratio_has_risen() -> None:
    control = AdaptiveNoise(hold=2, refractory=10, start=0, boost=3.0)
    assert factors(control, [0.1, 9.0, 9.0, 0.1, 9.0]) == [3.0, 3.0, 1.0, 1.0, 1.0]


def test_nothing_starts_on_a_ratio_that_is_not_a_number() -> None:
    control = AdaptiveNoise(start=0)
    assert factors(control, [math.nan, math.inf, -math.inf][:2]) == [1.0, 1.0]


def test_replicas_do_not_share_a_state() -> None:
    control = AdaptiveNoise(start=0, hold=1, refractory=0, boost=2.0)
    state, factor = control.update(control.init(3), 0, torch.tensor([0.1, 1.9, math.nan]))
    assert factor.tolist() == [2.0, 1.0, 1.0] and state.boosts.tolist() == [1, 0, 0]


def test_t12_adaptive_noise_is_restored() -> None:
    """The published loop compares the step with the intervention it has just appended."""
    published, interventions = 1.0, []
    ours = AdaptiveNoise(threshold=0.5, boost=5.0, hold=10, refractory=40, start=51)
    state, seen = ours.init(1), []
    for step in range(200):
        # C is |grad|^2/(D d); the same small gradient throughout.
        if 0.1 / published < 0.5 and step > 50:
            old, published = published, published * 5.0
            interventions.append(step)
            if len(interventions) > 0 and step - interventions[-1] > 10:
                published = old
        state, factor = ours.update(state, step, torch.tensor([0.1]))
        seen.append(factor.item())
    assert len(interventions) == 149 and published > 1e100  # every step, never undone
    # Ours: 10 boosted steps, 40 at the base noise, three times in the 149 steps.
    period = [5.0] * 10 + [1.0] * 40
    assert seen == [1.0] * 51 + (period * 3)[:149] and int(state.boosts) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"boost": 0.5},
        {"hold": 0},
        {"refractory": -1},
        {"threshold": math.nan},
        {"start": math.nan},
        {"start": -1},
        {"hold": 1.5},
        {"refractory": math.inf},
    ],
)
def test_senseless_numbers_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="of `AdaptiveNoise` must be finite"):
        AdaptiveNoise(**wrong)  # type: ignore[arg-type]
