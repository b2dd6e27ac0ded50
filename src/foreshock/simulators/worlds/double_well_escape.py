"""Escape from a double well: survival, passage times, and the formulas beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from foreshock.simulators.door import Array
from foreshock.simulators.dynamics import Langevin
from foreshock.simulators.exact_kramers import mean_first_passage_time, well_decay_rate
from foreshock.simulators.eyring_kramers import eyring_kramers_rate
from foreshock.simulators.grid import energy_grid
from foreshock.simulators.grid_cells import point_mass, total_mass
from foreshock.simulators.grid_solvers import evolve
from foreshock.simulators.passage import PassageTimes, coordinate_boundary, first_passage
from foreshock.simulators.passage_estimates import (
    exponential_rate,
    mean_passage_time,
    survival_curve,
)
from foreshock.simulators.potentials import DoubleWell
from foreshock.simulators.sde import EulerMaruyama
from foreshock.simulators.worlds.euler_chain import (
    chain_passage_time,
    chain_rate,
    euler_kernel,
    euler_nodes,
)
from foreshock.simulators.worlds.recorded import Progress, kramers_figure, measured_curve
from foreshock.stats.published_langevin import escape_time_langevin, kramers_rate_langevin
from foreshock.store import Comparison, Curve, Figure, Run, record
from foreshock.types import Estimate


@dataclass(frozen=True, slots=True)
class Well:
    """U = b (x^2 - 1)^2 at mobility 1, and how it is simulated.

    Args:
        barrier: b.
        particles: n.
        dt: Step of Euler-Maruyama.

    Examples:
        >>> round(Well(1.0, 1000, 0.01).exact_passage(0.25), 2)
        69.26
    """

    barrier: float
    particles: int
    dt: float

    def energy(self, x: Array) -> Array:
        """U."""
        return self.barrier * (x**2 - 1) ** 2

    def exact_passage(self, temperature: float) -> float:
        """Mean time from one bottom to the other, by quadrature."""
        return mean_first_passage_time(self.energy, temperature, -1, 1)

    def reach(self, temperature: float) -> float:
        """Where U = 40 T: beyond lie e^-40 of the particles."""
        return math.sqrt(1 + math.sqrt(40 * temperature / self.barrier))

    @property
    def settled(self) -> float:
        """Four relaxation times 1/U'' = 1/(8 b) of a well: it has forgotten the start."""
        return 4 / (8 * self.barrier)

    def kernel(
        self, temperature: float, nodes: Array, *, wall: bool, start: Array | None = None
    ) -> Array:
        """One step of Euler's chain on the nodes: `euler_kernel`."""
        slope = 4 * self.barrier
        return euler_kernel(
            nodes,
            lambda x: -slope * x * (x * x - 1),
            lambda x: temperature + 0 * x,
            self.dt,
            wall=wall,
            start=start,
        )


def passage(
    well: Well,
    temperature: float,
    steps: int,
    generator: torch.Generator,
    move: Progress,
    target: float = 1.0,
) -> PassageTimes:
    """First passages from the left bottom.

    Args:
        well: The well.
        temperature: T.
        steps: Most steps; later passages are censored.
        generator: Source of all noise.
        move: Called with (done, steps).
        target: Where they arrive.

    Returns:
        The times.

    Examples:
        >>> generator = torch.Generator().manual_seed(0)
        >>> passage(Well(1.0, 50, 0.01), 0.5, 10, generator, lambda done, total: None).events
        0
    """
    stepper = EulerMaruyama(Langevin(DoubleWell(well.barrier), temperature), well.dt)
    start = torch.full((well.particles, 1), -1.0)
    wall = coordinate_boundary(target)
    return first_passage(stepper, start, wall, steps=steps, generator=generator, progress=move)


def leaving(
    well: Well,
    run: Run,
    temperature: float,
    generator: torch.Generator,
    steps: int,
    move: Progress,
) -> None:
    """Survival in the left well against exp(-lambda_1 t), and the rate of hopping.

    Args:
        well: The well.
        run: Open for writing: a figure and a comparison go there.
        temperature: T.
        generator: Source of all noise.
        steps: Most steps.
        move: Called with (done, steps).
    """
    t = temperature
    found = passage(well, t, steps, generator, move, target=0.0)
    rate = well_decay_rate(well.energy, t, -1, 0)
    reach = well.reach(t)
    nodes = euler_nodes(-reach, 0.0, t, well.dt)
    late = exponential_rate(found, after=well.settled)
    bias = abs(chain_rate(well.kernel(t, nodes, wall=True), well.dt) - rate) / 2
    label = "Rate of hopping, half the rate of reaching the top"
    record(run, Comparison(label, late.times(0.5), rate / 2, bias, "λ₁/2, quadrature"))

    times = np.linspace(0, found.horizon, 25)[1:]
    grid = energy_grid(nodes, well.energy(nodes), t, walls=("reflecting", "absorbing"))
    density = point_mass(grid, -1.0) / grid.volume
    left = []
    for gap in np.diff(times, prepend=0.0):
        density = evolve(grid, density, float(gap), method="backward_euler", steps=200)
        left.append(total_mass(grid, density))
    curves = (
        Curve("grid", times.tolist(), left, look="dashed"),
        measured_curve("particles, 95 %", times.tolist(), survival_curve(found, times)),
        Curve("exp(−λ₁ t)", times.tolist(), np.exp(-rate * times).tolist()),
    )
    caption = (
        f"Share of {well.particles:,} particles that have not yet reached the top of the barrier; "
        f"λ₁ = {rate:.4g}. The grid starts at the bottom of the well, so it lies above the "
        "exponential by a constant factor."
    )
    record(
        run,
        Figure(
            "survival",
            "Survival in the left well",
            "time",
            "share",
            curves,
            log_y=True,
            caption=caption,
        ),
    )


def escape_times(
    well: Well,
    run: Run,
    temperature: float,
    heights: Sequence[float],
    passages: Sequence[PassageTimes],
) -> None:
    """Mean passage times at several temperatures, and the formulas beside them.

    Args:
        well: The well.
        run: Open for writing: a figure and comparisons go there.
        temperature: T, of the formulas in the table.
        heights: barrier/T of each.
        passages: From bottom to bottom, as many.
    """
    b = well.barrier
    seen = []
    for height, found in zip(heights, passages, strict=True):
        t = b / height
        mean = mean_passage_time(found, exponential_after=well.settled)
        nodes = euler_nodes(-well.reach(t), 1.0, t, well.dt)
        kernel = well.kernel(t, nodes, wall=True)
        first = well.kernel(t, nodes, wall=True, start=np.array([-1.0]))
        exact = well.exact_passage(t)
        bias = abs(chain_passage_time(kernel, first, well.dt) - exact)
        label = f"Mean passage from bottom to bottom, barrier/T = {height:g}"
        record(run, Comparison(label, mean, exact, bias, "quadrature"))
        seen.append(mean)
    fine = np.linspace(heights[0], heights[-1], 41).tolist()
    exact = [well.exact_passage(b / r) for r in fine]
    kramers = [1 / eyring_kramers_rate(8 * b, 4 * b, b, b / r) for r in fine]
    t, own = temperature, b / temperature
    half = well_decay_rate(well.energy, t, -1, 0) / 2
    asymptotic = eyring_kramers_rate(8 * b, 4 * b, b, t)
    caption = (
        f"At barrier/T = {own:.3g} the Eyring-Kramers rate is {asymptotic / half:.3f} times the "
        "exact one, λ₁/2: it holds for high barriers only, so a precise measurement must exclude "
        "it. The published time has no prefactor, and so no unit of time."
    )
    record(
        run,
        kramers_figure(
            "Time from bottom to bottom", heights, seen, fine, exact, kramers, caption=caption
        ),
        Comparison(
            "Eyring-Kramers rate",
            Estimate.plain(asymptotic),
            half,
            source="λ₁/2, quadrature; the formula is asymptotic",
        ),
        Comparison(
            "Kramers rate as published, (ω₀/2π) exp(−ΔU/T)",
            # omega_0 is "the curvature at the minimum", U'' = 8 b; the barrier's is left out.
            Estimate.exact(kramers_rate_langevin(8 * b, b, t)),
            half,
            source="λ₁/2, quadrature",
            published=True,
        ),
        Comparison(
            "Escape time as published, exp(ΔU/T)",
            Estimate.exact(escape_time_langevin(b, t)),
            well.exact_passage(t),
            source="quadrature",
            published=True,
        ),
    )
