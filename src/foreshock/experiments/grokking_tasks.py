"""Grokking, its parts: configuration, data, networks, losses and optimizers of the tasks.

`foreshock.experiments.grokking` says what they are for, and trains them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from foreshock.experiments.latin_square import random_latin_square
from foreshock.experiments.setup import at_least, one_of, seeded

Task = Literal["p59", "p23", "p31", "transformer", "parity"]
Variant = Literal["grok", "labels", "latin", "decay", "data", "easy", "frozen"]
Optimizer = Literal["adamw", "sgd", "momentum", "muon"]

#: What differs between the tasks. ``batch`` 0 is the full batch; ``share`` of the examples trains,
#: ``few`` in the ``data`` null.
TASKS: dict[str, dict[str, Any]] = {
    "p59": {"modulus": 59, "steps": 1200, "batch": 512, "share": 0.5, "few": 0.3},
    "p23": {"modulus": 23, "steps": 1500, "batch": 0, "share": 0.5, "few": 0.3},
    "p31": {"modulus": 31, "steps": 1500, "batch": 0, "share": 0.5, "few": 0.3},
    "transformer": {"modulus": 47, "steps": 1500, "batch": 0, "share": 0.56, "few": 0.3},
    "parity": {"modulus": 2, "steps": 2500, "batch": 0, "share": 0.5, "few": 0.1},
}
#: Distance of the seeds of the ``labels`` null's shuffle from those of everything else.
SHUFFLE = 1 << 40
#: Distance of evaluations, at most 2 % of the median half-way time.
EVALUATE_EVERY = 10
#: Sparse parity: bits of an input, bits that count, and examples of both halves together.
BITS, KEYS, EXAMPLES = 30, 3, 3000

#: Learning rate and weight decay; AdamW's are those of the reference set-ups, the other optimizers'
#: were chosen on development seeds (0; of p23 0 to 2), among six pairs or fewer each.
RATES: dict[str, dict[str, tuple[float, float]]] = {
    "adamw": {
        "p59": (5e-3, 1.0),
        "p23": (5e-3, 1.0),
        "p31": (1e-3, 1.0),
        "transformer": (5e-3, 1.0),
        "parity": (5e-3, 0.3),
    },
    "sgd": {"p59": (2.0, 3e-3), "p23": (20.0, 1e-4)},
    "momentum": {"p59": (0.2, 3e-3), "p23": (2.0, 1e-4)},
    "muon": {"p59": (0.02, 0.3), "p23": (0.02, 1.0)},
}


@dataclass(frozen=True)
class Grokking:
    """Configuration of one run.

    Args:
        task: ``p59`` (cross-entropy, mini-batches) or ``p23`` (squared loss, full batch); for
            transfer ``p31``, ``transformer``, ``parity``.
        variant: ``grok``, or the null: ``labels``, ``latin``, ``decay``, ``data``, ``easy``,
            ``frozen``.
        seed: Seed of split, initial weights, batches, and of the null's table.
        steps: Updates; 0 for the task's own horizon (1,200 and 1,500).
        observables: Preset of the monitor, or ``none`` to train without it.
        every: Measure every so many steps, what is dear more rarely (`grokking.RHYTHM`); 0 for the
            budget instead.
        budget: Share of wall time, where ``every`` is 0.
        latent: Name of the layer whose latents are followed besides (``hidden``); none if empty.
            The probe then draws 25 batches in place of 8, which all its observables use.
        optimizer: ``adamw``, or an arm: ``sgd``, ``momentum`` (0.9), ``muon`` (AdamW for the
            embedding and biases).
    """

    task: Task = "p59"
    variant: Variant = "grok"
    seed: int = 0
    steps: int = 0
    observables: Literal["none", "free", "standard", "full", "research"] = "standard"
    every: int = 10
    budget: float = 0.05
    latent: str = ""
    optimizer: Optimizer = "adamw"

    def __post_init__(self) -> None:
        one_of(self, task=TASKS, variant=get_args(Variant), optimizer=get_args(Optimizer))
        at_least(self, steps=0, every=0)
        if self.task == "parity" and self.variant == "latin":
            raise ValueError(
                "The `variant` 'latin' of `Grokking` needs a table of a group, which the `task` "
                "'parity' has not. Use 'labels'."
            )
        if self.task not in RATES[self.optimizer]:
            raise ValueError(
                f"The `optimizer` {self.optimizer!r} of `Grokking` has a learning rate for the "
                f"tasks {sorted(RATES[self.optimizer])} only. Got the `task` {self.task!r}."
            )

    @property
    def modulus(self) -> int:
        """Order of the group, and the number of labels."""
        return TASKS[self.task]["modulus"]

    @property
    def horizon(self) -> int:
        """Updates to make."""
        return self.steps or TASKS[self.task]["steps"]

    @property
    def evaluate_every(self) -> int:
        """Distance of evaluations."""
        return EVALUATE_EVERY

    @property
    def share(self) -> float:
        """Share of the examples that trains."""
        task = TASKS[self.task]
        return {"data": task["few"], "easy": 0.8}.get(self.variant, task["share"])


@dataclass(frozen=True)
class Data:
    """Training and held-out examples: inputs ``(n, 2)`` (parity: ``(n, 30)``), labels ``(n,)``."""

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


class Transformer(nn.Module):
    """One layer, width 48, four heads, ReLU, no normalisation; read at a third token, "=".

    After Nanda and others (2023, arXiv:2301.05217), smaller.
    """

    def __init__(self, modulus: int, width: int = 48, heads: int = 4) -> None:
        super().__init__()
        self.modulus, self.heads = modulus, heads
        self.embed = nn.Embedding(modulus + 1, width)
        self.place = nn.Embedding(3, width)
        for table in (self.embed, self.place):
            nn.init.normal_(table.weight, std=width**-0.5)
        self.attend = nn.Linear(width, 3 * width, bias=False)
        self.project = nn.Linear(width, width, bias=False)
        self.hidden = nn.Linear(width, 4 * width)
        self.back = nn.Linear(4 * width, width)
        self.readout = nn.Linear(width, modulus, bias=False)

    def forward(self, pairs: Tensor) -> Tensor:
        """Pairs ``(n, 2)`` to logits ``(n, modulus)``."""
        equals = torch.full_like(pairs[:, :1], self.modulus)
        x = self.embed(torch.cat([pairs, equals], 1)) + self.place.weight  # (n, 3, width)
        heads = self.attend(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        queries, keys, values = heads  # (n, heads, 3, width/heads) each
        scores = queries @ keys.transpose(2, 3) * keys.shape[3] ** -0.5
        mixed = (scores.softmax(3) @ values)[:, :, -1].flatten(1)  # only "=" is read
        x = x[:, -1] + self.project(mixed)
        return self.readout(x + self.back(functional.relu(self.hidden(x))))


class ParityMLP(nn.Module):
    """Thirty signs, one hidden ReLU layer of 128, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(BITS, 128)
        self.readout = nn.Linear(128, 2, bias=False)

    def forward(self, bits: Tensor) -> Tensor:
        """Bits ``(n, 30)`` to logits ``(n, 2)``."""
        signs = 2 * bits.to(self.hidden.weight.dtype) - 1
        return self.readout(functional.relu(self.hidden(signs)))


def make_data(config: Grokking) -> Data:
    """All pairs (for parity: as many inputs drawn without repetition), split once.

    Pairs are ordered. The MLPs are not symmetric in their two tokens, so (b, a) in the training
    half tells them nothing about (a, b); the transformer's operation, a - b, does not commute.

    Args:
        config: Task, variant and seed.

    Returns:
        The two parts.
    """
    generator = torch.Generator().manual_seed(config.seed)
    inputs, labels = _parity(generator) if config.task == "parity" else _table(config)
    count = len(inputs)
    order = torch.randperm(count, generator=generator)
    if config.variant == "labels":
        # The same labels at other inputs, by a generator of their own: the split must not move.
        other = torch.Generator().manual_seed(config.seed + SHUFFLE)
        labels = labels[torch.randperm(count, generator=other)]
    cut = int(config.share * count)
    train, heldout = order[:cut], order[cut:]
    return Data((inputs[train], labels[train]), (inputs[heldout], labels[heldout]))


def _table(config: Grokking) -> tuple[Tensor, Tensor]:
    p = config.modulus
    a, b = torch.arange(p).repeat_interleave(p), torch.arange(p).repeat(p)
    labels = (a - b if config.task == "transformer" else a + b) % p
    if config.variant == "latin":
        labels = torch.tensor(random_latin_square(p, config.seed)).reshape(-1)
    return torch.stack([a, b], dim=1), labels


def _parity(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Distinct inputs and the parity of three bits, which the seed chooses."""
    keys = torch.randperm(BITS, generator=generator)[:KEYS]
    drawn = torch.randint(2, (EXAMPLES, BITS), generator=generator)
    # Of 2^30 inputs: 0.002 repetitions are expected, and none may be on both sides of the split.
    inputs = torch.unique(drawn, dim=0)
    return inputs, inputs[:, keys].sum(1) % 2


def make_model(config: Grokking) -> nn.Module:
    """The network of the task, initialised from the seed without moving the global generator."""
    p = config.modulus
    makers: dict[str, Callable[[], nn.Module]] = {
        "p59": lambda: TokenMLP(p),
        "p23": lambda: QuadraticMLP(p),
        "p31": lambda: QuadraticMLP(p),
        "transformer": lambda: Transformer(p),
        "parity": ParityMLP,
    }
    return seeded(config.seed, makers[config.task])


class MuonAdamW(torch.optim.Optimizer):
    """Muon for the weights of linear layers, AdamW for what is left, as one optimizer.

    Groups and state are the parts' own, so what reads or changes a rate needs to know nothing of
    the parts; torch registers its hooks on the whole.

    Args:
        model: The network.
        lr: Rate of Muon.
        weight_decay: Of Muon, decoupled.
        rest: Rate and weight decay of AdamW.
    """

    def __init__(
        self, model: nn.Module, *, lr: float, weight_decay: float, rest: tuple[float, float]
    ) -> None:
        matrices = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
        ours = {id(p) for p in matrices}
        others = [p for p in model.parameters() if id(p) not in ours]
        muon = torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay)
        for group in muon.param_groups:
            group["decoupled_weight_decay"] = True  # as AdamW's groups say
        self.parts: list[torch.optim.Optimizer] = [muon]
        if others:
            self.parts.append(
                torch.optim.AdamW(others, lr=rest[0], betas=(0.9, 0.98), weight_decay=rest[1])
            )
        super().__init__(model.parameters(), {})
        self.param_groups = [group for part in self.parts for group in part.param_groups]
        for part in self.parts:
            part.state = self.state

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Step of every part.

        Args:
            closure: Not used.
        """
        del closure
        for part in self.parts:
            part.step()


def make_optimizer(config: Grokking, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer at its rate (0 in the ``frozen`` null) and decay (0 in the ``decay`` null).

    AdamW and Muon decay the weights apart from the gradient, SGD as a part of it.

    Args:
        config: Task, variant and optimizer.
        model: What is trained.

    Returns:
        The optimizer.
    """

    def rates(name: str) -> tuple[float, float]:
        rate, decay = RATES[name][config.task]
        return (
            0.0 if config.variant == "frozen" else rate,
            0.0 if config.variant == "decay" else decay,
        )

    rate, decay = rates(config.optimizer)
    if config.optimizer == "muon":
        return MuonAdamW(model, lr=rate, weight_decay=decay, rest=rates("adamw"))
    if config.optimizer == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=decay)
    momentum = 0.9 if config.optimizer == "momentum" else 0.0
    return torch.optim.SGD(model.parameters(), lr=rate, momentum=momentum, weight_decay=decay)


def loss_of(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy, or the squared distance to the one-hot label for the quadratic network."""
    pairs, labels = batch
    outputs = model(pairs)
    if isinstance(model, QuadraticMLP):
        hot = functional.one_hot(labels, outputs.shape[1]).to(outputs.dtype)
        return functional.mse_loss(outputs, hot)
    return functional.cross_entropy(outputs, labels)


def draw_batch(config: Grokking, data: Data, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """512 training pairs with replacement, or all of them for a full-batch task."""
    size = TASKS[config.task]["batch"]
    pairs, labels = data.train
    if not size:
        return pairs, labels
    chosen = torch.randint(len(pairs), (size,), generator=generator)
    return pairs[chosen], labels[chosen]
