"""Reading: pages, filters, and a reader that polls while another process writes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import foreshock
from foreshock.store import Run, UnknownSeriesError, reader
from foreshock.types import Estimate
from tests.store import child


def test_rows_do_not_depend_on_the_size_of_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Run.create(tmp_path / "run") as run:
        for step in range(0, 60, 2):
            run.append(step, child.values(step) if step % 3 else {"loss": float(step)})
        expected = list(run.rows())
        for page in (1, 7, 20, 21):
            monkeypatch.setattr(reader, "_PAGE", page)
            found = list(run.rows())
            # repr, because nan differs from itself.
            assert repr(found) == repr(expected)
            assert repr(list(run.rows(after=30))) == repr([row for row in expected if row[0] > 30])
    assert [step for step, _ in expected] == list(range(0, 60, 2))


def test_rows_may_be_limited_to_some_series(tmp_path: Path) -> None:
    with Run.create(tmp_path / "run") as run:
        for step in range(10):
            run.append(step, {"a": 1.0, "b": 2.0} if step % 2 else {"a": 1.0})
        assert [step for step, _ in run.rows(names=["b"])] == [1, 3, 5, 7, 9]
        assert all(list(values) == ["b"] for _, values in run.rows(names=["b"]))
        assert list(run.rows(names=[])) == []
        with pytest.raises(UnknownSeriesError, match="Its series: `a`, `b`"):
            list(run.rows(names=["c"]))


def test_series_and_rows_agree(tmp_path: Path) -> None:
    with Run.create(tmp_path / "run") as run:
        for step in range(50):
            run.append(step, child.values(step))
        by_series = {
            name: [run.series(name).estimate(i) for i in range(50)] for name in run.names()
        }
        by_step = [values for _, values in run.rows()]
    assert repr(by_series) == repr({name: [v[name] for v in by_step] for name in by_series})
    assert repr(by_step[7]) == repr(dict(child.values(7)))


@pytest.mark.parametrize("journal", ["wal", "truncate"])
def test_a_reader_polls_while_another_process_writes(tmp_path: Path, journal: str) -> None:
    path = tmp_path / "run"
    environment = dict(os.environ, PYTHONPATH=str(Path(foreshock.__file__).parents[1]))
    process = subprocess.Popen(
        [sys.executable, child.__file__, str(path), journal, "commit"],
        stdout=subprocess.PIPE,
        env=environment,
    )
    assert process.stdout is not None
    online: dict[int, dict[str, Estimate]] = {}
    newest = acknowledged = -1
    try:
        while b"created" not in process.stdout.readline():
            assert process.poll() is None
        with Run.open(path) as run:
            for _ in range(40):
                for line in iter(process.stdout.readline, b""):
                    if line.startswith(b"flushed"):
                        acknowledged = int(line.split()[1])
                        break
                online |= dict(run.rows(after=newest - 1))
                # What was acknowledged before the poll is in it; nothing read before has gone.
                assert max(online) >= max(acknowledged, newest)
                newest = max(online)
                assert len(run.series("family/s0")) >= len(online)
                assert run.last_step >= newest
    finally:
        process.send_signal(signal.SIGKILL)
        process.stdout.close()
        process.wait(60)
    # Replay reads what the live reader saw.
    with Run.open(path) as run:
        offline = {step: values for step, values in run.rows() if step <= newest}
    assert len(online) >= 40
    assert repr(online) == repr(offline)


def test_a_reader_follows_a_run_through_close_and_resume(tmp_path: Path) -> None:
    path = tmp_path / "run"
    run = Run.create(path)
    run.append(0, {"x": 1.0})
    run.flush()
    with Run.open(path) as watching:
        assert len(watching.series("x")) == 1
        run.append(1, {"x": 1.0})
        run.close()
        assert len(watching.series("x")) == 2
        with Run.open(path, "a") as again:
            again.append(2, {"x": 1.0})
            again.flush()
            assert len(watching.series("x")) == 3
        assert len(watching.series("x")) == 3
