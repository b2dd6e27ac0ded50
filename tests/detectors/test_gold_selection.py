"""Selection of gold: Price's law on tilted policies, the turn before the peak, units, gaps."""

from __future__ import annotations

import math

import numpy as np
import pytest

from foreshock.detectors import GoldSelection, within_groups
from foreshock.types import Alarm, Estimate, Flag


def run(rule: GoldSelection, covariance: np.ndarray, spread: np.ndarray) -> list[Alarm]:
    state, found = rule.init(), []
    for step, pair in enumerate(zip(covariance, spread, strict=True)):
        seen = {n: Estimate.plain(float(v)) for n, v in zip(rule.reads, pair, strict=True)}
        state, alarm = rule.update(state, step, seen)
        found += [alarm] if alarm else []
    return found


def tilted(gold: np.ndarray, proxy: np.ndarray, betas: np.ndarray) -> tuple[np.ndarray, ...]:
    """Exact means of both, covariance and spread under weights exp(beta proxy)."""
    weight = np.exp(np.outer(betas, proxy) - (np.outer(betas, proxy)).max(axis=1, keepdims=True))
    weight /= weight.sum(axis=1, keepdims=True)
    g, p = weight @ gold, weight @ proxy
    covariance = weight @ (gold * proxy) - g * p
    return g, p, covariance, np.sqrt(weight @ proxy**2 - p**2)


def heavy(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    gold = rng.standard_normal(5000)
    return gold, gold + rng.standard_t(4, 5000)


def test_the_slope_within_a_batch_is_the_marginal_gold_per_proxy() -> None:
    # The law the rule rests on: dE[gold]/dE[proxy] = Cov/Var, here by central differences of 1e-4.
    gold, proxy = heavy(0)
    for beta in (0.0, 0.3, 0.6):
        g, p, covariance, spread = tilted(gold, proxy, beta + np.array([-1e-4, 0.0, 1e-4]))
        marginal = (g[2] - g[0]) / (p[2] - p[0])
        assert covariance[1] / spread[1] ** 2 == pytest.approx(marginal, rel=1e-5)


def noisy(covariance: np.ndarray, seed: int) -> np.ndarray:
    """Errors of 5 % of the first value, as a batch of some hundred responses has them."""
    rng = np.random.default_rng(seed)
    return covariance + 0.05 * covariance[0] * rng.standard_normal(len(covariance))


def test_it_warns_before_gold_peaks_and_not_where_it_does_not() -> None:
    betas = np.linspace(0, 2, 200)
    turned = early = 0
    for seed in range(20):
        g, _, covariance, spread = tilted(*heavy(seed), betas)
        peak = int(g.argmax())
        if peak == 199:  # the action with the largest error happens to be good
            continue
        turned += 1
        alarms = run(GoldSelection(), noisy(covariance, seed), spread)
        early += bool(alarms) and alarms[0].step < peak
    # The slope loses 15 % long before all of it: with this noise nearly all are warned.
    assert turned >= 12 and early >= turned - 2
    # A Gaussian error: the slope is Var[gold]/Var[proxy] = 1/2 for every beta. Over 5,000 actions
    # the tails run out near beta = sqrt(2 log(5000)/2) = 2.9, so it is looked at up to 1.
    for seed in range(20):
        rng = np.random.default_rng(seed)
        gold = rng.standard_normal(5000)
        _, _, covariance, spread = tilted(gold, gold + rng.standard_normal(5000), betas / 2)
        assert run(GoldSelection(), noisy(covariance, seed), spread) == []


def test_false_alarms_where_the_slope_only_jumps_about() -> None:
    # Frozen: independent batches of 128 from a law whose error has no variance to speak of
    # (Student, 2.5 degrees). The share of the largest slope that is lost is large in all of them.
    alarms, shares = 0, []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        gold = rng.standard_normal((150, 128))
        proxy = gold + rng.standard_t(2.5, (150, 128))
        c = ((gold - gold.mean(1, keepdims=True)) * (proxy - proxy.mean(1, keepdims=True))).mean(1)
        alarms += len(run(GoldSelection(), c, proxy.std(axis=1)))
        kernel = np.ones(5)
        slopes = np.convolve(c, kernel, "valid") / np.convolve(proxy.var(axis=1), kernel, "valid")
        shares.append(1 - slopes.min() / slopes.max())
    assert np.median(shares) > 0.35
    # The docstring says 19 %: 58 of these 300. Four binomial standard errors are 27.
    assert abs(alarms - 58) < 28


def grouped(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Gold and proxy of 80 batches, 32 prompts x 8; prompts differ less and less, nothing else."""
    rng = np.random.default_rng(seed)
    between = np.where(np.arange(80) < 40, 1.0, 0.3)[:, None, None]
    prompt = between * rng.standard_normal((80, 32, 1))
    gold = prompt + 0.5 * rng.standard_normal((80, 32, 8))
    return gold, gold + 0.5 * rng.standard_normal((80, 32, 8))


def test_prompts_that_differ_less_are_no_alarm_within_groups_and_one_over_the_batch() -> None:
    within = batch = 0
    places = np.repeat(np.arange(32), 8)
    for seed in range(20):
        gold, proxy = grouped(seed)
        pairs = [within_groups(g, p, places) for g, p in zip(gold, proxy, strict=True)]
        within += len(run(GoldSelection(), *np.array(pairs).T))
        # What must not be done: the covariance of the batch beside the mean spread of the groups.
        c = np.array(
            [
                np.cov(*pair)[0, 1]
                for pair in zip(gold.reshape(80, -1), proxy.reshape(80, -1), strict=True)
            ]
        )
        batch += len(run(GoldSelection(), c, proxy.std(axis=2, ddof=1).mean(axis=1)))
    assert (within, batch) == (0, 20)


def test_a_number_is_read_although_it_is_unresolved() -> None:
    # A covariance that is not told from 0 is what the rule waits for: it must not be passed over.
    falls = np.where(np.arange(40) < 20, 1.0, 0.0) + 0.1 * (-1.0) ** np.arange(40)
    rule, state, found = GoldSelection(), GoldSelection().init(), []
    for step, value in enumerate(falls):
        told = Estimate(float(value), -1.0, 2.0, n=8, flags=Flag.UNRESOLVED, reason="Near 0.")
        seen = {"reward/covariance": told, "reward/proxy_std": Estimate.plain(1.0)}
        state, alarm = rule.update(state, step, seen)
        found += [alarm.step] if alarm else []
    assert len(found) == 1 and found[0] > 20


def test_the_score_by_hand_in_any_units() -> None:
    covariance = np.array([2.0, 3, 2, 1, 2, 1, 1, 0, 1, 0])
    spread = np.array([1.0, 1, 1, 1, 1, 1, 1, 1, 1, 1])
    # Before the window of five b0 = 2, residuals 0 1 0 -1 0, error sqrt(2/4) sqrt(1/5 + .25/5);
    # within it b1 = .6, so the score at step 9 is (.5*2 - .6)/(sqrt(.5)*.5).
    for gold, proxy in ((1.0, 1.0), (1e-3, 1e4)):
        rule = GoldSelection(fraction=0.5, threshold=1.0)
        (alarm,) = run(rule, gold * proxy * covariance, proxy * spread)
        assert alarm.step == 9
        assert alarm.value == pytest.approx(0.4 / (math.sqrt(0.5) * 0.5), rel=1e-9)


def test_what_says_nothing_is_passed_over() -> None:
    rule = GoldSelection()
    ones = np.ones(20)
    assert run(rule, -ones, ones) == []  # gold was never selected for, so nothing is lost
    assert run(rule, ones, 0 * ones) == []  # a batch of equal responses has no slope
    falls = np.where(np.arange(40) < 20, 1.0, -1.0) + 0.1 * (-1.0) ** np.arange(40)
    assert len(run(rule, falls, np.ones(40))) == 1
    with_gap = falls.copy()
    with_gap[3] = math.nan
    assert len(run(rule, with_gap, np.ones(40))) == 1
    half = {"reward/covariance": Estimate.plain(1.0)}
    assert rule.update(rule.init(), 0, half) == (rule.init(), None)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\).* Got 1.0"):
        GoldSelection(fraction=1.0)
    with pytest.raises(ValueError, match="must be a number. Got nan"):
        GoldSelection(threshold=math.nan)
