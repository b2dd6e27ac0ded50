"""The task switch: a network that learns new digits forgets the old ones.

A perceptron 64-64-10 with one head learns the digits 0 to 4 of scikit-learn (task A) by plain SGD,
and from an update that is known the digits 5 to 9 (task B). The event is in the old task: its
held-out loss and accuracy are recorded throughout (McCloskey and Cohen 1989; French 1999).

``switch``: as above. ``replay``: a fifth of every batch is still of task A. The nulls: ``same``,
the switch is to the other half of task A's own examples; ``frozen``, learning rate 0 from the
switch on. All four are the same run up to the switch, on one half of task A's examples.

What it cannot show: a warning. The switch is imposed, its time is known, and nothing before it can
know of it: an alarm ahead of it is false, one after it is a detection. Two tasks and one head is
the harshest case; it says nothing of tasks that come back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from foreshock.experiments.digits import load_digits
from foreshock.experiments.seeds import LEAST, all_of, draw_spread, spread
from foreshock.experiments.setup import (
    Check,
    Experiment,
    Preset,
    at_least,
    conclude,
    having,
    milestone,
    milestones_of,
    one_of,
    outcome,
    seeded,
    watch_training,
)
from foreshock.probe import Probe
from foreshock.stats.sample import mean_interval
from foreshock.store import Run
from foreshock.types import Detector, Observable, OnAlarm

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Variant = Literal["switch", "replay", "same", "frozen"]
VARIANTS: tuple[str, ...] = get_args(Variant)
BATCH, REPLAYED, PROBES, EVALUATE = 30, 6, 8, 10
#: Of ten outputs; whoever has forgotten falls below it, because no old digit is answered any more.
CHANCE = 0.1
#: A jump of the loss in nats: the probability of the right answer halves, in the geometric mean.
JUMP = math.log(2)
SWITCH = "the first update on other examples, which the configuration says"
FORGOTTEN = (
    "first of 3 consecutive evaluations at which the held-out accuracy of the old task has lost "
    "half of its distance to chance (0.1) since the switch"
)


@dataclass(frozen=True)
class TaskSwitch:
    """Configuration of one run.

    Args:
        variant: ``switch``, ``replay``, or the null: ``same``, ``frozen``.
        seed: Of split, initial weights and batches.
        before: Updates on task A.
        after: Updates after the switch.
        lr: Learning rate.
        observables: A preset, or ``none``.
        every: Steps between measurements, 0 for the budget.
        budget: Share of wall time, where ``every`` is 0.
    """

    variant: Variant = "switch"
    seed: int = 0
    before: int = 600
    after: int = 600
    lr: float = 0.1
    observables: Preset = "standard"
    every: int = 0
    budget: float = 0.05

    def __post_init__(self) -> None:
        one_of(self, variant=VARIANTS)
        at_least(self, before=1, after=1, every=0, lr=0)


@dataclass(frozen=True)
class Data:
    """Pixels ``(n, 64)`` and labels ``(n,)``: task A in two halves, task B, both held out."""

    old: tuple[Tensor, Tensor]
    more_of_old: tuple[Tensor, Tensor]
    new: tuple[Tensor, Tensor]
    heldout_old: tuple[Tensor, Tensor]
    heldout_new: tuple[Tensor, Tensor]


def make_data(seed: int) -> Data:
    """The digits 0 to 4, whose training examples fall in two halves, and 5 to 9.

    Args:
        seed: Of the split.

    Returns:
        The examples of each.

    Examples:
        >>> data = make_data(0)
        >>> int(data.old[1].max()), int(data.new[1].min())
        (4, 5)
    """
    (x, y), (held_x, held_y) = load_digits(seed)
    rows, held = (y < 5).nonzero()[:, 0], held_y < 5
    first, second = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    return Data(
        old=(x[first], y[first]),
        more_of_old=(x[second], y[second]),
        new=(x[y >= 5], y[y >= 5]),
        heldout_old=(held_x[held], held_y[held]),
        heldout_new=(held_x[~held], held_y[~held]),
    )


def make_model(seed: int) -> nn.Sequential:
    """A perceptron 64-64-10, initialised without moving the global generator."""
    return seeded(seed, lambda: nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)))


def loss_of(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy."""
    return functional.cross_entropy(model(batch[0]), batch[1])


def draw_batch(
    config: TaskSwitch, data: Data, step: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The batch of an update, drawn with replacement.

    Args:
        config: Variant, and when the switch is.
        data: To draw from.
        step: The update.
        generator: To draw with.

    Returns:
        30 examples: before the switch of task A's first half; after it of what the variant says,
        which ``frozen`` draws like ``switch``.
    """
    if step < config.before:
        return _draw(data.old, BATCH, generator)
    if config.variant == "same":
        return _draw(data.more_of_old, BATCH, generator)
    if config.variant == "replay":
        new, old = (
            _draw(data.new, BATCH - REPLAYED, generator),
            _draw(data.old, REPLAYED, generator),
        )
        return torch.cat([new[0], old[0]]), torch.cat([new[1], old[1]])
    return _draw(data.new, BATCH, generator)


def _draw(part: tuple[Tensor, Tensor], n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    rows = torch.randint(len(part[0]), (n,), generator=generator)
    return part[0][rows], part[1][rows]


def forgotten(steps: NDArray[np.int64], accuracy: NDArray[np.float64], switch: int) -> int | None:
    """When the old task was forgotten: `FORGOTTEN`.

    Args:
        steps: Of the evaluations.
        accuracy: Held-out, of the old task.
        switch: First update on other examples; the evaluation before it is the reference.

    Returns:
        The step, or ``None``.

    Examples:
        >>> forgotten(np.arange(7), np.array([0.9, 0.9, 0.4, 0.9, 0.4, 0.3, 0.2]), 2)
        4
    """
    held = accuracy[steps < switch][-1]
    low = (steps >= switch) & (accuracy < (held + CHANCE) / 2)
    lasting = low[:-2] & low[1:-1] & low[2:]
    return int(steps[:-2][lasting][0]) if lasting.any() else None


def run(
    config: TaskSwitch,
    path: str | Path,
    *,
    observables: Iterable[str | Observable] | str | None = None,
    detectors: Iterable[str | Detector] = (),
    on_alarm: OnAlarm | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Run:
    """Train through the switch with the monitor attached; record what became of the old task.

    Args:
        config: What to train.
        path: Folder of the run.
        observables: Overrides the preset of the configuration.
        detectors: Rules to run live.
        on_alarm: Called with every alarm.
        progress: Called with the steps done and their number.

    Returns:
        The run, closed and opened again for reading.

    Examples:
        >>> import tempfile
        >>> config = TaskSwitch(before=50, after=50, observables="none")
        >>> outcome(run(config, tempfile.mkdtemp() + "/a"))["jump"] > 0.5
        True
    """
    data, model = make_data(config.seed), make_model(config.seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=config.lr)
    generator = torch.Generator().manual_seed(1_000_003 + config.seed)

    def probe_batches(step: int) -> list[tuple[Tensor, Tensor]]:
        own = torch.Generator().manual_seed(1_000_003 * (step + 2) + config.seed)
        return [draw_batch(config, data, step, own) for _ in range(PROBES)]

    record = Run.create(path, kind="task_switch", config=asdict(config), seed=config.seed)
    for task, digits in (("old", "0 to 4"), ("new", "5 to 9")):
        record.declare(f"{task}_loss", title=f"Held-out loss of the digits {digits}")
        record.declare(f"{task}_acc", title=f"Held-out accuracy of the digits {digits}")
    watch = watch_training(
        config,
        record,
        model,
        optimizer,
        Probe(loss=loss_of, batches=probe_batches, heldout=data.heldout_old, train=data.old,
              sampling="replacement"),
        observables=observables,
        detectors=detectors,
        on_alarm=on_alarm,
    )  # fmt: skip
    total = config.before + config.after
    with watch:
        for step in range(total):
            if step == config.before and config.variant == "frozen":
                optimizer.param_groups[0]["lr"] = 0.0
            loss = loss_of(model, draw_batch(config, data, step, generator))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watch.log(loss=loss)
            # After every tenth update, and after the last one before the switch.
            if step % EVALUATE == EVALUATE - 1 or step in (config.before - 1, total - 1):
                watch.log(**evaluate(model, data))
            progress(step + 1, total)
        watch.flush()
        loss, old, new = (record.series(name) for name in ("old_loss", "old_acc", "new_acc"))
        after = loss.step >= config.before
        milestone(record, "switch", SWITCH, config.before)
        milestone(record, "forgotten", FORGOTTEN, forgotten(old.step, old.value, config.before))
        conclude(
            record,
            {
                "loss_before": float(loss.value[~after][-1]),
                "jump": float(loss.value[after].max() - loss.value[~after][-1]),
                "old_before": float(old.value[~after][-1]),
                "old_after": float(old.value[-1]),
                "new_after": float(new.value[-1]),
            },
        )
    return Run.open(path)


def evaluate(model: nn.Module, data: Data) -> dict[str, Any]:
    """Held-out loss and accuracy of both tasks."""
    told = {}
    with torch.no_grad():
        for task, (x, y) in (("old", data.heldout_old), ("new", data.heldout_new)):
            scores = model(x)
            told[f"{task}_loss"] = functional.cross_entropy(scores, y).item()
            told[f"{task}_acc"] = (scores.argmax(1) == y).float().mean().item()
    return told


def check(runs: Sequence[Run]) -> list[Check]:
    """The jump of the old task's loss in every switch and in no null; replay forgets less.

    Args:
        runs: Runs of this experiment.

    Returns:
        Lines for whatever there is.
    """
    found = {v: [run for run in having(runs, variant=v) if outcome(run)] for v in VARIANTS}
    told = []
    for variant, mine in found.items():
        if not mine:
            continue
        numbers = [outcome(run) for run in mine]
        jumped = [one["jump"] >= JUMP for one in numbers]
        jumps = spread([one["jump"] for one in numbers], 2)
        null = variant in ("same", "frozen")
        if variant == "replay":
            told.append(Check("replay: jump of the old loss", "shown", f"{jumps} nats", None))
        else:
            words = "in none" if null else "in every run"
            line = all_of(
                f"{'null: ' if null else ''}{variant}",
                f"the old task's held-out loss rises by ln 2 and more after the switch {words}",
                [not one for one in jumped] if null else jumped,
            )
            told.append(Check(line.name, line.expected, f"{line.measured}; {jumps} nats",
                              line.holds))  # fmt: skip
        lags = [milestones_of(run).get("forgotten") for run in mine]
        since = [None if lag is None else lag - run.info["config"]["before"]
                 for lag, run in zip(lags, mine, strict=True)]  # fmt: skip
        ends = spread([one["old_after"] for one in numbers], 3)
        told.append(
            Check(
                f"{variant}: old task at the end",
                "shown",
                f"accuracy {ends}; forgotten, updates after the switch: {spread(since)}",
                None,
            )
        )
    ends = {v: {run.info["config"]["seed"]: outcome(run)["old_after"] for run in found[v]}
            for v in ("switch", "replay")}  # fmt: skip
    seeds = sorted(ends["switch"].keys() & ends["replay"].keys())
    if len(seeds) > 1:
        kept = mean_interval([ends["replay"][s] - ends["switch"][s] for s in seeds])
        told.append(
            Check(
                "replay forgets less",
                "a higher accuracy on the old task at the end, paired by seed",
                f"{kept.value:+.3f} (95 %: {kept.low:+.3f} to {kept.high:+.3f}), n = {len(seeds)}",
                bool(kept.low > 0) if len(seeds) >= LEAST else None,
            )
        )
    return told


def figure(runs: Sequence[Run]) -> Figure:
    """Held-out loss and accuracy of the old task, median and range over seeds.

    Args:
        runs: Runs of this experiment.

    Returns:
        Two panels.
    """
    from foreshock.report.figures import GREY, PALETTE, paper_figure

    drawn, axes = paper_figure(1, 2, size=(8.2, 3.0))
    styles = {
        "switch": (PALETTE[1], "-"),
        "replay": (PALETTE[0], "-"),
        "same": (PALETTE[2], "-"),
        "frozen": (GREY, "--"),
    }
    for one, name in zip(axes[0], ("old_loss", "old_acc"), strict=True):
        for variant, (colour, line) in styles.items():
            mine = having(runs, variant=variant)
            seeds = "seed" if len(mine) == 1 else "seeds"
            draw_spread(one, mine, name, colour, ls=line, label=f"{variant}, {len(mine)} {seeds}")
        for before in {run.info["config"]["before"] for run in runs}:
            one.axvline(before, color="black", lw=0.8, ls=":")
        one.set_xlabel("optimizer step")
    axes[0, 0].set_ylabel("held-out loss of the old task, nats")
    axes[0, 1].set_ylabel("held-out accuracy of the old task")
    axes[0, 1].set_ylim(-0.02, 1.02)
    axes[0, 1].axhline(CHANCE, color=GREY, lw=0.8, ls=":")
    if runs:
        axes[0, 0].legend(frameon=False, fontsize=7.5)
    else:
        axes[0, 0].text(0.5, 0.5, "no runs", transform=axes[0, 0].transAxes, ha="center")
    return drawn


EXPERIMENT = Experiment(
    config=TaskSwitch,
    run=run,
    label=lambda config: config.variant,
    variants=VARIANTS,
    check=check,
    figure=figure,
    small={"before": 60, "after": 60},
    seconds={"small": 1.9} | dict.fromkeys(VARIANTS, 2.1),
)
