"""Derivatives of a function of the weights along several directions in them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def _split(leaves: Sequence[Tensor], flat: Tensor) -> tuple[Tensor, ...]:
    """Flat updates ``(..., P)`` in the shapes and types of the weights."""
    parts = flat.split([leaf.numel() for leaf in leaves], dim=-1)
    return tuple(
        part.reshape(*flat.shape[:-1], *leaf.shape).to(leaf)
        for part, leaf in zip(parts, leaves, strict=True)
    )


def derivatives(
    function: Callable[..., Tensor], leaves: Sequence[Tensor], updates: Tensor, chunk: int
) -> tuple[Tensor | None, str]:
    """Derivatives of a function of the weights along updates, by forward-mode differentiation.

    Under `torch.vmap` as far as the function allows it, so that it is evaluated once for ``chunk``
    updates; else one update at a time. Recurrent layers, whose fused kernels have no forward
    derivative, are asked again without them.

    Args:
        function: Of the weights, one tensor a parameter; returns a tensor.
        leaves: The weights.
        updates: ``(n, P)``, flat, n > 0.
        chunk: How many at a time.

    Returns:
        ``(n, ...)`` and an empty sentence; or ``None`` and why there are none.

    Examples:
        >>> square = lambda w: w.square()
        >>> derivatives(square, [torch.tensor([3.0])], torch.tensor([[1.0], [2.0]]), chunk=2)
        (tensor([[ 6.],
                [12.]]), '')
    """
    wide = updates.to(torch.promote_types(updates.dtype, torch.float32))
    # Of one size, as 16-bit tangents would underflow; by powers of two, which round nothing.
    largest = wide.abs().amax(1, keepdim=True)
    scales = torch.ldexp(torch.ones_like(largest), torch.frexp(largest).exponent)

    def one(*tangents: Tensor) -> Tensor:
        with warnings.catch_warnings():
            # torch scripts its own decompositions at the first forward derivative, and warns of it.
            warnings.filterwarnings("ignore", ".*torch.jit.script", DeprecationWarning)
            return torch.func.jvp(function, tuple(leaves), tangents)[1]

    def each(*tangents: Tensor) -> Tensor:
        return torch.stack([one(*row) for row in zip(*tangents, strict=True)])

    def plain(*tangents: Tensor) -> Tensor:
        # Not mkldnn.flags, which also sets, and warns of, what only Intel's GPUs have.
        fused, *_ = torch.backends.mkldnn.set_flags(False)
        try:
            with torch.backends.cudnn.flags(enabled=False):
                return each(*tangents)
        finally:
            torch.backends.mkldnn.set_flags(fused)

    ways = [torch.func.vmap(one, randomness="same")] if chunk > 1 and len(wide) > 1 else []
    ways += [each, plain]
    rows: list[Tensor] = []
    for part, scale in zip(wide.split(chunk), scales.split(chunk), strict=True):
        tangents = _split(leaves, part / scale)
        while True:
            try:
                row = ways[0](*tangents)
                break
            except RuntimeError as error:  # what one way cannot follow, the next ones may
                del ways[0]
                if not ways:
                    return None, (
                        "The model has no forward derivative, so its moves are central "
                        f"differences: {str(error).splitlines()[0][:200]}"
                    )
        rows.append(row * scale.to(row).reshape(-1, *(1 for _ in row.shape[1:])))
    return torch.cat(rows), ""


def moved(leaves: Sequence[Tensor], update: Tensor, factor: float) -> list[Tensor]:
    """The weights after ``factor`` times a flat update, rounded to their own type."""
    parts = update.split([leaf.numel() for leaf in leaves])
    fresh = []
    for leaf, part in zip(leaves, parts, strict=True):
        wide = torch.promote_types(torch.promote_types(leaf.dtype, update.dtype), torch.float32)
        part = part.to(leaf.device, wide).reshape(leaf.shape)
        fresh.append((leaf.to(wide) + factor * part).to(leaf.dtype))
    return fresh


def difference(function: Callable[..., Tensor], leaves: Sequence[Tensor], update: Tensor) -> Tensor:
    """Central difference of a function of the weights along one update.

    (f(θ + hû) − f(θ − hû))|u|/2h with h = ε^(1/3)|θ|, which balances rounding against the third
    derivative; ε that of the coarsest weights.

    Args:
        function: Of the weights, one tensor a parameter; returns a tensor.
        leaves: The weights; not written to.
        update: ``(P,)``.

    Returns:
        The difference, of the shape of the function's result.

    Examples:
        >>> w = torch.tensor([3.0], dtype=torch.float64)
        >>> round(difference(lambda w: w.square(), [w], torch.tensor([2.0])).item(), 6)
        12.0
    """
    size = float(update.double().norm())
    if size == 0:
        return torch.zeros_like(function(*leaves))
    scale = math.sqrt(sum(float(leaf.double().square().sum()) for leaf in leaves)) or 1.0
    epsilon = max(torch.finfo(leaf.dtype).eps for leaf in leaves)
    step = epsilon ** (1 / 3) * scale
    plus, minus = (function(*moved(leaves, update, sign * step / size)) for sign in (1, -1))
    return (plus - minus) * (size / (2 * step))
