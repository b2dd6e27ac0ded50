"""All outputs of a model as a float64 function of its flat weights, fit for nested derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from foreshock.probe.quiet import quiet
from foreshock.probe.spec import Probe
from foreshock.probe.view import ModelView, batch_size, forward_of

Outputs = Callable[[Tensor], Tensor]


class _Elementary(TorchFunctionMode):
    """Layer norm from elementary operations, whose nested forward derivatives are right."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in (nn.functional.layer_norm, torch.layer_norm):
            return _layer_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    """`torch.nn.functional.layer_norm`, with its names."""
    axes = tuple(range(-len(normalized_shape), 0))
    centred = input - input.mean(axes, keepdim=True)
    out = centred * ((centred * centred).mean(axes, keepdim=True) + eps).rsqrt()
    out = out if weight is None else out * weight
    return out if bias is None else out + bias


class _Run(nn.Module):
    """Lets `functional_call` run the forward pass of a probe."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[..., Tensor], inputs: Any) -> Tensor:
        return function(self.model, inputs)


def model_outputs(view: ModelView, probe: Probe, inputs: Any) -> tuple[Outputs, Tensor]:
    """All outputs of a model on n inputs, over sqrt(n), as a function of its flat weights.

    Evaluated in float64, buffers and frozen weights included. A model that insists on its own type
    is evaluated in that, and the function returns that type, which the intervals of this module
    then take for its precision.

    Args:
        view: The live weights.
        probe: For its ``forward``.
        inputs: n inputs, a tensor ``(n, ...)`` or a mapping or sequence of such.

    Returns:
        The function ``(d,) -> (N,)``, and the weights of this moment, a ``(d,)`` float64 copy. The
        function keeps the inputs; it sees live buffers and frozen weights.

    Raises:
        ValueError: If the inputs hold no tensor to count them by.

    Examples:
        >>> model = torch.nn.Linear(3, 2)
        >>> probe = Probe(loss=lambda m, x: m(x).sum(), batches=[torch.ones(4, 3)])
        >>> f, theta = model_outputs(ModelView(model), probe, torch.ones(4, 3))
        >>> theta.shape, f(theta).shape, bool(torch.allclose(f(theta)[:2] * 2, model.double().bias
        ...     + model.weight.sum(1)))
        (torch.Size([8]), torch.Size([8]), True)
    """
    n = batch_size(inputs)
    if not n:
        raise ValueError(f"The `inputs` of `model_outputs` hold no examples. Got {inputs!r:.80}.")
    forward = forward_of(probe)
    parameters = view.parameters
    shapes = [p.shape for p in parameters]
    sizes = [p.numel() for p in parameters]
    types = [p.dtype for p in parameters]
    theta = torch.cat([p.double().reshape(-1) for p in parameters])
    wide = _double(inputs)

    def in_double(model: nn.Module, x: Any) -> Tensor:
        # Live buffers and frozen weights arrive in their own type. Within the call the module's
        # tensors are already those of the view, so they are swapped once more.
        swapped = {
            f"model.{name}": _double(tensor)
            for name, tensor in chain(model.named_parameters(), model.named_buffers())
        }
        return torch.func.functional_call(_Run(model), swapped, (forward, x))

    def evaluate(flat: Tensor, double: bool) -> Tensor:
        leaves = [
            part.view(shape) if double else part.view(shape).to(dtype)
            for part, shape, dtype in zip(flat.split(sizes), shapes, types, strict=True)
        ]
        function, x = (in_double, wide) if double else (forward, inputs)
        with quiet(view.seed), _Elementary():
            return view.call(leaves, function, x).reshape(-1) / math.sqrt(n)

    try:
        with torch.no_grad():
            evaluate(theta, True)
        double = True
    except RuntimeError:  # types that do not mix
        double = False
    return lambda flat: evaluate(flat, double), theta


def _double(value: Any) -> Any:
    """Floating tensors in float64, also within mappings and sequences; all else as it is."""
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: _double(part) for key, part in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_double(part) for part in value)
    return value
