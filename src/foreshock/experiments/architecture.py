"""Architecture: whether a deep network trains at all, with and without norm, skip and dropout.

A perceptron of ``depth`` blocks of width 64 on scikit-learn's digits, by plain SGD and with
PyTorch's default initial weights. A block is dropout(ReLU(linear(norm(h)))); with a skip its
output is added to h. Deep and plain, every layer shrinks signal and gradient until nothing arrives
(Glorot and Bengio 2010); norms (Ioffe and Szegedy 2015; Ba et al. 2016) and skips (He et al. 2016)
are the cure, and dropout (Srivastava et al. 2014) does not stand in the way of it.

``plain``; ``norm``; ``skip``; ``norm_skip``; ``dropout``, which is ``norm_skip`` with dropout.
The null of the failure is the same network with few blocks, where all variants train.

What it cannot show: which part is best. With initial weights made for the depth (He et al. 2015)
a plain network trains as well; and a gradient that vanishes at the start is a cause that is known
and seen at step 0, not a sign ahead of an event.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from foreshock.experiments.digits import load_digits
from foreshock.experiments.seeds import all_of, draw_spread, reached, spread
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
from foreshock.store import Run
from foreshock.types import Detector, Observable, OnAlarm

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Variant = Literal["plain", "norm", "skip", "norm_skip", "dropout"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
#: Depths the check is about.
DEEP, SHALLOW = 24, 2
WIDTH, BATCH, PROBES, EVALUATE = 64, 32, 8, 20
REACHED = "first evaluation whose 3-point median of the held-out accuracy is at least 0.9"


@dataclass(frozen=True)
class Architecture:
    """Configuration of one run.

    Args:
        variant: Which parts a block has.
        depth: Blocks.
        seed: Of split, initial weights, batches and dropout.
        norm: Kind of the norm, in the variants that have one.
        rate: Of dropout, in the variant that has it.
        steps: Updates.
        lr: Learning rate.
        observables: A preset, or ``none``.
        every: Steps between measurements, 0 for the budget.
        budget: Share of wall time, where ``every`` is 0.
    """

    variant: Variant = "plain"
    depth: int = DEEP
    seed: int = 0
    norm: Literal["layer", "batch"] = "layer"
    rate: float = 0.1
    steps: int = 600
    lr: float = 0.1
    observables: Preset = "standard"
    every: int = 0
    budget: float = 0.05

    def __post_init__(self) -> None:
        one_of(self, variant=VARIANTS, norm=("layer", "batch"))
        if not 0 <= self.rate < 1:
            raise ValueError(f"The `rate` of `Architecture` must lie in [0, 1). Got {self.rate}.")
        at_least(self, depth=1, steps=1, every=0, lr=0)

    @property
    def normed(self) -> bool:
        """Whether blocks have a norm."""
        return self.variant in ("norm", "norm_skip", "dropout")

    @property
    def skips(self) -> bool:
        """Whether blocks are added to their input."""
        return self.variant in ("skip", "norm_skip", "dropout")


class Block(nn.Module):
    """dropout(ReLU(linear(norm(h)))), added to h if it skips."""

    def __init__(self, config: Architecture) -> None:
        super().__init__()
        kind = nn.LayerNorm if config.norm == "layer" else nn.BatchNorm1d
        self.skips = config.skips
        self.norm = kind(WIDTH) if config.normed else nn.Identity()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.drop = nn.Dropout(config.rate if config.variant == "dropout" else 0.0)

    def forward(self, h: Tensor) -> Tensor:
        """Latents ``(n, 64)`` to latents ``(n, 64)``."""
        out = self.drop(torch.relu(self.linear(self.norm(h))))
        return h + out if self.skips else out


class Network(nn.Module):
    """A linear layer, the blocks, and a linear head."""

    def __init__(self, config: Architecture) -> None:
        super().__init__()
        self.first = nn.Linear(64, WIDTH)
        self.blocks = nn.Sequential(*(Block(config) for _ in range(config.depth)))
        self.last = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Pixels ``(n, 64)`` to scores ``(n, 10)``."""
        return self.last(self.blocks(self.first(x)))


def make_model(config: Architecture) -> Network:
    """The network, initialised without moving the global generator.

    Args:
        config: Variant, depth and seed.

    Returns:
        It. Norms have no random weights: all variants of a seed begin with the same ones.
    """
    return seeded(config.seed, lambda: Network(config))


def loss_of(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy."""
    return functional.cross_entropy(model(batch[0]), batch[1])


def accuracy(model: nn.Module, part: tuple[Tensor, Tensor]) -> float:
    """Share of examples that are classified right, in evaluation mode."""
    model.eval()
    with torch.no_grad():
        right = (model(part[0]).argmax(1) == part[1]).float().mean().item()
    model.train()
    return right


def run(
    config: Architecture,
    path: str | Path,
    *,
    observables: Iterable[str | Observable] | str | None = None,
    detectors: Iterable[str | Detector] = (),
    on_alarm: OnAlarm | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Run:
    """Train with the monitor attached, and record whether it learned.

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
        >>> config = Architecture(steps=2, observables="none")
        >>> found = outcome(run(config, tempfile.mkdtemp() + "/a"))
        >>> found["first_gradient"] < 1e-6 < found["last_gradient"]  # nothing arrives
        True
    """
    train, heldout = load_digits(config.seed)
    model = make_model(config)
    optimizer = torch.optim.SGD(model.parameters(), lr=config.lr)
    generator = torch.Generator().manual_seed(1_000_003 + config.seed)

    def draw(source: torch.Generator) -> tuple[Tensor, Tensor]:
        rows = torch.randint(len(train[0]), (BATCH,), generator=source)
        return train[0][rows], train[1][rows]

    def probe_batches(step: int) -> list[tuple[Tensor, Tensor]]:
        own = torch.Generator().manual_seed(1_000_003 * (step + 2) + config.seed)
        return [draw(own) for _ in range(PROBES)]

    record = Run.create(path, kind="architecture", config=asdict(config), seed=config.seed)
    watch = watch_training(
        config,
        record,
        model,
        optimizer,
        Probe(loss=loss_of, batches=probe_batches, heldout=heldout, train=train,
              sampling="replacement"),
        observables=observables,
        detectors=detectors,
        on_alarm=on_alarm,
    )  # fmt: skip
    norms: dict[str, float] = {}
    with watch:
        for step in range(config.steps):
            batch = draw(generator)
            # Dropout draws from the global generator: it gets its own numbers and is put back.
            numbers = 1_000_003 * (config.seed + 1) + step
            loss = seeded(numbers, functools.partial(loss_of, model, batch))
            optimizer.zero_grad()
            loss.backward()
            if step == 0:
                norms = {
                    f"{name}_gradient": float(layer.weight.grad.norm())  # type: ignore[union-attr]
                    for name, layer in (("first", model.first), ("last", model.last))
                }
            optimizer.step()
            watch.log(loss=loss)
            if step % EVALUATE == EVALUATE - 1 or step == config.steps - 1:
                watch.log(val_acc=accuracy(model, heldout))
            progress(step + 1, config.steps)
        watch.flush()
        milestone(record, "reached", REACHED, reached(record, "val_acc", 0.9))
        halves = {"train_acc": accuracy(model, train), "heldout_acc": accuracy(model, heldout)}
        conclude(record, {**norms, **halves, "loss": float(record.series("loss").value[-1])})
    return Run.open(path)


def check(runs: Sequence[Run]) -> list[Check]:
    """Deep and plain does not train, deep with norm and skip does, shallow all do.

    Args:
        runs: Runs of this experiment.

    Returns:
        One line for each variant and depth, and the gradients at the start.
    """
    told = []
    expected = {
        (DEEP, "plain"): ("does not train: held-out accuracy below 0.3", lambda a: a < 0.3),
        (DEEP, "norm_skip"): ("trains: held-out accuracy above 0.85", lambda a: a > 0.85),
        **{
            (SHALLOW, v): ("trains: held-out accuracy above 0.85", lambda a: a > 0.85)
            for v in VARIANTS
        },
    }
    depths = sorted({run.info["config"]["depth"] for run in runs})
    for depth in depths:
        for variant in VARIANTS:
            mine = [r for r in having(runs, variant=variant, depth=depth) if outcome(r)]
            if not mine:
                continue
            numbers = [outcome(run) for run in mine]
            right = [one["heldout_acc"] for one in numbers]
            name, ends = f"{variant}, depth {depth}", f"accuracy {spread(right, 3)}"
            if (depth, variant) in expected:
                words, holds = expected[depth, variant]
                line = all_of(name, words, [holds(one) for one in right])
                told.append(Check(name, words, f"{line.measured}; {ends}", line.holds))
            else:
                told.append(Check(name, "shown", f"{ends}, n = {len(right)}", None))
            ratio = [one["first_gradient"] / one["last_gradient"] for one in numbers]
            when = [milestones_of(run).get("reached") for run in mine]
            told.append(
                Check(
                    f"{name}: start, and 90 %",
                    "shown",
                    f"gradient norm of the first layer over the last: median "
                    f"{np.median(ratio):.1e} ({min(ratio):.1e} to {max(ratio):.1e}); "
                    f"90 % held out at step {spread(when)}",
                    None,
                )
            )
    return told


def figure(runs: Sequence[Run]) -> Figure:
    """Held-out accuracy, deep and shallow, and the gradients at the start, for every variant.

    Args:
        runs: Runs of this experiment.

    Returns:
        Three panels: median and range over seeds; one dot a seed.
    """
    from foreshock.report.figures import GREY, PALETTE, paper_figure

    drawn, axes = paper_figure(1, 3, size=(10.2, 3.1))
    colours = dict(zip(VARIANTS, ("black", *PALETTE[:4]), strict=True))
    depths = sorted({run.info["config"]["depth"] for run in runs}, reverse=True)
    for number, one in enumerate(axes[0, :2]):
        one.set_ylim(0, 1.02)
        one.axhline(0.1, color=GREY, lw=0.8, ls=":")
        one.set_xlabel("optimizer step")
        one.set_ylabel("held-out accuracy")
        if number >= len(depths):
            one.text(0.5, 0.5, "no runs", transform=one.transAxes, ha="center", color=GREY)
            continue
        depth = depths[0] if number == 0 else depths[-1]
        for variant, colour in colours.items():
            mine = having(runs, variant=variant, depth=depth)
            line = "--" if variant == "plain" else "-"
            draw_spread(one, mine, "val_acc", colour, ls=line, label=f"{variant} ({len(mine)})")
        one.set_title(f"depth {depth}", loc="left", fontsize=9.5)
        one.legend(title="variant (seeds)", frameon=False, fontsize=7, title_fontsize=7)
    start = axes[0, 2]
    for place, variant in enumerate(VARIANTS):
        for depth, shape in zip(depths, "osv^D*", strict=False):
            found = [outcome(run) for run in having(runs, variant=variant, depth=depth)]
            ratio = [n["first_gradient"] / n["last_gradient"] for n in found if n]
            start.plot([place] * len(ratio), ratio, shape, ms=4, mfc="none", alpha=0.8,
                       color=colours[variant])  # fmt: skip
    for depth, shape in zip(depths, "osv^D*", strict=False):
        start.plot([], [], shape, ms=4, mfc="none", color=GREY, label=f"depth {depth}")
    start.set_xticks(range(len(VARIANTS)), VARIANTS, rotation=25)
    start.set_ylabel("gradient norm at the start, first over last")
    if depths:
        start.set_yscale("log")
        start.legend(frameon=False, fontsize=7)
    return drawn


EXPERIMENT = Experiment(
    config=Architecture,
    run=run,
    label=lambda c: f"{c.variant}-{c.depth}" + ("-batch" if c.norm == "batch" else ""),
    variants=VARIANTS,
    check=check,
    figure=figure,
    grid={"depth": (2, DEEP)},
    small={"steps": 40, "depth": 8},
    seconds={
        "small": 1.8,
        "plain-2": 2.3,
        "norm-2": 2.6,
        "skip-2": 2.0,
        "norm_skip-2": 2.9,
        "dropout-2": 2.4,
        "plain-24": 2.8,
        "norm-24": 3.0,
        "skip-24": 2.8,
        "norm_skip-24": 3.1,
        "dropout-24": 3.4,
    },
)
