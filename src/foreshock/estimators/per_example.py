"""Per-example gradient norms out of one ordinary backward pass.

While the model runs forward, a `TorchFunctionMode` notices each operation that reads a trainable
parameter, keeps what else it read, and hangs a tensor hook on its output. In the backward pass the
hook gets the error of that output, and input and error together give every example's gradient norm
(`foreshock.estimators.per_example_rules`). Nothing is replaced, and the hooks return nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from foreshock.estimators import per_example_operands as ops
from foreshock.estimators.per_example_follow import name_of
from foreshock.estimators.per_example_forms import form
from foreshock.estimators.per_example_hearing import Hearing
from foreshock.estimators.per_example_operations import RULES, Call, move
from foreshock.estimators.per_example_places import CONSTANT, INSIDE
from foreshock.probe.examples import ExampleNorms
from foreshock.probe.quiet import quiet
from foreshock.probe.view import ModelView, batch_size
from foreshock.types import Flag

COUPLED = (
    "{name} normalises with the statistics of the batch, so examples have no gradients of their "
    "own. Use the source 'probe' (evaluation mode) or 'accumulation'."
)
MIXED = (
    "The operation '{name}' joins tensors that hold their examples in different places, or cannot "
    "be followed, so an example may take part in the loss of another. Use the source 'probe' or "
    "'accumulation'."
)
SECOND = (
    "Multi-head attention has its examples in another dimension than dimension 0 of the model's "
    "input. Build it with batch_first=True."
)


#: Called most often, and of no consequence.
SILENT = {getattr(Tensor, n).__get__ for n in ("shape", "dtype", "device", "requires_grad", "ndim")}


class PerExample(TorchFunctionMode):
    """Listens to one forward pass and its backward pass.

    Use as a context manager around the forward pass, run the backward pass, then call `norms` of
    ``heard``.

    **Known operations**: `linear`, `@`, `mm`, `addmm` (T x T position products included),
    convolutions (groups, stride, dilation, padding), embeddings, layer, RMS and group norm, batch
    norm in evaluation mode, `+`, `-`, `*` with broadcasting, `cat`, multi-head attention, and
    parameters that are transposed, sliced, expanded or looked up at fixed positions first.
    Weights used several times are added before they are squared. All else is named.

    **Followed**: where the examples are, from the model's input on
    (`foreshock.estimators.per_example_follow`). A parameter that meets a tensor whose examples are
    not in dimension 0, or are lost, is named; joining tensors whose examples are in different
    places is refused.

    **Checked**: a bilinear form of each gradient against that of what was heard. Where they differ
    the parameter is *also* used outside the forward pass (a penalty in the loss, a chunked loss
    that reads it), and its norms are nan. **Not seen**: examples that are coupled in the loss (a
    contrastive one): what then counts as g_i is what flows through row i.

    Args:
        parameters: Trainable parameters, as the forward pass uses them.
        names: Their names.
        n: How many examples: length of dimension 0.
        buffers: Gives names and buffers of the model, for sentences.
        given: What the model is given: its tensors of n rows hold the examples.

    Attributes:
        heard: What was heard so far.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        names: Sequence[str],
        n: int,
        buffers: Callable[[], Iterable[tuple[str, Tensor]]] = tuple,
        given: Any = (),
    ) -> None:
        super().__init__()
        self.heard = Hearing(parameters, n)
        self.heard.marks.start(given)
        self._named = parameters, names
        self._buffers = buffers

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.compiler.is_compiling():
            return func(*args, **kwargs)
        heard = self.heard
        if func is ops.ATTENTION and not heard.inside_attention and not heard.trouble:
            return self._attention(*args, **kwargs)
        out = func(*args, **kwargs)
        if heard.trouble or type(out) is torch.Size or func in SILENT:
            return out
        if isinstance(out, (Tensor, tuple, list)) or func is Tensor.__setitem__:
            try:
                self._notice(Call(func, args, kwargs, out))
            except Exception as error:  # never into the user's forward pass
                heard.refuse(
                    f"{name_of(func)} could not be followed ({type(error).__name__}: {error})."
                )
        return out

    def _attention(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kw: Any) -> Any:
        """Multi-head attention lays its tensors out as (position, example, feature)."""
        heard = self.heard
        marks = [heard.marks.of(t) for t in (query, key, value)]
        if not all(t.dim() == 3 and t.shape[1] == heard.n for t in (query, key, value)) or not (
            set(marks) <= {1, CONSTANT} and 1 in marks
        ):
            heard.refuse(SECOND)
        for tensor, mark in zip((query, key, value), marks, strict=True):
            if mark == 1:
                heard.marks.put(tensor, INSIDE)
        heard.inside_attention = True
        try:
            with self:
                out = ops.ATTENTION_INSIDE(query, key, value, *args, **kw)
        finally:
            heard.inside_attention = False
            for tensor, mark in zip((query, key, value), marks, strict=True):
                heard.marks.put(tensor, mark)
        heard.marks.put(out[0], 1)
        if out[1] is not None:
            heard.marks.put(out[1], 0)
        return out

    def _notice(self, call: Call) -> None:
        """One call: does it read examples, parameters, both?"""
        heard, func, marks = self.heard, call.func, self.heard.marks
        if func is Tensor.__setitem__:
            call = call._replace(out=call.args[0])
        made = _tensors(call.out if isinstance(call.out, (tuple, list)) else (call.out,))
        if not made:
            return
        read = _tensors((*call.args, *call.kwargs.values()) if call.kwargs else call.args)
        if heard.inside_attention:
            carried = any(marks.carries(t) for t in read)
            for out in made:
                marks.put(out, INSIDE if carried else CONSTANT)
        else:
            coupled = marks.follow(call, read, made)
            if coupled:
                heard.refuse(MIXED.format(name=coupled), Flag.COUPLED_EXAMPLES)
                return
        if func is functional.batch_norm:
            self._batch_norm(call)
        known = heard.operands
        operands = [known[id(t)] for t in read if id(t) in known]
        if not operands:
            return
        # A movement may be told another tensor's shape or type; only what it moves counts.
        like = func in ops.INJECTIVE or func in ops.REPEATING
        moving = read[:1] if like and func is not Tensor.__getitem__ else read
        constant = not any(marks.carries(t) for t in moving)
        if not torch.is_grad_enabled():
            if constant:
                move(heard, call)
            else:
                heard.hidden.update(o.index for o in operands)
        elif any(o.requires_grad for o in made):
            if constant:
                if not move(heard, call):
                    heard.miss(operands, self._without_examples(name_of(func), read))
                return
            rule = RULES.get(func)
            if rule is None or not rule(heard, call):
                heard.miss(operands, name_of(func))

    def _without_examples(self, name: str, read: list[Tensor]) -> str:
        lost = next((why for t in read if (why := self.heard.marks.why(t))), "")
        if lost:
            return f"{name}, after '{lost}' lost track of which rows are one example"
        return f"{name} without examples"

    def _batch_norm(self, call: Call) -> None:
        given = call.given("input running_mean running_var weight bias training")
        if given.get("training"):
            known = [given.get(k) for k in ("weight", "bias", "running_mean")]
            owners = {id(t): name for t, name in zip(*self._named, strict=True)}
            owners |= {id(b): name for name, b in self._buffers()}
            owner = next((owners[id(t)] for t in known if id(t) in owners), "")
            name = owner.rpartition(".")[0] or "a batch normalisation"
            self.heard.refuse(COUPLED.format(name=name), Flag.COUPLED_EXAMPLES)


def _tensors(values: Any) -> list[Tensor]:
    """Tensors among values, and in lists among them."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            found += [v for v in value if isinstance(v, Tensor)]
    return found


def assemble(
    view: ModelView,
    passes: Sequence[tuple[Tensor, dict[int, str]]],
    mean_squares: Tensor,
    scale: Tensor | float = 1.0,
    altered: Tensor | None = None,
) -> ExampleNorms:
    """The examples of one or several backward passes as one sample.

    Args:
        view: The live weights.
        passes: What `Hearing.norms` gave for each.
        mean_squares: Squared norm of the summed gradient, by parameter.
        scale: Factor on all gradients, such as one over the loss scale.
        altered: Which parameters' gradients were changed after the backward pass.

    Returns:
        Norms of n ∂L_i, n the number of examples of all passes.
    """
    missed: dict[int, str] = {}
    for _, why in passes:
        missed |= why
    names = view.names
    covered = tuple(i not in missed for i in range(len(names)))
    squared = passes[0][0] if len(passes) == 1 else torch.cat([s for s, _ in passes])
    if missed:
        keep = torch.tensor(covered, device=squared.device)
        squared, mean_squares = squared * keep, mean_squares * keep
    reason = ""
    if missed:
        index, why = next(iter(missed.items()))
        more = f" and {len(missed) - 1} more" if len(missed) > 1 else ""
        reason = f"Per-example norms do not cover {names[index]} (used by {why}){more}."
    n, factor = squared.shape[0], scale * scale
    if isinstance(factor, Tensor) or factor != 1.0:
        mean_squares = mean_squares * factor
    return ExampleNorms(
        tuple(names),
        tuple(view.sizes),
        squared * (factor * n**2),
        mean_squares,
        covered,
        Flag.NONE,
        reason,
        altered,
    )


def per_example_norms(view: ModelView, loss: Callable[..., Tensor], batch: Any) -> ExampleNorms:
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
        >>> [round(s, 4) for s in norms.squares[:, 0].tolist()], norms.coverage  # |n x_i/n|²
        ([1.0, 4.0, 9.0], 1.0)
    """
    names, sizes = view.names, view.sizes
    n = batch_size(batch)
    if not n:
        return ExampleNorms.refused(names, sizes, "The batch holds no tensor, so no examples.")
    with quiet(view.seed):
        leaves = view.leaves()
        mode = PerExample(leaves, names, n, given=batch)
        try:
            with mode:
                value = view.loss(leaves, loss, batch)
            found = torch.autograd.grad(value, leaves, allow_unused=True)
        except RuntimeError as error:
            # Reentrant checkpoints refuse `autograd.grad`.
            reason = f"The extra pass failed ({type(error).__name__}: {error})."
            return ExampleNorms.refused(names, sizes, reason)
        if mode.heard.trouble:
            return ExampleNorms.refused(names, sizes, mode.heard.trouble, mode.heard.flags)
        for index, gradient in enumerate(found):
            if gradient is not None:
                size = squared_norm(gradient).sqrt()
                mode.heard.gradient(index, gradient, form(gradient), size)
        taken = mode.heard.norms([g is not None for g in found])
    zero = torch.zeros((), dtype=torch.float64, device=leaves[0].device)
    mean = [zero if g is None else squared_norm(g) for g in found]
    return assemble(view, [taken], torch.stack(mean))


def squared_norm(tensor: Tensor) -> Tensor:
    """|tensor|² in float64, without overflow of 16-bit numbers."""
    wide = tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
    return torch.linalg.vector_norm(wide).double().square()
