"""Numbers of several seeds: a level is reached when it stays, and a check needs ten runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from foreshock.experiments.addition import SIZES, Addition
from foreshock.experiments.seeds import (
    LEAST,
    all_of,
    draw_spread,
    full_size,
    middle_within,
    reached,
    spread,
)
from foreshock.experiments.setup import conclude
from foreshock.report import paper_figure
from foreshock.store import Run


def recorded(path: Path, values: list[float]) -> Run:
    with Run.create(path, kind="toy") as record:
        for step, value in enumerate(values):
            record.append(10 * step, {"acc": value})
    return Run.open(path)


@pytest.mark.parametrize(
    ("values", "level", "below", "step"),
    [
        ([0.0, 0.9, 0.0, 0.1, 0.9, 0.9], 0.5, False, 40),  # one high value is no event
        ([0.0, 0.1, 0.2], 0.5, False, None),
        ([0.6], 0.5, False, 0),  # too short to smooth
        ([3.0, 1.0, 3.0, 2.5, 1.0, 1.0], 2.0, True, 40),
        ([], 0.5, False, None),
        ([0.0, 0.0, 0.0, 0.99], 0.98, False, None),  # nor is one at the end
        ([0.0, 0.0, 0.99, 0.99], 0.98, False, 20),
        ([0.99, 0.0, 0.0, 0.0], 0.98, False, None),  # or at the start
        ([3.0, 3.0, 1.0], 2.0, True, None),
        ([0.0, 0.6], 0.5, False, None),
    ],
)
def test_reached(
    values: list[float], level: float, below: bool, step: int | None, tmp_path: Path
) -> None:
    with recorded(tmp_path / "a", values) as run:
        assert reached(run, "acc", level, below=below) == step
        assert reached(run, "other", level) is None


def test_a_check_says_no_at_once_and_yes_after_ten() -> None:
    assert all_of("a", "b", []).holds is None
    assert all_of("a", "b", [True] * (LEAST - 1)).holds is None
    assert all_of("a", "b", [True] * LEAST).holds is True
    assert all_of("a", "b", [True, False]).holds is False
    assert "of 2 runs" in all_of("a", "b", [True, False]).measured
    assert "10 are needed" in all_of("a", "b", [True]).measured


def finished(path: Path, outcome: bool = True, **config: Any) -> Run:
    with Run.create(path, kind="addition", config=config) as record:
        if outcome:
            conclude(record, {"best_exact_match": 0.0})
    return Run.open(path)


def test_only_runs_that_finished_at_full_size_count(tmp_path: Path) -> None:
    small, large = SIZES["small"].updates, SIZES["large"].updates
    runs = [
        finished(tmp_path / "a", variant="labels", size="small", steps=0),
        finished(tmp_path / "b", variant="labels", size="small", steps=small),  # the same horizon
        finished(tmp_path / "c", variant="labels", size="small", steps=large),  # that of the large
        finished(tmp_path / "d", variant="labels", size="large", steps=large),
        finished(tmp_path / "e", variant="labels", size="large", steps=large, batch=8),
        finished(tmp_path / "f", outcome=False, variant="labels", size="large", steps=large),
    ]
    kept = full_size(runs, Addition(), ("horizon", "batch"), of=("variant", "size"))
    assert [run.path.name for run in kept] == ["a", "b", "d"]
    assert "3 unfinished or of another size" in all_of("a", "b", [True], left_out=3).measured
    assert "left out" not in all_of("a", "b", [True]).measured


def test_a_median_in_a_range_needs_ten_runs_and_counts_what_did_not_happen() -> None:
    assert middle_within("a", "b", [2.0] * LEAST, 1, 3, 0).holds is True
    assert middle_within("a", "b", [2.0] * (LEAST - 1), 1, 3, 0).holds is None
    assert middle_within("a", "b", [], 1, 3, 0).holds is None
    assert middle_within("a", "b", [4.0] * LEAST, 1, 3, 0).holds is False
    assert middle_within("a", "b", [2.0] * 4 + [None] * 6, 1, 3, 0).holds is False


def test_a_spread_counts_what_did_not_happen() -> None:
    assert spread([]) == "in none of 0 runs"
    assert spread([None, None]) == "in none of 2 runs"
    assert spread([5]) == "median 5 (5 to 5)"
    # two values 2 apart: t of one degree is 12.71, standard error 1
    assert spread([4.0, 6.0, None]) == (
        "median 5 (4 to 6), mean 5 (95 %: -8 to 18), not in 1 of 3 runs"
    )


def test_the_band_is_from_the_lowest_to_the_highest(tmp_path: Path) -> None:
    runs = [
        recorded(tmp_path / "a", [0.0, 1.0, 2.0]),
        recorded(tmp_path / "b", [2.0, 3.0, 4.0, 9.0]),
        recorded(tmp_path / "c", []),
    ]
    _, axes = paper_figure(1, 1)
    assert draw_spread(axes[0, 0], runs, "acc", "k")
    assert axes[0, 0].lines[0].get_ydata().tolist() == [1.0, 2.0, 3.0]
    corners = axes[0, 0].collections[0].get_paths()[0].vertices
    assert (corners[:, 1].min(), corners[:, 1].max()) == (0.0, 4.0)
    assert not draw_spread(axes[0, 0], [runs[2]], "acc", "k")
    assert not draw_spread(axes[0, 0], [], "acc", "k")
