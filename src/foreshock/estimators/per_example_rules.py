"""Squared norms of per-example gradients from what a layer read and the error it received.

Every weight gradient of an example is either a sum of outer products over the example's positions,
Σ_t left_t ⊗ right_t (`Outer`: linear layers, convolutions by unfolding, embeddings), or small
enough to be formed (`Rows`: biases, scales). Both can be squared at once, and both can be *added*
first, which weights used more than once need.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

#: Elements of a temporary; examples are taken in portions that stay below it (16 MB in float32).
PORTION = 1 << 22


class Outer(NamedTuple):
    """Per-example gradients Σ_t left_t ⊗ right_t of a matrix.

    Args:
        left: ``(n·groups, positions, rows)``, or integer ``(n, positions)`` for one-hot vectors.
        right: ``(n·groups, positions, columns)``.
        groups: Groups of a convolution; each has its own block of rows.
        rows: Rows of the matrix, for one-hot vectors.
    """

    left: Tensor
    right: Tensor
    groups: int = 1
    rows: int = 0

    @property
    def n(self) -> int:
        """How many examples."""
        return len(self.right) // self.groups

    @property
    def sparse(self) -> bool:
        """Whether ``left`` are indices of one-hot vectors."""
        return not self.left.is_floating_point()

    @property
    def height(self) -> int:
        """Rows of a group's block."""
        return self.rows if self.sparse else self.left.shape[-1]

    def part(self, start: int, stop: int) -> Outer:
        """Some of the examples."""
        g = self.groups
        rows = slice(start * g, stop * g)
        return Outer(self.left[rows], self.right[rows], g, self.rows)

    def gradients(self) -> Tensor:
        """The per-example gradients themselves, ``(n, elements)``."""
        if not self.sparse:
            return (self.left.mT @ self.right).reshape(self.n, -1)
        m, _, width = self.right.shape
        out = self.right.new_zeros(m, self.rows, width)
        out.scatter_add_(1, self.left.unsqueeze(-1).expand_as(self.right), self.right)
        return out.reshape(m, -1)


class Rows(NamedTuple):
    """Per-example gradients as they are, ``(n, elements)``."""

    values: Tensor

    @property
    def n(self) -> int:
        """How many examples."""
        return len(self.values)

    def part(self, start: int, stop: int) -> Rows:
        """Some of the examples."""
        return Rows(self.values[start:stop])

    def gradients(self) -> Tensor:
        """The per-example gradients themselves, ``(n, elements)``."""
        return self.values


Term = Outer | Rows


def squares(term: Term) -> Tensor:
    """Squared norms of the per-example gradients of one term, the cheaper way.

    |Σ_t l_t ⊗ r_t|² is either the Gram form Σ_st (l_s·l_t)(r_s·r_t), of T²(rows + columns)
    operations, or the square of the sum, of T·rows·columns. Leaving out s ≠ t is wrong by a factor
    of up to T.

    Args:
        term: What the gradients are made of.

    Returns:
        ``(n,)``.

    Examples:
        >>> left, right = torch.ones(1, 2, 3), torch.ones(1, 2, 4)  # two positions, all ones
        >>> squares(Outer(left, right)).tolist()  # a 3 x 4 matrix of twos
        [48.0]
    """
    if isinstance(term, Rows):
        return row_squares(term.values)
    positions, width = term.right.shape[-2:]
    if positions == 1:
        found = row_squares(term.right, (1, 2))
        if term.sparse:
            return found
        if term.groups == 1:
            return found * row_squares(term.left, (1, 2))
        return (found * row_squares(term.left, (1, 2))).view(term.n, term.groups).sum(1)
    if term.sparse or gram_is_cheaper(positions, term.height, width):
        return _portions([term], positions * positions * term.groups, _gram_square)
    return _portions([term], term.height * width * term.groups, _formed_square)


def row_squares(tensor: Tensor, dims: int | tuple[int, ...] = 1) -> Tensor:
    """Sum of squares over dimensions, without a temporary."""
    return torch.linalg.vector_norm(tensor, dim=dims).square_()


def summed_squares(terms: Sequence[Outer]) -> Tensor:
    """Squared norms of the sum of several terms of one matrix, products between terms included.

    Args:
        terms: At least one, of the same matrix.

    Returns:
        ``(n,)``.
    """
    positions = sum(term.right.shape[1] for term in terms)
    height, width = terms[0].height, terms[0].right.shape[-1]
    one_group = all(term.groups == 1 for term in terms)
    if one_group and gram_is_cheaper(positions, height, width):
        return _portions(terms, positions * positions, _gram_square)
    return _portions(terms, height * terms[0].groups * width, _formed_square)


def gram_is_cheaper(positions: int, height: int, width: int) -> bool:
    """Whether T x T products cost less than forming each example's matrix."""
    # Forming also writes and reads the matrix, which costs about as much as 8 more positions.
    return positions * (height + width) < height * width * (1 + 8 / positions)


def _portions(
    terms: Sequence[Outer], elements: int, square: Callable[[Sequence[Outer]], Tensor]
) -> Tensor:
    n = terms[0].n
    size = max(1, PORTION // max(1, elements))
    if size >= n:
        return square(terms)
    ranges = [(start, min(start + size, n)) for start in range(0, n, size)]
    return torch.cat([square([term.part(a, b) for term in terms]) for a, b in ranges])


def _formed_square(terms: Sequence[Outer]) -> Tensor:
    total = terms[0].gradients()
    for term in terms[1:]:
        total = total + term.gradients()
    return row_squares(total)


def _gram_square(terms: Sequence[Outer]) -> Tensor:
    """Σ over pairs of terms and positions of (left·left)(right·right)."""
    found = []
    for i, a in enumerate(terms):
        for j, b in enumerate(terms[: i + 1]):
            products = (a.right @ b.right.mT).mul_(_left_products(a, b))
            twice = 1 if i == j else 2
            found.append(twice * products.sum((1, 2)).view(a.n, a.groups).sum(1))
    return torch.stack(found).sum(0)


def _left_products(a: Outer, b: Outer) -> Tensor:
    """Dot products of the left vectors, ``(n·groups, positions of a, positions of b)``."""
    if a.sparse and b.sparse:
        return a.left.unsqueeze(2) == b.left.unsqueeze(1)
    if a.sparse:
        return _left_products(b, a).mT
    if b.sparse:  # a one-hot vector picks an entry
        chosen = b.left.unsqueeze(1).expand(-1, a.left.shape[1], -1)
        return a.left.gather(2, chosen)
    return a.left @ b.left.mT


def patches(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
) -> Tensor:
    """What each output position of a convolution reads, in 1, 2 or 3 dimensions.

    Args:
        x: ``(n, channels, *spatial)``.
        kernel: Size of the kernel, one a spatial dimension.
        stride: Its steps.
        padding: Zeros before and after, one pair a dimension.
        dilation: Its gaps.

    Returns:
        ``(n, channels, *output, *kernel)``, a view of the padded input.

    Examples:
        >>> x = torch.arange(5.0).reshape(1, 1, 5)
        >>> patches(x, [2], [2], [(0, 0)], [2])[0, 0].tolist()
        [[0.0, 2.0], [2.0, 4.0]]
    """
    if any(before or after for before, after in padding):
        x = functional.pad(x, [side for pair in reversed(padding) for side in pair])
    for d, (size, step, gap) in enumerate(zip(kernel, stride, dilation, strict=True)):
        x = x.unfold(2 + d, (size - 1) * gap + 1, step)[..., ::gap]
    return x


def convolution(
    x: Tensor,
    error: Tensor,
    weight_shape: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int] | str,
    dilation: Sequence[int],
    groups: int,
) -> Outer:
    """Per-example gradients of the kernel of a convolution, by unfolding its input.

    Args:
        x: ``(n, channels, *spatial)``.
        error: Gradient of the loss in the output, ``(n, out, *output)``.
        weight_shape: ``(out, channels / groups, *kernel)``.
        stride: Steps.
        padding: Zeros on both sides, or ``"same"`` or ``"valid"``.
        dilation: Gaps.
        groups: Groups of channels.

    Returns:
        The outer products, one position an output position.
    """
    kernel = list(weight_shape[2:])
    if isinstance(padding, str):
        pairs = zip(kernel, dilation, strict=True)
        spans = [(k - 1) * d if padding == "same" else 0 for k, d in pairs]
        sides = [(span // 2, span - span // 2) for span in spans]
    else:
        sides = [(p, p) for p in padding]
    read = patches(x, kernel, stride, sides, dilation)
    dims = len(kernel)
    # (n, channels, *output, *kernel) -> (n, groups, output, channels / groups, kernel)
    read = read.flatten(2, 1 + dims).flatten(3)  # (n, channels, output, kernel)
    read = read.unflatten(1, (groups, -1)).transpose(2, 3).flatten(3)
    errors = error.flatten(2).unflatten(1, (groups, -1)).transpose(2, 3)
    return Outer(errors.flatten(0, 1), read.flatten(0, 1).to(errors.dtype), groups)
