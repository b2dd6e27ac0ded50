"""Per-example gradient norms out of one ordinary backward pass.

While the model runs forward, a `TorchFunctionMode` notices each operation that reads a trainable
parameter, keeps what else it read, and hangs a tensor hook on its output. In the backward pass the
hook gets the error of that output, and input and error together give every example's gradient norm
(`foreshock.estimators.per_example_rules`). Nothing is replaced, and the hooks return nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from foreshock.estimators import per_example_operands as ops
from foreshock.estimators.per_example_hearing import Hearing
from foreshock.estimators.per_example_operations import Call, move, rule_of
from foreshock.probe.examples import ExampleNorms
from foreshock.probe.quiet import quiet
from foreshock.probe.view import ModelView, batch_size
from foreshock.types import Flag

COUPLED = (
    "{name} normalises with the statistics of the batch, so examples have no gradients of their "
    "own. Use the source 'probe' (evaluation mode) or 'accumulation'."
)
SECOND = (
    "Multi-head attention has its examples in another dimension than dimension 0 of the model's "
    "input. Build it with batch_first=True."
)


class PerExample(TorchFunctionMode):
    """Listens to one forward pass and its backward pass.

    Use as a context manager around the forward pass, run the backward pass, then call `norms` of
    ``heard``.

    **Known operations**: `linear`, `@`, `mm`, `addmm` (T x T position products included),
    convolutions (groups, stride, dilation, padding), embeddings, layer, RMS and group norm, batch
    norm in evaluation mode, `+`, `-`, `*` with broadcasting, `cat`, multi-head attention, and
    parameters that are transposed, sliced, expanded or looked up at fixed positions first.
    Weights used several times are added before they are squared. All else is named.

    **Checked**: two bilinear forms of the gradient of each embedding against those of what was
    heard. Where they differ, it is *also* used outside the forward pass (a chunked loss that reads
    it), and its norms are nan. **Not seen**: such a second use of other parameters, and examples
    that are coupled other than by batch norm (a contrastive loss): what then counts as g_i is what
    flows through row i.

    Args:
        parameters: Trainable parameters, as the forward pass uses them.
        names: Their names.
        n: How many examples: length of dimension 0.
        buffers: Tensors of the model that hold no examples, by name.

    Attributes:
        heard: What was heard so far.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        names: Sequence[str],
        n: int,
        buffers: Sequence[tuple[str, Tensor]] = (),
    ) -> None:
        super().__init__()
        self.heard = Hearing(parameters, n, [b for _, b in buffers])
        self._owners = {id(b): name for name, b in buffers}
        self._owners |= {id(p): name for p, name in zip(parameters, names, strict=True)}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.compiler.is_compiling():
            return func(*args, **kwargs)
        heard = self.heard
        if func is ops.ATTENTION and not heard.inside_attention:
            return self._attention(*args, **kwargs)
        out = func(*args, **kwargs)
        if isinstance(out, (Tensor, tuple, list)) and not heard.trouble:
            try:
                self._notice(Call(func, args, kwargs, out))
            except Exception as error:  # never into the user's forward pass
                name = getattr(func, "__name__", func)
                heard.refuse(f"{name} could not be followed ({type(error).__name__}: {error}).")
        return out

    def _attention(self, query: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Multi-head attention lays its tensors out as (position, example, feature)."""
        heard = self.heard
        if query.dim() != 3 or query.shape[1] != heard.n:
            heard.refuse(SECOND)
        elif len(query) == heard.n > 1 and id(query) not in heard.moved:
            heard.refuse(SECOND)  # equal lengths, and nobody carried the examples over
        heard.inside_attention = True
        try:
            with self:
                out = ops.ATTENTION_INSIDE(query, *args, **kwargs)
        finally:
            heard.inside_attention = False
        if id(query) in heard.moved:
            heard.moved[id(out[0])] = out[0]
        return out

    def _notice(self, call: Call) -> None:
        """One call: does it read examples, parameters, both?"""
        heard, func, fixed = self.heard, call.func, self.heard.fixed
        read = _tensors((*call.args, *call.kwargs.values()))
        made = _tensors(call.out if isinstance(call.out, (tuple, list)) else [call.out])
        # A movement may be told another tensor's shape or type; only what it moves counts.
        like = bool(read) and (func in ops.INJECTIVE or func in ops.REPEATING)
        moving = read[:1] if like and func is not Tensor.__getitem__ else read
        constant = all(id(t) in fixed for t in moving)
        if constant:
            fixed.update((id(o), o) for o in made)
        else:
            if made and id(made[0]) in fixed and id(made[0]) not in heard.operands:
                del fixed[id(made[0])]  # examples were written into it
            self._follow_moves(func, read, made)
        if func is functional.batch_norm:
            self._batch_norm(call)
        operands = [o for t in read if (o := heard.operand(t)) is not None]
        if not operands or not made:
            return
        if not torch.is_grad_enabled():
            if constant:
                move(heard, call)
            else:
                heard.hidden.update(o.index for o in operands)
        elif any(o.requires_grad for o in made):
            rule = move if constant else rule_of(func)
            if rule is None or not rule(heard, call):
                heard.miss(operands, getattr(func, "__name__", str(func)))

    def _follow_moves(self, func: Any, read: list[Tensor], made: list[Tensor]) -> None:
        """Where two dimensions are as long as the batch, remember which one holds the examples."""
        heard, n = self.heard, self.heard.n
        if not made or heard.inside_attention:
            return
        moved = bool(heard.moved) and any(id(t) in heard.moved for t in read)
        if func in ops.MOVES and read[0].dim() > 1 and n > 1 and len(read[0]) == n == len(made[0]):
            moved ^= read[0].stride(0) != made[0].stride(0)
        if moved:
            heard.moved.update((id(o), o) for o in made)

    def _batch_norm(self, call: Call) -> None:
        given = call.given("input running_mean running_var weight bias training")
        if given.get("training"):
            known = [given.get(k) for k in ("weight", "bias", "running_mean")]
            owner = next((self._owners[id(t)] for t in known if id(t) in self._owners), "")
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
) -> ExampleNorms:
    """The examples of one or several backward passes as one sample.

    Args:
        view: The live weights.
        passes: What `Hearing.norms` gave for each.
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
    squared = torch.cat([s for s, _ in passes])
    if missed:
        keep = torch.tensor(covered, device=squared.device)
        squared, mean_squares = squared * keep, mean_squares * keep
    reason = ""
    if missed:
        index, why = next(iter(missed.items()))
        more = f" and {len(missed) - 1} more" if len(missed) > 1 else ""
        reason = f"Per-example norms do not cover {names[index]} (used by {why}){more}."
    n = len(squared)
    return ExampleNorms(
        tuple(names),
        tuple(p.numel() for p in view.live_parameters),
        squared * (n * scale) ** 2,
        mean_squares * scale**2,
        covered,
        Flag.NONE,
        reason,
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
        if mode.heard.trouble:
            return ExampleNorms.refused(names, sizes, mode.heard.trouble, mode.heard.flags)
        for index, gradient in enumerate(found):
            if gradient is not None:
                mode.heard.gradient(index, gradient)
        taken = mode.heard.norms([g is not None for g in found])
    zero = torch.zeros((), dtype=torch.float64, device=leaves[0].device)
    mean = [zero if g is None else squared_norm(g) for g in found]
    return assemble(view, [taken], torch.stack(mean))


def squared_norm(tensor: Tensor) -> Tensor:
    """|tensor|² in float64, without overflow of 16-bit numbers."""
    wide = tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
    return torch.linalg.vector_norm(wide).double().square()
