"""Flat and sharp minima: does any measure of the end of training order how well it generalises?

A perceptron of one hidden layer on scikit-learn's digits, over a grid of 72 settings: rate, batch,
width, number of examples, share of wrong labels. Each is trained with SGD until the training
cross-entropy of a whole pass is below 0.05 or the steps are spent, as far as they go at equal loss;
then three numbers are taken: sharpness (lambda_max of the training loss), the norm of the weights,
and p of "signal", C/(1+C) of batch gradients. What they have to order is the gap, held-out error
minus training error.

Pairs of settings that differ in one hyper-parameter are compared, never a pooled correlation, which
says what the hyper-parameters do (`foreshock.evaluation.generalisation`). ``grid`` is the set-up;
``labels`` its null, all labels random, where no minimum generalises and the gap follows from the
training error alone.

What it cannot show: cause. And lambda_max is no property of the function that was learnt: scaling
two layers of a ReLU network by a and 1/a changes it at will (Dinh et al. 2017).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from foreshock.estimators.curvature import lambda_max
from foreshock.evaluation.generalisation import ordering, ordering_null
from foreshock.experiments.setup import (
    Check,
    Experiment,
    Preset,
    conclude,
    having,
    milestone,
    outcome,
    watch_training,
)
from foreshock.probe import Probe
from foreshock.probe.view import ModelView
from foreshock.stats.published import c_signal, p_signal
from foreshock.store import Run
from foreshock.types import Detector, Observable, OnAlarm

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Variant = Literal["grid", "labels"]
VARIANTS: tuple[str, ...] = get_args(Variant)
#: The settings: 3 x 2 x 3 x 2 x 2 = 72.
GRID: dict[str, tuple[float, ...]] = {
    "lr": (0.05, 0.15, 0.5),
    "batch": (16, 128),
    "width": (32, 128, 512),
    "examples": (300, 1200),
    "noise": (0.0, 0.2),
}
FITTED = "first pass over the training examples whose cross-entropy is below 0.05"
#: Batches that make p.
PROBES = 20
HELDOUT = 597


@dataclass(frozen=True)
class Minima:
    """Configuration of one run: one setting of the grid.

    Args:
        variant: ``grid``, or the null ``labels``.
        seed: Of split, wrong labels, initial weights and batches.
        lr: Learning rate of plain SGD.
        batch: Examples of an update.
        width: Of the hidden layer.
        examples: To train on.
        noise: Share of training labels that are drawn anew.
        steps: Most updates.
        observables: Preset of the monitor, or ``none``.
        every: Steps between measurements, 0 for the budget.
        budget: Share of wall time, where ``every`` is 0.
    """

    variant: Variant = "grid"
    seed: int = 0
    lr: float = 0.15
    batch: int = 16
    width: int = 128
    examples: int = 300
    noise: float = 0.0
    steps: int = 3000
    observables: Preset = "standard"
    every: int = 0
    budget: float = 0.05

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ValueError(f"The `variant` must be one of {VARIANTS}. Got {self.variant!r}.")
        bounds = {"lr": (0, 1e6), "batch": (2, 1200), "width": (1, 10**6), "examples": (2, 1200),
                  "noise": (0, 1), "steps": (1, 10**9), "every": (0, 10**9)}  # fmt: skip
        for field, (low, high) in bounds.items():
            if not low <= getattr(self, field) <= high:
                got = getattr(self, field)
                raise ValueError(f"The `{field}` must lie between {low} and {high}. Got {got}.")


@dataclass(frozen=True)
class Data:
    """Training and held-out digits: pixels ``(n, 64)`` in [0, 1], labels ``(n,)``."""

    train: tuple[Tensor, Tensor]
    heldout: tuple[Tensor, Tensor]


def make_data(config: Minima) -> Data:
    """The digits, 597 held out, and wrong labels in the training half only.

    Args:
        config: Seed, examples, noise and variant.

    Returns:
        The two halves.

    Raises:
        ImportError: If scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "The digits come with scikit-learn. Type `pip install scikit-learn`."
        ) from error
    pixels, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels / 16.0, dtype=torch.float32), torch.tensor(labels)
    generator = torch.Generator().manual_seed(config.seed)
    order = torch.randperm(len(x), generator=generator)
    held, train = order[:HELDOUT], order[HELDOUT:][: config.examples]
    noise = 1.0 if config.variant == "labels" else config.noise
    wrong = torch.rand(len(train), generator=generator) < noise
    drawn = torch.randint(10, (len(train),), generator=generator)
    return Data((x[train], torch.where(wrong, drawn, y[train])), (x[held], y[held]))


def make_model(config: Minima) -> nn.Module:
    """One hidden ReLU layer, initialised without moving the global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return nn.Sequential(nn.Linear(64, config.width), nn.ReLU(), nn.Linear(config.width, 10))


def loss_of(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy."""
    return functional.cross_entropy(model(batch[0]), batch[1])


def run(
    config: Minima,
    path: str | Path,
    *,
    observables: Iterable[str | Observable] | str | None = None,
    detectors: Iterable[str | Detector] = (),
    on_alarm: OnAlarm | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Run:
    """Train one setting with the monitor attached, and measure where it ended.

    Args:
        config: What to train.
        path: Folder of the run.
        observables: Overrides the preset of the configuration.
        detectors: Rules to run live.
        on_alarm: Called with every alarm.
        progress: Called with the updates done and the most there can be.

    Returns:
        The run, closed and opened again for reading.

    Examples:
        >>> import tempfile
        >>> recorded = run(Minima(steps=40, observables="none"), tempfile.mkdtemp() + "/a")
        >>> sorted(outcome(recorded))
        ['gap', 'heldout_error', 'norm', 'p', 'sharpness', 'train_error', 'train_loss']
    """
    data, model = make_data(config), make_model(config)
    optimizer = torch.optim.SGD(model.parameters(), lr=config.lr)
    generator = torch.Generator().manual_seed(config.seed + 1)
    record = Run.create(path, kind="minima", config=asdict(config), seed=config.seed)

    def draw(step: int) -> list[tuple[Tensor, Tensor]]:
        fresh = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        rows = torch.randint(len(data.train[0]), (8, config.batch), generator=fresh)
        return [(data.train[0][row], data.train[1][row]) for row in rows]

    watch = watch_training(
        config,
        record,
        model,
        optimizer,
        Probe(loss=loss_of, batches=draw, heldout=data.heldout, train=data.train,
              sampling="replacement"),
        observables=observables,
        detectors=detectors,
        on_alarm=on_alarm,
    )  # fmt: skip
    # The same number of looks at every setting: a pass is as many updates as hold the examples.
    look, fitted = max(1, len(data.train[0]) // config.batch), None
    with watch:
        for step in range(config.steps):
            rows = torch.randint(len(data.train[0]), (config.batch,), generator=generator)
            loss = loss_of(model, (data.train[0][rows], data.train[1][rows]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watch.log(loss=loss)
            progress(step + 1, config.steps)
            if step % look == look - 1:
                now = _loss(model, data.train)
                watch.log(train_loss=now, val_loss=_loss(model, data.heldout))
                if now < 0.05:
                    fitted = step
                    break
        watch.flush()
        milestone(record, "fitted", FITTED, fitted)
        conclude(record, measures(config, model, data))
    return Run.open(path)


def measures(config: Minima, model: nn.Module, data: Data) -> dict[str, float]:
    """Sharpness, norm and p of a trained network, and what they have to order.

    Args:
        config: Batch size and seed of the gradients that make p.
        model: The trained network.
        data: Both halves.

    Returns:
        By name; errors are shares of examples.
    """
    _, top = lambda_max(ModelView(model), loss_of, data.train, seed=config.seed)
    generator = torch.Generator().manual_seed(config.seed + 2)
    parameters, taken = list(model.parameters()), []
    for _ in range(PROBES):
        rows = torch.randint(len(data.train[0]), (config.batch,), generator=generator)
        loss = loss_of(model, (data.train[0][rows], data.train[1][rows]))
        parts = torch.autograd.grad(loss, parameters)
        taken.append(torch.cat([part.reshape(-1) for part in parts]).double().numpy())
    train, held = (_error(model, half) for half in (data.train, data.heldout))
    return {
        "sharpness": top.value,
        "norm": float(torch.sqrt(sum(p.detach().square().sum() for p in parameters))),  # type: ignore[arg-type]
        "p": p_signal(c_signal(np.stack(taken))),
        "train_error": train,
        "heldout_error": held,
        "gap": held - train,
        "train_loss": _loss(model, data.train),
    }


def _loss(model: nn.Module, half: tuple[Tensor, Tensor]) -> float:
    with torch.no_grad():
        return loss_of(model, half).item()


def _error(model: nn.Module, half: tuple[Tensor, Tensor]) -> float:
    with torch.no_grad():
        return (model(half[0]).argmax(1) != half[1]).float().mean().item()


#: Measure, its sign (larger should mean a larger gap), and in whose words.
MEASURES = {
    "sharpness": (1, "flat minima generalise"),
    "norm": (1, "small weights generalise"),
    "p": (-1, "consistent gradients generalise, as 'signal' has it"),
}


def table(runs: Sequence[Run]) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Settings of the grid, and the mean over seeds of every number there.

    Args:
        runs: Runs of one variant.

    Returns:
        Configurations, and by name an array over them.
    """
    found: dict[tuple[float, ...], list[dict[str, Any]]] = {}
    for one in runs:
        numbers = outcome(one)
        if numbers and all(np.isfinite(value) for value in numbers.values()):
            key = tuple(one.info["config"][name] for name in GRID)
            found.setdefault(key, []).append(numbers)
    configurations = [dict(zip(GRID, key, strict=True)) for key in sorted(found)]
    names = [*MEASURES, "gap", "heldout_error", "train_loss"]
    columns = {
        name: np.array([np.mean([n[name] for n in found[key]]) for key in sorted(found)])
        for name in names
    }
    return configurations, columns


def check(runs: Sequence[Run]) -> list[Check]:
    """Psi and worst sign error of each measure, beside a random order of the grid.

    Args:
        runs: Runs of this experiment.

    Returns:
        One line for each measure and variant. No number is expected: the line shows what is.
    """
    told = []
    full = int(np.prod([len(values) for values in GRID.values()]))
    for variant in VARIANTS:
        chosen = having(runs, variant=variant)
        configurations, columns = table(chosen)
        if len(configurations) < 2:
            continue
        seeds = len({run.info["config"]["seed"] for run in chosen})
        try:
            low, high = ordering_null(configurations, columns["gap"])
        except ValueError:  # no two settings differ in one thing
            continue
        for name, (sign, words) in MEASURES.items():
            one = ordering(configurations, sign * columns[name], columns["gap"])
            psi = ", ".join(f"{key} {value:+.2f}" for key, value in one.psi.items())
            told.append(
                Check(
                    name if variant == "grid" else f"null {variant}: {name}",
                    f"psi > 0 ({words}); a random order lies in [{low:+.2f}, {high:+.2f}]",
                    f"psi {one.overall:+.2f} ({psi}); worst sign error {one.sign_error:.2f} "
                    f"({one.worst}); {len(configurations)} settings, {seeds} seeds",
                    None if len(configurations) < full or variant != "grid" else one.overall > high,
                )
            )
    return told


def figure(runs: Sequence[Run]) -> Figure:
    """Each measure against the gap, one point a setting; lines join settings that differ in width.

    Args:
        runs: Runs of this experiment.

    Returns:
        Three panels.
    """
    from foreshock.report.figures import GREY, PALETTE, paper_figure

    drawn, axes = paper_figure(1, 3, size=(9.6, 3.0), sharey=True)
    configurations, columns = table(having(runs, variant="grid"))
    titles = {"sharpness": "sharpness $\\lambda_{max}$", "norm": "weight norm", "p": "p = C/(1+C)"}
    for one, name in zip(axes[0], MEASURES, strict=True):
        for noise, colour in zip(GRID["noise"], PALETTE, strict=False):
            for examples, marker in zip(GRID["examples"], "o^", strict=True):
                rows = [i for i, c in enumerate(configurations)
                        if c["noise"] == noise and c["examples"] == examples]  # fmt: skip
                label = f"{noise:.0%} wrong labels, n = {examples:g}"
                one.plot(columns[name][rows], columns["gap"][rows], marker, color=colour, ms=4,
                         alpha=0.8, mew=0, label=label)  # fmt: skip
        keys = [key for key in GRID if key != "width"]
        ordered = sorted(
            range(len(configurations)), key=lambda i: [configurations[i][k] for k in keys]
        )
        for _, group in itertools.groupby(
            ordered, key=lambda i: [configurations[i][k] for k in keys]
        ):
            line = sorted(group, key=lambda i: configurations[i]["width"])
            one.plot(columns[name][line], columns["gap"][line], color=GREY, lw=0.4, zorder=0)
        one.set_xlabel(titles[name])
        if name != "p":
            one.set_xscale("log")
    axes[0, 0].set_ylabel("held-out minus training error")
    axes[0, 0].legend(frameon=False, fontsize=7)
    return drawn


EXPERIMENT = Experiment(
    config=Minima,
    run=run,
    label=lambda c: f"{c.variant}-{c.lr:g}-{c.batch}-{c.width}-{c.examples}-{c.noise:g}",
    variants=VARIANTS,
    check=check,
    figure=figure,
    small={"steps": 150},
    seconds={"": 0.6},
)
