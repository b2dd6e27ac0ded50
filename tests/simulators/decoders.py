"""Small decoders with fixed weights, a potential of one, and seeded generators."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foreshock.simulators.decoder import DecoderPotential


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tanh_decoder(d: int = 3, x: int = 4) -> nn.Sequential:
    """A decoder d-5-x in float64 with fixed random weights."""
    decoder = nn.Sequential(nn.Linear(d, 5), nn.Tanh(), nn.Linear(5, x)).double()
    with torch.no_grad():
        for p in decoder.parameters():
            p.copy_(torch.randn(p.shape, generator=generator(1), dtype=torch.float64))
    return decoder


def small_decoder(dtype: torch.dtype = torch.float64) -> nn.Module:
    """From 2 latents over 8 tanh units to 3 outputs, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)


def twisted(n: int) -> tuple[DecoderPotential, Tensor]:
    """The energy of `tanh_decoder` with targets 0, and n particles."""
    z = torch.randn(n, 3, generator=generator(11), dtype=torch.float64)
    targets = torch.zeros(n, 4, dtype=torch.float64)
    return DecoderPotential(tanh_decoder(), targets, dimension=3, noise_scale=2.0), z
