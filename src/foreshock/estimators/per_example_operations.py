"""What each operation that reads a parameter means for the parameter's per-example gradient.

A rule is told of one call and either hangs its hook on the output and returns True, or returns
False: then the parameter is named as not covered. See `foreshock.estimators.per_example`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from foreshock.estimators import per_example_operands as ops
from foreshock.estimators.per_example_hearing import Hearing
from foreshock.estimators.per_example_operands import Part
from foreshock.estimators.per_example_rules import Outer, Rows, Term
from foreshock.estimators.per_example_rules import convolution as unfolded


class Call(NamedTuple):
    """One call of an operation: its function, what it was given, and what it made."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any

    def given(self, names: str) -> dict[str, Any]:
        """The arguments by name."""
        return {**dict(zip(names.split(), self.args, strict=False)), **self.kwargs}


Rule = Callable[[Hearing, Call], bool]


def move(heard: Hearing, call: Call) -> bool:
    """A parameter that is only moved about stays an operand."""
    args, out = call.args, call.out
    if call.func is functional.embedding:
        given = call.given("input weight padding_idx max_norm norm_type scale_grad_by_freq")
        operand, places = heard.operand(given["weight"]), given["input"]
        fixed = not heard.marks.carries(places)
        if operand is None or not fixed or _embedding_is_odd(given):
            return False
        once = len(places.unique()) == places.numel()
        heard.hold(out, operand.after(ops.lookup(places), injective=once))
        return True
    operand = heard.operand(args[0]) if args else None
    if operand is None or not (call.func in ops.INJECTIVE or call.func in ops.REPEATING):
        return False
    pieces = [(None, out)] if isinstance(out, Tensor) else list(enumerate(out))
    for piece, made in pieces:
        if made is args[0]:
            continue
        once = (
            call.func in ops.INJECTIVE
            or made.numel() <= args[0].numel()
            and not any(isinstance(a, (Tensor, list)) for a in _flat(args[1:]))
        )
        step = ops.movement(call.func, args, call.kwargs, piece)
        turns = call.func in ops.TRANSPOSES
        heard.hold(made, operand.after(step, injective=once, transposes=turns))
    return True


def linear(heard: Hearing, call: Call) -> bool:
    """The product x W' + b, at every position."""
    given = call.given("input weight bias")
    x = given["input"]
    if given["weight"].dim() != 2:
        return False
    weight, bias = heard.operand(given["weight"]), heard.operand(given.get("bias"))
    rows = heard.rows(x, features=1, merged=True)
    if id(x) in heard.operands:
        return False
    if rows is None:
        return heard.elsewhere([weight, bias], "linear", x)
    if weight is not None:
        part = Part(
            weight,
            lambda e: Outer(_flat_rows(e), _flat_rows(rows(x), e)),
            bias=bias,
            reads=lambda e: rows(x).to(e.dtype),
        )
    elif bias is not None:
        part = Part(bias, lambda e: Rows(_summed(e)))
    else:
        return False
    return heard.listen(call.out, rows, [part], linear=True)


def matmul(heard: Hearing, call: Call) -> bool:
    """The products x W and b + x W."""
    args = call.args
    if call.kwargs:
        return False
    bias = heard.operand(args[0]) if call.func in ops.ADDMM else None
    x, matrix = args[-2:]
    weight = heard.operand(matrix)
    rows = heard.rows(x, features=1, merged=True)
    if id(x) in heard.operands or matrix.dim() != 2 or (bias and len(args[0].shape) != 1):
        return False
    if rows is None:
        return heard.elsewhere([weight, bias], "matmul", x)
    parts: list[Part] = []
    if weight is not None:
        parts.append(Part(weight, lambda e: Outer(_flat_rows(rows(x), e), _flat_rows(e))))
    if bias is not None:
        parts.append(Part(bias, lambda e: Rows(_summed(e))))
    return heard.listen(call.out, rows, parts, linear=True)


def embedding(heard: Hearing, call: Call) -> bool:
    """Rows of a table picked by tokens of the examples."""
    if call.func is functional.embedding:
        given = call.given("input weight padding_idx max_norm norm_type scale_grad_by_freq")
    else:
        given = {"input": call.args[1], "weight": call.args[0], "padding_idx": None}
    tokens: Any = given["input"]
    table: Any = given["weight"]
    weight = heard.operand(table)
    odd = not isinstance(tokens, Tensor) or tokens.is_floating_point()
    if weight is None or odd or tokens.dtype == torch.bool or table.dim() != 2:
        return False
    if _embedding_is_odd({**given, "padding_idx": None}):
        return False
    rows, padding = heard.rows(tokens, features=0, merged=True), given.get("padding_idx")
    if rows is None:
        return heard.elsewhere([weight], "embedding", tokens)
    height = len(table)

    def make(e: Tensor) -> Term:
        picked = rows(tokens).reshape(heard.n, -1).long()
        e = _flat_rows(e)
        if padding is not None:  # its row gets no gradient
            e = e * (picked != padding % height).unsqueeze(-1)
        return Outer(picked, e, rows=height)

    return heard.listen(call.out, rows, [Part(weight, make)])


def convolution(heard: Hearing, call: Call) -> bool:
    """A convolution in 1, 2 or 3 dimensions."""
    given = call.given("input weight bias stride padding dilation groups")
    x, kernel = given["input"], given["weight"]
    weight, bias = heard.operand(kernel), heard.operand(given.get("bias"))
    dims = ops.CONVOLUTIONS[call.func]
    rows = heard.rows(x, features=1 + dims) if x.dim() == dims + 2 else None
    if id(x) in heard.operands:
        return False
    if rows is None:
        return heard.elsewhere([weight, bias], "a convolution", x)
    stride, dilation = (_tuple(given.get(k, 1), dims) for k in ("stride", "dilation"))
    padding = given.get("padding", 0)
    if not isinstance(padding, str):
        padding = _tuple(padding, dims)
    groups, shape = given.get("groups", 1), kernel.shape
    parts: list[Part] = []
    if weight is not None:
        make = partial(
            unfolded,
            weight_shape=shape,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
        )
        parts.append(Part(weight, lambda e: make(x.to(e.dtype), e)))
    if bias is not None:
        parts.append(Part(bias, lambda e: Rows(e.flatten(2).sum(2))))
    return heard.listen(call.out, rows, parts)


def normalisation(heard: Hearing, call: Call) -> bool:
    """Scale and shift of a layer, RMS, group, or frozen batch norm."""
    if call.func is functional.batch_norm:
        given = call.given("input running_mean running_var weight bias training momentum eps")
    elif call.func is functional.group_norm:
        given = call.given("input num_groups weight bias eps")
    else:
        given = call.given("input normalized_shape weight bias eps")
    x = given["input"]
    if call.func is getattr(functional, "rms_norm", None):
        given = call.given("input normalized_shape weight eps")
    weight, bias = heard.operand(given.get("weight")), heard.operand(given.get("bias"))
    rows = heard.rows(x, features=1)
    if id(x) in heard.operands:
        return False
    if rows is None:
        return heard.elsewhere([weight, bias], "a normalisation", x)
    bare = {k: v for k, v in given.items() if k not in ("weight", "bias")}
    by_channel = call.func in (functional.batch_norm, functional.group_norm)

    def reduce(e: Tensor) -> Term:
        if by_channel:
            return Rows(e.flatten(2).sum(2) if e.dim() > 2 else e)
        last = len(bare["normalized_shape"])
        return Rows(e.flatten(e.dim() - last).reshape(len(e), -1, _last(e, last)).sum(1))

    parts: list[Part] = []
    if weight is not None:
        parts.append(Part(weight, lambda e: reduce(e * rows(call.func(**bare)).to(e.dtype))))
    if bias is not None:
        parts.append(Part(bias, reduce))
    return heard.listen(call.out, rows, parts)


def elementwise(heard: Hearing, call: Call) -> bool:
    """A parameter added to, subtracted from or multiplied with examples, broadcast."""
    args, out = call.args, call.out
    if call.kwargs or len(args) != 2 or not all(isinstance(a, Tensor) for a in args):
        return False
    own = [heard.operand(a) for a in args]
    if None not in own:
        return False
    at = 0 if own[0] is not None else 1
    operand, used, x = own[at], args[at], args[1 - at]
    rows = heard.rows(x, features=0) if x.dim() == out.dim() else None
    if operand is None or heard.inside_attention:
        return False
    if rows is None:
        return heard.elsewhere([operand], call.func.__name__, x)
    own_rows = used.dim() == out.dim() and len(used) == heard.n and heard.n > 1
    negative = call.func in ops.SUBTRACT and (at == 1) != (call.func in ops.REVERSED)
    lead, shape = out.dim() - used.dim(), used.shape

    def make(e: Tensor) -> Term:
        if call.func in ops.MULTIPLY:
            e = e * x.to(e.dtype)
        over = [d for d in range(1, e.dim()) if d < lead or shape[d - lead] == 1 < e.shape[d]]
        e = e.sum(over, keepdim=True) if over else e
        e = e.reshape(len(e), -1)
        return Rows(-e if negative else e)

    return heard.listen(call.out, rows, [Part(operand, make, own_rows)])


def concatenation(heard: Hearing, call: Call) -> bool:
    """A parameter, expanded to every example, beside examples."""
    given = call.given("tensors dim")
    dim = given.get("dim", 0) % call.out.dim()
    rows = heard.rows(call.out, features=0)
    joined = given["tensors"]
    if dim == 0 or heard.inside_attention:
        return False
    if rows is None:
        return heard.elsewhere([heard.operand(t) for t in joined], "cat", call.out)
    parts: list[Part] = []
    start = 0
    for tensor in joined:
        operand, size = heard.operand(tensor), tensor.shape[dim]
        if operand is not None:
            cut = partial(torch.narrow, dim=dim, start=start, length=size)
            parts.append(Part(operand, lambda e, cut=cut: Rows(cut(e).reshape(len(e), -1)), True))
        start += size
    return heard.listen(call.out, rows, parts)


#: The rule for each operation that has one.
RULES: dict[Any, Rule] = {
    functional.linear: linear,
    **dict.fromkeys(ops.MATMUL | ops.ADDMM, matmul),
    **dict.fromkeys((functional.embedding, Tensor.__getitem__), embedding),
    **dict.fromkeys(ops.CONVOLUTIONS, convolution),
    **dict.fromkeys(ops.NORMALISATIONS, normalisation),
    **dict.fromkeys(ops.ADD | ops.SUBTRACT | ops.MULTIPLY, elementwise),
    **dict.fromkeys(ops.CAT, concatenation),
}


def _flat(values: Any) -> list[Any]:
    out: list[Any] = []
    for value in values:
        out += list(value) if isinstance(value, tuple) else [value]
    return out


def _tuple(value: Any, dims: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return values * dims if len(values) == 1 else values


def _last(tensor: Tensor, dims: int) -> int:
    return tensor.shape[tensor.dim() - dims :].numel()


def _flat_rows(tensor: Tensor, like: Tensor | None = None) -> Tensor:
    """``(n, positions, features)``, of the type of ``like``."""
    if like is not None and tensor.dtype != like.dtype:
        tensor = tensor.to(like.dtype)  # what autocast multiplied with
    return tensor.reshape(len(tensor), -1, tensor.shape[-1])


def _summed(error: Tensor) -> Tensor:
    """Sum over positions: (n, features)."""
    return error if error.dim() == 2 else _flat_rows(error).sum(1)


def _embedding_is_odd(given: dict[str, Any]) -> bool:
    odd = ("padding_idx", "max_norm")
    return any(given.get(k) is not None for k in odd) or bool(given.get("scale_grad_by_freq"))
