"""Causal forms of the published rules on hand-made series: what fires, when, and what does not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from foreshock.detectors import (
    CFalling,
    CWindow,
    GapCollapse,
    GapOpening,
    ResetTime,
    TripleAlignment,
)
from foreshock.stats.published import reset_step_fp
from foreshock.types import Alarm, Detector, Estimate


def run(rule: Detector, values: list[float], half: float = math.nan) -> list[Alarm]:
    """Alarms on one series, with intervals of half-width ``half``."""
    state, found = rule.init(), []
    for step, x in enumerate(values):
        row = {rule.reads[0]: Estimate(x, x - half, x + half, n=20)}
        state, alarm = rule.update(state, step, row)
        found += [alarm] if alarm else []
    return found


def steps(rule: Detector, values: list[float], half: float = math.nan) -> list[int]:
    return [alarm.step for alarm in run(rule, values, half)]


def test_the_whole_interval_must_enter_the_window() -> None:
    values = [2.0, 1.1, 1.0, 1.0, 1.0]
    assert steps(CWindow(), values, 0.05) == [2]
    assert steps(CWindow(), values, 0.15) == [3]  # 1.1 + .15 is outside
    assert steps(CWindow(), values, 0.25) == []  # wider than the window
    assert steps(CWindow(confirm=1), values, 0.05) == [1]


def test_the_window_is_armed_again_only_by_leaving_it_for_certain() -> None:
    once = [1.0, 1.0, 1.19, 1.0, 1.0]  # 1.19 + .05 sticks out, which is not outside
    assert steps(CWindow(), once, 0.05) == [1]
    assert steps(CWindow(), [1.0, 1.0, 1.5, 1.0, 1.0], 0.05) == [1, 4]
    with pytest.raises(ValueError, match="`confirm` of `CWindow`"):
        CWindow(confirm=0)


def test_c_must_be_below_and_falling_for_certain() -> None:
    falling = [3.0 - 0.05 * t for t in range(60)]
    # High < 2 from 3 - .05 t + .1 < 2 on: t = 23, and 30 records are there from 29 on.
    assert steps(CFalling(), falling, 0.1) == [29]
    assert steps(CFalling(window=20), falling, 0.1) == [23]
    # Over 20 records it falls by .95: intervals of half-width .5 overlap.
    assert steps(CFalling(window=20), falling, 0.5) == []
    flat = [1.5 + 0.1 * (-1) ** t for t in range(60)]
    assert steps(CFalling(), flat, 0.01) == []
    rising = falling[::-1]
    assert steps(CFalling(), rising, 0.01) == []
    # Down, up above 2, down again: armed anew.
    assert len(steps(CFalling(), falling + falling, 0.1)) == 2
    for wrong in ({"window": 4}, {"tau": 0.0}, {"below": math.nan}):
        with pytest.raises(ValueError, match="CFalling"):
            CFalling(**wrong)


def test_one_deep_record_is_no_fall() -> None:
    values = [1.9 + 0.01 * (t % 3) for t in range(50)]
    values[45] = 0.1
    assert steps(CFalling(), values) == []


def test_the_reset_is_announced_after_the_minimum_and_names_it() -> None:
    t = np.arange(100)
    c = (1.2 - np.exp(-(((t - 50) / 15) ** 2))).tolist()  # below .5 around 50, 0.2 at 50
    found = run(ResetTime(), c)
    assert reset_step_fp(c) == 50
    assert len(found) == 1
    assert found[0].value == pytest.approx(0.2)
    assert "step 50" in found[0].reason
    # A quarter of .3 regained: .275, first at 50 + 15 sqrt(-log .925) = 54.2, three in a row.
    assert found[0].step == 57


def test_the_reset_needs_theta_a_turn_and_an_interval() -> None:
    t = np.arange(100)
    valley = 1.2 - np.exp(-(((t - 50) / 15) ** 2))
    assert run(ResetTime(), (valley + 0.4).tolist()) == []
    assert run(ResetTime(), valley[:51].tolist()) == []
    wide, narrow = (run(ResetTime(), valley.tolist(), half) for half in (0.1, 0.01))
    assert wide[0].step > narrow[0].step  # the wider, the later the turn is certain
    twice = run(ResetTime(), [*valley, *valley])
    assert [a.reason.count("step 50") or a.reason.count("step 150") for a in twice] == [1, 1]
    with pytest.raises(ValueError, match="ResetTime"):
        ResetTime(rise=0.0)


def test_a_single_record_that_jumps_is_no_turn() -> None:
    assert steps(ResetTime(), [1.0, 0.1, 0.6, 0.1, 0.6, 0.1, 0.6, 0.6, 0.1]) == []
    # An alarm above theta ends the excursion, and the next has its own.
    assert steps(ResetTime(), [1.0, 0.1, 0.6, 0.6, 0.6, 0.1, 0.6, 0.6, 0.6]) == [4, 8]


def test_gap_collapse_is_the_authors_ratio_with_a_running_maximum() -> None:
    g = (1 + 0.2 * np.random.default_rng(0).standard_normal(300)).tolist()
    ratio = np.maximum.accumulate(g) / np.array(g)
    expected = int(np.flatnonzero(ratio >= 1.5)[0])
    assert steps(GapCollapse(), g) == [expected]
    # In another unit of the weights, the same; a gap that grows never collapses.
    assert steps(GapCollapse(), [100 * x for x in g]) == [expected]
    assert steps(GapCollapse(), sorted(g)) == []
    # The intervals must clear each other: 3 - .7 against (1 + .7) 1.5 = 2.55 does not.
    values = [3.0, 2.0, 2.0, 1.0, 1.0]
    assert steps(GapCollapse(), values) == [1]
    assert steps(GapCollapse(confirm=2), values, 0.7) == []
    assert steps(GapCollapse(confirm=2), values, 0.2) == [4]
    with pytest.raises(ValueError, match="above 1"):
        GapCollapse(factor=1.0)


def test_gap_opening_starts_anew_after_each() -> None:
    assert steps(GapOpening(), [1.0, 1.4, 1.5, 2.2, 2.25, 2.0, 1.0, 1.6]) == [2, 4, 7]
    assert steps(GapOpening(confirm=2), [1.0, 2.0, 2.0, 2.0]) == [2]
    assert steps(GapOpening(), [1.0, 2.0], 0.4) == []
    assert steps(GapOpening(), [0.0, -1.0, 1.0]) == []
    with pytest.raises(ValueError, match="GapOpening"):
        GapOpening(confirm=0)


def rows(values: list[tuple[float, float, float]], half: float) -> list[dict[str, Estimate]]:
    names = TripleAlignment().reads
    return [
        {n: Estimate(x, x - half, x + half, n=9) for n, x in zip(names, row, strict=True)}
        for row in values
    ]


def aligned(rule: TripleAlignment, given: list[dict[str, Estimate]]) -> list[int]:
    state, found = rule.init(), []
    for step, row in enumerate(given):
        state, alarm = rule.update(state, step, {n: row[n] for n in rule.reads})
        found += [step] if alarm else []
    return found


def test_alignment_needs_all_parts_for_certain_twice() -> None:
    rule = TripleAlignment(threshold=0.1)
    on = (1.0, 1.0, -0.3)
    assert aligned(rule, rows([on, on, on], 0.05)) == [1]
    assert aligned(rule, rows([on, on, on], 0.11)) == []  # the edge is +-.1
    for off in ((1.3, 1.0, -0.3), (1.0, 1.3, -0.3), (1.0, 1.0, 0.0)):
        assert aligned(rule, rows([off, off, off], 0.05)) == []
        # Leaving for certain arms it again.
        assert aligned(rule, rows([on, on, off, on, on], 0.05)) == [1, 4]
    # A condition that merely is not certain does not.
    unsure = (1.18, 1.0, -0.3)
    assert aligned(rule, rows([on, on, unsure, on, on], 0.05)) == [1]
    only_c = TripleAlignment(parts=("c",))
    assert aligned(only_c, rows([(1.0, 9.0, 9.0)] * 2, 0.05)) == [1]


def test_the_tasks_own_threshold_needs_a_past() -> None:
    quiet = [(1.0, 1.0, 0.01 * (-1) ** t) for t in range(40)]
    loud = [(1.0, 1.0, 0.5)] * 2
    assert aligned(TripleAlignment(), rows(quiet + loud, 0.001)) == [41]
    # Twenty records are needed first: the same event at the eleventh is passed over.
    assert aligned(TripleAlignment(), rows(quiet[:10] + loud, 0.001)) == []
    for wrong in ({"c_width": 0.0}, {"confirm": 0}, {"threshold": -1.0}, {"parts": ()}):
        with pytest.raises(ValueError, match="TripleAlignment"):
            TripleAlignment(**wrong)
