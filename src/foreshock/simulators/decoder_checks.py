"""What a decoder must be so that its particles are independent, and why it did not take them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm


class _Working(Exception):
    """A suspect in train mode was called: enough is known, and it must not run."""


def suspects(decode: Callable[[Tensor], Tensor], dimension: int) -> tuple[nn.Module, ...]:
    """The modules of a decoder that are random or couple the particles in train mode.

    Of a bound method (``vae.decode``) those that it calls: the encoder beside them is none of it.

    Args:
        decode: A module, a bound method of one, or any function, into which nobody looks.
        dimension: Of its latent states.

    Returns:
        Dropout, batch normalisation, randomised activations; in whatever mode.

    Examples:
        >>> suspects(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1), nn.Dropout(0.0)), 2)
        (Dropout(p=0.1, inplace=False),)
    """
    owner = decode if isinstance(decode, nn.Module) else getattr(decode, "__self__", None)
    modules = owner.modules() if isinstance(owner, nn.Module) else ()
    found = tuple(module for module in modules if _is_random(module) or _is_batch(module))
    return (
        found if not found or isinstance(decode, nn.Module) else _called(decode, found, dimension)
    )


def _called(
    decode: Callable[[Tensor], Tensor], modules: tuple[nn.Module, ...], dimension: int
) -> tuple[nn.Module, ...]:
    """Those of the modules that a function calls, up to the first that is at work."""
    seen: list[nn.Module] = []

    def notice(module: nn.Module, args: object) -> None:
        seen.append(module)
        if module.training or (isinstance(module, _NormBase) and module.running_mean is None):
            raise _Working  # before it draws a number or moves its statistics

    handles = [module.register_forward_pre_hook(notice) for module in modules]
    owner = getattr(decode, "__self__", None)
    like = next(owner.parameters(), torch.empty(0)) if isinstance(owner, nn.Module) else None
    kind = like if like is not None and like.is_floating_point() else torch.empty(0)
    try:
        with torch.no_grad():
            decode(kind.new_zeros(2, dimension))
    except _Working:
        pass
    except RuntimeError:
        return modules  # it does not take latent states, which is said where it is given some
    finally:
        for handle in handles:
            handle.remove()
    return tuple(seen)


def refuse_coupled(modules: Sequence[nn.Module]) -> None:
    """Refuse a decoder one of whose suspects is at work.

    Args:
        modules: From `suspects`.

    Raises:
        ValueError: If one is in train mode, or takes the cloud's own statistics in any mode.

    Examples:
        >>> refuse_coupled(suspects(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1)).eval(), 2))
    """
    working = [m for m in modules if m.training]
    if working:
        names = ", ".join(sorted({type(module).__name__ for module in working}))
        couples = any(map(_is_batch, working))
        raise ValueError(
            f"The decoder of `DecoderPotential` has {names} in train mode: its output "
            + ("depends on the other particles" if couples else "is random")
            + ", so that it is no energy of one particle. Call `.eval()` on it first."
        )
    for module in modules:
        if isinstance(module, _NormBase) and module.running_mean is None:
            raise ValueError(
                f"The decoder of `DecoderPotential` has {type(module).__name__} without running "
                "statistics, which takes those of the cloud in any mode: a particle's energy then "
                "depends on the others. Use `track_running_stats=True`, or `LayerNorm`."
            )


def refused(decode: Callable[[Tensor], Tensor], points: Tensor, error: RuntimeError) -> str | None:
    """Why a decoder failed at latent states, if it is they that do not fit.

    Args:
        decode: The decoder.
        points: (n, d) What it was given.
        error: What torch said.

    Returns:
        A sentence; nothing where one row alone is taken, so that it is something else (memory).

    Examples:
        >>> refused(nn.Linear(3, 4), torch.zeros(5, 2), RuntimeError("shapes"))
        'The decoder does not take latent states (n, 2): its first layer wants (n, 3). ...'
    """
    try:
        with torch.no_grad():
            decode(points.detach()[:1])
    except RuntimeError:
        pass
    else:
        return None
    width = points.shape[1]
    if isinstance(decode, nn.Module):
        kinds = {p.dtype for p in decode.parameters() if p.is_floating_point()}
        if kinds and points.dtype not in kinds:
            kind = str(min(kinds, key=str))
            return (
                f"The decoder computes in {kind} and the particles are {points.dtype}. "
                f"Start from `z.to({kind})`, or convert it by `decoder.to({points.dtype})`."
            )
        first = next((m for m in decode.modules() if isinstance(m, nn.Linear)), None)
        if first is not None and first.in_features != width:
            return (
                f"The decoder does not take latent states (n, {width}): its first layer wants "
                f"(n, {first.in_features}). Set the `dimension` of `DecoderPotential` to that, "
                "or pass another decoder."
            )
    return (
        f"The decoder does not take latent states (n, {width}) of {points.dtype}; it must map "
        f"(n, d) to (n, x), one row per particle. torch says: {error}"
    )


def _is_random(module: nn.Module) -> bool:
    if isinstance(module, _DropoutNd):
        return module.p > 0
    if isinstance(module, (nn.MultiheadAttention, nn.RNNBase)):
        return module.dropout > 0
    return isinstance(module, nn.RReLU) and module.lower != module.upper


def _is_batch(module: nn.Module) -> bool:
    return isinstance(module, _NormBase) and not isinstance(module, _InstanceNorm)
