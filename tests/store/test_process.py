"""The end of a process and its forks: rows are flushed, and a child never writes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import foreshock
from foreshock.store import Run, list_runs


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs code in a process of its own, warnings as errors."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        env=dict(os.environ, PYTHONPATH=str(Path(foreshock.__file__).parents[1])),
    )


def test_a_script_that_forgets_to_close_loses_nothing(tmp_path: Path) -> None:
    done = python(
        """
        import sys
        from foreshock.store import Run
        Run.create(sys.argv[1]).append(3, {"x": 1.0})
        """,
        tmp_path / "run",
    )
    assert (done.returncode, done.stderr) == (0, "")
    with Run.open(tmp_path / "run") as run:
        assert run.last_step == 3
    (summary,) = list_runs(tmp_path)
    assert summary.state == "crashed"


def test_a_run_that_an_exception_ends_reads_as_crashed(tmp_path: Path) -> None:
    try:
        with Run.create(tmp_path / "run") as run:
            run.append(0, {"x": 1.0})
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    (summary,) = list_runs(tmp_path)
    assert (summary.state, summary.last_step) == ("crashed", 0)


def test_a_forked_child_neither_writes_nor_holds_the_lock(tmp_path: Path) -> None:
    path, stop = tmp_path / "runs" / "run", tmp_path / "stop"
    done = python(
        """
        import os, signal, sys, time
        from foreshock.store import ForkedError, Run, list_runs
        path, stop = sys.argv[1:]
        run = Run.create(path)
        run.append(0, {"x": 1.0})
        len(run.series("x"))            # opens the reading connection too
        run.append(1, {"x": 2.0})       # pending in both processes after the fork

        child = os.fork()
        if child == 0:                  # tries everything, and ends as a script ends
            for write in (lambda: run.append(2, {"x": 3.0}), run.flush):
                try:
                    write()
                except ForkedError as error:
                    assert "a fork of process" in str(error)
                else:
                    raise AssertionError("the child has written")
            assert len(run.series("x")) == 1
            run.close()
            sys.exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        run.append(2, {"x": 3.0})       # the parent goes on undisturbed
        run.flush()
        assert list_runs(path)[0].state == "open"

        if os.fork() == 0:              # outlives its parent, like the worker of a data loader
            null = os.open(os.devnull, os.O_RDWR)
            for fd in (0, 1, 2):
                os.dup2(null, fd)
            until = time.monotonic() + 60
            while not os.path.exists(stop) and time.monotonic() < until:
                time.sleep(0.01)
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        path,
        stop,
    )
    assert (done.returncode, done.stderr) == (-signal.SIGKILL, "")
    # The parent is dead and its second child lives: the run is free all the same.
    (summary,) = list_runs(path)
    assert (summary.state, summary.last_step) == ("crashed", 2)
    with Run.open(path, "a") as run:
        run.append(3, {"x": 4.0})
        assert run.series("x").value.tolist() == [1.0, 2.0, 3.0, 4.0]
    stop.touch()
