"""``foreshock run EXPERIMENT``: one experiment, one run."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import tyro

from foreshock.cli.console import console, emit, progress
from foreshock.detectors import resolve
from foreshock.experiments import grokking, overoptimisation, tilted_softmax
from foreshock.experiments.grokking import Grokking
from foreshock.experiments.overoptimisation import OverOptimising
from foreshock.experiments.tilted_softmax import TiltedSoftmax
from foreshock.store import Comparison, Run, comparisons


@dataclass(frozen=True)
class Experiment:
    """What the command line knows of an experiment.

    Args:
        config: Its configuration, with defaults.
        run: Trains and records.
        label: What names one configuration beside others, for folder and progress bar.
    """

    config: Any
    run: Callable[..., Run]
    label: Callable[[Any], str]


#: Name on the command line.
EXPERIMENTS = {
    "grokking": Experiment(Grokking(), grokking.run, lambda c: f"{c.task}-{c.variant}"),
    "overoptimisation": Experiment(
        OverOptimising(), overoptimisation.run, lambda config: config.variant
    ),
    "tilted-softmax": Experiment(TiltedSoftmax(), tilted_softmax.run, lambda config: config.error),
}

if TYPE_CHECKING:
    AnyConfig = Grokking | OverOptimising | TiltedSoftmax
else:
    AnyConfig = tyro.extras.subcommand_type_from_defaults(
        {name: item.config for name, item in EXPERIMENTS.items()},
        {
            name: inspect.cleandoc(inspect.getmodule(item.run).__doc__).split("\n\n")[0]
            for name, item in EXPERIMENTS.items()
        },
        prefix_names=False,
    )


def run(
    experiment: tyro.conf.OmitArgPrefixes[AnyConfig],
    out: Path | None = None,
    detector: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    json: bool = False,
) -> int:
    """Run an experiment with the monitor attached and record it.

    Args:
        experiment: Which one, and its configuration.
        out: Folder of the run; runs/EXPERIMENT-VARIANT-SEED if not given.
        detector: Rule to attach, such as over_optimisation or conformal:FILE; may be repeated.
            Without it an experiment attaches its own, if it has any.
        json: Print JSON.

    Returns:
        0.

    Raises:
        ValueError: If a detector is named for an experiment that attaches none.
    """
    torch.set_num_threads(1)  # two threads fight over a network this small
    name, found = next(
        (name, item)
        for name, item in EXPERIMENTS.items()
        if isinstance(experiment, type(item.config))
    )
    label = found.label(experiment)
    path = out or Path("runs") / f"{name}-{label}-{experiment.seed}"
    attached: dict[str, Any] = {}
    if detector:
        if "detectors" not in inspect.signature(found.run).parameters:
            raise ValueError(
                f"{name} attaches no detector while it runs. Record it, then: foreshock replay "
                f"{path} --detector {detector[0]}"
            )
        attached["detectors"] = [resolve(one) for one in detector]
    with progress(label.replace("-", " "), silent=json) as move:
        recorded = found.run(experiment, path, progress=move, **attached)
    with recorded:
        events = recorded.events("milestone")
        reached = {event.payload["name"]: event.step for event in events}
        alarms = [(e.step, e.source, e.payload["reason"]) for e in recorded.events("alarm")]
        compared = comparisons(recorded)
    if json:
        told: dict[str, Any] = {"run": str(path), "milestones": reached, "alarms": alarms}
        if compared:
            told["comparisons"] = [_plain(item) for item in compared]
        emit(told)
        return 0
    out_console = console()
    text = ", ".join(f"{name} {step:,}" for name, step in reached.items())
    out_console.print(f"{path}: {text or 'no milestone'}", soft_wrap=True)
    for step, source, reason in alarms:
        out_console.print(f"  step {step:>6,}  {source}: {reason}", soft_wrap=True)
    if compared:
        agree = sum(item.agrees is True for item in compared)
        sentence = f"  {agree} of {len(compared)} numbers agree with the closed form"
        out_console.print(sentence, soft_wrap=True)
    out_console.print(f"foreshock report {path}", soft_wrap=True)
    return 0


def _plain(item: Comparison) -> dict[str, Any]:
    told = item.measured
    numbers = {"measured": told.value, "low": told.low, "high": told.high, "exact": item.exact}
    return {"name": item.name, **numbers, "bias": item.bias, "agrees": item.agrees}
