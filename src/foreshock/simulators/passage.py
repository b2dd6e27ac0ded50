r"""First passage: when a particle first crosses a boundary, and how many have not yet.

A path that is looked at only every dt misses crossings in between: mean passage times come out too
long by a share of order sqrt(dt). Between two points on the inner side, at distances a and b from
the boundary, a Brownian path has crossed with probability exp(-a b / (D dt)), D along the normal;
drawing that event (the Brownian-bridge test) leaves an error of order dt. Jumps do not follow a
bridge; the test then covers only their Brownian companion.

The times are those of a finite run, so some are censored. `exponential_rate` in
`foreshock.simulators.passage_estimates` uses them all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreshock.simulators.curvature import LOOKS
from foreshock.simulators.door import finite, movable
from foreshock.simulators.dynamics import Dynamics, Langevin
from foreshock.simulators.sde import (
    EulerMaruyama,
    LeimkuhlerMatthews,
    Progress,
    Stepper,
)
from foreshock.simulators.steppers import CubicSplitting, TamedEuler

Array = NDArray[np.float64]

#: What a particle has crossed, if not a boundary.
_INSIDE, _LOST = -1, -2
#: Steps between removals of the particles that are through; a removal costs about a step.
_SWEEP = 32
#: Crossings that are checked at once: all of them are looked at by `largest_curvature`.
_TOGETHER = LOOKS
#: Crossings less likely than e^-30 are not drawn.
_NEVER = 30.0


@dataclass(frozen=True)
class Boundary:
    r"""Absorbs where `level(x)` >= 0; particles start where it is negative.

    Args:
        level: (n, d) -> (n,), differentiable, in any unit.
        gradient: (n, d) -> (n, d) of it; by automatic differentiation if it is not given.
        flat: Whether the gradient is the same everywhere, which saves time.

    Examples:
        >>> circle = Boundary(lambda x: x.norm(dim=1) - 1)
        >>> circle.slope(torch.tensor([[0.5, 0.0]])).tolist()
        [[1.0, 0.0]]
    """

    level: Callable[[Tensor], Tensor]
    gradient: Callable[[Tensor], Tensor] | None = None
    flat: bool = False

    def slope(self, x: Tensor) -> Tensor:
        """(n, d) Gradient of the level."""
        if self.gradient is not None:
            return self.gradient(x)
        with torch.enable_grad():
            at = x.detach().requires_grad_(True)
            return torch.autograd.grad(self.level(at).sum(), at)[0]


def coordinate_boundary(at: float, coordinate: int = 0, *, above: bool = True) -> Boundary:
    """Absorbs where a coordinate reaches `at`.

    Args:
        at: Place of the boundary.
        coordinate: Which coordinate.
        above: Whether the absorbing side is the upper one.

    Returns:
        The boundary.

    Examples:
        >>> coordinate_boundary(2.0).level(torch.tensor([[1.5], [2.5]])).tolist()
        [-0.5, 0.5]
    """
    finite("coordinate_boundary", at=at)
    sign = 1.0 if above else -1.0

    def gradient(x: Tensor) -> Tensor:
        slope = torch.zeros_like(x)
        slope[:, coordinate] = sign
        return slope

    return Boundary(lambda x: (x[:, coordinate] - at) * sign, gradient, flat=True)


@dataclass(frozen=True, eq=False)
class PassageTimes:
    """First-passage times of n particles; those still inside at `horizon` are censored.

    Args:
        times: (n,) Middle of the step of the crossing, or `horizon`.
        side: (n,) Index of the boundary that was crossed, -1 for a censored particle.
        horizon: When the run ended.
        lost: Particles that are not among the n, because their paths are wrong. Rates, means and
            survival are refused if there are any: the lost ones are not a random choice.
    """

    times: Array
    side: NDArray[np.int64]
    horizon: float
    lost: int = 0

    @property
    def events(self) -> int:
        """How many crossed."""
        return int((self.side >= 0).sum())

    @property
    def exposure(self) -> float:
        """Time spent inside, over all particles."""
        return float(self.times.sum())

    @property
    def refusal(self) -> str:
        """Why nothing can be estimated: a sentence if particles are lost, else nothing."""
        if not self.lost:
            return ""
        return (
            f"{self.lost} of {self.lost + len(self.times)} particles ran away numerically: the "
            "step is too long where they went. Use a smaller `dt` or `TamedEuler`."
        )


def first_passage(
    stepper: Stepper,
    x: Tensor,
    boundaries: Boundary | Sequence[Boundary],
    *,
    steps: int,
    generator: torch.Generator,
    bridge: bool = True,
    progress: Progress | None = None,
) -> PassageTimes:
    r"""Run particles until they cross a boundary, `steps` steps at most.

    With the bridge test the error of a mean time is of order dt (from the step and from the frozen
    D and flat boundary of the test); without, of order sqrt(dt) and positive. Where two boundaries
    are crossed in one step, the first listed is taken.

    A particle is lost, neither an escape nor a survivor, if its position stops being finite, or if
    it crossed from a place where `stepper.check` refuses the step: there the scheme throws it
    further at every step, across any boundary. Dynamics that do not know their stiffness, such as
    `ItoProcess`, are not checked for the latter.

    Args:
        stepper: An Euler scheme for the bridge test, any other without; `LeimkuhlerMatthews` is
            for stationary averages and is refused.
        x: (n, d) Where the particles start, inside every boundary.
        boundaries: One or several.
        steps: Most steps; particles still inside then are censored.
        generator: Source of all noise.
        bridge: Whether crossings between two points are drawn.
        progress: Called about 100 times at most as `progress(step, steps)`.

    Returns:
        The times.

    Raises:
        ValueError: If x is not (n, d) with the d of the potential or not inside, `steps` < 1, the
            bridge test does not fit the stepper, or no passage can be read off its path.

    References:
        Gobet, Stoch. Process. Appl. 87 (2000) 167 (orders 1/2 and 1).

    Examples:
        From 0 to 1 in a free motion with D = 1 and a wall so far off that the time has no mean:
        half of the particles cross before t = 1.099.

        >>> from foreshock.simulators.dynamics import ItoProcess
        >>> free = EulerMaruyama(ItoProcess(diffusion=torch.ones_like), dt=0.1)
        >>> found = first_passage(free, torch.zeros(4000, 1), coordinate_boundary(1.0), steps=11,
        ...                       generator=torch.Generator().manual_seed(0))
        >>> bool(abs(found.events / 4000 - 0.5) < 4 * (0.25 / 4000) ** 0.5)
        True
    """
    movable("first_passage", "x", x, stepper)
    if isinstance(stepper, LeimkuhlerMatthews):
        # One increment has half the variance of the motion's, so a boundary is reached too late.
        raise ValueError(
            "`first_passage` cannot use `LeimkuhlerMatthews`: its increments are correlated, so "
            "that only stationary averages may be read off its path, and passages come too late. "
            "Use `EulerMaruyama` with the bridge test."
        )
    walls = (boundaries,) if isinstance(boundaries, Boundary) else tuple(boundaries)
    if steps < 1 or not walls:
        raise ValueError(
            f"`first_passage` needs `steps` >= 1 and a boundary. Got {steps} and {len(walls)}."
        )
    if any(bool((wall.level(x) >= 0).any()) for wall in walls):
        raise ValueError(
            "A particle of `first_passage` starts on the absorbing side. Turn the boundary round "
            "(`above=False`), or start where its `level` is negative."
        )
    dynamics = _bridged(stepper) if bridge else None
    stepper.check(x)
    dt = stepper.dt
    inside = torch.arange(len(x), device=x.device)
    side = torch.full((len(x),), _INSIDE, dtype=torch.int64, device=x.device)
    when = torch.full((len(x),), steps, dtype=torch.float64, device=x.device)
    pause = max(1, steps // 100)
    with torch.no_grad():
        state = stepper.start(x, generator)
        crossed = torch.full_like(inside, _INSIDE)
        recent: list[tuple[Tensor, Tensor]] = []  # who crossed since the last sweep, and from where
        step_of = torch.zeros_like(inside)
        before = [wall.level(state[0]) for wall in walls]
        for step in range(1, steps + 1):
            old = state[0]
            state = stepper.step(state, generator)
            after = [wall.level(state[0]) for wall in walls]
            for index, wall in enumerate(walls):
                hits = _crossings(wall, dynamics, old, before[index], after[index], dt, generator)
                if len(hits):
                    fresh = hits[crossed[hits] == _INSIDE]
                    crossed[fresh], step_of[fresh] = index, step
                    crossed[fresh[~torch.isfinite(state[0][fresh]).all(1)]] = _LOST
                    recent.append((fresh, old[fresh]))
            before = after
            if step % _SWEEP == 0 or step == steps:
                astray = ~torch.isfinite(state[0]).all(1)
                for level in before:
                    astray |= level.isnan()
                crossed[astray & (crossed == _INSIDE)] = _LOST
                if recent:
                    who, place = (torch.cat(parts) for parts in zip(*recent, strict=True))
                    crossed[who[_unstable(stepper, place)]] = _LOST
                    recent = []
                through = crossed != _INSIDE
                side[inside[through]] = crossed[through]
                when[inside[through]] = step_of[through].double() - 0.5
                kept = ~through
                inside, crossed, step_of = inside[kept], crossed[kept], step_of[kept]
                if len(inside) == 0:
                    break
                state = tuple(part[kept] for part in state)
                before = [level[kept] for level in before]
            if progress is not None and step % pause == 0:
                progress(step, steps)
    kept = side != _LOST
    times, sides = (when[kept] * dt).cpu().numpy(), side[kept].cpu().numpy()
    return PassageTimes(times, sides, steps * dt, int((~kept).sum()))


def _unstable(stepper: Stepper, x: Tensor) -> Tensor:
    """Which of the places (m, d) the stepper refuses to start from."""

    def refused(points: Tensor) -> bool:
        try:
            stepper.check(points)
        except ValueError:
            return True
        return False

    bad = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for first in range(0, len(x), _TOGETHER):
        here = x[first : first + _TOGETHER]
        if refused(here):
            bad[first : first + _TOGETHER] = torch.tensor([refused(p[None]) for p in here])
    return bad


def _bridged(stepper: Stepper) -> Dynamics:
    """The dynamics of a stepper between whose points the path is nearly a Brownian bridge."""
    if isinstance(stepper, (EulerMaruyama, TamedEuler, CubicSplitting)):
        return stepper.dynamics
    raise ValueError(
        f"The bridge test of `first_passage` does not fit `{type(stepper).__name__}`: its noise "
        "between two points is not that of a Brownian bridge. Use `EulerMaruyama`, or "
        "`bridge=False` for a path with inertia."
    )


def _crossings(
    wall: Boundary,
    dynamics: Dynamics | None,
    x: Tensor,
    before: Tensor,
    after: Tensor,
    dt: float,
    generator: torch.Generator,
) -> Tensor:
    """Indices of paths that crossed: seen outside, or with probability exp(-2 a b / (s^2 dt))."""
    if dynamics is None:
        return (after >= 0).nonzero()[:, 0]
    numbers = dynamics.numbers if isinstance(dynamics, Langevin) else None
    if wall.flat and numbers is not None:
        spread = dt * numbers[1] ** 2 * float((wall.slope(x[:1]) ** 2).sum())
    else:
        spread = dt * _variance_along(dynamics, x, wall.slope(x))
    # Only those that can have crossed are drawn for: the others do with probability e^-30.
    product = before * after
    near = (product < (_NEVER / 2) * spread).nonzero()[:, 0]
    # -log of a uniform is an exponential: one draw, no power.
    draw = torch.empty_like(product[near]).exponential_(generator=generator)
    chance = draw * (spread[near] if isinstance(spread, Tensor) else spread)
    return near[(after[near] >= 0) | (2 * product[near] < chance)]


def _variance_along(dynamics: Dynamics, x: Tensor, slope: Tensor) -> Tensor:
    """Variance slope' 2D slope, from the noise of each of the d unit vectors."""
    total = torch.zeros_like(x[:, 0])
    for i in range(x.shape[1]):
        unit = torch.zeros_like(x)
        unit[:, i] = 1
        total += (dynamics.noise(x, unit) * slope).sum(1) ** 2
    return total
