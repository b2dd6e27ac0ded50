r"""Runs of the particle engine with its path and its observables.

What is observed at a record by `foreshock.simulators.observing`, all from the drift and diffusion
of the next step:

| name | what |
|---|---|
| `c` | drift against diffusive pull, the root of E[b.D^-1 b]/E[s.D s] |
| `cosine` | their correlation, E[b.s]/sqrt(E[b.D^-1 b] E[s.D s]) |
| `irreversibility` | E\|v\|^2 over the sum of both, v = b - D s, in [0, 2] |
| `entropy_production`, `entropy_production_bound` | E[v.D^-1 v], and what holds for any score |
| `entropy_rate` | dH/dt |
| `w2` | sliced distance to the start, its split-sample null subtracted; halves of the particles |
| `energy`, `temperature` | mean of L; T = D_0/eta + lambda |

with b = mu - div D and s = grad log rho. C = 1 and cosine 1 together are equilibrium. Resets are
jumps and in none of these: with them, they are those of drift and diffusion between the jumps, and
`entropy_rate` is refused where jumps are a part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from foreshock.simulators.door import counts, movable
from foreshock.simulators.observing import NAMES, observe
from foreshock.simulators.particles import Engine, State, motion, step
from foreshock.simulators.stability import check_again, check_run, looks
from foreshock.types import Estimate

#: Groups of the jackknife below which it claims no interval, and particles of a score.
GROUPS, PARTICLES = 5, 4
OnRecord = Callable[[State, Mapping[str, Estimate]], State | None]


@dataclass(frozen=True, eq=False)
class Recorded:
    """A run of the engine.

    Args:
        times: Times of the records, (k,).
        path: Particles at them, (k, n, d); row i is the same particle throughout.
        observables: Name to the estimates at these times; see the module.
        redrawn: Times of the resets.
        final: State at the end; given to `run_engine` as its `start`, the run goes on.
    """

    times: tuple[float, ...]
    path: Tensor
    observables: Mapping[str, tuple[Estimate, ...]]
    redrawn: tuple[float, ...]
    final: State


class RunStoppedError(ValueError):
    """A run that could not go on.

    Args:
        reason: Why.
        recorded: What was recorded until then.
    """

    def __init__(self, reason: str, recorded: Recorded) -> None:
        super().__init__(reason)
        self.recorded = recorded


def run_engine(
    engine: Engine,
    start: Tensor | State,
    steps: int,
    *,
    generator: torch.Generator,
    every: int = 10,
    select_every: int = 1,
    observed: bool = True,
    refits: int = 20,
    on_record: OnRecord | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Recorded:
    """Let particles move, and record path and observables every `every` steps.

    To look is not to touch: what is observed draws from a generator of its own, so the path is
    bitwise the same with and without. The path takes (steps/every + 1) n d numbers.

    The step is judged at the start (`check_stable`), and at up to 8 records on the way at particles
    that change from look to look. A stable one with eta dt k > 1 in the stiffest mode is warned of:
    there Euler's variance is 1/(1 - eta dt k/2) times the exact one, twice and more.

    Args:
        engine: The engine.
        start: Particles at time 0, (n, d), float32 or float64, whose type and device are those of
            the run; or a `State` to go on from, such as `final` of another run. The distance `w2`
            is that to the start of this run.
        steps: How many steps.
        generator: Source of all randomness of the particles.
        every: Steps between records.
        select_every: Records between choices of bandwidth and weight of the score. More than 1
            costs less, and smooths away what a cloud has become since the last choice.
        observed: Whether to measure anything besides the path.
        refits: Groups of the jackknife of the observables; 0 for plug-in values.
        on_record: Called with the state and the observables of every record. The state it returns,
            if any, takes the place of that one: a detector may return `reset_now(...)`.
        progress: Called with (steps done, steps) at every record.

    Returns:
        The run.

    Raises:
        ValueError: If the particles are not finite or of the wrong shape or type, a count is out of
            range, a schedule is out of range at one of the steps, or the step is unstable.
        RuntimeError: If torch fails before anything is recorded, in the decoder say.
        RunStoppedError: If the particles leave the finite numbers, come to where the step is
            unstable, or a step fails; what was recorded is in its `recorded`.

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
        >>> run_engine(engine, found.final, 10, generator=generator, observed=False).times
        (0.2, 0.3)
    """
    counts("run_engine", steps=steps, every=every, select_every=select_every)
    state = start if isinstance(start, State) else State(start.detach().clone())
    movable("run_engine", "start", state.z, engine)
    if observed:
        _check_refits(len(state.z), refits)
    # A record at the end reads the schedules of the step that would follow.
    read = steps + 1 if observed and steps % every == 0 else steps
    schedules = check_run(engine, state.z, first=state.steps, steps=read)
    between, looked, look = looks(steps, state.z.shape[1]), 0, 0
    begin, watcher = state.z, _watcher(generator)
    path, times, resets = [], [], []
    readings: list[dict[str, Estimate]] = []
    selection = None

    def recorded() -> Recorded:
        kept = times[: len(readings)] if observed else times
        series = {name: tuple(r[name] for r in readings) for name in NAMES} if observed else {}
        return Recorded(tuple(kept), torch.stack(path[: len(kept)]), series, tuple(resets), state)

    for k in range(steps + 1):
        try:
            if k % every == 0:
                _check_finite(engine, state.z, k)
                if k - looked >= between:
                    looked, look = k, look + 1
                    check_again(
                        engine, state.z, schedules[min(k, read - 1) : k + between], look=look
                    )
                path.append(state.z)
                times.append(state.steps * engine.dt)
                if progress is not None:
                    progress(k, steps)
                if observed:
                    if (len(times) - 1) % select_every == 0:
                        selection = None
                    moved = motion(engine, state, watcher)
                    found, score = observe(
                        engine,
                        state,
                        moved,
                        watcher,
                        start=begin,
                        selection=selection,
                        refits=refits,
                    )
                    selection = score.selection
                    readings.append(found)
                if on_record is not None:
                    changed = on_record(state, readings[-1] if observed else {})
                    if changed is not None and changed is not state:
                        state = changed
                        if _redrawn(state):
                            resets.append(state.steps * engine.dt)
            if k < steps:
                state = step(engine, state, generator)
                if _redrawn(state):
                    resets.append(state.steps * engine.dt)
        except (ValueError, RuntimeError) as error:  # the second is how torch refuses
            if not (readings if observed else path):
                raise
            raise RunStoppedError(str(error), recorded()) from error
    return recorded()


def _check_refits(n: int, refits: int) -> None:
    """Refuse groups of the jackknife that there are not, or of too few particles."""
    if refits and refits < GROUPS:
        raise ValueError(
            f"The `refits` of `run_engine` must be 0 or at least {GROUPS}. Got {refits}."
        )
    if n < max(refits, PARTICLES):
        raise ValueError(
            f"Observables with `refits={refits}` need at least {max(refits, PARTICLES)} particles; "
            f"the `start` of `run_engine` has {n}. Use more, "
            + ("`refits=0`, or " if refits and n >= PARTICLES else "or ")
            + "`observed=False` for the path alone."
        )


def _check_finite(engine: Engine, z: Tensor, k: int) -> None:
    if not torch.isfinite(z).all():
        raise ValueError(
            f"Particles left the finite numbers by step {k}: the drift outran the step. "
            f"Use a smaller `dt` than {engine.dt:g}, or keep them out of the steep region."
        )


def _watcher(generator: torch.Generator) -> torch.Generator:
    """A generator that follows from the state of another and leaves it where it is."""
    copy = torch.Generator(generator.device)
    copy.set_state(generator.get_state())
    seed = torch.randint(2**62, (), generator=copy, device=generator.device)
    return torch.Generator(generator.device).manual_seed(int(seed))


def _redrawn(state: State) -> bool:
    return state.redrawn is not None and bool(state.redrawn.any())
