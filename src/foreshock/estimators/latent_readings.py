"""What is said of a measured cloud of latents: series, refusals, and sentences on both."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import Tensor

from foreshock.density import MeasuredFlow, Score
from foreshock.estimators.latent_particles import Displaced, Particles
from foreshock.estimators.latent_series import FLOW, WHOLE
from foreshock.probe.moment import Moment
from foreshock.types import Estimate, Flag, Readings

#: Steps of the optimizer before its second moments say much.
YOUNG = 30


def missing(reason: str) -> Readings:
    """Every series missing for one reason."""
    gone = Estimate.missing(reason)
    return Readings({info.name: gone for info in (*FLOW, *WHOLE)})


def slopes(particles: Particles, moment: Moment) -> Tensor | str:
    """Loss slopes at the particles, or the sentence why there are none."""
    try:
        return particles.slopes(moment)
    except (ValueError, RuntimeError) as error:
        return str(error)


def flow_series(found: MeasuredFlow) -> Iterator[tuple[str, Estimate]]:
    """Series name and estimate of everything that is written for parts too."""
    for info in FLOW:
        field = info.name.partition("/")[2]
        yield info.name, getattr(found, "consolidation" if field == "c" else field)


def collapsed(particles: Particles) -> Readings:
    """Nearly all examples are copies: the number that says so, and no cloud."""
    gone = missing(f"Only {len(particles.keep)} of the examples are no copies of others.").scalars
    return Readings(dict(gone) | {"latent/distinct": Estimate.exact(particles.distinct)})


def stored(particles: Particles, z: Tensor, *, first: bool) -> dict[str, Any]:
    """Latents, and at the first record what they are coordinates of."""
    arrays: dict[str, Any] = {"latent/z": z.float().cpu().numpy()}
    if first:
        arrays["latent/basis"] = particles.stored
        if particles.labels is not None:
            arrays["latent/labels"] = particles.labels
    return arrays


def young(moment: Moment) -> str:
    """Whether the metric of the optimizer rests on a few gradients only."""
    assert moment.optimizer is not None
    counts = [float(state["step"]) for state in moment.optimizer.state if "step" in state]
    if not counts or min(counts) >= YOUNG:
        return ""
    return (
        f"The optimizer has made {min(counts):.0f} steps, so its metric rests on as many gradients "
        f"and is far too small for some weights; believe it from step {YOUNG} on."
    )


def second_order(found: MeasuredFlow, moved: Displaced) -> Estimate:
    """Size of the second-order part of the drift, in units of the diffusive pull."""
    pull = float((found.mean - found.velocity).square().sum())
    bend = float(moved.bend.square().sum())
    if not math.isfinite(pull + bend) or not pull:
        return Estimate.missing(moved.reason or "There is no diffusive pull to compare with.")
    return Estimate.plain(math.sqrt(bend / pull))


def noted(scalars: dict[str, Estimate], flag: Flag, reason: str) -> dict[str, Estimate]:
    """The same, with a flag and a sentence on what rests on the moves."""
    noted = {info.name for info in FLOW} | {"latent/temperature", "latent/loss_cosine"}
    return {
        name: replace(e, flags=e.flags | flag, reason=f"{e.reason} {reason}".strip())
        if name.partition("@")[0] in noted
        else e
        for name, e in scalars.items()
    }


def quality(fitted: Score, share: float) -> dict[str, Estimate]:
    """What the validity record says, and the flux speed's companion: the share of the axes."""
    found = fitted.validity
    d = fitted.particles.shape[1]
    stein, error = -found.stein / d, 2 * found.stein_error / d
    ess = (
        Estimate.missing("The score is one Gaussian's: there is no kernel.")
        if found.ess == math.inf
        else Estimate.plain(found.ess)
    )
    return {
        "latent/pca_share": Estimate.exact(share),
        "latent/kernel_ess": ess,
        "latent/score_gap": Estimate.plain(found.gap),
        "latent/stein": (
            Estimate(stein, stein - error, stein + error, len(fitted.particles))
            if math.isfinite(stein + error)
            else Estimate.missing(found.reason or "There is no score.")
        ),
    }
