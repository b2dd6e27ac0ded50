"""The victim of `test_kill`: records a run as a monitor would, and says what became durable.

Run as ``python child.py PATH JOURNAL PHASE``. Lines on standard output, each a single write:
``starting``, ``created``, ``row STEP NAME VALUE`` (acknowledged), ``flushed STEP``, ``closing``.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping

import numpy as np

from foreshock.store import Run
from foreshock.types import Estimate, Flag

N_SERIES = 20
# A prime stride makes most commits of the phase "commit" cross a boundary of the 64-step buckets.
STRIDE = {"commit": 13}


def values(step: int) -> Mapping[str, Estimate]:
    """What is recorded at a step: a pure function, so that the reader of the pipe knows it too."""
    out = {f"family/s{i}": Estimate(math.sin(step + i), -1.0, 1.0, n=i) for i in range(17)}
    out["family/nan"] = Estimate.missing("Nothing can be computed.", n=step)
    out["family/inf"] = Estimate(math.inf if step % 3 else 5e-324, flags=Flag.NO_EDGE, reason="x")
    out["family/zero"] = Estimate(-0.0 if step % 2 else 0.0, null=(math.nan, -0.0))
    return out


def spectrum(step: int) -> np.ndarray:
    """The array recorded at a step."""
    return np.arange(50, dtype=np.float32) * step


def main(path: str, journal: str, phase: str) -> None:
    """Records until killed; in phase ``close`` leaves after 45 steps."""

    def say(*words: object) -> None:
        os.write(1, (" ".join(map(str, words)) + "\n").encode())

    def acknowledge(rows: list[tuple[int, str]]) -> None:
        lines = (f"row {step} {name} {values(step)[name].value.hex()}\n" for step, name in rows)
        # One line per write keeps each below PIPE_BUF, so a kill never leaves half of one.
        for line in lines:
            os.write(1, line.encode())

    say("starting")
    run = Run.create(path, journal=journal, on_commit=acknowledge)  # type: ignore[arg-type]
    say("created")
    for name in values(0):
        run.declare(name, title=f"title of {name}")
    run.event("observables", "monitor", {"observables": list(values(0))})
    last = 45 if phase == "close" else 10**9
    for step in range(0, last, STRIDE.get(phase, 1)):
        run.append(step, values(step))
        run.append_array(step, "family/spectrum", spectrum(step))
        if step % 10 == 0:
            run.event("alarm", "test", {"value": math.nan}, step=step)
        if phase == "commit" or step % 30 == 29:
            run.flush()
            say("flushed", step)
    say("closing")
    run.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
