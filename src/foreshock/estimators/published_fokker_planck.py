"""fokker_planck.md's observables on a live run, with its own model of drift and diffusion."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from foreshock.density import published as fp
from foreshock.estimators.latent_examples import Examples
from foreshock.estimators.latent_particles import PENULTIMATE, Particles, choose_particles
from foreshock.estimators.published import series
from foreshock.probe.moment import Moment
from foreshock.probe.response import settled_responses
from foreshock.stats import published as pub
from foreshock.types import Estimate, Readings, SeriesInfo

SOURCE = "fokker_planck.md"
REGIMES = ("exploration", "balanced", "exploitation")

SERIES = (
    series("c_fp", "C(t), density gradient as meant", "|μ|/|D∇ρ|", SOURCE, unit="latent^d"),
    series("c_fp_code", "C(t) as coded", "|μ|/|D∇ρ|, ∇ρ by shifting all particles", SOURCE),
    series("regime_fp", "regime by C(t) as coded", f"index in {REGIMES}", SOURCE),
    series("j_fp", "flux", "RMS of |μρ − D∇ρ|", SOURCE, unit="latent^(1−d)/time"),
    series("s_dot_fp", "entropy production as coded", "mean J·∇log ρ", SOURCE),
    series("s_dot_fp_text", "entropy production by the text", "∫J·∇log ρ dz", SOURCE),
    series("t_eff_fp", "effective temperature", "median Tr(D)/|μ|", SOURCE, unit="latent"),
    series("max_div_j_fp", "largest flux divergence", "max |∇·J|, as coded", SOURCE),
    series("alert_fp", "reward-hacking alert", "1 if C < 0.3 and max |∇·J| > 1", SOURCE),
    series("c_wrapper_fp", "C(t) of the PyTorch wrapper", "|∂θ|/(η₀e^(−t/500)|∇ρ|)", SOURCE),
    series(
        "drift_cosine_fp",
        "cosine of the document's drift and the measured one",
        "μ_model·μ/(|μ_model||μ|)",
        SOURCE,
    ),
)


@dataclass(frozen=True)
class PublishedFokkerPlanck:
    """fokker_planck.md 7, 11 and 12.2 on a live run, exactly as written. For testing its claims.

    Latents, drift μ = −η(t)(∇_z loss + λ∇H), η = η₀/(1 + t/τ), diffusion D = D₀e^(−t/τ_D)(I + γF)
    with F the covariance of ∇_z loss over all particles, kernel density of fixed bandwidth in the
    unit of the latents, t the training step. ∇_z loss is that of each example under the run's own
    loss, through the rest of the network. Where a layer is wide its leading principal axes of the
    first record stand for it: a kernel density in hundreds of dimensions is 0 everywhere.

    What is wrong with each is said in `foreshock.density.published` and shown by a test: C has the
    unit of a volume, so it changes by 2^d if latents are measured in half the unit; its coded
    density gradient is rounding; all of it scales with the made-up D₀. The corrected quantities are
    those of `LatentFlow`, where no constant is free. ``drift_cosine_fp`` is ours: how far the model
    drift is from what the probe's mean gradient does to the latents.

    Args:
        layer: As in `LatentFlow`; a function needs a ``decoder``.
        pick: As in `LatentFlow`.
        side: As in `LatentFlow`.
        decoder: As in `LatentFlow`.
        dimensions: Axes, at most 8 if not given.
        particles: Largest number of examples.
        examples: As in `LatentFlow`.
        eta_0: Learning rate of the model.
        tau_eta: Its decay, in steps.
        entropy: λ.
        d_0: Diffusion of the model.
        tau_d: Its decay, in steps.
        gamma: Coupling of the diffusion to F.
        bandwidth: Of the kernel density.
        seed: Of the choice of particles.

    Raises:
        ValueError: If a scale is not positive.

    Examples:
        >>> PublishedFokkerPlanck("hidden").name
        'published_fokker_planck'
    """

    layer: str | Callable[[Any, Any], Tensor] = PENULTIMATE
    pick: Any = "auto"
    side: Literal["output", "input"] = "output"
    decoder: Callable[[Any, Any, Tensor], Tensor] | None = None
    dimensions: int | None = None
    particles: int = 256
    examples: Examples = "auto"
    eta_0: float = 0.01
    tau_eta: float = 1000.0
    entropy: float = 0.001
    d_0: float = 1.0
    tau_d: float = 500.0
    gamma: float = 0.05
    bandwidth: float = 0.1
    seed: int = 0
    name: str = "published_fokker_planck"
    needs: frozenset[str] = frozenset({"probe"})
    price: float = 60.0
    stride: int = 0

    def __post_init__(self) -> None:
        for field in ("eta_0", "tau_eta", "d_0", "tau_d", "bandwidth"):
            if not getattr(self, field) > 0:
                raise ValueError(
                    f"The `{field}` of `PublishedFokkerPlanck` must be positive. "
                    f"Got {getattr(self, field)}."
                )

    @property
    def series(self) -> tuple[SeriesInfo, ...]:
        """What every measurement writes."""
        return SERIES

    def init(self) -> Particles | None:
        """No particles yet: the first record chooses them."""
        return None

    def update(self, state: Particles | None, moment: Moment) -> tuple[Particles | None, Readings]:
        """Measure at one moment."""
        assert moment.probe is not None
        try:
            particles = state or choose_particles(
                moment,
                layer=self.layer,
                pick=self.pick,
                side=self.side,
                examples=self.examples,
                count=self.particles,
                dimensions=self.dimensions,
                seed=self.seed,
                resolved=False,
                decoder=self.decoder,
            )
            if self.examples == "fresh" and state is not None:
                particles = particles.renewed(moment, self.particles, self.seed)
            z = particles.project(particles.raw(moment))
            slopes = particles.slopes(moment)
        except ValueError as error:  # no particles, or latents that cannot be taken now
            return state, _missing(str(error))
        if not bool(torch.isfinite(z).all() and torch.isfinite(slopes).all()):
            return particles, _missing("The latents, or the loss slopes at them, are not finite.")
        found = self._numbers(z, slopes, particles, moment)
        scalars = {
            info.name: found[info.name.partition("/")[2]]
            if isinstance(found[info.name.partition("/")[2]], Estimate)
            else Estimate.plain(found[info.name.partition("/")[2]])
            for info in SERIES
        }
        return particles, Readings(scalars)

    def _numbers(
        self, z: Tensor, slopes: Tensor, particles: Particles, moment: Moment
    ) -> dict[str, Any]:
        h, t = self.bandwidth, float(moment.step)
        drift, diffusion = self._model(z, slopes, t)
        rho = fp.rho_fp(z, h)
        meant, coded = fp.grad_rho_queries_fp(z, h), fp.grad_rho_code_fp(z, h)
        flux = fp.j_fp(drift, diffusion, rho, meant)
        c = fp.c_fp(drift, diffusion, coded)

        def whole_flux(shifted: Tensor) -> Tensor:
            """The published pipeline at latents that were all moved alike."""
            by = (shifted - z)[0]
            drift, diffusion = self._model(shifted, particles.slopes(moment, by), t)
            density, gradient = fp.rho_fp(shifted, h), fp.grad_rho_code_fp(shifted, h)
            return fp.j_fp(drift, diffusion, density, gradient)

        largest: float | Estimate
        if moment.view.dtype in (torch.bfloat16, torch.float16):
            largest = Estimate.missing("The published shift of 1e-4 is below 16-bit rounding.")
        else:
            largest = float(fp.div_j_fp(z, whole_flux).abs().max())
        gradients = [g for g in moment.gradients if g is not None]
        flat = torch.cat([g.reshape(-1) for g in gradients]) if gradients else None
        coded_flux = fp.j_fp(drift, diffusion, rho, coded)
        # ∫J·∇log ρ dz is a mean over particles of J/ρ, not of J.
        text = ((flux / rho[:, None]) * (meant / rho[:, None])).sum(1).mean()
        return {
            "c_fp": fp.c_fp(drift, diffusion, meant),
            "c_fp_code": c,
            "regime_fp": float(REGIMES.index(pub.regime_fp(c))) if math.isfinite(c) else math.nan,
            "j_fp": float(flux.square().sum(1).mean().sqrt()),
            "s_dot_fp": fp.s_dot_fp(rho, fp.entropy_gradient_code_fp(z, h), coded_flux),
            "s_dot_fp_text": float(text),
            "t_eff_fp": float(fp.t_eff_fp(drift, diffusion).median()),
            "max_div_j_fp": largest,
            "alert_fp": (
                largest
                if isinstance(largest, Estimate)
                else float(pub.alert_fp(c, largest) is not None)
            ),
            "c_wrapper_fp": fp.c_wrapper_fp(z, flat, t, h, self.eta_0),
            "drift_cosine_fp": _cosine(drift, particles, moment),
        }

    def _model(self, z: Tensor, slopes: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """The document's drift (N, d) and diffusion (N, d, d)."""
        eta = self.eta_0 / (1 + t / self.tau_eta)
        drift = -eta * (slopes + self.entropy * fp.entropy_gradient_code_fp(z, self.bandwidth))
        fisher = slopes.T @ slopes / len(z)
        eye = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
        diffusion = self.d_0 * math.exp(-t / self.tau_d) * (eye + self.gamma * fisher)
        return drift, diffusion.expand(len(z), -1, -1)


def _missing(reason: str) -> Readings:
    return Readings({info.name: Estimate.missing(reason) for info in SERIES})


def _cosine(drift: Tensor, particles: Particles, moment: Moment) -> Estimate:
    """Cosine of the model drift with what the mean gradient of the probe does to the latents."""
    taken = moment.batch_gradients
    if not taken or moment.optimizer is None:
        return Estimate.missing("There is no gradient, or no optimizer, to measure a drift with.")
    mean = [torch.stack(parts).mean(0) for parts in zip(*[b.gradient for b in taken], strict=True)]
    update, why = settled_responses(moment.optimizer, moment.view, [mean])
    if update is None:
        return Estimate.missing(why)
    moved = particles.moved(moment, update, "jvp")[0][0]
    scale = float(moved.norm() * drift.norm())
    if not scale > 0:
        return Estimate.missing("Nothing moves: the drift is zero.")
    return Estimate.plain(float((moved * drift).sum()) / scale)
