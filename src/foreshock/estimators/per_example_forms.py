"""Bilinear forms u'Gv of gradients, from the gradient itself or from per-example terms.

The form is linear in G, so those of the examples add up to that of the batch's gradient. Where they
do not, something was not heard.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from foreshock.estimators.per_example_operands import Operand
from foreshock.estimators.per_example_rules import Rows, Term

NARROW = (torch.float16, torch.bfloat16)


def stacked(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors stacked in float64, with one conversion of what they promote to together."""
    return torch.stack(list(tensors), dim).double()


def form(gradient: Tensor) -> Tensor:
    """A bilinear form u'Gv of a gradient as a matrix of ``len(gradient)`` rows, ``()``."""
    dtype, device = gradient.dtype, gradient.device
    if dtype in NARROW:
        gradient, dtype = gradient.float(), torch.float32
    if gradient.dim() != 2:
        gradient = gradient.flatten(1) if gradient.dim() > 2 else gradient.reshape(-1)
    if gradient.dim() == 2:
        gradient = gradient.mv(wave_of(gradient.shape[1], dtype, device))
    return gradient.dot(wave_of(len(gradient), dtype, device))


def form_of_term(operand: Operand, term: Term) -> Tensor:
    """The same form of Σ_i of per-example gradients."""
    if isinstance(term, Rows):
        total = term.values.sum(0)
        if not operand.plain:
            return form(total.reshape(operand.shape[::-1]).T)
        return form(total.reshape(operand.shape))
    left, right, groups = term.left, term.right, term.groups
    # The form is the same for a matrix and its transpose.
    wave = wave_of(term.height * groups, right.dtype, right.device)
    if term.sparse:
        along = wave[left]
    elif groups == 1:
        along = left @ wave
    else:
        blocks = left.unflatten(0, (-1, groups)) @ wave.view(groups, -1, 1)
        along = blocks.flatten(0, 1).squeeze(-1)
    across = right @ wave_of(right.shape[-1], right.dtype, right.device)
    return torch.dot(along.reshape(-1), across.reshape(-1))


def form_weights(shape: torch.Size, term: Term) -> Tensor:
    """The tensor whose inner product with a gradient is its `form`."""
    like = term.values if isinstance(term, Rows) else term.right
    length = shape[0] if shape else 1
    rows = wave_of(length, like.dtype, like.device)
    if len(shape) < 2:
        return rows.reshape(shape)
    columns = wave_of(shape.numel() // max(1, length), like.dtype, like.device)
    return torch.outer(rows, columns).reshape(shape)


def weighted(weights: Tensor, term: Term) -> Tensor:
    """Inner product of Σ_i of per-example gradients with a tensor."""
    if isinstance(term, Rows):
        values = term.values
        own = weights.numel() == values.numel() != values.shape[1]
        return ((values if own else values.sum(0)) * weights.reshape(-1, values.shape[1])).sum()
    matrix = weights.reshape(term.height, -1)
    left = matrix[term.left] if term.sparse else term.left @ matrix
    return (left * term.right).sum()


@lru_cache(maxsize=256)
def wave_of(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A fixed vector that nothing in a model is orthogonal to, ``(length,)``."""
    with torch.inference_mode(False):
        place = torch.arange(1, length + 1, dtype=torch.float64, device=device)
        return torch.cos(place).to(dtype)


def unexplained_numbers(
    sums: Sequence[float],
    seen: Sequence[float],
    sizes: Sequence[float],
    expected: Sequence[float],
    share: float,
    least: float,
) -> list[int]:
    """Of which parameters the form is not that of what was heard, in plain numbers.

    For weights on the host, where a dozen small tensor operations cost three times as much.

    Args:
        sums: Sum of the squared norms of the examples, by parameter.
        seen: Form of its gradient.
        sizes: Norm of its gradient.
        expected: Form of the sum of the terms.
        share: Part of a parameter's norms that may be unaccounted for.
        least: The same of the norms of all.

    Returns:
        Their indices. Where something is nan they all count.

    Examples:
        >>> unexplained_numbers([1.0, 1.0], [2.0, 2.0], [1.0, 1.0], [2.001, 2.1], 0.01, 0.0)
        [1]
    """
    # Rounding goes with the terms, which may be larger than their sum.
    scales = [math.sqrt(q) + size for q, size in zip(sums, sizes, strict=True)]
    floor = least * math.sqrt(sum(scale * scale for scale in scales))
    rows = enumerate(zip(seen, expected, scales, strict=True))
    # This way round, so that nan is wrong too.
    return [i for i, (a, b, scale) in rows if not abs(a - b) <= share * scale + floor]


def unexplained(
    sums: Tensor, seen: Tensor, sizes: Tensor, expected: Tensor, share: float, least: float
) -> Tensor:
    """The same on an accelerator, as a mask ``(parameters,)`` and without a transfer."""
    scale = sums.sqrt() + sizes
    bound = torch.add(least * torch.linalg.vector_norm(scale), scale, alpha=share)
    return ~((seen - expected).abs() <= bound)
