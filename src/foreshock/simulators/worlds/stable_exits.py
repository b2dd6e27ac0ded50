"""Leaving a ball and leaving a bowl: what jumps change in a first passage."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from foreshock.simulators.dynamics import GradientFlow
from foreshock.simulators.exact_levy import getoor_exit_time
from foreshock.simulators.grid import energy_grid
from foreshock.simulators.grid_solvers import spectrum
from foreshock.simulators.levy import StableNoise
from foreshock.simulators.passage import Boundary, first_passage
from foreshock.simulators.passage_estimates import exponential_rate, mean_passage_time
from foreshock.simulators.potentials import Quadratic
from foreshock.simulators.sde import EulerMaruyama
from foreshock.simulators.worlds.recorded import Progress, measured_curve
from foreshock.simulators.worlds.stable_chain import (
    disc_kernel,
    exit_steps,
    interval_kernel,
    late_rate,
)
from foreshock.store import Comparison, Curve, Figure, Run, record
from foreshock.types import Estimate

if TYPE_CHECKING:
    from foreshock.simulators.worlds.levy import LevyWorld

#: Distances from the centre of the ball at which particles start.
STARTS = (0.0, 0.3, 0.5, 0.7, 0.85, 0.95)
#: Scales of the weak noise, in units of the smallest.
SCALES = (1.0, 2.0, 4.0, 8.0)
#: Curvatures of the two bowls: barriers of 1/2 and 1 at the edges -1 and 1.
BOWLS = (1.0, 2.0)


# ------------------------------------------------------------------ exit from a ball


def exits(world: LevyWorld, run: Run, generator: torch.Generator, move: Progress) -> None:
    """Time to leave the unit disc, over the distance of the start.

    Args:
        world: The numbers.
        run: Where to record.
        generator: Of all noise.
        move: Progress.
    """
    alpha, dt = world.alpha, world.dt / 2
    flow = GradientFlow(Quadratic(1e-9, dimension=2))
    stepper = EulerMaruyama(flow, dt, jump=StableNoise(alpha))
    disc = Boundary(lambda x: x.square().sum(1) - 1)
    seen = []
    count = max(200, world.particles // 4)
    horizon = 30 * float(getoor_exit_time(0.0, alpha, dimension=2))
    for index, start in enumerate(STARTS):
        x = torch.zeros(count, 2)
        x[:, 0] = start
        found = first_passage(
            stepper, x, disc, steps=round(horizon / dt), generator=generator, bridge=False
        )
        seen.append(mean_passage_time(found))
        move(100 * (index + 1), 100 * len(STARTS))
    width = dt ** (1 / alpha)
    kernel, first = disc_kernel(alpha, width, np.array(STARTS), math.ceil(5 / width))
    chain = dt * (exit_steps(kernel, first) - 0.5)
    exact = getoor_exit_time(np.array(STARTS), alpha, dimension=2)
    for place in (0, 3):
        record(
            run,
            Comparison(
                f"Time to leave a disc from {STARTS[place]:g} of its radius",
                seen[place],
                float(exact[place]),
                # Exits between two looks are missed: the chain's own time, from its kernel.
                bias=abs(float(chain[place] - exact[place])),
                source="Getoor 1961",
            ),
        )
    fine = np.linspace(0, 1, 101)
    times = getoor_exit_time(fine, alpha, dimension=2)
    dense, rows = disc_kernel(alpha, width, fine[:-1:4], len(kernel))
    steps = dt * (exit_steps(dense, rows) - 0.5)
    curves = (
        Curve("exact, Getoor", fine.tolist(), times.tolist(), look="dashed"),
        measured_curve("particles, 95 %", STARTS, seen),
        Curve(f"exact, seen every {dt:g}", fine[:-1:4].tolist(), steps.tolist()),
    )
    caption = (
        f"Free stable motion, α = {alpha:g}, in the plane. A particle that is looked at only every "
        f"{dt:g} leaves late: it may have been outside in between. That excess is computed for the "
        "same steps, and the table counts it as the method's own error."
    )
    record(
        run,
        Figure(
            "exit", "Time to leave a disc", "distance of the start", "time", curves, caption=caption
        ),
    )


# ------------------------------------------------------------------ escape


def escapes(
    world: LevyWorld,
    run: Run,
    generator: torch.Generator,
    pairs: list[tuple[float, float]],
    moves: list[Progress],
) -> None:
    """Rates of leaving (-1, 1) in two bowls: a power of the noise, whatever the barrier.

    Args:
        world: The numbers.
        run: Where to record.
        generator: Of all noise.
        pairs: Curvature of the bowl and scale of the noise.
        moves: Progress of each pair.
    """
    count = max(200, world.particles // 4)
    seen: dict[float, list[Estimate]] = {stiffness: [] for stiffness in BOWLS}
    for (stiffness, scale), move in zip(pairs, moves, strict=True):
        dt = world.escape_step(stiffness)
        flow = GradientFlow(Quadratic(stiffness))
        stepper = EulerMaruyama(flow, dt, jump=StableNoise(world.alpha, scale))
        found = first_passage(
            stepper,
            torch.zeros(count, 1),
            Boundary(lambda x: x[:, 0].abs() - 1),
            steps=world.escape_steps(stiffness, scale),
            generator=generator,
            bridge=False,
            progress=move,
        )
        rate = exponential_rate(found, after=3 / stiffness)
        seen[stiffness].append(rate)
        if scale == world.noise:
            exact = world.escape_rate(scale)
            width = scale * dt ** (1 / world.alpha)
            kernel, _ = interval_kernel(
                world.alpha, width, 1 - stiffness * dt, math.ceil(4 / width)
            )
            record(
                run,
                Comparison(
                    f"Escape rate at noise {scale:g}, barrier {stiffness / 2:g}",
                    rate,
                    exact,
                    # What the limit of weak noise and the step leave out, from the chain's kernel.
                    bias=abs(late_rate(kernel, dt) - exact),
                    source="Imkeller-Pavlyukevich, weak noise",
                ),
            )
    scales = [world.noise * factor for factor in SCALES]
    fine = np.geomspace(scales[0], 1.5 * scales[-1], 40)
    power = [world.escape_rate(s) for s in fine]
    curves = [Curve("one jump, Imkeller-Pavlyukevich", fine.tolist(), power, look="dashed")]
    for stiffness in BOWLS:
        label = f"stable, barrier {stiffness / 2:g}, 95 %"
        curves.append(measured_curve(label, scales, seen[stiffness]))
    for stiffness in BOWLS:
        places, rates = brownian_rates(stiffness, fine)
        curves.append(Curve(f"Brownian, barrier {stiffness / 2:g}", places, rates))
    least = min(power)
    ratio = brownian_rates(BOWLS[1], fine[-1:])[1][0] / brownian_rates(BOWLS[0], fine[-1:])[1][0]
    caption = (
        f"Rate of leaving (−1, 1) in bowls k x²/2. Stable noise, α = {world.alpha:g}: a power of "
        f"the noise, {least:.2g} at {scales[0]:g}, that does not know the height k/2 of the "
        "barrier, for one jump carries a particle over it. Brownian noise of the same scale, exact "
        "on a grid: exponentially rare, and already at the right edge "
        f"{ratio:.2f} times as frequent over the higher barrier."
    )
    record(
        run,
        Figure(
            "escape",
            "Escape under weak noise",
            "scale of the noise",
            "rate, 1/time",
            curves,
            log_x=True,
            log_y=True,
            caption=caption,
        ),
    )


def brownian_rates(stiffness: float, scales: np.ndarray) -> tuple[list[float], list[float]]:
    """Rates of leaving (-1, 1) in a bowl under Brownian noise with D = scale^2, on a grid.

    Args:
        stiffness: k.
        scales: Scales.

    Returns:
        The scales at which the rate is above 1e-6, and these rates.

    Examples:
        >>> brownian_rates(1.0, np.array([10.0]))[1][0] > 200  # about D pi^2/4
        True
    """
    x = np.linspace(-1, 1, 301)
    places, rates = [], []
    for scale in scales:
        temperature = float(scale) ** 2
        grid = energy_grid(x, stiffness * x**2 / 2, temperature, walls=("absorbing", "absorbing"))
        rate = float(spectrum(grid, 1)[0])
        if rate > 1e-6:
            places.append(float(scale))
            rates.append(rate)
    return places, rates
