"""Many wells in a row: who arrives in the deepest one, with resets, without, and while cooling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from foreshock.simulators.door import Array
from foreshock.simulators.dynamics import Langevin
from foreshock.simulators.landscapes import KWells
from foreshock.simulators.schedules import Constant
from foreshock.simulators.sde import EulerMaruyama, integrate
from foreshock.simulators.worlds.k_wells_arrivals import cloud_resets, cooling, searches
from foreshock.simulators.worlds.k_wells_escape import escape, trajectories
from foreshock.simulators.worlds.recorded import (
    Progress,
    laws,
    measured,
    measured_curve,
    noise_of,
    stages,
    started,
)
from foreshock.simulators.worlds.row_of_wells import Followed, Row
from foreshock.store import Comparison, Curve, Field, Figure, Run, record
from foreshock.types import Estimate


@dataclass(frozen=True, slots=True)
class KWellsWorld:
    """Langevin motion among K wells in a row, of which the last is the deepest.

    U is the smooth minimum of K bowls, |x - c_k|^2/2 - e_k, c_k = k `spacing` along the first
    coordinate. It is smoothed at the temperature, so that Gibbs' law is exactly a mixture of K
    Gaussians. The first coordinate moves by itself: every answer is one of a line.

    Args:
        wells: K.
        dimension: d.
        spacing: Between neighbouring wells, in units of their width.
        depth: By how much the last well is lower than the others.
        temperature: T.
        particles: n.
        dt: Step of Euler-Maruyama.
        time: How long the cloud relaxes and how long it is cooled.
        records: How often it is measured, at times that grow geometrically.
        seed: Of all noise.

    Raises:
        ValueError: If a number is out of range.
    """

    wells: int = 4
    dimension: int = 2
    spacing: float = 3.2
    depth: float = 0.8
    temperature: float = 0.4
    particles: int = 2000
    dt: float = 0.08
    time: float = 200.0
    records: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        if not (3 <= self.wells <= 8 and 2 <= self.dimension <= 64):
            raise ValueError(
                "The world `k-wells` has 3 to 8 `wells` in 2 to 64 dimensions. "
                f"Got {self.wells} and {self.dimension}."
            )
        if not (0 < self.depth < math.inf and 0 < self.temperature < math.inf):
            raise ValueError(
                "`depth` and `temperature` of the world `k-wells` must be positive and finite."
            )
        if not 0.005 <= self.dt <= 0.1 or not 100 * self.dt <= self.time < math.inf:
            raise ValueError(
                "The `dt` of the world `k-wells` must be 0.005 to 0.1, and `time` at least 100 "
                f"steps. Got {self.dt:g} and {self.time:g}."
            )
        if self.particles < 200 or self.records < 4:
            raise ValueError(
                "The world `k-wells` needs at least 200 `particles` and 4 `records`. "
                f"Got {self.particles} and {self.records}."
            )
        height = self.row.barrier / self.temperature
        if not 2 <= self.spacing <= 6 or not 1 <= height <= 4:
            raise ValueError(
                "The barriers of the world `k-wells` must be 1 to 4 `temperature`s high, and "
                f"`spacing` 2 to 6. Got {height:.3g} and {self.spacing:g}: below there are no "
                "wells to speak of, above nobody leaves one. Change `spacing` or `temperature`."
            )

    @property
    def row(self) -> Row:
        """The wells along the first coordinate."""
        centres = tuple(self.spacing * k for k in range(self.wells))
        depths = (0.0,) * (self.wells - 1) + (self.depth,)
        return Row(centres, depths, self.temperature)

    @property
    def potential(self) -> KWells:
        """The wells in d dimensions."""
        centres = torch.zeros(self.wells, self.dimension)
        centres[:, 0] = torch.tensor(self.row.centres)
        return KWells(centres, torch.tensor(self.row.depths), smoothing=self.temperature)

    @property
    def measured_at(self) -> list[int]:
        """Steps at which the cloud is measured."""
        total = round(self.time / self.dt)
        return np.unique(np.geomspace(10, total, self.records).round().astype(int)).tolist()

    def start(self, well: int = 0, count: int | None = None) -> Tensor:
        """Particles at the bottom of one well.

        Args:
            well: Which, from 0.
            count: How many; all by default.

        Returns:
            (count, d).
        """
        x = torch.zeros(count or self.particles, self.dimension)
        x[:, 0] = self.row.centres[well]
        return x

    def run(self, path: str | Path, *, progress: Progress | None = None) -> Run:
        """Simulate, measure and compare.

        Args:
            path: Folder of the run.
            progress: Called with (done, total).

        Returns:
            The run, open for writing; close it.
        """
        run = started(path, "k-wells", self)
        for k in range(self.wells):
            run.declare(
                f"cloud/well_{k + 1}",
                title=f"Share in well {k + 1}" + (", the deepest" if k == self.wells - 1 else ""),
                unit="1",
                taken_at="all particles, at a fixed temperature",
                null=f"{self.row.gibbs_weights()[k]:.3f}, Gibbs' law",
            )
        run.declare(
            "cloud/energy", title="Mean energy", unit="energy", taken_at="all particles", null=""
        )
        generator = torch.Generator().manual_seed(self.seed)
        total = round(self.time / self.dt)
        moves = stages(progress, [total, total, total, total, 2 * total, 2 * total, total])
        _relaxation(self, run, generator, moves[0])
        _landscape(self, run, generator)
        trajectories(self, run, noise_of(self.seed, "trajectories"))
        cloud_resets(self, run, generator, moves[1])
        cooling(self, run, generator, moves[2:4])
        searches(self, run, generator, moves[4:6])
        escape(self, run, noise_of(self.seed, "escape"), moves[6])
        return run


# ------------------------------------------------------------------ at a fixed temperature


def _relaxation(world: KWellsWorld, run: Run, generator: torch.Generator, move: Progress) -> None:
    """Occupation of the wells from the first one on, against the grid and Gibbs' weights."""
    wells, row, at = world.potential, world.row, world.measured_at
    stepper = EulerMaruyama(Langevin(wells, world.temperature), world.dt)
    cloud, before = world.start(), 0
    shares: list[list[Estimate]] = [[] for _ in range(world.wells)]
    energies, clouds = [], []
    for now in at:
        path = integrate(stepper, cloud, now - before, generator=generator, every=now - before)
        cloud, before = path.values[-1], now
        weights = wells.weights(cloud)
        clouds.append(cloud[:, 0].numpy())
        energies.append(measured(wells.energy(cloud)))
        for k in range(world.wells):
            shares[k].append(measured(weights[:, k]))
        named = {f"cloud/well_{k + 1}": shares[k][-1] for k in range(world.wells)}
        run.append(now, named | {"cloud/energy": energies[-1]})
        move(now, at[-1])
    grid, chain = row.follow(Constant(world.temperature), world.dt, at)
    times = [world.dt * step for step in at]
    shown = sorted({0, 1, world.wells - 2, world.wells - 1})
    seen = [measured_curve(f"well {k + 1}", times, shares[k]) for k in shown]
    # The report has four colours: what is measured and its solution share one.
    solved = [
        Curve(f"well {k + 1}, exact", times, grid.shares[:, k].tolist(), look="dashed")
        for k in shown
    ]
    gibbs = row.gibbs_weights()
    caption = (
        f"All {world.particles:,} particles start in well 1 and nobody resets them. A share is the "
        "mean of a particle's posterior weights, so that Gibbs' law has exactly the weights "
        f"e^(e/T)/Σ: {', '.join(f'{w:.3f}' for w in gibbs)}."
    )
    record(
        run,
        Figure(
            "occupation",
            "Occupation at a fixed temperature, no resets",
            "time",
            "share",
            (*seen, *solved),
            log_x=True,
            caption=caption,
        ),
        _densities(world, times, clouds, grid),
    )
    for k in (0, world.wells - 1):
        exact = float(grid.shares[-1, k])
        name = f"Share in well {k + 1} at t = {times[-1]:g}, no resets"
        bias = abs(float(chain.shares[-1, k]) - exact)
        record(run, Comparison(name, shares[k][-1], exact, bias, "grid solution"))
    # Across the row the bowl is quadratic: T/2 each, and Euler's chain has T/2/(1 - dt/2).
    across = (world.dimension - 1) * world.temperature / 2
    exact = float(grid.energy[-1]) + across
    bias = abs(float(chain.energy[-1]) + across / (1 - world.dt / 2) - exact)
    name = f"Mean energy at t = {times[-1]:g}"
    record(run, Comparison(name, energies[-1], exact, bias, "grid solution"))


def _densities(
    world: KWellsWorld, times: list[float], clouds: list[Array], grid: Followed
) -> Figure:
    """The first coordinate early, in the middle and at the end, over the grid's densities."""
    last = len(times) - 1
    # When a third and all of the time that matters has gone: the axis of times is logarithmic.
    places = sorted({int(np.searchsorted(times, times[-1] / 50)), (3 * last) // 4, last})
    reach = 4 * math.sqrt(world.temperature)
    ends = world.row.centres[0] - reach, world.row.centres[-1] + reach
    inside = (grid.places >= ends[0]) & (grid.places <= ends[1])
    x = grid.places[inside]
    gibbs = world.row.gibbs_density(x)
    gap = float(np.abs(grid.density[last][inside] - gibbs).sum() * (x[1] - x[0])) / 2
    caption = (
        "Along the row: histograms of the particles with 95 % bands, and the solution of the "
        f"Fokker-Planck equation. At the end {gap:.0%} of the probability is still away from the "
        "Gibbs law exp(−U/T)/Z, which is a mixture of Gaussians here."
    )
    return laws(
        "density",
        "Density along the row",
        "first coordinate",
        [times[i] for i in places],
        [clouds[i] for i in places],
        np.linspace(*ends, 81),
        x.tolist(),
        [grid.density[i][inside].tolist() for i in places],
        solution="grid",
        rest=Curve("Gibbs", x.tolist(), gibbs.tolist(), look="dashed"),
        caption=caption,
    )


def _landscape(world: KWellsWorld, run: Run, generator: torch.Generator) -> None:
    """The wells in the plane of the first two coordinates, and two particles in them."""
    wells, reach = world.potential, 2.2
    x = np.linspace(-reach, world.row.centres[-1] + reach, 61)
    y = np.linspace(-reach, reach, 31)
    points = torch.zeros(60 * 30, world.dimension)
    middle = [torch.tensor((e[1:] + e[:-1]) / 2, dtype=torch.float32) for e in (x, y)]
    points[:, :2] = torch.cartesian_prod(middle[1], middle[0]).flip(1)
    energy = (wells.energy(points) / world.temperature).reshape(30, 60)
    energy[energy > 5] = math.nan  # where nobody is, and which would take all the colours
    stepper = EulerMaruyama(Langevin(wells, world.temperature), world.dt)
    steps = round(60 / world.dt)
    path = integrate(stepper, world.start(0, 1), steps, generator=generator, every=steps // 400)
    track = path.values[:, 0, :2]
    field = Field(x.tolist(), y.tolist(), energy.tolist(), label="energy / T")
    caption = (
        f"A slice through {world.wells} wells in {world.dimension} dimensions, and one particle "
        "over 60 units of time. The rightmost well is the deepest, by "
        f"{world.depth / world.temperature:.3g} temperatures; the barriers before it are "
        f"{world.row.barrier / world.temperature:.3g} temperatures high."
    )
    record(
        run,
        Figure(
            "landscape",
            "The wells",
            "first coordinate",
            "second coordinate",
            (Curve("one particle", track[:, 0].tolist(), track[:, 1].tolist()),),
            field=field,
            caption=caption,
        ),
    )
