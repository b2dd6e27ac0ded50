"""A cloud that relaxes in a quadratic bowl: every observable has a closed form at every time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from foreshock.density import fit_score, flow, w2
from foreshock.simulators import exact
from foreshock.simulators.dynamics import Langevin
from foreshock.simulators.potentials import Quadratic
from foreshock.simulators.sde import integrate
from foreshock.simulators.steppers import ExactOU
from foreshock.simulators.worlds.recorded import (
    Progress,
    laws,
    measured,
    noise_of,
    started,
    told,
)
from foreshock.stats.sample import proportion
from foreshock.store import Comparison, Curve, Figure, Run, record
from foreshock.types import Estimate

#: Standard deviations that hold 95 % of a Gaussian.
_INSIDE = 1.959964
#: Particles that are drawn one by one, and points of their paths.
_DRAWN, _POINTS = 3, 300


@dataclass(frozen=True, slots=True)
class OrnsteinUhlenbeck:
    """dx = -k x dt + sqrt(2 D) dW from N(m, s): Gaussian at every time.

    Args:
        dimension: d, each direction alike.
        stiffness: k.
        diffusion: D, the temperature at mobility 1.
        start: m, in the first direction.
        spread: s, variance of each direction at the start.
        particles: n.
        time: How long, in units of time (1/k is the relaxation time).
        records: How often it is measured.
        seed: Of all noise.

    Raises:
        ValueError: If a number is out of range.
    """

    dimension: int = 2
    stiffness: float = 1.0
    diffusion: float = 0.5
    start: float = 2.0
    spread: float = 0.1
    particles: int = 2048
    time: float = 3.0
    records: int = 31
    seed: int = 0

    def __post_init__(self) -> None:
        exact_values = ("stiffness", "diffusion", "spread", "time")
        if any(not 0 < getattr(self, name) < math.inf for name in exact_values):
            raise ValueError(
                "`stiffness`, `diffusion`, `spread` and `time` of the world `ou` must be positive."
            )
        if not math.isfinite(self.start):
            raise ValueError(f"The `start` of the world `ou` must be finite. Got {self.start}.")
        least = max(100, 20 * self.dimension)
        if self.dimension < 1 or self.particles < least or self.records < 2:
            raise ValueError(
                f"The world `ou` needs a `dimension` of at least 1, at least {least} `particles` "
                f"(20 a dimension) and 2 `records`. Got {self.dimension}, {self.particles} and "
                f"{self.records}."
            )

    def run(self, path: str | Path, *, progress: Progress | None = None) -> Run:
        """Simulate, measure and compare.

        Args:
            path: Folder of the run.
            progress: Called with (done, total).

        Returns:
            The run, open for writing; close it.
        """
        generator = torch.Generator().manual_seed(self.seed)
        shape = (self.particles, self.dimension)
        cloud = torch.randn(shape, generator=generator, dtype=torch.float64) * math.sqrt(
            self.spread
        )
        cloud[:, 0] += self.start
        motion = Langevin(Quadratic(self.stiffness, dimension=self.dimension), self.diffusion)
        gap = self.time / (self.records - 1)
        stepper = ExactOU(motion, gap)
        rest = torch.randn(shape, generator=generator, dtype=torch.float64)
        rest *= math.sqrt(self.diffusion / self.stiffness)
        times = [gap * index for index in range(self.records)]
        rows: dict[str, list[Estimate]] = {}
        run = started(path, "ou", self)
        for name, (title, unit) in _TITLES.items():
            null = "0" if name in ("entropy_production", "entropy_rate", "w2") else ""
            run.declare(
                f"latent/{name}", title=title, unit=unit, taken_at="all particles", null=null
            )
        clouds: list[np.ndarray] = []
        for index in range(self.records):
            if index:
                cloud = integrate(stepper, cloud, 1, generator=generator).values[-1]
            found = self._measure(cloud, rest, generator)
            clouds.append(cloud[:, 0].numpy())
            run.append(index, {f"latent/{name}": value for name, value in found.items()})
            for name, value in found.items():
                rows.setdefault(name, []).append(value)
            if progress is not None:
                progress(index + 1, self.records)
        record(run, self._paths(), *self._law(times, clouds))
        for name, values in rows.items():
            truth = [self.truth(name, time) for time in times]
            record(run, *_compare(name, times, values, truth))
        return run

    def _line(self, time: float) -> tuple[float, float]:
        """Mean and standard deviation of the first coordinate."""
        variance = exact.ou_variance([self.spread], [self.stiffness], [self.diffusion], time)
        return self.truth("mean", time), math.sqrt(float(variance[0]))

    def _paths(self) -> Figure:
        """Some particles one by one, over the band that holds 95 % of all."""
        generator = noise_of(self.seed, "paths")
        start = torch.randn(_DRAWN, self.dimension, generator=generator, dtype=torch.float64)
        start *= math.sqrt(self.spread)
        start[:, 0] += self.start
        motion = Langevin(Quadratic(self.stiffness, dimension=self.dimension), self.diffusion)
        stepper = ExactOU(motion, self.time / _POINTS)
        path = integrate(stepper, start, _POINTS, generator=generator)
        at = path.times.tolist()
        band = np.array([self._line(time) for time in at])
        reach = _INSIDE * band[:, 1]
        exact_mean = Curve(
            "exact mean, and where 95 % are",
            at,
            band[:, 0].tolist(),
            (band[:, 0] - reach).tolist(),
            (band[:, 0] + reach).tolist(),
            look="dashed",
        )
        lines = [
            Curve(f"particle {i + 1}", at, path.values[:, i, 0].tolist()) for i in range(_DRAWN)
        ]
        caption = (
            "The exact transition of the process, not a scheme: the points of a path have the law "
            f"of the motion at any distance in time, here {self.time / _POINTS:.2g}."
        )
        title = "Particles one by one"
        curves = (exact_mean, *lines)
        return Figure("trajectories", title, "time", "first coordinate", curves, caption=caption)

    def _law(self, times: list[float], clouds: list[np.ndarray]) -> tuple[Figure | Comparison, ...]:
        """The first coordinate of the cloud over its Gaussian, and how many its band holds."""
        last = len(times) - 1
        places = sorted({0, max(1, round(last / 6)), last})
        lines = [self._line(times[i]) for i in places]
        spread = math.sqrt(self.diffusion / self.stiffness)
        ends = [mean + side * 4 * s for mean, s in (*lines, (0.0, spread)) for side in (-1, 1)]
        x = np.linspace(min(ends), max(ends), 401)

        def gaussian(mean: float, s: float) -> list[float]:
            density = np.exp(-((x - mean) ** 2) / (2 * s * s)) / (s * math.sqrt(2 * math.pi))
            return np.asarray(density).tolist()

        figure = laws(
            "density",
            "Density of the first coordinate",
            "first coordinate",
            [times[i] for i in places],
            [clouds[i] for i in places],
            np.linspace(x[0], x[-1], 71),
            x.tolist(),
            [gaussian(*line) for line in lines],
            solution="exact",
            rest=Curve("Gibbs", x.tolist(), gaussian(0.0, spread), look="dashed"),
            caption=(
                "Histograms of the particles with 95 % bands, and the Gaussian that solves the "
                "Fokker-Planck equation. It ends in the Gibbs law exp(−k x²/2D)/Z."
            ),
        )
        half = len(times) // 2
        mean, s = self._line(times[half])
        held = int((np.abs(clouds[half] - mean) < _INSIDE * s).sum())
        share = proportion(held, self.particles)
        name = f"Share of particles where 95 % are, t = {times[half]:.3g}"
        return figure, Comparison(name, share, 0.95, source="closed form")

    def _measure(
        self, cloud: torch.Tensor, rest: torch.Tensor, generator: torch.Generator
    ) -> dict[str, Estimate]:
        drift = -self.stiffness * cloud
        divergence = torch.full((len(cloud),), -self.stiffness * self.dimension).to(cloud)
        seen = flow(fit_score(cloud), drift, self.diffusion, divergence_drift=divergence)
        return {
            "mean": measured(cloud[:, 0]),
            "second_moment": measured(cloud.square().mean(1)),
            "c": seen.consolidation,
            "entropy_production": seen.entropy_production,
            "entropy_rate": seen.entropy_rate,
            "w2": w2(cloud, rest, generator=generator, method="bures"),
        }

    def truth(self, name: str, time: float) -> float:
        """The closed form of an observable.

        Args:
            name: Such as ``entropy_production``.
            time: t.

        Returns:
            Its value.
        """
        start = np.zeros(self.dimension)
        start[0] = self.start
        rates = [self.stiffness] * self.dimension, [self.diffusion] * self.dimension
        mean = exact.ou_mean(start, rates[0], time)
        spread = exact.ou_variance([self.spread] * self.dimension, *rates, time)
        forms = {
            "mean": lambda: mean[0],
            "second_moment": lambda: (mean**2 + spread).mean(),
            "c": lambda: exact.ou_consolidation(mean, spread, *rates),
            "entropy_production": lambda: exact.ou_entropy_production(mean, spread, *rates),
            "entropy_rate": lambda: exact.ou_entropy_rate(spread, *rates),
            "w2": lambda: math.sqrt(exact.ou_w2_squared(mean, spread, *rates)),
        }
        return float(forms[name]())


_TITLES = {
    "mean": ("Mean of the first coordinate", "length"),
    "second_moment": ("Second moment of a coordinate", "length²"),
    "c": ("Consolidation ratio C", "1"),
    "entropy_production": ("Entropy production", "nats / time"),
    "entropy_rate": ("Rate of the entropy, dH/dt", "nats / time"),
    "w2": ("Wasserstein-2 distance to the stationary law (Bures)", "length"),
}


def _compare(
    name: str, times: list[float], values: list[Estimate], truth: list[float]
) -> tuple[Figure | Comparison, ...]:
    title, unit = _TITLES[name]
    caption = ""
    if name == "c":
        caption = "C = 1 with no entropy production is equilibrium, not a transition."
    if name == "w2":
        caption = "The bias that sampling adds is subtracted, so near 0 it may be negative."
    figure = told(name, title, "time", unit, times, values, truth, caption=caption)
    half = len(times) // 2
    at = f"{title}, t = {times[half]:.3g}"
    return figure, Comparison(at, values[half], truth[half], source="closed form")
