"""Per-example gradient norms out of one ordinary backward pass.

While the model runs forward, a `TorchFunctionMode` notices each operation that reads a trainable
parameter, keeps what else it read, and hangs a tensor hook on its output. In the backward pass the
hook gets the error of that output, and input and error together give every example's gradient norm
(`foreshock.estimators.per_example_rules`). Nothing is replaced, and the hooks return nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from foreshock.estimators import per_example_operands as ops
from foreshock.estimators.per_example_operands import Operand
from foreshock.estimators.per_example_rules import (
    PORTION,
    Outer,
    Rows,
    Term,
    convolution,
    squares,
    summed_squares,
)
from foreshock.probe.examples import ExampleNorms
from foreshock.probe.quiet import quiet
from foreshock.probe.view import ModelView, batch_size
from foreshock.types import Flag

#: Makes a term from the error of an output whose examples come first.
Maker = Callable[[Tensor], Term]
COUPLED = (
    "{name} normalises with the statistics of the batch, so examples have no gradients of their "
    "own. Use the source 'probe' (evaluation mode) or 'accumulation'."
)
MOVED = "an operation whose input has its examples elsewhere than in dimension 0"


class PerExample(TorchFunctionMode):
    """Listens to one forward pass and its backward pass.

    Use as a context manager around the forward pass, run the backward pass, then call `norms`.

    **Known operations**: `linear`, `@`, `mm`, `addmm` (T x T position products included),
    convolutions (groups, stride, dilation, padding), embeddings, layer, RMS and group norm, batch
    norm in evaluation mode, `+`, `-`, `*` with broadcasting, `cat`, multi-head attention, and
    parameters that are transposed, sliced, expanded or looked up at fixed positions first.
    Weights used several times are added before they are squared. All else is named in ``reason``.

    **Not seen**: a parameter that is *also* used outside the forward pass that was listened to (a
    chunked loss that reads the embedding), and inside a kernel of its own.

    Args:
        parameters: Trainable parameters, as the forward pass uses them.
        names: Their names.
        n: How many examples: length of dimension 0.
        buffers: Tensors of the model that hold no examples, by name.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        names: Sequence[str],
        n: int,
        buffers: Sequence[tuple[str, Tensor]] = (),
    ) -> None:
        super().__init__()
        self.n = n
        self.flags = Flag.NONE
        self.trouble = ""
        self.started = False
        self._parameters = list(parameters)
        self._names = list(names)
        self._owners = {id(b): name for name, b in buffers}
        self._owners |= {id(p): name for p, name in zip(parameters, names, strict=True)}
        # Tensors without examples, held so that no other takes over their identity.
        self._fixed: dict[int, Tensor] = {id(b): b for _, b in buffers}
        self._fixed |= {id(p): p for p in parameters}
        self._operands: dict[int, Operand] = {
            id(p): Operand(i, p.shape) for i, p in enumerate(parameters)
        }
        self._moved: dict[int, Tensor] = {}
        self._inside_attention = False
        self._uses = [0] * len(self._parameters)
        self._uncovered: dict[int, str] = {}
        self._hidden: set[int] = set()
        self._found: dict[int, Tensor] = {}
        self._pending: dict[int, list[tuple[Operand, Term, bool]]] = {}

    # ------------------------------------------------------------------ forward

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.compiler.is_compiling():
            return func(*args, **kwargs)
        if func is ops.ATTENTION and not self._inside_attention:
            return self._attention(*args, **kwargs)
        out = func(*args, **kwargs)
        if isinstance(out, (Tensor, tuple, list)) and not self.trouble:
            try:
                self._notice(func, args, kwargs, out)
            except Exception as error:  # never into the user's forward pass
                name = getattr(func, "__name__", func)
                self._refuse(f"{name} could not be followed ({type(error).__name__}: {error}).")
        return out

    def _refuse(self, reason: str, flags: Flag = Flag.UNRESOLVED) -> None:
        self.trouble, self.flags = reason, flags

    def _attention(self, query: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Multi-head attention lays its tensors out as (position, example, feature)."""
        rows = query.shape[1] if query.dim() == 3 else None
        second = query.shape[0] == self.n and id(query) not in self._moved
        if rows != self.n or (second and query.shape[0] == rows and rows > 1):
            self._refuse(
                "Multi-head attention has its examples in another dimension than dimension 0 of "
                "the model's input. Build it with batch_first=True."
            )
        self._inside_attention = True
        try:
            with self:
                out = ops.ATTENTION_INSIDE(query, *args, **kwargs)
        finally:
            self._inside_attention = False
        if id(query) in self._moved:
            self._moved[id(out[0])] = out[0]
        return out

    def _notice(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        read: list[Tensor] = []
        for arg in (*args, *kwargs.values()):
            if isinstance(arg, Tensor):
                read.append(arg)
            elif isinstance(arg, (tuple, list)):
                read += [a for a in arg if isinstance(a, Tensor)]
        fixed = self._fixed
        made = [out] if isinstance(out, Tensor) else [o for o in out if isinstance(o, Tensor)]
        first = read[0] if read else None
        like = first is not None and (func in ops.INJECTIVE or func in ops.REPEATING)
        constant = id(first) in fixed if like else all(id(t) in fixed for t in read)
        if like and func is Tensor.__getitem__:
            constant = all(id(t) in fixed for t in read)
        if constant:
            fixed.update((id(o), o) for o in made)
        elif fixed and made and id(made[0]) in fixed and id(made[0]) not in self._operands:
            del fixed[id(made[0])]  # written to, in place
        if not constant:
            self._follow_moves(func, read, made)
        if func is functional.batch_norm:
            self._batch_norm(args, kwargs)
        operands = [self._operands[id(t)] for t in read if id(t) in self._operands]
        if not operands or not made:
            return
        if not torch.is_grad_enabled():
            if not constant:
                self._hidden.update(o.index for o in operands)
        elif any(o.requires_grad for o in made):
            rule = self._move if constant else self._rule(func)
            if rule is None or not rule(func, args, kwargs, out):
                self._miss(operands, getattr(func, "__name__", str(func)))

    def _miss(self, operands: Sequence[Operand], why: str) -> None:
        for operand in operands:
            self._uncovered.setdefault(operand.index, why)

    def _follow_moves(self, func: Any, read: list[Tensor], made: list[Tensor]) -> None:
        """Where two dimensions are as long as the batch, remember which one holds the examples."""
        first, last = read[0], made[0] if made else None
        if last is None or self._inside_attention:
            return
        moved = any(id(t) in self._moved for t in read) if self._moved else False
        if func in ops.MOVES and first.dim() and last.dim() and len(first) == self.n == len(last):
            if first.dim() > 1 and self.n > 1 and first.stride(0) != last.stride(0):
                moved = not moved
        if moved:
            self._moved.update((id(o), o) for o in made)

    def _batch_norm(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = _named(args, kwargs, "input running_mean running_var weight bias training")
        if given.get("training"):
            known = [given.get(k) for k in ("weight", "bias", "running_mean")]
            owner = next((self._owners[id(t)] for t in known if id(t) in self._owners), "")
            name = owner.rpartition(".")[0] or "a batch normalisation"
            self._refuse(COUPLED.format(name=name), Flag.COUPLED_EXAMPLES)

    def _rule(self, func: Any) -> Any:
        if func is functional.linear:
            return self._linear
        if func in ops.MATMUL or func in ops.ADDMM:
            return self._matmul
        if func is functional.embedding or func is Tensor.__getitem__:
            return self._embedding
        if func in ops.CONVOLUTIONS:
            return self._convolution
        if func in ops.NORMALISATIONS:
            return self._normalisation
        if func in ops.ADD or func in ops.SUBTRACT or func in ops.MULTIPLY:
            return self._elementwise
        return self._cat if func in ops.CAT else None

    # ------------------------------------------------------------------ rules: True if understood

    def _move(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> bool:
        """A parameter that is only moved about stays an operand."""
        if func is functional.embedding:
            given = _named(args, kwargs, "input weight padding_idx max_norm norm_type")
            operand, places = self._operand(given["weight"]), given["input"]
            fixed = id(places) in self._fixed and id(places) not in self._operands
            if operand is None or not fixed or _embedding_is_odd(given):
                return False
            once = len(places.unique()) == places.numel()
            self._operands[id(out)] = operand.after(ops.lookup(places), injective=once)
            self._fixed[id(out)] = out
            return True
        operand = self._operand(args[0]) if args else None
        if operand is None or not (func in ops.INJECTIVE or func in ops.REPEATING):
            return False
        pieces = [(None, out)] if isinstance(out, Tensor) else list(enumerate(out))
        for piece, made in pieces:
            if made is args[0]:
                continue
            once = func in ops.INJECTIVE or made.numel() <= args[0].numel() and not any(
                isinstance(a, (Tensor, list)) for a in _flat(args[1:])
            )
            step = ops.movement(func, args, kwargs, piece)
            turns = func in ops.TRANSPOSES
            self._operands[id(made)] = operand.after(step, injective=once, transposes=turns)
        return True

    def _linear(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> bool:
        given = _named(args, kwargs, "input weight bias")
        x = given["input"]
        weight, bias = self._operand(given["weight"]), self._operand(given.get("bias"))
        rows = self._rows(x, features=1)
        if rows is None or id(x) in self._operands:
            return self._elsewhere([weight, bias])
        parts: list[tuple[Operand, Maker, bool]] = []
        if weight is not None:
            parts.append((weight, lambda e: Outer(_flat_rows(e), _flat_rows(rows(x), e)), False))
        if bias is not None:
            parts.append((bias, lambda e: Rows(_flat_rows(e).sum(1)), False))
        return self._listen(out, rows, parts)

    def _matmul(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> bool:
        if kwargs:
            return False
        bias = self._operand(args[0]) if func in ops.ADDMM else None
        x, matrix = args[-2:]
        weight = self._operand(matrix)
        rows = self._rows(x, features=1)
        if id(x) in self._operands or matrix.dim() != 2 or (bias and len(args[0].shape) != 1):
            return False
        if rows is None:
            return self._elsewhere([weight, bias])
        parts: list[tuple[Operand, Maker, bool]] = []
        if weight is not None:
            parts.append((weight, lambda e: Outer(_flat_rows(rows(x), e), _flat_rows(e)), False))
        if bias is not None:
            parts.append((bias, lambda e: Rows(_flat_rows(e).sum(1)), False))
        return self._listen(out, rows, parts)

    def _embedding(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
    ) -> bool:
        if func is functional.embedding:
            given = _named(args, kwargs, "input weight padding_idx max_norm norm_type")
        else:
            given = {"input": args[1], "weight": args[0], "padding_idx": None}
        tokens, table = given["input"], given["weight"]
        weight = self._operand(table)
        odd = not isinstance(tokens, Tensor) or tokens.is_floating_point()
        if weight is None or odd or tokens.dtype == torch.bool or table.dim() != 2:
            return False
        if _embedding_is_odd({**given, "padding_idx": None}):
            return False
        rows, padding = self._rows(tokens, features=0), given.get("padding_idx")
        if rows is None:
            return self._elsewhere([weight])
        height = len(table)

        def make(e: Tensor) -> Term:
            picked = rows(tokens).reshape(self.n, -1).long()
            e = _flat_rows(e)
            if padding is not None:  # its row gets no gradient
                e = e * (picked != padding % height).unsqueeze(-1)
            return Outer(picked, e, rows=height)

        return self._listen(out, rows, [(weight, make, False)])

    def _convolution(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
    ) -> bool:
        given = _named(args, kwargs, "input weight bias stride padding dilation groups")
        x, kernel = given["input"], given["weight"]
        weight, bias = self._operand(kernel), self._operand(given.get("bias"))
        dims = ops.CONVOLUTIONS[func]
        rows = self._rows(x, features=1 + dims) if x.dim() == dims + 2 else None
        if rows is None or id(x) in self._operands:
            return self._elsewhere([weight, bias])
        stride, dilation = (_tuple(given.get(k, 1), dims) for k in ("stride", "dilation"))
        padding = given.get("padding", 0)
        if not isinstance(padding, str):
            padding = _tuple(padding, dims)
        groups, shape = given.get("groups", 1), kernel.shape
        parts: list[tuple[Operand, Maker, bool]] = []
        if weight is not None:
            make = partial(
                convolution,
                weight_shape=shape,
                stride=stride,
                padding=padding,
                dilation=dilation,
                groups=groups,
            )
            parts.append((weight, lambda e: make(x.to(e.dtype), e), False))
        if bias is not None:
            parts.append((bias, lambda e: Rows(e.flatten(2).sum(2)), False))
        return self._listen(out, rows, parts)

    def _normalisation(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
    ) -> bool:
        if func is functional.batch_norm:
            given = _named(args, kwargs, "input running_mean running_var weight bias training")
        elif func is functional.group_norm:
            given = _named(args, kwargs, "input num_groups weight bias eps")
        else:
            given = _named(args, kwargs, "input normalized_shape weight bias eps")
        x = given["input"]
        if func is getattr(functional, "rms_norm", None):
            given = _named(args, kwargs, "input normalized_shape weight eps")
        weight, bias = self._operand(given.get("weight")), self._operand(given.get("bias"))
        rows = self._rows(x, features=1)
        if rows is None or id(x) in self._operands:
            return self._elsewhere([weight, bias])
        bare = {k: v for k, v in given.items() if k not in ("weight", "bias")}
        by_channel = func in (functional.batch_norm, functional.group_norm)

        def reduce(e: Tensor) -> Term:
            if by_channel:
                return Rows(e.flatten(2).sum(2) if e.dim() > 2 else e)
            last = len(bare["normalized_shape"])
            return Rows(e.flatten(e.dim() - last).reshape(len(e), -1, _last(e, last)).sum(1))

        parts: list[tuple[Operand, Maker, bool]] = []
        if weight is not None:
            parts.append((weight, lambda e: reduce(e * rows(func(**bare)).to(e.dtype)), False))
        if bias is not None:
            parts.append((bias, reduce, False))
        return self._listen(out, rows, parts)

    def _elementwise(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
    ) -> bool:
        if kwargs or len(args) != 2 or not all(isinstance(a, Tensor) for a in args):
            return False
        own = [self._operand(a) for a in args]
        if None not in own:
            return False
        at = 0 if own[0] is not None else 1
        operand, used, x = own[at], args[at], args[1 - at]
        rows = self._rows(out, features=0)
        if operand is None or x.dim() < out.dim() or rows is None or self._inside_attention:
            return self._elsewhere([operand])
        own_rows = used.dim() == out.dim() and len(used) == self.n and self.n > 1
        negative = func in ops.SUBTRACT and (at == 1) != (func in ops.REVERSED)
        lead, shape = out.dim() - used.dim(), used.shape

        def make(e: Tensor) -> Term:
            if func in ops.MULTIPLY:
                e = e * x.to(e.dtype)
            over = [d for d in range(1, e.dim()) if d < lead or shape[d - lead] == 1 < e.shape[d]]
            e = e.sum(over, keepdim=True) if over else e
            e = e.reshape(len(e), -1)
            return Rows(-e if negative else e)

        return self._listen(out, rows, [(operand, make, own_rows)])

    def _cat(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> bool:
        given = _named(args, kwargs, "tensors dim")
        dim = given.get("dim", 0) % out.dim()
        rows = self._rows(out, features=0)
        joined = given["tensors"]
        if dim == 0 or rows is None or self._inside_attention:
            return self._elsewhere([self._operand(t) for t in joined])
        parts: list[tuple[Operand, Maker, bool]] = []
        start = 0
        for tensor in joined:
            operand, size = self._operand(tensor), tensor.shape[dim]
            if operand is not None:
                cut = partial(torch.narrow, dim=dim, start=start, length=size)
                parts.append((operand, lambda e, cut=cut: Rows(cut(e).reshape(len(e), -1)), True))
            start += size
        return self._listen(out, rows, parts)

    def _operand(self, tensor: Any) -> Operand | None:
        return self._operands.get(id(tensor))

    def _elsewhere(self, operands: Sequence[Operand | None]) -> bool:
        self._miss([o for o in operands if o is not None], MOVED)
        return True

    def _rows(self, tensor: Tensor, *, features: int) -> Callable[[Tensor], Tensor] | None:
        """How to bring the examples of a tensor to the front; ``None`` where they are not known."""
        if self._inside_attention:
            n = self.n
            if tensor.dim() < 2 or tensor.shape[:-1].numel() % n:
                return None
            return lambda t: t.reshape(-1, n, t.shape[-1]).transpose(0, 1)
        ok = tensor.dim() > features and len(tensor) == self.n and id(tensor) not in self._moved
        return (lambda t: t) if ok and id(tensor) not in self._fixed else None

    # ------------------------------------------------------------------ backward

    def _listen(
        self,
        out: Tensor,
        rows: Callable[[Tensor], Tensor],
        parts: list[tuple[Operand, Maker, bool]],
    ) -> bool:
        for operand, _, _ in parts:
            self._uses[operand.index] += 1
        fired: list[bool] = []

        def hook(error: Tensor) -> None:
            self.started = True
            if self.trouble:
                return
            if fired or error.requires_grad:
                self._refuse(
                    "The graph was walked through more than once in this step, so the gradient of "
                    "an example is in several pieces."
                )
                return
            fired.append(True)
            try:
                self._arrive(rows, parts, error)
            except Exception as trouble:  # never into the user's backward pass
                self._refuse(f"A norm could not be taken ({type(trouble).__name__}: {trouble}).")

        out.register_hook(hook)
        return True

    def _arrive(
        self,
        rows: Callable[[Tensor], Tensor],
        parts: list[tuple[Operand, Maker, bool]],
        error: Tensor,
    ) -> None:
        kind = error.device.type
        cast = torch.is_autocast_enabled(kind)
        with torch.no_grad(), torch.autocast(kind, enabled=False) if cast else nullcontext():
            error = rows(error.detach())
            for operand, make, own_rows in parts:
                if operand.index in self._uncovered:
                    continue
                term = _wide(make(error))
                once = self._uses[operand.index] == 1
                if once and operand.injective:
                    self._found[operand.index] = squares(term)
                else:
                    self._pending.setdefault(operand.index, []).append((operand, term, own_rows))

    def norms(self, present: Sequence[bool]) -> tuple[Tensor, dict[int, str]]:
        """What the backward pass gave.

        Args:
            present: Which parameters have a gradient; one that has none and was never heard of
                took no part, so its norms are 0.

        Returns:
            Squared norms of ∂L_i by parameter ``(n, parameters)`` in float64, and why parameters
            are not covered, by index.
        """
        for index, used in self._pending.items():
            if index not in self._uncovered:
                self._found[index] = _combined(used)
        self._pending = {}
        missed = dict(self._uncovered)
        for index, there in enumerate(present):
            if there and index in self._hidden:
                missed.setdefault(index, "code that runs without a graph (reentrant checkpoints)")
            elif there and index not in self._found:
                missed.setdefault(index, "something outside the forward pass")
        device = self._parameters[0].device
        zeros = torch.zeros(self.n, dtype=torch.float64, device=device)
        columns = [
            self._found[i].double() if i in self._found and i not in missed else zeros
            for i in range(len(self._parameters))
        ]
        return torch.stack(columns, 1), missed

    def forget(self) -> None:
        """Let go of the forward pass, which is over; what its hooks need they hold themselves."""
        self._fixed = {id(p): p for p in self._parameters}
        self._operands, self._moved = {}, {}


def _combined(used: Sequence[tuple[Operand, Term, bool]]) -> Tensor:
    """Squared norms of the sum of several uses of one parameter."""
    outers: list[Outer] = []
    for operand, term, _ in used:
        if not operand.whole or not isinstance(term, Outer):
            break
        turned = not operand.plain
        if turned and term.sparse:
            break
        outers.append(Outer(term.right, term.left, term.groups) if turned else term)
    if len(outers) == len(used):
        return summed_squares(outers)
    n, numel = used[0][1].n, used[0][0].shape.numel()
    found = []
    size = max(1, PORTION // numel)
    for start in range(0, n, size):
        stop = min(start + size, n)
        total = torch.zeros(())
        for operand, term, own_rows in used:
            gradients = term.part(start, stop).gradients()
            spread = operand.spread(gradients, (start, stop) if own_rows else None)
            total = spread if total.dim() == 0 else total + spread
        found.append(total.square().sum(1))
    return torch.cat(found)


def _named(args: tuple[Any, ...], kwargs: dict[str, Any], names: str) -> dict[str, Any]:
    return {**dict(zip(names.split(), args, strict=False)), **kwargs}


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


def _embedding_is_odd(given: dict[str, Any]) -> bool:
    odd = ("padding_idx", "max_norm")
    return any(given.get(k) is not None for k in odd) or bool(given.get("scale_grad_by_freq"))


def _wide(term: Term) -> Term:
    """Products of 16-bit numbers are summed in float32."""
    narrow = (torch.float16, torch.bfloat16)
    if isinstance(term, Rows):
        return Rows(term.values.float()) if term.values.dtype in narrow else term
    if term.right.dtype not in narrow:
        return term
    left = term.left if term.sparse else term.left.float()
    return Outer(left, term.right.float(), term.groups, term.rows)


def assemble(
    view: ModelView,
    passes: Sequence[tuple[Tensor, dict[int, str]]],
    mean_squares: Tensor,
    scale: Tensor | float = 1.0,
) -> ExampleNorms:
    """The examples of one or several backward passes as one sample.

    Args:
        view: The live weights.
        passes: What `PerExample.norms` gave for each.
        mean_squares: Squared norm of the summed gradient, by parameter.
        scale: Factor on all gradients, such as one over the loss scale.

    Returns:
        Norms of n ∂L_i, n the number of examples of all passes.
    """
    missed: dict[int, str] = {}
    for _, why in passes:
        missed |= why
    names = view.names
    covered = tuple(i not in missed for i in range(len(names)))
    keep = torch.tensor(covered, device=mean_squares.device)
    squared = torch.cat([s for s, _ in passes])
    reason = ""
    if missed:
        index, why = next(iter(missed.items()))
        more = f" and {len(missed) - 1} more" if len(missed) > 1 else ""
        reason = f"Per-example norms do not cover {names[index]} (used by {why}){more}."
    n = len(squared)
    return ExampleNorms(
        tuple(names),
        tuple(p.numel() for p in view.live_parameters),
        squared * keep * (n * scale) ** 2,
        mean_squares * keep * scale**2,
        covered,
        Flag.NONE,
        reason,
    )


def per_example_norms(
    view: ModelView, loss: Callable[..., Tensor], batch: Any
) -> ExampleNorms:
    """Per-example gradient norms of one batch, from one forward and one backward pass.

    In evaluation mode at frozen weights, within `quiet`, eagerly: for compiled models this is one
    extra pass, since a mode would break their graph.

    Args:
        view: The live weights.
        loss: ``loss(model, batch)``, one number.
        batch: Holds a tensor whose dimension 0 are the examples, first.

    Returns:
        The norms; refused with a sentence where there are none.

    Examples:
        >>> model = torch.nn.Linear(3, 1, bias=False)
        >>> x = torch.eye(3) * torch.tensor([1.0, 2.0, 3.0])
        >>> norms = per_example_norms(ModelView(model), lambda m, x: m(x).mean(), x)
        >>> norms.squares[:, 0].tolist(), norms.coverage  # |n x_i/n|²
        ([1.0, 4.0, 9.0], 1.0)
    """
    names, sizes = view.names, [p.numel() for p in view.live_parameters]
    n = batch_size(batch)
    if not n:
        return ExampleNorms.refused(names, sizes, "The batch holds no tensor, so no examples.")
    with quiet(view.seed):
        leaves = view.leaves()
        mode = PerExample(leaves, names, n)
        try:
            with mode:
                value = view.loss(leaves, loss, batch)
            found = torch.autograd.grad(value, leaves, allow_unused=True)
        except RuntimeError as error:
            # Reentrant checkpoints refuse `autograd.grad`.
            reason = f"The extra pass failed ({type(error).__name__}: {error})."
            return ExampleNorms.refused(names, sizes, reason)
        if mode.trouble:
            return ExampleNorms.refused(names, sizes, mode.trouble, mode.flags)
        taken = mode.norms([g is not None for g in found])
    zero = torch.zeros((), dtype=torch.float64, device=leaves[0].device)
    mean = [zero if g is None else squared_norm(g) for g in found]
    return assemble(view, [taken], torch.stack(mean))


def squared_norm(tensor: Tensor) -> Tensor:
    """|tensor|² in float64, without overflow of 16-bit numbers."""
    wide = tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
    return torch.linalg.vector_norm(wide).double().square()
