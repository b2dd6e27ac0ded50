r"""The particle engine in JAX: pure functions, one `jax.lax.scan` per run, particles over devices.

    dz = mu dt + sqrt(2 D) dW (Itô),    D = D_0 M(z) + eta lambda I,    T = D_0/eta + lambda

The equations, modes and shapes are those of `foreshock.simulators.particles`, which is the complete
engine; here are its step, its annealing and its observables, and neither resets nor shapes with a
given matrix. Import it by name; nothing else in Foreshock imports JAX (extra ``foreshock[jax]``).

Random numbers come from one key, folded with the number of the step, so that a run in two pieces is
the run in one, and do not depend on how particles are spread over devices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np

from foreshock.density import Selection
from foreshock.simulators.diffusion import Isotropic, ParticleFisher, SharedFisher
from foreshock.simulators.jax_score import (
    BLOCK,
    Gauges,
    check_selection,
    fit,
    judged,
    means,
    numbers,
    refused,
    summary,
)
from foreshock.simulators.schedules import Schedules
from foreshock.types import Estimate

try:
    import jax  # pyrefly: ignore[missing-import]
    import jax.numpy as jnp  # pyrefly: ignore[missing-import]
    from jax import Array  # pyrefly: ignore[missing-import]
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        "The JAX backend needs JAX, which is an extra. Type: pip install 'foreshock[jax]'."
    ) from missing

#: Particles whose Hessians decide whether a step is stable.
PROBED = 16


@dataclass(frozen=True, eq=False)
class Decoder:
    r"""Energy \|x - dec(z)\|^2 / (2 sigma^2) of latent particles, each with its own target.

    Args:
        decode: Maps (n, d) to (n, x), a row per particle; anything JAX differentiates. What it
            closes over, weights say, becomes part of the compiled program.
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
    """Everything that does not change while particles move. Another `Engine` is compiled anew.

    Args:
        potential: A `Decoder`, or an energy: a function of (n, d) to (n,) that JAX differentiates,
            every particle by itself.
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
        >>> well = lambda z: (z**2).sum(1) / 2
        >>> engine = Engine(well, constant_schedules(diffusion=0.0, entropy=1.0), dt=0.05)
        >>> found = run(engine, State(jnp.zeros((4000, 1))), jax.random.key(0), steps=100, every=50)
        >>> found.path.shape, bool(0.9 < found.final.z.var() < 1.15)
        ((3, 4000, 1), True)
    """

    potential: Decoder | Callable[[Array], Array]
    schedules: Schedules
    dt: float
    shape: Isotropic | SharedFisher | ParticleFisher = field(default_factory=Isotropic)
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


@dataclass(frozen=True, eq=False)
class State:
    """The particles at one moment.

    Args:
        z: Latent states, (n, d).
        steps: Steps taken.
    """

    z: Array
    steps: int = 0


@dataclass(frozen=True, eq=False)
class Recorded:
    """A run.

    Args:
        times: Times of the records, (k,), the first that of the start, the last that of the end.
        path: Particles at them, (k, n, d).
        observables: Name to the plug-in values at these times, without bars; see `jax_score.flow`.
        final: State at the end, from which another run continues.
    """

    times: tuple[float, ...]
    path: Array
    observables: Mapping[str, tuple[Estimate, ...]]
    final: State


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


def step(engine: Engine, state: State, key: Array) -> State:
    """One Euler-Maruyama step: drift, diffusion with the entropy in it, annealing.

    Args:
        engine: The engine.
        state: Where the particles are.
        key: Of the whole run; the step's own is `fold_in(key, state.steps)`.

    Returns:
        The next state; the same for the same key and state.
    """
    rates = jnp.asarray(_rates(engine, state.steps, 1)[0], state.z.dtype)
    targets = _checked(engine, state.z)
    return State(_step_compiled(engine, targets, state.z, key, state.steps, rates), state.steps + 1)


def run(
    engine: Engine,
    state: State,
    key: Array,
    *,
    steps: int,
    every: int = 1,
    selection: Selection | None = None,
    block: int = BLOCK,
) -> Recorded:
    """Steps as one `jax.lax.scan`, with a record every so often.

    The first call compiles; another engine, shape of the particles, number of steps or `every` does
    so again. Nothing of a run waits for the host.

    Args:
        engine: The engine.
        state: Where it starts.
        key: Source of all noise.
        steps: How many, a multiple of `every`.
        every: Steps between records.
        selection: Bandwidth and weight of the score at every record, or None to observe nothing.
        block: Rows of the kernel matrix at a time.

    Returns:
        The run.

    Raises:
        ValueError: If an argument is unfit, the step is unstable, or particles have left the finite
            numbers.
    """
    for name, value in (("steps", steps), ("every", every)):
        if value < 1:
            raise ValueError(f"The `{name}` of `run` must be at least 1. Got {value}.")
    if steps % every:
        raise ValueError(
            f"The `steps` of `run` must be a multiple of `every`. Got {steps} and {every}; "
            f"use {steps - steps % every or every}."
        )
    targets = _checked(engine, state.z)
    check_stable(engine, state)
    choice = None
    if selection is not None:
        check_selection("run", selection, block)
        if isinstance(engine.shape, ParticleFisher):
            raise ValueError(
                "With `ParticleFisher` every particle has its own D, and `run` observes only what "
                "has one D. Use `SharedFisher`, or the torch engine's `run_engine`."
            )
        choice = numbers(selection)
    rates = jnp.asarray(_rates(engine, state.steps, steps + 1), state.z.dtype)
    z, path, watched = _run_compiled(
        engine,
        targets,
        state.z,
        key,
        state.steps,
        rates,
        choice,
        every=every,
        active=bool(selection and selection.weight),
        block=block,
    )
    if not bool(jnp.isfinite(z).all()):
        raise ValueError(
            "Particles left the finite numbers: the drift outran the step, or, with gamma < 0, "
            f"I + gamma F is not positive definite. Use a smaller `dt` than {engine.dt:g}, or "
            "gamma >= 0."
        )
    moments = range(state.steps, state.steps + steps + 1, every)
    observables = {} if selection is None else _estimates(watched, selection, *z.shape)
    times = tuple(moment * engine.dt for moment in moments)
    return Recorded(times, path, observables, State(z, state.steps + steps))


def shard(
    engine: Engine, state: State, devices: Sequence[Any] | None = None
) -> tuple[Engine, State]:
    """Spread particles, and their targets, over devices: `step` and `run` then work on all of them.

    The path is that of one device up to rounding. Only what is shared moves between devices: the
    mean Fisher information, and for the score the whitened particles.

    Args:
        engine: The engine.
        state: The particles.
        devices: Over which; all of `jax.devices()` if None.

    Returns:
        Both, with their arrays spread.

    Raises:
        ValueError: If the particles cannot be dealt out evenly.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from foreshock.simulators import constant_schedules
        >>> engine = Engine(lambda z: (z**2).sum(1), constant_schedules(), dt=0.1)
        >>> _, state = shard(engine, State(jnp.zeros((4, 1))), jax.devices()[:1])
        >>> state.z.sharding.spec[0]
        'particles'
    """
    chosen = jax.devices() if devices is None else devices
    if len(state.z) % len(chosen):
        raise ValueError(
            f"{len(state.z)} particles cannot be dealt out evenly to {len(chosen)} devices. Use "
            f"{len(state.z) - len(state.z) % len(chosen)} particles, or fewer `devices`."
        )
    mesh = jax.sharding.Mesh(np.array(chosen), ("particles",))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("particles"))
    spread = replace(state, z=jax.device_put(state.z, rows))
    if isinstance(engine.potential, Decoder):
        targets = jax.device_put(engine.potential.targets, rows)
        engine = replace(engine, potential=replace(engine.potential, targets=targets))
    return engine, spread


def check_stable(engine: Engine, state: State) -> None:
    """Refuse a step that is unstable for the stiffest mode at the first 16 particles.

    Euler's step multiplies a mode of stiffness k by 1 - eta dt k, which grows for eta dt k > 2. In
    mode `gibbs` the mobility D/T stands in place of eta.

    Args:
        engine: The engine.
        state: The particles.

    Raises:
        ValueError: If dt is too large for one of the 16.
    """
    potential = engine.potential
    targets = potential.targets[:PROBED] if isinstance(potential, Decoder) else None
    hessian = _stiffness_compiled(engine, targets, state.z[:PROBED])
    stiffest = float(np.linalg.eigvals(np.asarray(hessian, np.float64)).real.max())
    eta = engine.schedules.rate(state.steps * engine.dt)
    if eta * engine.dt * stiffest > 2:
        raise ValueError(
            f"The `dt` of `Engine` is {engine.dt:g} and unstable: the stiffest mode has curvature "
            f"{stiffest:.3g}, so eta * dt must stay below 2 / {stiffest:.3g}. "
            f"Use dt < {2 / (eta * stiffest):.2g}, best a tenth of it."
        )


def motion(engine: Engine, targets: Array | None, z: Array, key: Array, rates: Array) -> Motion:
    """Drift and diffusion at the particles; for use within jit.

    Args:
        engine: The engine.
        targets: Targets of its decoder, or None.
        z: (n, d) Particles.
        key: For the scores of `SharedFisher` and the random signs of div D.
        rates: eta, D_0 and lambda, (3,).

    Returns:
        The motion.
    """
    eta, base, weight = rates
    level = base + eta * weight
    potential, shape = engine.potential, engine.shape
    gibbs = engine.mode == "gibbs"
    if not isinstance(potential, Decoder):
        gradient = jax.grad(lambda p: potential(p).sum())(z)
        return Motion(-eta * gradient, level, None, 0.0, None)
    assert targets is not None
    sigma = potential.noise_scale
    output, pull = jax.vjp(potential.decode, z)
    gradient = pull((output - targets) / sigma**2)[0]
    # M = I + coupled F. Without any noise D/T has no value: plain descent.
    coupled = getattr(shape, "gamma", 0.0) * base / jnp.where(level > 0, level, 1.0)
    scores_key, signs_key = jax.random.split(key)
    if isinstance(shape, SharedFisher):
        # One model score per particle, J'e/sigma with e ~ N(0, I): the mean of s s' is unbiased.
        scores = pull(jax.random.normal(scores_key, output.shape, z.dtype) / sigma)[0]
        matrix = jnp.eye(z.shape[1], dtype=z.dtype) + coupled * (scores.T @ scores) / len(z)
        drift = -eta * (gradient @ matrix if gibbs else gradient)
        return Motion(drift, level, matrix, 0.0, pull)
    if isinstance(shape, Isotropic):
        return Motion(-eta * gradient, level, None, 0.0, pull)

    def product(points: Array, vectors: Array) -> Array:
        _, pushed = jax.jvp(potential.decode, (points,), (vectors,))
        return jax.vjp(potential.decode, points)[1](pushed / sigma**2)[0]

    drift = -eta * gradient
    if gibbs:
        signs = jax.random.rademacher(signs_key, z.shape, z.dtype)
        slope = jax.jvp(lambda p: product(p, signs), (z,), (signs,))[1]
        drift = drift - eta * coupled * product(z, gradient) + level * coupled * slope
    return Motion(drift, level, None, coupled, pull)


def _move(engine: Engine, z: Array, flow: Motion, key: Array) -> Array:
    """Euler-Maruyama along a motion."""
    first, second = jax.random.split(key)
    spread = jnp.sqrt(2 * engine.dt * flow.level)
    noise = jax.random.normal(first, z.shape, z.dtype)
    if flow.matrix is not None:
        noise = noise @ jnp.linalg.cholesky(flow.matrix).T
    if isinstance(engine.shape, ParticleFisher) and isinstance(engine.potential, Decoder):
        # Cov(xi + sqrt(c)/sigma J'e) = I + c J'J/sigma^2, without a matrix.
        decoder = engine.potential
        like = jax.eval_shape(decoder.decode, z)
        loads = jax.random.normal(second, like.shape, like.dtype)
        assert flow.pull is not None
        noise = noise + flow.pull(loads * (jnp.sqrt(flow.fisher) / decoder.noise_scale))[0]
    return z + engine.dt * flow.drift + spread * noise


def _step(
    engine: Engine, targets: Array | None, z: Array, key: Array, index: Array, rates: Array
) -> Array:
    moved, noise = jax.random.split(jax.random.fold_in(key, index))
    return _move(engine, z, motion(engine, targets, z, moved, rates), noise)


def _run(
    engine: Engine,
    targets: Array | None,
    z: Array,
    key: Array,
    start: Array,
    rates: Array,
    choice: tuple | None,
    *,
    every: int,
    active: bool,
    block: int,
) -> tuple[Array, Array, tuple[Array, Gauges] | None]:
    """Particles at the end, path, and what was watched at every record."""
    records = (len(rates) - 1) // every
    index = start + jnp.arange(len(rates))

    moments = index[:-1].reshape(records, every), rates[:-1].reshape(records, every, 3)

    def plain(z: Array, moment: tuple[Array, Array]) -> tuple[Array, None]:
        return _step(engine, targets, z, key, *moment), None

    def unwatched(z: Array, moments: tuple[Array, Array]) -> tuple[Array, Array]:
        return jax.lax.scan(plain, z, moments)[0], z

    if choice is None:
        z, path = jax.lax.scan(unwatched, z, moments)
        return z, jnp.concatenate([path, z[None]]), None

    def watch(z: Array, flow: Motion) -> tuple[Array, Array, Gauges]:
        values, gauges = fit(z, choice, active, block)
        diffusion = flow.level if flow.matrix is None else flow.level * flow.matrix
        return z, means(values, flow.drift, diffusion), gauges

    def watched(z: Array, moments: tuple[Array, Array]) -> tuple[Array, Any]:
        # The motion that is observed is the one that makes the next step.
        moved, noise = jax.random.split(jax.random.fold_in(key, moments[0][0]))
        flow = motion(engine, targets, z, moved, moments[1][0])
        after = _move(engine, z, flow, noise)
        if every > 1:
            after, _ = jax.lax.scan(plain, after, (moments[0][1:], moments[1][1:]))
        return after, watch(z, flow)

    z, seen = jax.lax.scan(watched, z, moments)
    moved, _ = jax.random.split(jax.random.fold_in(key, index[-1]))
    last = watch(z, motion(engine, targets, z, moved, rates[-1]))
    path, found, gauges = jax.tree.map(
        lambda many, one: jnp.concatenate([many, one[None]]), seen, last
    )
    return z, path, (found, gauges)


def _stiffness(engine: Engine, targets: Array | None, few: Array) -> Array:
    """Hessians of the energy times the mobility over eta at some particles."""
    potential = engine.potential
    if not isinstance(potential, Decoder):
        return jax.vmap(jax.hessian(lambda p: potential(p[None])[0]))(few)
    hessian = jax.vmap(jax.hessian(partial(_one_energy, potential)))(few, targets)
    gamma = getattr(engine.shape, "gamma", 0.0)
    if engine.mode == "published" or not gamma:
        return hessian
    jacobian = jax.vmap(jax.jacrev(lambda p: potential.decode(p[None])[0]))(few)
    fisher = jnp.swapaxes(jacobian, 1, 2) @ jacobian / potential.noise_scale**2
    if isinstance(engine.shape, SharedFisher):
        fisher = fisher.mean(0)
    return hessian + gamma * (fisher @ hessian)


_stiffness_compiled = jax.jit(_stiffness, static_argnames="engine")
_step_compiled = jax.jit(_step, static_argnames="engine")
_run_compiled = jax.jit(_run, static_argnames=("engine", "every", "active", "block"))


def _one_energy(decoder: Decoder, point: Array, target: Array) -> Array:
    return ((decoder.decode(point[None])[0] - target) ** 2).sum() / (2 * decoder.noise_scale**2)


def _rates(engine: Engine, start: int, steps: int) -> np.ndarray:
    """eta, D_0 and lambda of every step, (steps, 3)."""
    schedules = engine.schedules
    times = [k * engine.dt for k in range(start, start + steps)]
    found = np.array(
        [(schedules.rate(t), schedules.diffusion(t), schedules.entropy(t)) for t in times]
    )
    if not np.isfinite(found).all() or (found < 0).any() or (found[:, 0] == 0).any():
        raise ValueError(
            "The `schedules` of `Engine` must give a positive rate, and diffusion and entropy of "
            f"at least 0, at all times of the run. Smallest: {found.min(0).tolist()}."
        )
    return found


def _checked(engine: Engine, z: Array) -> Array | None:
    """The targets of the decoder, after refusing particles and outputs of the wrong shape."""
    if z.ndim != 2 or not jnp.issubdtype(z.dtype, jnp.floating) or not jnp.isfinite(z).all():
        raise ValueError(
            f"Particles must be finite floats of shape (n, d). Got {z.shape} of {z.dtype}."
        )
    n, d = z.shape
    potential = engine.potential
    if not isinstance(potential, Decoder):
        found = jax.eval_shape(potential, z).shape
        if found != (n,):
            raise ValueError(f"The energy must map {z.shape} to ({n},). Got {found}.")
        return None
    found, wanted = jax.eval_shape(potential.decode, z).shape, potential.targets.shape
    if found != wanted:
        raise ValueError(
            f"The decoder maps {z.shape} to {found}, but the targets are {wanted}. It must map "
            "(n, d) to (n, x), one row per particle, and every particle needs a target."
        )
    if isinstance(engine.shape, SharedFisher) and n <= d:
        raise ValueError(
            f"`SharedFisher` estimates a {d} x {d} matrix and needs more than {d} particles; there "
            f"are {n}. Add particles, or use `Isotropic()` or `ParticleFisher(gamma)`."
        )
    return potential.targets


def _estimates(
    watched: tuple[Array, Gauges], selection: Selection, n: int, d: int
) -> dict[str, tuple[Estimate, ...]]:
    """Plug-in observables of every record, refused where the score is."""
    found, gauges = jax.tree.map(np.asarray, watched)
    records: list[dict[str, Estimate]] = []
    for k, row in enumerate(found):
        validity = judged(jax.tree.map(lambda part, k=k: part[k], gauges), selection, n, d)
        records.append(summary(row, [], n) if validity.valid else refused(validity.reason, n))
    return {name: tuple(record[name] for record in records) for name in records[0]}
