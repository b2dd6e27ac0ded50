"""What was heard of one forward pass and its backward pass, by parameter.

`Hearing` is the memory behind `foreshock.estimators.per_example`: which tensors hold no examples,
which operands stand for which parameter, what the hooks found, and what could not be followed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from foreshock.estimators.per_example_operands import Operand
from foreshock.estimators.per_example_rules import (
    PORTION,
    Outer,
    Rows,
    Term,
    squares,
    summed_squares,
)
from foreshock.types import Flag

MOVED = "an operation whose input has its examples elsewhere than in dimension 0"
SEVERAL = (
    "The graph was walked through more than once in this step, so the gradient of an example is in "
    "several pieces."
)
#: Part of a gradient that may be unaccounted for: above what TF32 or bfloat16 products lose.
TOLERANCE = 0.02


class Part(NamedTuple):
    """How one operand of an operation gets its gradient.

    Args:
        operand: The parameter, or what became of it.
        make: From the error of the output, examples first, to the per-example gradients.
        own_rows: Whether the operand has a row of its own for each example.
    """

    operand: Operand
    make: Callable[[Tensor], Term]
    own_rows: bool = False


class Hearing:
    """What is known so far about one forward pass and its backward pass.

    Args:
        parameters: Trainable parameters, as the forward pass uses them.
        n: How many examples.
        fixed: Other tensors that hold no examples.

    Attributes:
        trouble: Why there can be no numbers at all; empty otherwise.
        flags: Flags of the trouble.
        started: Whether an error has arrived.
        inside_attention: Whether tensors are laid out as (position, example, feature).
    """

    def __init__(self, parameters: Sequence[Tensor], n: int, fixed: Sequence[Tensor]) -> None:
        self.n = n
        self.flags = Flag.NONE
        self.trouble = ""
        self.started = False
        self.inside_attention = False
        self._parameters = list(parameters)
        # Tensors without examples, held so that no other takes over their identity.
        self.fixed: dict[int, Tensor] = {id(t): t for t in (*fixed, *parameters)}
        self.operands = {id(p): Operand(i, p.shape) for i, p in enumerate(parameters)}
        #: Tensors whose examples are elsewhere than in dimension 0, of equal length.
        self.moved: dict[int, Tensor] = {}
        #: Parameters read by code that runs without a graph.
        self.hidden: set[int] = set()
        #: Parameters that are looked up by tokens: often read again where nobody listens.
        self.tables: set[int] = set()
        self._uses = [0] * len(self._parameters)
        self._uncovered: dict[int, str] = {}
        self._found: dict[int, Tensor] = {}
        self._pending: dict[int, list[tuple[Part, Term]]] = {}
        self._expected: dict[int, Tensor] = {}
        self._unchecked: set[int] = set()
        self._arrived: dict[int, tuple[Tensor, Tensor]] = {}

    def refuse(self, reason: str, flags: Flag = Flag.UNRESOLVED) -> None:
        """There will be no numbers."""
        self.trouble, self.flags = reason, flags

    def miss(self, operands: Sequence[Operand | None], why: str) -> None:
        """Some parameters will not be covered."""
        for operand in operands:
            if operand is not None:
                self._uncovered.setdefault(operand.index, why)

    def elsewhere(self, operands: Sequence[Operand | None]) -> bool:
        """An operation is understood, but not where its examples are."""
        self.miss(operands, MOVED)
        return True

    def forget(self) -> None:
        """Let go of the forward pass, which is over; what its hooks need they hold themselves."""
        self.fixed = {id(p): p for p in self._parameters}
        self.operands, self.moved = {}, {}

    # ------------------------------------------------------------------ forward

    def operand(self, tensor: Any) -> Operand | None:
        """What a tensor stands for, if it is a parameter or was made of one alone."""
        return self.operands.get(id(tensor))

    def rows(self, tensor: Tensor, *, features: int) -> Callable[[Tensor], Tensor] | None:
        """How to bring the examples of a tensor to the front.

        Args:
            tensor: What an operation reads or makes.
            features: How many of its last dimensions cannot hold the examples.

        Returns:
            A function of tensors laid out alike; ``None`` where the examples are not known.
        """
        if self.inside_attention:
            n = self.n
            if tensor.dim() < 2 or tensor.shape[:-1].numel() % n:
                return None
            return lambda t: t.reshape(-1, n, t.shape[-1]).transpose(0, 1)
        ok = tensor.dim() > features and len(tensor) == self.n and id(tensor) not in self.moved
        return (lambda t: t) if ok and id(tensor) not in self.fixed else None

    def listen(
        self,
        out: Tensor,
        rows: Callable[[Tensor], Tensor],
        parts: Sequence[Part],
    ) -> bool:
        """Hang a hook on the output of an operation.

        Args:
            out: The output.
            rows: How to bring its examples to the front.
            parts: How each operand gets its gradient.

        Returns:
            True: the operation is understood.
        """
        for part in parts:
            self._uses[part.operand.index] += 1
        fired: list[bool] = []

        def hook(error: Tensor) -> None:
            self.started = True
            if self.trouble:
                return
            if fired or error.requires_grad:
                self.refuse(SEVERAL)
                return
            fired.append(True)
            try:
                with _plainly(error.device):
                    self._arrive(parts, rows(error.detach()))
            except Exception as trouble:  # never into the user's backward pass
                self.refuse(f"A norm could not be taken ({type(trouble).__name__}: {trouble}).")

        out.register_hook(hook)
        return True

    # ------------------------------------------------------------------ backward

    def _arrive(self, parts: Sequence[Part], error: Tensor) -> None:
        for part in parts:
            index = part.operand.index
            if index in self._uncovered:
                continue
            term = _wide(part.make(error))
            self._expect(part.operand, term)
            if self._uses[index] == 1 and part.operand.injective:
                self._found[index] = squares(term)
            else:
                self._pending.setdefault(index, []).append((part, term))

    def _expect(self, operand: Operand, term: Term) -> None:
        """What the gradient of a table should look like from two sides, if nothing is missed."""
        if operand.index not in self.tables:
            return
        if not isinstance(term, Outer) or not operand.whole:
            self._unchecked.add(operand.index)
            return
        left, right = term.left, term.right
        waves_left = _waves(operand.shape[0 if operand.plain else 1], right)
        waves_right = _waves(right.shape[-1], right)
        along = waves_left[left] if term.sparse else left @ waves_left
        seen = (along * (right @ waves_right)).sum((0, 1))
        index = operand.index
        self._expected[index] = self._expected[index] + seen if index in self._expected else seen

    def gradient(self, index: int, gradient: Tensor) -> None:
        """Compare what was heard of a parameter with its gradient, once that is there.

        For tables of embeddings: two bilinear forms of the gradient have to agree with those of the
        terms. Where they do not, the table is also used where nobody listened (a loss that reads
        it), and its norms are nan.

        Args:
            index: Which parameter.
            gradient: Its gradient of this backward pass.
        """
        if index not in self._expected or index in self._unchecked:
            return
        with _plainly(gradient.device):
            matrix = gradient.to(self._expected[index].dtype).flatten(1)
            rows, columns = (_waves(length, matrix) for length in matrix.shape)
            seen = (rows * (matrix @ columns)).sum(0)
            # A gradient in 16 bits was itself rounded.
            narrow = gradient.dtype in (torch.float16, torch.bfloat16)
            self._arrived[index] = (seen, matrix.norm() * (5 if narrow else 1))

    def _missed_silently(self, index: int) -> Tensor:
        """Whether a gradient is not the sum of the terms that were heard."""
        seen, size = self._arrived[index]
        # Rounding goes with the terms, which may be larger than their sum.
        scale = size + self._found[index].sum().sqrt()
        return ((seen - self._expected[index]).abs() > TOLERANCE * scale).any()

    def norms(self, present: Sequence[bool]) -> tuple[Tensor, dict[int, str]]:
        """What the backward pass gave.

        Args:
            present: Which parameters have a gradient; one that has none and was never heard of
                took no part, so its norms are 0.

        Returns:
            Squared norms of ∂L_i by parameter ``(n, parameters)`` in float64, nan where they do
            not belong to the gradient that arrived, and why parameters are not covered, by index.
        """
        device = self._parameters[0].device
        with _plainly(device):
            for index, used in self._pending.items():
                if index not in self._uncovered:
                    self._found[index] = _combined(used)
        self._pending = {}
        missed = dict(self._uncovered)
        for index, there in enumerate(present):
            if there and index in self.hidden:
                missed.setdefault(index, "code that runs without a graph (reentrant checkpoints)")
            elif there and index not in self._found:
                missed.setdefault(index, "something outside the forward pass")
        for index in self._arrived.keys() & self._found.keys() - missed.keys():
            wrong = self._missed_silently(index)
            found = self._found[index]
            self._found[index] = torch.where(wrong, torch.full_like(found, torch.nan), found)
        zeros = torch.zeros(self.n, device=device)
        columns = [
            self._found[i] if i in self._found and i not in missed else zeros
            for i in range(len(self._parameters))
        ]
        return stacked(columns, 1), missed


def stacked(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors stacked in float64, with one conversion where they are of one type."""
    if len({tensor.dtype for tensor in tensors}) > 1:
        tensors = [tensor.double() for tensor in tensors]
    return torch.stack(list(tensors), dim).double()


def _waves(length: int, like: Tensor) -> Tensor:
    """Two fixed vectors that nothing in a model is orthogonal to, ``(length, 2)``."""
    place = torch.arange(length, dtype=torch.float64, device=like.device)
    return torch.stack([torch.cos(place), torch.sin(place)], 1).to(like.dtype)


@contextmanager
def _plainly(device: torch.device) -> Iterator[None]:
    """Without a graph, and in the types of the tensors themselves."""
    kind = device.type
    cast = torch.is_autocast_enabled(kind)
    with torch.no_grad(), torch.autocast(kind, enabled=False) if cast else nullcontext():
        yield


def _combined(used: Sequence[tuple[Part, Term]]) -> Tensor:
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


def _wide(term: Term) -> Term:
    """Products of 16-bit numbers are summed in float32."""
    narrow = (torch.float16, torch.bfloat16)
    if isinstance(term, Rows):
        return Rows(term.values.float()) if term.values.dtype in narrow else term
    if term.right.dtype not in narrow:
        return term
    left = term.left if term.sparse else term.left.float()
    return Outer(left, term.right.float(), term.groups, term.rows)
