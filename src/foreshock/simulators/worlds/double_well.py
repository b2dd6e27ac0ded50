"""A double well: relaxation, escape over the barrier and its dependence on the temperature."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from foreshock.density import fdt_ratio, fit_score, flow
from foreshock.simulators.door import Array
from foreshock.simulators.dynamics import Langevin
from foreshock.simulators.grid import energy_grid
from foreshock.simulators.grid_cells import Grid, total_mass
from foreshock.simulators.grid_entropy import entropy_production
from foreshock.simulators.grid_solvers import evolve, stationary
from foreshock.simulators.inertia import BAOAB
from foreshock.simulators.potentials import DoubleWell
from foreshock.simulators.sde import EulerMaruyama, integrate
from foreshock.simulators.worlds.double_well_escape import Well, escape_times, leaving, passage
from foreshock.simulators.worlds.euler_chain import (
    chain_after,
    euler_nodes,
)
from foreshock.simulators.worlds.recorded import (
    Progress,
    laws,
    measured,
    stages,
    started,
    told,
)
from foreshock.stats.sample import proportion
from foreshock.store import Comparison, Curve, Field, Figure, Run, record
from foreshock.types import Estimate

#: Barriers, in units of the temperature, of the figure of escape times, up to `highest`.
_BARRIERS = (2.0, 3.0, 4.0, 5.0)
#: Particles whose score is fitted: the cost grows with their square.
_SCORED = 2000
#: Clouds drawn from the grid's own density to measure the bias of the fitted score.
_CLOUDS = 8
#: Where the cloud starts: on the outer slope of the left well.
_START, _SPREAD = -1.3, 0.1


@dataclass(frozen=True, slots=True)
class DoubleWellWorld:
    """dx = -U' dt + sqrt(2 T) dW, U = b (x^2 - 1)^2: wells at -1 and 1, a barrier b at 0.

    Args:
        barrier: b.
        temperature: T; the barrier must be 1.5 to 6 times as high, or the escape is no escape or
            takes too long.
        particles: n.
        dt: Step of Euler-Maruyama.
        time: How long the cloud relaxes, in units of length^2/(mobility energy).
        records: How often it is measured, at times that grow geometrically.
        friction: Of the second picture, of particles with inertia and mass 1.
        highest: Highest barrier over T in the figure of escape times, from 3 to 6.
        seed: Of all noise.

    Raises:
        ValueError: If a number is out of range.
    """

    barrier: float = 1.0
    temperature: float = 0.25
    particles: int = 3000
    dt: float = 0.005
    time: float = 100.0
    records: int = 25
    friction: float = 0.3
    highest: float = 5.0
    seed: int = 0

    def __post_init__(self) -> None:
        positive = ("barrier", "temperature", "dt", "time", "friction")
        if any(not 0 < getattr(self, name) < math.inf for name in positive):
            raise ValueError(
                "`barrier`, `temperature`, `dt`, `time` and `friction` of the world `double-well` "
                "must be positive and finite."
            )
        if not 1.5 <= self.barrier / self.temperature <= 6:
            raise ValueError(
                "The `barrier` of the world `double-well` must be 1.5 to 6 `temperature`s. Got "
                f"{self.barrier / self.temperature:.3g}: below there is no escape to speak of, "
                "above it takes e^6 relaxation times and more."
            )
        if self.dt * 8 * self.barrier > 0.25 or self.time < 100 * self.dt:
            raise ValueError(
                "The `dt` of the world `double-well` must be at most 1/32 of 1/`barrier` and 1/100 "
                f"of `time`. Got {self.dt:g}: use {min(0.03 / self.barrier, self.time / 100):.2g}."
            )
        if not 3 <= self.highest <= 6:
            raise ValueError(
                "The `highest` barrier of the world `double-well` must be 3 to 6 T. "
                f"Got {self.highest}."
            )
        if self.particles < 200 or self.records < 4:
            raise ValueError(
                "The world `double-well` needs at least 200 `particles` and 4 `records`. "
                f"Got {self.particles} and {self.records}."
            )

        for height in self.heights:  # now, and not after all passages have been simulated
            temperature = self.barrier / height
            euler_nodes(-self.well.reach(temperature), 1.0, temperature, self.dt)

    @property
    def heights(self) -> list[float]:
        """Barriers over T of the figure of escape times, its own among them."""
        own = self.barrier / self.temperature
        return sorted({own, *(height for height in _BARRIERS if height <= self.highest)})

    @property
    def well(self) -> Well:
        """The potential, and how it is simulated."""
        return Well(self.barrier, self.particles, self.dt)

    def run(self, path: str | Path, *, progress: Progress | None = None) -> Run:
        """Simulate, measure and compare.

        Args:
            path: Folder of the run.
            progress: Called with (done, total).

        Returns:
            The run, open for writing; close it.
        """
        run = started(path, "double-well", self)
        for name, (title, unit, null) in _TITLES.items():
            run.declare(name, title=title, unit=unit, taken_at="all particles", null=null)
        generator = torch.Generator().manual_seed(self.seed)
        heights = self.heights
        passages = [self._horizon(self.barrier / height) for height in heights]
        top = self._horizon(self.temperature) // 2  # the top is half way
        total = round(self.time / self.dt)
        moves = stages(progress, [total, 2000, top, *passages])
        _relaxation(self, run, generator, moves[0])
        _pictures(self, run, generator, moves[1])
        leaving(self.well, run, self.temperature, generator, top, moves[2])
        times = [
            passage(self.well, self.barrier / height, steps, generator, move)
            for height, steps, move in zip(heights, passages, moves[3:], strict=True)
        ]
        escape_times(self.well, run, self.temperature, heights, times)
        return run

    def _horizon(self, temperature: float) -> int:
        """Steps after which three of four particles have arrived; the rest is censored."""
        return round(1.5 * self.well.exact_passage(temperature) / self.dt)


_TITLES = {
    "cloud/left": ("Share of particles in the left well", "1", "1/2"),
    "latent/entropy_production": ("Entropy production", "nats / time", "0"),
    "latent/fdt": ("Fluctuation over dissipation, E|∇U|² / T E[ΔU]", "1", "1"),
}


# ------------------------------------------------------------------ relaxation


def _relaxation(
    world: DoubleWellWorld, run: Run, generator: torch.Generator, move: Progress
) -> None:
    """The cloud spreads into both wells: density, share, entropy production, FDT."""
    t, well = world.temperature, DoubleWell(world.barrier)
    cloud = torch.randn(world.particles, 1, generator=generator, dtype=torch.float64)
    cloud = cloud * _SPREAD + _START
    stepper = EulerMaruyama(Langevin(well, t), world.dt)
    reach = world.well.reach(t)
    nodes = euler_nodes(-reach, reach, t, world.dt, finer=4)
    grid = energy_grid(nodes, world.well.energy(nodes), t)
    density = np.exp(-((nodes - _START) ** 2) / (2 * _SPREAD**2))
    density /= total_mass(grid, density)
    kernel = world.well.kernel(t, nodes, wall=False)
    chain = density * grid.volume
    total = round(world.time / world.dt)
    at = np.unique(np.geomspace(max(1, total // 5000), total, world.records).round().astype(int))
    rows: dict[str, tuple[list[Estimate], list[float]]] = {name: ([], []) for name in _TITLES}
    clouds, densities, chains, before = [], [], [], 0
    for step in at.tolist():
        cloud = integrate(stepper, cloud, step - before, generator=generator).values[-1]
        # Geometric times: a record lies 0.4 of its own age after the last. 300 backward steps
        # leave a relative error of the changes of about 1e-3.
        elapsed = (step - before) * world.dt
        density = evolve(grid, density, elapsed, method="backward_euler", steps=300)
        chain = chain_after(kernel, chain, step - before)
        seen, true = _observe(world, well, cloud, step * world.dt), _truth(world, grid, density)
        run.append(step, seen)
        for name, (values, exact) in rows.items():
            values.append(seen[name])
            exact.append(true[name])
        clouds.append(cloud[:, 0].numpy())
        densities.append(density)
        chains.append(chain / grid.volume)
        before = step
        move(step, total)
    times = (at * world.dt).tolist()
    record(run, _densities(grid, times, clouds, densities, reach))
    for name, (values, exact) in rows.items():
        title, unit, _ = _TITLES[name]
        caption, axis = _CAPTIONS[name], unit if unit != "1" else "share or ratio"
        record(
            run,
            told(name, title, "time", axis, times, values, exact, caption=caption, log_x=True),
        )
        place = len(times) - 1
        if "entropy" in name:  # compared while it is large: after one relaxation time of a well
            place = int(np.abs(np.array(times) - 1 / (8 * world.barrier)).argmin())
        bias = abs(_truth(world, grid, chains[place])[name] - exact[place])
        label = f"{title}, t = {times[place]:.3g}"
        if "entropy" in name:  # and earlier, where a Gaussian is enough, so that it can be judged
            first = torch.from_numpy(clouds[0][:_SCORED])[:, None]
            error = abs(_truth(world, grid, chains[0])[name] - exact[0])
            error += _score_bias(world, well, grid, densities[0], generator)
            early = _production(world, well, first, "gaussian")
            if math.isnan(error):  # shown, but not judged
                early, error = Estimate.plain(early.value), 0.0
            start = f"{title}, t = {times[0]:.3g}, by a Gaussian score"
            record(run, Comparison(start, early, exact[0], error, "grid solution"))
            label += ", by a kernel score"
        record(run, Comparison(label, values[place], exact[place], bias, "grid solution"))


_CAPTIONS = {
    "cloud/left": "At the rate λ₁ to one half.",
    "latent/entropy_production": (
        "Of the particles by the score of a kernel density, and of the grid, while they fall into "
        "the well. Kernels smooth, a bias the bars do not hold. Once some have crossed the score "
        "is not fitted: a few in the far well widen the kernels, and the error is then larger than "
        "what is left."
    ),
    "latent/fdt": (
        "1 at equilibrium, exactly; above it the mean energy falls. Euler's step heats, which the "
        "table counts as the method's own error."
    ),
}


def _observe(
    world: DoubleWellWorld, well: DoubleWell, cloud: Tensor, time: float
) -> dict[str, Estimate]:
    curvature = well.hessian(cloud)[:, 0, 0]
    production = Estimate.missing(
        "Some particles have crossed: the score of two wells is smoothed."
    )
    if time <= world.well.settled:
        production = _production(world, well, cloud[:_SCORED], "kde")
    return {
        "cloud/left": proportion(int((cloud < 0).sum()), len(cloud)),
        "latent/entropy_production": production,
        "latent/fdt": fdt_ratio(well.gradient(cloud), curvature, world.temperature),
    }


def _production(
    world: DoubleWellWorld, well: DoubleWell, x: Tensor, method: Literal["gaussian", "kde"]
) -> Estimate:
    seen = flow(fit_score(x, method), -well.gradient(x), world.temperature, bounds=False)
    return seen.entropy_production


def _truth(world: DoubleWellWorld, grid: Grid, density: Array) -> dict[str, float]:
    x, mass = grid.axes[0], density * grid.volume
    slope = 4 * world.barrier * x * (x**2 - 1)
    curvature = 4 * world.barrier * (3 * x**2 - 1)
    middle = float(np.interp(0.0, x, np.cumsum(mass) - mass / 2))
    falls = float(mass @ slope**2) / (world.temperature * float(mass @ curvature))
    return {
        "cloud/left": middle,
        "latent/entropy_production": entropy_production(grid, density),
        "latent/fdt": falls,
    }


def _score_bias(
    world: DoubleWellWorld,
    well: DoubleWell,
    grid: Grid,
    density: Array,
    generator: torch.Generator,
) -> float:
    """Error of the entropy production by a Gaussian score on clouds of the known density.

    The median over some clouds, plus twice its own standard error, for it is measured itself.

    Returns:
        The error, positive; nan if most of the clouds are refused.
    """
    x, mass = grid.axes[0], np.maximum(density * grid.volume, 0)
    below = np.cumsum(mass) - mass / 2
    found, count = [], min(world.particles, _SCORED)
    for _ in range(_CLOUDS):
        uniform = torch.rand(count, generator=generator, dtype=torch.float64).numpy()
        drawn = torch.from_numpy(np.interp(uniform, below, x))[:, None]
        found.append(_production(world, well, drawn, "gaussian").value)
    error = np.array(found) - entropy_production(grid, density)
    error = error[np.isfinite(error)]  # the fit may refuse some clouds
    if error.size < _CLOUDS // 2:
        return math.nan
    middle = float(np.median(error))
    # Of normal errors: s = 1.48 median deviations, and the median has 1.25 times the mean's error.
    spread = 1.48 * float(np.median(np.abs(error - middle)))
    return abs(middle) + 2 * 1.25 * spread / math.sqrt(error.size)


def _densities(
    grid: Grid, times: list[float], clouds: list[Array], densities: list[Array], reach: float
) -> Figure:
    places = np.linspace(0, len(times) - 1, 3).round().astype(int).tolist()
    edges = np.linspace(-reach, reach, 81)
    x, gibbs = grid.axes[0].tolist(), stationary(grid)
    gap = float(np.abs(densities[-1] - gibbs) @ grid.volume) / 2
    caption = (
        "Histograms of the particles with 95 % bands, and the solution of the Fokker-Planck "
        f"equation. At the end {gap:.1%} of the probability is still away from the Gibbs law "
        "exp(−U/T)/Z."
    )
    return laws(
        "density",
        "Density",
        "x",
        [times[i] for i in places],
        [clouds[i] for i in places],
        edges,
        x,
        [densities[i].tolist() for i in places],
        solution="grid",
        rest=Curve("Gibbs", x, gibbs.tolist(), look="dashed"),
        caption=caption,
    )


# ------------------------------------------------------------------ trajectories


def _pictures(world: DoubleWellWorld, run: Run, generator: torch.Generator, move: Progress) -> None:
    """Two particles in time; two with inertia in phase space, whose kinetic energy is known."""
    t, well = world.temperature, DoubleWell(world.barrier)
    stepper = EulerMaruyama(Langevin(well, t), world.dt)
    span = 3 * world.well.exact_passage(t)
    every = max(1, round(span / world.dt / 600))
    start = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    path = integrate(stepper, start, 600 * every, generator=generator, every=every)
    lines = [
        Curve(name, path.times.tolist(), path.values[:, i, 0].tolist())
        for i, name in enumerate(("from the left", "from the right"))
    ]
    mean = span / 3
    caption = f"One crossing from bottom to bottom takes {mean:.1f} on average."
    record(run, Figure("trajectories", "Two particles", "time", "x", lines, caption=caption))
    move(1000, 2000)

    dt = 0.1 / math.sqrt(8 * world.barrier)
    inertial = BAOAB(well, t, dt, friction=world.friction)
    n = 2000
    cloud = torch.where(torch.rand(n, 1, generator=generator) < 0.5, -1.0, 1.0).double()
    state = inertial.start(cloud, generator)
    # Ten relaxation times of the velocity, 1/friction; the picture shows the last 600 steps.
    kept = []
    for _ in range(max(600, round(10 / min(world.friction, 1) / dt))):
        state = inertial.step(state, generator)
        kept = [*kept[-599:], torch.cat(state[:2], 1)]
    paths = torch.stack(kept).numpy()
    hops = (np.diff(np.sign(paths[:, :, 0]), axis=0) != 0).sum(0)
    curve = paths[:, int((hops == 1).argmax())]  # one that changes wells once, if there is one
    x = np.linspace(-1.8, 1.8, 73)
    v = np.linspace(-1.8, 1.8, 49) * math.sqrt(2 * world.barrier)
    middle = [(e[1:] + e[:-1]) / 2 for e in (x, v)]
    energy = (world.well.energy(middle[0])[None, :] + middle[1][:, None] ** 2 / 2) / t
    energy[energy > 3 * world.barrier / t] = np.nan
    field = Field(x.tolist(), v.tolist(), energy.tolist(), label="energy / T")
    caption = (
        f"With mass 1 and friction {world.friction:g} a particle circles in a well before it "
        "leaves; colours show U + v²/2 up to three barriers."
    )
    record(
        run,
        Figure(
            "phase_space",
            "A particle with inertia, in phase space",
            "x",
            "velocity",
            (Curve("one particle, 600 steps", curve[:, 0].tolist(), curve[:, 1].tolist()),),
            field=field,
            caption=caption,
        ),
        Comparison(
            "Kinetic temperature with inertia, E[v²]",
            measured(state[1][:, 0] ** 2),
            t,
            # T (1 - k dt^2/4) in a bowl of curvature k; k = 8 b at the bottoms, where most are.
            bias=t * 8 * world.barrier * dt**2 / 4,
            source="equipartition",
        ),
    )
    move(2000, 2000)
