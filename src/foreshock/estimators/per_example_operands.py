"""Which operations of a forward pass read a parameter, and what they mean for its gradient.

Tables for `foreshock.estimators.per_example`: a parameter may be moved about (transposed, sliced,
expanded, looked up at fixed positions) before an operation uses it; an `Operand` remembers how, so
that the gradient of what was used can be put back where it belongs.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from foreshock.estimators.per_example_rules import PORTION, Outer, Term, summed_squares

T = Tensor


def _both(*names: str) -> set[Any]:
    """Functions and methods of these names."""
    found = {getattr(where, name, None) for where in (torch, Tensor) for name in names}
    return found - {None}


def _getters(*names: str) -> set[Any]:
    """What a mode is told when these properties are read."""
    return {getattr(Tensor, name).__get__ for name in names}


TRANSPOSES = {*_getters("T", "mT"), *_both("t", "transpose", "swapaxes")}
#: Move elements about, one to one.
INJECTIVE = {
    *TRANSPOSES,
    *_both("permute", "movedim", "moveaxis", "swapdims", "narrow", "select", "chunk", "split"),
    *_both("unbind", "unflatten", "flatten", "reshape", "squeeze", "unsqueeze", "clone", "ravel"),
    *_both("view", "contiguous", "view_as", "reshape_as", "tensor_split"),
    *_both("to", "float", "double", "half", "bfloat16", "type_as", "type", "cuda", "cpu"),
}
#: Move elements about, some perhaps to several places.
REPEATING = {T.__getitem__, *_both("expand", "expand_as", "broadcast_to", "repeat", "tile")}
#: Copies in another type or place, which leave an index as it is.
CASTS = _both("to", "float", "double", "half", "bfloat16", "type_as", "type", "cuda", "cpu")

ADD = {T.__add__, T.__radd__, T.__iadd__, *_both("add", "add_")}
SUBTRACT = {T.__sub__, T.__rsub__, T.__isub__, *_both("sub", "sub_", "subtract", "rsub")}
REVERSED = {T.__rsub__, *_both("rsub")}
MULTIPLY = {T.__mul__, T.__rmul__, *_both("mul", "multiply")}
MATMUL = {T.__matmul__, *_both("matmul", "mm")}
ADDMM = _both("addmm")
CAT = _both("cat", "concat", "concatenate")
CONVOLUTIONS = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}
NORMALISATIONS = {functional.layer_norm, functional.group_norm, functional.batch_norm} | (
    {functional.rms_norm} if hasattr(functional, "rms_norm") else set()
)
ATTENTION = functional.multi_head_attention_forward


class Operand(NamedTuple):
    """A trainable parameter, or what became of it before an operation used it.

    Args:
        index: Which parameter.
        shape: Its shape.
        steps: How the operand came about, each a function from tensor to tensor.
        injective: Whether no element appears twice.
        transposed: Whether all that happened to a matrix is being transposed.
    """

    index: int
    shape: torch.Size
    steps: tuple[Callable[[Tensor], Any], ...] = ()
    injective: bool = True
    transposed: bool = False

    @property
    def whole(self) -> bool:
        """Whether the operand is the parameter, perhaps transposed."""
        return not self.steps or self.transposed

    @property
    def plain(self) -> bool:
        """Whether the operand is the parameter itself."""
        return not self.steps or (self.transposed and len(self.steps) % 2 == 0)

    def after(
        self, step: Callable[[Tensor], Any], *, injective: bool = True, transposes: bool = False
    ) -> Operand:
        """The operand that one more step makes of it."""
        turned = transposes and len(self.shape) == 2 and (self.transposed or not self.steps)
        kept = self.injective and injective
        return Operand(self.index, self.shape, (*self.steps, step), kept, turned)

    def places(self, device: torch.device) -> Tensor:
        """Where each element of the operand sits in the flattened parameter."""
        index: Any = torch.arange(self.shape.numel(), device=device).view(self.shape)
        for step in self.steps:
            index = step(index)
        return index

    def spread(self, gradients: Tensor, own_rows: tuple[int, int] | None) -> Tensor:
        """Per-example gradients of the operand as those of the parameter.

        Args:
            gradients: ``(m, elements of the operand)``.
            own_rows: Set where the operand has a row of its own for each example: which rows.

        Returns:
            ``(m, elements of the parameter)``.
        """
        if self.plain:
            return gradients
        places = self.places(gradients.device)
        if own_rows is not None:
            places = places[own_rows[0] : own_rows[1]].flatten(1)
        else:
            places = places.reshape(1, -1).expand_as(gradients)
        out = gradients.new_zeros(len(gradients), self.shape.numel())
        return out.scatter_add_(1, places, gradients)


class Part(NamedTuple):
    """How one operand of an operation gets its gradient.

    Args:
        operand: The parameter, or what became of it.
        make: From the error of the output, examples first, to the per-example gradients.
        own_rows: Whether the operand has a row of its own for each example.
        bias: What a layer adds to its product, if ``make`` is that of a matrix.
        reads: From the error to what the layer read, of the same type and layout.
    """

    operand: Operand
    make: Callable[[Tensor], Term]
    own_rows: bool = False
    bias: Operand | None = None
    reads: Callable[[Tensor], Tensor] | None = None


def movement(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], piece: int | None) -> Any:
    """A movement of a tensor as a function that can be repeated on another one."""
    if func in CASTS:
        return lambda tensor: tensor

    def step(tensor: Tensor) -> Any:
        moved = func(tensor, *args[1:], **kwargs)
        return moved if piece is None else moved[piece]

    return step


def lookup(places: Tensor) -> Callable[[Tensor], Tensor]:
    """Taking rows at fixed places, as a function."""
    return lambda tensor: tensor[places]


def seen_through(function: Any) -> Any:
    """A Python function of torch, whose inner operations a `TorchFunctionMode` gets to see.

    Such a function asks at its door whether a mode is active and, if so, hands itself over whole.
    The copy runs the same code and does not ask.

    Args:
        function: A function of `torch.nn.functional`.

    Returns:
        The copy.
    """
    around = {**function.__globals__, "has_torch_function": lambda *_: False}
    copy = types.FunctionType(
        function.__code__, around, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


ATTENTION_INSIDE = seen_through(ATTENTION)


def combined(used: Sequence[tuple[Part, Term]]) -> Tensor:
    """Squared norms of the sum of several uses of one parameter."""
    outers: list[Outer] = []
    for part, term in used:
        operand = part.operand
        if not operand.whole or not isinstance(term, Outer):
            break
        turned = not operand.plain
        if turned and term.sparse:
            break
        outers.append(Outer(term.right, term.left, term.groups) if turned else term)
    if len(outers) == len(used):
        return summed_squares(outers)
    n, numel = used[0][1].n, used[0][0].operand.shape.numel()
    found = []
    size = max(1, PORTION // numel)
    for start in range(0, n, size):
        stop = min(start + size, n)
        total = torch.zeros(())
        for part, term in used:
            gradients = term.part(start, stop).gradients()
            spread = part.operand.spread(gradients, (start, stop) if part.own_rows else None)
            total = spread if total.dim() == 0 else total + spread
        found.append(total.square().sum(1))
    return torch.cat(found)
