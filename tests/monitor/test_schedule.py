"""Schedules on a simulated clock: fixed rhythm, budget held, nobody starves, the rest is said."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import pytest

from foreshock.monitor.schedule import Budget, Every, Schedule
from foreshock.types import Readings, SeriesInfo

STEP = 0.004


@dataclass(frozen=True)
class Fake:
    """An observable of a known cost."""

    name: str
    seconds: float
    price: float = 1.0
    stride: int = 0
    needs: frozenset[str] = frozenset()
    series: tuple[SeriesInfo, ...] = ()

    def init(self) -> Any:
        return None

    def update(self, state: Any, moment: Any) -> tuple[Any, Readings]:
        return None, Readings({})


def simulate(
    schedule: Schedule, fakes: list[Fake], steps: int, *, idle: float = 2e-5, after: float = 0.0
) -> tuple[float, list[list[str]]]:
    """Run a schedule on a clock of its own; the share of time watching took, and the plan."""
    draw, plans, watched = random.Random(0), [], 0.0
    cost = {f.name: f.seconds for f in fakes}
    for step in range(steps):
        due = schedule.plan(step)
        plans.append(due)
        spent = idle
        for name in due:
            seconds = cost[name] * draw.uniform(0.9, 1.3)
            schedule.charge(name, step, seconds)
            spent += seconds
        # Hooks measure before the update, so what a measurement leaves behind (cold caches) falls
        # into the training time up to the next hook: the same tick.
        lingering = after * len(due)
        schedule.tick(STEP * draw.uniform(0.95, 1.1) + lingering, spent)
        watched += spent + lingering
    bare = steps * STEP * 1.025
    return watched / bare, plans


def test_every_is_a_rhythm() -> None:
    fakes = [Fake("a", 0.001), Fake("b", 0.1), Fake("window", 0.001, stride=7)]
    schedule = Every(fakes, {"a": 2, "b": 5})
    _, plans = simulate(schedule, fakes, 30)
    assert [s for s, due in enumerate(plans) if "a" in due] == list(range(0, 30, 2))
    assert [s for s, due in enumerate(plans) if "b" in due] == list(range(0, 30, 5))
    assert [s for s, due in enumerate(plans) if "window" in due] == [0, 7, 14, 21, 28]


@pytest.mark.parametrize("budget", [0.01, 0.03, 0.1])
def test_a_budget_is_held_and_everybody_gets_a_turn(budget: float) -> None:
    fakes = [
        Fake("norms", 0.0002, price=0.1),
        Fake("noise", 0.025, price=8),
        Fake("curvature", 0.1, price=60),
        Fake("window", 0.001, price=2, stride=10),
    ]
    share, _ = simulate(Budget(fakes, budget), fakes, 20_000, after=0.002)
    assert share <= budget * 1.05
    schedule = Budget(fakes, budget)
    share, plans = simulate(schedule, fakes, 20_000)
    assert share <= budget
    assert share > 0.3 * budget  # it also uses what it was given
    rows = schedule.summary()["observables"]
    assert all(r["values"] >= 8 or "would give 8 to all" in r["verdict"] for r in rows)  # type: ignore[union-attr,index]
    if budget == 0.1:
        assert min(r["values"] for r in rows) >= 8  # type: ignore[union-attr,index]
    expensive = {"noise", "curvature"}
    assert all(len(expensive & set(due)) <= 1 for due in plans)


def test_even_distances_for_a_stride() -> None:
    fakes = [Fake("window", 0.003, price=0.5, stride=10), Fake("noise", 0.02, price=8)]
    _, plans = simulate(Budget(fakes, 0.03), fakes, 20_000)
    at = [s for s, due in enumerate(plans) if "window" in due]
    gaps = [b - a for a, b in zip(at, at[1:], strict=False)]
    assert len(at) > 20
    assert sorted(set(gaps)) == gaps[:1] + [g for g in sorted(set(gaps)) if g > gaps[0]]
    assert all(b >= a and b % a == 0 for a, b in zip(gaps, gaps[1:], strict=False))  # only doubles


def test_what_does_not_fit_is_said_with_the_budget_that_would_fit() -> None:
    fakes = [Fake("norms", 0.0001, price=0.1), Fake("curvature", 0.1, price=60)]
    schedule = Budget(fakes, 0.02)
    simulate(schedule, fakes, 1200, idle=0.0)
    rows = {r["name"]: r for r in schedule.summary()["observables"]}  # type: ignore[union-attr,index]
    verdict = rows["curvature"]["verdict"]
    assert "would give 8 to all" in verdict
    wanted = float(verdict.partition("budget=")[2].split()[0])
    again = Budget(fakes, wanted)
    simulate(again, fakes, 1200, idle=0.0)
    rows = {r["name"]: r for r in again.summary()["observables"]}  # type: ignore[union-attr,index]
    # The price was a guess (60 steps) or one measurement, and costs scatter by 20 %.
    assert rows["curvature"]["values"] >= 6


def test_too_short_a_run_says_so() -> None:
    fakes = [Fake("curvature", 0.1, price=60)]
    schedule = Budget(fakes, 0.01)
    simulate(schedule, fakes, 20)
    (row,) = schedule.summary()["observables"]  # type: ignore[misc]
    assert row["values"] == 0
    assert "no budget fits this short a run" in row["verdict"]


def test_a_switched_off_observable_leaves_its_share_to_the_others() -> None:
    fakes = [Fake("a", 0.02, price=5), Fake("b", 0.02, price=5)]
    both, alone = Budget(fakes, 0.03), Budget(fakes, 0.03)
    alone.switch_off("b")
    simulate(both, fakes, 10_000)
    simulate(alone, fakes, 10_000)
    assert alone.accounts["a"].values > 1.5 * both.accounts["a"].values
    assert alone.accounts["b"].values == 0


@pytest.mark.parametrize("budget", [0, -1, 1.5, True])
def test_budget_must_be_a_share(budget: Any) -> None:
    with pytest.raises(ValueError, match="share of wall time in"):
        Budget([], budget)
