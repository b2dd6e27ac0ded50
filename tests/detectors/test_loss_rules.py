"""`LossSpike` and `Divergence`: planted events, and the things that are no event."""

from __future__ import annotations

import math

import numpy as np
import pytest

from foreshock.detectors import Divergence, LossSpike
from foreshock.types import Alarm, Detector, Estimate

T = np.arange(3000)


def run(rule: Detector, logs: np.ndarray) -> list[Alarm]:
    state, alarms = rule.init(), []
    for step, value in enumerate(np.exp(logs).tolist()):
        state, alarm = rule.update(state, step, {"loss": Estimate.exact(value)})
        alarms += [alarm] if alarm else []
    return alarms


def noise(seed: int, phi: float = 0.5, size: float = 0.05) -> np.ndarray:
    rng, x = np.random.default_rng(seed), np.zeros(len(T))
    shocks = rng.standard_normal(len(T)) * math.sqrt(1 - phi * phi)
    for t in range(1, len(T)):
        x[t] = phi * x[t - 1] + shocks[t]
    return size * x


def held(at: int, steps: int) -> np.ndarray:
    return ((at <= T) & (at + steps > T)).astype(float)


@pytest.mark.parametrize("phi", [0.0, 0.9])
@pytest.mark.parametrize("seed", range(5))
def test_a_spike_is_found_at_its_third_value_and_only_once(phi: float, seed: int) -> None:
    found = run(LossSpike(), noise(seed, phi) - T / 1000 + math.log(3) * held(2000, 30))
    assert [alarm.step for alarm in found] == [2002]
    # Three values of log 3 with 5 % noise over a median of twenty: within 5 x .05 of log 3.
    assert found[0].value == pytest.approx(math.log(3), abs=0.25)


def test_one_bad_batch_and_two_are_no_spike_three_are() -> None:
    for steps, count in ((1, 0), (2, 0), (3, 1)):
        x = noise(0) + math.log(3) * held(1000, steps)
        assert len(run(LossSpike(), x)) == count
    assert run(LossSpike(confirm=1), noise(0) + math.log(3) * held(1000, 1))[0].step == 1000


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("width", [1, 30])
def test_an_improvement_is_never_an_alarm(seed: int, width: int) -> None:
    fall = -math.log(10) * np.clip((T - 1500) / width, 0, 1)
    louder = noise(seed, 0.9) * np.where(T < 1500, 1.0, 3.0)  # small losses are relatively noisier
    for rule in (LossSpike(), Divergence()):
        assert run(rule, louder + fall) == []


def test_the_way_back_from_a_dip_is_no_spike() -> None:
    for steps in (2, 10, 50):
        assert run(LossSpike(), noise(1) - math.log(10) * held(1500, steps)) == []


def test_a_spike_is_no_divergence_and_a_slow_divergence_no_spike() -> None:
    assert run(Divergence(), noise(2) + math.log(3) * held(2000, 30)) == []
    assert run(LossSpike(), noise(2) + np.clip(T - 1000, 0, None) / 100) == []


@pytest.mark.parametrize("phi", [0.0, 0.9])
@pytest.mark.parametrize(("efold", "least", "most"), [(100, 40, 140), (1000, 405, 1500)])
def test_a_divergence_is_found(phi: float, efold: int, least: int, most: int) -> None:
    # Not before the loss is 1.5 times its lowest level, log 1.5 = .405 e-folds, less the noise
    # of that level: 40 values of 5 % noise lie within 3 x .05 = 15 % of it.
    for seed in range(5):
        found = run(Divergence(), noise(seed, phi) + np.clip(T - 1200, 0, None) / efold)
        assert 1200 + least - 0.15 * efold < found[0].step < 1200 + most
        assert found[0].value > math.log(1.5)


def test_a_loss_that_ends_its_steep_fall_can_diverge_and_does_not_by_itself() -> None:
    fall = -8 * (1 - np.exp(-T / 150))
    assert run(Divergence(), fall + noise(3, 0.99)) == []
    found = run(Divergence(), fall + noise(3) + np.clip(T - 1000, 0, None) / 100)
    assert 1040 <= found[0].step < 1120


@pytest.mark.parametrize("rule", [LossSpike(), Divergence()])
def test_no_false_alarm_in_72_000_healthy_steps(rule: Detector) -> None:
    # At the promised rate of 1 in 10,000 there would be 7, and none has probability 7e-4.
    count = 0
    for seed in range(6):
        curve = (0 * T, -T / 800, -0.3 * np.log1p(T / 50))[seed % 3]
        count += len(run(rule, curve + noise(seed, (0.9, 0.99)[seed // 3])))
        drops = -sum(math.log(2) * (at <= T) for at in (900, 1800, 2400))
        tails = 0.05 * np.random.default_rng(seed).standard_t(3, len(T)) / math.sqrt(3)
        count += len(run(rule, drops + noise(seed))) + len(run(rule, curve + tails))
        count += len(run(rule, curve + noise(seed + 50, 0.5)))
    assert count == 0


@pytest.mark.parametrize("rule", [LossSpike, Divergence])
def test_units_do_not_matter_and_what_is_no_loss_is_passed_over(rule: type) -> None:
    x = noise(4) + math.log(3) * held(2000, 200)
    steps = [alarm.step for alarm in run(rule(), x)]
    assert steps
    assert [alarm.step for alarm in run(rule(), x + math.log(1e-6))] == steps
    state = rule().init()
    for bad in (0.0, math.nan, math.inf):
        assert rule().update(state, 0, {"loss": Estimate.exact(bad)}) == (state, None)
    with pytest.raises(ValueError, match="`factor`"):
        rule(factor=1.0)
    with pytest.raises(ValueError, match="at least"):
        rule(span=1)


# ---------------------------------------------------------------- early, and no number any more


@pytest.mark.parametrize("phi", [0.0, 0.9])
@pytest.mark.parametrize("onset", [0, 100, 200, 400])
def test_a_loss_that_blows_up_early_is_found(phi: float, onset: int) -> None:
    # A rise of e^3 in 300 steps, found before it is over, wherever in the start it begins.
    for seed in range(5):
        found = run(Divergence(), noise(seed, phi) + np.clip(T - onset, 0, 300) / 100)
        assert onset < found[0].step < onset + 300


def test_a_loss_that_falls_and_returns_to_chance_within_the_start_is_found() -> None:
    for turn in (100, 150):  # a shorter one passes for noise of that size: 669 and later
        fall = -1.5 * np.interp(T, [0, turn, 2 * turn], [0, 1, 0])
        for seed in range(5):
            assert run(Divergence(), noise(seed, 0.0) + fall)[0].step < 500


@pytest.mark.parametrize("seed", range(5))
def test_an_early_spike_is_found(seed: int) -> None:
    found = run(LossSpike(), noise(seed) - T / 300 + math.log(3) * held(50, 30))
    assert found[0].step == 52


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("huge", [0, 1, 2])
def test_a_loss_that_is_no_number_any_more_alarms_once_at_its_fifth_value(
    bad: float, huge: int
) -> None:
    x = noise(5)
    x[1000 : 1000 + huge] += 3.0
    x[1000 + huge :] = bad
    found = run(Divergence(), x)
    assert [alarm.step for alarm in found] == [1004 + huge]
    assert found[0].value == 5 and "no number" in found[0].reason
    # A scaler that skips some steps, and a run of four, are no end of the run.
    x = noise(5)
    x[::3] = bad
    x[501:505] = bad
    assert run(Divergence(), x) == [] == run(LossSpike(), x)


# ---------------------------------------------------------------- the noise they are judged by


def test_a_fixed_threshold_would_alarm_where_the_rules_do_not() -> None:
    # Noise of .3 to 1, stationary or grown within a fall: its own size must be the scale.
    control = {LossSpike: 0, Divergence: 0}
    for seed in range(4):
        done = np.clip((T - 1500) / (100, 400)[seed % 2], 0, 1)
        streams = [noise(seed, phi, size) for phi in (0.0, 0.9) for size in (0.3, 1.0)]
        streams.append(noise(seed, 0.5, 1.0) * (0.03 + 0.47 * done) - math.log(10) * done)
        for x in streams:
            for rule in control:
                assert run(rule(), x) == []
                control[rule] += len(run(rule(height=1e-9), x))
    assert min(control.values()) > 20


def test_slow_noise_is_judged_by_what_it_does_in_the_long_run() -> None:
    # The medians' steps see a third of noise with a memory of a hundred values.
    assert sum(len(run(Divergence(), noise(seed, 0.99, 0.3))) for seed in range(6)) == 0


def test_noise_that_grows_within_fifty_values_is_judged_by_the_window() -> None:
    # From .6 to 30 %: the running scale lags, and without the window four of these ten alarm.
    for seed in range(10):
        x = noise(seed, 0.5, 0.3) * (0.02 + 0.98 * np.clip((T - 1000) / 50, 0, 1))
        assert run(LossSpike(), x[:1500]) == []


def test_a_wild_value_does_not_blind_for_the_spike_after_it() -> None:
    for at in (30, 900):
        x = noise(6) + 20.0 * held(at, 1) + math.log(3) * held(at + 50, 30)
        assert [alarm.step for alarm in run(LossSpike(), x)] == [at + 52]


def test_a_spike_that_is_decaying_is_no_divergence() -> None:
    # 40 values after it began it still lies a factor 2.5 above the level, but it falls.
    x = noise(8, 0.0, 0.02) + np.where(T >= 2000, 2.5 * np.exp(-(T - 2000) / 40), 0.0)
    assert run(Divergence(), x) == []


def test_values_that_come_often_enough_are_no_outliers() -> None:
    # Two of three values are high: the window learns it, and three in a row are nothing new.
    high = ((T >= 500) & (T % 3 != 0)).astype(float)
    high[800:810] = 1.0
    assert run(LossSpike(), noise(7, 0.0, 0.02) + math.log(3) * high) == []


def test_the_lowest_level_is_forgotten() -> None:
    # e-fold 10,000: 2 e-folds in all, of which a memory of 2,000 values keeps .2 < log 1.5.
    x = 0.02 * np.random.default_rng(0).standard_normal(20_000) + np.arange(20_000) / 10_000
    assert run(Divergence(), x) == []


@pytest.mark.parametrize("rule", [LossSpike(), Divergence()])
def test_a_negative_loss_is_said_to_be_unreadable(rule: Detector) -> None:
    state = rule.init()
    for step in range(300):  # touching zero from below is passed over
        value = -1e-3 if step % 5 else 1.0
        state, alarm = rule.update(state, step, {"loss": Estimate.exact(value)})
        assert alarm is None
    with pytest.raises(ValueError, match=r"last 20 values .* negative, the newest -2"):
        for step in range(20):
            state, _ = rule.update(state, step, {"loss": Estimate.exact(-2.0)})
