"""What breaks other tools: each observable works there, or says in one sentence why it cannot.

Every model is trained bare and watched, with everything measured at every step; the weights must be
bitwise the same, no observable may fail, and what cannot be measured is listed here by its reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import foreshock as fs
from foreshock.estimators import (
    Geometry,
    LocalLearningCoefficient,
    PublishedEdge,
    Trajectory,
    UpdateWindow,
    catalogue,
    published_catalogue,
)
from foreshock.probe import Probe
from tests.cases import CLASSES, CNN, Transformer

STEPS = 7

#: What cannot be measured here, and the words that say why. Everything else must have a value.
EXPECTED = {
    "attention/entropy": "calls no attention",
    "modular/": "not integer pairs",
    "grad/critical_": "formula for SGD without momentum",
    "grad/fdt": "of the 16 measurements",
    "tails/hill": "is not full yet",
    "published/": "returns nothing before 100 gradient norms",
    "trajectory/correlation_dimension": "needs at least 20 updates",
    "features/alignment": "does not end in a torch.nn.Linear",
    "latent/kernel_ess": "there is no kernel",
    "latent/free_energy": "There is no temperature",
    "latent/loss_cosine": "not told from its noise",
    "readout/ridge_signal": "needs a model whose last layer is",
    "readout/probe_signal": "needs a model whose last layer is",
}


class Checkpointed(nn.Module):
    """The middle of the network is recomputed in the backward pass, dropout included."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 12)
        self.middle = nn.Sequential(nn.Linear(12, 12), nn.GELU(), nn.Dropout(0.2))
        self.head = nn.Linear(12, CLASSES)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.inner(x))
        h = checkpoint(self.middle, h, use_reentrant=self.reentrant)
        assert isinstance(h, Tensor)
        return self.head(h)


class Shared(nn.Module):
    """One layer is used twice in the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 10)
        self.again = nn.Linear(10, 10)
        self.head = nn.Linear(10, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.inner(x))
        h = torch.tanh(self.again(h))
        return self.head(torch.tanh(self.again(h)))


class Encoder(nn.Module):
    """`nn.TransformerEncoderLayer`, whose attention hides its projections from module hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(tokens)).mean(1))


def images(n: int, g: torch.Generator) -> Tensor:
    return torch.randn(n, 1, 8, 8, generator=g)


def vectors(n: int, g: torch.Generator) -> Tensor:
    return torch.randn(n, 6, generator=g)


def tokens(n: int, g: torch.Generator) -> Tensor:
    return torch.randint(12, (n, 7), generator=g)


SITUATIONS: dict[str, tuple[Callable[[], nn.Module], Callable[[int, torch.Generator], Tensor]]] = {
    "batch norm and dropout": (CNN, images),
    "fused attention, tied embedding": (Transformer, tokens),
    "encoder layer": (Encoder, tokens),
    "checkpoint": (lambda: Checkpointed(reentrant=False), vectors),
    "reentrant checkpoint": (lambda: Checkpointed(reentrant=True), vectors),
    "shared module": (Shared, vectors),
}


def loss(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def second(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    return model(batch[0]).square().mean()


def run(situation: str, folder: Path | None, *, compiled: bool = False) -> dict[str, Tensor]:
    """Train a few steps; watched if there is a folder."""
    make, inputs = SITUATIONS[situation]
    torch.manual_seed(0)
    model = make().train()
    g = torch.Generator().manual_seed(1)

    def batch(n: int) -> tuple[Tensor, Tensor]:
        return inputs(n, g), torch.randint(CLASSES, (n,), generator=g)

    data = [batch(16) for _ in range(STEPS)]
    probe = Probe(
        loss=loss,
        batches=[batch(16) for _ in range(8)],
        heldout=batch(48),
        train=batch(48),
        losses={"label": loss, "size": second},
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    called = torch.compile(model, backend="eager") if compiled else model
    watch = None
    if folder is not None:
        watch = fs.attach(
            called, optimizer, run=folder, probe=probe, observables=members(), every=1
        )
    for one in data:
        optimizer.zero_grad()
        loss(called, one).backward()
        optimizer.step()
    if watch is not None:
        watch.close()
    return {k: v.clone() for k, v in model.state_dict().items()}


def members() -> list[Any]:
    """Everything there is; windows short enough to fill."""
    short = {
        "update_window": UpdateWindow(width=5, stride=1),
        "trajectory": Trajectory(width=3, stride=1),
        "geometry": Geometry(examples=4),
        "llc": LocalLearningCoefficient(chains=2, burn_in=4, draws=8),
    }
    published = {"published_edge": PublishedEdge(width=4, stride=1)}
    return [
        *(short.get(one.name, one) for one in catalogue()),
        *(published.get(one.name, one) for one in published_catalogue()),
    ]


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("situation", SITUATIONS)
def test_every_observable_works_or_says_why_not(
    situation: str, compiled: bool, tmp_path: Path
) -> None:
    bare = run(situation, None, compiled=compiled)
    watched = run(situation, tmp_path / "run", compiled=compiled)
    assert all(torch.equal(bare[k], watched[k]) for k in bare)
    with fs.Run.open(tmp_path / "run") as record:
        off = {e.payload["name"]: e.payload["reason"] for e in record.events("observable_off")}
        assert off == {}
        values = {
            name: [row[name] for _, row in record.rows(names=[name]) if name in row]
            for observable in members()
            for name in (s.name for s in observable.series if not s.array)
        }
    for name, estimates in values.items():
        assert estimates, name  # a value or a flag at every measurement
        if any(math.isfinite(e.value) for e in estimates):
            continue
        words = [text for start, text in EXPECTED.items() if name.startswith(start)]
        reason = estimates[-1].reason
        assert words and words[0] in reason, f"{name}: {reason}"
