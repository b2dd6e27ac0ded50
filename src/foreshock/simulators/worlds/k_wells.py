"""Many wells in a row: who arrives in the deepest one, with resets, without, and while cooling."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from foreshock.simulators.door import Array
from foreshock.simulators.dynamics import Langevin
from foreshock.simulators.exact_published import published_reset_count
from foreshock.simulators.landscapes import KWells
from foreshock.simulators.particles import Engine, State, step
from foreshock.simulators.passage import coordinate_boundary, first_passage
from foreshock.simulators.resets import CloudReset, PointReset, jumped
from foreshock.simulators.schedules import Constant, Exponential, Logarithmic, Schedule, Schedules
from foreshock.simulators.sde import EulerMaruyama, Stepper, integrate
from foreshock.simulators.worlds.recorded import Progress, measured, stages, started, told
from foreshock.simulators.worlds.row_of_wells import Moments, Row, passage_exact, passage_of_chain
from foreshock.stats.intervals import jackknife_se, t_quantile
from foreshock.stats.sample import mean_interval
from foreshock.store import Comparison, Curve, Field, Figure, Run, record
from foreshock.types import Estimate

#: Share and stretch of a reset of the cloud, as the document "fokker_planck" sets them.
_FRACTION, _STRETCH = 0.2, 1.5
#: Resets of the cloud while it relaxes.
_EVENTS = 8
#: Both coolings start at this many barriers; the freezing one has this share of the time as tau.
_HOT, _FREEZING = 2.5, 0.1
#: Reset rates from the neighbour and from the far end, in units of 1/(mean time without resets).
_RATES = ((1.0, 4.0), (0.5, 1.5))


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
        moves = stages(progress, [total, total, total, total, 2 * total, 2 * total])
        _relaxation(self, run, generator, moves[0])
        _landscape(self, run, generator)
        _cloud_resets(self, run, generator, moves[1])
        _cooling(self, run, generator, moves[2:4])
        _searches(self, run, generator, moves[4:])
        return run


def _times(world: KWellsWorld) -> list[int]:
    """Steps at which the cloud is measured."""
    total = round(world.time / world.dt)
    return np.unique(np.geomspace(10, total, world.records).round().astype(int)).tolist()


def _start(world: KWellsWorld, well: int = 0, count: int | None = None) -> Tensor:
    x = torch.zeros(count or world.particles, world.dimension)
    x[:, 0] = world.row.centres[well]
    return x


# ------------------------------------------------------------------ at a fixed temperature


def _relaxation(world: KWellsWorld, run: Run, generator: torch.Generator, move: Progress) -> None:
    """Occupation of the wells from the first one on, against the grid and Gibbs' weights."""
    wells, row, at = world.potential, world.row, _times(world)
    stepper = EulerMaruyama(Langevin(wells, world.temperature), world.dt)
    cloud, before = _start(world), 0
    shares: list[list[Estimate]] = [[] for _ in range(world.wells)]
    energies = []
    for now in at:
        path = integrate(stepper, cloud, now - before, generator=generator, every=now - before)
        cloud, before = path.values[-1], now
        weights = wells.weights(cloud)
        energies.append(measured(wells.energy(cloud)))
        for k in range(world.wells):
            shares[k].append(measured(weights[:, k]))
        named = {f"cloud/well_{k + 1}": shares[k][-1] for k in range(world.wells)}
        run.append(now, named | {"cloud/energy": energies[-1]})
        move(now, at[-1])
    grid, chain = row.follow(Constant(world.temperature), world.dt, at)
    times = [world.dt * step for step in at]
    shown = sorted({0, 1, world.wells - 2, world.wells - 1})
    seen = [
        Curve(
            f"well {k + 1}",
            times,
            *([getattr(e, end) for e in shares[k]] for end in ("value", "low", "high")),
            look="points",
        )
        for k in shown
    ]
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
    path = integrate(stepper, _start(world, 0, 1), steps, generator=generator, every=steps // 400)
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


# ------------------------------------------------------------------ resets of the cloud


def _engine_shares(
    world: KWellsWorld,
    engine: Engine,
    at: Sequence[int],
    generator: torch.Generator,
    move: Progress,
) -> list[Estimate]:
    """Share in the deepest well at some steps of the engine."""
    state, found = State(_start(world)), []
    wanted = set(at)
    for now in range(1, at[-1] + 1):
        state = step(engine, state, generator)
        if now in wanted:
            found.append(measured(world.potential.weights(state.z)[:, -1]))
            move(now, at[-1])
    return found


def _cloud_resets(world: KWellsWorld, run: Run, generator: torch.Generator, move: Progress) -> None:
    """The published reset of the cloud, at planned times, beside no reset."""
    at, row = _times(world), world.row
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
    figure = told(
        "cloud_resets",
        "The deepest well, with and without resets of the cloud",
        "time",
        "share",
        times,
        seen,
        grid.shares[:, -1].tolist(),
        log_x=True,
    )
    without = Curve("no resets, exact", times, plain.shares[:, -1].tolist())
    labels = [
        Curve("with resets, exact", *_parts(figure.curves[0]), look="dashed"),
        *[Curve("with resets, 95 %", times, *_ends(seen), look="points")],
        without,
    ]
    caption = (
        f"At {_EVENTS} times {_FRACTION:.0%} of the particles are redrawn from a Gaussian with the "
        f"mean and {_STRETCH:g} times the covariance of the cloud, as published. That moves "
        "particles over barriers, and out of the deepest well as well."
    )
    record(
        run,
        Figure(figure.name, figure.title, figure.x, figure.y, labels, log_x=True, caption=caption),
        Comparison(
            f"Share in the deepest well after {_EVENTS} resets of the cloud",
            seen[-1],
            float(grid.shares[-1, -1]),
            abs(float(chain.shares[-1, -1] - grid.shares[-1, -1])),
            "grid solution",
        ),
    )


def _parts(curve: Curve) -> tuple[Sequence[float], Sequence[float]]:
    return curve.x, curve.y


def _ends(values: Sequence[Estimate]) -> list[list[float]]:
    return [[getattr(e, end) for e in values] for end in ("value", "low", "high")]


# ------------------------------------------------------------------ cooling


def _cooling(
    world: KWellsWorld, run: Run, generator: torch.Generator, moves: Sequence[Progress]
) -> None:
    """Published exponential cooling freezes; with c/log(e + t) the cloud goes on to the bottom."""
    row, at = world.row, _times(world)
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
        curves.append(Curve(f"{name}, 95 %", times, *_ends(seen), look="points"))
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


def _searches(
    world: KWellsWorld, run: Run, generator: torch.Generator, moves: Sequence[Progress]
) -> None:
    """Time to the deepest well from its neighbour and from the far end, over the reset rate."""
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
            reset = PointReset(_start(world, well, 1)[0], rate) if rate else None
            found = first_passage(
                stepper if reset is None else Returning(stepper, reset),
                _start(world, well, count),
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
        scaled = [[v / free.mean for v in part] for part in _ends(means)]
        shown = [0.1 if not r else r * free.mean for r in rates]
        curves.append(Curve(f"{label}, 95 %", shown, *scaled, look="points"))
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


def _spread(run: Run, well: int, times: Array, exact: Moments, chain: Moments) -> None:
    """Coefficient of variation of passage times, by the jackknife over 20 groups."""
    fold = np.arange(times.size) % 20
    variation: Callable[[Array], float] = lambda t: float(t.std(ddof=1) / t.mean())  # noqa: E731
    parts = [variation(times[fold != g]) for g in range(20)]
    value, half = variation(times), t_quantile(19) * float(jackknife_se(parts))
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
