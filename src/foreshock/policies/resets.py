"""Resets of a live network: of its weights, and of the latents of a layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from foreshock.policies.trigger_levels import PublishedBelow
from foreshock.policies.triggers import Cause, Trigger, as_trigger
from foreshock.types import Action, Alarm, Estimate


@dataclass(frozen=True)
class WeightReset:
    """Perturb a random fraction of the weights by noise relative to the size of each tensor.

    Each trainable weight is hit independently with probability ``fraction`` and then receives
    N(0, (scale rms)^2), rms being the root mean square of its own tensor. A tensor therefore moves
    by scale sqrt(fraction) of its norm, .039 at the defaults, whatever its units; one that is
    exactly 0 (a bias at its start) stays 0. Tied weights are perturbed once, frozen ones and the
    padding row of an `nn.Embedding` never, and the optimizer's moments stay as they are.

    Args:
        on: Name of a detector whose alarms fire it, or a trigger. There is no default: no trigger
            is known to be right, and ``TurnsUp("latent/c", 0.5)`` has the threshold of the
            document, which was never calibrated for the measured C.
        fraction: Share of the weights, in (0, 1].
        scale: Standard deviation of the noise over the rms of the tensor, positive.
        name: Name of the policy.

    Raises:
        ValueError: If an argument is out of range.

    Examples:
        >>> policy = WeightReset(on="phase_transition")
        >>> alarm = Alarm(7, "phase_transition", "latent/c", 0.3, 0.5, "C fell.")
        >>> _, actions = policy.update(policy.init(), 7, {}, [alarm])
        >>> actions[0].kind, actions[0].arguments["fraction"]
        ('reset_weights', 0.15)
    """

    on: str | Trigger
    fraction: float = 0.15
    scale: float = 0.1
    name: str = "weight_reset"

    def __post_init__(self) -> None:
        object.__setattr__(self, "on", as_trigger(self.on, "WeightReset"))
        _share("WeightReset", self.fraction)
        _positive("WeightReset", "scale", self.scale)

    @property
    def reads(self) -> tuple[str, ...]:
        """What the trigger reads."""
        return as_trigger(self.on, "WeightReset").reads

    def init(self) -> Any:
        """The state of the trigger."""
        return as_trigger(self.on, "WeightReset").init()

    def update(
        self, state: Any, step: int, values: Mapping[str, Estimate], alarms: Sequence[Alarm]
    ) -> tuple[Any, tuple[Action, ...]]:
        """Ask the trigger."""
        trigger = as_trigger(self.on, "WeightReset")
        state, cause = trigger.update(state, step, values, alarms)
        if cause is None:
            return state, ()
        what = f"Perturb {self.fraction:.0%} of the weights by {self.scale:g} of their rms"
        numbers = {"fraction": self.fraction, "scale": self.scale, "relative": 1.0}
        return state, (act(step, self.name, "reset_weights", numbers, what, cause),)


@dataclass(frozen=True)
class PublishedWeightReset:
    """Perturb a random fraction of the weights by N(0, noise_scale^2): the published torch form.

    It joins two listings of the document that its own code does not join: the rule of 12.1 (when to
    reset) and the perturbation of 12.2 (``apply_reset``). The same number for every tensor,
    whatever its size: .01 is nothing beside weights of rms .5 and everything beside a layer
    initialised at .01, or a bias that is 0; in bfloat16, whose steps are 1/256 of a weight, noise
    far below that moves few of the weights. It fires, as published, at every step at which C lies
    below its threshold after step 10; in `Guarded` it is spaced. One deviation: frozen parameters
    and padding rows, which the code would perturb too, are left alone.

    Args:
        on: Name of a detector whose alarms fire it, or a trigger.
        fraction: alpha, share of the weights, in (0, 1].
        noise_scale: Standard deviation of the noise, positive.
        name: Name of the policy.

    Raises:
        ValueError: If an argument is out of range.

    References:
        The document "fokker_planck", sections 12.1 (the rule) and 12.2 (``apply_reset``).

    Examples:
        >>> policy = PublishedWeightReset()
        >>> low = {"published/c_wrapper_fp": Estimate(0.1)}
        >>> [len(policy.update(policy.init(), t, low, [])[1]) for t in (10, 11, 12)]
        [0, 1, 1]
    """

    on: str | Trigger = PublishedBelow()
    fraction: float = 0.15
    noise_scale: float = 0.01
    name: str = "published_weight_reset"

    def __post_init__(self) -> None:
        object.__setattr__(self, "on", as_trigger(self.on, "PublishedWeightReset"))
        _share("PublishedWeightReset", self.fraction)
        _positive("PublishedWeightReset", "noise_scale", self.noise_scale)

    @property
    def reads(self) -> tuple[str, ...]:
        """What the trigger reads."""
        return as_trigger(self.on, "PublishedWeightReset").reads

    def init(self) -> Any:
        """The state of the trigger."""
        return as_trigger(self.on, "PublishedWeightReset").init()

    def update(
        self, state: Any, step: int, values: Mapping[str, Estimate], alarms: Sequence[Alarm]
    ) -> tuple[Any, tuple[Action, ...]]:
        """Ask the trigger."""
        trigger = as_trigger(self.on, "PublishedWeightReset")
        state, cause = trigger.update(state, step, values, alarms)
        if cause is None:
            return state, ()
        what = f"Perturb {self.fraction:.0%} of the weights by noise of {self.noise_scale:g}"
        numbers = {"fraction": self.fraction, "scale": self.noise_scale, "relative": 0.0}
        return state, (act(step, self.name, "reset_weights", numbers, what, cause),)


@dataclass(frozen=True)
class LatentReset:
    """For some steps, replace the latents of a random share of each batch by wider draws.

    The latents of a live network are not state that could be set: they are computed anew in every
    forward pass. So a reset means that for ``steps`` training steps the output of the named layer
    is replaced, for a random fraction alpha of the examples of each training forward, by draws from
    N(mean, expand Cov) of that very batch; the other examples keep theirs, bitwise and in their
    places. The layers above learn on the draws under the labels of the examples they replace; the
    layers below get no gradient through them. The draws lie in the span of the batch's latents, of
    rank n - 1 at most, and evaluation and forwards without gradient see nothing.

    As published the covariance is 1.5 Sigma: that of the draws. The batch, which is a mixture of
    kept rows and draws around the same mean, has (1 - alpha) Sigma + alpha 1.5 Sigma =
    (1 + .5 alpha) Sigma: 1.1 Sigma at alpha .2, so that its radius grows by 1.05, where the draws'
    grows by sqrt(1.5) = 1.22 and neither by 1.5. The published code also loses which particle is
    which; here rows stay in place.

    A batch that cannot be redrawn (one example, numbers that are not finite) stays as it is, and
    the next is tried. How many forwards were redrawn and how many not is recorded when the reset
    ends (``action_ended``). All forwards between two updates use the same random numbers, so that a
    checkpointed layer, computed twice, gives the same; under gradient accumulation the same rows of
    every micro-batch are therefore redrawn. A copy of the model made meanwhile (`deepcopy`,
    ``AveragedModel``, `torch.save` of the module) carries a hook that does nothing; unpickling it
    needs Foreshock. If others keep writing the weights while its optimizer no longer steps, the
    reset ends by itself.

    It needs a layer that is not compiled: a hook on a compiled one would not be heard, so that is
    refused. Do not use it inside a re-entrant activation checkpoint, which runs the layer without
    gradient first and would see the draws only when it runs it again. Cost: a clone of the layer's
    output and alpha n^2 D multiplications a forward.

    Args:
        layer: Name of the module whose output is replaced, as ``model.named_modules()`` has it. Its
            output is a tensor with the examples in its first dimension, or a tuple, dict or
            dataclass, of which the first tensor of real numbers is taken.
        on: Name of a detector whose alarms fire it, or a trigger.
        fraction: alpha, share of the examples of a batch, in (0, 1]; at least one is replaced.
        expand: Factor on the covariance, positive.
        steps: Training steps it lasts, at least 1.
        name: Name of the policy.

    Raises:
        ValueError: If an argument is out of range.

    References:
        The document "fokker_planck", sections 5.1 and 12.1.

    Examples:
        >>> policy = LatentReset("body.1", on="phase_transition")
        >>> policy.covariance_factor
        1.1
    """

    layer: str
    on: str | Trigger
    fraction: float = 0.2
    expand: float = 1.5
    steps: int = 1
    name: str = "latent_reset"

    def __post_init__(self) -> None:
        object.__setattr__(self, "on", as_trigger(self.on, "LatentReset"))
        if not isinstance(self.layer, str) or not self.layer:
            raise ValueError(
                "The `layer` of `LatentReset` must be the name of a module, as "
                f"model.named_modules() has it. Got {self.layer!r}."
            )
        _share("LatentReset", self.fraction)
        _positive("LatentReset", "expand", self.expand)
        check_steps("LatentReset", self.steps)

    @property
    def lasts(self) -> int:
        """Updates from the action to the end of its effect."""
        return self.steps

    @property
    def covariance_factor(self) -> float:
        """Expected covariance of the batch after the reset over before, 1 + (expand - 1) alpha."""
        return 1 + (self.expand - 1) * self.fraction

    @property
    def reads(self) -> tuple[str, ...]:
        """What the trigger reads."""
        return as_trigger(self.on, "LatentReset").reads

    def init(self) -> Any:
        """The state of the trigger."""
        return as_trigger(self.on, "LatentReset").init()

    def update(
        self, state: Any, step: int, values: Mapping[str, Estimate], alarms: Sequence[Alarm]
    ) -> tuple[Any, tuple[Action, ...]]:
        """Ask the trigger."""
        trigger = as_trigger(self.on, "LatentReset")
        state, cause = trigger.update(state, step, values, alarms)
        if cause is None:
            return state, ()
        what = (
            f"Redraw the latents of {self.layer} for {self.fraction:.0%} of the examples from "
            f"{self.expand:g} of their covariance, for {self.steps} step(s)"
        )
        numbers = {
            "layer": self.layer,
            "fraction": self.fraction,
            "expand": self.expand,
            "steps": float(self.steps),
        }
        return state, (act(step, self.name, "reset_latents", numbers, what, cause),)


def act(
    step: int,
    policy: str,
    kind: str,
    numbers: Mapping[str, float | str],
    what: str,
    cause: Cause,
) -> Action:
    """An action with the numbers that caused it.

    Args:
        step: Optimizer step.
        policy: Name of the policy.
        kind: What to do.
        numbers: The numbers of the action.
        what: What to do, in words.
        cause: Why.

    Returns:
        The action, not applied, with ``value`` and ``threshold`` of its cause in its arguments.
    """
    arguments = {**numbers, "value": cause.value, "threshold": cause.threshold}
    return Action(step, policy, kind, arguments, f"{what}: {cause.reason}")


def check_steps(owner: str, steps: int) -> None:
    """Refuse an effect that would not last a step.

    Args:
        owner: Who asks.
        steps: How long.

    Raises:
        ValueError: If it is no whole number of steps, at least 1.
    """
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(
            f"The `steps` of `{owner}` must be a whole number, at least 1. Got {steps}."
        )


def _share(owner: str, fraction: float) -> None:
    if not 0 < fraction <= 1:
        raise ValueError(f"The `fraction` of `{owner}` must be in (0, 1]. Got {fraction}.")


def _positive(owner: str, name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"The `{name}` of `{owner}` must be positive. Got {value}.")
