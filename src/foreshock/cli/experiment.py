"""``foreshock run EXPERIMENT``: one experiment, one run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from foreshock.cli.console import console, emit, progress
from foreshock.experiments import grokking

DEFAULT = grokking.Grokking()


def run(
    experiment: Annotated[Literal["grokking"], tyro.conf.Positional],
    config: tyro.conf.OmitArgPrefixes[grokking.Grokking] = DEFAULT,
    out: Path | None = None,
    json: bool = False,
) -> int:
    """Run an experiment with the monitor attached and record it.

    Args:
        experiment: Which one.
        config: Its configuration.
        out: Folder of the run; runs/grokking-TASK-VARIANT-SEED if not given.
        json: Print JSON.

    Returns:
        0.
    """
    torch.set_num_threads(1)  # two threads fight over a network this small
    path = out or Path("runs") / f"{experiment}-{config.task}-{config.variant}-{config.seed}"
    with progress(f"{config.task} {config.variant}", silent=json) as move:
        recorded = grokking.run(config, path, progress=move)
    with recorded:
        events = recorded.events("milestone")
        reached = {event.payload["name"]: event.step for event in events}
        alarms = [(e.step, e.source, e.payload["reason"]) for e in recorded.events("alarm")]
    if json:
        emit({"run": str(path), "milestones": reached, "alarms": alarms})
        return 0
    out_console = console()
    text = ", ".join(f"{name} {step:,}" for name, step in reached.items())
    out_console.print(f"{path}: {text or 'no milestone'}", soft_wrap=True)
    for step, source, reason in alarms:
        out_console.print(f"  step {step:>6,}  {source}: {reason}", soft_wrap=True)
    out_console.print(f"foreshock report {path}", soft_wrap=True)
    return 0
