"""Small models that between them hold most of what breaks a monitor, with data to train them on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from foreshock.probe import Probe

CLASSES = 4


class MLP(nn.Module):
    """Two hidden layers, in-place ReLU (which module backward hooks cannot stand)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(6, 16), nn.ReLU(inplace=True), nn.Linear(16, 16), nn.Tanh()
        )
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class CNN(nn.Module):
    """Batch normalisation (buffers that move) and dropout (random draws)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(4 * 16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu(self.norm(self.conv(x)))
        return self.head(self.drop(functional.avg_pool2d(h, 2).flatten(1)))


class Transformer(nn.Module):
    """Two pre-norm blocks with fused attention (no double backward), embedding tied to the head."""

    def __init__(self, width: int = 8, heads: int = 2, vocabulary: int = 12) -> None:
        super().__init__()
        self.heads = heads
        self.embed = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm1": nn.LayerNorm(width),
                    "qkv": nn.Linear(width, 3 * width),
                    "out": nn.Linear(width, width),
                    "norm2": nn.LayerNorm(width),
                    "up": nn.Linear(width, 2 * width),
                    "down": nn.Linear(2 * width, width),
                }
            )
            for _ in range(2)
        )
        self.head = nn.Linear(width, CLASSES)
        self.unembed = nn.Linear(width, vocabulary, bias=False)
        self.unembed.weight = self.embed.weight  # tied, and used twice in the forward pass

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            b, t, w = x.shape
            qkv = block["qkv"](block["norm1"](x)).reshape(b, t, 3, self.heads, w // self.heads)
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + block["out"](attended.transpose(1, 2).reshape(b, t, w))
            x = x + block["down"](functional.gelu(block["up"](block["norm2"](x))))
        pooled = x.mean(1)
        return self.head(pooled) + self.unembed(pooled)[:, :CLASSES]


@dataclass(frozen=True)
class Case:
    """A model with inputs of its kind."""

    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[int, torch.Generator], Tensor]

    def model(self, seed: int = 0) -> nn.Module:
        """The model, initialised from a seed; the global generator stays where it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.make()

    def batch(self, n: int, seed: int) -> tuple[Tensor, Tensor]:
        """Inputs and labels."""
        generator = torch.Generator().manual_seed(seed)
        x = self.inputs(n, generator)
        return x, torch.randint(CLASSES, (n,), generator=generator)

    def probe(self, *, batches: int = 4, size: int = 16) -> Probe:
        """Fixed batches and held-out examples."""
        drawn = [self.batch(size, 100 + i) for i in range(batches)]
        return Probe(loss=loss, batches=drawn, heldout=self.batch(48, 999))


def loss(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy."""
    return functional.cross_entropy(model(batch[0]), batch[1])


CASES = {
    "mlp": Case("mlp", MLP, lambda n, g: torch.randn(n, 6, generator=g)),
    "cnn": Case("cnn", CNN, lambda n, g: torch.randn(n, 1, 8, 8, generator=g)),
    "transformer": Case(
        "transformer", Transformer, lambda n, g: torch.randint(12, (n, 7), generator=g)
    ),
}
