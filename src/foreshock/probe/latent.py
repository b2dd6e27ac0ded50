"""Latents of a model on a batch: where they are, how they move with the weights, what they cost."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from foreshock.probe.directional import derivatives, difference, moved
from foreshock.probe.latent_layer import find_layer, first_tensor, hooked, replaced
from foreshock.probe.latent_pick import pool, spread, token_mask
from foreshock.probe.latent_site import LatentSite as LatentSite
from foreshock.probe.quiet import quiet
from foreshock.probe.view import ModelView, batch_size

HOWS = ("jvp", "difference", "step")
Loss = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Moves:
    """How latents move along updates of the weights.

    Args:
        values: ``(n, N, d)``, update by example by coordinate.
        how: ``"jvp"``: exact first derivative; ``"difference"``: central difference; ``"step"``:
            the finite step.
        reason: Why it is not the derivative that was asked for; empty if it is.

    Examples:
        >>> Moves(torch.zeros(1, 2, 3), "jvp").reason
        ''
    """

    values: Tensor
    how: str
    reason: str = ""


class _Enough(BaseException):
    """Ends a forward pass once the latents are there. Not an Exception, which losses may catch."""


def latents(view: ModelView, site: LatentSite, loss: Loss, batch: Any) -> Tensor:
    """Latents of a batch at the live weights, in evaluation mode, without touching the model.

    A layer that is not found or not called, or whose tensor cannot be used or is not finite, is
    refused with a ValueError that says what to pass instead.

    Args:
        view: The live weights.
        site: Where the latents are.
        loss: ``loss(model, batch)``, which calls the model; its value is not used.
        batch: One batch of N examples.

    Returns:
        ``(N, D)``, detached, at least float32, on the device. Cost: one forward pass.

    Examples:
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
        >>> x = torch.ones(4, 2)
        >>> z = latents(ModelView(model), LatentSite("0"), lambda m, x: m(x).mean(), x)
        >>> torch.equal(z, model[0](x))
        True
    """
    return _start(view, site, loss, batch)[0]


def moves(
    view: ModelView,
    site: LatentSite,
    loss: Loss,
    batch: Any,
    updates: Tensor,
    basis: Tensor | None = None,
    *,
    how: str = "jvp",
    chunk: int = 8,
) -> Moves:
    """How the latents of a batch move along each of n updates of the weights: J u, one a row.

    ``"jvp"``: the derivative by forward-mode differentiation, ``chunk`` updates at a time under
    `torch.vmap` where the model allows it, else one at a time. Where an operation has no forward
    derivative, ``"difference"``: (z(θ + hû) − z(θ − hû))|u|/2h with h = ε^(1/3)|θ|, ε that of the
    weights; ``how`` of the result says so. ``"step"``: z(θ + u) − z(θ), in the weights' own
    rounding, with what is beyond first order.

    The derivative stops where the model detaches, though its latents do not; a straight-through
    estimator moves as it pretends to. ``"step"`` has neither fault.

    **Cost.** The forward pass ends once the latents are there. On one thread, 25 updates of the
    p = 59 network of `foreshock.experiments` took 1.8 to 2.0 training steps (1,392 examples, AdamW)
    for 64 examples and 4.1 to 4.6 for 256; one at a time 4.1 to 4.5 and 7.0 to 8.2. The first
    forward derivative of a process loads rules of torch's for some 0.2 s.

    Args:
        view: The live weights.
        site: Where the latents are.
        loss: ``loss(model, batch)``, which calls the model.
        batch: One batch of N examples.
        updates: ``(n, P)``, flat in the order of the view.
        basis: ``(D, d)`` that the moves are projected on, within; ``None`` for all D coordinates.
        how: ``"jvp"``, ``"difference"`` or ``"step"``.
        chunk: How many updates at a time; memory is that many tangents of every activation.

    Returns:
        The moves ``(n, N, d)``, at least float32, and how they were taken.

    Raises:
        ValueError: If the updates or the basis do not fit or are not finite, there is no such
            ``how``, or the latents cannot be taken.

    Examples:
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> x = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
        >>> site, mean = LatentSite(""), lambda m, x: m(x).mean()
        >>> moves(ModelView(model), site, mean, x, torch.tensor([[1.0, 10.0]])).values.tolist()
        [[[21.0], [10.0]]]
    """
    leaves = view.parameters
    sizes = [leaf.numel() for leaf in leaves]
    if how not in HOWS or chunk < 1:
        raise ValueError(
            f"The `how` of `moves` must be one of {HOWS} and `chunk` positive. "
            f"Got {how!r} and {chunk}."
        )
    if updates.ndim != 2 or updates.shape[1] != sum(sizes):
        raise ValueError(
            f"The `updates` of `moves` must have the shape (n, {sum(sizes)}), one column a "
            f"trainable weight in the order of the view. Got {tuple(updates.shape)}."
        )
    if not bool(updates.isfinite().all()):
        raise ValueError("The `updates` of `moves` must be finite. Got nan or infinity.")
    start, calls = _start(view, site, loss, batch)
    if basis is not None and (basis.ndim != 2 or len(basis) != start.shape[1]):
        raise ValueError(
            f"The `basis` of `moves` must have the shape ({start.shape[1]}, d), one row a latent "
            f"coordinate. Got {tuple(basis.shape)}."
        )
    projection = None if basis is None else basis.to(start)

    def place(*weights: Tensor) -> Tensor:
        with _still(view):
            z, _ = _forward(view, site, loss, batch, weights, calls)
        return z if projection is None else z @ projection

    if not len(updates):
        width = start.shape[1] if projection is None else projection.shape[1]
        return Moves(start.new_zeros(0, len(start), width), how)
    reason = ""
    if how == "jvp":
        values, reason = derivatives(place, leaves, updates, chunk)
        if values is not None:
            return Moves(values.to(start.dtype), "jvp")
        how = "difference"
    with torch.no_grad():
        if how == "step":
            origin = start if projection is None else start @ projection
            rows = [place(*moved(leaves, u, 1.0)) - origin for u in updates]
        else:
            rows = [difference(place, leaves, u) for u in updates]
    return Moves(torch.stack(rows), how, reason)


def loss_gradients(
    view: ModelView, site: LatentSite, loss: Loss, batch: Any, shift: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Latents and the gradient of each example's own loss with respect to its own latent.

    The decoder is what the model does after the layer, found by a hook: it adds a leaf to the
    layer's tensor, at every token of the example for the mean, at the picked one for a token. The
    loss is a mean over N examples, so N ∂loss/∂z_i is the gradient of the loss of example i. What
    reaches the loss around the layer (a residual stream beside it) is held fixed.

    A loss that couples examples (contrastive, batch statistics) has no loss of one example, nor has
    one that weighs examples by their number of tokens; the gradient is then N ∂loss/∂z_i all the
    same. Batch normalisation is in evaluation mode and couples nothing.

    Args:
        view: The live weights.
        site: Where the latents are; a module.
        loss: ``loss(model, batch) -> scalar``, the mean over examples.
        batch: One batch of N examples.
        shift: ``(D,)`` or ``(N, D)`` added to the latents first.

    Returns:
        ``(N, D)`` latents, shift included, and ``(N, D)`` gradients, detached, at least float32.
        Cost: a forward pass and the backward pass of the decoder; a forward pass more for a shift.

    Raises:
        ValueError: If ``layer`` or ``pick`` is a function, the shift does not fit, the loss is not
            one number or does not depend on the latents, or the latents cannot be taken.

    Examples:
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
        >>> loss, x = (lambda m, x: m(x).mean()), torch.ones(4, 2)
        >>> _, g = loss_gradients(ModelView(model), LatentSite("0"), loss, x)
        >>> torch.allclose(g, model[1].weight.expand(4, 2))
        True
    """
    calls = None if shift is None else _start(view, site, loss, batch)[1]
    leaf: list[Tensor] = []
    place: list[Tensor] = []

    def change(hidden: Tensor, mask: Tensor | None) -> Tensor:
        hidden = hidden.detach()
        z = pool(site, hidden, mask)
        delta = torch.zeros_like(z, requires_grad=True)
        offset = delta if shift is None else delta + _fitting(shift, z)
        leaf[:] = [delta]
        place[:] = [z.clone() if shift is None else z + _fitting(shift, z)]
        return hidden + spread(site, offset, hidden, mask)

    with _still(view), _substituted(view, site, batch, change, calls):
        value = view.loss(view.parameters, loss, batch)
        if not leaf:
            raise ValueError(_uncalled(site))
        gradient = (
            torch.autograd.grad(value, leaf, allow_unused=True)[0] if value.requires_grad else None
        )
    if gradient is None:
        raise ValueError(
            f"The loss does not depend on what the layer {site.layer!r} gives, so its latents have "
            "no gradient. Choose a layer on the way to the loss."
        )
    return _finite(site, place[0]), gradient * len(gradient)


def decode(view: ModelView, site: LatentSite, function: Loss, batch: Any, z: Tensor) -> Any:
    """What ``function(model, batch)`` returns if the latents of the batch were z.

    The layer's tensor is moved so that the pick of it is z: all tokens of an example alike for the
    mean, the picked one for a token. Refused with a ValueError where ``layer`` or ``pick`` is a
    function, or z does not fit.

    Args:
        view: The live weights.
        site: Where the latents are; a module.
        function: The probe's loss, or its forward: ``foreshock.probe.view.forward_of(probe)``.
        batch: One batch of N examples.
        z: ``(N, D)``.

    Returns:
        What the function returns, without a graph. Cost: two forward passes.

    Examples:
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
        >>> z = torch.randn(4, 2)
        >>> y = decode(ModelView(model), LatentSite("0"), lambda m, x: m(x), torch.ones(4, 2), z)
        >>> torch.allclose(y, model[1](z))
        True
    """
    calls = _start(view, site, function, batch)[1]

    def change(hidden: Tensor, mask: Tensor | None) -> Tensor:
        there = pool(site, hidden, mask)
        if z.shape != there.shape:
            raise ValueError(
                f"The `z` of `decode` must have the shape {tuple(there.shape)}. "
                f"Got {tuple(z.shape)}."
            )
        return hidden + spread(site, z.to(there) - there, hidden, mask)

    with _still(view), torch.no_grad(), _substituted(view, site, batch, change, calls):
        return view.call(view.parameters, function, batch)


def _start(view: ModelView, site: LatentSite, loss: Loss, batch: Any) -> tuple[Tensor, int]:
    """Latents, and the number of calls of the layer: what later passes may stop at."""
    with _still(view), torch.no_grad():
        z, calls = _forward(view, site, loss, batch, view.parameters, None)
    return _finite(site, z), calls


def _finite(site: LatentSite, z: Tensor) -> Tensor:
    if not bool(z.isfinite().all()):
        raise ValueError(
            f"The latents of {site.named} are not finite: nan or infinity in "
            f"{int((~z.isfinite()).any(1).sum())} of {len(z)} examples."
        )
    return z


@contextlib.contextmanager
def _still(view: ModelView) -> Iterator[None]:
    """`quiet`, without the fused encoder layers, which skip hooks and have no derivative."""
    fused = torch.backends.mha.get_fastpath_enabled()
    with quiet(view.seed):
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)


def _forward(
    view: ModelView,
    site: LatentSite,
    loss: Loss,
    batch: Any,
    leaves: Sequence[Tensor],
    calls: int | None,
) -> tuple[Tensor, int]:
    """Latents at some weights, and the number of calls; stops at the last call if that is known."""
    if not isinstance(site.layer, str):
        _, hidden = first_tensor(view.call(leaves, site.layer, batch), None)
        return pool(site, hidden, token_mask(batch, hidden)), 1
    count = 0
    last: Tensor | ValueError = ValueError(_uncalled(site))

    def look(tree: Any) -> None:
        nonlocal count, last
        count += 1
        try:
            _, hidden = first_tensor(tree, _rows(site, batch))
            # Cloned: the next layer may work in place.
            last = pool(site, hidden, token_mask(batch, hidden)).clone()
        except ValueError as error:  # only the last call matters
            last = error
        if count == calls:
            raise _Enough

    with hooked(find_layer(view.shadow, site.layer), site.side, look), contextlib.suppress(_Enough):
        view.call(leaves, loss, batch)
    if isinstance(last, ValueError):
        raise last
    return last, count


@contextlib.contextmanager
def _substituted(
    view: ModelView,
    site: LatentSite,
    batch: Any,
    change: Callable[[Tensor, Tensor | None], Tensor],
    call: int | None,
) -> Iterator[None]:
    """The layer's tensor replaced by what ``change`` makes of it, at one call or at every one."""
    if not isinstance(site.layer, str) or callable(site.pick):
        part = "pick" if isinstance(site.layer, str) else "layer"
        raise ValueError(
            f"Latents whose `{part}` is a function cannot be put back into the model, so what "
            "comes after them is not known. Name a module as `layer`, and a token, 'mean' or "
            "'flatten' as `pick`."
        )
    count = 0

    def look(tree: Any) -> Any:
        nonlocal count
        count += 1
        if call not in (None, count):
            return None
        path, hidden = first_tensor(tree, _rows(site, batch))
        return replaced(tree, path, change(hidden, token_mask(batch, hidden)))

    with hooked(find_layer(view.shadow, site.layer), site.side, look):
        yield


def _rows(site: LatentSite, batch: Any) -> int | None:
    """Length that the layer's tensor must have: any, where a function of the user's sorts it."""
    return None if callable(site.pick) else batch_size(batch)


def _uncalled(site: LatentSite) -> str:
    return (
        f"The layer {site.layer!r} is in the model, but the loss of the probe does not call it: "
        "containers (ModuleList) are not called, nor is a module whose weights alone are used. "
        "Name a module that is called, such as one within it."
    )


def _fitting(shift: Tensor, z: Tensor) -> Tensor:
    if shift.shape not in (z.shape, z.shape[1:]):
        raise ValueError(
            f"The `shift` must have the shape {tuple(z.shape)} or {tuple(z.shape[1:])}. "
            f"Got {tuple(shift.shape)}."
        )
    return shift.to(z)
