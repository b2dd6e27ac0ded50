"""Effects that last for some updates, each taken away again: weight noise, and redrawn latents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from foreshock.types import Action


class Effect(Protocol):
    """What lasts for some updates."""

    policy: str

    def after_update(self) -> str:
        """An update was made; a sentence once it is over."""
        ...

    def rebase(self) -> None:
        """The weights were changed by something that is no update."""
        ...

    def end(self) -> None:
        """Take it away."""
        ...


class Boost:
    """Weight noise after each of some updates, of beta mean squared updates."""

    def __init__(self, action: Action, weights: Sequence[Tensor], draws: Draws) -> None:
        self.policy = action.policy
        self._weights = list(weights)
        self._beta = float(action.arguments["beta"])
        self._total = self._left = int(action.arguments["steps"])
        self._draws = draws
        # The weights after the last update: what the next one is measured from.
        self._old = [w.detach().clone() for w in self._weights]

    @torch.no_grad()
    def after_update(self) -> str:
        """Noise from the update just made; a sentence at the last one."""
        self._left -= 1
        pairs = list(zip(self._weights, self._old, strict=True))
        squares = [(w - old).abs().float().square().sum() for w, old in pairs]
        total = math.fsum(torch.stack([s.to(squares[0].device) for s in squares]).tolist())
        sigma = math.sqrt(self._beta * total / sum(w.numel() for w in self._weights))
        if not math.isfinite(sigma):
            return f"The boost of {self.policy} ended: an update was not finite."
        # The noisy weights first beside the live ones: what fails here has changed nothing.
        for w, old in pairs:
            old.copy_(w).add_(self._draws.normal(w), alpha=sigma)
        for w, old in pairs:
            w.copy_(old)
        return "" if self._left else f"The boost of {self.policy} ended: {self._total} updates."

    @torch.no_grad()
    def rebase(self) -> None:
        """Measure the next update from here."""
        for w, old in zip(self._weights, self._old, strict=True):
            old.copy_(w)

    def end(self) -> None:
        """Let the copy go."""
        self._weights, self._old = [], []


class Latents:
    """A hook that redraws part of a layer's output in each training forward of some steps."""

    def __init__(self, action: Action, model: nn.Module, layer: nn.Module, draws: Draws) -> None:
        numbers = action.arguments
        self.policy = action.policy
        self._layer = str(numbers["layer"])
        self._fraction, self._expand = float(numbers["fraction"]), float(numbers["expand"])
        self._total = self._left = int(numbers["steps"])
        self._draws, self._model = draws, model
        self._calls = 0
        self._trouble = ""
        self._handle = layer.register_forward_hook(self._hook)

    def _hook(self, _: nn.Module, __: Any, output: Any) -> Any:
        # A compiled graph must not draw: then the hook stays unheard, which is said.
        if torch.compiler.is_compiling() or self._trouble:
            return None
        if not (self._model.training and torch.is_grad_enabled()):
            return None
        try:
            # By step and not by call: a checkpointed layer, computed twice, is drawn the same.
            self._draws.reseed(self._left)
            first = output[0] if isinstance(output, tuple) else output
            drawn = redraw(first, self._fraction, self._expand, self._draws)
            self._calls += 1
            if not isinstance(output, tuple):
                return drawn
            rest = (drawn, *output[1:])
            return type(output)(*rest) if hasattr(output, "_fields") else rest
        except Exception as error:  # in the user's forward pass nothing may be raised
            self._trouble = str(error)
            return None

    def after_update(self) -> str:
        """One step less; a sentence at the last one, or if the hook was not heard."""
        self._left -= 1
        what = f"The latent reset of {self.policy} at {self._layer} ended"
        if self._trouble:
            return f"{what}: {self._trouble}"
        if not self._calls:
            return f"{what}: no training forward ran through the layer outside a compiled graph."
        return "" if self._left else f"{what}: {self._total} steps."

    def rebase(self) -> None:
        """Nothing depends on the weights."""

    def end(self) -> None:
        """Remove the hook."""
        self._handle.remove()


class Draws:
    """Private random numbers of one action, on every device they are needed on."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
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
        """Standard normals of a shape, type and place."""
        generator = self.on(like.device)
        return torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=generator)

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
