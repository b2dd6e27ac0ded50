"""Grokking: a small network memorises modular addition and, much later, generalises.

Two tasks. ``p59``: two tokens, shared embedding, one hidden layer, cross-entropy, mini-batches;
memorised at about 160 steps, onset about 600, nine tenths about 1,000. ``p23``: one-hot inputs,
quadratic activation, squared loss, full batch; memorised at about 30, onset about 130.

The nulls change one thing each. ``labels``: random labels, everything else identical; the twin that
any signal must stay silent on. ``latin``: a random Latin square in place of the group table.
``decay``: no weight decay. ``data``: too few training pairs. ``frozen``: learning rate 0, so that
nothing moves and whatever is measured is what measuring makes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from foreshock.detectors import HeldoutSignalRule
from foreshock.detectors.forecasters import OnsetRatio
from foreshock.estimators import LatentFlow
from foreshock.evaluation import Milestones, milestones
from foreshock.evaluation.events import RULES
from foreshock.experiments.latin_square import random_latin_square
from foreshock.monitor import attach
from foreshock.monitor.presets import choose
from foreshock.probe import Probe
from foreshock.store import Run
from foreshock.types import Detector, Observable, OnAlarm

Task = Literal["p59", "p23"]
Variant = Literal["grok", "labels", "latin", "decay", "data", "frozen"]

#: What differs between the two tasks.
TASKS: dict[str, dict[str, Any]] = {
    "p59": {"modulus": 59, "steps": 1200, "batch": 512, "evaluate_every": 10},
    "p23": {"modulus": 23, "steps": 1500, "batch": 0, "evaluate_every": 10},
}


#: How many times `Grokking.every` apart an observable is measured; 1 where it is not named. The
#: window of the tail index fills with every step.
RHYTHM = {"curvature": 5, "latent_flow": 10, "ntk": 5, "ridge_signal": 2, "tails": 0}

#: Batches of the probe, and with latents: 8 dimensions of drift and noise need 25 of them.
BATCHES, LATENT_BATCHES = 8, 25


@dataclass(frozen=True)
class Grokking:
    """Configuration of one run.

    Args:
        task: ``p59`` (cross-entropy, mini-batches) or ``p23`` (squared loss, full batch).
        variant: ``grok``, or the null: ``labels``, ``latin``, ``decay``, ``data``, ``frozen``.
        seed: Seed of split, initial weights, batches, and of the null's table.
        steps: Updates; 0 for the task's own horizon (1,200 and 1,500).
        observables: Preset of the monitor, or ``none`` to train without it.
        every: Measure every so many steps, what is dear more rarely (`RHYTHM`); 0 for the budget
            instead.
        budget: Share of wall time, where ``every`` is 0.
        latent: Name of the layer whose latents are followed besides (``hidden``); none if empty.
            The probe then draws 25 batches in place of 8, which all its observables use.
    """

    task: Task = "p59"
    variant: Variant = "grok"
    seed: int = 0
    steps: int = 0
    observables: Literal["none", "free", "standard", "full", "research"] = "standard"
    every: int = 10
    budget: float = 0.05
    latent: str = ""

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"The `task` must be one of {sorted(TASKS)}. Got {self.task!r}.")
        if self.variant not in Variant.__args__:  # type: ignore[attr-defined]
            raise ValueError(
                f"The `variant` must be one of {Variant.__args__}. Got {self.variant!r}."  # type: ignore[attr-defined]
            )
        for field in ("steps", "every"):
            if getattr(self, field) < 0:
                raise ValueError(f"The `{field}` must not be negative. Got {getattr(self, field)}.")

    @property
    def modulus(self) -> int:
        """Order of the group."""
        return TASKS[self.task]["modulus"]

    @property
    def horizon(self) -> int:
        """Updates to make."""
        return self.steps or TASKS[self.task]["steps"]

    @property
    def evaluate_every(self) -> int:
        """Distance of evaluations, at most 2 % of the median half-way time."""
        return TASKS[self.task]["evaluate_every"]


@dataclass(frozen=True)
class Data:
    """Training and held-out pairs: token indices ``(n, 2)`` and labels ``(n,)``."""

    train: tuple[Tensor, Tensor]
    heldout: tuple[Tensor, Tensor]


class TokenMLP(nn.Module):
    """Shared embedding of two tokens, concatenated, one hidden ReLU layer, no output bias."""

    def __init__(self, modulus: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(modulus, 64)
        self.hidden = nn.Linear(128, 256)
        self.readout = nn.Linear(256, modulus, bias=False)

    def forward(self, pairs: Tensor) -> Tensor:
        """Pairs ``(n, 2)`` to logits ``(n, modulus)``."""
        return self.readout(functional.relu(self.hidden(self.embed(pairs).flatten(1))))


class QuadraticMLP(nn.Module):
    """One-hot pairs, 128 squared hidden units, no bias."""

    def __init__(self, modulus: int) -> None:
        super().__init__()
        self.modulus = modulus
        self.hidden = nn.Linear(2 * modulus, 128, bias=False)
        self.readout = nn.Linear(128, modulus, bias=False)

    def forward(self, pairs: Tensor) -> Tensor:
        """Pairs ``(n, 2)`` to outputs ``(n, modulus)``."""
        hot = functional.one_hot(pairs, self.modulus).flatten(1).to(self.hidden.weight.dtype)
        return self.readout(self.hidden(hot).square())


def make_data(config: Grokking) -> Data:
    """All pairs, split once: half for training (three tenths in the ``data`` null).

    Pairs are ordered and neither network is symmetric in its two tokens, so (b, a) in the training
    half tells it nothing about (a, b).

    Args:
        config: Task, variant and seed.

    Returns:
        The two halves.
    """
    p = config.modulus
    generator = torch.Generator().manual_seed(config.seed)
    a, b = torch.arange(p).repeat_interleave(p), torch.arange(p).repeat(p)
    if config.variant == "labels":
        labels = torch.randint(p, (p * p,), generator=generator)
    elif config.variant == "latin":
        labels = torch.tensor(random_latin_square(p, config.seed)).reshape(-1)
    else:
        labels = (a + b) % p
    order = torch.randperm(p * p, generator=generator)
    cut = int((0.3 if config.variant == "data" else 0.5) * p * p)
    pairs = torch.stack([a, b], dim=1)
    train, heldout = order[:cut], order[cut:]
    return Data((pairs[train], labels[train]), (pairs[heldout], labels[heldout]))


def make_model(config: Grokking) -> nn.Module:
    """The network of the task, initialised from the seed without moving the global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return (TokenMLP if config.task == "p59" else QuadraticMLP)(config.modulus)


def make_optimizer(config: Grokking, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW at 0.005 (0 in the ``frozen`` null), weight decay 1 (0 in the ``decay`` null)."""
    rate = 0.0 if config.variant == "frozen" else 5e-3
    decay = 0.0 if config.variant == "decay" else 1.0
    return torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=decay)


def loss_of(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy, or the squared distance to the one-hot label for the quadratic network."""
    pairs, labels = batch
    outputs = model(pairs)
    if isinstance(model, QuadraticMLP):
        hot = functional.one_hot(labels, outputs.shape[1]).to(outputs.dtype)
        return functional.mse_loss(outputs, hot)
    return functional.cross_entropy(outputs, labels)


def draw_batch(config: Grokking, data: Data, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """512 training pairs with replacement, or all of them for the full-batch task."""
    size = TASKS[config.task]["batch"]
    pairs, labels = data.train
    if not size:
        return pairs, labels
    chosen = torch.randint(len(pairs), (size,), generator=generator)
    return pairs[chosen], labels[chosen]


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
        detectors: Rules to run live; `default_detectors` if not given.
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
    asked = [] if config.observables == "none" else observables or config.observables
    if config.latent:
        asked = with_latents(asked, config, probe)
    chosen = choose(asked, probe).observables
    record = Run.create(path, kind="grokking", config=asdict(config), seed=config.seed)
    watch = attach(
        model,
        optimizer,
        run=record,
        probe=probe,
        observables=asked,
        budget=None if config.every else config.budget,
        every=rhythm(config.every, [o.name for o in chosen]) if config.every else None,
        detectors=default_detectors(config) if detectors is None else detectors,
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
        record_milestones(record, config)
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
        record.event("milestone", "grokking", {"name": name, "rule": RULES[name]}, step=step)
    return found
