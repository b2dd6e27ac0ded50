r"""The cloud of a linear decoder: in closed form, and its particles against that.

U(y) = y' H y/2, H = A'A/sigma^2, y = z - z*. The drift -K y and a constant D keep a Gaussian
Gaussian; Euler's chain has the same with 1 - K dt for exp(-K dt), so its own error is known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.linalg import expm, solve_continuous_lyapunov
from torch import Tensor

from foreshock.density import fit_score, flow, plane_flux
from foreshock.density import published as pub
from foreshock.simulators.decoder import DecoderPotential
from foreshock.simulators.diffusion import ParticleFisher, SharedMatrix
from foreshock.simulators.door import Array
from foreshock.simulators.exact_linear import lyapunov_covariance, lyapunov_entropy_production
from foreshock.simulators.particles import Engine
from foreshock.simulators.recording import run_engine
from foreshock.simulators.schedules import constant_schedules
from foreshock.simulators.worlds.decoder_pictures import linear_density, over_the_band
from foreshock.simulators.worlds.recorded import Progress, measured, noise_of, told
from foreshock.store import Comparison, Field, Figure, Run, record
from foreshock.types import Estimate

if TYPE_CHECKING:
    from foreshock.simulators.worlds.decoder import DecoderWorld

#: A'A of the linear decoder, and the noise that does not commute with it.
_STIFFNESS = np.array([[2.0, 0.8], [0.8, 1.0]])
_NOISE = np.array([[1.0, 0.0], [0.0, 0.1]])
#: Where the cloud of the linear decoder starts, and its variance.
_START, _SPREAD = np.array([1.5, -1.0]), 0.2
#: Title, unit and null of every series of the linear decoder.
LINEAR_TITLES = {
    "linear/c": ("Consolidation ratio C, linear decoder", "1", "1"),
    "linear/entropy_production": ("Entropy production, linear decoder", "nats / time", "0"),
    "linear/energy": ("Mean loss, linear decoder", "1", ""),
}


@dataclass(frozen=True, eq=False)
class Cloud:
    """A Gaussian that drifts by -K y and spreads by D.

    Args:
        mean: (d,) m.
        covariance: (d, d) S.
        drift: (d, d) K.
        diffusion: (d, d) D, positive definite.
        stiffness: (d, d) H, of the energy.
    """

    mean: Array
    covariance: Array
    drift: Array
    diffusion: Array
    stiffness: Array

    def after(self, time: float) -> Cloud:
        """The diffusion after a time.

        Args:
            time: t.

        Returns:
            The cloud.
        """
        rest = solve_continuous_lyapunov(self.drift, 2 * self.diffusion)
        kept = expm(-self.drift * time)
        covariance = rest + kept @ (self.covariance - rest) @ kept.T
        return self._with(kept @ self.mean, covariance)

    def after_steps(self, steps: int, dt: float) -> Cloud:
        """Euler's chain after some steps.

        Args:
            steps: How many.
            dt: Length of one.

        Returns:
            The cloud.
        """
        kept = np.eye(len(self.mean)) - self.drift * dt
        mean, covariance = self.mean, self.covariance
        for _ in range(steps):
            mean = kept @ mean
            covariance = kept @ covariance @ kept.T + 2 * self.diffusion * dt
        return self._with(mean, covariance)

    def _with(self, mean: Array, covariance: Array) -> Cloud:
        return Cloud(mean, covariance, self.drift, self.diffusion, self.stiffness)

    def moment(self, i: int, j: int) -> float:
        """E y_i y_j."""
        return float(self.covariance[i, j] + self.mean[i] * self.mean[j])

    @property
    def energy(self) -> float:
        """E U."""
        second = self.covariance + np.outer(self.mean, self.mean)
        return float(np.trace(self.stiffness @ second)) / 2

    @property
    def consolidation(self) -> float:
        """C, C^2 = E[mu.D^-1 mu]/E[s.D s]."""
        second = self.covariance + np.outer(self.mean, self.mean)
        drive = np.trace(self.drift.T @ np.linalg.solve(self.diffusion, self.drift @ second))
        pull = np.trace(self.diffusion @ np.linalg.inv(self.covariance))
        return float(np.sqrt(drive / pull))

    @property
    def entropy_production(self) -> float:
        """E[v.D^-1 v], v = -K y + D S^-1 (y - m)."""
        push = self.drift @ self.mean
        turn = self.diffusion @ np.linalg.inv(self.covariance) - self.drift
        still = float(push @ np.linalg.solve(self.diffusion, push))
        inverse = np.linalg.solve(self.diffusion, turn @ self.covariance)
        return still + float(np.trace(turn.T @ inverse))


# ------------------------------------------------------------------ its particles


def _linear_potential() -> DecoderPotential:
    """Decoder A z with A'A = H, one target for all, at z = 0."""
    root = torch.from_numpy(np.linalg.cholesky(_STIFFNESS))
    target = torch.zeros(2, dtype=torch.float64)
    return DecoderPotential(lambda z: z @ root.to(z), target, 2, single_target=True)


def _gaussian(cloud: Cloud, count: int, generator: torch.Generator) -> Tensor:
    normal = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    return normal @ torch.from_numpy(np.linalg.cholesky(cloud.covariance)).T + torch.from_numpy(
        cloud.mean
    )


def linear(
    world: DecoderWorld, run: Run, generator: torch.Generator, move: Progress
) -> list[dict[str, Estimate]]:
    """The corrected engine with Fisher-coupled noise, against its Gaussian.

    Args:
        world: The numbers.
        run: Where to record.
        generator: Of all noise.
        move: Progress.

    Returns:
        What was measured at each record: the run takes a step only once.
    """
    schedules = constant_schedules(1.0, world.diffusion, world.entropy)
    engine = Engine(_linear_potential(), schedules, world.dt, ParticleFisher(world.gamma), "gibbs")
    eye = np.eye(2)
    diffusion = world.diffusion * (eye + world.gamma * _STIFFNESS) + world.entropy * eye
    drift = diffusion @ _STIFFNESS / world.temperature
    begin = Cloud(_START, _SPREAD * eye, drift, diffusion, _STIFFNESS)
    start = _gaussian(begin, world.particles, generator)
    found = run_engine(
        engine, start, world.steps, generator=generator, every=world.every, progress=move
    )
    exact = [begin.after(time) for time in found.times]
    few = noise_of(world.seed, "linear paths")
    gibbs = world.temperature * float(np.linalg.inv(_STIFFNESS)[0, 0])
    record(
        run,
        over_the_band(engine, lambda k: _gaussian(begin, k, few), begin, world.steps, few),
        linear_density(found.times, list(found.path), exact, gibbs),
    )
    place = len(exact) // 3
    chain = begin.after_steps(world.every * place, world.dt)
    rows = [
        {f"linear/{name}": found.observables[name][index] for name in _LINEAR}
        for index in range(len(found.times))
    ]
    for name, (attribute, caption) in _LINEAR.items():
        title, unit, _ = LINEAR_TITLES[f"linear/{name}"]
        truth = [getattr(cloud, attribute) for cloud in exact]
        values = found.observables[name]
        axis = unit if unit != "1" else ("loss" if name == "energy" else "ratio")
        record(
            run,
            told(
                f"linear_{name}", title, "time", axis, found.times, values, truth, caption=caption
            ),
            Comparison(
                f"{title}, t = {found.times[place]:.2g}",
                values[place],
                truth[place],
                # Euler's chain is Gaussian too, and its moments are those of a recursion.
                bias=abs(getattr(chain, attribute) - truth[place]),
                source="closed form",
            ),
        )
    last, rest = found.path[-1], begin.after_steps(world.steps, world.dt)
    for i, j in ((0, 0), (0, 1)):
        truth = exact[-1].moment(i, j)
        record(
            run,
            Comparison(
                f"E z{i + 1} z{j + 1} at the end, linear decoder",
                measured(last[:, i] * last[:, j]),
                truth,
                abs(rest.moment(i, j) - truth),
                "closed form, tends to T (A'A)⁻¹",
            ),
        )
    return rows


_LINEAR = {
    "c": (
        "consolidation",
        "Drift over diffusive pull. C = 1 with no entropy production is equilibrium, not a "
        "transition.",
    ),
    "entropy_production": (
        "entropy_production",
        "With the drift −(D/T)∇L the noise may follow the Fisher information and still no current "
        "is left at the end.",
    ),
    "energy": ("energy", "Ends at T, half a temperature for each of the two coordinates."),
}


def current(world: DecoderWorld, run: Run, generator: torch.Generator, move: Progress) -> None:
    """Noise that does not commute with the decoder: the published drift drives a current.

    Args:
        world: The numbers.
        run: Where to record.
        generator: Of all noise.
        move: Progress.
    """
    steps, dt = world.steps // 2, world.dt
    rest = lyapunov_covariance(_STIFFNESS, _NOISE)
    begin = Cloud(np.zeros(2), rest, _STIFFNESS, _NOISE, _STIFFNESS)
    chain = begin.after_steps(steps, dt)
    noise = torch.from_numpy(_NOISE)
    engine = Engine(
        _linear_potential(), constant_schedules(1.0, 1.0), dt, SharedMatrix(noise), "published"
    )
    start = _gaussian(begin, 2 * world.particles, generator)
    z = run_engine(
        engine, start, steps, generator=generator, every=steps, observed=False, progress=move
    ).path[-1]
    score = fit_score(z, "gaussian")
    drift = -z @ torch.from_numpy(_STIFFNESS)
    seen = flow(score, drift, noise, bounds=False)
    exact = lyapunov_entropy_production(_STIFFNESS, _NOISE)
    gibbs = np.linalg.inv(_STIFFNESS)
    mean_noise = float(np.trace(_NOISE)) / 2
    source = "Lyapunov equation"
    record(
        run,
        Comparison(
            "Entropy production at rest, drift −∇L under noise diag(1, 0.1)",
            seen.entropy_production,
            exact,
            abs(chain.entropy_production - exact),
            source,
        ),
        Comparison(
            "Variance of z1 there, at rest",
            measured(z[:, 0].square()),
            float(rest[0, 0]),
            abs(chain.moment(0, 0) - float(rest[0, 0])),
            source,
        ),
        Comparison(
            "The same variance by Gibbs' law at T = tr D/d, as published",
            Estimate.exact(mean_noise * float(gibbs[0, 0])),
            float(rest[0, 0]),
            source=source,
            published=True,
        ),
        Comparison(
            f"The same entropy production as published and coded, clouds of {len(z) // 10}",
            # The integral it is meant as, of J . grad log rho, is -dH/dt: zero at rest, driven or
            # not. As coded rho counts twice, so that it has the unit of a squared density.
            measured(torch.tensor([_published_production(part) for part in z.chunk(10)])),
            exact,
            source=source,
            published=True,
        ),
    )
    # Gibbs mode moves the same noise into the drift, D/T grad L: no current.
    fair = flow(
        score_of := fit_score(
            _gaussian(
                Cloud(np.zeros(2), gibbs, _STIFFNESS, _NOISE, _STIFFNESS),
                2 * world.particles,
                generator,
            ),
            "gaussian",
        ),
        -score_of.particles @ torch.from_numpy(_STIFFNESS @ _NOISE),
        noise,
        bounds=False,
    )
    record(
        run,
        Comparison(
            "Entropy production at Gibbs' law with the drift −D∇L",
            fair.entropy_production,
            0.0,
            source="detailed balance",
        ),
        _snapshot(
            "current",
            "A current that never ends",
            z,
            lambda points: -points @ torch.from_numpy(_STIFFNESS),
            noise,
            caption=(
                "The steady state of the published drift −∇L under noise diag(1, 0.1): density "
                "of the particles, and arrows of the flux. It is stationary, div J = 0, and far "
                f"from equilibrium: it produces {exact:.3f} nats a unit of time."
            ),
        ),
    )


def _published_production(z: Tensor) -> float:
    """The published entropy production of one cloud, drift −∇L under the same noise."""
    density = pub.rho_fp(z)
    drift, noise = -z @ torch.from_numpy(_STIFFNESS), torch.from_numpy(_NOISE)
    flux = pub.j_fp(drift, noise.expand(len(z), 2, 2), density, pub.grad_rho_code_fp(z))
    return pub.s_dot_fp(density, pub.entropy_gradient_code_fp(z), flux)


def _snapshot(
    name: str,
    title: str,
    z: Tensor,
    drift: Callable[[Tensor], Tensor],
    diffusion: float | Tensor,
    *,
    caption: str,
) -> Figure:
    """Density of a cloud in the plane and arrows of its flux."""
    middle, reach = z.mean(0), 3.2 * z.std(0)
    axes = [
        torch.linspace(float(middle[i] - reach[i]), float(middle[i] + reach[i]), 40).to(z)
        for i in range(2)
    ]
    score = fit_score(z, "gaussian")
    plane = plane_flux(score, drift, diffusion, axes[0], axes[1])
    gaps = [float(a[1] - a[0]) for a in axes]
    edges = [
        np.append(a.numpy() - gap / 2, float(a[-1]) + gap / 2)
        for a, gap in zip(axes, gaps, strict=True)
    ]
    # In units of the arrows' own spacing, so that the longest just does not touch the next.
    every = 4
    flux = plane.flux[2::every, 2::every]
    lengths = [flux[..., i].abs() / (every * gaps[i]) for i in range(2)]
    largest = float(torch.maximum(*lengths).max())
    scale = 0.95 / largest if largest > 0 else 0.0
    xs, ys = axes[0][2::every], axes[1][2::every]
    arrows = [
        (float(x), float(y), scale * float(flux[i, j, 0]), scale * float(flux[i, j, 1]))
        for i, x in enumerate(xs)
        for j, y in enumerate(ys)
        if float(flux[i, j].norm()) > 0.02 * float(flux.norm(dim=-1).max())
    ]
    values: Array = plane.density.T.numpy()
    values = np.where(values > 0.02 * values.max(), values, np.nan)
    field = Field(edges[0].tolist(), edges[1].tolist(), values.tolist(), arrows, "density")
    return Figure(name, title, "z1", "z2", field=field, caption=caption)
