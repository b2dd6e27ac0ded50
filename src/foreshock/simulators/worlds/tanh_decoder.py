"""A decoder with a layer of tanh: its cloud against the Fokker-Planck equation on the plane."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from foreshock.density import fit_score, flow
from foreshock.density import published as pub
from foreshock.simulators.decoder import DecoderPotential
from foreshock.simulators.door import Array
from foreshock.simulators.grid_cells import Grid
from foreshock.simulators.grid_entropy import entropy_production
from foreshock.simulators.grid_plane import energy_plane
from foreshock.simulators.grid_solvers import evolve
from foreshock.simulators.particles import Engine
from foreshock.simulators.recording import Recorded, run_engine
from foreshock.simulators.schedules import constant_schedules
from foreshock.simulators.worlds.decoder_pictures import in_the_plane, tanh_density
from foreshock.simulators.worlds.recorded import Progress, measured_curve, noise_of, told
from foreshock.store import Comparison, Curve, Field, Figure, Run, record
from foreshock.types import Estimate

if TYPE_CHECKING:
    from foreshock.simulators.worlds.decoder import DecoderWorld

#: Clusters of the latent states that made the data.
_CLUSTERS = ((-1.2, 0.8), (1.2, 0.8), (0.0, -1.2))
#: Where the cloud starts, and its standard deviation.
_START, _SPREAD = (1.5, 1.0), 0.7
#: Standard deviation of the decoder's noise.
SIGMA = 0.7
#: Nodes of an axis of the plane, half of them for its own error, and its half width.
_NODES, _REACH = 90, 4.5
#: Clouds drawn from the grid's own density to measure the bias of the fitted score.
_CLOUDS = 6


def tanh_decoder(hidden: int, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """A random decoder from 2 latents to 4 outputs: a tanh layer and a linear bypass.

    Without the bypass outputs are bounded, the loss does not rise far out, and no stationary law
    exists.

    Args:
        hidden: Units.
        generator: Source of the weights.

    Returns:
        A function (n, 2) -> (n, 4).

    Examples:
        >>> tanh_decoder(8, torch.Generator().manual_seed(0))(torch.zeros(3, 2)).shape
        torch.Size([3, 4])
    """
    first = 0.6 * torch.randn(2, hidden, generator=generator, dtype=torch.float64)
    second = torch.randn(hidden, 4, generator=generator, dtype=torch.float64) / math.sqrt(hidden)
    bypass, _ = torch.linalg.qr(torch.randn(4, 2, generator=generator, dtype=torch.float64))

    def decode(z: Tensor) -> Tensor:
        return torch.tanh(z @ first.to(z)) @ second.to(z) + 0.7 * z @ bypass.T.to(z)

    return decode


def relax(
    world: DecoderWorld,
    run: Run,
    decode: Callable[[Tensor], Tensor],
    rows: Sequence[Mapping[str, Estimate]],
    generator: torch.Generator,
    move: Progress,
) -> None:
    """The cloud of one target against the plane; then one target for all against one for each.

    Args:
        world: The numbers.
        run: Where to record.
        decode: The decoder.
        rows: What else was measured at each record.
        generator: Of all noise.
        move: Progress.
    """
    n = world.particles
    centres = torch.tensor(_CLUSTERS, dtype=torch.float64)
    truth = centres[torch.arange(n) % 3] + 0.15 * _normal(n, 2, generator)
    data = decode(truth) + 0.1 * _normal(n, 4, generator)
    schedules = constant_schedules(1.0, world.diffusion, world.entropy)
    shared = DecoderPotential(decode, data.mean(0), 2, noise_scale=SIGMA, single_target=True)
    start = _SPREAD * _normal(n, 2, generator) + torch.tensor(_START, dtype=torch.float64)
    engine = Engine(shared, schedules, world.dt)
    found = run_engine(
        engine,
        start,
        world.steps,
        generator=generator,
        every=world.every,
        select_every=1,  # the cloud changes its form; a kept bandwidth would smooth it away
        progress=lambda done, total: move(done, 0),
    )
    names = ("c", "entropy_production", "w2", "energy")
    for index, row in enumerate(rows):
        mine = {f"latent/{name}": found.observables[name][index] for name in names}
        run.append(index * world.every, {**row, **mine})
    fine, coarse = (Plane.of(shared, world.temperature, found.times, k) for k in (_NODES, 45))
    few = noise_of(world.seed, "paths")
    begin = _SPREAD * _normal(3, 2, few) + torch.tensor(_START, dtype=torch.float64)
    record(
        run,
        in_the_plane(engine, begin, fine, world.steps, few),
        tanh_density(found.times, list(found.path), fine),
    )
    _energy(world, run, shared, found, fine, coarse)
    _production(world, run, shared, found, fine, coarse, generator)
    _consolidation(world, run, shared, found)
    for index, name in ((0, "start"), (1, "early"), (-1, "end")):
        record(run, _snapshot(name, found.times[index], found.path[index], fine, index, shared))
    own = DecoderPotential(decode, data, 2, noise_scale=SIGMA)
    each = run_engine(
        Engine(own, schedules, world.dt),
        start,
        world.steps,
        generator=generator,
        every=world.steps,
        observed=False,
        progress=lambda done, total: move(world.steps + done, 0),
    )
    last = (found.path[-1], each.path[-1], truth)
    labels = ("one target for all, as published", "a target for each", "states that made the data")
    curves = [
        Curve(label, z[:300, 0].tolist(), z[:300, 1].tolist(), look="points")
        for label, z in zip(labels, last, strict=True)
    ]
    losses = [float(own.energy(z).mean()) for z in (found.path[-1], each.path[-1])]
    caption = (
        "The data have three clusters. Pulled to the mean of the data, the particles forget which "
        "of them they are; with a target of its own each explains its own row. Mean loss of a "
        f"particle at its own row: {losses[0]:.2f} and {losses[1]:.2f}, at the temperature "
        f"{world.temperature:g}."
    )
    title = "One target for all, or one for each"
    record(run, Figure("targets", title, "z1", "z2", curves, caption=caption))


def _normal(n: int, d: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, d, generator=generator, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class Plane:
    """The density on a grid of the plane at the times of the records.

    Args:
        axis: (k,) Nodes of both axes.
        points: (k k, 2) All nodes.
        grid: The grid.
        energy: (k, k) U.
        densities: (r, k, k).
        temperature: T.
    """

    axis: Array
    points: Tensor
    grid: Grid
    energy: Array
    densities: Array
    temperature: float

    @classmethod
    def of(
        cls, potential: DecoderPotential, temperature: float, times: Sequence[float], nodes: int
    ) -> Plane:
        """Solve the equation.

        Args:
            potential: U.
            temperature: T.
            times: Of the records, the first 0.
            nodes: Of an axis.

        Returns:
            The plane.
        """
        axis = np.linspace(-_REACH, _REACH, nodes)
        points = torch.from_numpy(np.stack(np.meshgrid(axis, axis, indexing="ij"), -1))
        points = points.reshape(-1, 2)
        energy = potential.energy(points).numpy().reshape(nodes, nodes)
        grid = energy_plane(axis, axis, energy, temperature)
        away = (points - torch.tensor(_START)).square().sum(1)
        density = torch.exp(-away / (2 * _SPREAD**2)).numpy().reshape(nodes, nodes)
        density /= float((density * grid.volume).sum())
        densities = [density]
        for gap in np.diff(times):
            # Second order in time; U varies by much over a cell far out, where nothing is.
            density = evolve(grid, density, float(gap), method="tr_bdf2", steps=10)
            # A stiff mode may leave a trace below 0 where there is nothing; log rho is asked for.
            densities.append(np.maximum(density, 1e-12 * density.max()))
        return cls(axis, points, grid, energy, np.array(densities), temperature)

    def means(self, field: Array) -> Array:
        """(r,) Mean of a field at every time."""
        return np.asarray((self.densities * (self.grid.volume * field)).sum((1, 2)))

    def productions(self) -> Array:
        """(r,) Entropy production at every time."""
        return np.array([entropy_production(self.grid, p) for p in self.densities])


def _energy(
    world: DecoderWorld,
    run: Run,
    potential: DecoderPotential,
    found: Recorded,
    fine: Plane,
    coarse: Plane,
) -> None:
    """Mean loss over time against the grid."""
    means, rough = fine.means(fine.energy), coarse.means(coarse.energy)
    # Second order in the spacing: a third of the change is left.
    left = abs(float(means[-1] - rough[-1])) / 3
    shape = fine.energy.shape
    slope = potential.gradient(fine.points).square().sum(1).numpy().reshape(shape)
    bend = potential.hessian(fine.points).diagonal(dim1=1, dim2=2).sum(1).numpy().reshape(shape)
    # Euler's chain has the stationary density rho (1 + dt f), f = |grad U|^2/4T - lap U/2 + const,
    # from the weak expansion of its step: the mean of U moves by dt Cov(U, f).
    f = slope / (4 * world.temperature) - bend / 2
    covariance = fine.means(f * fine.energy)[-1] - fine.means(f)[-1] * means[-1]
    title, values = "Mean loss, tanh decoder", found.observables["energy"]
    record(
        run,
        told(
            "energy",
            title,
            "time",
            "loss",
            found.times,
            values,
            means.tolist(),
            caption="Of the cloud with one target, against the Fokker-Planck equation on a grid.",
        ),
        Comparison(
            f"{title}, t = {found.times[-1]:.3g}",
            values[-1],
            float(means[-1]),
            left + abs(world.dt * float(covariance)),
            "grid solution",
        ),
    )


def _production(
    world: DecoderWorld,
    run: Run,
    potential: DecoderPotential,
    found: Recorded,
    fine: Plane,
    coarse: Plane,
    generator: torch.Generator,
) -> None:
    """Entropy production over time against the grid, with what the fitted score gets wrong."""
    exact, rough = fine.productions(), coarse.productions()
    values = found.observables["entropy_production"]
    place, last = 1, len(exact) - 1
    biases = [
        _score_bias(world, potential, fine, index, float(exact[index]), generator)
        for index in (place, last)
    ]
    title = "Entropy production, tanh decoder"
    caption = (
        "Of the particles by a fitted score, and of the grid. The cloud is not Gaussian, and the "
        "error of its score reads as production: on clouds drawn from the grid's own density the "
        f"fit is off by up to {biases[1]:.2f} at the end, where the truth is {exact[-1]:.1g}. The "
        "table counts that as the method's own error."
    )
    record(
        run,
        told(
            "production",
            title,
            "time",
            "nats / time",
            found.times,
            values,
            exact.tolist(),
            caption=caption,
        ),
    )
    for index, bias in zip((place, last), biases, strict=True):
        # Euler's first steps err by a share dt times the fastest rate: the mean of lap U is twice
        # the mean curvature; the grid's own error is a third of its change.
        share = world.dt * float(np.abs(_rate(potential, found.path[index])))
        steps = share * float(exact[index])
        left = abs(float(exact[index] - rough[index])) / 3
        name = f"{title}, t = {found.times[index]:.2g}"
        total, seen = bias + left + steps, values[index]
        # Where the fit refuses some of the clouds, or its error is more than the truth, agreement
        # would say nothing: shown, but not judged.
        if not total < float(exact[index]):
            seen, total = Estimate.plain(seen.value), 0.0
        record(run, Comparison(name, seen, float(exact[index]), total, "grid solution"))


def _rate(potential: DecoderPotential, z: Tensor) -> float:
    return float(potential.hessian(z[:64]).diagonal(dim1=1, dim2=2).sum(1).mean())


def _score_bias(
    world: DecoderWorld,
    potential: DecoderPotential,
    plane: Plane,
    index: int,
    exact: float,
    generator: torch.Generator,
) -> float:
    """Error of the entropy production on clouds of the known density, plus twice its own error."""
    mass = torch.from_numpy((plane.densities[index] * plane.grid.volume).ravel())
    gap = float(plane.axis[1] - plane.axis[0])
    found = []
    for _ in range(_CLOUDS):
        cells = torch.multinomial(mass, world.particles, replacement=True, generator=generator)
        jitter = torch.rand(world.particles, 2, generator=generator, dtype=torch.float64) - 0.5
        z = plane.points[cells] + gap * jitter
        drift = -potential.gradient(z)
        seen = flow(fit_score(z), drift, world.temperature, refits=20, bounds=False)
        found.append(seen.entropy_production.value)
    error = np.array(found) - exact
    return float(abs(error.mean()) + 2 * error.std(ddof=1) / math.sqrt(_CLOUDS))


def _consolidation(
    world: DecoderWorld, run: Run, potential: DecoderPotential, found: Recorded
) -> None:
    """C along the run, and as published; W2 to the start."""
    published = []
    for z in found.path:
        few = z[:500].float()
        matrix = (world.temperature * torch.eye(2)).expand(len(few), 2, 2)
        slope = pub.grad_rho_code_fp(few, 0.1)
        published.append(pub.c_fp(-potential.gradient(few), matrix, slope))
    times = found.times
    ends = [times[0], times[-1]]
    record(
        run,
        Figure(
            "c",
            "Consolidation ratio, tanh decoder",
            "time",
            "C",
            (
                Curve("equilibrium", ends, [1.0, 1.0], look="dashed"),
                measured_curve("corrected, 95 %", times, found.observables["c"]),
                Curve("as published, float32", times, published),
            ),
            log_y=True,
            caption=(
                "The corrected ratio has no unit and is 1 at equilibrium. In the published one all "
                "particles are shifted together, so its ∇ρ is rounding noise: the ratio depends on "
                "the float type and says nothing about the cloud."
            ),
        ),
        Figure(
            "w2",
            "Distance to the start, tanh decoder",
            "time",
            "length",
            (measured_curve("sliced W2, 95 %", times, found.observables["w2"]),),
            caption="With the sampling bias of two clouds of one law subtracted.",
        ),
    )


def _snapshot(
    name: str, time: float, z: Tensor, plane: Plane, index: int, potential: DecoderPotential
) -> Figure:
    """Particles over the density of the grid, and arrows of its flux."""
    density, axis = plane.densities[index], plane.axis
    gap = float(axis[1] - axis[0])
    low, high = z.numpy().min(0) - 0.3, z.numpy().max(0) + 0.3
    parts = [(axis >= low[i]) & (axis <= high[i]) for i in range(2)]
    shape = (*density.shape, 2)
    pull = -potential.gradient(plane.points).numpy().reshape(shape)

    def current(law: Array) -> Array:
        slope = np.stack(np.gradient(np.log(law), gap), -1)
        return law[..., None] * (pull - plane.temperature * slope)

    flux = current(density)
    # Gibbs' law has no flux: what central differences make of it is their error.
    gibbs = np.exp(-np.minimum((plane.energy - plane.energy.min()) / plane.temperature, 600))
    faint = 2 * float(np.abs(current(gibbs / (gibbs * plane.grid.volume).sum())).max())
    every = 4
    chosen = [np.flatnonzero(part)[2::every] for part in parts]
    most = float(np.abs(flux).max())
    strongest = max(most, 1e-12)
    arrows = []
    for i in chosen[0]:
        for j in chosen[1]:
            arrow = flux[i, j] / strongest * 0.95 * every * gap
            if np.abs(flux[i, j]).max() > max(0.03 * strongest, faint):
                arrows.append((float(axis[i]), float(axis[j]), float(arrow[0]), float(arrow[1])))
    values = np.where(density > 0.02 * density.max(), density, np.nan)[np.ix_(*parts)].T
    edges = [np.append(axis[part] - gap / 2, axis[part][-1] + gap / 2).tolist() for part in parts]
    field = Field(edges[0], edges[1], values.tolist(), arrows, "density")
    caption = (
        "Colours: the solution of the Fokker-Planck equation; points: 300 of the particles; "
        + (
            f"arrows: the flux J = ρ (μ − T ∇log ρ), the longest {most:.2g}."
            if most > faint
            else f"the flux J = ρ (μ − T ∇log ρ) has died away, below {faint:.1g} everywhere."
        )
    )
    cloud = Curve("particles", z[:300, 0].tolist(), z[:300, 1].tolist(), look="points")
    title = f"Density and flux, t = {time:.2g}"
    return Figure(f"flux_{name}", title, "z1", "z2", (cloud,), field=field, caption=caption)
