"""The task switch: no leaks, one run up to the switch, and forgetting where it should be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from foreshock.experiments import task_switch
from foreshock.experiments.setup import milestones_of, outcome
from foreshock.experiments.task_switch import TaskSwitch, forgotten, make_data
from foreshock.store import Run

VARIANTS: tuple[task_switch.Variant, ...] = ("switch", "replay", "same", "frozen")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """One run of every variant at the same seed, long enough to learn task A."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        variant: task_switch.run(
            TaskSwitch(variant, seed=1, before=150, after=100, observables="none"),
            folder / variant,
        )
        for variant in VARIANTS
    }


def test_the_five_parts_share_no_example_and_have_their_digits() -> None:
    parts = vars(make_data(2))
    rows = [{tuple(x.tolist()) for x in part[0]} for part in parts.values()]
    assert sum(map(len, rows)) == len(set().union(*rows)) == 1797
    for name, (_, labels) in parts.items():
        assert set(labels.tolist()) == set(range(5, 10) if "new" in name else range(5))


def test_a_batch_is_of_what_its_variant_says() -> None:
    data = make_data(0)
    whose = {name: {tuple(x.tolist()) for x in part[0]} for name, part in vars(data).items()}
    expected = {"switch": {"new": 30}, "frozen": {"new": 30}, "same": {"more_of_old": 30},
                "replay": {"new": 24, "old": 6}}  # fmt: skip
    for variant in VARIANTS:
        config = TaskSwitch(variant, before=5)
        for step, wanted in ((4, {"old": 30}), (5, expected[variant])):
            x, _ = task_switch.draw_batch(config, data, step, torch.Generator().manual_seed(1))
            rows = [tuple(one.tolist()) for one in x]
            found = {name: sum(row in of for row in rows) for name, of in whose.items()}
            assert {name: n for name, n in found.items() if n} == wanted


def test_all_variants_are_one_run_up_to_the_switch(runs: dict[str, Run]) -> None:
    losses = {variant: run.series("loss").value for variant, run in runs.items()}
    assert len({loss[:150].tobytes() for loss in losses.values()}) == 1
    assert len({loss[150:].tobytes() for loss in losses.values()}) == 4


def test_the_switch_forgets_replay_less_and_the_nulls_nothing(runs: dict[str, Run]) -> None:
    found = {variant: outcome(run) for variant, run in runs.items()}
    assert found["switch"]["jump"] > np.log(2) > 0.3 > found["same"]["jump"]
    assert found["frozen"]["jump"] == 0
    assert found["replay"]["old_after"] > found["switch"]["old_after"] + 0.2
    assert found["frozen"]["old_after"] == found["frozen"]["old_before"] > 0.9
    marks = {variant: milestones_of(run) for variant, run in runs.items()}
    assert all(mark["switch"] == 150 for mark in marks.values())
    assert 150 < marks["switch"]["forgotten"] < 250
    assert "forgotten" not in marks["same"] and "forgotten" not in marks["frozen"]


def test_forgotten_needs_three_in_a_row_after_the_switch() -> None:
    steps = np.arange(0, 80, 10)
    early = np.array([0.2, 0.2, 0.2, 0.9, 0.9, 0.9, 0.9, 0.9])
    assert forgotten(steps, early, 35) is None
    assert forgotten(steps, np.array([0, 0, 0.9, 0.9, 0.4, 0.4, 0.6, 0.4]), 35) is None
    # Half way from 0.9 to chance is 0.5: 0.5 itself has not lost half.
    assert forgotten(steps, np.array([0, 0, 0.9, 0.9, 0.51, 0.49, 0.49, 0.1]), 35) == 50


def test_the_same_twice_and_watched_or_not(tmp_path: Path) -> None:
    losses = []
    for number, seen in enumerate(("none", "none", "standard")):
        config = TaskSwitch(before=20, after=20, every=15, observables=seen)  # type: ignore[arg-type]
        run = task_switch.run(config, tmp_path / str(number))
        losses.append(run.series("loss").value.tobytes())
    assert losses[0] == losses[1] == losses[2]


def test_check_and_figure_on_any_runs(runs: dict[str, Run], tmp_path: Path) -> None:
    assert task_switch.check([]) == []
    task_switch.figure([])
    lines = {line.name: line for line in task_switch.check(list(runs.values()))}
    assert lines["switch"].holds is None and "10 are needed" in lines["switch"].measured
    assert {"null: same", "null: frozen", "replay: jump of the old loss"} <= lines.keys()
    short = task_switch.run(
        TaskSwitch(before=100, after=1, observables="none"), tmp_path / "short"
    )  # one update forgets nothing yet
    assert task_switch.check([short])[0].holds is False
    assert len(task_switch.figure(list(runs.values())).axes) == 2


@pytest.mark.parametrize(
    "bad", [{"variant": "cycle"}, {"before": 0}, {"after": 0}, {"every": -1}, {"lr": -0.1}]
)
def test_the_door(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(bad))}`"):
        TaskSwitch(**bad)  # type: ignore[arg-type]
