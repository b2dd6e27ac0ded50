"""What is observed of the particles of an engine at one moment; `recording` runs and records."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from foreshock.density import Score, Selection, fit_score, flow, w2
from foreshock.simulators.decoder import DecoderPotential
from foreshock.simulators.particles import Engine, Motion, State, event_due
from foreshock.types import Estimate, Flag

#: Numbers in the n diffusion matrices of `ParticleFisher` above which nothing is observed: 512 MB.
MOST_NUMBERS = 2**27
#: Numbers of the kernel matrix held at once, 4 MB: longer blocks leave the caches.
BLOCK_NUMBERS = 2**20
#: Particles in each half that W2 and its null need.
LEAST = 40
NAMES = (
    "c",
    "cosine",
    "irreversibility",
    "entropy_production",
    "entropy_production_bound",
    "entropy_rate",
    "w2",
    "energy",
    "temperature",
)


def rows_at_once(n: int) -> int:
    """Rows of an (n, n) kernel matrix to hold at once."""
    return max(64, BLOCK_NUMBERS // n)


def observe(
    engine: Engine,
    state: State,
    moved: Motion,
    generator: torch.Generator,
    *,
    start: Tensor | None = None,
    selection: Selection | None = None,
    refits: int = 20,
    bounds: bool = True,
) -> tuple[dict[str, Estimate], Score]:
    """All observables of one moment.

    Cost: `refits` + 1 fits of the score and two of half the particles for the bounds. With
    `refits=0` and `bounds=False` it is one fit, and C and the entropy production are plug-ins whose
    bars hold particle noise only.

    Args:
        engine: The engine.
        state: Particles.
        moved: `motion` of that state.
        generator: For Hutchinson's div mu, of which the bounds and dH/dt are linear functions, and
            the random directions of W2.
        start: Particles that W2 is taken to; left out if None.
        selection: Bandwidth and weight of an earlier score.
        refits: Groups of the jackknife.
        bounds: Whether to fit the half clouds.

    Returns:
        Name to estimate, and the score.
    """
    block = rows_at_once(len(state.z))
    score = fit_score(state.z, selection=selection, block=block)
    found = {
        "energy": _mean(engine.potential.energy(state.z)),
        "temperature": Estimate.exact(moved.temperature),
    }
    if start is not None:
        # Other particles of the start than of now: the same ones would not be independent.
        now, then = state.z[::2], start[1::2]
        enough = len(then) >= LEAST
        found["w2"] = (
            w2(now, then, generator=generator)
            if enough
            else Estimate.missing(f"W2 to the start needs {2 * LEAST} particles.", n=len(start))
        )
    drift, diffusion, reason = _fickian(engine, state.z, moved)
    if not reason:
        reason = _without_noise(diffusion)
    if reason:
        gone = Estimate.missing(reason)
        names = [n for n in NAMES if n not in ("energy", "temperature", "w2")]
        return found | dict.fromkeys(names, gone), score
    source = _source(engine, state.z, moved, generator) if bounds else None
    own = isinstance(diffusion, Tensor) and diffusion.ndim == 3
    all_of_it = flow(
        score,
        drift,
        diffusion,
        divergence_drift=source,
        divergence_diffusion=torch.zeros_like(drift) if own else None,  # taken out of b already
        refits=refits,
        bounds=bounds,
    )
    found |= {
        "c": all_of_it.consolidation,
        "cosine": all_of_it.cosine,
        "irreversibility": all_of_it.irreversibility,
        "entropy_production": all_of_it.entropy_production,
        "entropy_production_bound": all_of_it.entropy_production_bound,
        "entropy_rate": _jumpless(engine, state, all_of_it.entropy_rate),
    }
    return found, score


def _mean(values: Tensor) -> Estimate:
    """Mean with its normal interval."""
    n = len(values)
    value = float(values.double().mean())
    half = 1.96 * float(values.double().std()) / math.sqrt(n) if n > 1 else math.nan
    if not math.isfinite(value):
        return Estimate.missing("The energy is not finite.", flags=Flag.UNRESOLVED, n=n)
    return Estimate(value, value - half, value + half, n=n)


def _fickian(engine: Engine, z: Tensor, moved: Motion) -> tuple[Tensor, float | Tensor, str]:
    """The drift b = mu - div D, D as `density` takes it, and why there is neither."""
    tensor = moved.tensor
    if tensor.constant:
        value = tensor.value(z.shape[1])
        if isinstance(value, float) and value == 0:
            return (
                moved.drift,
                value,
                "There is no noise: D = 0, and every ratio to it is infinite.",
            )
        return moved.drift, value, ""
    decoder = engine.potential
    assert isinstance(decoder, DecoderPotential)
    n, d = z.shape
    if n * d * d > MOST_NUMBERS:
        sentence = (
            f"Every particle has its own D: {n} matrices of {d} x {d} would not fit. Use "
            "`SharedFisher`, or observe fewer particles."
        )
        return moved.drift, 0.0, sentence
    if moved.carried is not None:
        return moved.drift - moved.carried, tensor.dense(z, decoder), ""
    # Random signs would enter E[b.D^-1 b] with their variance, so every direction is taken.
    divergence = torch.zeros_like(z)
    for j in range(d):
        unit = torch.zeros_like(z)
        unit[:, j] = 1
        divergence += decoder.fisher_divergence(z, unit)
    return moved.drift - tensor.fisher * divergence, tensor.dense(z, decoder), ""


def _without_noise(diffusion: float | Tensor) -> str:
    """Why this D is no metric: a direction without noise; else an empty sentence."""
    if not isinstance(diffusion, Tensor) or diffusion.ndim == 3:
        return ""
    if not diffusion.any():
        return "There is no noise: D = 0, and every ratio to it is infinite."
    if torch.linalg.cholesky_ex(diffusion).info.any():
        return (
            "D has a direction without noise, and every ratio to it is infinite. Add a multiple "
            "of the identity to the matrix, or an entropy weight."
        )
    return ""


def _jumpless(engine: Engine, state: State, rate: Estimate) -> Estimate:
    """dH/dt of drift and diffusion, refused where resets are a part of the change."""
    resets = engine.resets
    if resets is None or not (resets.rate or event_due(engine, state.steps)):
        return rate
    return Estimate.missing(
        "Resets change the entropy too, and dH/dt of drift and diffusion alone is not that of the "
        "cloud. Compare `entropy` of the particles at two records instead.",
        n=len(state.z),
    )


def _source(engine: Engine, z: Tensor, moved: Motion, generator: torch.Generator) -> Tensor | None:
    """Div mu of every particle, where D is constant in z; by random signs for a decoder."""
    mobility, potential = moved.mobility, engine.potential
    if mobility is None or not moved.tensor.constant:
        return None
    if isinstance(potential, DecoderPotential):
        signs = torch.randint(0, 2, z.shape, generator=generator, device=z.device)
        signs = signs.to(z.dtype).mul_(2).sub_(1)
        scaled = signs @ mobility if isinstance(mobility, Tensor) else signs * mobility
        return -(potential.hessian_product(z, signs) * scaled).sum(1)
    hessian = potential.hessian(z)
    if isinstance(mobility, Tensor):
        return -(hessian * mobility).sum((1, 2))
    return -mobility * hessian.diagonal(dim1=1, dim2=2).sum(1)
