r"""Gram matrices of per-example output gradients, parameter by parameter, from one backward pass.

In evaluation mode examples do not see each other. So with E the gradients of Σ_i f(x_i) at the
output of a layer, rows E_i belong to example i, and its gradient at the weights of a linear layer
is Σ_t E_it A_it', with A the inputs and t positions. The Gram matrix of those needs no gradient:

    K_ij = Σ_ts (E_it · E_js) (A_it · A_js),

for one position the elementwise product of two n x n matrices. We read A and E off the graph of
the forward pass, at its `addmm`, `mm`, convolution, embedding, layer and batch norm, and at
parameters that are added or multiplied, so that packed attention needs no rule of its own. A
parameter used several times has its gradients added before the product.

**Every measurement is checked.** A rule may not fit: examples may lie along another dimension, or a
parameter may be used in a way that no rule knows. So one more ordinary backward pass, of
Σ_i c_i f(x_i) with random c, gives a gradient g whose squared norm must be c'Kc, parameter by
parameter. Where it is not, that parameter is measured again by `torch.vmap`, or one example after
the other. Nothing is dropped silently. Before all that, two examples are run alone: a model that
mixes examples, or branches on the whole batch, is measured one example after the other.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from foreshock.estimators.gradient_noise import add_gram
from foreshock.estimators.ntk_rules import RULES, Factors, factors_of, rows_of, uses_of
from foreshock.probe.quiet import quiet
from foreshock.probe.spec import Probe
from foreshock.probe.view import ModelView, forward_of

Reduction = Literal["sum", "trace", "full"]

#: Outputs per example above which ``trace`` and ``full`` are refused: a backward pass each.
MOST_OUTPUTS = 512


def parameter_grams(
    view: ModelView, probe: Probe, inputs: Tensor, *, reduction: Reduction = "sum"
) -> list[Tensor]:
    """Gram matrices J_p J_p' of per-example output gradients, one a trainable parameter.

    Args:
        view: The live weights.
        probe: For its ``forward``.
        inputs: n inputs, ``(n, ...)``.
        reduction: ``"sum"``: rows ∇Σ_k f_k(x_i), as published, which drop what cancels between
            outputs. ``"trace"``: Σ_k of the Grams of ∇f_k(x_i). ``"full"``: rows ∇f_k(x_i), the
            outputs of an example beside each other.

    Returns:
        ``(n, n)`` float64 in the order of ``view.names``, for ``"full"`` ``(nK, nK)`` with K
        outputs an example. Cost: a forward and two backward passes of n examples with ``"sum"``,
        K + 1 backward passes otherwise; where the check fails, n more for those parameters. Memory:
        n gradients of the largest parameter that is used at several positions.

    Raises:
        ValueError: If a reduction other than ``"sum"`` meets more than 512 outputs an example.

    Examples:
        >>> view = ModelView(torch.nn.Linear(2, 2))
        >>> probe = Probe(loss=lambda m, x: m(x).sum(), batches=[torch.eye(2)])
        >>> weight, bias = parameter_grams(view, probe, torch.eye(2))
        >>> weight.tolist(), bias.tolist()
        ([[2.0, 0.0], [0.0, 2.0]], [[2.0, 2.0], [2.0, 2.0]])
        >>> parameter_grams(view, probe, torch.eye(2), reduction="full")[1].tolist()[0]
        [1.0, 0.0, 1.0, 0.0]
    """
    with quiet(view.seed), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # vmap says where it loops instead of batching
        leaves = view.leaves()
        try:
            outputs = view.call(leaves, forward_of(probe), inputs)
        except (RuntimeError, NotImplementedError):  # takes one example at a time only
            outputs = view.call(leaves, forward_of(probe), inputs[:1])
        one = max(1, outputs.numel() // max(len(outputs), 1)) if outputs.ndim else 1
        if reduction != "sum" and one > MOST_OUTPUTS:
            raise ValueError(
                f"The reduction {reduction!r} of the tangent kernel takes a backward pass per "
                f"output, and this model has {one} an example. Use reduction='sum', or a "
                f"`Probe(forward=...)` that returns at most {MOST_OUTPUTS}."
            )
        found: list[Tensor | None] = [None] * len(leaves)
        if outputs.requires_grad and _apart(view, probe, inputs, outputs.detach()):
            columns = outputs.reshape(len(inputs), -1)
            columns = columns.sum(1, keepdim=True) if reduction == "sum" else columns
            found = _by_rules(columns, leaves, reduction)
            del columns
        del outputs
        rest = [i for i, gram in enumerate(found) if gram is None]
        if rest:
            for i, gram in zip(
                rest, _by_examples(view, probe, inputs, rest, reduction), strict=True
            ):
                found[i] = gram
    return [gram for gram in found if gram is not None]


def _apart(view: ModelView, probe: Probe, inputs: Tensor, outputs: Tensor) -> bool:
    """Whether the first and the last example alone have the outputs they have in the batch.

    A model that mixes examples, or branches on the batch, has another derivative in the batch.

    Args:
        view: The live weights.
        probe: For its ``forward``.
        inputs: All examples.
        outputs: Outputs of the batch.

    Returns:
        Whether they agree up to rounding.
    """
    if not outputs.ndim or len(outputs) != len(inputs):
        return False
    tolerance = min(0.03, 1e3 * torch.finfo(outputs.dtype).eps) * outputs.abs().amax()
    ends = [0, len(inputs) - 1]
    with torch.no_grad():
        alone = [view.call(view.parameters, forward_of(probe), inputs[i : i + 1]) for i in ends]
    if any(x.shape != outputs[:1].shape for x in alone):
        return False
    gap = (torch.cat(alone) - outputs[ends]).abs().amax()
    return bool((gap <= tolerance) | ~torch.isfinite(tolerance))


def _by_rules(
    columns: Tensor, leaves: Sequence[Tensor], reduction: Reduction
) -> list[Tensor | None]:
    """Grams from the graph; ``None`` where a parameter fails the check."""
    n, k = columns.shape
    uses = uses_of(columns, leaves)
    known = [
        i for i, places in uses.items() if places and all(p.node.name() in RULES for p in places)
    ]
    nodes = list({place.node: None for i in known for place in uses[i]})
    edges = [GradientEdge(node, 0) for node in nodes]

    def errors(column: int) -> dict[Node, Tensor]:
        if not edges:
            return {}
        found = torch.autograd.grad(
            columns[:, column].sum(), edges, retain_graph=True, allow_unused=True
        )
        return {node: e for node, e in zip(nodes, found, strict=True) if e is not None}

    first = errors(0)
    together = reduction == "full"
    batches = [first, *(errors(j) for j in range(1, k))] if together else [first]
    # The reference: an ordinary backward pass with random weights of the rows.
    weights = torch.randn(n, k if together else 1, dtype=columns.dtype, device=columns.device)
    seed = (columns[:, : weights.shape[1]] * weights).sum()
    reference = torch.autograd.grad(
        seed, leaves, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    wanted = [torch.linalg.vector_norm(g, dtype=torch.float64).square() for g in reference]
    row_weights = weights.double().reshape(-1)

    def gram(i: int, errors: list[dict[Node, Tensor]], layout: int) -> Tensor | None:
        parts = []
        for place in uses[i]:
            stack = [
                factors_of(place, e[place.node], leaves[i], n, layout)
                for e in errors
                if place.node in e
            ]
            if len(stack) not in (0, len(errors)):
                return None
            if stack:
                parts.append(_stacked(stack))
        return _gram(parts, leaves[i], n * len(errors))

    found: list[Tensor | None] = [None] * len(leaves)
    layouts: dict[int, int] = {}
    left = list(range(len(leaves)))
    for layout in (0, 1):
        trial: list[tuple[int, Tensor]] = []
        for i in left:
            if uses[i] and i not in known:
                continue
            try:
                one = gram(i, batches, layout)
            except (RuntimeError, IndexError):  # shapes do not fit, or overwritten in place
                one = None
            if one is not None:
                trial.append((i, one))
        if not trial:
            continue
        good = torch.stack(
            [_agrees(one, row_weights, wanted[i], columns.dtype) for i, one in trial]
        )
        if bool(good.all()):  # one transfer, in the usual case
            passed = trial
        else:
            passed = [pair for pair, fine in zip(trial, good, strict=True) if fine]
        for i, one in passed:
            found[i], layouts[i] = one, layout
        left = [i for i in left if found[i] is None]
        if not left:
            break
    if reduction == "trace":
        for j in range(1, k):
            more = errors(j)
            for i, layout in layouts.items():
                total, new = found[i], gram(i, [more], layout)
                assert total is not None and new is not None
                found[i] = total + new
    return found


def _agrees(gram: Tensor, weights: Tensor, wanted: Tensor, dtype: torch.dtype) -> Tensor:
    """Whether c'Kc is the squared norm of the gradient of Σ c_i f_i, up to rounding."""
    # Of a thousand roundings; in 16 bits, of a few. A wrong rule is wrong by a share of order 1.
    tolerance = min(0.03, 1e3 * torch.finfo(dtype).eps)
    found = (weights @ gram @ weights).clamp_min(0).sqrt()
    scale = (weights.square() @ gram.diagonal()).clamp_min(0).sqrt()
    root = wanted.sqrt()
    # What is not finite cannot be checked, and stays what it is.
    return ((found - root).abs() <= tolerance * scale) | ~torch.isfinite(wanted)


def _stacked(parts: list[Factors]) -> Factors:
    """The outputs of an example beside each other."""
    if len(parts) == 1:
        return parts[0]
    left, right = (
        torch.stack(tensors, 1).flatten(0, 1)
        for tensors in ([p.left for p in parts], [p.right for p in parts])
    )
    return Factors(left, right, parts[0].rows)


def _gram(parts: list[Factors], leaf: Tensor, n: int) -> Tensor:
    """Products of per-example gradients summed over uses, in float64."""
    total = torch.zeros(n, n, dtype=torch.float64, device=leaf.device)
    if not parts:
        return total
    if len(parts) == 1 and not parts[0].rows:
        left, right, _ = parts[0]
        t, a, b = left.shape[1], left.shape[2], right.shape[2]
        if (n * t) ** 2 * (a + b) <= n * t * a * b + n * n * a * b:
            products = [x.double().flatten(0, 1) for x in (left, right)]
            both = (products[0] @ products[0].T) * (products[1] @ products[1].T)
            return both.reshape(n, t, n, t).sum((1, 3))
    add_gram(total, rows_of(parts, leaf.numel()))
    return total


def _by_examples(
    view: ModelView, probe: Probe, inputs: Tensor, indices: list[int], reduction: Reduction
) -> list[Tensor]:
    """The same for some parameters from their gradients, by `torch.vmap` or one by one."""
    forward, leaves = forward_of(probe), view.leaves()

    def outputs(some: list[Tensor], x: Tensor) -> Tensor:
        weights = list(leaves)
        for i, leaf in zip(indices, some, strict=True):
            weights[i] = leaf
        values = view.call(weights, forward, x.unsqueeze(0)).reshape(-1)
        return values.sum(0, keepdim=True) if reduction == "sum" else values

    chosen = [leaves[i] for i in indices]
    try:
        plain = [leaf.detach() for leaf in chosen]
        rows = torch.func.vmap(torch.func.jacrev(outputs), in_dims=(None, 0))(plain, inputs)
    except (RuntimeError, NotImplementedError):  # control flow on data, in-place operations
        each = [
            torch.autograd.grad(
                value, chosen, retain_graph=True, materialize_grads=True, allow_unused=True
            )
            for x in inputs
            for value in outputs(chosen, x)
        ]
        rows = [torch.stack(column) for column in zip(*each, strict=True)]
    found = []
    for row, leaf in zip(rows, chosen, strict=True):
        matrix = row.detach().reshape(-1, leaf.numel())
        gram = torch.zeros(len(matrix), len(matrix), dtype=torch.float64, device=matrix.device)
        add_gram(gram, matrix)
        k = len(gram) // len(inputs)
        if reduction == "trace":
            gram = gram.reshape(len(inputs), k, len(inputs), k).diagonal(dim1=1, dim2=3).sum(-1)
        found.append(gram)
    return found
