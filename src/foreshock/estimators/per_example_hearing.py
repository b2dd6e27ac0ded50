"""What was heard of one forward pass and its backward pass, by parameter.

`Hearing` is the memory behind `foreshock.estimators.per_example`: which tensors hold no examples,
which operands stand for which parameter, what the hooks found, and what could not be followed.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from foreshock.estimators.per_example_follow import Marks
from foreshock.estimators.per_example_forms import (
    NARROW,
    form_of_term,
    form_weights,
    stacked,
    unexplained,
    unexplained_numbers,
    wave_of,
    weighted,
)
from foreshock.estimators.per_example_operands import Operand, Part, combined
from foreshock.estimators.per_example_places import CONSTANT, INSIDE, LOST, MERGED
from foreshock.estimators.per_example_rules import (
    Outer,
    Rows,
    Term,
    squares,
)
from foreshock.types import Flag

MOVED = "an operation whose input has its examples elsewhere than in dimension 0"
SEVERAL = (
    "The graph was walked through more than once in this step, so the gradient of an example is in "
    "several pieces."
)
#: Part of a gradient that may be unaccounted for: above what TF32 or bfloat16 products lose.
TOLERANCE = 0.02
#: The same where products are those of float32 or float64.
FINE = 0.003


class Hearing:
    """What is known so far about one forward pass and its backward pass.

    Args:
        parameters: Trainable parameters, as the forward pass uses them.
        n: How many examples.

    Attributes:
        trouble: Why there can be no numbers at all; empty otherwise.
        flags: Flags of the trouble.
        started: Whether an error has arrived.
        inside_attention: Whether tensors are laid out as (position, example, feature).
        marks: Where tensors have their examples.
        on_start: Called with this when the first error arrives.
        before: Passes that no error had reached when this one's forward pass ended.
    """

    def __init__(self, parameters: Sequence[Tensor], n: int) -> None:
        self.n = n
        self.flags = Flag.NONE
        self.trouble = ""
        self.started = False
        self.inside_attention = False
        self._parameters = list(parameters)
        self.marks = Marks(n)
        for parameter in parameters:
            self.marks.put(parameter, CONSTANT)
        self.on_start: Callable[[Hearing], None] | None = None
        self.before: list[weakref.ref[Hearing]] = []
        #: What became of parameters, held so that nothing else takes over its identity.
        self.held: list[Tensor] = []
        self.operands = {id(p): Operand(i, p.shape) for i, p in enumerate(parameters)}
        #: Parameters read by code that runs without a graph.
        self.hidden: set[int] = set()
        self._uses = [0] * len(self._parameters)
        self._uncovered: dict[int, str] = {}
        #: Squared norms by parameter, and norms of those that are squared together at the end.
        self._found: dict[int, Tensor] = {}
        self._roots: dict[int, Tensor] = {}
        self._pending: dict[int, list[tuple[Part, Term]]] = {}
        self._coarse = False
        self._expected: dict[int, Tensor] = {}
        self._arrived: dict[int, tuple[Tensor, Tensor]] = {}

    def refuse(self, reason: str, flags: Flag = Flag.UNRESOLVED) -> None:
        """There will be no numbers."""
        self.trouble, self.flags = reason, flags

    def miss(self, operands: Sequence[Operand | None], why: str) -> None:
        """Some parameters will not be covered."""
        for operand in operands:
            if operand is not None:
                self._uncovered.setdefault(operand.index, why)

    def elsewhere(self, operands: Sequence[Operand | None], name: str, tensor: Tensor) -> bool:
        """An operation is understood, but not where its examples are."""
        mark, why = self.marks.of(tensor), self.marks.why(tensor)
        if mark == LOST:
            origin = f"'{why}'" if why else "code that cannot be listened to"
            self.miss(operands, f"{name}, after {origin} lost track of which rows are one example")
        elif mark == CONSTANT:
            self.miss(operands, f"{name} with a tensor that was not made of the model's input")
        else:
            self.miss(operands, f"{name}, {MOVED}")
        return True

    def hold(self, tensor: Tensor, operand: Operand) -> None:
        """A tensor is what became of a parameter."""
        self.operands[id(tensor)] = operand
        self.held.append(tensor)

    def begin(self) -> None:
        """An error has arrived."""
        if not self.started:
            self.started = True
            if self.on_start is not None:
                self.on_start(self)

    def forget(self) -> None:
        """Let go of the forward pass, which is over; what its hooks need they hold themselves."""
        self.marks, self.operands, self.held = Marks(self.n), {}, []

    # ------------------------------------------------------------------ forward

    def operand(self, tensor: Any) -> Operand | None:
        """What a tensor stands for, if it is a parameter or was made of one alone."""
        return self.operands.get(id(tensor))

    def rows(
        self, tensor: Tensor, *, features: int, merged: bool = False
    ) -> Callable[[Tensor], Tensor] | None:
        """How to bring the examples of a tensor to the front.

        Args:
            tensor: What an operation reads or makes.
            features: How many of its last dimensions cannot hold the examples.
            merged: Whether dimension 0 may also hold several rows of an example.

        Returns:
            A function of tensors laid out alike; ``None`` where the examples are not known.
        """
        mark, n = self.marks.of(tensor), self.n
        if self.inside_attention:
            if mark != INSIDE or tensor.dim() < 2 or tensor.shape[:-1].numel() % n:
                return None
            return lambda t: t.reshape(-1, n, t.shape[-1]).transpose(0, 1)
        if tensor.dim() <= features:
            return None
        if mark == MERGED and merged:
            return lambda t: t.reshape(n, -1, *t.shape[1:])
        return (lambda t: t) if mark == 0 else None

    def listen(
        self,
        out: Tensor,
        rows: Callable[[Tensor], Tensor],
        parts: Sequence[Part],
        *,
        linear: bool = False,
    ) -> bool:
        """Hang a hook on the output of an operation.

        Args:
            out: The output.
            rows: How to bring its examples to the front.
            parts: How each operand gets its gradient.
            linear: Whether the output may be a view of what was computed.

        Returns:
            True: the operation is understood.
        """
        for part in parts:
            self._uses[part.operand.index] += 1
            if part.bias is not None:
                self._uses[part.bias.index] += 1
        waiting: list[Sequence[Part]] = [parts]
        del parts  # with the inputs they hold, until the error arrives, not as long as the graph
        shape = out.shape

        def hook(error: Tensor) -> None:
            self.begin()
            if self.trouble:
                return
            if not waiting or error.requires_grad:
                self.refuse(SEVERAL)
                return
            try:
                with plainly(error.device):
                    error = rows(error if error.shape == shape else error.reshape(shape))
                    for part in waiting.pop():
                        self._arrive(part, error)
            except Exception as trouble:  # never into the user's backward pass
                self.refuse(f"A norm could not be taken ({type(trouble).__name__}: {trouble}).")

        # A product at several positions is a view. Where it is written to in place (an activation)
        # its own hook never fires, and that of what it is a view of does.
        base = out._base if linear else None
        target = out if base is None or base.is_leaf or base.numel() != out.numel() else base
        target.register_hook(hook)
        return True

    # ------------------------------------------------------------------ backward

    def _arrive(self, part: Part, error: Tensor) -> None:
        operand, bias = part.operand, part.bias
        if operand.index in self._uncovered and (bias is None or bias.index in self._uncovered):
            return
        if bias is not None and part.reads is not None and error.dim() == 2:
            if self._alone(operand) and self._alone(bias):
                self._layer(operand.index, bias.index, error, part.reads(error))
                return
        term = part.make(error)
        if (term.values if isinstance(term, Rows) else term.right).dtype in NARROW:
            self._coarse, term = True, _wide(term)
        self._enter(part, term)
        if bias is not None and isinstance(term, Outer):
            self._enter(Part(bias, part.make), Rows(term.left.sum(1)))

    def _alone(self, operand: Operand) -> bool:
        """Whether one operation reads all of a parameter, and nothing else does."""
        index = operand.index
        return operand.whole and self._uses[index] == 1 and index not in self._uncovered

    def _layer(self, weight: int, bias: int, error: Tensor, x: Tensor) -> None:
        """Matrix and bias of a layer at one position: what both need is computed once."""
        if error.dtype in NARROW:
            self._coarse, error, x = True, error.float(), x.float()
        dtype, device = error.dtype, error.device
        along = error.mv(wave_of(error.shape[1], dtype, device))
        self._expected[weight] = along.dot(x.mv(wave_of(x.shape[1], dtype, device)))
        self._expected[bias] = along.sum()
        size = torch.linalg.vector_norm(error, dim=1)
        self._roots[bias] = size
        self._roots[weight] = torch.linalg.vector_norm(x, dim=1).mul_(size)

    def _enter(self, part: Part, term: Term) -> None:
        """Norms of one operand, and what its gradient should look like if nothing is missed.

        See `form`; it is linear, so those of the examples add up to that of the gradient.
        """
        operand, index = part.operand, part.operand.index
        if index in self._uncovered:
            return
        if operand.whole:
            seen = form_of_term(operand, term)
        elif isinstance(term, Outer) and term.groups > 1:
            self.miss([operand], "a convolution with a part of it")
            return
        else:
            test = form_weights(operand.shape, term)
            for step in operand.steps:
                test = step(test)
            seen = weighted(test, term)
        self._expected[index] = self._expected[index] + seen if index in self._expected else seen
        if self._uses[index] == 1 and operand.injective:
            self._found[index] = squares(term)
        else:
            self._pending.setdefault(index, []).append((part, term))

    def gradient(self, index: int, gradient: Tensor, seen: Tensor, size: Tensor) -> None:
        """Keep what arrived of a parameter, to compare it with what was heard.

        A bilinear form of the gradient has to agree with that of the terms. Where it does not, the
        parameter is also used where nobody listened (a penalty in the loss, a loss that reads
        it), and its norms are nan. One form overlooks a large difference in some 3 % of the steps,
        so nothing should rest on one step.

        Args:
            index: Which parameter.
            gradient: Its gradient of this backward pass.
            seen: Its `form`.
            size: Its norm.
        """
        narrow = gradient.dtype in NARROW
        self._coarse |= narrow or gradient.is_cuda
        # A gradient in 16 bits was itself rounded.
        self._arrived[index] = (seen, size * 5 if narrow else size)

    def _missed_silently(self, squared: Tensor, missed: Mapping[int, str]) -> Tensor:
        """Norms that are nan where a gradient is not the sum of the terms that were heard."""
        seen, sizes, terms = [], [], []
        for index in range(squared.shape[1]):
            arrived, term = self._arrived.get(index), self._expected.get(index)
            compared = index not in missed and self._heard(index)
            if not compared or arrived is None or term is None:
                zero = torch.zeros((), device=squared.device)
                # What was heard of and has not arrived is not what the optimizer uses.
                arrived, term = (zero, zero), zero + torch.inf if compared else zero
            seen.append(arrived[0])
            sizes.append(arrived[1])
            terms.append(term)
        # Some gradients are rounding alone (the bias of keys in attention).
        share, least = (TOLERANCE, 2e-3) if self._coarse else (FINE, 1e-5)
        sums = squared.sum(0)
        if squared.is_cpu:
            form, size, term = ([t.item() for t in row] for row in (seen, sizes, terms))
            wrong = unexplained_numbers(sums.tolist(), form, size, term, share, least)
            if wrong:
                squared[:, wrong] = torch.nan
            return squared
        form_now, norm, form_due = stacked(seen + sizes + terms).view(3, -1).unbind()
        apart = unexplained(sums, form_now, norm, form_due, share, least)
        return squared.masked_fill_(apart, torch.nan)

    def _heard(self, index: int) -> bool:
        return index in self._found or index in self._roots

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
        if self._pending:
            with plainly(device):
                for index, used in self._pending.items():
                    if index not in self._uncovered:
                        self._found[index] = combined(used)
            self._pending = {}
        missed = dict(self._uncovered)
        for index, there in enumerate(present):
            if there and index in self.hidden:
                missed.setdefault(index, "code that runs without a graph (reentrant checkpoints)")
            elif there and not self._heard(index):
                missed.setdefault(index, "something outside the forward pass")
        return self._missed_silently(self._columns(missed), missed), missed

    def _columns(self, missed: Mapping[int, str]) -> Tensor:
        """Squared norms by parameter, 0 where there are none, ``(n, parameters)``."""
        every = range(len(self._parameters))
        if len(self._roots) == len(every) and not missed:
            roots = stacked([self._roots[i] for i in every])
            return roots.mul_(roots).T
        found = self._found | {index: root.square() for index, root in self._roots.items()}
        none = torch.zeros(self.n, device=self._parameters[0].device)
        return stacked([none if i in missed else found.get(i, none) for i in every]).T


def plainly(device: torch.device) -> AbstractContextManager[None]:
    """Without a graph, and in the types of the tensors themselves."""
    kind = device.type
    if torch.is_autocast_enabled(kind):
        return _uncast(kind)
    # An ordinary backward pass is without a graph already.
    return torch.no_grad() if torch.is_grad_enabled() else nullcontext()


@contextmanager
def _uncast(kind: str) -> Iterator[None]:
    with torch.no_grad(), torch.autocast(kind, enabled=False):
        yield


def _wide(term: Term) -> Term:
    """Products of 16-bit numbers are summed in float32."""
    if isinstance(term, Rows):
        return Rows(term.values.float())
    left = term.left if term.sparse else term.left.float()
    return Outer(left, term.right.float(), term.groups, term.rows)
