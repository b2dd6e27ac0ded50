"""Clouds whose density is known: particles, and their true score."""

import math

import torch
from torch import Tensor


def gaussian(n: int, d: int, seed: int, *, mean=0.0, variance=1.0, dtype=torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return mean + math.sqrt(variance) * torch.randn(n, d, generator=generator, dtype=dtype)


def two_wells(n: int, d: int, seed: int) -> tuple[Tensor, Tensor]:
    """N(+-2, 1) in the first coordinate, N(0, 1) in the others; and the score."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, d, generator=generator)
    z[:, 0] += 2 * torch.sign(torch.rand(n, generator=generator) - 0.5)
    score = -z.clone()
    score[:, 0] += 2 * torch.tanh(2 * z[:, 0])
    return z, score


def relative_error(found: Tensor, true: Tensor) -> float:
    return float((found - true).square().sum() / true.square().sum())


def mixing(d: int, seed: int, dtype=torch.float64) -> Tensor:
    """A well-conditioned matrix that is neither symmetric nor orthogonal, of determinant not 1."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(d, d, generator=generator, dtype=dtype) / math.sqrt(d)
    return 2 * torch.eye(d, dtype=dtype) + 0.7 * noise
