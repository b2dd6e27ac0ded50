"""Classical change detection against published tables, Markov chains and brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.special import gammaln
from scipy.stats import kendalltau, norm

from foreshock.detectors import CUSUM, EWMA, ChangePoint, CriticalSlowing, PageHinkley
from foreshock.detectors.baseline import Baseline
from foreshock.detectors.change_point import RunLengths, followed_by
from foreshock.detectors.critical_slowing import kendall, rolling
from foreshock.detectors.cusum import CUSUMState
from foreshock.detectors.ewma import EWMAState
from foreshock.types import Alarm, Detector, Estimate

# A baseline that is known: so many values made it that one more changes nothing.
KNOWN = Baseline(0.0, 1.0, 10**15)


def run(rule: Detector, values: list[float]) -> list[Alarm]:
    state, alarms = rule.init(), []
    for step, value in enumerate(values):
        state, alarm = rule.update(state, step, {rule.reads[0]: Estimate.exact(value)})
        alarms += [alarm] if alarm else []
    return alarms


def run_lengths(rule: Detector, start: object, shift: float, count: int) -> np.ndarray:
    """Values until the alarm, from a known baseline."""
    rng, found = np.random.default_rng(0), []
    for _ in range(count):
        state, alarm, steps = start, None, 0
        while alarm is None:
            value = Estimate.exact(float(rng.standard_normal() + shift))
            state, alarm = rule.update(state, steps, {"loss": value})
            steps += 1
        found.append(steps)
    return np.array(found)


def within_four_errors(lengths: np.ndarray, law: float) -> bool:
    return abs(lengths.mean() - law) < 4 * lengths.std(ddof=1) / math.sqrt(len(lengths))


def chain(step: np.ndarray) -> np.ndarray:
    """Mean steps to absorption from every state, for the transitions among the others."""
    return np.linalg.solve(np.eye(len(step)) - step, np.ones(len(step)))


# Montgomery, Introduction to Statistical Quality Control, table 9.4 (two-sided, k = 1/2): for
# h = 4 the run length is 168 in control and 8.38 at a shift of one; h = 5: 465 and 10.4. One side
# alone: twice as long in control, and the same to three digits at the shift.
@pytest.mark.parametrize(
    ("height", "shift", "law"), [(4.0, 0.0, 336), (4.0, 1.0, 8.38), (5.0, 1.0, 10.4)]
)
def test_cusum_has_the_published_run_length(height: float, shift: float, law: float) -> None:
    rule = CUSUM("loss", drift=0.5, threshold=height, span=10**15)
    lengths = run_lengths(rule, CUSUMState(KNOWN), shift, 150 if shift == 0 else 1000)
    assert within_four_errors(lengths, law)


@pytest.mark.parametrize(("width", "shift"), [(2.0, 0.0), (2.814, 1.0)])
def test_ewma_has_the_run_length_of_its_markov_chain(width: float, shift: float) -> None:
    weight, cells = 0.1, 400
    # The chain has the asymptotic limit. The rule's limit is lower for the first values, so it is
    # started where the two agree: after 10^6 values at level 0.
    limit = width * math.sqrt(weight / (2 - weight))
    edges = np.linspace(-8 * limit, limit, cells + 1)
    middles = (edges[1:] + edges[:-1]) / 2
    z = (edges[None, :] - (1 - weight) * middles[:, None]) / weight - shift
    step = np.diff(norm.cdf(z), axis=1)
    law = float(np.interp(0.0, middles, chain(step)))
    if shift == 1.0:  # Lucas & Saccucci 1990: 10.3 two-sided, where the far side plays no part
        assert law == pytest.approx(10.3, abs=0.15)
    rule = EWMA("loss", weight=weight, width=width, span=10**15)
    start = EWMAState(KNOWN, 0.0, 10**6)
    assert within_four_errors(run_lengths(rule, start, shift, 150 if shift == 0 else 1000), law)


def test_page_hinkley_is_the_sum_less_its_minimum() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal(600)
    x[400:] += 0.7
    rule = PageHinkley("loss", drift=0.05, threshold=30.0, warmup=20)
    total, sums = 0.0, [0.0]
    for t in range(20, 600):
        total += (x[t] - x[:t].mean()) / x[:t].std() - 0.05
        sums.append(total)
        if total - min(sums) > 30.0:
            break
    (alarm, *_) = run(rule, x.tolist())
    assert (alarm.step, alarm.value) == (t, pytest.approx(total - min(sums)))
    assert 400 < t < 500
    down = run(PageHinkley("loss", "down", drift=0.05, threshold=30.0, warmup=20), (-x).tolist())
    assert down[0].step == t


PRIOR = (0.2, 0.5, 1.5, 0.8)


def evidence(x: np.ndarray) -> float:
    """Log marginal likelihood of one segment under the normal-gamma (Murphy 2007, eq. 95)."""
    mean, kappa, alpha, beta = PRIOR
    n = len(x)
    if n == 0:
        return 0.0
    spread = float(((x - x.mean()) ** 2).sum())
    pull = kappa * n * (x.mean() - mean) ** 2 / (2 * (kappa + n))
    after = beta + spread / 2 + pull
    return float(
        gammaln(alpha + n / 2)
        - gammaln(alpha)
        + alpha * math.log(beta)
        - (alpha + n / 2) * math.log(after)
        + 0.5 * math.log(kappa / (kappa + n))
        - n / 2 * math.log(2 * math.pi)
    )


def test_the_posterior_of_the_run_length_is_that_of_all_segmentations() -> None:
    x = np.array([0.1, -0.3, 0.2, 2.9, 3.1, 3.3, 0.0, 0.4])
    n, hazard = len(x), 0.2
    weights = np.zeros(n + 1)
    for cuts in itertools.product((False, True), repeat=n):  # a change after value t or not
        ends = [t + 1 for t in range(n) if cuts[t]]
        bounds = [0, *ends, n]
        log = sum(evidence(x[a:b]) for a, b in itertools.pairwise(bounds))
        log += len(ends) * math.log(hazard) + (n - len(ends)) * math.log1p(-hazard)
        weights[n - (ends[-1] if ends else 0)] += math.exp(log)
    runs = RunLengths(*(np.array([v]) for v in (0.0, 0.0, PRIOR[0], PRIOR[3])))
    for value in x:
        runs = followed_by(runs, float(value), PRIOR, hazard, keep=n + 1)
    assert runs.lengths.tolist() == list(range(n + 1))
    np.testing.assert_allclose(np.exp(runs.logs), weights / weights.sum(), rtol=1e-10)


def test_dropping_improbable_run_lengths_changes_next_to_nothing() -> None:
    x = np.random.default_rng(3).standard_normal(300)
    x[200:] += 3
    whole = few = RunLengths(*(np.array([v]) for v in (0.0, 0.0, 0.0, 1.0)))
    for value in x:
        whole = followed_by(whole, float(value), (0.0, 0.01, 1.0, 1.0), 0.01, keep=1000)
        few = followed_by(few, float(value), (0.0, 0.01, 1.0, 1.0), 0.01, keep=40)
    assert len(few.lengths) == 40
    at = int(np.argmax(whole.logs))
    assert whole.lengths[at] == few.lengths[int(np.argmax(few.logs))] in range(97, 103)
    # What was dropped had little probability, and its share is all that the others can gain.
    lost = float(np.exp(whole.logs[~np.isin(whole.lengths, few.lengths)]).sum())
    assert lost < 0.02
    assert abs(math.exp(float(few.logs.max())) - math.exp(float(whole.logs[at]))) < 1.5 * lost


def test_change_point_tells_directions_apart_and_fires_once() -> None:
    x = np.random.default_rng(4).standard_normal(600)
    x[200:400] += 6
    up, down, both = (run(ChangePoint("loss", d), x.tolist()) for d in ("up", "down", "both"))
    assert [200 <= a.step < 206 for a in up] == [True]
    assert [400 <= a.step < 406 for a in down] == [True]
    assert [a.step for a in both] == [up[0].step, down[0].step]


def test_kendall_is_scipys() -> None:
    rows = np.random.default_rng(5).standard_normal((20, 37))
    law = [kendalltau(np.arange(37), row).statistic for row in rows]
    np.testing.assert_allclose(kendall(rows), law, atol=1e-12)


def test_rolling_indicators_are_those_of_every_window() -> None:
    x = np.random.default_rng(6).standard_normal(50)
    windows = np.lib.stride_tricks.sliding_window_view(x, 12)
    np.testing.assert_allclose(rolling(x[None], 12, "variance")[0], windows.var(axis=1))
    one = windows - windows.mean(axis=1, keepdims=True)
    # Products of neighbours about the mean of the whole window, as its definition has it, differ
    # from the running form by the two end values only: O(1/width).
    law = (one[:, 1:] * one[:, :-1]).mean(axis=1) / windows.var(axis=1)
    assert np.abs(rolling(x[None], 12, "memory")[0] - law).max() < 2 / 12
    assert np.corrcoef(rolling(x[None], 12, "memory")[0], law)[0, 1] > 0.95


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9])
def test_p_of_slowing_is_uniform_without_slowing(phi: float) -> None:
    rng, rule, found = np.random.default_rng(7), CriticalSlowing("loss", window=60), []
    for _ in range(300):
        shocks = rng.standard_normal(200)
        x = np.zeros(200)
        for t in range(1, 200):
            x[t] = phi * x[t - 1] + shocks[t]
        found.append(rule.chance(x[-60:])[1])
    # At .3, four standard errors √(.3 · .7/300) = .026; one more for φ, which is estimated to .05.
    assert abs(np.mean(np.array(found) < 0.3) - 0.3) < 5 * 0.026


def test_slowing_finds_growing_fluctuations_and_not_shrinking_ones() -> None:
    rng = np.random.default_rng(8)
    x = rng.standard_normal(900) * np.exp(np.clip(np.arange(900) - 400, 0, None) / 150)
    alarms = run(CriticalSlowing("loss"), x.tolist())
    assert alarms and all(alarm.step > 400 for alarm in alarms)
    assert "Kendall's tau" in alarms[0].reason
    assert run(CriticalSlowing("loss"), x[::-1].tolist()) == []


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (lambda: EWMA(weight=0.0), "weight"),
        (lambda: EWMA(direction="sideways"), "direction"),  # type: ignore[arg-type]
        (lambda: PageHinkley(threshold=-1.0), "threshold"),
        (lambda: ChangePoint(certainty=1.0), "certainty"),
        (lambda: CriticalSlowing(level=1e-5), "fewer than one surrogate"),
        (lambda: CriticalSlowing(window=10), "window"),
    ],
)
def test_bad_arguments_are_refused_with_a_sentence(rule, words) -> None:
    with pytest.raises(ValueError, match=words):
        rule()


@pytest.mark.parametrize(
    ("rule", "wild"),
    # The mean of EWMA forgets by a tenth a value: 1e20 in 450, 1e160 not within this series.
    [(EWMA, 1e20), *((r, w) for r in (CUSUM, PageHinkley, ChangePoint) for w in (1e20, 1e160))],
)
def test_one_wild_value_does_not_blind(rule: type, wild: float) -> None:
    # On the side that is harmless to the rule; a fall by eight deviations comes a thousand later.
    x = np.random.default_rng(0).standard_normal(3000)
    x[1500:] -= 8
    x[500] = wild
    found = [alarm.step for alarm in run(rule("loss", "down"), x.tolist())]
    assert any(1500 <= step < 1600 for step in found)


@pytest.mark.parametrize("rule", [CUSUM(), EWMA(), PageHinkley(), ChangePoint(), CriticalSlowing()])
def test_rounding_is_no_noise(rule: Detector) -> None:
    # A loss of 1 in float32 whose last bit flickers, for a while always.
    bits = np.random.default_rng(1).integers(0, 2, 3000)
    if not isinstance(rule, ChangePoint):  # it learns the flicker and sees its end
        bits[2000:] = 2
    assert run(rule, (1 + 2.0**-23 * bits).tolist()) == []
