r"""The particle engine in JAX: pure functions, one `jax.lax.scan` per run, particles over devices.

    dz = mu dt + sqrt(2 D) dW (Itô),    D = D_0 M(z) + eta lambda I,    T = D_0/eta + lambda

The equations, modes and shapes are those of `foreshock.simulators.particles`, which is the complete
engine; here are its step, its annealing and its observables, and neither resets nor shapes with a
given matrix. Import it by name; nothing else in Foreshock imports JAX (extra ``foreshock[jax]``).

Random numbers come from one key, folded with the number of the step, so that a run in two pieces is
the run in one, and do not depend on how particles are spread over devices.

**On a CPU** set ``OPENBLAS_NUM_THREADS=1`` before Python starts. Cholesky factors come from SciPy's
OpenBLAS, whose threads then spin beside XLA's: observed steps take 1.3 to 1.8 times as long.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from foreshock.density import Selection
from foreshock.simulators.diffusion import ParticleFisher, SharedFisher
from foreshock.simulators.door import counts
from foreshock.simulators.jax_motion import Decoder as Decoder
from foreshock.simulators.jax_motion import Engine as Engine
from foreshock.simulators.jax_motion import Law, Motion, law, motion, move, seen_by, stiffness
from foreshock.simulators.jax_score import (
    Gauges,
    check_selection,
    chosen_block,
    fit,
    judged,
    means,
    numbers,
    refused,
    summary,
    unbiased,
)
from foreshock.simulators.stability import looks, read, refuse, refuse_astray, spaced, worst
from foreshock.simulators.stepping import SOON, coarse
from foreshock.types import Estimate

try:
    import jax  # pyrefly: ignore[missing-import]
    import jax.numpy as jnp  # pyrefly: ignore[missing-import]
    from jax import Array  # pyrefly: ignore[missing-import]
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        "The JAX backend needs JAX, which is an extra. Type: pip install 'foreshock[jax]'."
    ) from missing


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


def step(engine: Engine, state: State, key: Array) -> State:
    """One Euler-Maruyama step: drift, diffusion with the entropy in it, annealing.

    Args:
        engine: The engine.
        state: Where the particles are.
        key: Of the whole run; the step's own is `fold_in(key, state.steps)`.

    Returns:
        The next state; the same for the same key and state.

    Raises:
        ValueError: If an argument is unfit, D is not positive definite, or particles leave the
            finite numbers.
    """
    targets = _checked(engine, state.z)
    rates = jnp.asarray(_rates(engine, state, 1)[0])
    z = _step_compiled(law(engine), targets, state.z, key, state.steps, rates)
    if not bool(jnp.isfinite(z).all()):
        raise ValueError(_lost(engine))
    return State(z, state.steps + 1)


def run(
    engine: Engine,
    state: State,
    key: Array,
    *,
    steps: int,
    every: int = 1,
    selection: Selection | None = None,
    block: int | None = None,
) -> Recorded:
    """Steps as one `jax.lax.scan`, with a record every so often.

    The first call compiles; another law of the engine (see there), shape of the particles, number
    of steps or `every` does so again. Nothing of a run waits for the host.

    Args:
        engine: The engine.
        state: Where it starts.
        key: Source of all noise.
        steps: How many, a multiple of `every`.
        every: Steps between records.
        selection: Bandwidth and weight of the score at every record, or None to observe nothing.
        block: Rows of the kernel matrix at a time; None for 512 on one device, and for all on
            several, where each computes those of its own particles.

    Returns:
        The run.

    Raises:
        ValueError: If an argument is unfit, the step is unstable at the start or where particles
            have come to, D is not positive definite, or they have left the finite numbers.
    """
    counts("run", steps=steps, every=every)
    if steps % every:
        raise ValueError(
            f"The `steps` of `run` must be a multiple of `every`. Got {steps} and {every}; "
            f"use {steps - steps % every or every}."
        )
    targets = _checked(engine, state.z)
    choice, rows = None, chosen_block(state.z, block)
    if selection is not None:
        check_selection("run", selection, rows)
        if isinstance(engine.shape, ParticleFisher):
            raise ValueError(
                "With `ParticleFisher` every particle has its own D, and `run` observes only what "
                "has one D. Use `SharedFisher`, or the torch engine's `run_engine`."
            )
        choice = numbers(selection)
    schedules = _readings(engine, state.steps, steps)
    _stable(engine, state, schedules)
    # The end is observed too; without that its schedules need not exist.
    rates = jnp.asarray(_rates(engine, state, steps + (selection is not None)))
    path, watched = _run_compiled(
        law(engine),
        targets,
        state.z,
        key,
        state.steps,
        rates,
        choice,
        records=steps // every,
        every=every,
        active=bool(selection and selection.weight),
        block=rows,
    )
    z = path[-1]
    if not bool(jnp.isfinite(z).all()):
        raise ValueError(_lost(engine))
    # Nothing waits for the host during a run, so these looks come after it.
    apart = -(-looks(steps, z.shape[1]) // every)  # in records
    for look, at in enumerate(range(apart, len(path), apart), 1):
        coming = schedules[min(at * every, steps - 1) : (at + apart) * every]
        refuse_astray(engine.dt, *worst(*seen_by(engine, path[at], look), coming))
    eta, _, curvatures = worst(*stiffness(engine, z, spaced(len(z))), schedules[-1:])
    # Of the particle in the middle: one in the tails does not make the variance.
    product = eta * float(np.median(curvatures))
    if sentence := coarse("Engine", engine.dt, product, "a smaller learning rate"):
        warnings.warn(sentence, RuntimeWarning, stacklevel=2)
    moments = range(state.steps, state.steps + steps + 1, every)
    observables = {}
    if watched is not None and selection is not None:
        observables = _estimates(watched, selection, *z.shape)
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


def check_stable(engine: Engine, state: State, *, steps: int = 1) -> None:
    """Refuse a step that is unstable for the stiffest mode at 16 to 31 evenly spaced particles.

    Euler's step multiplies a mode of stiffness k by 1 - eta dt k, which grows for eta dt k > 2. In
    mode `gibbs` the mobility D/T stands in place of eta. Schedules are read for the first 20 d
    steps: particles leave the start.

    Args:
        engine: The engine.
        state: The particles.
        steps: Steps to take.
    """
    _stable(engine, state, _readings(engine, state.steps, steps))


def _stable(engine: Engine, state: State, readings: np.ndarray) -> None:
    found = stiffness(engine, state.z, spaced(len(state.z)))
    soon = readings[: SOON * state.z.shape[1]]
    eta, t, curvatures = worst(*found, soon)
    refuse(engine.dt, eta, curvatures.max(), f" at t = {t:g}" if t > readings[0, 2] else "")


def _readings(engine: Engine, first: int, steps: int) -> np.ndarray:
    """What the size of a step depends on, step by step."""
    times = [k * engine.dt for k in range(first, first + steps)]
    values = [engine.schedules.at(t) for t in times]
    return read(
        (eta, base, eta * lam, t) for (eta, base, lam), t in zip(values, times, strict=True)
    )


def _step(
    rule: Law, targets: Array | None, z: Array, key: Array, index: Array, rates: Array
) -> Array:
    first, second = jax.random.split(jax.random.fold_in(key, index))
    return move(rule, z, motion(rule, targets, z, first, rates), second)


def _run(
    rule: Law,
    targets: Array | None,
    z: Array,
    key: Array,
    start: Array,
    rates: Array,
    choice: tuple | None,
    *,
    records: int,
    every: int,
    active: bool,
    block: int,
) -> tuple[Array, tuple[Array, Gauges] | None]:
    """Path, and what was watched at every record."""
    # One loop within one scan, the end included, so that a step and a fit are compiled once each:
    # compilation is most of the time of a short run.

    def watch(z: Array, flow: Motion) -> tuple[Array, Gauges]:
        assert choice is not None
        values, gauges = fit(z, choice, active, block)
        diffusion = flow.level if flow.matrix is None else flow.level * flow.matrix
        return means(values, flow.drift, diffusion), gauges

    def onwards(z: Array, record: Array) -> tuple[Array, Any]:
        def one(k: Array, carried: tuple[Array, Any]) -> tuple[Array, Any]:
            now, seen = carried
            index = record * every + k
            first, second = jax.random.split(jax.random.fold_in(key, start + index))
            # The motion that is observed is the one that makes the next step.
            flow = motion(rule, targets, now, first, rates[index])
            if choice is not None:
                seen = jax.lax.cond(k == 0, lambda: watch(now, flow), lambda: seen)
            return move(rule, now, flow, second), seen

        blank = None
        if choice is not None:
            number = jnp.zeros((), z.dtype)
            blank = (jnp.zeros(3, z.dtype), Gauges(*[number] * len(Gauges._fields)))
        # At the end nothing moves on; where it is watched, the step after it is thrown away.
        count = jnp.where(record < records, every, 0 if choice is None else 1)
        after, seen = jax.lax.fori_loop(0, count, one, (z, blank))
        return after, (z, seen)

    _, (path, seen) = jax.lax.scan(onwards, z, jnp.arange(records + 1))
    return path, seen


_step_compiled = jax.jit(_step, static_argnames="rule")
_run_compiled = jax.jit(_run, static_argnames=("rule", "records", "every", "active", "block"))


def _rates(engine: Engine, state: State, steps: int) -> np.ndarray:
    """eta, D_0 and lambda of every step in the type of the particles, (steps, 3)."""
    times = [k * engine.dt for k in range(state.steps, state.steps + steps)]
    return np.array([engine.schedules.at(t) for t in times]).astype(state.z.dtype)


def _lost(engine: Engine) -> str:
    """What to do about particles that a step has made nan or inf."""
    if isinstance(engine.shape, SharedFisher) and engine.shape.gamma < 0:
        return (
            "Particles left the finite numbers. With gamma < 0 the diffusion D_0 (I + gamma F) + "
            "eta lambda I is positive definite only for gamma > -(D_0 + eta lambda) / "
            f"(D_0 lambda_max(F)). Got gamma = {engine.shape.gamma}; gamma >= 0 never fails. "
            f"If that holds, the drift outran the step: use a smaller `dt` than {engine.dt:g}."
        )
    return (
        "Particles left the finite numbers: the drift outran the step. "
        f"Use a smaller `dt` than {engine.dt:g}."
    )


def _checked(engine: Engine, z: Array) -> Array | None:
    """The targets of the decoder, after refusing particles and outputs of the wrong shape."""
    if z.ndim != 2 or z.size == 0 or z.dtype not in (jnp.float32, jnp.float64):
        raise ValueError(
            "Particles must be of shape (n, d), n and d at least 1, in float32 or float64. "
            f"Got {z.shape} of {z.dtype}."
        )
    if not jnp.isfinite(z).all():
        raise ValueError("Particles must be finite. Some hold nan or inf.")
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
        if validity.valid:
            records.append(summary(unbiased(row, n, d, selection), [], n, validity.bias))
        else:
            records.append(refused(validity.reason, n))
    return {name: tuple(record[name] for record in records) for name in records[0]}
