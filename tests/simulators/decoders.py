"""A small decoder with fixed weights, and seeded generators."""

from __future__ import annotations

import torch
from torch import nn


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tanh_decoder(d: int = 3, x: int = 4) -> nn.Sequential:
    """A decoder d-5-x in float64 with fixed random weights."""
    decoder = nn.Sequential(nn.Linear(d, 5), nn.Tanh(), nn.Linear(5, x)).double()
    with torch.no_grad():
        for p in decoder.parameters():
            p.copy_(torch.randn(p.shape, generator=generator(1), dtype=torch.float64))
    return decoder
