"""Particles that hop along a row of wells, and how long a hop takes against Kramers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from foreshock.simulators.barrier import escape_time, string_method
from foreshock.simulators.dynamics import Langevin
from foreshock.simulators.exact_kramers import mean_first_passage_time
from foreshock.simulators.landscapes import KWells
from foreshock.simulators.passage import coordinate_boundary, first_passage
from foreshock.simulators.passage_estimates import mean_passage_time
from foreshock.simulators.sde import EulerMaruyama, integrate
from foreshock.simulators.worlds.euler_chain import (
    chain_passage_time,
    euler_kernel,
    euler_nodes,
)
from foreshock.simulators.worlds.recorded import Progress, kramers_figure
from foreshock.stats.published_langevin import escape_time_langevin
from foreshock.store import Comparison, Curve, Figure, Run, record
from foreshock.types import Estimate

if TYPE_CHECKING:
    from foreshock.simulators.worlds.k_wells import KWellsWorld

#: Barriers, in units of the temperature, of the figure of escape times.
_BARRIERS = (2.0, 3.0, 4.0, 5.0)
#: Points of a path that is drawn.
_POINTS = 600
#: Relaxation times 1/U'' = 1 of a well after which it has forgotten the start.
_SETTLED = 4.0


def trajectories(world: KWellsWorld, run: Run, generator: torch.Generator) -> None:
    """Three particles over time: two from the first well, one from the deepest.

    Args:
        world: The numbers.
        run: Where to record.
        generator: Of all noise.
    """
    stepper = EulerMaruyama(Langevin(world.potential, world.temperature), world.dt)
    start = torch.cat([world.start(0, 2), world.start(world.wells - 1, 1)])
    every = max(1, round(world.time / world.dt / _POINTS))
    steps = max(1, round(world.time / world.dt / every)) * every
    path = integrate(stepper, start, steps, generator=generator, every=every)
    names = ("one from well 1", "another", "one from the deepest well")
    times = path.times.tolist()
    lines = [Curve(name, times, path.values[:, i, 0].tolist()) for i, name in enumerate(names)]
    places = ", ".join(f"{c:.3g}" for c in world.row.centres)
    caption = (
        f"Along the row, with wells at {places}: nearly all of the time is spent in one of them. "
        f"From the first to the deepest it takes {world.row.slowest:.0f} on average."
    )
    title = "Particles one by one"
    record(run, Figure("trajectories", title, "time", "first coordinate", lines, caption=caption))


def escape(world: KWellsWorld, run: Run, generator: torch.Generator, move: Progress) -> None:
    """Mean time from the first well to the second at several temperatures, and the formulas.

    The landscape stays that of the world's own temperature; only the noise changes.

    Args:
        world: The numbers.
        run: Where to record.
        generator: Of all noise.
        move: Progress.
    """
    row, count = world.row, max(200, world.particles // 2)
    start, target = row.centres[:2]
    line = KWells(
        torch.tensor(row.centres, dtype=torch.float64)[:, None],
        torch.tensor(row.depths, dtype=torch.float64),
        smoothing=row.smoothing,
    )
    ends = (torch.tensor([place], dtype=torch.float64) for place in (start, target))
    barrier = string_method(line, *ends)
    height = barrier.height.value

    def exact(temperature: float) -> float:
        return mean_first_passage_time(row.energy, temperature, start, target)

    seen: list[Estimate] = []
    for index, ratio in enumerate(_BARRIERS):
        heat = height / ratio
        found = first_passage(
            EulerMaruyama(Langevin(world.potential, heat), world.dt),
            world.start(0, count),
            coordinate_boundary(target),
            # Three of four arrive; the rest is censored.
            steps=round(1.5 * exact(heat) / world.dt),
            generator=generator,
        )
        mean = mean_passage_time(found, exponential_after=_SETTLED)
        bias = abs(_chain(world, heat) - exact(heat))
        label = f"Mean time from well 1 to well 2, barrier/T = {ratio:g}"
        record(run, Comparison(label, mean, exact(heat), bias, "quadrature"))
        seen.append(mean)
        move(round((index + 1) / len(_BARRIERS) * world.time / world.dt), 0)
    fine = np.linspace(_BARRIERS[0], _BARRIERS[-1], 31).tolist()
    truth = [exact(height / r) for r in fine]
    # Of the value alone: below three T it is flagged, and that is what the figure shows.
    kramers = [escape_time(line, barrier, height / r).value for r in fine]
    last = height / _BARRIERS[-1]
    caption = (
        f"{count:,} particles, from bottom to bottom. The pass between two bowls is sharper than a "
        f"parabola, and the formula sees its top only: at 5 T it is {kramers[-1] / truth[-1]:.2f} "
        "of the exact time. The published time has no prefactor, and so no unit of time."
    )
    record(
        run,
        kramers_figure(
            "Time from the first well to the second",
            _BARRIERS,
            seen,
            fine,
            truth,
            kramers,
            caption=caption,
        ),
        Comparison(
            "Eyring-Kramers time there, barrier/T = 5",
            Estimate.plain(kramers[-1]),
            exact(last),
            source="quadrature; the formula is asymptotic",
        ),
        Comparison(
            "The same as published, exp(ΔU/T)",
            Estimate.exact(escape_time_langevin(height, last)),
            exact(last),
            source="quadrature",
            published=True,
        ),
    )


def _chain(world: KWellsWorld, heat: float) -> float:
    """The mean time of Euler's chain with the crossing test, as `first_passage` runs it."""
    row = world.row
    start, target = row.centres[:2]
    reach = np.sqrt(60 * heat)  # there the outer bowl has risen by 30 T
    nodes = euler_nodes(start - reach, target, heat, world.dt, most=2500)

    def kernel(places: np.ndarray | None = None) -> np.ndarray:
        return euler_kernel(
            nodes, row.drift, lambda x: heat + 0 * x, world.dt, wall=True, start=places
        )

    return chain_passage_time(kernel(), kernel(np.array([start])), world.dt)
