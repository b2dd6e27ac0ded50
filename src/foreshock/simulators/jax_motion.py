r"""What moves the particles of the JAX engine: drift, noise and how stiff it is, pure functions.

The equations, modes and shapes are those of `foreshock.simulators.diffusion` and `.particles`.
What is compiled depends on a `Law` alone, so other schedules, targets or particles of the same
shape run the same program.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np

from foreshock.simulators.diffusion import Isotropic, ParticleFisher, SharedFisher
from foreshock.simulators.schedules import Schedules
from foreshock.simulators.stability import PROBED, most, spaced

try:
    import jax  # pyrefly: ignore[missing-import]
    import jax.numpy as jnp  # pyrefly: ignore[missing-import]
    from jax import Array  # pyrefly: ignore[missing-import]
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        "The JAX backend needs JAX, which is an extra. Type: pip install 'foreshock[jax]'."
    ) from missing

Shape = Isotropic | SharedFisher | ParticleFisher


@dataclass(frozen=True, eq=False)
class Decoder:
    r"""Energy \|x - dec(z)\|^2 / (2 sigma^2) of latent particles, each with its own target.

    Args:
        decode: Maps (n, d) to (n, x), a row per particle; a pure, hashable function that JAX
            differentiates. What it closes over, weights say, becomes part of the compiled program:
            for other weights make another function.
        targets: x, one row per particle, (n, x).
        noise_scale: sigma, positive.

    Raises:
        ValueError: If the targets or sigma are unfit.
    """

    decode: Callable[[Array], Array]
    targets: Array
    noise_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.targets.ndim != 2 or not bool(jnp.isfinite(self.targets).all()):
            raise ValueError(
                "The `targets` of `Decoder` must be finite, one row per particle (n, x). "
                f"Got {self.targets.shape}; for one target use `jnp.tile(target, (n, 1))`."
            )
        if not (math.isfinite(self.noise_scale) and self.noise_scale > 0):
            raise ValueError(
                f"The `noise_scale` of `Decoder` must be positive and finite. "
                f"Got {self.noise_scale}."
            )


@dataclass(frozen=True, eq=False)
class Engine:
    """Everything that does not change while particles move.

    Another function, sigma, `dt`, `shape` or `mode` is compiled anew; other schedules and targets
    are not.

    Args:
        potential: A `Decoder`, or an energy: a pure, hashable function of (n, d) to (n,) that JAX
            differentiates, every particle by itself.
        schedules: eta, D_0 and lambda as functions of time; read on the host before a run.
        dt: Time step, positive.
        shape: `Isotropic()`, `SharedFisher(gamma)` or `ParticleFisher(gamma)`.
        mode: `gibbs` (drift -(D/T) grad L + div D) or `published` (drift -eta grad L).

    Raises:
        ValueError: If one of them is unfit.

    Examples:
        Entropy weight 1 and no diffusion: the stationary variance of a unit well is T = 1.

        >>> import jax, jax.numpy as jnp
        >>> from foreshock.simulators import constant_schedules
        >>> from foreshock.simulators.jax_engine import State, run
        >>> well = lambda z: (z**2).sum(1) / 2
        >>> engine = Engine(well, constant_schedules(diffusion=0.0, entropy=1.0), dt=0.05)
        >>> found = run(engine, State(jnp.zeros((4000, 1))), jax.random.key(0), steps=100, every=50)
        >>> found.path.shape, bool(0.9 < found.final.z.var() < 1.15)
        ((3, 4000, 1), True)
    """

    potential: Decoder | Callable[[Array], Array]
    schedules: Schedules
    dt: float
    shape: Shape = field(default_factory=Isotropic)
    mode: Literal["gibbs", "published"] = "gibbs"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.dt) and self.dt > 0):
            raise ValueError(f"The `dt` of `Engine` must be positive and finite. Got {self.dt}.")
        if self.mode not in ("gibbs", "published"):
            raise ValueError(
                f"The `mode` of `Engine` must be 'gibbs' or 'published'. Got {self.mode!r}."
            )
        if not isinstance(self.shape, (Isotropic, SharedFisher, ParticleFisher)):
            raise ValueError(
                "The `shape` of `Engine` in JAX must be `Isotropic()`, `SharedFisher(gamma)` or "
                f"`ParticleFisher(gamma)`. Got `{type(self.shape).__name__}`; the torch engine "
                "has more."
            )
        if not isinstance(self.shape, Isotropic) and not isinstance(self.potential, Decoder):
            raise ValueError(
                f"`{type(self.shape).__name__}` couples the noise to a decoder, and the potential "
                "is an energy. Use a `Decoder`, or the shape `Isotropic()`."
            )
        function = law(self).function
        if not isinstance(function, Hashable):
            raise ValueError(
                "The function of the `potential` of `Engine` must be hashable, since what is "
                f"compiled is kept by it. Got a `{type(function).__name__}`; use `lambda z: it(z)`."
            )
        self.schedules.at(0.0)


class Law(NamedTuple):
    """What is compiled of an engine; equal laws share one program.

    Attributes:
        function: The decoder, (n, d) to (n, x), or the energy, (n, d) to (n,).
        noise_scale: sigma of the decoder; None if the function is an energy.
        dt: Time step.
        shape: M of the noise.
        mode: `gibbs` or `published`.
    """

    function: Callable[[Array], Array]
    noise_scale: float | None
    dt: float
    shape: Shape
    mode: str


class Motion(NamedTuple):
    """What moves the particles. D = level M with M = I, `matrix`, or I + fisher F(z).

    Attributes:
        drift: mu, (n, d), with div D in it where the mode adds it.
        level: D_0 + eta lambda.
        matrix: M shared by all particles, (d, d), or None.
        fisher: Coefficient of every particle's own F in M; 0 if it has no part.
        pull: J' c of every particle, or None.
    """

    drift: Array
    level: Array
    matrix: Array | None
    fisher: Array | float
    pull: Callable[[Array], tuple[Array]] | None


def law(engine: Engine) -> Law:
    """The part of an engine that is compiled.

    Args:
        engine: The engine.

    Returns:
        The law.
    """
    potential = engine.potential
    if isinstance(potential, Decoder):
        return Law(potential.decode, potential.noise_scale, engine.dt, engine.shape, engine.mode)
    return Law(potential, None, engine.dt, engine.shape, engine.mode)


def motion(rule: Law, targets: Array | None, z: Array, key: Array, rates: Array) -> Motion:
    """Drift and diffusion at the particles; for use within jit.

    Args:
        rule: The law.
        targets: Targets of its decoder, or None.
        z: (n, d) Particles.
        key: For the random signs of `SharedFisher`, or those of div D.
        rates: eta, D_0 and lambda, (3,).

    Returns:
        The motion.
    """
    eta, base, weight = rates
    level = base + eta * weight
    sigma, shape = rule.noise_scale, rule.shape
    gibbs = rule.mode == "gibbs"
    if sigma is None:
        gradient = jax.grad(lambda p: rule.function(p).sum())(z)
        return Motion(-eta * gradient, level, None, 0.0, None)
    assert targets is not None
    output, pull = jax.vjp(rule.function, z)
    gradient = pull((output - targets) / sigma**2)[0]
    if isinstance(shape, Isotropic):
        return Motion(-eta * gradient, level, None, 0.0, pull)
    # M = I + coupled F. Without any noise D/T has no value: plain descent.
    coupled = shape.gamma * base / jnp.where(level > 0, level, 1.0)
    if isinstance(shape, SharedFisher):
        # One score per particle, s = J'e/sigma with random signs e: E[s s'] = F needs E[e e'] = I
        # and no more, and normal e would make the mean noisier.
        signs = jax.random.rademacher(key, output.shape, z.dtype)
        scores = pull(signs / sigma)[0]
        matrix = jnp.eye(z.shape[1], dtype=z.dtype) + coupled * (scores.T @ scores) / len(z)
        drift = -eta * (gradient @ matrix if gibbs else gradient)
        return Motion(drift, level, matrix, 0.0, pull)

    def product(points: Array, vectors: Array) -> Array:
        _, pushed = jax.jvp(rule.function, (points,), (vectors,))
        return jax.vjp(rule.function, points)[1](pushed / sigma**2)[0]

    drift = -eta * gradient
    if gibbs:
        signs = jax.random.rademacher(key, z.shape, z.dtype)
        slope = jax.jvp(lambda p: product(p, signs), (z,), (signs,))[1]
        drift = drift - eta * coupled * product(z, gradient) + level * coupled * slope
    return Motion(drift, level, None, coupled, pull)


def move(rule: Law, z: Array, flow: Motion, key: Array) -> Array:
    """Euler-Maruyama along a motion; for use within jit.

    Args:
        rule: The law.
        z: (n, d) Particles.
        flow: What moves them.
        key: Of the noise.

    Returns:
        Particles after the step, nan where D is not positive definite.
    """
    spread = jnp.sqrt(2 * rule.dt * flow.level)
    if rule.noise_scale is not None and isinstance(rule.shape, ParticleFisher):
        # Cov(xi + sqrt(c)/sigma J'e) = I + c J'J/sigma^2, without a matrix.
        own, loaded = jax.random.split(key)
        like = jax.eval_shape(rule.function, z)
        loads = jax.random.normal(loaded, like.shape, like.dtype)
        assert flow.pull is not None
        noise = jax.random.normal(own, z.shape, z.dtype)
        noise = noise + flow.pull(loads * (jnp.sqrt(flow.fisher) / rule.noise_scale))[0]
        return z + rule.dt * flow.drift + spread * noise
    noise = jax.random.normal(key, z.shape, z.dtype)
    if flow.matrix is not None:
        noise = noise @ jnp.linalg.cholesky(flow.matrix).T
    return z + rule.dt * flow.drift + spread * noise


def stiffness(engine: Engine, z: Array, chosen: slice) -> tuple[np.ndarray, np.ndarray | None]:
    """Hessians of the energy at some particles.

    Args:
        engine: The engine.
        z: Particles, (n, d).
        chosen: Which k of them.

    Returns:
        They, (k, d, d), and M times them where M is not I in the drift; a shared F is the mean over
        these particles.
    """
    potential = engine.potential
    targets = potential.targets[chosen] if isinstance(potential, Decoder) else None
    plain, shaped = _stiffness_compiled(law(engine), targets, z[chosen])
    if shaped is not None:
        shaped = np.asarray(shaped, np.float64)
    return np.asarray(plain, np.float64), shaped


def seen_by(engine: Engine, z: Array, look: int) -> tuple[np.ndarray, np.ndarray | None]:
    """What `stiffness` finds at up to 256 particles, in pieces of a size that is compiled already.

    Args:
        engine: The engine.
        z: Particles, (n, d).
        look: Number of the look; at others it is other particles.

    Returns:
        See `stiffness`.
    """
    n, d = z.shape
    pieces = max(1, min(most(d), n) // PROBED)
    found = [stiffness(engine, z, spaced(n, look * pieces + k)) for k in range(pieces)]
    plain = np.concatenate([one for one, _ in found])
    shaped = [other for _, other in found if other is not None]
    return plain, np.concatenate(shaped) if shaped else None


def _stiffness(rule: Law, targets: Array | None, few: Array) -> tuple[Array, Array | None]:
    sigma, shape = rule.noise_scale, rule.shape
    if sigma is None:
        return jax.vmap(jax.hessian(lambda p: rule.function(p[None])[0]))(few), None
    hessian = jax.vmap(jax.hessian(partial(_one_energy, rule)))(few, targets)
    if rule.mode == "published" or isinstance(shape, Isotropic) or not shape.gamma:
        return hessian, None
    jacobian = jax.vmap(jax.jacrev(lambda p: rule.function(p[None])[0]))(few)
    fisher = jnp.swapaxes(jacobian, 1, 2) @ jacobian / sigma**2
    if isinstance(shape, SharedFisher):
        fisher = fisher.mean(0)
    return hessian, hessian + shape.gamma * (fisher @ hessian)


def _one_energy(rule: Law, point: Array, target: Array) -> Any:
    sigma = rule.noise_scale
    assert sigma is not None
    return ((rule.function(point[None])[0] - target) ** 2).sum() / (2 * sigma**2)


_stiffness_compiled = jax.jit(_stiffness, static_argnames="rule")
