"""Hessian-vector products by one gradient each, where their error has been measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from foreshock.probe.quiet import private_random
from foreshock.probe.view import ModelView, norm

#: The step in weight space is √ε |θ| over this. On float32 networks the error of a product along
#: the top eigenvector is least at 4 to 16 where there are 10³ weights or fewer, at 64 to 128 in a
#: transformer of 10⁶; at 32 it is .03 to .3 % of λ_max in all of them. Longer steps truncate and
#: cross kinks, shorter ones round. Chosen on development seeds.
FINENESS = 32


def vector_type(weights: Sequence[Tensor]) -> torch.dtype:
    """Type of the vectors that lose nothing: float64 for float64 weights, float32 else.

    Args:
        weights: The weights.

    Returns:
        One of the two.

    Examples:
        >>> vector_type([torch.zeros(1), torch.zeros(1, dtype=torch.float64)])
        torch.float64
    """
    wide = any(weight.dtype == torch.float64 for weight in weights)
    return torch.float64 if wide else torch.float32


class GradientDifferences:
    """v ↦ (g(θ + hv) − g(θ))/h: Hessian products for one gradient each, and one for all of them.

    An exact product by reverse over reverse takes two training steps on a transformer, the graph it
    needs another; a gradient takes one and no graph. The price is an error: truncation h/2 · L'''vv
    and rounding ε|g|/h, with h|v| = √ε |θ| / 32. It is not the central difference of
    `HessianProduct`, which is for models without a second derivative: there nothing can tell how
    far off it is. These are for models that have one: `disagreement` measures the error of one
    product against an exact one.

    Every gradient is taken with the same private random numbers. Call within `quiet`.

    Args:
        view: The live weights.
        loss: ``loss(model, batch) -> scalar``.
        batch: One batch.

    Examples:
        >>> import torch
        >>> from foreshock.probe.quiet import quiet
        >>> view = ModelView(torch.nn.Linear(1, 1, bias=False))
        >>> with quiet(0):
        ...     square = GradientDifferences(view, lambda m, x: m(x).pow(2).sum(), torch.ones(1, 1))
        ...     round(square(torch.ones(1)).item(), 1)
        2.0
    """

    method = "gradients"

    def __init__(self, view: ModelView, loss: Callable, batch: object) -> None:
        self._view, self._loss, self._batch = view, loss, batch
        self._weights = view.parameters
        self._sizes = [weight.numel() for weight in self._weights]
        self.dimension = sum(self._sizes)
        self.device = self._weights[0].device
        self._base: Tensor | None = None
        # The coarsest type decides: a shorter step would vanish in its rounding.
        eps = max(torch.finfo(weight.dtype).eps for weight in self._weights)
        self._step = math.sqrt(eps) / FINENESS * norm(self._weights).clamp_min(1e-6)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the vectors that lose nothing."""
        return vector_type(self._weights)

    def __call__(self, v: Tensor) -> Tensor:
        """Hv for a flat vector, in the vector's type."""
        if self._base is None:
            self._base = self._gradient(self._weights)
        h = self._step / torch.linalg.vector_norm(v).clamp_min(1e-30)
        moved = [
            torch.addcmul(weight, part.view_as(weight).to(weight.dtype), h.to(weight.dtype))
            for part, weight in zip(v.split(self._sizes), self._weights, strict=True)
        ]
        difference = self._gradient(moved).to(v.dtype).sub_(self._base)
        return difference.div_(h.to(v.dtype))

    def by_differences(self) -> GradientDifferences:
        """Itself."""
        return self

    def _gradient(self, weights: Sequence[Tensor]) -> Tensor:
        leaves = [weight.detach().requires_grad_() for weight in weights]
        with private_random(self._view.seed):
            value = self._view.loss(leaves, self._loss, self._batch)
        rows = torch.autograd.grad(value, leaves, materialize_grads=True, allow_unused=True)
        return torch.cat([row.reshape(-1) for row in rows]).to(self.dtype)


def disagreement(truth: Tensor, other: Tensor) -> float:
    """How far a product by differences is off: |Av − Hv| / |Hv|.

    Args:
        truth: Hv for a vector v, best the one whose eigenvalue is wanted, ``(d,)``.
        other: Av.

    Returns:
        The relative error; inf where it is not finite, or Hv is 0.

    Examples:
        >>> import torch
        >>> disagreement(torch.full((2,), 2.0), torch.full((2,), 2.5))
        0.25
    """
    off = torch.linalg.vector_norm(other - truth) / torch.linalg.vector_norm(truth)
    off = off.item()
    return off if math.isfinite(off) else math.inf
