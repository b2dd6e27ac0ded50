"""Rollups against numpy over the rows, however the rows were cut into commits."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from foreshock.store import Run, rollups
from tests.store.oracles import assert_rollups_match, query


def record(path: Path, *, flush_every: int, steps: np.ndarray, values: np.ndarray) -> None:
    with Run.create(path) as run:
        for i, (step, value) in enumerate(zip(steps.tolist(), values.tolist(), strict=True)):
            run.append(step, {"x": value, "constant": 0.1} if i % 3 else {"x": value})
            if i % flush_every == 0:
                run.flush()


@pytest.mark.parametrize("flush_every", [1, 7, 64, 1000])
def test_rollups_do_not_depend_on_the_commits(tmp_path: Path, flush_every: int) -> None:
    generator = np.random.default_rng(0)
    steps = np.cumsum(generator.integers(1, 9, size=600))
    values = generator.normal(size=600) * 10.0 ** generator.integers(-300, 300, size=600)
    values[::17], values[5::31], values[300:330] = np.nan, np.inf, -np.inf
    record(tmp_path / "run", flush_every=flush_every, steps=steps, values=values)
    record(tmp_path / "once", flush_every=10**9, steps=steps, values=values)
    assert assert_rollups_match(tmp_path / "run") > 40
    sql = "SELECT * FROM rollup ORDER BY series_id, bucket"
    assert query(tmp_path / "run", sql) == query(tmp_path / "once", sql)


def test_the_mean_of_huge_numbers_does_not_overflow_nor_leave_the_range() -> None:
    rows = [(step, 1, sign * 1.7e308) for step, sign in enumerate([1, 1, -1, 1, -1, -1])]
    newest, _ = rollups.extend({}, rows)
    _, low, high, mean, n = newest[1]
    assert (low, high, n) == (-1.7e308, 1.7e308, 6)
    # The exact mean is 0; 6 values leave at most 6 * 3 roundings of 1.7e308.
    assert abs(mean) <= 18 * np.finfo(float).eps * 1.7e308
    newest, _ = rollups.extend({}, [(step, 1, 0.1) for step in range(64)])
    assert newest[1] == (0, 0.1, 0.1, 0.1, 64)


def test_extend_leaves_its_argument_alone() -> None:
    current = {1: (0, 1.0, 1.0, 1.0, 1)}
    newest, full = rollups.extend(current, [(1, 1, 3.0), (64, 1, 5.0)])
    assert current == {1: (0, 1.0, 1.0, 1.0, 1)}
    assert full == [(1, (0, 1.0, 3.0, 2.0, 2))]
    assert newest == {1: (1, 5.0, 5.0, 5.0, 1)}


def test_a_bucket_without_finite_values_is_a_gap_not_a_zero(tmp_path: Path) -> None:
    with Run.create(tmp_path / "run") as run:
        for step in range(192):
            run.append(step, {"x": 1.0 if step < 64 or step >= 128 else math.inf})
        rollup = run.rollup("x", points=3)
    assert rollup.n.tolist() == [64, 0, 64]
    np.testing.assert_array_equal(rollup.mean, [1.0, np.nan, 1.0])
    np.testing.assert_array_equal(rollup.max, [1.0, np.nan, 1.0])


@pytest.mark.parametrize("points", [1, 2, 5, 10, 19, 20, 100, 1259, 1260, 5000])
def test_a_chart_has_at_most_the_points_asked_for_and_the_right_numbers(
    tmp_path: Path, points: int
) -> None:
    generator = np.random.default_rng(1)
    values = generator.normal(size=1260)
    values[700:800] = np.nan
    with Run.create(tmp_path / "run") as run:
        for step, value in enumerate(values.tolist()):
            run.append(100 + step, {"x": value})
        rollup = run.rollup("x", points=points)
    assert 1 <= len(rollup) <= points
    assert rollup.n.sum() == np.isfinite(values).sum()
    if points >= len(values):
        np.testing.assert_array_equal(rollup.mean, values)
        np.testing.assert_array_equal(rollup.step_low, rollup.step_high)
        assert rollup.step_low.tolist() == list(range(100, 1360))
    assert rollup.step_high[-1] == 1359
    for i in range(len(rollup)):
        low, high = int(rollup.step_low[i]), int(rollup.step_high[i])
        inside = values[max(low - 100, 0) : high - 99]
        inside = inside[np.isfinite(inside)]
        assert rollup.n[i] == len(inside)
        if len(inside):
            assert rollup.min[i] == inside.min() and rollup.max[i] == inside.max()
            # At most 1260 values of size < 5, each of 3 roundings per value at 2.2e-16.
            assert abs(rollup.mean[i] - inside.mean()) < 1260 * 3 * 5 * 2.3e-16
    assert (rollup.step_low[1:] > rollup.step_high[:-1]).all()


def test_a_sparse_series_that_fits_is_shown_exactly(tmp_path: Path) -> None:
    with Run.create(tmp_path / "run") as run:
        for step in range(0, 10_000, 1000):
            run.append(step, {"x": float(step)})
        assert run.rollup("x", points=10).step_low.tolist() == list(range(0, 10_000, 1000))
        assert len(run.rollup("x", points=9)) <= 9


def test_a_series_without_rows_has_no_buckets(tmp_path: Path) -> None:
    with Run.create(tmp_path / "run") as run:
        run.declare("x")
        assert len(run.rollup("x")) == 0 and len(run.series("x")) == 0


def test_points_are_checked(tmp_path: Path) -> None:
    with Run.create(tmp_path / "run") as run:
        run.declare("x")
        with pytest.raises(ValueError, match=r"The `points` of `Run.rollup` must be at least 1"):
            run.rollup("x", points=0)
