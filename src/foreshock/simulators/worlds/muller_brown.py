"""The surface of Müller and Brown: three wells, a bent path, and passages across a plane."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from foreshock.simulators.barrier import Barrier, escape_time, string_method
from foreshock.simulators.door import Array
from foreshock.simulators.dynamics import Langevin
from foreshock.simulators.grid_cells import Grid, total_mass, with_target
from foreshock.simulators.grid_plane import energy_plane
from foreshock.simulators.grid_solvers import evolve, mean_first_passage, stationary
from foreshock.simulators.landscapes import MullerBrown
from foreshock.simulators.passage import coordinate_boundary, first_passage
from foreshock.simulators.passage_estimates import mean_passage_time
from foreshock.simulators.sde import EulerMaruyama, integrate
from foreshock.simulators.worlds.muller_brown_survival import survival
from foreshock.simulators.worlds.recorded import Progress, measured, measured_curve, stages, started
from foreshock.simulators.worlds.step_error import passage_error, stationary_error
from foreshock.stats.published_langevin import escape_time_langevin
from foreshock.stats.sample import proportion
from foreshock.store import Comparison, Curve, Field, Figure, Run, record
from foreshock.types import Estimate

_UNIT = MullerBrown()
#: The wells: deepest, second, third.
_A, _B, _C = _UNIT.minima
#: Energy of the higher saddle above the deepest well, at scale 1.
_PASS = 106.03467370137566
#: Outside of this box lies less than e^-30 of the Gibbs law at any barrier from 3 T on.
_BOX = ((-3.6, 1.8), (-1.6, 3.6))
#: Energies up to this share of the barrier are drawn: a little below those of the flat land.
_SHOWN = 1.35
#: Standard deviation of the cloud at the start, around the deepest well.
_SPREAD = 0.1


@dataclass(frozen=True, slots=True)
class MullerBrownWorld:
    """dx = -grad U dt + sqrt(2) dW at T = 1 on the Müller-Brown surface, scaled in energy.

    Args:
        barrier: Height of the higher saddle above the deepest well, in units of T.
        particles: n.
        dt: Step of Euler-Maruyama.
        time: How long a cloud relaxes from the deepest well.
        records: How often it is measured, at equal distances.
        seed: Of all noise.

    Raises:
        ValueError: If a number is out of range.
    """

    barrier: float = 4.0
    particles: int = 1500
    dt: float = 1e-3
    time: float = 20.0
    records: int = 13
    seed: int = 0

    def __post_init__(self) -> None:
        if not 3 <= self.barrier <= 6:
            raise ValueError(
                "The `barrier` of the world `muller-brown` must be 3 to 6 T: below, the flat land "
                "around the wells holds most particles; above, passages take too long. "
                f"Got {self.barrier}."
            )
        # The stiffest direction of the deepest well has the curvature 4068 at scale 1.
        longest = 0.25 / (4068 * self.barrier / _PASS)
        if not 0 < self.dt <= longest:
            raise ValueError(
                "The `dt` of the world `muller-brown` must be positive and at most 1/4 of the "
                f"fastest relaxation time, {longest:.2g} here. Got {self.dt:g}."
            )
        if self.particles < 200 or self.records < 3 or not 50 * self.dt <= self.time < math.inf:
            raise ValueError(
                "The world `muller-brown` needs at least 200 `particles`, 3 `records` and a `time` "
                f"of 50 `dt`. Got {self.particles}, {self.records} and {self.time}."
            )

    @property
    def surface(self) -> MullerBrown:
        """U, at T = 1."""
        return MullerBrown(self.barrier / _PASS)

    def run(self, path: str | Path, *, progress: Progress | None = None) -> Run:
        """Simulate, measure and compare.

        Args:
            path: Folder of the run.
            progress: Called with (done, total).

        Returns:
            The run, open for writing; close it.
        """
        run = started(path, "muller-brown", self)
        for name, (title, unit) in _TITLES.items():
            run.declare(
                name,
                title=title,
                unit=unit,
                taken_at="all particles",
                null="its mean under Gibbs' law",
            )
        generator = torch.Generator().manual_seed(self.seed)
        exact = [_exact_passage(self, *way) for way in (_THERE, _BACK)]
        horizons = [round(1.5 * times[0] / self.dt) for times in exact]
        moves = stages(progress, [round(self.time / self.dt), *horizons])
        way = string_method(self.surface, torch.tensor(_A), torch.tensor(_B), images=61)
        _relaxation(self, run, generator, moves[0])
        pictures = _landscape(self, way, _crossing(self, generator)), _profile(self, way)
        record(run, *pictures, _height(self, way))
        for route, times, steps, move in zip(
            (_THERE, _BACK), exact, horizons, moves[1:], strict=True
        ):
            _passage(self, run, route, times, steps, generator, move)
        return run


_TITLES = {
    "cloud/deepest": ("Share of particles in the deepest well", "1"),
    "cloud/second": ("Share of particles in the second well", "1"),
    "cloud/energy": ("Mean energy above the deepest well", "T"),
}

Route = tuple[str, tuple[float, ...], tuple[float, ...], int, float, bool]
#: Name, start, target, coordinate, place and side of the line that counts as arrival: through the
#: bottom of the well, along an axis, so that a grid has it exactly.
_THERE: Route = ("from the deepest to the second well", _A, _B, 0, _B[0], True)
_BACK: Route = ("from the second to the deepest well", _B, _A, 1, _A[1], True)


def _nodes(spacing: float, ends: tuple[float, float]) -> Array:
    return np.linspace(*ends, math.ceil((ends[1] - ends[0]) / spacing) + 1)


def _plane(world: MullerBrownWorld, spacing: float, box: tuple[tuple[float, float], ...]) -> Grid:
    x, y = (_nodes(spacing, ends) for ends in box)
    at = torch.from_numpy(np.stack(np.meshgrid(x, y, indexing="ij"), -1))
    return energy_plane(x, y, world.surface.energy(at).numpy(), 1.0)


# ------------------------------------------------------------------ passages


def _exact_passage(
    world: MullerBrownWorld,
    _name: str,
    start: tuple[float, ...],
    _target: tuple[float, ...],
    coordinate: int,
    place: float,
    _above: bool,
) -> tuple[float, float, float]:
    """Mean time, its uncertainty, and its error per unit of dt: grids of two spacings."""
    found = []
    for spacing in (0.06, 0.03):
        grid = _up_to(world, spacing, coordinate, place)
        times = mean_first_passage(grid)
        errors = passage_error(grid, world.surface, 1.0, times)
        found.append([_at(grid, field, start) for field in (times, errors)])
    (coarse, coarse_error), (fine, fine_error) = found
    # Both are of second order in the spacing, so the finer grid is off by a third.
    time = fine + (fine - coarse) / 3
    return time, abs(fine - coarse) / 3, fine_error + (fine_error - coarse_error) / 3


def _up_to(world: MullerBrownWorld, spacing: float, coordinate: int, place: float) -> Grid:
    """The plane up to the line on which particles arrive."""
    box = list(_BOX)
    box[coordinate] = (box[coordinate][0], place)
    grid = _plane(world, spacing, tuple(box))
    last = np.zeros(grid.shape, bool)
    last[(slice(None),) * coordinate + (-1,)] = True
    return with_target(grid, last)


def _at(grid: Grid, field: Array, point: tuple[float, ...]) -> float:
    """A field between the nodes, by cubic splines."""
    from scipy.interpolate import RectBivariateSpline

    x, y = grid.axes

    return float(RectBivariateSpline(x, y, field)(*point)[0, 0])


def _passage(
    world: MullerBrownWorld,
    run: Run,
    route: Route,
    exact: tuple[float, float, float],
    steps: int,
    generator: torch.Generator,
    move: Progress,
) -> None:
    name, start, target, coordinate, place, above = route
    stepper = EulerMaruyama(Langevin(world.surface, 1.0), world.dt)
    cloud = torch.tensor([start]).expand(world.particles, 2).contiguous()
    wall = coordinate_boundary(place, coordinate, above=above)
    found = first_passage(
        stepper, cloud, wall, steps=steps, generator=generator, progress=lambda a, b: move(a, b)
    )
    time, uncertain, error = exact
    # A quarter of the mean is several relaxation times of the wells: exponential from then on.
    seen = mean_passage_time(found, exponential_after=time / 4)
    bias = uncertain + abs(error) * world.dt
    record(run, Comparison(f"Mean passage {name}", seen, time, bias, "plane grid"))

    surface = world.surface
    way = string_method(surface, torch.tensor(start), torch.tensor(target), images=61)
    kramers = escape_time(surface, way, 1.0)
    ends = surface.energy(torch.tensor([start, target], dtype=torch.float64))
    # As the document "langevin" estimates a barrier: 0 where the target lies lower.
    published = escape_time_langevin(max(float(ends[1] - ends[0]), 0.0), 1.0)
    plane = _up_to(world, 0.06, coordinate, place)
    key = "survival" if route is _THERE else "survival_back"
    record(
        run,
        survival(key, name, found, plane, start, kramers, published),
        Comparison(
            f"Eyring-Kramers time {name}",
            Estimate.plain(kramers.value) if math.isfinite(kramers.value) else kramers,
            time,
            source="plane grid; the formula is asymptotic, over one saddle",
        ),
        Comparison(
            f"Escape time as published, {name}",
            Estimate.exact(published),
            time,
            source="plane grid",
            published=True,
        ),
    )


# ------------------------------------------------------------------ relaxation


def _wells(x: Tensor) -> tuple[Tensor, Tensor]:
    """Whether points (..., 2) lie in the deepest or in the second well: cut across the saddles."""
    found = []
    for saddle, side in zip(_UNIT.saddles, (_A, _B), strict=True):
        at = torch.tensor([saddle], dtype=torch.float64)
        _, vectors = torch.linalg.eigh(_UNIT.hessian(at)[0])
        across = vectors[:, 0]  # the unstable direction
        towards = float((torch.tensor(side, dtype=torch.float64) - at[0]) @ across)
        along = (x.double() - at[0]) @ (across * math.copysign(1.0, towards))
        found.append(along > 0)
    return found[0], found[1] & ~found[0]


def _relaxation(
    world: MullerBrownWorld, run: Run, generator: torch.Generator, move: Progress
) -> None:
    """A cloud leaves the deepest well; shares against the grid and the Gibbs law."""
    surface = world.surface
    bottom = torch.tensor(_A, dtype=torch.float64)
    cloud = torch.randn(world.particles, 2, generator=generator, dtype=torch.float64)
    cloud = cloud * _SPREAD + bottom
    grid = _plane(world, 0.05, _BOX)
    x, y = grid.axes
    apart = (x[:, None] - _A[0]) ** 2 + (y - _A[1]) ** 2
    density = np.exp(-apart / (2 * _SPREAD**2))
    density /= total_mass(grid, density)
    at = torch.from_numpy(np.stack(np.meshgrid(x, y, indexing="ij"), -1))
    masks = [mask.numpy().astype(float) for mask in _wells(at)]
    lowest = float(surface.energy(bottom[None])[0])
    fields = [*masks, surface.energy(at).numpy() - lowest]
    names = list(_TITLES)
    steps = round(world.time / world.dt)
    records = np.unique(np.linspace(0, steps, world.records).round().astype(int))[1:]
    stepper = EulerMaruyama(Langevin(surface, 1.0), world.dt)
    seen: dict[str, list[Estimate]] = {name: [] for name in names}
    exact: dict[str, list[float]] = {name: [] for name in names}
    pool, before = [], 0
    every = max(1, int(records[0]) // 50)
    for step in records.tolist():
        path = integrate(stepper, cloud, step - before, generator=generator, every=every)
        cloud = path.state[0]
        density = evolve(grid, density, (step - before) * world.dt, method="tr_bdf2", steps=8)
        deepest, second = _wells(cloud)
        found = {
            "cloud/deepest": proportion(int(deepest.sum()), len(cloud)),
            "cloud/second": proportion(int(second.sum()), len(cloud)),
            "cloud/energy": measured(surface.energy(cloud) - lowest),
        }
        run.append(step, found)
        for name, field in zip(names, fields, strict=True):
            seen[name].append(found[name])
            exact[name].append(float((density * grid.volume * field).sum()))
        if step > steps // 2:
            pool.append(path.values[1:].reshape(-1, 2))
        before = step
        move(step, steps)
    law = stationary(grid)
    gibbs = [float((law * grid.volume * field).sum()) for field in fields]
    for name, field, true in zip(names, fields, gibbs, strict=True):
        error = stationary_error(grid, surface, 1.0, law, field) * world.dt
        # What has not relaxed yet, by the grid, and what Euler's step does to the Gibbs law.
        bias = abs(exact[name][-1] - true) + abs(error)
        label = f"{_TITLES[name][0]}, t = {world.time:g}"
        record(run, Comparison(label, seen[name][-1], true, bias, "Gibbs law"))
    times = (records * world.dt).tolist()
    record(run, _shares(times, seen, exact, gibbs), _density(world, torch.cat(pool)))


def _crossing(world: MullerBrownWorld, generator: torch.Generator) -> Tensor:
    """A path from the deepest to the second well, from where it leaves the one for good.

    Returns:
        (k, 2) Positions, five steps apart.
    """
    stepper = EulerMaruyama(Langevin(world.surface, 1.0), world.dt)
    cloud = torch.tensor([_A]).expand(40, 2).contiguous()
    found = integrate(stepper, cloud, round(10 / world.dt), generator=generator, every=5).values
    deepest, second = _wells(found)
    first = torch.where(second.any(0), second.int().argmax(0), len(found) - 1)
    which = int(first.argmin())
    arrived = int(first[which])
    inside = deepest[:arrived, which].nonzero()
    left = int(inside[-1]) if len(inside) else 0
    around = round(0.1 / world.dt)  # half a unit of time in either well
    return found[max(0, left - around) : arrived + around, which]


def _shares(
    times: list[float],
    seen: dict[str, list[Estimate]],
    exact: dict[str, list[float]],
    gibbs: list[float],
) -> Figure:
    curves, solved = [], []
    for name, label in (("cloud/deepest", "deepest well"), ("cloud/second", "second well")):
        curves.append(measured_curve(label, times, seen[name]))
        solved.append(Curve(f"{label}, grid", times, exact[name], look="dashed"))
    for value, label in zip(gibbs[:2], ("deepest", "second"), strict=True):
        curves.append(Curve(f"Gibbs, {label}", [times[0], times[-1]], [value] * 2))
    caption = (
        "Particles that started in the deepest well, the solution of the Fokker-Planck equation "
        "in the plane, and where it ends. A well reaches to the line across its saddle."
    )
    return Figure(
        "shares", "Shares of the wells", "time", "share", (*curves, *solved), caption=caption
    )


# ------------------------------------------------------------------ pictures


def _view() -> tuple[Array, Array]:
    return np.linspace(-1.6, 1.2, 71), np.linspace(-0.5, 2.1, 53)


def _energies(world: MullerBrownWorld) -> tuple[Array, Array, Array]:
    """Edges, and the energy in the middle of the cells; none where it is high."""
    x, y = _view()
    middle = [torch.from_numpy((e[1:] + e[:-1]) / 2) for e in (x, y)]
    at = torch.stack(torch.meshgrid(*middle, indexing="xy"), -1)
    bottom = float(world.surface.energy(torch.tensor([_A], dtype=torch.float64))[0])
    energy = world.surface.energy(at).numpy()
    energy[energy > bottom + _SHOWN * world.barrier] = np.nan
    return x, y, energy


def _landscape(world: MullerBrownWorld, way: Barrier, taken: Tensor) -> Figure:
    x, y, energy = _energies(world)
    field = Field(x.tolist(), y.tolist(), energy.tolist(), label="energy / T")
    inside = (taken > torch.tensor([x[0], y[0]])) & (taken < torch.tensor([x[-1], y[-1]]))
    kept = taken.where(inside.all(1, keepdim=True), torch.full_like(taken, torch.nan))
    points = [np.array(group).T.tolist() for group in (_UNIT.saddles, _UNIT.minima)]
    curves = (
        Curve("a particle", kept[:, 0].tolist(), kept[:, 1].tolist()),
        Curve("path of least resistance", *way.path.T.tolist(), look="dashed"),
        Curve("saddles", *points[0], look="points"),
        Curve("wells", *points[1], look="points"),
    )
    caption = "A particle that crossed, and the path of the string method between two wells."
    return Figure("landscape", "Landscape", "x", "y", curves, field=field, caption=caption)


def _profile(world: MullerBrownWorld, way: Barrier) -> Figure:
    legs = (way.path[1:] - way.path[:-1]).norm(dim=1)
    along = torch.cat([legs.new_zeros(1), legs.cumsum(0)]).tolist()
    energies = (way.energies - way.energies[0]).tolist()
    top = [world.barrier] * 2
    curves = (
        Curve("energy", along, energies),
        Curve("saddle", [0.0, along[-1]], top, look="dashed"),
    )
    caption = "From the deepest to the second well; the dip between is the third."
    return Figure("profile", "Along the path", "length", "energy / T", curves, caption=caption)


def _height(world: MullerBrownWorld, way: Barrier) -> Comparison:
    label, source = "Barrier by the string method, in T", "Newton's method at the saddle"
    if not way.height.flags:  # energies of about 10 T in float64: the rest is rounding
        height, exact = round(way.height.value, 9), round(world.barrier, 9)
        return Comparison(label, Estimate.exact(height), exact, source=source)
    return Comparison(label, way.height, world.barrier, source=source)


def _density(world: MullerBrownWorld, pool: Tensor) -> Figure:
    """Energy recovered from where the particles were: -log of their density."""
    x, y, energy = _energies(world)
    counts, _, _ = np.histogram2d(pool[:, 1].numpy(), pool[:, 0].numpy(), bins=[y, x])
    with np.errstate(divide="ignore"):
        seen = np.where(counts > 0, -np.log(counts / counts.max()), np.nan)
    # Both are known up to a constant, which the cells with many particles fix.
    often = (counts > 0.05 * counts.max()) & np.isfinite(energy)
    seen += float((energy - seen)[often].mean())
    seen[seen > np.nanmax(energy)] = np.nan
    good = (counts > 0.01 * counts.max()) & np.isfinite(energy + seen)
    miss = float(np.sqrt(np.mean((seen - energy)[good] ** 2)))
    field = Field(x.tolist(), y.tolist(), seen.tolist(), label="−log density, shifted")
    caption = (
        f"Of {len(pool):,} places in the second half of the run, whose neighbours in time are not "
        f"independent. Where cells hold more than 1 % of the fullest, it misses the energy by "
        f"{miss:.2f} T."
    )
    figure = "Energy as the particles show it"
    return Figure("density", figure, "x", "y", field=field, caption=caption)
