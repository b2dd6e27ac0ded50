"""The torch and the JAX engine behind the same four methods, for tests that hold for both.

JAX is imported when a method is called, so that this module loads without it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch

from foreshock.density import Selection, fit_score, flow
from foreshock.simulators import (
    Constant,
    DecoderPotential,
    Isotropic,
    Quadratic,
    Schedules,
)
from foreshock.simulators import particles as torch_engine
from foreshock.types import Estimate

FALLING = Schedules("own", lambda t: 1 - t, Constant(0.0), Constant(0.0))
NAMES = ("c", "cosine", "irreversibility", "entropy_production", "entropy_rate")
rng = np.random.default_rng(0)
FIRST, SECOND = rng.standard_normal((3, 5)), rng.standard_normal((5, 4))


@dataclass(frozen=True)
class World:
    """What moves the particles, for either engine: a well of stiffness k, or a tanh decoder."""

    schedules: Schedules
    dt: float
    stiffness: float | None = None
    sigma: float = 0.7
    shape: Any = field(default_factory=Isotropic)
    mode: str = "gibbs"


class Torch:
    """The torch engine."""

    def walk(self, world: World, z: np.ndarray, steps: int, seed: int) -> np.ndarray:
        """Particles after some steps."""
        engine = torch_engine.Engine(
            potential_of(world, len(z), z.shape[1]),
            world.schedules,
            world.dt,
            shape=world.shape,
            mode=world.mode,
        )
        state = torch_engine.State(torch.from_numpy(z))
        generator = torch.Generator().manual_seed(seed)
        for _ in range(steps):
            state = torch_engine.step(engine, state, generator)
        return state.z.numpy()

    def score(self, z: np.ndarray, selection: Selection) -> np.ndarray:
        """Leave-one-out score."""
        return fit_score(torch.from_numpy(z), selection=selection).values.numpy()

    def flow(
        self, z: np.ndarray, drift: np.ndarray, diffusion: Any, selection: Selection
    ) -> dict[str, Estimate]:
        """Observables with their bars."""
        fitted = fit_score(torch.from_numpy(z), selection=selection)
        found = flow(fitted, torch.from_numpy(drift), torch.as_tensor(diffusion), bounds=False)
        return {"c": found.consolidation, **{name: getattr(found, name) for name in NAMES[1:]}}


class Jax:
    """The JAX engine."""

    def engine(self, world: World, n: int) -> Any:
        """The same world."""
        import jax.numpy as jnp

        from foreshock.simulators import jax_engine

        if world.stiffness is not None:
            potential = _well(world.stiffness)
        else:
            potential = jax_engine.Decoder(_decode, jnp.zeros((n, 4)), world.sigma)
        return jax_engine.Engine(potential, world.schedules, world.dt, world.shape, world.mode)

    def walk(self, world: World, z: np.ndarray, steps: int, seed: int) -> np.ndarray:
        """Particles after some steps; those of `run` are compared with these."""
        import jax
        import jax.numpy as jnp

        from foreshock.simulators import jax_engine

        engine, state = self.engine(world, len(z)), jax_engine.State(jnp.asarray(z))
        key = jax.random.key(seed)
        for _ in range(steps):
            state = jax_engine.step(engine, state, key)
        return np.asarray(state.z)

    def score(self, z: np.ndarray, selection: Selection) -> np.ndarray:
        """Leave-one-out score."""
        import jax.numpy as jnp

        from foreshock.simulators import jax_score

        return np.asarray(jax_score.fit_score(jnp.asarray(z), selection).values)

    def flow(
        self, z: np.ndarray, drift: np.ndarray, diffusion: Any, selection: Selection
    ) -> dict[str, Estimate]:
        """Observables with their bars."""
        import jax.numpy as jnp

        from foreshock.simulators import jax_score

        fitted = jax_score.fit_score(jnp.asarray(z), selection)
        return jax_score.flow(fitted, jnp.asarray(drift), diffusion)


JAX = Jax()


@cache
def _well(k: float) -> Any:
    """The energy of a well; another function would be compiled anew."""
    return lambda z: k * (z**2).sum(1) / 2


def _decode(z: Any) -> Any:
    import jax.numpy as jnp

    return jnp.tanh(z @ FIRST) @ SECOND


def potential_of(world: World, n: int, d: int) -> Any:
    """What the torch engine moves in."""
    if world.stiffness is not None:
        return Quadratic(world.stiffness, dimension=d)
    first, second = torch.from_numpy(FIRST), torch.from_numpy(SECOND)
    targets = torch.zeros(n, 4, dtype=torch.float64)
    return DecoderPotential(
        lambda z: torch.tanh(z @ first) @ second, targets, dimension=3, noise_scale=world.sigma
    )


def normal(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)
