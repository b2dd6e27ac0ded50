"""Effects that last for some updates, each taken away again: weight noise, and redrawn latents."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from foreshock.policies.boost import MEASURED
from foreshock.probe.latent_layer import first_tensor, replaced
from foreshock.types import Action

#: Signs that the optimizer of a latent reset no longer steps: how often others wrote its weights,
#: and how many training forwards ran, since it last did. One write a step is weight clipping.
FOREIGN_WRITES, FORWARDS = 2, 1000


@dataclass(frozen=True)
class Ended:
    """An effect that is over: what began it, why it ended, and what was really done."""

    action: Action
    why: str
    done: Mapping[str, float]

    @property
    def text(self) -> str:
        """A sentence for a person."""
        done = ", ".join(f"{count:g} {name}" for name, count in self.done.items())
        return f"The {self.action.kind} of {self.action.policy} ended. {self.why} Done: {done}."


class Effect(Protocol):
    """What lasts for some updates."""

    action: Action

    def before_update(self) -> None:
        """An update is about to be made."""
        ...

    def after_update(self) -> str:
        """An update was made; a sentence once it is over."""
        ...

    def done(self) -> Mapping[str, float]:
        """What was done so far."""
        ...

    def end(self) -> None:
        """Take it away."""
        ...


class Boost:
    """Weight noise after each of some updates, of a size fixed from updates without noise."""

    def __init__(
        self, action: Action, weights: Callable[[], Sequence[Tensor]], draws: Draws
    ) -> None:
        self.action = action
        self._weights = weights
        self._beta = float(action.arguments["beta"])
        self._total = int(action.arguments["steps"])
        self._draws = draws
        self._sizes: list[float] = []
        self._sigma = math.nan
        self._noised = 0
        self._old: list[tuple[Tensor, Tensor]] = []

    def before_update(self) -> None:
        """While updates are still measured: from here."""
        if len(self._sizes) < MEASURED:
            self._old = [(w, w.detach().clone()) for w in self._weights()]

    @torch.no_grad()
    def after_update(self) -> str:
        """Measure the update, or add the noise; a sentence at the last one."""
        if len(self._sizes) < MEASURED:
            return self._measure()
        # All of the noise before the first of the weights: what fails here has changed nothing.
        noise = [(w, self._draws.normal(w)) for w in self._weights()]
        for w, drawn in noise:
            w.add_(drawn, alpha=self._sigma)
        self._noised += 1
        return "All updates were made." if self._noised == self._total else ""

    def _measure(self) -> str:
        pairs, self._old = self._old, []
        squares = [(w - old).abs().float().square().sum() for w, old in pairs]
        if not squares:
            return "An update was not seen from its beginning."
        total = math.fsum(torch.stack([s.to(squares[0].device) for s in squares]).tolist())
        self._sizes.append(total / sum(w.numel() for w, _ in pairs))
        if not math.isfinite(self._sizes[-1]):
            return "An update was not finite."
        if len(self._sizes) == MEASURED:
            self._sigma = math.sqrt(self._beta * median(self._sizes))
            if self._sigma == 0:
                return "The updates were 0, so there is nothing to be relative to."
        return ""

    def done(self) -> Mapping[str, float]:
        """Updates measured and noised, and the noise."""
        found = {"updates measured": len(self._sizes), "updates with noise": self._noised}
        return {**found, "sigma": self._sigma} if math.isfinite(self._sigma) else found

    def end(self) -> None:
        """Let the copy go."""
        self._old = []


class Latents:
    """A hook that redraws part of a layer's output in each training forward of some steps."""

    def __init__(
        self,
        action: Action,
        model: nn.Module,
        layer: nn.Module,
        weights: Sequence[Tensor],
        draws: Draws,
    ) -> None:
        numbers = action.arguments
        self.action = action
        self._fraction, self._expand = float(numbers["fraction"]), float(numbers["expand"])
        self._left = int(numbers["steps"])
        self._draws, self._model, self._weights = draws, model, list(weights)
        self._updates = self._calls = self._redrawn = 0
        self._trouble = self._why = ""
        self._stepped()
        self._handle = layer.register_forward_hook(Hook(self))

    def heard(self, output: Any) -> Any:
        """The output of the layer in a forward pass; another one, or None where it stays.

        Args:
            output: What the layer gave.

        Returns:
            What takes its place.
        """
        if self._why or not (self._model.training and torch.is_grad_enabled()):
            return None
        if self._stranded():
            self._why = "The optimizer it belongs to no longer steps."
            self.end()
            return None
        self._calls += 1
        try:
            # By step and not by call: a checkpointed layer, computed twice, is drawn the same.
            self._draws.reseed(self._left)
            path, latents = first_tensor(output, None)
            drawn = redraw(latents, self._fraction, self._expand, self._draws)
            output = replaced(output, path, drawn)
            self._redrawn += 1
            return output
        except Exception as error:  # in the user's forward pass nothing may be raised
            self._trouble = self._trouble or str(error)
            return None

    def _stepped(self) -> None:
        self._version = sum(w._version for w in self._weights)
        self._writes = self._forwards = 0

    def _stranded(self) -> bool:
        version = sum(w._version for w in self._weights)
        self._writes += version != self._version
        self._forwards += 1
        self._version = version
        return self._writes > FOREIGN_WRITES or self._forwards > FORWARDS

    def before_update(self) -> None:
        """Nothing depends on the weights."""

    def after_update(self) -> str:
        """One step less; a sentence at the last one, or if the hook was not heard."""
        self._left -= 1
        self._updates += 1
        self._stepped()
        if self._why:
            return self._why
        if not self._calls:
            return "No training forward ran through the layer outside a compiled graph."
        if self._left:
            return ""
        if self._redrawn < self._calls:
            return f"All updates were made. Not every batch could be redrawn: {self._trouble}"
        return "All updates were made."

    def done(self) -> Mapping[str, float]:
        """Updates under it, and forwards with latents redrawn, and left as they were."""
        skipped = self._calls - self._redrawn
        found = {"updates": self._updates, "forwards redrawn": self._redrawn}
        return {**found, "forwards left alone": skipped}

    def end(self) -> None:
        """Remove the hook."""
        self._handle.remove()


class Hook:
    """The forward hook of a live reset. A copy of the model carries one that does nothing."""

    def __init__(self, effect: Latents) -> None:
        self._effect = weakref.ref(effect)

    def __call__(self, _: nn.Module, __: Any, output: Any) -> Any:
        """The output, some of it redrawn, or None where it stays."""
        # A compiled graph must not draw: then the hook stays unheard, which is said.
        if torch.compiler.is_compiling():
            return None
        effect = self._effect()
        return None if effect is None else effect.heard(output)

    def __deepcopy__(self, _: Any) -> Inert:
        return Inert()

    def __reduce__(self) -> tuple[type[Inert], tuple[()]]:
        return Inert, ()


class Inert:
    """What is left of a reset's hook in a copied or pickled model."""

    def __call__(self, _: nn.Module, __: Any, ___: Any) -> None:
        """Leave the output as it is."""


class Draws:
    """Private random numbers of one action, on every device they are needed on.

    Args:
        seed: Of the draws.
        spared: By ``id`` of a weight, the row that receives no noise.
    """

    def __init__(self, seed: int, spared: Mapping[int, int] | None = None) -> None:
        self._seed = seed
        self._spared = spared or {}
        self._offset = 0
        self._generators: dict[torch.device, torch.Generator] = {}

    def reseed(self, offset: int) -> None:
        """Begin anew, at a place of this offset's own."""
        self._offset, self._generators = offset, {}

    def on(self, device: torch.device) -> torch.Generator:
        """The generator of a device."""
        if device not in self._generators:
            generator = torch.Generator(device)
            self._generators[device] = generator.manual_seed(self._seed + 7919 * self._offset)
        return self._generators[device]

    def normal(self, like: Tensor) -> Tensor:
        """Standard normals of a shape, type and place; 0 in a row that is spared."""
        generator = self.on(like.device)
        drawn = torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=generator)
        if id(like) in self._spared:
            drawn[self._spared[id(like)]] = 0
        return drawn

    def uniform(self, like: Tensor) -> Tensor:
        """Uniform numbers of a shape and place, float32 whatever its type."""
        return torch.rand(like.shape, device=like.device, generator=self.on(like.device))


def redraw(latents: Any, fraction: float, expand: float, draws: Draws) -> Tensor:
    """A batch of latents of which a random share is drawn from N(mean, expand Cov) of the batch.

    A draw is mean + sqrt(expand/(n - 1)) X' normal(n) with the centred batch X (n, D), whose
    covariance is the stretched sample covariance; no covariance is formed. Kept rows are bitwise as
    they were, and no gradient flows through the draws.

    Args:
        latents: Output of a layer, (n, ...); everything behind the first dimension is one latent.
        fraction: Share of the rows, at least one of them.
        expand: Factor on the covariance.
        draws: Source of the choice and of the draws.

    Returns:
        The batch, (n, ...).

    Raises:
        ValueError: If it is no batch of at least two finite rows of real numbers.
    """
    if not isinstance(latents, Tensor) or latents.ndim < 2 or not latents.is_floating_point():
        shape = tuple(latents.shape) if isinstance(latents, Tensor) else type(latents).__name__
        raise ValueError(f"Its output is no batch of real latents (n, ...). Got {shape}.")
    n = len(latents)
    if n < 2:
        raise ValueError(f"A latent reset needs at least two examples. Got {n}.")
    with torch.no_grad():
        generator = draws.on(latents.device)
        count = max(1, round(fraction * n))
        rows = torch.randperm(n, generator=generator, device=latents.device)[:count]
        flat = latents.detach().reshape(n, -1).float()
        mean = flat.mean(0)
        loads = torch.randn(count, n, device=flat.device, generator=generator)
        drawn = mean + math.sqrt(expand / (n - 1)) * (loads @ (flat - mean))
        drawn = drawn.reshape(count, *latents.shape[1:]).to(latents.dtype)
        if not torch.isfinite(drawn).all():
            raise ValueError("The latents of a batch were not finite.")
    out = latents.clone()
    out[rows] = drawn
    return out
