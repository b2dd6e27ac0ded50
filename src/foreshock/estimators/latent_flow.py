"""`LatentFlow`: what the latents of a layer do, as a cloud with a drift, a noise and a density."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreshock.density import Score, entropy, fit_score, free_energy, w2
from foreshock.density.moves import MeasuredFlow, measured_flow
from foreshock.estimators.latent_examples import EXAMPLES, Examples
from foreshock.estimators.latent_particles import (
    LEAST,
    PENULTIMATE,
    Particles,
    choose_particles,
)
from foreshock.estimators.latent_plane import plane_of
from foreshock.estimators.latent_potential import against_loss
from foreshock.estimators.latent_series import FLOW, SERIES, WHOLE
from foreshock.probe.moment import Moment
from foreshock.probe.response import responses, settled_responses
from foreshock.types import Estimate, Flag, Readings, SeriesInfo

#: Batches that a direction takes: half the covariance of n displacements has rank n - 1.
BATCHES_A_DIRECTION = 3
#: Jackknife groups of particles.
REFITS = 20
STEPS = {"settled": settled_responses, "next": responses}
METHODS = ("residual", "gaussian", "kde", "mixture")


@dataclass(frozen=True)
class LatentState:
    """Particles and axes of the first record, and what later clouds are compared with."""

    particles: Particles | None = None
    start: Tensor | None = None
    previous: Tensor | None = None
    centres: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class LatentFlow:
    r"""Latents of a layer as particles: drift, diffusion, density, and what follows from them.

    **What flows.** z_i is the layer's output for example i, the same examples all run. Each of the
    n batch gradients g_b of the probe would move it by δz_ib = J_i δθ_b, J_i the derivative of the
    latent (one forward-mode product a batch) and δθ_b what the optimizer makes of g_b. Their mean
    over batches is the drift μ_i and half their covariance D_i, in units of one training step: no
    constant is free. With the score s = ∇log ρ of the cloud, dz = μ dt + √(2D) dW has the velocity
    v = μ − Ds, C² = E[μ·D⁻¹μ]/E[s·Ds] and the entropy production E[v·D⁻¹v].

    **Read with it.** C = 1 alone is nothing; C = 1 with v = 0 (cosine 1, irreversibility 0) is
    equilibrium. C and the entropy production do not change under z → Az. D is pooled over
    particles and taken as constant: `diffusion_spread` says how far that is from true. All
    particles share the noise of θ, where the equation for one particle has each its own: its share
    is `common_noise`, 0 where the equation holds. Whether the score can be believed is said by
    flags, and by `kernel_ess`, `score_gap` and `stein`. Learning is no diffusion unless these say
    so, and nothing here foretells anything.

    **Dimension.** D has rank n − 1 at most, so n batches give (n − 1)/3 axes: the leading principal
    axes of the first record, kept all run, 8 at most if `dimensions` is not given. More that are
    asked for are refused, as are clouds too small for a score. At 8 batches that is 2 axes; give
    the probe 25 for 8.

    **Cost.** One backward pass (shared with other observables) and one forward product a batch, a
    forward pass, a backward pass for the loss, and a score fitted about 25 times to N points.

    Args:
        layer: Name of a module, or a pattern that matches one; a function ``(model, batch) -> (N,
            D)``; or ``"penultimate"``, what the last linear layer reads.
        pick: Which part of an output with more axes, as in `LatentSite`.
        side: Whether the layer's ``"output"`` or ``"input"`` is taken.
        dimensions: Axes; None for as many as batches and particles allow, at most 8.
        particles: Largest number of examples; copies are left out.
        examples: ``"train"`` or ``"heldout"`` of the probe, ``"batch"`` for its batches at the
            first record, kept; ``"auto"`` is train where that has the form of the batches.
            ``"fresh"``: the batch of each moment, for what a model writes itself: the cloud is then
            that of its present responses. Drift and diffusion are still those of the weights; how
            the responses change is in the distances.
        step: What a gradient does to the weights: ``"settled"``, all that it will have done once
            momentum has passed it on (−η/(1−β) g, −η P⁻¹g), or ``"next"``, the very next step from
            the present state of the optimizer, momentum of earlier gradients included.
        score: ``"residual"``, ``"gaussian"``, ``"mixture"`` or ``"kde"``, as in `fit_score`.
        classes: Write ``latent/c@class3`` and the like for every class of labels with enough
            particles (2d + 10).
        clusters: The same for so many clusters (k-means, started from the last record's centres).
        plane: Grid lines a side of the stored flux field on the first two axes; 0 for none.
        keep: Whether the latents themselves are stored.
        seed: Of particles, clusters and random directions.

    Raises:
        ValueError: If an argument is out of range or unknown.

    References:
        fokker_planck.md 5, 7, 12.2, corrected; Seifert, Rep. Prog. Phys. 75 (2012) 126001; Mandt,
        Hoffman & Blei, JMLR 18 (2017).

    Examples:
        >>> LatentFlow("hidden", dimensions=8).needs == frozenset({"probe"})
        True
        >>> LatentFlow(particles=3)
        Traceback (most recent call last):
        ...
        ValueError: The `particles` of `LatentFlow` must be at least 16. Got 3.
    """

    layer: str | Callable[[Any, Any], Tensor] = PENULTIMATE
    pick: Any = "auto"
    side: Literal["output", "input"] = "output"
    dimensions: int | None = None
    particles: int = 256
    examples: Examples = "auto"
    step: Literal["settled", "next"] = "settled"
    score: Literal["residual", "gaussian", "mixture", "kde"] = "residual"
    classes: bool = False
    clusters: int = 0
    plane: int = 24
    keep: bool = True
    seed: int = 0
    name: str = "latent_flow"
    needs: frozenset[str] = frozenset({"probe"})
    price: float = 80.0
    stride: int = 0

    def __post_init__(self) -> None:
        for field, least in (("particles", 16), ("clusters", 0), ("plane", 0)):
            if getattr(self, field) < least:
                raise ValueError(
                    f"The `{field}` of `LatentFlow` must be at least {least}. "
                    f"Got {getattr(self, field)}."
                )
        if self.dimensions is not None and self.dimensions < 1:
            raise ValueError(
                "The `dimensions` of `LatentFlow` must be at least 1, or None to have them chosen. "
                f"Got {self.dimensions}."
            )
        if 0 < self.plane < 3:
            raise ValueError(
                "The `plane` of `LatentFlow` needs at least 3 grid lines a side, or 0 for no flux "
                f"field. Got {self.plane}."
            )
        known = {
            "examples": EXAMPLES,
            "step": tuple(STEPS),
            "score": METHODS,
            "side": ("output", "input"),
        }
        for field, values in known.items():
            if getattr(self, field) not in values:
                raise ValueError(
                    f"The `{field}` of `LatentFlow` must be one of {values}. "
                    f"Got {getattr(self, field)!r}."
                )
        if not callable(self.layer) and not isinstance(self.layer, str):
            raise ValueError(
                "The `layer` of `LatentFlow` must be a name pattern or a function of (model, "
                f"batch). Got {type(self.layer).__name__}."
            )

    @property
    def series(self) -> tuple[SeriesInfo, ...]:
        """What every measurement writes."""
        return SERIES

    def init(self) -> LatentState:
        """No particles yet: the first record chooses them."""
        return LatentState()

    def update(self, state: LatentState, moment: Moment) -> tuple[LatentState, Readings]:
        """Measure at one moment."""
        assert moment.probe is not None
        taken = moment.batch_gradients
        if moment.optimizer is None:
            return state, _missing("There is no optimizer to ask what a gradient does.")
        if len(taken) < 4:
            return state, _missing(
                f"A drift and its noise need at least 4 batch gradients. Got {len(taken)}; give "
                "the probe more batches."
            )
        gradients = [one.gradient for one in taken]
        if not all(bool(torch.isfinite(part).all()) for one in gradients for part in one):
            return state, _missing("A gradient of the probe's batches is not finite.")
        updates, why = STEPS[self.step](moment.optimizer, moment.view, gradients)
        if updates is None:
            return state, _missing(why)
        try:
            particles = self._particles(state, moment, len(taken))
            few = len(particles.keep) < LEAST
            z = particles.raw(moment)
            moves, no_derivative = (z, "") if few else particles.moves(moment, updates)
        except ValueError as error:  # no particles, or latents that cannot be taken now
            return state, _missing(str(error))
        if few:
            return state, _collapsed(particles)
        scalars, arrays, state = self._measure(state, particles, z, moves, moment)
        if no_derivative:
            scalars = _noted(scalars, no_derivative)
        return state, Readings(scalars, arrays)

    def _measure(
        self, state: LatentState, particles: Particles, raw: Tensor, moves: Tensor, moment: Moment
    ) -> tuple[dict[str, Estimate], dict[str, Any], LatentState]:
        """All there is to say about a cloud and its moves."""
        z = particles.project(raw)
        fitted = fit_score(z, self.score, seed=self.seed)
        found = measured_flow(fitted, moves, refits=min(REFITS, len(z)))
        scalars = dict(_flow(found))
        scalars |= against_loss(moves, _slopes(particles, moment))
        scalars |= self._energy(particles, fitted, scalars["latent/temperature"], moment)
        scalars |= self._distances(state, z, moment.step)
        scalars |= _quality(fitted, particles.share(raw))
        scalars["latent/distinct"] = Estimate.exact(particles.distinct, n=len(z))
        scalars["latent/flux"] = _speed(found)
        arrays, scalars["latent/flux_divergence"] = plane_of(
            z, found.mean, found.tensor, self.plane
        )
        if self.keep:
            arrays |= _stored(particles, z, first=state.particles is None)
        parts, centres = self._parts(particles, state.centres, z)
        for name, rows in parts:
            part = fit_score(z[rows], self.score, seed=self.seed)
            flow = measured_flow(part, moves[:, rows], refits=min(REFITS, len(rows)))
            scalars |= {f"{series}@{name}": e for series, e in _flow(flow)}
        start = z if state.start is None else state.start
        return scalars, arrays, LatentState(particles, start, z, centres)

    def _particles(self, state: LatentState, moment: Moment, batches: int) -> Particles:
        """Those of the first record, or in its axes those of now."""
        if state.particles is None:
            return self._choose(moment, batches)
        if self.examples == "fresh":
            return state.particles.renewed(moment, self.particles, self.seed)
        return state.particles

    def _choose(self, moment: Moment, batches: int) -> Particles:
        return choose_particles(
            moment,
            layer=self.layer,
            pick=self.pick,
            side=self.side,
            examples=self.examples,
            count=self.particles,
            dimensions=self.dimensions,
            most=(batches - 1) // BATCHES_A_DIRECTION,
            seed=self.seed,
        )

    def _energy(
        self, particles: Particles, fitted: Score, temperature: Estimate, moment: Moment
    ) -> dict[str, Estimate]:
        """Entropy, and free energy at the temperature that was measured."""
        h = entropy(fitted, refits=min(REFITS, len(fitted.particles)))
        if not h.resolved:
            free = Estimate.missing(h.reason, flags=h.flags, n=h.n)
        elif not temperature.resolved or not temperature.value > 0:
            free = Estimate.missing("There is no temperature: drift and loss slope do not agree.")
        else:
            energies = particles.energies(moment, min(REFITS, len(fitted.particles)))
            free = (
                Estimate.missing("The loss of single examples needs batches (inputs, targets).")
                if energies is None
                else free_energy(
                    fitted, energies, temperature.value, refits=min(REFITS, len(fitted.particles))
                )
            )
        return {"latent/entropy": h, "latent/free_energy": free}

    def _distances(self, state: LatentState, z: Tensor, step: int) -> dict[str, Estimate]:
        """W2 to the first and to the previous record."""
        names = ("w2_start", "w2_start_sliced", "w2_previous")
        if state.start is None or state.previous is None:
            gone = Estimate.missing("This is the first record: there is nothing to compare with.")
            return {f"latent/{name}": gone for name in names}
        paired = self.examples != "fresh"
        smallest = min(len(z), len(state.start), len(state.previous))
        if smallest < 40:
            gone = Estimate.missing(f"A distance needs at least 40 particles. Got {smallest}.")
            return {f"latent/{name}": gone for name in names}
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + step) % 2**63)
        return {
            f"latent/{name}": w2(z, before, generator=generator, method=method, paired=paired)
            for name, before, method in (
                ("w2_start", state.start, "bures"),
                ("w2_start_sliced", state.start, "sliced"),
                ("w2_previous", state.previous, "bures"),
            )
        }

    def _parts(
        self, particles: Particles, centres: NDArray[np.float64] | None, z: Tensor
    ) -> tuple[list[tuple[str, Tensor]], NDArray[np.float64] | None]:
        """Names and rows of the classes and clusters that have enough particles."""
        found: list[tuple[str, Tensor]] = []
        if self.classes and particles.labels is not None:
            found += _members("class", particles.labels, z)
        if self.clusters:
            labels, centres = _clusters(z, self.clusters, centres, self.seed)
            found += _members("cluster", labels, z)
        return found, centres


def _missing(reason: str) -> Readings:
    gone = Estimate.missing(reason)
    return Readings({info.name: gone for info in (*FLOW, *WHOLE)})


def _slopes(particles: Particles, moment: Moment) -> Tensor | str:
    """Loss slopes at the particles, or the sentence why there are none."""
    try:
        return particles.slopes(moment)
    except (ValueError, RuntimeError) as error:
        return str(error)


def _flow(found: MeasuredFlow) -> Iterator[tuple[str, Estimate]]:
    """Series name and estimate of everything that is written for parts too."""
    for info in FLOW:
        field = info.name.partition("/")[2]
        yield info.name, getattr(found, "consolidation" if field == "c" else field)


def _collapsed(particles: Particles) -> Readings:
    """Nearly all examples are copies: the number that says so, and no cloud."""
    gone = _missing(f"Only {len(particles.keep)} of the examples are no copies of others.").scalars
    return Readings(dict(gone) | {"latent/distinct": Estimate.exact(particles.distinct)})


def _stored(particles: Particles, z: Tensor, *, first: bool) -> dict[str, Any]:
    """Latents, and at the first record what they are coordinates of."""
    arrays: dict[str, Any] = {"latent/z": z.float().cpu().numpy()}
    if first:
        arrays["latent/basis"] = particles.stored
        if particles.labels is not None:
            arrays["latent/labels"] = particles.labels
    return arrays


def _noted(scalars: dict[str, Estimate], reason: str) -> dict[str, Estimate]:
    """The same, with the sentence on what rests on differences instead of derivatives."""
    noted = {info.name for info in FLOW} | {"latent/temperature", "latent/loss_cosine"}
    return {
        name: replace(
            e, flags=e.flags | Flag.BELOW_PRECISION, reason=f"{e.reason} {reason}".strip()
        )
        if name.partition("@")[0] in noted
        else e
        for name, e in scalars.items()
    }


def _speed(found: MeasuredFlow) -> Estimate:
    """√E|v|², what |J|/ρ is at the particles."""
    speed = float(found.velocity.square().sum(1).mean().sqrt())
    if math.isfinite(speed):
        return Estimate.plain(speed)
    reason = found.entropy_production.reason or "The velocity is not finite."
    return Estimate.missing(reason, flags=Flag.UNRESOLVED | found.entropy_production.flags)


def _quality(fitted: Score, share: float) -> dict[str, Estimate]:
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


def _members(kind: str, labels: NDArray[np.int64], z: Tensor) -> list[tuple[str, Tensor]]:
    """Rows of each label that is on enough particles for a score of its own."""
    least = 2 * z.shape[1] + 10
    there = torch.as_tensor(labels, device=z.device)
    names, counts = np.unique(labels, return_counts=True)
    return [
        (f"{kind}{name}", (there == int(name)).nonzero()[:, 0])
        for name, count in zip(names, counts, strict=True)
        if count >= least
    ]


def _clusters(
    z: Tensor, count: int, centres: NDArray[np.float64] | None, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """k-means from the centres of the last record, so that a cluster keeps its number."""
    from scipy.cluster.vq import kmeans2

    points = z.cpu().numpy()
    if centres is None:
        found, labels = kmeans2(points, count, minit="++", seed=seed, missing="warn")
    else:
        found, labels = kmeans2(points, centres, minit="matrix", missing="warn")
    return labels.astype(np.int64), found


__all__ = ["LatentFlow", "LatentState"]
