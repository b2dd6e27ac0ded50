"""Stable noise: jumps of every length, and what they do to a law, to an exit and to an escape."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from foreshock.simulators.dynamics import GradientFlow
from foreshock.simulators.exact_levy import (
    cauchy_quartic_density,
    imkeller_pavlyukevich_rate,
    ou_levy_scale,
)
from foreshock.simulators.grid_fractional import stable_grid, stable_stationary
from foreshock.simulators.levy import StableNoise, isotropic_stable
from foreshock.simulators.potentials import Quadratic, Quartic
from foreshock.simulators.sde import EulerMaruyama, integrate
from foreshock.simulators.steppers import CubicSplitting
from foreshock.simulators.worlds.recorded import (
    Progress,
    density_curve,
    measured,
    stages,
    started,
    told,
)
from foreshock.simulators.worlds.stable_chain import quartic_chain
from foreshock.simulators.worlds.stable_exits import BOWLS, SCALES, STARTS, escapes, exits
from foreshock.stats.sample import proportion
from foreshock.store import Comparison, Curve, Figure, Run, record
from foreshock.types import Estimate

#: Time of the cloud in the quartic, in which the slowest mode falls to about e^-10.
_SETTLED = 10.0


@dataclass(frozen=True, slots=True)
class LevyWorld:
    """Motion driven by isotropic alpha-stable noise, E exp(i k.L_t) = exp(-t |k|^alpha).

    Four settings with exact answers: the stationary law on x^4/4 (Cauchy noise), the scale in a
    bowl, the time to leave a ball, and the rate of leaving a bowl under weak noise.

    Args:
        alpha: Index of the last three settings, 1.2 to 1.8: below, a step of the time `dt` is too
            narrow for the tables of its own error; above, the weak noise hardly ever escapes.
        particles: n.
        dt: Step in the first two settings; half of it on the disc, and twice it, in relaxation
            times, under weak noise.
        noise: Smallest scale of the weak noise, 0.05 to 0.1.
        records: How often the scale in the bowl is measured.
        seed: Of all noise.

    Raises:
        ValueError: If a number is out of range.
    """

    alpha: float = 1.5
    particles: int = 8000
    dt: float = 0.02
    noise: float = 0.05
    records: int = 12
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1.2 <= self.alpha <= 1.8:
            raise ValueError(
                f"The `alpha` of the world `levy` must be 1.2 to 1.8. Got {self.alpha:g}. At 2 the "
                "noise is Brownian: use the world `double-well`."
            )
        if not 0.005 <= self.dt <= 0.05:
            raise ValueError(
                f"The `dt` of the world `levy` must be 0.005 to 0.05. Got {self.dt:g}."
            )
        if not 0.05 <= self.noise <= 0.1:
            raise ValueError(
                f"The `noise` of the world `levy` must be 0.05 to 0.1. Got {self.noise:g}: below, "
                "an escape takes too long; above, the noise is not weak."
            )
        if self.particles < 200 or self.records < 3:
            raise ValueError(
                "The world `levy` needs at least 200 `particles` and 3 `records`. "
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
        run = started(path, "levy", self)
        run.declare(
            "cloud/scale",
            title="Scale of the stable law in the bowl",
            unit="length",
            taken_at="all particles",
            null="that of its stationary law, 1/α^(1/α)",
        )
        generator = torch.Generator().manual_seed(self.seed)
        pairs = [(stiffness, self.noise * factor) for stiffness in BOWLS for factor in SCALES]
        lengths = [round(_SETTLED / self.dt), 200, 100 * len(STARTS)]
        moves = stages(progress, [*lengths, *(self.escape_steps(*pair) for pair in pairs)])
        _paths(self, run, generator)
        _quartic(self, run, generator, moves[0])
        _bowl(self, run, generator, moves[1])
        exits(self, run, generator, moves[2])
        escapes(self, run, generator, pairs, moves[3:])
        return run

    def escape_step(self, stiffness: float) -> float:
        """Step in a bowl of the weak noise, 2 `dt` relaxation times."""
        return 2 * self.dt / stiffness

    def escape_rate(self, scale: float) -> float:
        """Of the weak-noise limit, out of (-1, 1)."""
        return imkeller_pavlyukevich_rate(self.alpha, scale, 1.0, 1.0)

    def escape_steps(self, stiffness: float, scale: float) -> int:
        """Steps of one mean escape time, after a few relaxation times."""
        time = 1 / self.escape_rate(scale) + 5 / stiffness
        return math.ceil(time / self.escape_step(stiffness))


# ------------------------------------------------------------------ a path


def _paths(world: LevyWorld, run: Run, generator: torch.Generator) -> None:
    """Free motion in the plane, stable and Brownian, of one scale."""
    curves = []
    for label, alpha in (("Brownian", 2.0), (f"stable, α = {world.alpha:g}", world.alpha)):
        jumps = isotropic_stable(1500, 2, alpha, generator=generator)
        path = torch.cumsum(jumps * world.dt ** (1 / alpha), 0)[::3]
        curves.append(Curve(label, path[:, 0].tolist(), path[:, 1].tolist()))
    caption = (
        f"1,500 steps of {world.dt:g} each, every third drawn. Of stable noise a few jumps make "
        "most of the way, whatever the scale at which one looks."
    )
    record(run, Figure("paths", "Free motion in the plane", "x", "y", curves, caption=caption))


# ------------------------------------------------------------------ quartic


def _quartic(world: LevyWorld, run: Run, generator: torch.Generator, move: Progress) -> None:
    """The bimodal law of Cauchy noise in a potential with one minimum."""
    steps = round(_SETTLED / world.dt)
    stepper = CubicSplitting(GradientFlow(Quartic()), world.dt, jump=StableNoise(1.0))
    start = torch.zeros(world.particles, 1, dtype=torch.float64)
    path = integrate(stepper, start, steps, generator=generator, every=steps, progress=move)
    cloud = path.values[-1][:, 0].numpy()
    edges = np.array([0.0, 0.35, 0.5, 0.9, 1.5, np.inf])
    chain = quartic_chain(world.dt, steps, edges)
    names = {0: "|x| < 0.35, the dip", 2: "0.5 < |x| < 0.9, the humps", 4: "|x| > 1.5, the flanks"}
    for place, name in names.items():
        low, high = edges[place : place + 2]
        exact = _quartic_mass(high) - _quartic_mass(low)
        inside = int(((np.abs(cloud) >= low) & (np.abs(cloud) < high)).sum())
        record(
            run,
            Comparison(
                f"Cauchy noise on x⁴/4: share with {name}",
                proportion(inside, len(cloud)),
                exact,
                # The same steps, their law summed over cells: splitting, and what is not settled.
                bias=abs(float(chain[place]) - exact),
                source="closed form",
            ),
        )
    x, density, coarse = _fractional(401), _fractional_density(401), _fractional_density(201)
    top = 1 / math.sqrt(2)
    fine_top, coarse_top = (
        float(np.interp(top, nodes, values))
        for nodes, values in ((x, density), (_fractional(201), coarse))
    )
    record(
        run,
        Comparison(
            "Height of the humps, fractional grid extrapolated",
            Estimate.exact(2 * fine_top - coarse_top),
            4 / (3 * math.pi),
            # The grid is of first order in its spacing: the last correction bounds what is left.
            bias=abs(fine_top - coarse_top),
            source="closed form, 4/3π",
        ),
    )
    drawn = np.linspace(-2.5, 2.5, 201)
    near = np.abs(x) <= 2.5
    curves = (
        Curve("exact", drawn.tolist(), cauchy_quartic_density(drawn).tolist(), look="dashed"),
        density_curve("particles, 95 %", cloud, np.linspace(-2.5, 2.5, 51)),
        Curve("fractional grid", x[near].tolist(), density[near].tolist()),
    )
    caption = (
        "The potential x⁴/4 has one minimum and the law two modes, at ±1/√2: long jumps land on "
        "the steep walls, from which everything falls back to about the same distance. Gibbs' law "
        "would have one."
    )
    record(
        run,
        Figure("quartic", "Cauchy noise on x⁴/4", "x", "density", curves, caption=caption),
    )


def _quartic_mass(x: float) -> float:
    """P(|X| < x) under 1/(pi (1 - x^2 + x^4)), by its primitive."""
    if math.isinf(x):
        return 1.0
    root = math.sqrt(3)
    turn = math.atan(2 * x - root) + math.atan(2 * x + root)
    logs = math.log((x * x + root * x + 1) / (x * x - root * x + 1))
    # 1/(1 - x^2 + x^4) in partial fractions over x^2 +- sqrt(3) x + 1.
    return 2 / math.pi * (turn / 2 + logs / (4 * root))


def _fractional(nodes: int) -> np.ndarray:
    return np.linspace(-8, 8, nodes)


def _fractional_density(nodes: int) -> np.ndarray:
    x = _fractional(nodes)
    return stable_stationary(stable_grid(x, 1.0, drift=-(x**3), ends="stopping"))


# ------------------------------------------------------------------ bowl


def _bowl(world: LevyWorld, run: Run, generator: torch.Generator, move: Progress) -> None:
    """Stable stays stable in a bowl; its scale from the characteristic function."""
    flow = GradientFlow(Quadratic(1.0, dimension=2))
    stepper = EulerMaruyama(flow, world.dt, jump=StableNoise(world.alpha))
    cloud = torch.zeros(world.particles, 2)
    at = np.unique(np.geomspace(2, 4 / world.dt, world.records).round().astype(int))
    values, truth, before = [], [], 0
    for step in at.tolist():
        path = integrate(stepper, cloud, step - before, generator=generator, every=step - before)
        cloud, before = path.values[-1], step
        exact = ou_levy_scale(1.0, world.alpha, time=step * world.dt)
        values.append(scale_of(cloud, world.alpha, exact))
        truth.append(exact)
        run.append(step, {"cloud/scale": values[-1]})
        move(round(200 * step / at[-1]), 200)
    times = (at * world.dt).tolist()
    caption = (
        f"Of x in dx = −x dt + dL, α = {world.alpha:g}, from a point: stable at every time. No "
        "variance exists; the scale is read from E cos(k x) = exp(−(scale · k)^α)."
    )
    record(
        run,
        told(
            "scale",
            "Scale in a bowl",
            "time",
            "length",
            times,
            values,
            truth,
            caption=caption,
            log_x=True,
        ),
        Comparison(
            f"Scale in a bowl, t = {times[-1]:.3g}",
            values[-1],
            truth[-1],
            bias=abs(euler_scale(world.alpha, world.dt, int(at[-1])) - truth[-1]),
            source="closed form",
        ),
    )
    wave = np.linspace(0.1, 3, 30)
    reads = [measured((cloud.double() * k).cos().mean(1)) for k in wave]
    law = np.exp(-((wave * truth[-1]) ** world.alpha))
    caption = (
        f"The same cloud at t = {times[-1]:.3g}: the whole law, not only its scale. Euler's step "
        "widens it by "
        f"{euler_scale(world.alpha, world.dt, int(at[-1])) / truth[-1] - 1:.1%}."
    )
    record(
        run,
        told(
            "characteristic",
            "Characteristic function in the bowl",
            "wave number k",
            "E cos(k x)",
            wave.tolist(),
            reads,
            law.tolist(),
            caption=caption,
        ),
    )


def scale_of(cloud: Tensor, alpha: float, guess: float) -> Estimate:
    """Scale of an isotropic stable cloud, from E cos(k x) = exp(-(s k)^alpha) at k = 1/guess.

    Args:
        cloud: (n, d) Independent particles.
        alpha: Index.
        guess: About s; a bad one costs precision, not truth.

    Returns:
        s, the interval carried through the monotone inverse.

    Examples:
        >>> x = isotropic_stable(4000, 2, 1.5, generator=torch.Generator().manual_seed(0))
        >>> found = scale_of(x, 1.5, 1.0)
        >>> found.low < 1 < found.high
        True
    """
    mean = measured((cloud.double() / guess).cos().mean(1))
    if not 0 < mean.low < mean.high < 1:
        return Estimate.missing("E cos(k x) is not resolved from 0 or 1: take another k.", n=mean.n)
    ends = [guess * (-math.log(v)) ** (1 / alpha) for v in (mean.value, mean.high, mean.low)]
    return Estimate(*ends, n=mean.n)


def euler_scale(alpha: float, dt: float, steps: int) -> float:
    """Scale of Euler's chain x' = (1 - dt) x + dt^{1/alpha} X from a point: a geometric sum.

    Args:
        alpha: Index.
        dt: Step, in relaxation times.
        steps: How many.

    Returns:
        The scale.

    Examples:
        >>> round(euler_scale(2.0, 0.5, 1000), 6)  # variance 2 s^2 = 1/(1 - dt/2)
        0.816497
    """
    kept = (1 - dt) ** alpha
    return (dt * (1 - kept**steps) / (1 - kept)) ** (1 / alpha)
