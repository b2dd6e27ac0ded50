"""Rings: a force keeps a current flowing; noise that varies with the place does not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from foreshock.density import fit_score, flow
from foreshock.simulators.door import Array
from foreshock.simulators.dynamics import Langevin
from foreshock.simulators.exact_linear import ring_entropy_production, tilted_ring_velocity
from foreshock.simulators.eyring_kramers import eyring_kramers_rate
from foreshock.simulators.grid import drift_grid
from foreshock.simulators.grid_entropy import entropy_production
from foreshock.simulators.grid_solvers import stationary
from foreshock.simulators.landscapes import TiltedRing
from foreshock.simulators.sde import EulerMaruyama, integrate
from foreshock.simulators.sde import Progress as Step
from foreshock.simulators.worlds.euler_chain import chain_stationary
from foreshock.simulators.worlds.recorded import (
    Progress,
    density_curve,
    measured,
    measured_curve,
    stages,
    started,
    told,
)
from foreshock.simulators.worlds.ring_noise import (
    PLACES,
    TURN,
    crossings,
    drawn,
    ring_kernel,
    ring_nodes,
    unequal_noise,
)
from foreshock.store import Comparison, Curve, Figure, Run, record
from foreshock.types import Estimate

#: Record at which the driven cloud is compared while it is not yet uniform.
_EARLY = 1
#: Variance at the start of the driven cloud.
_SPREAD = 0.1
#: Tilts of the figure, in units of the corrugation: below 1 there are barriers, above none.
_TILTS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)


@dataclass(frozen=True, slots=True)
class RingWorld:
    """An angle driven round by a force, smoothly and over barriers; and one with D(x), undriven.

    dx = (f + a sin x) dt + sqrt(2 D) dW, first with a = 0; then dx = sqrt(2 D(x)) dW (Itô) with
    D(x) = 1 + c sin x.

    Args:
        force: f, energy per radian, at mobility 1.
        diffusion: D of the driven ring, its temperature.
        corrugation: a, of the ring with barriers.
        contrast: c, between 0 and 1.
        particles: n; four times as many on the ring with D(x).
        dt: Step of Euler-Maruyama.
        time: How long the driven ring runs.
        records: How often it is measured.
        seed: Of all noise.

    Raises:
        ValueError: If a number is out of range.
    """

    force: float = 1.0
    diffusion: float = 0.5
    corrugation: float = 1.0
    contrast: float = 0.5
    particles: int = 3000
    dt: float = 0.01
    time: float = 20.0
    records: int = 21
    seed: int = 0

    def __post_init__(self) -> None:
        positive = ("force", "diffusion", "corrugation", "dt", "time")
        if any(not 0 < getattr(self, name) < math.inf for name in positive):
            raise ValueError(
                "`force`, `diffusion`, `corrugation`, `dt` and `time` of the world `ring` must be "
                "positive and finite. A force the other way round is the mirror image."
            )
        if not 0 < self.contrast <= 0.8:
            raise ValueError(
                "The `contrast` of the world `ring` must be above 0, or D does not depend on the "
                f"place, and at most 0.8, or four harmonics do not fit. Got {self.contrast}."
            )
        if self.corrugation > 6 * self.diffusion:
            raise ValueError(
                "The `corrugation` of the world `ring` must be at most 6 `diffusion`, or nothing "
                f"gets over the barriers. Got {self.corrugation} and {self.diffusion}."
            )
        rate = max(self.corrugation, 1.0)
        low = 2.5e-4 / min(self.diffusion, 1 - self.contrast)
        if not low <= self.dt <= 0.1 / rate or self.time < 20 * self.dt:
            raise ValueError(
                f"The `dt` of the world `ring` must lie between {low:.2g}, below which its own "
                f"error cannot be tabulated, and {0.1 / rate:.2g}, and below 1/20 of `time`. "
                f"Got {self.dt:g}."
            )
        if self.particles < 500 or self.records < 3:
            raise ValueError(
                "The world `ring` needs at least 500 `particles` and 3 `records`. "
                f"Got {self.particles} and {self.records}."
            )

    def run(self, path: str | Path, *, progress: Progress | None = None) -> Run:
        """Simulate, measure and compare.

        Args:
            path: Folder of the run.
            progress: Called with (done, total).

        Returns:
            The run, open for writing; close it.
        """
        run = started(path, "ring", self)
        for name, (title, unit, null) in _TITLES.items():
            run.declare(name, title=title, unit=unit, taken_at="all particles", null=null)
        generator = torch.Generator().manual_seed(self.seed)
        steps = round(self.time / self.dt)
        relaxed = round(10 / self.dt)
        lengths = [steps, *[steps] * len(self.tilts), relaxed, relaxed]
        moves = stages(progress, lengths)
        _driven(self, run, generator, moves[0])
        driven, velocity = _barriers(self, run, generator, moves[1:-2])
        rest = unequal_noise(run, self.contrast, 4 * self.particles, self.dt, generator, moves[-2:])
        record(run, _flux(driven, rest, velocity))
        return run

    @property
    def tilts(self) -> list[float]:
        """Forces on the ring with barriers, the configured one among them."""
        return sorted({self.force, *(share * self.corrugation for share in _TILTS)})


_TITLES = {
    "cloud/velocity": ("Mean velocity since the start", "rad / time", "0 without a force"),
    "latent/entropy_production": ("Entropy production", "nats / time", "0"),
    "latent/entropy_rate": ("Rate of the entropy, dH/dt", "nats / time", "0"),
}


# ------------------------------------------------------------------ a constant force


def _driven(world: RingWorld, run: Run, generator: torch.Generator, move: Progress) -> None:
    """A cloud driven round: Gaussian along the unrolled angle at every time."""
    f, d, n = world.force, world.diffusion, world.particles
    # Euler's step is exact for a constant drift: no bias anywhere in this part.
    stepper = EulerMaruyama(Langevin(TiltedRing(f), d), world.dt)
    start = torch.randn(n, 1, generator=generator, dtype=torch.float64) * math.sqrt(_SPREAD)
    cloud, before = start, 0
    total = round(world.time / world.dt)
    at = np.unique(np.linspace(0, total, world.records).round().astype(int))[1:]
    rows: dict[str, list[Estimate]] = {name: [] for name in _TITLES}
    clouds = []
    for step in at.tolist():
        cloud = integrate(stepper, cloud, step - before, generator=generator).values[-1]
        drift = torch.full_like(cloud, f)
        seen = flow(fit_score(cloud), drift, d, divergence_drift=torch.zeros(n), bounds=False)
        found = {
            "cloud/velocity": measured((cloud - start)[:, 0] / (step * world.dt)),
            "latent/entropy_production": seen.entropy_production,
            "latent/entropy_rate": seen.entropy_rate,
        }
        run.append(step, found)
        for name, value in found.items():
            rows[name].append(value)
        clouds.append(cloud[:, 0].numpy())
        before = step
        move(step, total)
    times = at * world.dt
    spread = _SPREAD + 2 * d * times
    steady = ring_entropy_production(f, d)
    truths = {
        "cloud/velocity": np.full(len(times), f),
        "latent/entropy_production": steady + d / spread,
        "latent/entropy_rate": d / spread,
    }
    captions = {
        "cloud/velocity": "Displacement over time; the force is the velocity at mobility 1.",
        "latent/entropy_production": (
            f"It stays at f²/D = {steady:.3g} for ever: a current flows. On top of it comes D/s, "
            "the spreading of the unrolled angle, whose variance s grows."
        ),
        "latent/entropy_rate": (
            "The published entropy production, ∫ J·∇log ρ, is minus this: it vanishes while the "
            "force goes on dissipating."
        ),
    }
    for name, values in rows.items():
        title, unit, _ = _TITLES[name]
        exact = truths[name].tolist()
        figure = told(
            name, title, "time", unit, times.tolist(), values, exact, caption=captions[name]
        )
        label = f"{title}, t = {times[-1]:g}"
        record(run, figure, Comparison(label, values[-1], exact[-1], source="closed form"))
    cosine = math.exp(-spread[_EARLY] / 2) * math.cos(f * times[_EARLY])
    record(
        run,
        Comparison(
            "Entropy production as published, ∫ J·∇log ρ",
            rows["latent/entropy_rate"][-1].times(-1),
            steady,
            source="f²/D",
            published=True,
        ),
        Comparison(
            f"Mean of cos x, t = {times[_EARLY]:g}",
            measured(torch.from_numpy(np.cos(clouds[_EARLY]))),
            cosine,
            source="wrapped normal law",
        ),
        _wrapped(times, clouds, f, spread),
    )


def _wrapped(times: Array, clouds: list[Array], force: float, spread: Array) -> Figure:
    edges = np.linspace(0, TURN, 41)
    fine = np.linspace(0, TURN, 201)
    seen, exact = [], []
    for i in dict.fromkeys([0, min(2, len(times) - 2), len(times) - 1]):
        seen.append(density_curve(f"t = {times[i]:.3g}", np.mod(clouds[i], TURN), edges))
        turns = TURN * np.arange(-30, 31)[:, None]
        apart = np.remainder(fine - force * times[i], TURN) + turns
        law = np.exp(-(apart**2) / (2 * spread[i])).sum(0) / math.sqrt(TURN * spread[i])
        exact.append(Curve(f"exact, {times[i]:.3g}", fine.tolist(), law.tolist(), look="dashed"))
    flat = Curve("uniform", [0.0, TURN], [1 / TURN] * 2)
    caption = "Histograms with 95 % bands over the wrapped normal law; it ends uniform."
    return Figure(
        "density_driven",
        "Density of the driven angle",
        "angle",
        "density",
        (*seen, flat, *exact),
        caption=caption,
    )


# ------------------------------------------------------------------ a force over barriers


def _as_step(move: Progress) -> Step:
    return lambda done, total: move(done, total)


def _barriers(
    world: RingWorld, run: Run, generator: torch.Generator, moves: list[Progress]
) -> tuple[list[Estimate], float]:
    """Velocity against force in V = a cos x, started in the stationary state of the chain.

    Returns:
        Flux under the configured force, and its exact mean velocity.
    """
    a, d = world.corrugation, world.diffusion
    steps = round(world.time / world.dt)
    nodes = ring_nodes(d, world.dt)
    seen, exact, flux, own = [], [], [], math.nan
    for force, move in zip(world.tilts, moves, strict=True):
        kernel = ring_kernel(
            nodes, lambda x, f=force: f + a * np.sin(x), lambda x: d + 0 * x, world.dt
        )
        law = chain_stationary(kernel)
        start = drawn(nodes, law, world.particles, generator)
        stepper = EulerMaruyama(Langevin(TiltedRing(force, a), d), world.dt)
        kept = max(1, steps // 400) if force == world.force else steps
        path = integrate(
            stepper, start, steps, generator=generator, every=kept, progress=_as_step(move)
        )
        end, span = path.values[-1], float(path.times[-1])
        velocity = measured((end - start)[:, 0] / span)
        truth = tilted_ring_velocity(lambda x: a * np.cos(x), force, d)
        # The chain's mean velocity is its mean drift.
        bias = abs(float(law @ (force + a * np.sin(nodes))) - truth)
        label = f"Velocity over barriers, force {force:g}"
        record(run, Comparison(label, velocity, truth, bias, "Stratonovich's formula"))
        seen.append(velocity)
        exact.append(truth)
        if force == world.force:
            record(run, _paths(path.times, path.values, truth))
            flux, own = crossings(start, end, span), truth
            record(run, _dissipation(world, velocity, bias))
        move(steps, steps)
    fine = np.linspace(0, world.tilts[-1], 61)
    formula = [tilted_ring_velocity(lambda x: a * np.cos(x), f, d) if f else 0.0 for f in fine]
    curves = [
        Curve("exact", fine.tolist(), formula, look="dashed"),
        measured_curve("particles, 95 %", world.tilts, seen),
        Curve("without barriers", fine.tolist(), fine.tolist()),
    ]
    hops = [hopping_velocity(a, float(f), d) for f in fine]
    if not all(map(math.isnan, hops)):
        curves.append(Curve("Eyring-Kramers hops", fine.tolist(), hops))
    caption = (
        f"Barriers of height 2a = {2 * a:g} = {2 * a / d:.3g} D hold the angle back until the "
        f"force exceeds a = {a:g}. Where one is at least 1 D high, hops by the formula of Eyring "
        "and Kramers, forward less backward: it is for barriers of several D."
    )
    record(
        run,
        Figure("velocity", "Velocity against force", "force", "velocity", curves, caption=caption),
    )
    return flux, own


def hopping_velocity(corrugation: float, force: float, diffusion: float) -> float:
    """Mean velocity if the angle hops over its barriers at the rates of Eyring and Kramers.

    Args:
        corrugation: a of V = a cos x - f x.
        force: f.
        diffusion: D, the temperature at mobility 1.

    Returns:
        2 pi (rate forward - rate backward); nan where the lower barrier is less than 1 D.

    Examples:
        >>> hopping_velocity(1.0, 0.0, 0.25), hopping_velocity(1.0, 2.0, 0.25)
        (0.0, nan)
    """
    if not 0 <= force < corrugation:
        return math.nan
    # V'' is this at the well, and minus this at the top.
    curvature = math.sqrt(corrugation**2 - force**2)
    forward = 2 * curvature - force * (math.pi - 2 * math.asin(force / corrugation))
    if forward < diffusion:
        return math.nan
    there, back = (
        eyring_kramers_rate(curvature, curvature, height, diffusion)
        for height in (forward, forward + TURN * force)
    )
    return TURN * (there - back)


def _paths(times: Tensor, values: Tensor, velocity: float) -> Figure:
    curves = [
        Curve(f"particle {i + 1}", times.tolist(), values[:, i, 0].tolist()) for i in range(3)
    ]
    line = (values[0, :3].mean() + velocity * times).tolist()
    curves.append(Curve("mean velocity", times.tolist(), line, look="dashed"))
    caption = "The unrolled angle; a step of 2π is one barrier."
    return Figure("trajectories", "Over the barriers", "time", "angle", curves, caption=caption)


def _flux(driven: list[Estimate], rest: list[Estimate], velocity: float) -> Figure:
    places = PLACES.tolist()
    curves = [Curve("exact, driven", places, [velocity / TURN] * len(places), look="dashed")]
    for label, seen in (("driven over barriers", driven), ("undriven, with D(x)", rest)):
        curves.append(measured_curve(label, places, seen))
    curves.append(Curve("exact, undriven", places, [0.0] * len(places), look="dashed"))
    caption = (
        "Net crossings of an angle. In a steady state the flux is the same everywhere, the "
        "velocity over 2π: that its divergence vanishes is no sign of rest."
    )
    return Figure("flux", "Flux", "angle", "crossings / time", curves, caption=caption)


def _dissipation(world: RingWorld, velocity: Estimate, bias: float) -> Comparison:
    """Work of the force over temperature, against Schnakenberg's sum on two grids."""
    a, f, d = world.corrugation, world.force, world.diffusion
    found = []
    for count in (400, 800):
        x = np.arange(count) * (TURN / count)
        grid = drift_grid(x, f + a * np.sin(x), d, period=TURN)
        found.append(entropy_production(grid, stationary(grid)))
    # Of second order: the finer grid is off by a third of the difference.
    exact = found[1] + (found[1] - found[0]) / 3
    scale = f / d
    error = bias * scale + abs(found[1] - found[0]) / 3
    label = "Entropy production over barriers, f v/T"
    return Comparison(label, velocity.times(scale), exact, error, "Schnakenberg, on a grid")
