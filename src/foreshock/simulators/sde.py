r"""Steps of length dt for overdamped dynamics, and the loop that runs them.

| stepper | dynamics | error of stationary averages | limit on dt |
|---|---|---|---|
| `EulerMaruyama` (default) | any | O(dt) | dt * rate < 2 |
| `LeimkuhlerMatthews` | `Langevin`, averages only | O(dt^2), 0 on a `Quadratic` | dt * rate < 2 |
| `ExactOU` | `Langevin` on a `Quadratic` | none, nor of paths | none |
| `TamedEuler` | any | O(dt) | none |
| `CubicSplitting` | `Langevin` on a `Quartic` | O(dt) | none |

In a mode of that rate Euler's stationary variance is 1/(1 - dt * rate/2) times the exact one: twice
at dt * rate = 1, from where on `integrate` warns.

The last three are in `foreshock.simulators.steppers`, inertial ones in
`foreshock.simulators.inertia`, the dynamics in `foreshock.simulators.dynamics`. A stepper is a
value; its `step` maps a state to a new one. A state is a tuple of tensors with the positions (n, d)
first.

A `jump` is called as `jump(shape, dt, generator, dtype)` and returns the increment (n, d) of a
second, independent noise over the same step, such as an alpha-stable one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from foreshock.simulators.door import counts, movable, positive
from foreshock.simulators.dynamics import Dynamics, Langevin
from foreshock.simulators.stepping import (
    Jump,
    State,
    coarse,
    leavers_lost,
    refuse_outside,
    refuse_unstable,
    standard_normal,
    with_jump,
)

Progress = Callable[[int, int], object]

#: Coordinates that are stepped together: 128 KiB in float32. Large enough that calls cost little,
#: small enough to stay in the cache, and just not enough for torch to split an operation over
#: threads: generating normals is not split, and on a busy machine the rest then waits 40 times
#: longer for its threads than it works.
_CHUNK = 32_768
#: Particles at most, or nearly, whose drift is looked at when they have arrived.
_LOOKED = 1024
#: Share of them that may overshoot, in the tails of a law whose stiffness grows outwards; ad hoc.
_ASTRAY = 0.05
#: Largest record that is allocated without asking: 4 GiB.
_LARGEST = 4 * 2**30


@runtime_checkable
class Stepper(Protocol):
    """One step of a scheme, as a map of values.

    Attributes:
        dt: Time of a step.
    """

    @property
    def dt(self) -> float:
        """Time of a step."""
        ...

    def check(self, x: Tensor) -> None:
        """Refuse positions from which the scheme cannot start, and steps that are too long."""
        ...

    def start(self, x: Tensor, generator: torch.Generator) -> State:
        """The state at the positions (n, d)."""
        ...

    def step(self, state: State, generator: torch.Generator) -> State:
        """The state one step later; the old one is not touched."""
        ...


@dataclass(frozen=True)
class EulerMaruyama:
    r"""x' = x + a(x) dt + sqrt(2 D(x) dt) z: right for every Itô process, path by path.

    Strong order 1/2 (1 where D is constant), weak order 1. On U = k x^2/2 its stationary variance
    is T / (k (1 - k M dt / 2)): twice the exact one at dt * rate = 1, from where on `integrate`
    warns, and without bound as dt * rate goes to 2. In a potential steeper than a bowl no step is
    short enough everywhere: far out dt * rate exceeds 2, and each step throws a particle further
    out.

    Args:
        dynamics: What moves the particles.
        dt: Time of a step.
        jump: A second noise in the same step.

    Raises:
        ValueError: If `dt` is not positive.

    References:
        Kloeden & Platen, Numerical Solution of Stochastic Differential Equations (1992), 10.2.

    Examples:
        >>> from foreshock.simulators.potentials import Quadratic
        >>> stepper = EulerMaruyama(Langevin(Quadratic(1.0), temperature=1.0), dt=0.01)
        >>> generator = torch.Generator().manual_seed(0)
        >>> path = integrate(stepper, torch.zeros(4000, 1), 500, generator=generator, every=500)
        >>> bool(abs(path.values[-1].var() - 1) < 4 * (2 / 4000) ** 0.5)
        True
    """

    dynamics: Dynamics
    dt: float
    jump: Jump | None = None

    def __post_init__(self) -> None:
        positive("EulerMaruyama", dt=self.dt)

    def check(self, x: Tensor) -> None:
        """Refuse dt * rate >= 2 at the start points and the minima, and starts outside."""
        refuse_outside("EulerMaruyama", self.dynamics, x)
        refuse_unstable("EulerMaruyama", self.dt, self.dynamics.stiffness(x))

    def start(self, x: Tensor, generator: torch.Generator) -> State:
        """The positions."""
        return (x,)

    def step(self, state: State, generator: torch.Generator) -> State:
        """One step."""
        (x,) = state
        motion, normal = self.dynamics, standard_normal(x, generator)
        numbers = motion.numbers if isinstance(motion, Langevin) else None
        if isinstance(motion, Langevin) and numbers is not None:
            # The same step with its factors in the sums, in the memory of the normals: a fifth
            # less time in a double well.
            mobility, root = numbers
            new = torch.add(x, normal, alpha=root * self.dt**0.5, out=normal)
            new.add_(motion.potential.gradient(x), alpha=-mobility * self.dt)
        else:
            new = torch.add(x, motion.drift(x), alpha=self.dt)
            new.add_(motion.noise(x, normal), alpha=self.dt**0.5)
        return (leavers_lost(motion, with_jump(new, self.jump, self.dt, generator)),)


@dataclass(frozen=True)
class LeimkuhlerMatthews:
    r"""x' = x - M grad U dt + sqrt(2 T M dt) (z + z_next) / 2: for stationary averages only.

    Each normal is used in two neighbouring steps. That makes stationary averages second order in
    dt, and exact on a quadratic potential, at the price of one gradient as in Euler's scheme.
    **Nothing else may be read off the paths**: neighbouring increments are correlated, so that the
    variance of one increment is half of 2 D dt, a spread from a point lacks D dt, and passage times
    are wrong. It needs a constant D, hence a `Langevin`.

    Args:
        dynamics: Motion with a constant mobility.
        dt: Time of a step.

    Raises:
        ValueError: If `dt` is not positive or the dynamics are not `Langevin`.

    References:
        Leimkuhler & Matthews, Appl. Math. Res. Express 2013, 34.

    Examples:
        >>> from foreshock.simulators.potentials import Quadratic
        >>> LeimkuhlerMatthews(Langevin(Quadratic(1.0), 1.0), dt=0.1).dt
        0.1
    """

    dynamics: Langevin
    dt: float

    def __post_init__(self) -> None:
        positive("LeimkuhlerMatthews", dt=self.dt)
        if not isinstance(self.dynamics, Langevin):
            raise ValueError(
                "`LeimkuhlerMatthews` needs a constant diffusion: its averaged noise is wrong "
                f"where D changes. Got {type(self.dynamics).__name__}. Use `EulerMaruyama`."
            )

    def check(self, x: Tensor) -> None:
        """Refuse dt * rate >= 2 at the start points and the minima."""
        refuse_unstable("LeimkuhlerMatthews", self.dt, self.dynamics.stiffness(x))

    def start(self, x: Tensor, generator: torch.Generator) -> State:
        """The positions, and the first normals."""
        return x, standard_normal(x, generator)

    def step(self, state: State, generator: torch.Generator) -> State:
        """One step."""
        x, old = state
        fresh = standard_normal(x, generator)
        new = torch.add(x, self.dynamics.drift(x), alpha=self.dt)
        return new.add_(self.dynamics.noise(x, old + fresh), alpha=self.dt**0.5 / 2), fresh


@dataclass(frozen=True, eq=False)
class SamplePath:
    """What `integrate` recorded.

    Args:
        times: (r,) float64, starting at 0.
        values: (r, n, ...) Positions, or what `observe` made of them.
        state: The last state, to go on from.
        lost: Particles whose last position is not finite; `integrate` warns of them.
    """

    times: Tensor
    values: Tensor
    state: State
    lost: int


def integrate(
    stepper: Stepper,
    x: Tensor | State,
    steps: int,
    *,
    generator: torch.Generator,
    every: int = 1,
    observe: Callable[[Tensor], Tensor] | None = None,
    progress: Progress | None = None,
    chunk: int | None = None,
) -> SamplePath:
    r"""Take `steps` steps from `x` and record every `every`-th state, the start included.

    Particles do not feel each other, so they run in chunks that stay in the cache; the numbers
    drawn depend on the chunk, their law does not.

    Args:
        stepper: The scheme, such as `EulerMaruyama`.
        x: (n, d) Where the particles start; not touched. Its dtype and device are used throughout.
            Or the `state` of an earlier path of this stepper, to go on with its velocities.
        steps: How many steps, at least 1.
        generator: Source of all noise, on the device of x.
        every: Steps between records; `steps` records start and end.
        observe: What to record, (m, d) -> (m, ...) particle by particle; positions by default.
        progress: Called about 100 times as `progress(done, total)`.
        chunk: Particles that run together; by default 32,768 coordinates.

    Returns:
        Times, records, last state, and how many particles ran away to nan or infinity: if any, a
        `RuntimeWarning` says so. So does one where Euler's step is stable and too long
        (dt * rate > 1), and where it overshoots at the end, which is seen without a known rate.

    Raises:
        ValueError: If x is not a finite (n, d) tensor of floats with the d of the potential, nor a
            state of the stepper, if the stepper refuses it, a count is not positive, or the record
            would exceed 4 GiB.

    Examples:
        >>> from foreshock.simulators.potentials import Quadratic
        >>> stepper = EulerMaruyama(Langevin(Quadratic(1.0), temperature=1.0), dt=0.5)
        >>> generator = torch.Generator().manual_seed(0)
        >>> path = integrate(stepper, torch.zeros(10, 1), 4, generator=generator, every=2)
        >>> path.times.tolist(), tuple(path.values.shape)
        ([0.0, 1.0, 2.0], (3, 10, 1))
    """
    state_given = None if isinstance(x, Tensor) else x
    x = x if isinstance(x, Tensor) else x[0]
    movable("integrate", "x", x, stepper)
    counts("integrate", steps=steps, every=every, **({} if chunk is None else {"chunk": chunk}))
    stepper.check(x)
    if isinstance(stepper, EulerMaruyama):
        # Where particles settle, not where they start: the law is that of the wells.
        minima = getattr(getattr(stepper.dynamics, "potential", None), "minima", ())
        rate = stepper.dynamics.stiffness(x.new_tensor(minima)) if minima else 0.0
        if sentence := coarse(
            "EulerMaruyama", stepper.dt, rate, "`LeimkuhlerMatthews` for averages"
        ):
            warnings.warn(sentence, RuntimeWarning, stacklevel=2)
    if state_given is not None:
        parts = len(stepper.start(x[:1], torch.Generator(generator.device)))
        if len(state_given) != parts:
            raise ValueError(
                f"A state of `{type(stepper).__name__}` has {parts} parts. Got {len(state_given)}: "
                "another stepper made it. Give its positions `state[0]` to start anew."
            )
    show = observe or (lambda at: at)
    n, records = len(x), steps // every + 1
    sample = show(x[:1])
    size = records * n * sample[0].numel() * sample.element_size()
    if size > _LARGEST:
        raise ValueError(
            f"The record of `integrate` would take {size / 2**30:.1f} GiB. Use a larger `every`, "
            "or `observe` to keep less than whole positions."
        )
    values = sample.new_empty((records, n, *sample.shape[1:]))
    together = chunk or max(1, _CHUNK // x.shape[1])
    starts = range(0, n, together)
    total = steps * len(starts)
    pause = max(1, total // 100)
    states: list[State] = []
    with torch.no_grad():
        for index, first in enumerate(starts):
            here = slice(first, first + together)
            if state_given is None:
                state = stepper.start(x[here], generator)
            else:
                state = tuple(part[here] for part in state_given)
            values[0, here] = show(x[here])
            for done in range(1, steps + 1):
                state = stepper.step(state, generator)
                if done % every == 0:
                    values[done // every, here] = show(state[0])
                if progress is not None and (index * steps + done) % pause == 0:
                    progress(index * steps + done, total)
            states.append(state)
    final = tuple(torch.cat(parts) for parts in zip(*states, strict=True))
    times = torch.arange(records, dtype=torch.float64) * (every * stepper.dt)
    lost = int((~torch.isfinite(final[0]).all(-1)).sum())
    if lost:
        warnings.warn(
            f"`integrate` lost {lost} of {n} particles to nan or infinity: they left the chart, or "
            "the step was too long where they went, and the others may be wrong too. Use a "
            "smaller `dt` or `TamedEuler`.",
            RuntimeWarning,
            stacklevel=2,
        )
    elif isinstance(stepper, (EulerMaruyama, LeimkuhlerMatthews)):
        share = _overshooting(stepper.dynamics, stepper.dt, final[0])
        if share > _ASTRAY:
            warnings.warn(
                f"At the end of `integrate` the drift of {share:.0%} of the particles turns round "
                "and grows over one step: either the `dt` is unstable there, and they swing "
                "between sides that the process does not visit, or the drift jumps. Use a smaller "
                f"`dt` than {stepper.dt:g}, or `TamedEuler`.",
                RuntimeWarning,
                stacklevel=2,
            )
    return SamplePath(times, values, final, lost)


def _overshooting(dynamics: Dynamics, dt: float, x: Tensor) -> float:
    """Share of the particles whose drift turns round and grows over a step without noise."""
    # In a mode of relaxation rate k the drift is multiplied by 1 - k dt, below -1 where Euler's
    # scheme is unstable; once it has grown, the fastest mode is all of the drift. True growth keeps
    # its sign and is not taken for it. No curvature is needed, so an `ItoProcess` is seen too.
    few = x[:: max(1, len(x) // _LOOKED)]
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        before = dynamics.drift(few)
        if not torch.equal(before, dynamics.drift(few)):
            return 0.0  # a drift with noise of its own: nothing can be told from two values
        after = dynamics.drift(torch.add(few, before, alpha=dt))
    # In units of the largest entry: squares of 1e30 are infinite in float32.
    size = before.abs().amax(1, keepdim=True)
    before, after = before / size, after / size
    # A constant pull towards a point reverses at equal size; a thousandth is above its rounding.
    return float(((before * after).sum(1) < -1.001 * before.square().sum(1)).double().mean())
