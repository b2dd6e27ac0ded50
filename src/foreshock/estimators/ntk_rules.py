r"""Per-example gradients of single layers, read off the graph of one forward pass.

A rule turns the inputs that a node of the graph has saved and the gradient E at its output into
factors of the gradients of every example. Rules know `addmm` and `mm` (linear layers, packed
attention), convolutions in one and two dimensions, embeddings, layer norm, batch norm at its
running statistics, and parameters that are added, subtracted or multiplied. What enters a node may
be a short view of a parameter (a slice, a part of a stack, a normalised weight); the gradients are
then brought back through the view.

The names of nodes and of what they save are torch's own and may change with it. So nobody may
trust a rule unchecked: see `foreshock.estimators.ntk_layers`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

#: Nodes between a parameter and its use (transpose, slice, view): more is not a parameter.
LONGEST_CHAIN = 8


class Use(NamedTuple):
    """One place where a parameter enters the forward pass."""

    node: Node  # that consumes it; the gradient at its output is E
    slot: int
    target: Node  # what enters: the leaf itself, or a view of it
    number: int  # which output of `target`


class Factors(NamedTuple):
    """Per-example gradients Σ_t left_it right_it', or rows of a table where `left` are indices."""

    left: Tensor  # (n, t, a) or integers (n, t)
    right: Tensor  # (n, t, b)
    rows: int = 0  # of the table


def uses_of(columns: Tensor, leaves: Sequence[Tensor]) -> dict[int, list[Use]]:
    """All places where the leaves enter the graph of the outputs.

    Args:
        columns: Outputs with a graph.
        leaves: The trainable parameters.

    Returns:
        Places by index of the leaf; also those whose node has no rule.

    Examples:
        >>> line = torch.nn.Linear(3, 2)
        >>> found = uses_of(line(torch.ones(4, 3)), [line.weight, line.bias])
        >>> [place.node.name() for place in found[0]], found[1][0].slot
        (['AddmmBackward0'], 0)
    """
    index = {id(leaf): i for i, leaf in enumerate(leaves)}
    found: dict[int, list[Use]] = {i: [] for i in range(len(leaves))}
    root = columns.grad_fn
    seen, todo = {root}, [root]
    while todo:
        node = todo.pop()
        if node is None:
            continue
        for slot, (nxt, number) in enumerate(node.next_functions):
            if nxt is None:
                continue
            owners = _owners(nxt, index) if _enters(node, slot, nxt, number) else None
            if owners is not None:
                for i in owners:
                    found[i].append(Use(node, slot, nxt, number))
            elif nxt not in seen:
                seen.add(nxt)
                todo.append(nxt)
    return found


def _enters(node: Node, slot: int, target: Node, number: int) -> bool:
    """Whether what enters a node here is a parameter, or may be one seen through a view."""
    if hasattr(target, "variable"):
        return True
    name = node.name()
    if name in ("AddBackward0", "SubBackward0", "MulBackward0"):
        inner, outer = target._input_metadata[number].shape, node._input_metadata[0].shape
        # Something without a dimension of examples.
        return len(inner) < len(outer) or (
            len(inner) > 1
            and 1
            in (inner[0], inner[1])
            != (
                outer[0],
                outer[1],
            )
        )
    return slot in SLOTS.get(name, ())


def _owners(target: Node, index: dict[int, int]) -> list[int] | None:
    """Indices of the leaves behind a short chain; ``None`` if it is long or holds others."""
    owners: list[int] = []
    seen, todo = {target}, [target]
    while todo:
        node = todo.pop()
        if hasattr(node, "variable"):
            if id(node.variable) not in index:
                return None
            owners.append(index[id(node.variable)])
        for nxt, _ in node.next_functions:
            if nxt is not None and nxt not in seen:
                seen.add(nxt)
                todo.append(nxt)
        if len(seen) > LONGEST_CHAIN:
            return None
    return owners


def factors_of(place: Use, error: Tensor, leaf: Tensor, n: int, layout: int) -> Factors:
    """Per-example gradients at the leaf that one use contributes.

    Args:
        place: The use.
        error: Gradient at the output of its node.
        leaf: The parameter.
        n: Number of examples.
        layout: Along which dimension of data with positions the examples lie, 0 or 1.

    Returns:
        The factors, in the layout of the parameter. A `RuntimeError` comes from the rules where
        the shapes do not fit.
    """
    factors = RULES[place.node.name()](place, error, n, layout)
    target = place.target
    if hasattr(target, "variable"):
        return factors
    if target.name() == "TBackward0" and hasattr(target.next_functions[0][0], "variable"):
        return Factors(factors.right, factors.left)
    # A view of the leaf: bring each example's gradient back through it.
    shape = target._input_metadata[place.number].shape
    rows = rows_of([factors], math.prod(shape)).reshape(n, *shape)
    (back,) = torch.autograd.grad(
        [GradientEdge(target, place.number)],
        [leaf],
        [rows],
        retain_graph=True,
        is_grads_batched=True,
    )
    return _whole(back.reshape(n, -1))


def _whole(rows: Tensor) -> Factors:
    """Gradients ``(n, size)`` as factors of one position."""
    return Factors(rows[:, None], rows.new_ones(len(rows), 1, 1))


def _arranged(x: Tensor, n: int, layout: int) -> Tensor:
    """``(n, positions, features)``, examples along the first or the second dimension."""
    if layout == 0:
        return x.reshape(n, -1, x.shape[-1])
    return x.reshape(-1, n, x.shape[-1]).transpose(0, 1)


def _channels_last(x: Tensor, n: int) -> Tensor:
    """``(n, positions, channels)`` of ``(n, channels, ...)``."""
    if x.shape[0] != n:
        raise RuntimeError("not one example a row")
    return x.reshape(n, x.shape[1], -1).transpose(1, 2)


def _linear(place: Use, error: Tensor, n: int, layout: int) -> Factors:
    """`addmm` (bias, input, matrix) and `mm` (input, matrix)."""
    error = _arranged(error, n, layout)
    node: Any = place.node
    with_bias = node.name() == "AddmmBackward0"
    if with_bias and (node._saved_alpha, node._saved_beta) != (1, 1):
        raise RuntimeError("a scaled product")
    if with_bias and place.slot == 0:
        return _whole(error.sum(1))
    matrix = node._saved_mat1 if with_bias else node._saved_self
    return Factors(_arranged(matrix.detach(), n, layout), error)


def _elementwise(place: Use, error: Tensor, n: int, layout: int) -> Factors:
    """Something that is added or multiplied, and broadcast over examples."""
    node: Any = place.node
    if node.name() == "MulBackward0":
        other = node._saved_other if place.slot == 0 else node._saved_self
        error = error * other.detach()
    elif place.slot == 1:
        error = error * (-node._saved_alpha if node.name() == "SubBackward0" else node._saved_alpha)
    target: Any = place.target
    inner = (
        target.variable.shape
        if hasattr(target, "variable")
        else target._input_metadata[place.number].shape
    )
    shape = [1] * (error.ndim - len(inner)) + list(inner)
    if error.shape[layout] != n or shape[layout] != 1:
        raise RuntimeError("not broadcast over examples")
    del shape[layout]
    rows = error.movedim(layout, 0)
    return _whole(rows.sum_to_size(n, *shape).reshape(n, -1))


def _embedding(place: Use, error: Tensor, n: int, layout: int) -> Factors:
    """Rows of a table; those of the padding index get no gradient."""
    node: Any = place.node
    if node._saved_scale_grad_by_freq or node._saved_sparse:
        raise RuntimeError("another gradient than the sum over tokens")
    indices, width = node._saved_indices, error.shape[-1]
    size = (
        place.target.variable.shape[0]
        if hasattr(place.target, "variable")
        else (place.target._input_metadata[place.number].shape[0])
    )
    left = _arranged(indices[..., None], n, layout)[..., 0]
    right = _arranged(error.reshape(*indices.shape, width), n, layout)
    padding = node._saved_padding_idx
    if 0 <= padding < size:
        right = right * (left != padding)[..., None]
    return Factors(left, right, size)


def _layer_norm(place: Use, error: Tensor, n: int, layout: int) -> Factors:
    """Scale or shift after the last dimensions are normalised."""
    node: Any = place.node
    if place.slot == 1:
        error = error * ((node._saved_input.detach() - node._saved_result1) * node._saved_result2)
    size = math.prod(node._saved_normalized_shape)
    return _whole(
        _arranged(
            error.reshape(*error.shape[: error.ndim - len(node._saved_normalized_shape)], size),
            n,
            layout,
        ).sum(1)
    )


def _batch_norm(place: Use, error: Tensor, n: int, layout: int) -> Factors:
    """Scale or shift of channels, at the running statistics."""
    node: Any = place.node
    if layout or node._saved_training:
        raise RuntimeError("examples share statistics")
    if place.slot == 1:
        shape = [1, -1, *[1] * (error.ndim - 2)]
        spread = (node._saved_running_var + node._saved_eps).rsqrt()
        centred = node._saved_input.detach() - node._saved_running_mean.view(shape)
        error = error * centred * spread.view(shape)
    return _whole(_channels_last(error, n).sum(1))


def _convolution(place: Use, error: Tensor, n: int, layout: int) -> Factors:
    """Convolution in two dimensions, by unfolding; in one, as a row of pixels."""
    node: Any = place.node
    if layout:
        raise RuntimeError("examples come first")
    if place.slot == 2:
        return _whole(_channels_last(error, n).sum(1))
    if node._saved_transposed or node._saved_input.ndim not in (3, 4):
        raise RuntimeError("no rule for this convolution")
    data, kernel = node._saved_input.detach(), node._saved_weight.shape[2:]
    settings = [node._saved_dilation, node._saved_padding, node._saved_stride]
    if data.ndim == 3:
        data, kernel = data.unsqueeze(2), (1, *kernel)
        settings = [(one, *s) for one, s in zip((1, 0, 1), settings, strict=True)]
    patches = torch.nn.functional.unfold(data, tuple(kernel), *map(tuple, settings))
    error = _channels_last(error, n)  # (n, positions, outputs)
    groups = node._saved_groups
    if groups == 1:
        return Factors(error, patches.transpose(1, 2))
    rows = torch.einsum(
        "npgo,ngcp->ngoc",
        error.reshape(n, error.shape[1], groups, -1),
        patches.reshape(n, groups, -1, patches.shape[-1]),
    )
    return _whole(rows.reshape(n, -1))


RULES: dict[str, Callable[[Use, Tensor, int, int], Factors]] = {
    "AddmmBackward0": _linear,
    "MmBackward0": _linear,
    "AddBackward0": _elementwise,
    "SubBackward0": _elementwise,
    "MulBackward0": _elementwise,
    "EmbeddingBackward0": _embedding,
    "NativeLayerNormBackward0": _layer_norm,
    "NativeBatchNormBackward0": _batch_norm,
    "ConvolutionBackward0": _convolution,
}

#: Where parameters enter those nodes.
SLOTS = {
    "AddmmBackward0": (0, 2),
    "MmBackward0": (1,),
    "EmbeddingBackward0": (0,),
    "NativeLayerNormBackward0": (1, 2),
    "NativeBatchNormBackward0": (1, 2),
    "ConvolutionBackward0": (1, 2),
}


def rows_of(parts: list[Factors], size: int) -> Tensor:
    """Per-example gradients themselves, summed over uses.

    Args:
        parts: Factors of every use.
        size: Numbers in the parameter.

    Returns:
        ``(n, size)``.

    Examples:
        >>> rows_of([Factors(torch.ones(2, 1, 2), torch.tensor([[[1.0]], [[3.0]]]))], 2).tolist()
        [[1.0, 1.0], [3.0, 3.0]]
    """
    found = []
    for left, right, table in parts:
        if table:
            n, _, width = right.shape
            rows = right.new_zeros(n, table, width)
            rows.scatter_add_(1, left[..., None].expand_as(right), right)
        else:
            rows = left.transpose(1, 2) @ right
        found.append(rows.reshape(len(right), size))
    return found[0] if len(found) == 1 else torch.stack(found).sum(0)
