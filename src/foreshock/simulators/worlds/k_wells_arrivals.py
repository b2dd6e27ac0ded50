"""Who arrives in the deepest of many wells: resets of the cloud, cooling, and searches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from foreshock.simulators.door import Array
from foreshock.simulators.dynamics import Langevin
from foreshock.simulators.exact_published import published_reset_count
from foreshock.simulators.particles import Engine, State, step
from foreshock.simulators.passage import coordinate_boundary, first_passage
from foreshock.simulators.resets import CloudReset, PointReset, jumped
from foreshock.simulators.schedules import Constant, Exponential, Logarithmic, Schedule, Schedules
from foreshock.simulators.sde import EulerMaruyama, Stepper
from foreshock.simulators.worlds.recorded import Progress, measured, measured_curve
from foreshock.simulators.worlds.row_of_wells import Moments, passage_exact, passage_of_chain
from foreshock.stats.intervals import jackknife_se, t_quantile
from foreshock.stats.sample import mean_interval
from foreshock.store import Comparison, Curve, Figure, Run, record
from foreshock.types import Estimate

if TYPE_CHECKING:
    from foreshock.simulators.worlds.k_wells import KWellsWorld

#: Share and stretch of a reset of the cloud, as the document "fokker_planck" sets them.
_FRACTION, _STRETCH = 0.2, 1.5
#: Resets of the cloud while it relaxes.
_EVENTS = 8
#: Both coolings start at this many barriers; the freezing one has this share of the time as tau.
_HOT, _FREEZING = 2.5, 0.1
#: Reset rates from the neighbour and from the far end, in units of 1/(mean time without resets).
_RATES = ((1.0, 4.0), (0.5, 1.5))


# ------------------------------------------------------------------ resets of the cloud


def _engine_shares(
    world: KWellsWorld,
    engine: Engine,
    at: Sequence[int],
    generator: torch.Generator,
    move: Progress,
) -> list[Estimate]:
    """Share in the deepest well at some steps of the engine."""
    state, found = State(world.start()), []
    wanted = set(at)
    for now in range(1, at[-1] + 1):
        state = step(engine, state, generator)
        if now in wanted:
            found.append(measured(world.potential.weights(state.z)[:, -1]))
            move(now, at[-1])
    return found


def cloud_resets(world: KWellsWorld, run: Run, generator: torch.Generator, move: Progress) -> None:
    """The published reset of the cloud, at planned times, beside no reset.

    Args:
        world: The numbers.
        run: Where to record.
        generator: Of all noise.
        move: Progress.
    """
    at, row = world.measured_at, world.row
    gap = at[-1] // (_EVENTS + 1)
    events = [gap * k for k in range(1, _EVENTS + 1)]
    reset = CloudReset(_FRACTION, _STRETCH, times=tuple(world.dt * k for k in events))
    fixed = Schedules("fixed", Constant(1.0), Constant(world.temperature), Constant(0.0))
    engine = Engine(world.potential, fixed, world.dt, resets=reset)
    seen = _engine_shares(world, engine, at, generator, move)
    heat = Constant(world.temperature)
    grid, chain = row.follow(heat, world.dt, at, events=events, reset=(_FRACTION, _STRETCH))
    plain, _ = row.follow(heat, world.dt, at)
    times = [world.dt * k for k in at]
    curves = [
        Curve("with resets, exact", times, grid.shares[:, -1].tolist(), look="dashed"),
        measured_curve("with resets, 95 %", times, seen),
        Curve("no resets, exact", times, plain.shares[:, -1].tolist()),
    ]
    caption = (
        f"At {_EVENTS} times {_FRACTION:.0%} of the particles are redrawn from a Gaussian with the "
        f"mean and {_STRETCH:g} times the covariance of the cloud, as published. That moves "
        "particles over barriers, and out of the deepest well as well."
    )
    record(
        run,
        Figure(
            "cloud_resets",
            "The deepest well, with and without resets of the cloud",
            "time",
            "share",
            curves,
            log_x=True,
            caption=caption,
        ),
        Comparison(
            f"Share in the deepest well after {_EVENTS} resets of the cloud",
            seen[-1],
            float(grid.shares[-1, -1]),
            abs(float(chain.shares[-1, -1] - grid.shares[-1, -1])),
            "grid solution",
        ),
    )


# ------------------------------------------------------------------ cooling


def cooling(
    world: KWellsWorld, run: Run, generator: torch.Generator, moves: Sequence[Progress]
) -> None:
    """Published exponential cooling freezes; with c/log(e + t) the cloud goes on to the bottom.

    Args:
        world: The numbers.
        run: Where to record.
        generator: Of all noise.
        moves: Progress of the slow and the fast one.
    """
    row, at = world.row, world.measured_at
    times = [world.dt * k for k in at]
    # Hajek: c at least the depth of the deepest well that is not the global one.
    hot = _HOT * row.barrier
    slow: Schedule = Logarithmic(hot)
    fast: Schedule = Exponential(hot, _FREEZING * world.time)
    curves: list[Curve] = []
    solved: list[Curve] = []
    for schedule, label, move in ((slow, "c/log(e + t)", moves[0]), (fast, "published", moves[1])):
        schedules = Schedules(label, Constant(1.0), schedule, Constant(0.0))
        engine = Engine(world.potential, schedules, world.dt)
        seen = _engine_shares(world, engine, at, generator, move)
        grid, chain = row.follow(schedule, world.dt, at)
        exact = float(grid.shares[-1, -1])
        bias = abs(float(chain.shares[-1, -1]) - exact)
        name = "logarithmic cooling" if schedule is slow else "cooling as exp(−t/τ)"
        record(
            run,
            Comparison(
                f"Share in the deepest well after {name}", seen[-1], exact, bias, "grid solution"
            ),
        )
        if schedule is fast:
            record(
                run,
                Comparison(
                    "The same as published: all of it reaches the global minimum",
                    Estimate.exact(1.0),
                    exact,
                    source="grid solution",
                    published=True,
                ),
            )
        curves.append(measured_curve(f"{name}, 95 %", times, seen))
        solved.append(Curve(f"{name}, exact", times, grid.shares[:, -1].tolist(), look="dashed"))
    end = [schedule(world.time) for schedule in (slow, fast)]
    caption = (
        f"Both start at T = c = {hot:.3g}, {_HOT:g} times the barriers. The published schedule "
        f"(τ = {_FREEZING * world.time:g}) has a finite integral: it freezes with "
        f"{1 - curves[1].y[-1]:.0%} of the particles outside the deepest well, and no longer run "
        f"changes that. T at the end: {end[0]:.2g} and {end[1]:.1g}."
    )
    # Four curves before the solutions, which then share the colours of what they solve.
    plain, _ = row.follow(Constant(world.temperature), world.dt, at)
    beside = [
        Curve("all of it, as claimed", [times[0], times[-1]], [1.0, 1.0]),
        Curve("not cooled, exact", times, plain.shares[:, -1].tolist(), look="dashed"),
    ]
    record(
        run,
        Figure(
            "cooling",
            "The deepest well while cooling",
            "time",
            "share",
            (*curves, *beside, *solved),
            log_x=True,
            caption=caption,
        ),
    )


# ------------------------------------------------------------------ searches


@dataclass(frozen=True, eq=False)
class Returning:
    """A stepper whose particles each return to a point at the events of a clock of their own.

    Args:
        stepper: What moves them.
        reset: Where to, and how often.
    """

    stepper: Stepper
    reset: PointReset

    @property
    def dt(self) -> float:
        """Time of a step."""
        return self.stepper.dt

    def check(self, x: Tensor) -> None:
        """As the stepper."""
        self.stepper.check(x)

    def start(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """As the stepper."""
        return self.stepper.start(x, generator)

    def step(self, state: tuple[Tensor, ...], generator: torch.Generator) -> tuple[Tensor, ...]:
        """A step, then the clocks."""
        (x, *rest) = self.stepper.step(state, generator)
        return jumped(self.reset, x, self.dt, generator)[0], *rest


def searches(
    world: KWellsWorld, run: Run, generator: torch.Generator, moves: Sequence[Progress]
) -> None:
    """Time to the deepest well from its neighbour and from the far end, over the reset rate.

    Args:
        world: The numbers.
        run: Where to record.
        generator: Of all noise.
        moves: Progress from either start.
    """
    row, count = world.row, max(200, world.particles // 2)
    stepper = EulerMaruyama(Langevin(world.potential, world.temperature), world.dt)
    target = coordinate_boundary(row.centres[-1])
    curves: list[Curve] = []
    solved: list[Curve] = []
    arrived = 0
    starts = (world.wells - 2, 0)
    for well, factors, move in zip(starts, _RATES, moves, strict=True):
        place = row.centres[well]
        free = passage_exact(row, place, 0.0)
        rates = [0.0, *(factor / free.mean for factor in factors)]
        means = []
        for index, rate in enumerate(rates):
            reset = PointReset(world.start(well, 1)[0], rate) if rate else None
            found = first_passage(
                stepper if reset is None else Returning(stepper, reset),
                world.start(well, count),
                target,
                steps=round(60 * row.slowest / world.dt),
                generator=generator,
                bridge=False,
            )
            move(round((index + 1) * 2 * world.time / world.dt / len(rates)), 0)
            means.append(mean_interval(found.times))
            exact = passage_exact(row, place, rate)
            chain = passage_of_chain(row, place, rate, world.dt)
            words = "no resets" if not rate else f"resets at rate {rate:.2g}"
            name = f"Time from well {well + 1} to the deepest, {words}"
            bias = abs(chain.mean - exact.mean)
            record(run, Comparison(name, means[-1], exact.mean, bias, "grid solution"))
            if not rate:
                arrived += int(found.events)
                _spread(run, well, found.times, exact, chain)
        fine = np.geomspace(0.1, 8, 25) / free.mean
        line = [passage_exact(row, place, float(r)).mean / free.mean for r in fine]
        label = f"from well {well + 1}"
        scaled = [mean.times(1 / free.mean) for mean in means]
        shown = [0.1 if not r else r * free.mean for r in rates]
        curves.append(measured_curve(f"{label}, 95 %", shown, scaled))
        solved.append(Curve(f"{label}, exact", (fine * free.mean).tolist(), line, look="dashed"))
    record(
        run,
        Figure(
            "resets",
            "Does returning to the start help the search?",
            "reset rate × mean time without resets",
            "mean time / mean time without resets",
            (*curves, *solved),
            log_x=True,
            log_y=True,
            caption=(
                "Each particle returns to its start at random times (the points at the left edge: "
                "no resets). From the neighbouring well the passage time varies more than an "
                "exponential one (coefficient of variation above 1), because a particle may "
                "wander off the wrong way: there returns help. From the far end it varies less, "
                "and returns only undo the way made. Pal and Reuveni's criterion says which."
            ),
        ),
        Comparison(
            "Resets needed to reach the deepest well, as published: log K / log(1 + α)",
            Estimate.exact(published_reset_count(world.wells, _FRACTION)),
            0.0,
            source=f"{arrived:,} of {2 * count:,} particles arrived with none",
            published=True,
        ),
    )


def _variation(times: Array) -> float:
    return float(times.std(ddof=1) / times.mean())


def _spread(run: Run, well: int, times: Array, exact: Moments, chain: Moments) -> None:
    """Coefficient of variation of passage times, by the jackknife over 20 groups."""
    fold = np.arange(times.size) % 20
    parts = [_variation(times[fold != g]) for g in range(20)]
    value, half = _variation(times), t_quantile(19) * float(jackknife_se(parts))
    record(
        run,
        Comparison(
            f"Coefficient of variation of the time from well {well + 1}",
            Estimate(value, value - half, value + half, n=times.size),
            exact.variation,
            abs(chain.variation - exact.variation),
            "grid solution; resets help above 1",
        ),
    )
