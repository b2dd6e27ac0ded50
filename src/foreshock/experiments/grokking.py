"""Grokking: a small network memorises modular addition and, much later, generalises.

Two tasks. ``p59``: two tokens, shared embedding, one hidden layer, cross-entropy, mini-batches;
memorised at about 160 steps, onset about 600, nine tenths about 1,000. ``p23``: one-hot inputs,
quadratic activation, squared loss, full batch; memorised at about 30, onset about 170, half way
about 500 (`REFERENCE`).

The nulls change one thing each. ``labels``: the labels of the table in random order, over the same
pairs, split and initial weights; the twin that any signal must stay silent on.
``latin``: a random Latin square in place of the group table.
``decay``: no weight decay. ``data``: too few training pairs. ``easy``: four fifths of the pairs
train, so that the event comes without the delay. ``frozen``: learning rate 0, so that nothing moves
and whatever is measured is what measuring makes. Arms: `Grokking.optimizer`.

Three tasks are for transfer: ``p31`` (quadratic, learning rate 0.001), ``transformer`` (one layer,
a - b modulo 47, 56 % of the pairs) and ``parity`` (of 3 of 30 bits). We looked at them on seeds 0
to 2 alone, to see that they learn, and made no rule on them. Nothing in the code keeps anyone from
doing so: run them on other seeds once your rule is frozen.

What this cannot show: anything about large networks. Both tasks need the weight decay, and all
seeds of a task share one learning rate, so the time of the event hardly varies: a clock does well.

Sources: Power and others (2022, arXiv:2201.02177); Gromov (2023, arXiv:2301.02679).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
import torch
from torch import Tensor, nn

from foreshock.detectors import HeldoutSignalRule
from foreshock.detectors.forecasters import OnsetRatio
from foreshock.estimators import LatentFlow
from foreshock.evaluation import Milestones, milestones
from foreshock.evaluation.events import RULES
from foreshock.experiments.grokking_tasks import (
    TASKS,
    Data,
    Grokking,
    Variant,
    draw_batch,
    loss_of,
    make_data,
    make_model,
    make_optimizer,
)
from foreshock.experiments.grokking_tasks import Task as Task
from foreshock.experiments.seeds import LEAST, all_of
from foreshock.experiments.setup import (
    Check,
    Experiment,
    conclude,
    having,
    milestone,
    milestones_of,
)
from foreshock.monitor import attach
from foreshock.monitor.presets import choose
from foreshock.probe import Probe
from foreshock.report import paper_figure
from foreshock.report.figures import GREY, PALETTE
from foreshock.stats.intervals import clopper_pearson
from foreshock.store import Run
from foreshock.types import Detector, Observable, OnAlarm

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: How many times `Grokking.every` apart an observable is measured; 1 where it is not named. The
#: window of the tail index fills with every step.
RHYTHM = {"curvature": 5, "latent_flow": 10, "ntk": 5, "ridge_signal": 2, "tails": 0}

#: Batches of the probe, and with latents: 8 dimensions of drift and noise need 25 of them.
BATCHES, LATENT_BATCHES = 8, 25


def make_probe(config: Grokking, data: Data, *, batches: int = BATCHES) -> Probe:
    """Fresh batches at every measurement, drawn as training draws them (32 for the full batch)."""

    def draw(step: int) -> list[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        pairs, labels = data.train
        size = TASKS[config.task]["batch"] or 32
        rows = torch.randint(len(pairs), (batches, size), generator=generator)
        return [(pairs[row], labels[row]) for row in rows]

    return Probe(
        loss=loss_of, batches=draw, heldout=data.heldout, train=data.train, sampling="replacement"
    )


def evaluate(model: nn.Module, data: Data) -> dict[str, float]:
    """Accuracy on both halves and the held-out loss."""
    with torch.no_grad():
        right = [(model(x).argmax(1) == y).float().mean().item() for x, y in vars(data).values()]
        loss = loss_of(model, data.heldout).item()
    return {"train_acc": right[0], "val_acc": right[1], "val_loss": loss}


def run(
    config: Grokking,
    path: str | Path,
    *,
    observables: Iterable[str | Observable] | str | None = None,
    detectors: Iterable[str | Detector] | None = None,
    on_alarm: OnAlarm | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Run:
    """Train one network with the monitor attached, and record its milestones.

    Args:
        config: What to train.
        path: Folder of the run.
        observables: Overrides the preset of the configuration.
        detectors: Rules to run live; `default_detectors` if not given and something is measured.
        on_alarm: Called with every alarm.
        progress: Called with the steps done and the horizon.

    Returns:
        The run, closed and opened again for reading.

    Examples:
        >>> import tempfile
        >>> config = Grokking(task="p23", steps=40, observables="free")
        >>> recorded = run(config, tempfile.mkdtemp() + "/p23")
        >>> [event.payload["name"] for event in recorded.events("milestone")]
        ['memorised']
    """
    data, model = make_data(config), make_model(config)
    optimizer = make_optimizer(config, model)
    generator = torch.Generator().manual_seed(config.seed + 1)
    probe = make_probe(config, data, batches=LATENT_BATCHES if config.latent else BATCHES)
    asked = config.observables if observables is None else observables
    asked = [] if asked == "none" else asked if isinstance(asked, str) else list(asked)
    if config.latent:
        asked = with_latents(asked, config, probe)
    chosen = choose(asked, probe).observables
    if detectors is None:  # without an observable two of the four wait in vain, and say so
        detectors = default_detectors(config) if chosen else ()
    record = Run.create(path, kind="grokking", config=asdict(config), seed=config.seed)
    watch = attach(
        model,
        optimizer,
        run=record,
        probe=probe,
        observables=asked,
        budget=None if config.every else config.budget,
        every=rhythm(config.every, [o.name for o in chosen]) if config.every else None,
        detectors=detectors,
        on_alarm=on_alarm,
    )
    with watch:
        for step in range(config.horizon):
            loss = loss_of(model, draw_batch(config, data, generator))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watch.log(loss=loss)
            if step % config.evaluate_every == config.evaluate_every - 1:
                watch.log(evaluate(model, data))
            progress(step + 1, config.horizon)
        watch.flush()
        found = record_milestones(record, config)
        conclude(record, {name: None for name in RULES} | dict(found.items()))
    return Run.open(path)


def with_latents(
    asked: Iterable[str | Observable] | str, config: Grokking, probe: Probe
) -> list[str | Observable]:
    """What was asked for and `LatentFlow` of a layer; a preset keeps what the probe allows."""
    members = choose(asked, probe).observables if isinstance(asked, str) else asked
    # The full-batch task has no noise: its latents drift and do not diffuse.
    return [*members, LatentFlow(layer=config.latent, batch=TASKS[config.task]["batch"])]


def default_detectors(config: Grokking) -> list[str | Detector]:
    """The four rules; the held-out signal forecasts the onset where its ratio was measured."""
    forecast = OnsetRatio() if config.task == "p59" else None
    return [HeldoutSignalRule(forecast=forecast), "turnover", "p_crosses_half", "cusum"]


def rhythm(every: int, names: Iterable[str]) -> dict[str, int]:
    """Period of each observable, by `RHYTHM`."""
    return {name: max(1, RHYTHM.get(name, 1) * every) for name in names}


def record_milestones(record: Run, config: Grokking) -> Milestones:
    """Write the milestones of a recorded run into it as events."""
    if "val_acc" not in record.names():  # too short for an evaluation
        return Milestones(None, None, None, None)
    train, heldout = record.series("train_acc"), record.series("val_acc")
    found = milestones(train.step, train.value, heldout.value, low=1 / config.modulus)
    for name, step in found.items():
        milestone(record, name, RULES[name], step)
    return found


#: Ranges for a median over seeds, a fifth to either side of a number: of p59 those of the reference
#: runs; of p23 our own medians on the development seeds 0 to 29 (its page in the docs says
#: how the reference differs), memorised within one evaluation.
REFERENCE: dict[str, dict[str, tuple[float, float]]] = {
    "p59": {"memorised": (128, 192), "onset": (480, 720), "T90": (800, 1200)},
    "p23": {"memorised": (20, 40), "onset": (139, 209), "T50": (399, 599)},
}
#: Optimizers beside AdamW.
ARMS = ("sgd", "momentum", "muon")
#: Nulls in which nothing may happen.
SILENT = ("labels", "latin", "decay", "data", "frozen")


def check(runs: Sequence[Run]) -> list[Check]:
    """Whether the development tasks grok where they should and nowhere else.

    Args:
        runs: Any runs of this experiment; the transfer tasks are not looked at.

    Returns:
        One line a task and null, the milestones, the ``easy`` null and the optimizers.
    """
    found = []
    for task, ranges in REFERENCE.items():
        mine = having(runs, task=task, optimizer="adamw")
        grok = [milestones_of(run) for run in having(mine, variant="grok")]
        found.append(
            all_of(
                f"{task} groks",
                "every seed: nine tenths after a delay",
                [m.get("memorised", np.inf) < m.get("onset", 0) and "T90" in m for m in grok],
            )
        )
        for variant in SILENT:
            nulls = [milestones_of(run) for run in having(mine, variant=variant)]
            silent = ["onset" not in m for m in nulls]
            found.append(all_of(f"{task} {variant} is silent", "no onset in any seed", silent))
        for name, (low, high) in ranges.items():
            steps = [m[name] for m in grok if name in m]
            median = float(np.median(steps)) if steps else np.nan
            found.append(
                Check(
                    f"{task} {name}",
                    f"median step {low:g} to {high:g}",
                    f"median {median:g} ({min(steps):,} to {max(steps):,}, n = {len(steps)})"
                    if steps
                    else "no runs",
                    bool(low <= median <= high) if len(steps) >= LEAST else None,
                )
            )
        easy = [milestones_of(run) for run in having(mine, variant="easy")]
        found.append(_easy(task, easy, grok))
        found += [
            _arm(f"{task} {name}", having(runs, task=task, optimizer=name, variant="grok"))
            for name in ARMS
        ]
    return found


def _arm(name: str, runs: Sequence[Run]) -> Check:
    """The arm learns its training half; how often it groks is reported."""
    told = [milestones_of(run) for run in runs]
    learned = [
        "memorised" in m and bool(np.isfinite(run.series("loss").value).all())
        for m, run in zip(told, runs, strict=True)
    ]
    line = all_of(name, "every loss finite and memorised; whether it groks is reported", learned)
    if not runs:
        return line
    hits = sum("T90" in m for m in told)
    low, high = clopper_pearson(hits, len(told))
    groks = f"grokked {hits} of {len(told)} (95 %: {low:.2f} to {high:.2f})"
    return replace(line, measured=f"{line.measured}; {groks}")


def _easy(task: str, easy: list[dict[str, int]], grok: list[dict[str, int]]) -> Check:
    """The event comes, and its delay after memorising is a fraction of the phenomenon's."""
    delays = [
        [m["T90"] - m["memorised"] for m in group if {"T90", "memorised"} <= set(m)]
        for group in (easy, grok)
    ]
    name, expected = f"{task} easy", "every seed generalises, with less than half the median delay"
    if not easy or not grok:
        return Check(name, expected, "no runs", None)
    measured = f"{len(delays[0])} of {len(easy)} generalise"
    if len(delays[0]) < len(easy):
        return Check(name, expected, measured, False)
    if not delays[1]:
        return Check(name, expected, f"{measured}; none of {len(grok)} to compare with", None)
    short, long = (float(np.median(d)) for d in delays)
    measured += f"; delay {short:g} against {long:g} steps"
    least = min(len(easy), len(grok)) >= LEAST
    return Check(name, expected, measured, short < long / 2 if least else None)


def figure(runs: Sequence[Run]) -> Figure:
    """Accuracies: the phenomenon with all its seeds; held-out accuracy of the nulls and arms.

    Args:
        runs: Any runs of this experiment.

    Returns:
        One row a task; a third column where there are arms.
    """
    adamw = having(runs, optimizer="adamw")
    tasks = [task for task in TASKS if having(runs, task=task)] or ["p59"]
    arms = [run for name in ARMS for run in having(runs, optimizer=name, variant="grok")]
    drawn, axes = paper_figure(len(tasks), 3 if arms else 2, sharey=True)
    for task, (left, right, *rest) in zip(tasks, axes, strict=True):
        mine = having(adamw, task=task)
        grok = having(mine, variant="grok")
        _curves(left, grok, "train_acc", PALETTE[1], "training")
        _curves(left, grok, "val_acc", PALETTE[0], "held-out")
        left.set_title(f"{task}, {len(grok)} seeds", loc="left", fontsize=9.5)
        left.set_ylabel("accuracy")
        names = [v for v in get_args(Variant)[1:] if having(mine, variant=v)]
        colours = (*PALETTE[2:], PALETTE[0], GREY)
        for name, colour in zip(names, colours, strict=False):
            group = having(mine, variant=name)
            _curves(right, group, "val_acc", colour, f"{name} ({len(group)})")
        right.set_title(f"{task}, held-out accuracy of the nulls", loc="left", fontsize=9.5)
        for one in rest:
            for name, colour in zip(ARMS, PALETTE, strict=False):
                mine = having(arms, task=task, optimizer=name)
                _curves(one, mine, "val_acc", colour, f"{name} ({len(mine)})")
            one.set_title("arms, held-out", loc="left", fontsize=9.5)
        for one in (left, right, *rest):
            one.set_ylim(-0.03, 1.03)
            one.set_xlabel("optimizer step")
            if one.get_lines():
                one.legend(frameon=False, fontsize=7, loc="center right")
            else:
                one.text(0.5, 0.5, "no runs", ha="center", transform=one.transAxes, color=GREY)
    return drawn


def _curves(axes: Axes, runs: Sequence[Run], name: str, colour: str, label: str) -> None:
    """Every seed thin, their median thick."""
    series = [run.series(name) for run in runs if name in run.names()]
    for one in series:
        axes.plot(one.step, one.value, color=colour, lw=0.5, alpha=0.35)
    if series:
        length = min(len(one.step) for one in series)
        median = np.median([one.value[:length] for one in series], axis=0)
        axes.plot(series[0].step[:length], median, color=colour, lw=1.8, label=label)


def label_of(config: Grokking) -> str:
    """Task and variant, and the optimizer where it is not AdamW."""
    arm = "" if config.optimizer == "adamw" else f"-{config.optimizer}"
    return f"{config.task}-{config.variant}{arm}"


EXPERIMENT = Experiment(
    config=Grokking,
    run=run,
    label=label_of,
    variants=get_args(Variant),
    check=check,
    figure=figure,
    small={"task": "p23", "steps": 200, "every": 50},
    seconds={"small": 1.3}
    | {f"p59-{v}": 11.0 for v in get_args(Variant)}
    | {f"p23-{v}": 3.5 for v in get_args(Variant)},
)
