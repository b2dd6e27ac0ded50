"""What is taken from a live run for a measurement, and how the run is left."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from foreshock.probe.spec import Probe
from foreshock.probe.view import ModelView, check_probe, norm, unwrap


def gradient_norm(model: nn.Module) -> Tensor | None:
    r"""The Euclidean norm of the gradients as they stand.

    Args:
        model: A model after ``backward()``. Sparse gradients count as the dense ones they stand
            for.

    Returns:
        The norm, on the device; None where no parameter has a gradient.

    Examples:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> gradient_norm(model) is None
        True
        >>> model(torch.tensor([3.0, 4.0])).backward()
        >>> gradient_norm(model).item()
        5.0
    """
    gradients = [p.grad for p in unwrap(model).parameters() if p.grad is not None]
    if not gradients:
        return None
    return norm([g.coalesce().values() if g.is_sparse else g for g in gradients])


def check_loss(
    what: str,
    view: ModelView,
    loss: Callable[[Any, Any], Any],
    batch: Any,
    model: nn.Module,
) -> None:
    """Try a user's loss once, and refuse one that is not a function of the model it is given.

    Args:
        what: Its name, for the error.
        view: A view of the model.
        loss: ``loss(model, batch) -> scalar``.
        batch: What it is tried on.
        model: The live model, which is left as it was.

    Raises:
        ValueError: If it fails, closes over the live model, or does not depend on the weights.
    """
    try:
        check_probe(view, Probe(loss=loss, batches=[batch]), model)
    except ValueError as error:
        raise ValueError(f"{what} was tried as the `loss` of a `Probe`. {error}") from error


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Modes and buffers of a live model stand afterwards as they stood.

    Args:
        model: A model that somebody else's function is about to run.

    Yields:
        Nothing.

    Examples:
        >>> model = nn.BatchNorm1d(1)
        >>> with undisturbed(model):
        ...     _ = model(torch.ones(3, 1))
        ...     _ = model.eval()
        >>> model.training, int(model.num_batches_tracked)
        (True, 0)
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module, _ in modes
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for module, name, buffer, old in buffers:
            module._buffers[name] = buffer
            # A write, even of the same numbers, would spoil a graph that waits for its backward.
            if not torch.equal(buffer, old):
                with torch.no_grad():
                    buffer.copy_(old)


def recordable(values: Any) -> Tensor:
    """Numbers as a tensor without a graph that autograd can take.

    Args:
        values: A tensor, an array or a list.

    Returns:
        The same memory where that is possible; a copy of what `torch.inference_mode` made.

    Examples:
        >>> with torch.inference_mode():
        ...     z = torch.ones(2)
        >>> recordable(z).requires_grad_().sum().item()
        2.0
    """
    tensor = torch.as_tensor(values)
    if not tensor.is_inference():
        return tensor.detach()
    with torch.inference_mode(False):
        return tensor.clone()
