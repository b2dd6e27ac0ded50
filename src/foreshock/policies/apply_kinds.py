"""What can be done to a run, by the kind of the action; `foreshock.policies.apply` calls it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from foreshock.policies.apply_effects import Boost, Latents
from foreshock.policies.apply_rate import advise_batch, pause, scale_lr, set_lr, stop
from foreshock.types import Action

if TYPE_CHECKING:
    from foreshock.policies.apply import Applier


def refused(action: Action, why: str) -> Action:
    """The action with why it was not carried out.

    Args:
        action: What was wanted.
        why: A sentence.

    Returns:
        The action, not applied.
    """
    return replace(action, reason=f"{action.reason} Not carried out: {why}")


def lasts(action: Action) -> bool:
    """Whether what the action begins ends by itself, after some updates."""
    return float(action.arguments.get("steps", 0.0)) > 0


def _reset_weights(applier: Applier, action: Action) -> Callable[[], None]:
    numbers = action.arguments
    fraction, scale = float(numbers["fraction"]), float(numbers["scale"])
    sized = []
    for weight in applier.trained():
        rms = float(weight.detach().abs().float().square().mean().sqrt())
        size = scale * rms if numbers["relative"] else scale
        if not math.isfinite(size):
            raise ValueError("A weight is not finite, so there is nothing to perturb.")
        sized.append((weight, size))
    draws = applier.draws(action)

    def carry_out() -> None:
        for weight, size in sized:
            applier.touch(weight)
            hit = draws.uniform(weight) < fraction
            weight.add_(draws.normal(weight) * hit, alpha=size)

    return carry_out


def _reset_latents(applier: Applier, action: Action) -> Callable[[], None]:
    applier.refuse_second(action, Latents)
    layer, weights = applier.layer(str(action.arguments["layer"])), applier.trained()
    draws = applier.draws(action)
    return lambda: applier.begin(Latents(action, applier.model, layer, weights, draws))


def _boost_diffusion(applier: Applier, action: Action) -> Callable[[], None]:
    applier.refuse_second(action, Boost)
    boost = Boost(action, applier.trained, applier.draws(action))
    return lambda: applier.begin(boost)


#: Kinds whose outcome stands until it is changed again, and is no part of a checkpoint.
STANDING = frozenset({"advise_batch", "scale_lr", "set_lr", "stop"})

#: What can be done, by the kind of the action: checks that may raise and touch nothing, and then
#: the function that does it, which calls `Applier.touch` on what it writes.
KINDS: Mapping[str, Callable[[Applier, Action], Callable[[], object]]] = {
    "advise_batch": lambda applier, action: lambda: advise_batch(applier.wishes, action),
    "boost_diffusion": _boost_diffusion,
    "pause": lambda applier, action: lambda: pause(applier.on_pause, action),
    "reset_latents": _reset_latents,
    "reset_weights": _reset_weights,
    "rollback": lambda applier, action: applier.way_back(action),
    "scale_lr": lambda applier, action: lambda: applier.rate(action, scale_lr),
    "set_lr": lambda applier, action: lambda: applier.rate(action, set_lr),
    "stop": lambda applier, action: lambda: stop(applier.wishes, action),
}
