"""Flat and sharp minima: does any measure of the end of training order how well it generalises?

A perceptron of one hidden layer on scikit-learn's digits, over a grid of 72 settings: rate, batch,
width, number of examples, share of wrong labels. Each is trained with SGD until the training
cross-entropy is below 0.1, looked at once a pass; a setting of which a seed never gets there is
left out, so that minima of equal loss are compared (Jiang et al. 2020). Then four numbers are
taken: sharpness (lambda_max of the training loss), the norm of the weights, p of "signal", C/(1+C)
of batch gradients, and C_1, the same C of single examples: C of a batch of B is B C_1, so that p
follows the batch size by arithmetic alone. What they have to order is the gap, held-out error minus
training error, both under the law of the training labels: a network that misses a share e of true
labels misses e (1 - z) + .9 z of labels of which a share z was drawn anew.

Pairs of settings that differ in one hyper-parameter are compared, never a pooled correlation, which
says what the hyper-parameters do (`foreshock.evaluation.generalisation`). ``grid`` is the set-up;
``labels`` its null, all labels random, where no minimum generalises and the gap, .9 less what was
not memorised, says nothing but how far the training error is from 0. The other null is arithmetic:
measures that follow the hyper-parameters up or down and know nothing of the gap (`signed_orders`).

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

from foreshock.evaluation.generalisation import ordering, signed_orders
from foreshock.experiments.digits import load_digits
from foreshock.experiments.minima_measures import loss_of, mean_loss, measures
from foreshock.experiments.seeds import LEAST
from foreshock.experiments.setup import (
    Check,
    Experiment,
    Preset,
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

Variant = Literal["grid", "labels"]
VARIANTS: tuple[str, ...] = get_args(Variant)
#: The settings: 3 x 2 x 3 x 2 x 2 = 72.
GRID: dict[str, tuple[float, ...]] = {
    "lr": (0.2, 0.4, 0.8),
    "batch": (16, 128),
    "width": (64, 128, 256),
    "examples": (200, 600),
    "noise": (0.0, 0.2),
}
#: All settings get below it on the development seed 0.
LEVEL = 0.1
FITTED = f"first look, one a pass, at which the training cross-entropy is below {LEVEL}"
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
        noise: Share of training labels that are drawn anew; 1 in ``labels``, whatever is given.
        steps: Most updates.
        observables: Preset of the monitor, or ``none``.
        every: Steps between measurements, 0 for the budget.
        budget: Share of wall time, where ``every`` is 0.
    """

    variant: Variant = "grid"
    seed: int = 0
    lr: float = 0.4
    batch: int = 16
    width: int = 128
    examples: int = 200
    noise: float = 0.0
    steps: int = 8000
    observables: Preset = "standard"
    every: int = 0
    budget: float = 0.05

    def __post_init__(self) -> None:
        one_of(self, variant=VARIANTS)
        bounds = {"lr": (0, 1e6), "batch": (2, 1200), "width": (1, 10**6), "examples": (2, 1200),
                  "noise": (0, 1), "steps": (1, 10**9), "every": (0, 10**9)}  # fmt: skip
        for field, (low, high) in bounds.items():
            if not low <= getattr(self, field) <= high:
                got = getattr(self, field)
                raise ValueError(
                    f"The `{field}` of `Minima` must lie between {low} and {high}. Got {got}."
                )
        if self.variant == "labels":
            object.__setattr__(self, "noise", 1.0)


@dataclass(frozen=True)
class Data:
    """Training and held-out digits: pixels ``(n, 64)`` in [0, 1], labels ``(n,)``."""

    train: tuple[Tensor, Tensor]
    heldout: tuple[Tensor, Tensor]


def make_data(config: Minima) -> Data:
    """The digits, 597 held out, and labels drawn anew in the training half only.

    Args:
        config: Seed, examples and noise.

    Returns:
        The two halves.
    """
    (x, y), held = load_digits(config.seed, HELDOUT)
    x, y = x[: config.examples], y[: config.examples]
    generator = torch.Generator().manual_seed(config.seed + 3)
    anew = torch.rand(len(y), generator=generator) < config.noise
    drawn = torch.randint(10, (len(y),), generator=generator)
    return Data((x, torch.where(anew, drawn, y)), held)


def make_model(config: Minima) -> nn.Module:
    """One hidden ReLU layer, initialised without moving the global generator."""
    return seeded(
        config.seed,
        lambda: nn.Sequential(nn.Linear(64, config.width), nn.ReLU(), nn.Linear(config.width, 10)),
    )


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
        ['c_1', 'gap', 'heldout_error', 'norm', 'p', 'sharpness', 'train_error', 'train_loss']
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
                now = mean_loss(model, data.train)
                watch.log(train_loss=now, val_loss=mean_loss(model, data.heldout))
                if now < LEVEL:
                    fitted = step
                    break
        watch.flush()
        milestone(record, "fitted", FITTED, fitted)
        found = measures(
            model,
            data.train,
            data.heldout,
            batch=config.batch,
            noise=config.noise,
            seed=config.seed,
        )
        conclude(record, found)
    return Run.open(path)


#: Measure, its sign (larger should mean a larger gap), and in whose words.
MEASURES = {
    "sharpness": (1, "'flat minima generalise'"),
    "norm": (1, "'small weights generalise'"),
    "p": (-1, "the document signal"),
    "c_1": (-1, "the document signal without the batch size"),
}


def table(runs: Sequence[Run]) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Settings of which all seeds fitted, and the mean over seeds of every number there.

    Args:
        runs: Runs of one variant.

    Returns:
        Configurations, and by name an array over them.
    """
    found: dict[tuple[float, ...], list[dict[str, Any]]] = {}
    left_out = set()
    for one in (run for run in runs if outcome(run)):
        key, numbers = _setting(one), outcome(one)
        if "fitted" in milestones_of(one) and all(map(np.isfinite, numbers.values())):
            found.setdefault(key, []).append(numbers)
        else:
            left_out.add(key)
    keys = sorted(set(found) - left_out)
    columns = {
        name: np.array([np.mean([n[name] for n in found[key]]) for key in keys])
        for name in (*MEASURES, "gap", "heldout_error", "train_loss")
    }
    return [dict(zip(GRID, key, strict=True)) for key in keys], columns


def _setting(run: Run) -> tuple[float, ...]:
    return tuple(run.info["config"][name] for name in GRID)


def check(runs: Sequence[Run]) -> list[Check]:
    """Whether the grid is complete; psi and worst sign error of each measure, beside the nulls.

    Args:
        runs: Runs of this experiment.

    Returns:
        What is judged is the grid alone; what the measures order is shown, for they are what is
        asked for. Then the hyper-parameters themselves, as measures.
    """
    told = _complete(having(runs, variant="grid"))
    for variant in VARIANTS:
        chosen = having(runs, variant=variant)
        configurations, columns = table(chosen)
        try:
            nulls = signed_orders(configurations, columns["gap"])
        except ValueError:  # no two settings differ in one thing
            continue
        before = "" if variant == "grid" else f"null {variant}: "
        about = f"{len(configurations)} settings, all of whose runs fitted"
        for name, (sign, words) in MEASURES.items():
            one = ordering(configurations, sign * columns[name], columns["gap"])
            psi = ", ".join(f"{key} {value:+.2f}" for key, value in one.psi.items())
            as_far = int((nulls >= one.overall - 1e-9).sum())
            told.append(
                Check(
                    before + name,
                    f"shown: {words} says psi > 0",
                    f"psi {one.overall:+.2f} ({psi}); {as_far} of {len(nulls)} measures that "
                    f"follow the hyper-parameters blindly get as far; worst sign error "
                    f"{one.sign_error:.2f} ({one.worst}); {about}",
                    None,
                )
            )
        for name in GRID:
            values = [configuration[name] for configuration in configurations]
            alone = ordering(configurations, values, columns["gap"]).psi
            if name in alone:
                told.append(
                    Check(
                        f"{before}{name} itself",
                        "shown: the hyper-parameter as a measure of the gap",
                        f"psi {alone[name]:+.2f} along itself; {about}",
                        None,
                    )
                )
    return told


def _complete(runs: Sequence[Run]) -> list[Check]:
    """Whether every setting of the grid has enough runs, and how many of them fitted."""
    # One that was stopped before its steps were out could still have fitted.
    full = Minima().steps
    done = {run: "fitted" in milestones_of(run) for run in runs if outcome(run)}
    done = {r: f for r, f in done.items() if f or r.info["config"]["steps"] >= full}
    if not done:
        return []
    seeds: dict[tuple[float, ...], set[int]] = {
        key: set() for key in itertools.product(*GRID.values())
    }
    for run in done:
        if _setting(run) in seeds:
            seeds[_setting(run)].add(run.info["config"]["seed"])
    enough = sum(len(found) >= LEAST for found in seeds.values())
    unfit = {_setting(run) for run, fitted in done.items() if not fitted}
    losses = [outcome(run)["train_loss"] for run, fitted in done.items() if fitted]
    between = f", at losses of {min(losses):.3f} to {max(losses):.3f}" if losses else ""
    return [
        Check(
            "complete grid",
            f"{len(seeds)} settings with {LEAST} seeds or more each",
            f"{enough} of {len(seeds)} settings",
            True if enough == len(seeds) else None,
        ),
        Check(
            "fitted",
            f"shown: runs that reach a training loss of {LEVEL}; a setting that misses it in any "
            "seed is left out",
            f"{len(losses)} of {len(done)} runs{between}; {len(unfit)} settings left out",
            None,
        ),
    ]


def figure(runs: Sequence[Run]) -> Figure:
    """Each measure against the gap, one point a setting; lines join settings that differ in width.

    Settings of the grid of which all seeds fitted.

    Args:
        runs: Runs of this experiment.

    Returns:
        Four panels.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    from foreshock.report.figures import GREY, PALETTE, paper_figure

    drawn, axes = paper_figure(1, 4, size=(11.4, 3.0), sharey=True)
    configurations, columns = table(having(runs, variant="grid"))
    titles = {
        "sharpness": "sharpness $\\lambda_{max}$",
        "norm": "weight norm",
        "p": "p = C/(1+C) of batches",
        "c_1": "$C_1$ of examples",
    }
    for one, name in zip(axes[0], MEASURES, strict=True):
        for noise, colour in zip(GRID["noise"], PALETTE, strict=False):
            for examples, marker in zip(GRID["examples"], "o^", strict=True):
                rows = [i for i, c in enumerate(configurations)
                        if c["noise"] == noise and c["examples"] == examples]  # fmt: skip
                label = f"{noise:.0%} labels drawn anew, n = {examples:g}"
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
        if name in {"sharpness", "norm"}:  # less than two decades: 1, 2, 5 in plain digits
            one.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            one.xaxis.set_major_formatter("{x:g}")
            one.xaxis.set_minor_formatter(NullFormatter())
    axes[0, 0].set_ylabel("held-out minus training error")
    axes[0, 0].legend(frameon=False, fontsize=7)
    return drawn


def _label(config: Minima) -> str:
    numbers = (config.lr, config.batch, config.width, config.examples, config.noise)
    return "-".join([config.variant, *(f"{value:g}" for value in numbers)])


def _seconds() -> dict[str, float]:
    """Imports, and means over rates and widths on seed 0, half to twice of which there are."""
    imports = 1.4
    measured = {
        (16, 200): (0.10, 0.34, 0.64),
        (16, 600): (0.17, 0.93, 1.43),
        (128, 200): (0.18, 0.77, 0.98),
        (128, 600): (0.21, 1.35, 1.84),
    }
    told = {"": 0.5 + imports}
    for lr, width in itertools.product((0.2, 0.4, 0.8), (64, 128, 256)):
        for (batch, examples), (clean, noisy, random) in measured.items():
            fields = {"lr": lr, "batch": batch, "width": width, "examples": examples}
            told[_label(Minima(**fields))] = clean + imports
            told[_label(Minima(**fields, noise=0.2))] = noisy + imports
            told[_label(Minima("labels", **fields))] = random + imports
    return told


EXPERIMENT = Experiment(
    config=Minima,
    run=run,
    label=_label,
    variants=VARIANTS,
    check=check,
    figure=figure,
    grid=GRID,
    small={"steps": 150},
    seconds={"small": 2.0} | _seconds(),
)
