"""The published rules against literal transcriptions of their documents, on noise about an edge."""

from __future__ import annotations

import math

import numpy as np
import pytest

from foreshock.detectors import (
    PublishedCFalling,
    PublishedCWindow,
    PublishedEarlyStop,
    PublishedPhi,
    PublishedReset,
    PublishedTransitions,
    PublishedTripleAlignment,
)
from foreshock.types import Alarm, Detector, Estimate, Flag

UNRESOLVED = Estimate(1.0, flags=Flag.UNRESOLVED, reason="The interval of the signal contains 0.")


def run(rule: Detector, *columns: np.ndarray) -> list[Alarm]:
    state, found = rule.init(), []
    for step, row in enumerate(zip(*columns, strict=True)):
        values = {n: Estimate.plain(float(v)) for n, v in zip(rule.reads, row, strict=True)}
        state, alarm = rule.update(state, step, values)
        found += [alarm] if alarm else []
    return found


def noise(centre: float, scale: float, seed: int, n: int = 400) -> np.ndarray:
    return centre + scale * np.random.default_rng(seed).standard_normal(n)


def steps(alarms: list[Alarm]) -> list[int]:
    return [alarm.step for alarm in alarms]


C, S, R = noise(1, 0.2, 1), noise(0, 0.1, 2), noise(0, 1, 3)


def test_c_window() -> None:
    expected = [t for t, c in enumerate(C) if 0.8 <= c <= 1.2]
    assert 0 < len(expected) < len(C)
    assert steps(run(PublishedCWindow(), C)) == expected
    assert steps(run(PublishedCWindow(), np.array([0.8, 1.2, 0.79, 1.21]))) == [0, 1]
    with pytest.raises(ValueError, match="less than its `high`"):
        PublishedCWindow(low=1.2)


def test_triple_alignment_as_in_check_criticality() -> None:
    expected = []
    for t, (c_alpha, s, drho_dt) in enumerate(zip(C, S, R, strict=True)):
        stochastic_critical = 0.8 <= c_alpha <= 1.2
        spectral_critical = -0.1 <= s <= 0.1
        geometric_critical = abs(drho_dt) > 0.5
        if stochastic_critical and spectral_critical and geometric_critical:
            expected.append(t)
    assert 0 < len(expected) < len(C)
    found = run(PublishedTripleAlignment(), C, S, R)
    assert steps(found) == expected
    assert all(abs(alarm.value) > alarm.threshold == 0.5 for alarm in found)


@pytest.mark.parametrize("parts", ["c", "s", "r", "cs", "cr", "sr"])
def test_single_and_pairwise_parts(parts: str) -> None:
    columns = {"c": C, "s": S, "r": R}
    holds = {"c": (C >= 0.8) & (C <= 1.2), "s": (S >= -0.1) & (S <= 0.1), "r": np.abs(R) > 0.5}
    expected = np.flatnonzero(np.all([holds[p] for p in parts], axis=0)).tolist()
    rule = PublishedTripleAlignment(parts=tuple(parts))
    assert len(rule.reads) == len(parts)
    assert steps(run(rule, *(columns[p] for p in parts))) == expected


def test_a_threshold_of_the_task_is_a_quantile_of_the_past() -> None:
    rule = PublishedTripleAlignment(parts=("r",), threshold=None)
    past = np.abs(R)
    expected = [
        t
        for t in range(20, len(R))
        if past[t] > np.quantile(past[max(0, t - 100) : t], 0.95, method="inverted_cdf")
    ]
    assert steps(run(rule, R)) == expected
    # Ten times the rate is the same task in another unit of time: the same steps.
    assert steps(run(rule, 10 * R)) == expected
    for wrong in ((), ("x",)):
        with pytest.raises(ValueError, match="`parts` of `PublishedTripleAlignment`"):
            PublishedTripleAlignment(parts=wrong)
    with pytest.raises(ValueError, match="at least 0"):
        PublishedTripleAlignment(threshold=-1.0)


def test_phi() -> None:
    r = R + 1
    phi = np.exp(
        -((C - 1) ** 2 / (2 * 0.3**2) + S**2 / (2 * 0.15**2) + (r - 1) ** 2 / (2 * 0.5**2))
    )
    found = run(PublishedPhi(threshold=0.3), C, S, r)
    assert steps(found) == np.flatnonzero(phi > 0.3).tolist() != []
    assert [a.value for a in found] == pytest.approx(phi[phi > 0.3])
    # Each of the five parameters counts.
    row = (np.array([1.3]), np.array([0.1]), np.array([0.5]))
    other = {"sigma1": 0.1, "sigma2": 0.01, "sigma3": 0.1, "mu": 3.0, "threshold": 0.5}
    assert run(PublishedPhi(threshold=0.2), *row)
    for name, value in other.items():
        assert not run(PublishedPhi(**({"threshold": 0.2} | {name: value})), *row)
    for wrong in ({"sigma2": 0.0}, {"threshold": 1.0}):
        with pytest.raises(ValueError, match="PublishedPhi"):
            PublishedPhi(**wrong)


def test_c_falling() -> None:
    c = noise(2, 0.3, 4)
    expected = [t for t in range(1, len(c)) if c[t] < 2 and c[t] < c[t - 1]]
    assert steps(run(PublishedCFalling(), c)) == expected != []


def test_reset_as_in_the_listing() -> None:
    c = noise(0.5, 0.2, 5)
    expected = [step for step in range(len(c)) if c[step] < 0.5 and step > 10]
    assert steps(run(PublishedReset(), c)) == expected != []


def literal_transitions(c: list[float], s_dot: list[float], loss: list[float]) -> list[int]:
    """fokker_planck 5.3, without numpy; the order of the difference as published."""
    dc = [b - a for a, b in zip(c, c[1:], strict=False)]
    mean = sum(dc) / len(dc)
    std = math.sqrt(sum((x - mean) ** 2 for x in dc) / len(dc))
    mean_s = sum(s_dot) / len(s_dot)
    std_s = math.sqrt(sum((x - mean_s) ** 2 for x in s_dot) / len(s_dot))
    tenth = list(loss)
    for _ in range(10):
        tenth = [b - a for a, b in zip(tenth, tenth[1:], strict=False)]
    flat = {i + 9 for i, x in enumerate(tenth) if abs(x) < 1.0}
    return [
        i
        for i, x in enumerate(dc)
        if x < -0.5 * std and s_dot[i] > mean_s + 2 * std_s and i in flat
    ]


def test_transitions_are_the_published_function_on_the_past() -> None:
    c, s_dot, loss = noise(1, 0.2, 6, 1500), noise(0, 1, 7, 1500), noise(1, 0.001, 8, 1500)
    rule = PublishedTransitions(tolerance=1.0, horizon=30)
    expected = []
    for t in range(10, 1500):
        past = slice(max(0, t - 29), t + 1)
        length = min(t + 1, 30)
        if length - 2 in literal_transitions(*(x[past].tolist() for x in (c, s_dot, loss))):
            expected.append(t)
    assert len(expected) > 3
    assert steps(run(rule, c, s_dot, loss)) == expected
    # The defect: with the published tolerance noise of 1e-3 in the loss hides every event.
    assert run(PublishedTransitions(horizon=30), c, s_dot, loss) == []
    with pytest.raises(ValueError, match="`horizon` at least 2 longer"):
        PublishedTransitions(horizon=11)


def literal_should_stop(history: list[dict[str, float]], window: int = 10) -> bool:
    if len(history) < window:
        return False
    recent = history[-window:]
    p_vals = [h["p"] for h in recent]
    ca_vals = [h["C_alpha"] for h in recent]
    if all(p < 0.45 for p in p_vals):
        return True
    if ca_vals[-1] < ca_vals[0] and all(ca_vals[i] >= ca_vals[i + 1] for i in range(window - 1)):
        return True
    return history[-1]["I"] < 0


@pytest.mark.parametrize(
    ("p", "fall", "i", "series"),
    [
        (0.42, 0.0, 0.1, "published/p_signal"),
        (0.6, 0.02, 0.1, "published/c_signal"),
        (0.6, 0.0, -0.01, "published/i_signal"),
        (0.6, 0.0, 0.1, None),
    ],
)
def test_early_stop_as_in_the_listing(p: float, fall: float, i: float, series: str | None) -> None:
    t = np.arange(60)
    ps = np.where(t > 20, p, 0.6)
    cs = 1.5 - fall * np.maximum(t - 20, 0) + np.where((t < 20) & (t % 2 == 0), 0.1, 0)
    cs += np.where((t % 2 == 0) & (fall == 0), 0.1, 0)
    coefficients = np.where(t > 20, i, 0.1)
    history, expected = [], []
    for row in zip(ps, cs, coefficients, strict=True):
        history.append(dict(zip(("p", "C_alpha", "I"), row, strict=True)))
        if literal_should_stop(history):
            expected.append(len(history) - 1)
    found = run(PublishedEarlyStop(), ps, cs, coefficients)
    assert steps(found) == expected[:1]
    assert [alarm.series for alarm in found] == ([series] if series else [])
    with pytest.raises(ValueError, match="from 2 to 50"):
        PublishedEarlyStop(window=1)


@pytest.mark.parametrize(
    ("rule", "row"),
    [
        (PublishedCWindow(), (1.0,)),
        (PublishedTripleAlignment(), (1.0, 0.0, 0.7)),
        (PublishedPhi(), (1.0, 0.0, 1.0)),
        (PublishedReset(), (0.1,)),
        (PublishedEarlyStop(), (0.1, 0.1, 0.1)),
    ],
    ids=lambda one: getattr(one, "name", ""),
)
def test_what_is_nan_unresolved_or_absent_is_passed_over(
    rule: Detector, row: tuple[float, ...]
) -> None:
    good = {n: Estimate.plain(v) for n, v in zip(rule.reads, row, strict=True)}
    for place in rule.reads:
        for bad in (
            {**good, place: Estimate.missing("No gradient.")},
            {**good, place: UNRESOLVED},
            {n: v for n, v in good.items() if n != place},
        ):
            state, found = rule.init(), []
            for step in range(30):
                state, alarm = rule.update(state, step, bad)
                found += [alarm] if alarm else []
            assert not found
            assert state == rule.init()
    # Between the bad records the good ones fire, as if the bad were not there.
    state, alarms = rule.init(), []
    for step in range(60):
        values = good if step % 2 else {n: UNRESOLVED for n in rule.reads}
        state, alarm = rule.update(state, step, values)
        alarms += [alarm.step] if alarm else []
    assert alarms and all(step % 2 for step in alarms)
