"""Latent particles under a decoder: the corrected Fokker-Planck engine beside the published one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from foreshock.density import fit_score, flow, plane_flux
from foreshock.density import published as pub
from foreshock.simulators.decoder import DecoderPotential
from foreshock.simulators.diffusion import ParticleFisher, SharedMatrix
from foreshock.simulators.door import Array
from foreshock.simulators.exact_linear import lyapunov_covariance, lyapunov_entropy_production
from foreshock.simulators.particles import Engine, State, step
from foreshock.simulators.recording import run_engine
from foreshock.simulators.resets import CloudReset, redraw
from foreshock.simulators.schedules import constant_schedules
from foreshock.simulators.worlds.linear_decoder import Cloud
from foreshock.simulators.worlds.recorded import Progress, measured, stages, started, told
from foreshock.simulators.worlds.tanh_decoder import relax, tanh_decoder
from foreshock.store import Comparison, Curve, Field, Figure, Run, record
from foreshock.types import Estimate

#: A'A of the linear decoder, and the noise that does not commute with it.
_STIFFNESS = np.array([[2.0, 0.8], [0.8, 1.0]])
_NOISE = np.array([[1.0, 0.0], [0.0, 0.1]])
#: Where the cloud of the linear decoder starts, and its variance.
_START, _SPREAD = np.array([1.5, -1.0]), 0.2
#: D/eta and lambda where the sign of the entropy is tried, dense: the density is above 1/e.
_HEAT, _WEIGHT = 0.05, 0.02


@dataclass(frozen=True, slots=True)
class DecoderWorld:
    """Particles z that fall in the loss |x - dec(z)|^2/(2 sigma^2) of a decoder, with noise.

    A linear decoder, of which everything is known in closed form, and one with a layer of tanh and
    a linear bypass, of which a grid on the plane knows the density. The latents have 2 coordinates.

    Args:
        gamma: Coupling of the noise to the Fisher information, D = D_0 (I + gamma F) + eta lambda.
        diffusion: D_0.
        entropy: lambda; the temperature is D_0 + lambda at the rate eta = 1.
        particles: n; the cost of C and of the entropy production grows with its square.
        dt: Step.
        time: How long.
        records: How often everything is measured.
        hidden: Units of the tanh layer.
        seed: Of the decoder and of all noise.

    Raises:
        ValueError: If a number is out of range.
    """

    gamma: float = 0.5
    diffusion: float = 0.3
    entropy: float = 0.2
    particles: int = 1000
    dt: float = 0.01
    time: float = 3.0
    records: int = 13
    hidden: int = 12
    seed: int = 0

    def __post_init__(self) -> None:
        positive = (self.diffusion, self.dt, self.time)
        if any(not 0 < value < math.inf for value in positive):
            raise ValueError(
                "`diffusion`, `dt` and `time` of the world `decoder` must be positive and finite."
            )
        if not (0 <= self.gamma <= 5 and 0 <= self.entropy <= 5):
            raise ValueError(
                "`gamma` and `entropy` of the world `decoder` must be 0 to 5. "
                f"Got {self.gamma:g} and {self.entropy:g}."
            )
        if self.dt > 0.02 or self.time < 20 * self.dt:
            raise ValueError(
                "The `dt` of the world `decoder` must be at most 0.02 and 1/20 of `time`. "
                f"Got {self.dt:g}."
            )
        if self.particles < 200 or self.records < 4 or not 2 <= self.hidden <= 256:
            raise ValueError(
                "The world `decoder` needs at least 200 `particles` and 4 `records`, and 2 to 256 "
                f"`hidden` units. Got {self.particles}, {self.records} and {self.hidden}."
            )

    @property
    def temperature(self) -> float:
        """T = D_0/eta + lambda."""
        return self.diffusion + self.entropy

    @property
    def every(self) -> int:
        """Steps between records."""
        return max(1, round(self.time / self.dt / (self.records - 1)))

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.every * (self.records - 1)

    def run(self, path: str | Path, *, progress: Progress | None = None) -> Run:
        """Simulate, measure and compare.

        Args:
            path: Folder of the run.
            progress: Called with (done, total).

        Returns:
            The run, open for writing; close it.
        """
        run = started(path, "decoder", self)
        for name, (title, unit, null) in _TITLES.items():
            place = "all particles, " + ("linear" if "linear" in name else "tanh") + " decoder"
            run.declare(name, title=title, unit=unit, taken_at=place, null=null)
        generator = torch.Generator().manual_seed(self.seed)
        moves = stages(progress, [self.steps, self.steps // 2, self.steps, 50, 2 * self.steps])
        rows = _linear(self, run, generator, moves[0])
        _current(self, run, generator, moves[1])
        _entropy_sign(self, run, generator, moves[2])
        decode = tanh_decoder(self.hidden, generator)
        _noise(self, run, decode, generator)
        _resets(self, run, generator, moves[3])
        relax(self, run, decode, rows, generator, moves[4])
        return run


_TITLES = {
    "linear/c": ("Consolidation ratio C, linear decoder", "1", "1"),
    "linear/entropy_production": ("Entropy production, linear decoder", "nats / time", "0"),
    "linear/energy": ("Mean loss, linear decoder", "1", ""),
    "latent/c": ("Consolidation ratio C, tanh decoder", "1", "1"),
    "latent/entropy_production": ("Entropy production, tanh decoder", "nats / time", "0"),
    "latent/w2": ("Sliced W2 to the start, tanh decoder", "length", "0"),
    "latent/energy": ("Mean loss, tanh decoder", "1", ""),
}


# ------------------------------------------------------------------ a linear decoder


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


def _linear(
    world: DecoderWorld, run: Run, generator: torch.Generator, move: Progress
) -> list[dict[str, Estimate]]:
    """The corrected engine with Fisher-coupled noise, against its Gaussian.

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
    place = len(exact) // 3
    chain = begin.after_steps(world.every * place, world.dt)
    rows = [
        {f"linear/{name}": found.observables[name][index] for name in _LINEAR}
        for index in range(len(found.times))
    ]
    for name, (attribute, caption) in _LINEAR.items():
        title, unit, _ = _TITLES[f"linear/{name}"]
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


def _current(world: DecoderWorld, run: Run, generator: torch.Generator, move: Progress) -> None:
    """Noise that does not commute with the decoder: the published drift drives a current."""
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
            "The same entropy production as published, ∫ J·∇log ρ = −dH/dt",
            # Exactly zero in every steady state, driven or not.
            Estimate.exact(0.0),
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


# ------------------------------------------------------------------ the sign of the entropy


def _entropy_sign(
    world: DecoderWorld, run: Run, generator: torch.Generator, move: Progress
) -> None:
    """In a unit bowl the entropy term must widen the cloud; the published one narrows it."""
    target = torch.zeros(1, dtype=torch.float64)
    bowl = DecoderPotential(lambda z: z, target, 1, single_target=True)
    schedules = constant_schedules(1.0, _HEAT, _WEIGHT)

    def published(z: Tensor, t: float) -> Tensor:
        return pub.entropy_gradient_code_fp(z, 0.1)

    count = min(1000, world.particles)
    start = math.sqrt(_HEAT) * torch.randn(count, 1, generator=generator, dtype=torch.float64)
    at = [world.every * k for k in range(world.records)]
    times = [world.dt * k for k in at]
    rows: list[list[Estimate]] = []
    for index, gradient in enumerate((None, published)):
        engine = Engine(bowl, schedules, world.dt, entropy_gradient=gradient)
        state, found = State(start), []
        for now in range(at[-1] + 1):
            if now in at:
                found.append(measured(state.z[:, 0].square()))
                move((now + index * at[-1]) // 2, at[-1])
            if now < at[-1]:
                state = step(engine, state, generator)
        rows.append(found)
    rest = _HEAT + _WEIGHT
    truth = [rest + (_HEAT - rest) * math.exp(-2 * time) for time in times]
    kept = (1 - world.dt) ** (2 * at[-1])
    # x' = (1 - dt) x + noise: variance T/(1 - dt/2) at rest, approached by powers of (1 - dt)^2.
    chain = rest / (1 - world.dt / 2) * (1 - kept) + _HEAT * kept
    bias = abs(chain - truth[-1])
    curves = (
        Curve("exact, D/η + λ at rest", times, truth, look="dashed"),
        Curve("entropy as diffusion, 95 %", times, *_ends(rows[0]), look="points"),
        Curve("as published, 95 %", times, *_ends(rows[1]), look="points"),
        Curve("no entropy term", [times[0], times[-1]], [_HEAT, _HEAT]),
    )
    record(
        run,
        Figure(
            "entropy_sign",
            "The entropy term in a unit bowl",
            "time",
            "variance",
            curves,
            caption=(
                f"D/η = {_HEAT:g}, λ = {_WEIGHT:g}. Rewarding entropy must widen the cloud. The "
                "published term −∇ρ (1 + log ρ) climbs the density wherever it is above 1/e, and "
                "narrows it; which it does depends on the unit of z."
            ),
        ),
        Comparison(
            f"Variance with the entropy as diffusion, t = {times[-1]:.3g}",
            rows[0][-1],
            truth[-1],
            bias,
            "closed form",
        ),
        Comparison(
            "The same with the published entropy gradient",
            rows[1][-1],
            truth[-1],
            bias,
            "closed form",
            published=True,
        ),
    )


# ------------------------------------------------------------------ noise and resets


def _noise(
    world: DecoderWorld,
    run: Run,
    decode: Callable[[Tensor], Tensor],
    generator: torch.Generator,
) -> None:
    """Covariance of the Fisher noise at one latent state, drawn without any matrix."""
    count = 4 * world.particles
    place = torch.tensor([[0.4, -0.3]], dtype=torch.float64)
    target = torch.zeros(4, dtype=torch.float64)
    potential = DecoderPotential(decode, target, 2, noise_scale=0.7, single_target=True)
    linear = potential.linearise(place.expand(count, 2))
    tensor = ParticleFisher(world.gamma).tensor(linear.points, linear, 1.0)
    drawn = tensor.noise(linear.points, 1.0, generator, linear=linear, noise_scale=0.7)
    exact = torch.eye(2) + world.gamma * potential.fisher(place)[0]
    record(
        run,
        *(
            Comparison(
                f"Fisher noise at one point, covariance {i + 1}{j + 1}",
                measured(drawn[:, i] * drawn[:, j]),
                float(exact[i, j]),
                source="I + γ J'J/σ² by automatic differentiation",
            )
            for i, j in ((0, 0), (0, 1), (1, 1))
        ),
    )


def _resets(world: DecoderWorld, run: Run, generator: torch.Generator, move: Progress) -> None:
    """A reset widens the cloud by 1.1, not by 1.5, and a row stays the same particle."""
    reset, n = CloudReset(), world.particles
    before = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    factors, same = [], 0
    for index in range(200):
        after, _ = redraw(reset, before, generator)
        factors.append(float(after.var(0).sum() / before.var(0).sum()))
        same = int((after == before).all(1).sum())
        move((index + 1) // 4, 50)
    # Rows are drawn without replacement: the mean moves, which costs share (1 - share)/(n - 1).
    lost = reset.fraction * (1 - reset.fraction) / (n - 1)
    rows = torch.arange(n)
    shuffled = rows[torch.randperm(n, generator=generator)[: n - round(reset.fraction * n)]]
    kept = int((shuffled == rows[: len(shuffled)]).sum())
    record(
        run,
        Comparison(
            "Covariance after a reset over that before",
            measured(torch.tensor(factors)),
            reset.covariance_factor,
            bias=lost,
            source="1 + (1.5 − 1) 0.2",
        ),
        Comparison(
            "The same as published",
            Estimate.exact(reset.stretch),
            reset.covariance_factor,
            source="1 + (1.5 − 1) 0.2",
            published=True,
        ),
        Comparison(
            "Share of rows that are the same particle after a reset",
            Estimate.exact(same / n),
            1 - round(reset.fraction * n) / n,
            source="all that were not redrawn",
        ),
        Comparison(
            "The same as published, rows permuted",
            Estimate.exact(kept / n),
            1 - round(reset.fraction * n) / n,
            source="all that were not redrawn",
            published=True,
        ),
    )


def _ends(values: Sequence[Estimate]) -> list[list[float]]:
    return [[getattr(e, end) for e in values] for end in ("value", "low", "high")]


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
