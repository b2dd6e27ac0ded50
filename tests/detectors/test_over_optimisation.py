"""The reward rules: where gold turns, where it does not, their scale, and their baselines."""

from __future__ import annotations

import math

import numpy as np
import pytest

from foreshock.detectors import (
    GoldTurnover,
    KlThreshold,
    OverOptimisation,
    ProxySpread,
    PublishedRlhfAlert,
)
from foreshock.detectors.marginal import BLOCKS, START, Marginal, MarginalState, largest, take
from foreshock.types import Alarm, Detector, Estimate

Curves = dict[str, np.ndarray]


def run(rule: Detector, curves: Curves) -> list[Alarm]:
    state, found = rule.init(), []
    for step in range(len(next(iter(curves.values())))):
        seen = {name: Estimate.plain(float(curves[name][step])) for name in rule.reads}
        state, alarm = rule.update(state, step, seen)
        found += [alarm] if alarm else []
    return found


def safe(seed: int, n: int = 300) -> Curves:
    """Gaussian error: gold is linear in the proxy, both in sqrt(KL); they saturate in time."""
    rng = np.random.default_rng(seed)
    d = 2 * (1 - np.exp(-np.arange(n) / 100))
    noise = 0.1 * rng.standard_normal((2, n))
    return {
        "reward/proxy": math.sqrt(2) * d + noise[0],
        "reward/gold": d / math.sqrt(2) + noise[1],
        "reward/kl": (d + 0.02) ** 2 / 2,
    }


def hacked(seed: int, n: int = 300, sd: float = 0.03) -> Curves:
    """Gold peaks at step 200 = the middle of a parabola in the proxy, which keeps its pace."""
    rng = np.random.default_rng(seed)
    p = np.arange(n) / 100
    noise = sd * rng.standard_normal((2, n))
    return {
        "reward/proxy": p + noise[0],
        "reward/gold": p - p**2 / 4 + noise[1],
        "reward/kl": (0.1 + p) ** 2 / 2,
    }


# ------------------------------------------------------------------ the marginal


def compared(x: np.ndarray, y: np.ndarray, fraction: float) -> tuple[MarginalState, list[Marginal]]:
    """Every window that is compared after the last pair."""
    state, seen = MarginalState(), []
    for a, b in zip(x.tolist(), y.tolist(), strict=True):
        state = take(state, a, b)
    largest(state, fraction=fraction, score=lambda found: seen.append(found) or 0.0)
    return state, seen


def test_the_contrast_is_standard_normal_where_the_fraction_is_the_truth() -> None:
    # Linear in mean: the recent slope is the average one, so fraction = 1 makes the contrast 0 on
    # average. 2,000 draws: the mean has a standard error of .022; the variance of .032, besides
    # what the estimated noise adds (100 successive differences: about 60 degrees of freedom, 1.03).
    rng, z = np.random.default_rng(0), []
    for _ in range(2000):
        x = np.linspace(0, 5, 100) + 0.2 * rng.standard_normal(100)
        y = np.linspace(1, 3, 100) + 0.3 * rng.standard_normal(100)
        _, windows = compared(x, y, 1.0)
        z.append([found.contrast / found.error for found in windows])
    table = np.array(z)
    assert table.shape[1] >= 3  # windows of several lengths
    # The average is a ratio: a bias of second order, (.3/sqrt 10)^2/(gain 2) or .005 of it.
    assert (abs(table.mean(axis=0)) < 4 * 0.022 + 0.02).all()
    assert ((table.var(axis=0) > 0.85) & (table.var(axis=0) < 1.2)).all()


def test_the_parts_by_hand() -> None:
    # An origin of START pairs at (0, 0), as many around (5, 3), as many around (10, 6).
    n = START
    wiggle = np.arange(n) - np.arange(n).mean()
    x = np.concatenate([0 * wiggle, 5 + wiggle, 10 + wiggle])
    y = np.concatenate([0 * wiggle, 3 + wiggle, 6 - wiggle])
    state, (found,) = compared(x, y, 0.5)
    assert (found.average, found.recent) == pytest.approx((0.6, 0.6), rel=1e-12)
    assert found.contrast == pytest.approx(0.5 * 0.6 * 5 - 3, rel=1e-12)
    vx, vy = (np.mean(np.diff(column) ** 2) / 2 for column in (x, y))
    assert state.noise == pytest.approx((vx, vy), rel=1e-12)
    # c = f (y1 - y0)/(x1 - x0) (x2 - x1) - (y2 - y1) by numerical derivatives in its six means.
    means = np.array([0.0, 5.0, 10.0, 0.0, 3.0, 6.0])

    def contrast(m: np.ndarray) -> float:
        return 0.5 * (m[4] - m[3]) / (m[1] - m[0]) * (m[2] - m[1]) - (m[5] - m[4])

    slopes = [(contrast(means + h) - contrast(means - h)) / 2e-5 for h in 1e-5 * np.eye(6)]
    variances = np.repeat([vx, vy], 3) / n
    assert found.error == pytest.approx(math.sqrt(np.dot(np.square(slopes), variances)), rel=1e-6)
    assert compared(x[:-1], y[:-1], 0.5)[1] == []  # the second half does not fit yet


def test_merged_blocks_are_means_of_the_path() -> None:
    x, y = np.random.default_rng(1).standard_normal((2, 1000))
    state, _ = compared(x, y, 0.5)
    assert state.size == 16 and BLOCKS // 2 <= len(state.blocks) < BLOCKS
    used = len(state.blocks) * state.size
    expected = np.stack([x, y])[:, START : START + used].reshape(2, -1, state.size).mean(axis=2)
    np.testing.assert_allclose(np.array(state.blocks).T, expected, rtol=0, atol=1e-12)
    assert state.filling[0] == 1000 - START - used


# ------------------------------------------------------------------ the rule with gold


def test_it_warns_before_the_peak() -> None:
    # The marginal at proxy p is 1 - p/2, its average since the start 1 - p/4: half of the average
    # is reached at p = 4/3, step 133, and gold peaks at 200. Halves of n records that end at step t
    # give a contrast of .01 n (.0075 t - 1)/2 or so with an error of .03 sqrt(2/n): 4 standard
    # errors near step 185 with n = 32; two of twenty may be late.
    steps = [a.step for seed in range(20) for a in run(OverOptimisation(), hacked(seed))]
    assert len(steps) == 20 and min(steps) > 133 and sum(step < 200 for step in steps) >= 18
    # With three times the noise the same rule is late, and says nothing wrong.
    late = [a.step for seed in range(20) for a in run(OverOptimisation(), hacked(seed, sd=0.1))]
    assert len(late) == 20 and np.median(late) > np.median(steps) + 20


def test_a_saturating_safe_run_is_no_alarm() -> None:
    # The contrast is negative in the mean, but the largest of many windows is looked at, so 4
    # standard errors are reached now and then (counted: none of 300 runs, 26 at 3 standard errors).
    # At most 4 of 100, which a rate of 1 % exceeds with a probability of .4 %.
    assert sum(len(run(OverOptimisation(), safe(seed))) for seed in range(100)) <= 4


def test_units_of_the_rewards_do_not_matter() -> None:
    eager = OverOptimisation(threshold=1.0)
    for seed in range(5):
        curves = hacked(seed)
        other = {
            "reward/gold": 1e-3 * curves["reward/gold"] - 40,
            "reward/proxy": 1e4 * curves["reward/proxy"] + 3,
        }
        (one,), (two,) = run(eager, curves), run(eager, other)
        assert one.step == two.step
        assert one.value == pytest.approx(two.value, rel=1e-6)


def test_each_condition_is_needed() -> None:
    curves = hacked(1)
    falling = {**curves, "reward/proxy": curves["reward/proxy"][::-1]}
    assert run(OverOptimisation(), falling) == []  # the proxy does not rise
    # Both rise by a straight line, and come down the same line: no proxy is over-optimised there.
    line = np.minimum(np.arange(300), 300 - np.arange(300)) / 100
    noise = 0.05 * np.random.default_rng(4).standard_normal((2, 300))
    back = {"reward/proxy": line + noise[0], "reward/gold": line + noise[1]}
    assert run(OverOptimisation(), back) == []
    flat = {**curves, "reward/gold": 0.1 * np.random.default_rng(2).standard_normal(300)}
    assert run(OverOptimisation(), flat) == []  # gold never gained
    rng = np.random.default_rng(3)
    until = np.minimum(np.arange(300), 100) / 100
    stands = {f"reward/{n}": until + 0.1 * rng.standard_normal(300) for n in ("proxy", "gold")}
    assert run(OverOptimisation(), stands) == []  # both stand still


# ------------------------------------------------------------------ the rule without gold


def tilted(error: np.ndarray, betas: np.ndarray, seed: int) -> Curves:
    """Batches of 128 from a policy tilted towards gold + error over 20,000 responses."""
    rng = np.random.default_rng(seed)
    proxy = rng.standard_normal(len(error)) + error
    spreads = []
    for beta in betas:
        weight = np.exp(beta * proxy - (beta * proxy).max())
        drawn = rng.choice(proxy, 128, p=weight / weight.sum())
        spreads.append(drawn.std(ddof=1))
    return {"reward/proxy_std": np.array(spreads)}


def test_a_tail_widens_the_spread_and_a_gaussian_error_does_not() -> None:
    # Var[proxy] under the tilt is 2 for every beta with a Gaussian error (until the largest of the
    # 20,000 is reached, at beta of about sqrt(2 log(20000)/2) = 3; here beta < 1). A spread of 128
    # has a relative standard error of 1/sqrt(256) = 6 %, a ratio of means of five 4 %: a factor of
    # 2 is 17 of these. Where 1 response in 250 earns 8 more, the variance is 2.26 at first and 18
    # where half of them do, at beta = log(249)/8 = .69: a factor of 2.8.
    betas = np.linspace(0, 0.8, 40)
    for seed in range(10):
        rng = np.random.default_rng([seed, 1])
        assert run(ProxySpread(), tilted(rng.standard_normal(20_000), betas, seed)) == []
        exploit = rng.standard_normal(20_000) + 8 * (rng.random(20_000) < 1 / 250)
        (alarm,) = run(ProxySpread(), tilted(exploit, betas, seed))
        assert betas[alarm.step] < 0.8


def test_the_factor_by_hand_in_any_unit() -> None:
    spread = np.array([1.0, 4.0, 2.0, 2.0, 2.0, 2.0, 4.0, 8.0, 8.0, 8.0, 16.0])
    for unit in (1.0, 1e-6):
        (alarm,) = run(ProxySpread(threshold=2.5), {"reward/proxy_std": unit * spread})
        # Origin: exponents 0 2 1 1 1, mean 1. The last five: 1 1 1 2 3, mean 1.6 (a factor of 1.52)
        # at step 7; 1 1 2 3 3, mean 2 (2) at step 8; 1 2 3 3 3, mean 2.4 (2.64) at step 9.
        assert alarm.step == 9
        assert alarm.value == pytest.approx(2**1.4, rel=1e-9)


def test_what_has_no_logarithm_is_passed_over() -> None:
    rule = ProxySpread()
    for value in (0.0, -1.0, math.nan, math.inf):
        seen = {"reward/proxy_std": Estimate.plain(value)}
        assert rule.update(rule.init(), 0, seen) == (rule.init(), None)


# ------------------------------------------------------------------ baselines


def test_kl_threshold_is_the_first_exceedance() -> None:
    curves = hacked(0)
    (alarm,) = run(KlThreshold(threshold=1.0), curves)
    assert alarm.step == int((curves["reward/kl"] > 1.0).argmax())
    assert run(KlThreshold(threshold=math.inf), curves) == []


def test_turnover_detects_the_fall_and_not_the_rise() -> None:
    steps = [a.step for seed in range(20) for a in run(GoldTurnover(), hacked(seed))]
    assert len(steps) == 20
    assert np.median(steps) > 200  # a detection: after the peak
    # The docstring says 34 of 300; four binomial standard errors are 22.
    assert abs(sum(len(run(GoldTurnover(), safe(seed))) for seed in range(300)) - 34) < 23


def test_what_the_docstring_says_of_returns_that_diminish_and_of_lasting_noise() -> None:
    # Gold that saturates while the proxy goes on is an alarm, though it never falls.
    p = np.arange(300) / 100
    noise = 0.03 * np.random.default_rng(5).standard_normal((10, 2, 300))
    saturating = [{"reward/proxy": p + z[0], "reward/gold": 1 - np.exp(-p) + z[1]} for z in noise]
    assert all(len(run(OverOptimisation(), curves)) == 1 for curves in saturating)
    # AR(1) noise of coefficient .8 about curves in proportion: 100 of 100 by the docstring.
    alarms = 0
    for seed in range(10):
        rng, d = np.random.default_rng(seed), 2 * (1 - np.exp(-np.arange(300) / 100))
        z = np.zeros((2, 300))
        for t in range(1, 300):
            z[:, t] = 0.8 * z[:, t - 1] + 0.06 * rng.standard_normal(2)
        curves = {"reward/proxy": math.sqrt(2) * d + z[0], "reward/gold": d / math.sqrt(2) + z[1]}
        alarms += len(run(OverOptimisation(), curves))
    assert alarms >= 9


def test_the_published_alert_as_published() -> None:
    c = [0.29, 0.3, 0.1, math.nan, 0.1, 0.1]
    divergence = [1.1, 5.0, 1.0, 5.0, -2.0, math.nan]  # strict, absolute, at every step
    curves = {"published/c_fp_code": np.array(c), "published/max_div_j_fp": np.array(divergence)}
    assert [alarm.step for alarm in run(PublishedRlhfAlert(), curves)] == [0, 4]
    # In other units of eight latents C is 2^8 times as large: the same run never alarms.
    curves["published/c_fp_code"] = 2.0**8 * curves["published/c_fp_code"]
    assert run(PublishedRlhfAlert(), curves) == []


@pytest.mark.parametrize(
    ("rule", "arguments", "sentence"),
    [
        (OverOptimisation, {"fraction": 1.0}, r"`fraction` of `OverOptimisation` .* Got 1.0"),
        (OverOptimisation, {"threshold": math.nan}, "must be a number. Got nan"),
        (ProxySpread, {"threshold": 0.0}, "is a factor and must be positive. Got 0.0"),
        (ProxySpread, {"threshold": math.nan}, "is a factor and must be positive. Got nan"),
        (KlThreshold, {"threshold": math.nan}, "must be a number. Got nan"),
        (GoldTurnover, {"window": 3}, r"must lie in \[4, 80\] records. Got 3"),
        (GoldTurnover, {"threshold": math.nan}, "must be a number. Got nan"),
        (PublishedRlhfAlert, {"above": math.nan}, "must be numbers"),
    ],
)
def test_unfit_arguments_are_refused(rule: type, arguments: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        rule(**arguments)
