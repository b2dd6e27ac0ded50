"""A landscape without slope: what is left is the noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Flat:
    """L = 0 in any number of dimensions."""

    dimension: int = 1

    def energy(self, x: Tensor) -> Tensor:
        return x.new_zeros(x.shape[:-1])

    def gradient(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def hessian(self, x: Tensor) -> Tensor:
        return x.new_zeros(*x.shape, x.shape[-1])
