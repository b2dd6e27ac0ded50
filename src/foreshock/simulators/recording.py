r"""Runs of the particle engine with its path and its observables.

What is observed at a record, all from the drift and diffusion that make the next step:

| name | what |
|---|---|
| `c`, `cosine` | drift against diffusive pull, E[b.D^-1 b]/E[s.D s], and their correlation |
| `irreversibility` | E\|v\|^2 over the sum of both, v = b - D s, in [0, 2] |
| `entropy_production`, `entropy_production_bound` | E[v.D^-1 v], and what holds for any score |
| `entropy_rate` | dH/dt |
| `w2` | sliced distance to the start, its split-sample null subtracted; halves of the particles |
| `energy`, `temperature` | mean of L; T = D_0/eta + lambda |

with b = mu - div D and s = grad log rho. C = 1 and cosine 1 together are equilibrium.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from foreshock.density import Score, Selection, fit_score, flow, w2
from foreshock.simulators.decoder import DecoderPotential
from foreshock.simulators.particles import Engine, Motion, State, check_stable, motion, move, step
from foreshock.types import Estimate, Flag

#: Numbers in the n diffusion matrices of `ParticleFisher` above which nothing is observed: 512 MB.
MOST_NUMBERS = 2**27
#: Numbers of the kernel matrix held at once, 4 MB: longer blocks leave the caches.
BLOCK_NUMBERS = 2**20
#: Particles in each half that W2 and its null need.
LEAST = 40
NAMES = (
    "c",
    "cosine",
    "irreversibility",
    "entropy_production",
    "entropy_production_bound",
    "entropy_rate",
    "w2",
    "energy",
    "temperature",
)


@dataclass(frozen=True, eq=False)
class Recorded:
    """A run of the engine.

    Args:
        times: Times of the records, (k,), the first of them 0.
        path: Particles at them, (k, n, d); row i is the same particle throughout.
        observables: Name to the estimates at these times; see the module.
        redrawn: Times of the resets.
        final: State at the end, from which another run continues.
    """

    times: tuple[float, ...]
    path: Tensor
    observables: Mapping[str, tuple[Estimate, ...]]
    redrawn: tuple[float, ...]
    final: State


def rows_at_once(n: int) -> int:
    """Rows of an (n, n) kernel matrix to hold at once."""
    return max(64, BLOCK_NUMBERS // n)


def observe(
    engine: Engine,
    state: State,
    moved: Motion,
    generator: torch.Generator,
    *,
    start: Tensor | None = None,
    selection: Selection | None = None,
    refits: int = 20,
    bounds: bool = True,
) -> tuple[dict[str, Estimate], Score]:
    """All observables of one moment.

    Cost: `refits` + 1 fits of the score and two of half the particles for the bounds. With
    `refits=0` and `bounds=False` it is one fit, and C and the entropy production are plug-ins whose
    bars hold particle noise only.

    Args:
        engine: The engine.
        state: Particles.
        moved: `motion` of that state.
        generator: For Hutchinson's div mu, of which the bounds and dH/dt are linear functions, and
            the random directions of W2.
        start: Particles that W2 is taken to; left out if None.
        selection: Bandwidth and weight of an earlier score.
        refits: Groups of the jackknife.
        bounds: Whether to fit the half clouds.

    Returns:
        Name to estimate, and the score.
    """
    block = rows_at_once(len(state.z))
    score = fit_score(state.z, selection=selection, block=block)
    found = {
        "energy": _mean(engine.potential.energy(state.z)),
        "temperature": Estimate.exact(moved.temperature),
    }
    if start is not None:
        # Other particles of the start than of now: the same ones would not be independent.
        now, then = state.z[::2], start[1::2]
        enough = len(then) >= LEAST
        found["w2"] = (
            w2(now, then, generator=generator)
            if enough
            else Estimate.missing(f"W2 to the start needs {2 * LEAST} particles.", n=len(start))
        )
    drift, diffusion, reason = _fickian(engine, state.z, moved)
    if reason:
        gone = Estimate.missing(reason)
        names = [n for n in NAMES if n not in ("energy", "temperature", "w2")]
        return found | dict.fromkeys(names, gone), score
    source = _source(engine, state.z, moved, generator) if bounds else None
    all_of_it = flow(score, drift, diffusion, divergence_drift=source, refits=refits, bounds=bounds)
    found |= {
        "c": all_of_it.consolidation,
        "cosine": all_of_it.cosine,
        "irreversibility": all_of_it.irreversibility,
        "entropy_production": all_of_it.entropy_production,
        "entropy_production_bound": all_of_it.entropy_production_bound,
        "entropy_rate": all_of_it.entropy_rate,
    }
    return found, score


def run_engine(
    engine: Engine,
    start: Tensor,
    steps: int,
    *,
    generator: torch.Generator,
    every: int = 10,
    select_every: int = 10,
    observed: bool = True,
    refits: int = 20,
    on_progress: Callable[[int, int], object] | None = None,
) -> Recorded:
    """Let particles move, and record path and observables every `every` steps.

    The path takes (steps/every + 1) n d numbers.

    Args:
        engine: The engine.
        start: Particles at time 0, (n, d); their dtype and device are those of the run.
        steps: How many steps.
        generator: Source of all randomness.
        every: Steps between records.
        select_every: Records between choices of bandwidth and weight of the score.
        observed: Whether to measure anything besides the path.
        refits: Groups of the jackknife of the observables; 0 for plug-in values.
        on_progress: Called with (steps done, steps) at every record.

    Returns:
        The run.

    Raises:
        ValueError: If the particles are not finite or of the wrong shape, a count is not positive,
            the step is unstable, or the particles leave the finite numbers.

    Examples:
        An Ornstein-Uhlenbeck cloud at D = eta = 1 that starts at its stationary law stays there:
        C = 1, no entropy production.

        >>> from foreshock.simulators.potentials import Quadratic
        >>> from foreshock.simulators.schedules import constant_schedules
        >>> engine = Engine(Quadratic(1.0, dimension=2), constant_schedules(), dt=0.01)
        >>> generator = torch.Generator().manual_seed(0)
        >>> z = torch.randn(1000, 2, generator=generator)
        >>> found = run_engine(engine, z, 20, generator=generator)
        >>> found.times, tuple(found.path.shape)
        ((0.0, 0.1, 0.2), (3, 1000, 2))
        >>> c = found.observables["c"][-1]
        >>> c.low < 1 < c.high
        True
    """
    for name, value in {"steps": steps, "every": every, "select_every": select_every}.items():
        if value < 1:
            raise ValueError(f"The `{name}` of `run_engine` must be at least 1. Got {value}.")
    d = engine.potential.dimension
    if start.ndim != 2 or start.shape[1] != d or not torch.isfinite(start).all():
        raise ValueError(
            f"The `start` of `run_engine` must be finite and of shape (n, {d}). "
            f"Got {tuple(start.shape)}."
        )
    check_stable(engine, start)
    state = State(start.detach().clone())
    path, times, resets = [], [], []
    readings: list[dict[str, Estimate]] = []
    selection = None
    for k in range(steps + 1):
        if k % every == 0:
            if not torch.isfinite(state.z).all():
                raise ValueError(
                    f"Particles left the finite numbers by step {k}: the drift outran the step. "
                    f"Use a smaller `dt` than {engine.dt:g}, or keep them out of the steep region."
                )
            path.append(state.z)
            times.append(k * engine.dt)
            if on_progress is not None:
                on_progress(k, steps)
        if observed and k % every == 0:
            moved = motion(engine, state, generator)
            if (len(times) - 1) % select_every == 0:
                selection = None
            found, score = observe(
                engine, state, moved, generator, start=start, selection=selection, refits=refits
            )
            selection = score.selection
            readings.append(found)
            if k < steps:
                state = move(engine, state, moved, generator)
        elif k < steps:
            state = step(engine, state, generator)
        if k < steps and state.redrawn is not None and bool(state.redrawn.any()):
            resets.append(state.steps * engine.dt)
    series = {name: tuple(r[name] for r in readings) for name in NAMES} if observed else {}
    return Recorded(tuple(times), torch.stack(path), series, tuple(resets), state)


def _mean(values: Tensor) -> Estimate:
    """Mean with its normal interval."""
    n = len(values)
    value = float(values.double().mean())
    half = 1.96 * float(values.double().std()) / math.sqrt(n) if n > 1 else math.nan
    if not math.isfinite(value):
        return Estimate.missing("The energy is not finite.", flags=Flag.UNRESOLVED, n=n)
    return Estimate(value, value - half, value + half, n=n)


def _fickian(engine: Engine, z: Tensor, moved: Motion) -> tuple[Tensor, float | Tensor, str]:
    """The drift b = mu - div D, D as `density` takes it, and why there is neither."""
    tensor = moved.tensor
    if tensor.constant:
        value = tensor.value(z.shape[1])
        if isinstance(value, float) and value == 0:
            return (
                moved.drift,
                value,
                "There is no noise: D = 0, and every ratio to it is infinite.",
            )
        return moved.drift, value, ""
    decoder = engine.potential
    assert isinstance(decoder, DecoderPotential)
    n, d = z.shape
    if n * d * d > MOST_NUMBERS:
        sentence = (
            f"Every particle has its own D: {n} matrices of {d} x {d} would not fit. Use "
            "`SharedFisher`, or observe fewer particles."
        )
        return moved.drift, 0.0, sentence
    if moved.carried is not None:
        return moved.drift - moved.carried, tensor.dense(z, decoder), ""
    # Random signs would enter E[b.D^-1 b] with their variance, so every direction is taken.
    divergence = torch.zeros_like(z)
    for j in range(d):
        unit = torch.zeros_like(z)
        unit[:, j] = 1
        divergence += decoder.fisher_divergence(z, unit)
    return moved.drift - tensor.fisher * divergence, tensor.dense(z, decoder), ""


def _source(engine: Engine, z: Tensor, moved: Motion, generator: torch.Generator) -> Tensor | None:
    """Div mu of every particle, where D is constant in z; by random signs for a decoder."""
    mobility, potential = moved.mobility, engine.potential
    if mobility is None or not moved.tensor.constant:
        return None
    if isinstance(potential, DecoderPotential):
        signs = torch.randint(0, 2, z.shape, generator=generator, device=z.device)
        signs = signs.to(z.dtype).mul_(2).sub_(1)
        scaled = signs @ mobility if isinstance(mobility, Tensor) else signs * mobility
        return -(potential.hessian_product(z, signs) * scaled).sum(1)
    hessian = potential.hessian(z)
    if isinstance(mobility, Tensor):
        return -(hessian * mobility).sum((1, 2))
    return -mobility * hessian.diagonal(dim1=1, dim2=2).sum(1)
