"""A writer killed with SIGKILL at any moment: the run opens, and nothing acknowledged is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

import foreshock
from foreshock.store import Run, list_runs
from tests.store import child
from tests.store.oracles import assert_rollups_match, query, same

# When to kill: (a line of the child starts with this, how often, seconds after that); at start-up,
# (a file of this pattern is there, 1, seconds after that). The delays cover the duration of the
# phase on a fast machine and on a loaded one; every check holds at whatever moment the signal
# arrives.
MOMENTS = {
    "start-up": [
        ("*", 1, 0.0),
        ("*/run.json", 1, 0.0),
        ("*/data.sqlite", 1, 0.0),
        ("*/data.sqlite", 1, 0.01),
        ("run/data.sqlite", 1, 0.0),
    ],
    "running": [("row", n, s) for n, s in ((1, 0.0), (300, 0.004), (700, 0.01), (1500, 0.002))]
    + [("created", 1, 0.002)],
    "commit": [("flushed", n, s) for n, s in ((3, 0), (11, 2e-4), (23, 4e-4), (40, 8e-4), (60, 0))],
    "close": [("closing", 1, s) for s in (0.0, 0.0005, 0.0015, 0.004, 0.01)],
}


@dataclass
class Witness:
    """What the child said before it died."""

    created: bool = False
    rows: dict[tuple[int, str], float] = field(default_factory=dict)
    flushed: int = -1


def kill_one(path: Path, journal: str, phase: str, moment: tuple[str, int, float]) -> Witness:
    """Starts a child, kills it at the moment and returns what it had said by then."""
    trigger, count, delay = moment
    environment = dict(os.environ, PYTHONPATH=str(Path(foreshock.__file__).parents[1]))
    process = subprocess.Popen(
        [sys.executable, child.__file__, str(path), journal, phase],
        stdout=subprocess.PIPE,
        env=environment,
    )
    assert process.stdout is not None
    witness = Witness()
    alive = True
    with process.stdout:
        # After the kill the loop goes on to the end of the pipe: what was said was acknowledged.
        for line in process.stdout:
            word, *rest = line.decode().split()
            if word == "created":
                witness.created = True
            elif word == "row":
                witness.rows[int(rest[0]), rest[1]] = float.fromhex(rest[2])
            elif word == "flushed":
                witness.flushed = int(rest[0])
            if word == "starting" and phase == "start-up":
                until = time.monotonic() + 60
                while not any(path.parent.glob(trigger)):
                    assert process.poll() is None and time.monotonic() < until
                word = trigger
            if word == trigger and alive:
                count -= 1
                if count == 0:
                    time.sleep(delay)
                    process.send_signal(signal.SIGKILL)
                    alive = False
    # 0: the child of the phase "close" had left before the signal.
    assert process.wait(60) in ((-signal.SIGKILL, 0) if phase == "close" else (-signal.SIGKILL,))
    return witness


def check(path: Path, phase: str, witness: Witness) -> None:
    """Everything that must hold of a run whose writer was killed."""
    with Run.open(path) as run:
        rows = dict(run.rows())
        last = run.last_step
        arrays = dict(run.arrays("family/spectrum")) if run.names() else {}
        alarms = {event.step for event in run.events("alarm")}
        for step, estimates in rows.items():
            # Nothing that was not written, and nothing of it changed.
            expected = child.values(step)
            for name, estimate in estimates.items():
                assert same(estimate.value, expected[name].value)
                assert (estimate.n, estimate.reason) == (expected[name].n, expected[name].reason)
        for (step, name), value in witness.rows.items():
            assert same(rows[step][name].value, value)
        for step in range(0, witness.flushed + 1, child.STRIDE.get(phase, 1)):
            np.testing.assert_array_equal(arrays[step], child.spectrum(step))
            assert step % 10 or step in alarms
    assert_rollups_match(path)
    (summary,) = list_runs(path.parent)
    assert summary.state in (("crashed", "closed") if phase == "close" else ("crashed",))
    assert summary.last_step == last

    # A second writer takes over where the first one stopped.
    with Run.open(path, "a") as run:
        assert run.last_step == last
        run.append(last + 1, {"family/s0": 0.5})
        run.append(last + 70, child.values(last + 70))
    with Run.open(path) as run:
        resumed = dict(run.rows())
        assert list(resumed) == [*rows, last + 1, last + 70]
        assert {step: set(resumed[step]) for step in rows} == {s: set(rows[s]) for s in rows}
    assert_rollups_match(path)
    assert query(path, "PRAGMA integrity_check") == [("ok",)]
    assert list_runs(path.parent)[0].state == "closed"


@pytest.mark.parametrize("phase", MOMENTS)
@pytest.mark.parametrize("journal", ["wal", "truncate"])
def test_a_killed_writer_loses_nothing_acknowledged(
    tmp_path: Path, journal: str, phase: str
) -> None:
    for i, moment in enumerate(MOMENTS[phase]):
        path = tmp_path / str(i) / "run"
        path.parent.mkdir()
        witness = kill_one(path, journal, phase, moment)
        # The phases that wait for rows have seen some: the check below is not empty.
        assert moment[0] not in ("row", "flushed", "closing") or witness.rows
        if path.exists():
            check(path, phase, witness)
            continue
        # Killed before the rename: as if it had never begun.
        assert phase == "start-up" and not witness.created
        assert list_runs(path.parent) == []
        Run.create(path).close()
        assert [run.path for run in list_runs(path.parent)] == [path]


def test_the_kills_are_forty_and_spread() -> None:
    assert {phase: 2 * len(moments) for phase, moments in MOMENTS.items()} == {
        "start-up": 10,
        "running": 10,
        "commit": 10,
        "close": 10,
    }
