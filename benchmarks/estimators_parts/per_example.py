"""Cost of per-example gradient norms within the step's own backward pass.

One step is forward, backward and AdamW; it alternates with the same step while the live source
listens (`monitor.examples.Examples`, armed and read out at every step). Medians of the ratios of
neighbours, in CPU time of the process, which other processes disturb less than wall time. The plain
step calls nothing of the listening.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from foreshock.monitor.examples import Examples
from foreshock.probe.view import ModelView

VOCABULARY, SEQUENCE = 64, 64


class Transformer(nn.Module):
    """Four pre-norm blocks of width 144: 1.02 M parameters, embedding tied to the head."""

    def __init__(self, width: int = 144, heads: int = 4, depth: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        self.place = nn.Parameter(0.02 * torch.randn(SEQUENCE, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.place
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def mlp() -> nn.Module:
    """784-256-128-10 with GELU: 235,146 parameters."""
    return nn.Sequential(
        nn.Linear(784, 256), nn.GELU(), nn.Linear(256, 128), nn.GELU(), nn.Linear(128, 10)
    )


def row(what: str, model: nn.Module, inputs: Tensor, labels: Tensor, rounds: int) -> dict[str, Any]:
    """One model: ratio of a step that is listened to over one that is not, and the coverage."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    view = ModelView(model)
    examples = Examples(view, model)
    norms, coverage = None, 0.0
    ratios, seconds = [], []
    for _ in range(rounds + 3):
        took = []
        for listening in (False, True):
            start = time.process_time()
            if listening:
                examples.arm(True)
            optimizer.zero_grad()
            output = model(inputs)
            functional.cross_entropy(output.flatten(0, -2), labels.flatten()).backward()
            if listening:
                norms = examples.take([p.grad for p in view.live_parameters])
            optimizer.step()
            took.append(time.process_time() - start)
        coverage = norms.coverage if norms is not None else 0.0
        seconds.append(took[0])
        ratios.append(took[1] / took[0])
    weights = sum(p.numel() for p in model.parameters())
    return {
        "what": "per-example norms within the same backward pass",
        "model": f"{what}, {weights / 1e6:.2f} M weights",
        "ratio": statistics.median(ratios[3:]),
        "coverage": coverage,
        "step_seconds": statistics.median(seconds[3:]),
    }


def rows() -> list[dict[str, Any]]:
    """The MLP at batch 256, and the transformer at 16 sequences of 64 tokens; one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        torch.manual_seed(0)
        tokens = torch.randint(VOCABULARY, (2, 16, SEQUENCE))
        return [
            row("MLP, batch 256", mlp(), torch.randn(256, 784), torch.randint(10, (256,)), 60),
            row("transformer, 16 x 64", Transformer(), tokens[0], tokens[1], 15),
        ]
    finally:
        torch.set_num_threads(threads)
