"""Where an operation leaves the examples of what it read: one function a kind of operation.

The tables behind `foreshock.estimators.per_example_follow`. What is not on the list, or moves or
mixes examples, loses them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from foreshock.estimators import per_example_operands as ops

#: Marks. A number of at least 0 is the dimension that holds the examples, one row each.
MERGED = -1  # dimension 0 holds several rows of the first example, then several of the second, ...
LOST = -2  # made of examples, but not known where they are
CONSTANT = -3  # not made of examples, or not by way of a parameter
INSIDE = -4  # in the layout of multi-head attention, (position, example, feature)

Place = Callable[[Tensor, int, Any, Tensor], int]


def nowhere(tensor: Tensor, mark: int, call: Any, out: Tensor) -> int:
    """An operation that is not on the list."""
    return LOST


# ---------------------------------------------------------------------- where they are afterwards


def _dim(call: Any, at: int, default: Any, *keys: str) -> Any:
    for key in ("dim", "dims", "axis", *keys):
        if key in call.kwargs:
            return call.kwargs[key]
    if call.func in _FLIPS:
        return call.args[at:] if isinstance(call.args[at], int) else call.args[at]
    return call.args[at] if len(call.args) > at else default


def _dims(value: Any, tensor: Tensor) -> list[int] | None:
    """Dimensions counted from the front; ``None`` where they are not numbers."""
    values = list(value) if isinstance(value, (tuple, list)) else [value]
    if not all(isinstance(v, int) and not isinstance(v, bool) for v in values):
        return None
    return [v % max(1, tensor.dim()) for v in values]


def _elementwise(tensor: Tensor, mark: int, call: Any, out: Tensor) -> int:
    if mark >= 0:
        return mark + out.dim() - tensor.dim()
    return mark if out.dim() == tensor.dim() and len(out) == len(tensor) else LOST


def _reshaped(tensor: Tensor, mark: int, call: Any, out: Tensor) -> int:
    """In row-major order the elements of an example stay together if they are."""
    if tensor.numel() != out.numel() or not out.dim():
        return LOST
    n = len(tensor) if mark == 0 else tensor.shape[mark] if mark > 0 else 0
    if mark > 0 and tensor.shape[:mark].numel() > 1:
        return mark if out.shape[: mark + 1] == tensor.shape[: mark + 1] else LOST
    if mark == MERGED:  # whether a row holds whole examples is asked by who knows how many
        return MERGED
    if len(out) == n:
        return 0
    if len(out) % n == 0:
        return MERGED
    leading = next((i for i, size in enumerate(out.shape) if size > 1), 0)
    return leading if out.shape[leading] == n else LOST


def _moved(tensor: Tensor, mark: int, call: Any, out: Tensor) -> int:
    """Where a dimension goes is tried on an empty tensor, all of whose lengths differ."""
    if not call.args or call.args[0] is not tensor:
        return LOST
    at = max(mark, 0)
    tried = torch.empty(tuple(range(2, tensor.dim() + 2)), device="meta")
    new = list(call.func(tried, *call.args[1:], **call.kwargs).shape).index(at + 2)
    return new if mark >= 0 else (MERGED if new == 0 else LOST)


def _cut(at: int, default: Any = None, *, drops: bool = False, adds: bool = False) -> Place:
    """Operations along one or several dimensions, which the examples must not be in."""

    def place(tensor: Tensor, mark: int, call: Any, out: Tensor) -> int:
        if tensor.dim() - drops != out.dim() - adds:
            return LOST
        dims = _dims(_dim(call, at, default, "dimension"), tensor)
        if dims is None or max(mark, 0) in dims:
            return LOST
        return mark - sum(d < mark for d in dims) if drops and mark >= 0 else mark

    return place


def _reduced(at: int) -> Place:
    def place(tensor: Tensor, mark: int, call: Any, out: Tensor) -> int:
        if any(isinstance(a, Tensor) for a in call.args[1:]):
            return _elementwise(tensor, mark, call, out)  # max(a, b)
        dims = _dims(_dim(call, at, None), tensor)
        if dims is None or max(mark, 0) in dims:
            return LOST
        if out.dim() == tensor.dim():
            return mark
        if out.dim() != tensor.dim() - len(set(dims)):
            return LOST
        return mark - sum(d < mark for d in set(dims)) if mark >= 0 else mark

    return place


def _indexed(tensor: Tensor, mark: int, call: Any, out: Tensor) -> int:
    source, index = call.args[:2]
    if tensor is not source:  # constants looked up with examples
        plain = isinstance(index, Tensor) and index.dtype not in (torch.bool, torch.uint8)
        return mark if tensor is index and plain else LOST
    parts = index if isinstance(index, tuple) else (index,)
    if any(isinstance(p, (list, tuple)) for p in parts):
        return LOST
    tensors = sum(isinstance(p, Tensor) for p in parts)
    at, new = 0, 0
    used = sum(p is not None and p is not Ellipsis for p in parts)
    goal = max(mark, 0)
    for part in parts:
        if part is None:
            new += 1
            continue
        if part is Ellipsis:
            skip = tensor.dim() - used
            if at <= goal < at + skip:
                new += goal - at
                break
            at, new = at + skip, new + skip
            continue
        if at == goal:
            length = tensor.shape[goal]
            if not isinstance(part, slice) or part.indices(length) != (0, length, 1):
                return LOST
            break
        if isinstance(part, (Tensor, bool)):
            return LOST  # before the examples
        at += 1
        new += isinstance(part, slice)
    else:
        new += goal - at
    if tensors > 1 or any(isinstance(p, bool) for p in parts):
        return LOST
    if tensors and any(isinstance(p, int) for p in parts):
        return LOST  # both count as an index, and may sit apart
    return new if mark >= 0 else (MERGED if new == 0 and len(out) == len(tensor) else LOST)


def _joined(tensor: Tensor, mark: int, call: Any, out: Tensor) -> int:
    dims = _dims(_dim(call, 1, 0), out)
    return LOST if dims is None or max(mark, 0) in dims else mark


def _stacked(tensor: Tensor, mark: int, call: Any, out: Tensor) -> int:
    dims = _dims(_dim(call, 1, 0), out)
    return LOST if dims is None or mark < 0 else mark + (dims[0] <= mark)


def _first(features: Callable[[Any, Tensor], int]) -> Place:
    """Layers that treat the rows of their first argument one by one."""

    def place(tensor: Tensor, mark: int, call: Any, out: Tensor) -> int:
        given = call.args[0] if call.args else call.kwargs.get("input")
        if tensor is not given or out.dim() != tensor.dim():
            return LOST
        return mark if max(mark, 0) < tensor.dim() - features(call, tensor) else LOST

    return place


def _normalised(call: Any, tensor: Tensor) -> int:
    shape = call.args[1] if len(call.args) > 1 else call.kwargs["normalized_shape"]
    return len(shape)


def _padded(call: Any, tensor: Tensor) -> int:
    pad = call.args[1] if len(call.args) > 1 else call.kwargs["pad"]
    return (len(pad) + 1) // 2


def _multiplied(tensor: Tensor, mark: int, call: Any, out: Tensor) -> int:
    args = call.args
    if call.kwargs and call.func not in ops.ADDMM or len(args) < 2:
        return LOST
    if len(args) == 3:
        if tensor is args[0]:
            return _elementwise(tensor, mark, call, out)
        args = args[1:]
    if args[0] is args[1] or not all(isinstance(a, Tensor) for a in args):
        return LOST
    left = tensor is args[0]
    other = args[1] if left else args[0]
    behind = tensor.dim() - max(mark, 0)  # counted from the end: 1 columns, 2 rows, 3 batches
    if behind == (1 if left else 2) or tensor.dim() == 1 or not out.dim():
        return LOST  # what is summed over
    if other.dim() == 1:
        behind -= 1
    if mark < 0:
        return MERGED if left and len(out) == len(tensor) and other.dim() <= 2 else LOST
    return out.dim() - behind


def _attended(tensor: Tensor, mark: int, call: Any, out: Tensor) -> int:
    behind = tensor.dim() - mark
    return out.dim() - behind if mark >= 0 and behind >= 3 else LOST


def _summed(tensor: Tensor, mark: int, call: Any, out: Tensor) -> int:
    """Einsum: the letter of the examples."""
    equation, *operands = call.args
    if len(operands) == 1 and isinstance(operands[0], (tuple, list)):
        operands = list(operands[0])
    if not isinstance(equation, str) or "->" not in equation or "." in equation or mark < 0:
        return LOST
    before, after = equation.replace(" ", "").split("->")
    letters = {
        terms[mark] for terms, o in zip(before.split(","), operands, strict=True) if o is tensor
    }
    if len(letters) != 1:
        return LOST
    return after.find(letters.pop()) if letters & set(after) else LOST


def _recurrent(tensor: Tensor, mark: int, call: Any, out: Tensor) -> int:
    """Inputs, states, weights, biases?, layers, dropout, training, both ways?, batch first?"""
    args = call.args
    if len(args) != 9 or not isinstance(args[3], bool) or not isinstance(call.out, tuple):
        return LOST
    first = 0 if args[8] else 1
    if mark != (first if tensor is args[0] else 1) or args[0].dim() != 3:
        return LOST
    return first if out is call.out[0] else 1


def _looked_up(tensor: Tensor, mark: int, call: Any, out: Tensor) -> int:
    return mark if tensor is (call.args[0] if call.args else call.kwargs.get("input")) else LOST


def _written(tensor: Tensor, mark: int, call: Any, out: Tensor) -> int:
    """``target[index] = value``: where the target has its examples then."""
    target, index, value = call.args
    parts = index if isinstance(index, tuple) else (index,)
    if not all(p is Ellipsis or isinstance(p, (int, slice)) for p in parts):
        return LOST
    if tensor is target:
        # Constants written over rows leave the others where they are.
        return mark
    whole = mark == 0 and (parts[0] == slice(None) or parts[0] is Ellipsis and len(parts) == 1)
    left = target.dim() - sum(isinstance(p, int) for p in parts)
    return 0 if whole and value.dim() == left else LOST


def _each(names: str) -> set[Any]:
    """Functions, methods and operators of these names, wherever torch has them."""
    places = (torch, Tensor, functional, torch._C._nn, torch.special, torch.linalg)
    found = {getattr(where, name, None) for where in places for name in names.split()}
    return found - {None}


_IMAGE = _first(lambda call, tensor: 2)
_PATCH = _first(lambda call, tensor: 3)
_ROW = _first(lambda call, tensor: 1)
CONSTANTS = _each(
    "zeros_like ones_like rand_like randn_like full_like empty_like randint_like new_zeros "
    "new_ones new_full new_empty new_tensor"
)
_FLIPS = _each("flip")
MIXING = _each(
    "softmax log_softmax softmin cumsum cumprod cummax logcumsumexp sort topk normalize "
    "gumbel_softmax __setitem__"
)
PLACES: dict[Any, Place] = {}


def _fill() -> None:
    same = """
    __add__ __radd__ __iadd__ __sub__ __rsub__ __isub__ __mul__ __rmul__ __imul__ __truediv__
    __rtruediv__ __itruediv__ __div__ __rdiv__ __idiv__ __floordiv__ __mod__ __pow__ __rpow__
    __ipow__ __neg__ __abs__ __invert__ __and__ __or__ __xor__ __eq__ __ne__ __lt__ __le__ __gt__
    __ge__ add add_ sub sub_ subtract rsub mul mul_ multiply div div_ divide true_divide
    floor_divide remainder fmod pow pow_ float_power square sqrt sqrt_ rsqrt exp exp_ exp2 expm1
    log log_ log2 log10 log1p abs absolute neg negative sign sgn reciprocal sin cos tan asin acos
    atan atan2 sinh cosh tanh tanh_ sigmoid sigmoid_ relu relu_ relu6 gelu silu mish elu elu_ selu
    celu softplus softsign tanhshrink hardtanh hardswish hardsigmoid hardshrink softshrink
    leaky_relu leaky_relu_ prelu rrelu threshold logsigmoid logit erf erfc erfinv expit clamp
    clamp_ clamp_min clamp_max clip clip_ round floor ceil trunc frac nan_to_num where masked_fill
    masked_fill_ maximum minimum fmax fmin lerp addcmul addcdiv xlogy hypot eq ne lt le gt ge
    logical_and logical_or logical_not logical_xor isnan isinf isfinite bitwise_and bitwise_or
    bitwise_not dropout dropout_ dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout
    detach detach_ clone contiguous to float double half bfloat16 int long bool type type_as cpu
    cuda copy_ fill_ zero_ requires_grad_ bernoulli positive conj real imag __iand__ __ior__
    expand expand_as broadcast_to repeat tile
    """
    tables: list[tuple[str, Place]] = [
        (same, _elementwise),
        (
            "view reshape view_as reshape_as flatten unflatten ravel squeeze unsqueeze",
            _reshaped,
        ),
        ("t transpose swapaxes swapdims permute movedim moveaxis", _moved),
        ("narrow", _cut(1)),
        ("chunk split tensor_split", _cut(2, 0)),
        ("select", _cut(1, drops=True)),
        ("unbind", _cut(1, 0, drops=True)),
        ("unfold", _cut(1, adds=True)),
        ("softmax log_softmax softmin cumsum cumprod cummax logcumsumexp gather flip", _cut(1)),
        ("index_select scatter scatter_add scatter_ scatter_add_ index_add index_fill", _cut(1)),
        ("sort argsort glu", _cut(1, -1)),
        ("topk", _cut(2, -1)),
        ("roll repeat_interleave take_along_dim", _cut(2)),
        ("normalize", _cut(2, 1)),
        (
            "sum mean std var amax amin max min argmax argmin prod logsumexp any all median "
            "nansum nanmean count_nonzero",
            _reduced(1),
        ),
        ("norm vector_norm", _reduced(2)),
        ("cat concat concatenate", _joined),
        ("stack", _stacked),
        ("linear", _ROW),
        ("layer_norm rms_norm", _first(_normalised)),
        ("group_norm batch_norm instance_norm", _ROW),
        ("conv1d conv_transpose1d", _first(lambda c, t: 2)),
        ("conv2d conv_transpose2d", _first(lambda c, t: 3)),
        ("conv3d conv_transpose3d", _first(lambda c, t: 4)),
        (
            "max_pool1d avg_pool1d adaptive_avg_pool1d adaptive_max_pool1d max_pool2d avg_pool2d "
            "adaptive_avg_pool2d adaptive_max_pool2d max_pool3d avg_pool3d adaptive_avg_pool3d "
            "adaptive_max_pool3d lp_pool1d lp_pool2d interpolate upsample",
            _IMAGE,
        ),
        ("pixel_shuffle pixel_unshuffle channel_shuffle", _PATCH),
        ("pad", _first(_padded)),
        ("matmul mm bmm addmm __matmul__ mv", _multiplied),
        ("scaled_dot_product_attention", _attended),
        ("einsum", _summed),
        ("embedding one_hot", _looked_up),
        ("gru lstm rnn_tanh rnn_relu", _recurrent),
        ("__getitem__", _indexed),
        ("__setitem__", _written),
    ]
    for names, place in tables:
        PLACES.update(dict.fromkeys(_each(names), place))
    for name in ("T", "mT"):
        PLACES[getattr(Tensor, name).__get__] = _moved
    PLACES[vars(torch._C.TensorBase)["data"].__get__] = _elementwise
    # With indices: the same function behind another name.
    for name in ("max_pool1d", "max_pool2d", "max_pool3d"):
        PLACES[getattr(functional, f"{name}_with_indices")] = _IMAGE


_fill()
