"""An experiment that trains nothing, for tests of sweeps: quick, slow or broken, as it is told."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from foreshock import experiments
from foreshock.experiments import duration
from foreshock.experiments.setup import Check, Experiment, having
from foreshock.store import Run

Variant = Literal["works", "null", "crashes", "killed"]
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Toy:
    """Sizes: ``steps`` steps of ``pause`` seconds."""

    variant: Variant = "works"
    seed: int = 0
    steps: int = 4
    pause: float = 0.0
    sizes: tuple[int, ...] = (1, 2)
    fine: bool = True


def run(
    config: Toy,
    path: str | Path,
    *,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Run:
    with Run.create(path, kind="toy", config=asdict(config), seed=config.seed) as record:
        for step in range(config.steps):
            time.sleep(config.pause)
            record.append(step, {"loss": 1.0 / (1 + step)})
            progress(step + 1, config.steps)
        if config.variant == "crashes" and config.seed % 2:
            raise RuntimeError("the toy is broken")
        if config.variant == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
    return Run.open(path)


def check(runs: Sequence[Run]) -> list[Check]:
    works, null = having(runs, variant="works"), having(runs, variant="null")
    steps = [run.last_step + 1 for run in works]
    return [
        Check("steps", "4", f"{steps} (n={len(works)})", all(s == 4 for s in steps) or None),
        Check("null", "at least 2 runs", f"n={len(null)}", True if len(null) > 1 else None),
        Check("few", "at most 9 runs", f"n={len(runs)}", len(runs) <= 9),
    ]


def figure(runs: Sequence[Run]) -> Any:
    from foreshock.report import paper_figure

    drawn, axes = paper_figure(1, 1)
    for run in runs:
        axes[0, 0].plot(run.series("loss").step, run.series("loss").value)
    return drawn


EXPERIMENT = Experiment(
    config=Toy,
    run=run,
    label=lambda config: config.variant,
    variants=("works", "null", "crashes", "killed"),
    check=check,
    figure=figure,
    small={"steps": 2},
    seconds={"works": 0.1, "null": 0.2, "": 0.2},
)


def register(patch: Any) -> None:
    """Make the toy an experiment of this process, and let nobody measure the machine."""
    patch.setitem(sys.modules, "foreshock.experiments.toy", sys.modules[__name__])
    patch.setattr(experiments, "NAMES", ("toy", *experiments.NAMES))
    pace = duration.Pace(factor=1.0, startup=0.5)
    patch.setattr(duration, "measure_pace", lambda jobs, modules, environment: pace)
    # Trials are processes of their own, and import this file.
    patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), str(ROOT)]))


def main(words: list[str]) -> int:
    """The command line of a process that knows the toy."""
    import pytest

    from foreshock import cli

    with pytest.MonkeyPatch.context() as patch:
        register(patch)
        return cli.main(words)


if __name__ == "__main__":
    # Under its own name: a trial imports the module that its `run` comes from.
    from tests.experiments.toy import main as named

    sys.exit(named(sys.argv[1:]))
