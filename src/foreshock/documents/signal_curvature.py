r"""What a reader of the document "signal" looks for in section 11.6: the largest curvature."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from foreshock.documents.live import check_loss
from foreshock.documents.loaders import borrow
from foreshock.estimators.hvp import hessian
from foreshock.estimators.published import lambda_power
from foreshock.probe.quiet import quiet
from foreshock.probe.view import ModelView

Loader = Iterable[Any]


def estimate_lambda_max(
    model: nn.Module,
    loss_fn: Callable[[nn.Module, Any], Tensor],
    dataloader: Loader,
    n_iter: int = 20,
    n_batches: int = 5,
    *,
    seed: int = 0,
) -> float:
    r"""Power iteration for the largest Hessian eigenvalue, from a random start.

    The training run does not notice, as in `compute_consolidation_ratio`.

    **What the published form gets wrong**: it finds the eigenvalue of largest size, so a spectrum
    of +2 and -2.2 reads -2.2; it has no residual, so nothing says whether it has converged; and it
    divides by `n_batches` however many there are (here with a warning). S = 2 eta - lambda, which
    the document makes of it, mixes units.

    **Ours instead**: `Curvature` (``hessian/lambda_max``: Lanczos, an interval, a flag where it has
    not converged) and `Stability`.

    Args:
        model: The model that is trained.
        loss_fn: ``loss_fn(model, batch) -> scalar``, of the model it is given and nothing else of
            the run.
        dataloader: Batches, at least one; not an iterator.
        n_iter: Hessian-vector products; none is refused.
        n_batches: Batches that the Hessian is averaged over.
        seed: Of the start and of the order of the examples.

    Returns:
        The last Rayleigh quotient; nan if an iterate vanishes.

    References:
        The document "signal", section 11.6.

    Examples:
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
        >>> loss = lambda m, x: m(x).pow(2).sum() / 2
        >>> round(estimate_lambda_max(model, loss, [x] * 5), 4)  # of x'x
        9.0
    """
    batches = borrow(dataloader, n_batches, seed=seed)
    share = _share("estimate_lambda_max", len(batches), n_batches)
    view = ModelView(model, seed=seed)
    check_loss("The `loss_fn` of `estimate_lambda_max`", view, loss_fn, batches[0], model)
    # The iteration does not see the length of Hv, so the published factor comes out of it.
    return share * lambda_power(view, loss_fn, batches, products=n_iter, seed=seed)


def hessian_vector_product(
    model: nn.Module,
    loss_fn: Callable[[nn.Module, Any], Tensor],
    dataloader: Loader,
    v: Sequence[Tensor],
    n_batches: int = 5,
    *,
    seed: int = 0,
) -> list[Tensor]:
    r"""The product Hv of the Hessian of the mean loss over `n_batches` batches.

    The training run does not notice, as in `compute_consolidation_ratio`.

    **What the published form gets wrong**: it divides by `n_batches` however many there are (here
    with a warning), so a short loader gives a part of Hv. The Hessian is that of a few batches.

    **Ours instead**: `foreshock.estimators.hvp.HessianProduct`, which also serves models without a
    double backward.

    Args:
        model: The model that is trained.
        loss_fn: ``loss_fn(model, batch) -> scalar``.
        dataloader: Batches, not an iterator.
        v: One tensor for every trainable parameter.
        n_batches: Batches that the Hessian is averaged over.
        seed: Of the order of the examples.

    Returns:
        One tensor for every trainable parameter.

    Raises:
        ValueError: If there is no batch, `v` has not the shapes of the parameters, or the loss is
            no function of the model it is given.

    References:
        The document "signal", section 11.6.

    Examples:
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> x = torch.tensor([[1.0, 2.0]])
        >>> loss = lambda m, x: m(x).pow(2).sum() / 2
        >>> hessian_vector_product(model, loss, [x] * 5, [torch.tensor([[1.0, 0.0]])])  # xx'v
        [tensor([[1., 2.]])]
    """
    view, v = ModelView(model, seed=seed), list(v)
    shapes = [tuple(p.shape) for p in view.parameters]
    if [tuple(part.shape) for part in v] != shapes:
        raise ValueError(
            "The `v` of `hessian_vector_product` must have one tensor for every trainable "
            f"parameter, of the shapes {shapes}. Got {[tuple(part.shape) for part in v]}."
        )
    batches = borrow(dataloader, n_batches, seed=seed)
    share = _share("hessian_vector_product", len(batches), n_batches)
    check_loss("The `loss_fn` of `hessian_vector_product`", view, loss_fn, batches[0], model)
    flat = torch.cat([part.detach().reshape(-1) for part in v])
    with quiet(seed):
        images = [hessian(view, loss_fn, batch)[0](flat) for batch in batches]
    mean = share * torch.stack(images).mean(0)
    parts = mean.split([part.numel() for part in v])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _share(function: str, found: int, wanted: int) -> float:
    """What the published division by `n_batches` leaves of the mean."""
    if not found:
        raise ValueError(f"`{function}` needs at least one batch. Got none.")
    if found < wanted:
        warnings.warn(
            f"The `dataloader` of `{function}` has {found} batches and `n_batches` is {wanted}: as "
            f"published, the result is {found}/{wanted} of the mean.",
            stacklevel=3,
        )
    return found / wanted
