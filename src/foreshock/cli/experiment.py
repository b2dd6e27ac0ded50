"""``foreshock run EXPERIMENT``: one experiment, one run."""

from __future__ import annotations

import ast
import importlib.util
import inspect
from collections.abc import Sequence
from dataclasses import make_dataclass
from pathlib import Path
from typing import Any

import tyro

from foreshock import experiments
from foreshock.cli.console import console, emit, progress
from foreshock.detectors import resolve
from foreshock.experiments.setup import Experiment
from foreshock.store import Comparison, comparisons


def described(name: str) -> str:
    """First paragraph of an experiment's module, which is read and not imported."""
    spec = importlib.util.find_spec(f"{experiments.__name__}.{name.replace('-', '_')}")
    if spec is None or spec.origin is None:
        return ""
    try:
        text = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8")))
    except SyntaxError:
        return ""
    return (text or "").split("\n\n")[0]


def _subcommands(words: Sequence[str]) -> Any:
    """A type for tyro: the configuration of each experiment that is named, none of the others.

    What is not named is only listed, so that help for one experiment need not import them all.

    Args:
        words: Of the command line.

    Returns:
        A union of subcommands.
    """
    defaults, texts = {}, {}
    for name in experiments.NAMES:
        plain = make_dataclass(name.title().replace("-", ""), [])
        defaults[name] = experiments.experiment(name).config() if name in words else plain()
        texts[name] = described(name)
    return tyro.extras.subcommand_type_from_defaults(defaults, texts, prefix_names=False)


def run(words: Sequence[str]) -> int:
    """Run the experiment that a command line names, with the monitor attached, and record it.

    Args:
        words: Words after ``foreshock run``.

    Returns:
        0.
    """

    def command(
        experiment: Any,
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
        """
        found = next(
            (name, about)
            for name in experiments.NAMES
            if name in words
            and isinstance(experiment, (about := experiments.experiment(name)).config)
        )
        return record(*found, experiment, out, detector, json=json)

    # Known only now; tyro asks the function for its types.
    command.__annotations__["experiment"] = _subcommands(words)
    # Options of the command may stand behind its subcommand: `run grokking --out here`.
    how = (tyro.conf.OmitArgPrefixes, tyro.conf.CascadeSubcommandArgs)
    return tyro.cli(command, args=list(words), prog="foreshock run", config=how)


def record(
    name: str,
    about: Experiment,
    config: Any,
    out: Path | None = None,
    detector: Sequence[str] = (),
    *,
    json: bool = False,
) -> int:
    """Run one experiment and say what happened.

    Args:
        name: Of the experiment.
        about: The experiment.
        config: Its configuration.
        out: Folder of the run.
        detector: Rules to attach.
        json: Print JSON.

    Returns:
        0.

    Raises:
        ValueError: If a detector is named for an experiment that attaches none.
    """
    import torch

    torch.set_num_threads(1)  # two threads fight over a network this small
    label = about.label(config)
    path = out or Path("runs") / "-".join(filter(None, (name, label, str(config.seed))))
    attached: dict[str, Any] = {}
    if detector:
        if "detectors" not in inspect.signature(about.run).parameters:
            raise ValueError(
                f"{name} attaches no detector while it runs. Record it, then: foreshock replay "
                f"{path} --detector {detector[0]}"
            )
        attached["detectors"] = [resolve(one) for one in detector]
    with progress(label.replace("-", " ") or name, silent=json) as move:
        recorded = about.run(config, path, progress=move, **attached)
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
