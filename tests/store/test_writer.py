"""When rows are committed, what is told of it, and what happens when SQLite refuses."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import numpy as np
import pytest

from foreshock.store import Counts, LockedError, Run, WriteError, writer
from foreshock.types import Estimate
from tests.store.oracles import assert_rollups_match, query


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock of the writer that only the test moves."""
    now = [0.0]
    monkeypatch.setattr(writer.time, "monotonic", lambda: now[0])
    return now


def on_disk(path: Path) -> int:
    return query(path, "SELECT count(*) FROM scalar")[0][0]


def test_rows_are_committed_at_256_or_after_half_a_second(
    tmp_path: Path, stopped: list[float]
) -> None:
    path = tmp_path / "run"
    told: list[list[tuple[int, str]]] = []
    run = Run.create(path, on_commit=told.append)
    for step in range(255):
        run.append(step, {"x": 1.0})
    assert (on_disk(path), told) == (0, [])
    run.append(255, {"x": 1.0})
    assert on_disk(path) == 256
    assert told == [[(step, "x") for step in range(256)]]
    run.append(256, {"x": 1.0})
    stopped[0] += 0.49
    run.append(257, {"x": 1.0})
    assert on_disk(path) == 256
    stopped[0] += 0.01
    run.append(258, {"x": 1.0})
    assert on_disk(path) == 259
    run.append(259, {"x": 1.0})
    run.flush()
    assert told[1:] == [[(256, "x"), (257, "x"), (258, "x")], [(259, "x")]]
    run.flush()
    assert len(told) == 3
    run.close()


def test_a_hook_may_write_itself(tmp_path: Path) -> None:
    def hook(rows: list[tuple[int, str]]) -> None:
        if rows[0][1] == "x":
            run.append(rows[0][0], {"durable": float(len(rows))})

    run = Run.create(tmp_path / "run", on_commit=hook)
    run.append(0, {"x": 1.0})
    run.flush()
    assert run.series("durable").value.tolist() == [1.0]
    run.close()


def test_equal_reasons_are_stored_once_also_beyond_the_cache_and_after_resuming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_NOTES", 3)
    path = tmp_path / "run"
    reasons = [f"reason {i % 7}" for i in range(60)]
    for part in (range(30), range(30, 60)):
        with Run.create(path) if part[0] == 0 else Run.open(path, "a") as run:
            for step in part:
                run.append(step, {"x": Estimate.missing(reasons[step])})
                if step % 4 == 0:
                    run.flush()
    assert query(path, "SELECT count(*) FROM note") == [(7,)]
    with Run.open(path) as run:
        assert run.series("x").reason == reasons
        assert [values["x"].reason for _, values in run.rows()] == reasons


def test_arrays_over_the_bound_on_disk_drop_the_oldest_and_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with Run.create(path, array_bytes=10_000) as run:
        for step in range(50):
            run.append_array(step, "x", np.full(125, step, dtype=np.float64))  # 1000 bytes
            run.append(step, {"loss": 1.0})
            if step % 7 == 0:
                run.flush()
        assert [step for step, _ in run.arrays("x")] == list(range(40, 50))
        assert run.counts == Counts(arrays_dropped=40)
    # The bound and the count belong to the run.
    with Run.open(path, "a") as run:
        run.append_array(50, "x", np.full(125, 50, dtype=np.float64))
    with Run.open(path) as run:
        assert [step for step, _ in run.arrays("x", after=45)] == [46, 47, 48, 49, 50]
        assert run.counts == Counts(arrays_dropped=41)
        assert len(run.series("loss")) == 50


def test_arrays_waiting_for_a_commit_are_bounded_too(
    tmp_path: Path, stopped: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PENDING_ARRAY_BYTES", 3000)
    with Run.create(tmp_path / "run") as run:
        for step in range(10):
            run.append_array(step, "x", np.zeros(125))
        run.append_array(10, "huge", np.zeros(376))
        assert [step for step, _ in run.arrays("x")] == []
        assert run.counts == Counts(arrays_dropped=11)
        run.append_array(11, "x", np.zeros(125))
        assert [step for step, _ in run.arrays("x")] == [11]
        assert run.arrays("huge") == []


def test_a_foreign_lock_costs_patience_but_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_FLUSH_PATIENCE", 0.0)
    path = tmp_path / "run"
    run = Run.create(path)
    assert run._writer is not None
    run._writer.db.execute("PRAGMA busy_timeout = 1")
    intruder = sqlite3.connect(path / "data.sqlite", isolation_level=None)
    intruder.execute("BEGIN IMMEDIATE")
    for step in range(600):  # two commits fall due and pass
        run.append(step, {"x": float(step)})
    with pytest.raises(LockedError, match="stayed locked"):
        run.flush()
    intruder.execute("ROLLBACK")
    intruder.close()
    run.flush()
    assert run.series("x").value.tolist() == [float(step) for step in range(600)]
    run.close()
    assert_rollups_match(path)


def test_a_full_disk_is_reported_and_the_rows_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "run"
    run = Run.create(path, array_bytes=10**6)
    run.append(0, {"x": 1.0})
    run.flush()
    assert run._writer is not None
    (pages,) = run._writer.db.execute("PRAGMA page_count").fetchone()
    run._writer.db.execute(f"PRAGMA max_page_count = {pages}")
    run.append_array(1, "x", np.zeros(20_000))
    run.append(1, {"x": Estimate.missing("why")})
    for _ in range(2):
        with pytest.raises(WriteError, match=r"1 rows could not be written.*still in memory"):
            run.flush()
    run._writer.db.execute("PRAGMA max_page_count = 100000")
    run.append(2, {"x": 3.0})
    run.close()
    with Run.open(path) as run:
        assert run.series("x").step.tolist() == [0, 1, 2]
        assert run.series("x").reason == ["", "why", ""]
        assert len(run.arrays("x")) == 1
    assert_rollups_match(path)


def test_an_interrupt_between_commit_and_bookkeeping_writes_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    run = Run.create(path)
    run.append(0, {"x": 1.0})
    run.append_array(0, "x", np.zeros(3))
    run.event("note", "test", {})

    def interrupted() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(writer, "Pending", interrupted)  # the first thing after the commit
        with pytest.raises(KeyboardInterrupt):
            run.flush()
    run.append(1, {"x": 2.0})
    run.close()
    with Run.open(path) as run:
        assert run.series("x").value.tolist() == [1.0, 2.0]
        assert len(run.arrays("x")) == 1 and len(run.events("note")) == 1
    assert_rollups_match(path)


def test_threads_may_append_to_one_run(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with Run.create(path) as run:
        together = threading.Barrier(4)

        def work(name: str) -> None:
            for step in range(50):
                together.wait(30)  # all at one step, so that none goes back
                run.append(step, {f"{name}/{i}": float(step) for i in range(5)})
                run.event("note", name, {}, step=step)

        threads = [threading.Thread(target=work, args=(str(i),)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    with Run.open(path) as run:
        assert len(run.names()) == 20
        assert all(len(values) == 20 for _, values in run.rows())
        ids = [event.id for event in run.events()]
        assert ids == list(range(1, 202))  # 200 notes and "closed"
    assert_rollups_match(path)
