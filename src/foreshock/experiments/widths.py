"""Double descent in trained networks: MNIST-1D with wrong labels, against the width.

One hidden ReLU layer, squared loss, mini-batch SGD with momentum, 1,000 examples of MNIST-1D of
which 15 % have a wrong label. As the network is made wider the training error falls to 0; near the
width where it first does, the error on examples that were not trained on is largest, and wider
networks, which fit the wrong labels as well, make fewer errors again.

``noisy``: the phenomenon. ``clean``, its null, has the right labels and nothing else is different:
with nothing wrong to be fitted, no rise towards the interpolation threshold is promised.

A run is one width at one seed and batch size, trained with the monitor attached; the phenomenon
lives across the runs of `WIDTHS`, so the sweep is over ``width``. It shows where the test error is
largest, relative to a threshold that is measured on the same networks. It cannot show a law for
P/n: the threshold depends on optimizer, time and loss as well as on the number of parameters.

Belkin, Hsu, Ma and Mandal, PNAS 116 (2019) 15849; Nakkiran et al. (2019, arXiv:1912.02292); the
data: Greydanus and Kobak (2020, arXiv:2011.14439), package ``mnist1d``, generated and not loaded.
"""

from __future__ import annotations

import functools
import importlib
import random
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from math import cos, pi
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from foreshock.experiments.setup import (
    Experiment,
    Preset,
    at_least,
    conclude,
    milestone,
    one_of,
    seeded,
    watch_training,
)
from foreshock.experiments.width_sweeps import WIDTHS as WIDTHS
from foreshock.experiments.width_sweeps import check, figure
from foreshock.probe import Probe
from foreshock.store import Run
from foreshock.types import Detector, Observable, OnAlarm

Variant = Literal["noisy", "clean"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)

#: Share of the training labels that are wrong in ``noisy``.
NOISE = 0.15
CLASSES = 10
#: Held-out examples that the probe sees; all of them are evaluated on.
PROBED = 1000

INTERPOLATED = "First evaluation with a training error of 0, wrong labels included."


@dataclass(frozen=True)
class Widths:
    """Configuration of one width.

    Args:
        variant: ``noisy``, or its null ``clean``.
        seed: Seed of the choice of examples, of wrong labels, initial weights and batches.
        width: Hidden units, of `WIDTHS`.
        batch: Examples an update.
        examples: Training examples.
        steps: Updates, the same at every batch size.
        lr: Learning rate at the start; it falls to 0 along half a cosine.
        observables: Preset of the monitor, or ``none`` to train without it.
        every: Measure every so many steps; 0 for the budget instead.
        budget: Share of wall time, where ``every`` is 0.
    """

    variant: Variant = "noisy"
    seed: int = 0
    width: int = 128
    batch: int = 100
    examples: int = 1000
    steps: int = 3000
    lr: float = 0.1
    observables: Preset = "standard"
    every: int = 0
    budget: float = 0.05

    def __post_init__(self) -> None:
        one_of(self, variant=VARIANTS)
        at_least(self, width=1, batch=1, steps=1, examples=1, lr=0, every=0)
        if not self.batch <= self.examples <= 4000:
            raise ValueError(
                f"The `examples` of `Widths` must lie between the `batch`, {self.batch}, and "
                f"4,000: the others of the 5,000 are held out. Got {self.examples}."
            )


class Data(NamedTuple):
    """Training examples with the labels that are trained on, and examples never trained on.

    Inputs are ``(n, 40)``, labels ``(n,)``. ``wrong`` marks the training labels that are not the
    example's own. Held-out labels are always right.
    """

    train: tuple[Tensor, Tensor]
    heldout: tuple[Tensor, Tensor]
    wrong: Tensor


@functools.cache
def mnist1d() -> tuple[Tensor, Tensor]:
    """The 5,000 examples of MNIST-1D, generated as the package does by default: ``x``, ``y``.

    The package seeds the global generators of Python and
    NumPy; they are put back. Nothing is loaded from disk or net.

    Returns:
        Inputs ``(5000, 40)`` and classes ``(5000,)``.

    Raises:
        ImportError: If the package is not installed.
    """
    try:
        package = importlib.import_module("mnist1d.data")
    except ImportError as error:
        raise ImportError("This experiment needs mnist1d. Type `pip install mnist1d`.") from error
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 (what the package uses)
    try:
        made = package.make_dataset()
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
    inputs = np.concatenate([made["x"], made["x_test"]])
    labels = np.concatenate([made["y"], made["y_test"]])
    return torch.tensor(inputs, dtype=torch.float32), torch.tensor(labels, dtype=torch.long)


def make_data(config: Widths) -> Data:
    """Draw training examples and wrong labels by the seed; all widths and variants share them.

    Args:
        config: Size, variant and seed.

    Returns:
        The data; 15 % of the training labels (rounded) are another class, evenly, in ``noisy``.
    """
    inputs, labels = mnist1d()
    generator = torch.Generator().manual_seed(config.seed)
    order = torch.randperm(len(labels), generator=generator)
    rows, others = order[: config.examples], order[config.examples :]
    chosen = torch.randperm(config.examples, generator=generator)
    shift = torch.randint(1, CLASSES, (config.examples,), generator=generator)
    wrong = torch.zeros(config.examples, dtype=torch.bool)
    if config.variant == "noisy":
        wrong[chosen[: round(NOISE * config.examples)]] = True
    given = torch.where(wrong, (labels[rows] + shift) % CLASSES, labels[rows])
    return Data((inputs[rows], given), (inputs[others], labels[others]), wrong)


def make_model(config: Widths) -> nn.Module:
    """40-h-10 with ReLU, initialised from the seed without moving the global generator."""
    return seeded(
        config.seed,
        lambda: nn.Sequential(
            nn.Linear(40, config.width), nn.ReLU(), nn.Linear(config.width, CLASSES)
        ),
    )


def loss_of(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Half the squared distance to the one-hot label, mean over the examples."""
    outputs = model(batch[0])
    hot = functional.one_hot(batch[1], CLASSES).to(outputs.dtype)
    return 0.5 * (outputs - hot).square().sum(1).mean()


def make_probe(config: Widths, data: Data, *, batches: int = 8) -> Probe:
    """Fresh batches at every measurement, each drawn without replacement as training's are."""
    inputs, labels = data.train
    seen = data.heldout[0][:PROBED], data.heldout[1][:PROBED]

    def draw(step: int) -> list[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        picks = (torch.randperm(len(labels), generator=generator) for _ in range(batches))
        return [(inputs[p], labels[p]) for p in (pick[: config.batch] for pick in picks)]

    return Probe(loss=loss_of, batches=draw, heldout=seen, train=data.train)


def evaluate(model: nn.Module, data: Data) -> dict[str, float]:
    """Accuracy on the labels that are trained on and on the held-out ones, and both losses."""
    found = {}
    with torch.no_grad():
        for name, (inputs, labels) in (("train", data.train), ("val", data.heldout)):
            right = model(inputs).argmax(1) == labels
            found[f"{name}_acc"] = right.double().mean().item()
            found[f"{name}_loss"] = loss_of(model, (inputs, labels)).item()
    return found


def run(
    config: Widths,
    path: str | Path,
    *,
    observables: Iterable[str | Observable] | str | None = None,
    detectors: Iterable[str | Detector] = (),
    on_alarm: OnAlarm | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Run:
    """Train one width with the monitor attached and record what it comes down to.

    Args:
        config: What to train.
        path: Folder of the run.
        observables: Overrides the preset of the configuration.
        detectors: Rules to run live.
        on_alarm: Called with every alarm.
        progress: Called with the steps done and their number.

    Returns:
        The run, closed and opened again for reading.
    """
    data, model = make_data(config), make_model(config)
    optimizer = torch.optim.SGD(model.parameters(), lr=config.lr, momentum=0.9)
    generator = torch.Generator().manual_seed(config.seed + 1)
    inputs, labels = data.train
    record = Run.create(path, kind="widths", config=asdict(config), seed=config.seed)
    watch = watch_training(
        config,
        record,
        model,
        optimizer,
        make_probe(config, data),
        observables=observables,
        detectors=detectors,
        on_alarm=on_alarm,
    )
    every, epoch = max(1, config.steps // 20), iter(())
    found: dict[str, float] = {}
    first = None
    with watch:
        for step in range(config.steps):
            rows = next(epoch, None)
            if rows is None:
                # A new epoch; a last batch that is not full is left out.
                order = torch.randperm(config.examples, generator=generator)
                epoch = iter(order.split(config.batch)[: config.examples // config.batch])
                rows = next(epoch)
            optimizer.param_groups[0]["lr"] = config.lr * (1 + cos(pi * step / config.steps)) / 2
            loss = loss_of(model, (inputs[rows], labels[rows]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watch.log(loss=loss)
            if (step + 1) % every == 0 or step + 1 == config.steps:
                found = evaluate(model, data)
                watch.log(found)
                if found["train_acc"] == 1.0 and first is None:
                    first = step
            progress(step + 1, config.steps)
        watch.flush()
        milestone(record, "interpolated", INTERPOLATED, first)
        ends = {
            f"{n}_error": 1 - found[f"{k}_acc"] for n, k in (("train", "train"), ("test", "val"))
        }
        conclude(
            record, {**ends, "train_loss": found["train_loss"], "test_loss": found["val_loss"]}
        )
    return Run.open(path)


#: By width; the labels make no difference.
SECONDS = {
    f"{variant}-width{width}-batch{Widths().batch}": seconds
    for width, seconds in zip(
        WIDTHS, (3.1, 3.1, 3.2, 3.3, 3.3, 3.3, 3.4, 3.5, 3.8, 4.0, 4.5, 4.6), strict=True
    )
    for variant in VARIANTS
}

EXPERIMENT = Experiment(
    config=Widths,
    run=run,
    label=lambda config: f"{config.variant}-width{config.width}-batch{config.batch}",
    variants=VARIANTS,
    check=check,
    figure=figure,
    grid={"width": WIDTHS},
    small={"width": 16, "examples": 100, "steps": 200},
    seconds={"small": 2.4} | SECONDS,
)
