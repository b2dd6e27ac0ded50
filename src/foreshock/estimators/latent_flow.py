"""`LatentFlow`: what the latents of a layer do, as a cloud with a drift, a noise and a density."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreshock.density import Score, entropy, fit_score, free_energy, w2
from foreshock.density.moves import measured_flow
from foreshock.estimators.latent_examples import EXAMPLES, Examples
from foreshock.estimators.latent_particles import (
    LEAST,
    PENULTIMATE,
    Displaced,
    Particles,
    choose_particles,
)
from foreshock.estimators.latent_parts import SCORELESS, clusters, members
from foreshock.estimators.latent_plane import plane_of
from foreshock.estimators.latent_potential import against_loss
from foreshock.estimators.latent_readings import (
    collapsed,
    flow_series,
    missing,
    noted,
    quality,
    second_order,
    slopes,
    stored,
    young,
)
from foreshock.estimators.latent_series import FLOW, SERIES
from foreshock.probe.moment import Moment
from foreshock.probe.response import responses, settled_responses
from foreshock.types import Estimate, Flag, Readings, SeriesInfo

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
    n batch gradients g_b of the probe would move it by δz_ib = z_i(θ + δθ_b) − z_i(θ), δθ_b what
    the optimizer makes of g_b: the whole step, since its second order belongs to the drift after
    Itô (`second_order` is its size). Their mean over batches is the drift μ_i and half their
    covariance D_i, in units of one training step. No constant is free but the batch: noise falls
    with its size, so `batch` says what training takes. With the score s = ∇log ρ of the cloud,
    dz = μ dt + √(2D) dW has the velocity v = μ − Ds, C² = E[μ·D⁻¹μ]/E[s·Ds] and the entropy
    production E[v·D⁻¹v].

    **Read with it.** C = 1 alone is nothing; C = 1 with v = 0 (cosine 1, irreversibility 0) is
    equilibrium. C and the entropy production do not change under z → Az. D is pooled over
    particles and taken as constant: `diffusion_spread` says how far that is from true. All
    particles share the noise of θ, where the equation for one particle has each its own: its share
    is `common_noise`, 0 where the equation holds. Whether the score can be believed is said by
    flags, and by `kernel_ess`, `score_gap` and `stein`. Learning is no diffusion unless these say
    so, and nothing here foretells anything. Gradients are those of evaluation mode, which batch
    normalisation and dropout set apart from those of training.

    **Dimension.** D has rank n − 1 at most, so n batches give (n − 1)/3 axes: the leading principal
    axes of the first record, kept all run, 8 at most if `dimensions` is not given. More that are
    asked for are refused, as are clouds too small for a score. At 8 batches that is 2 axes; give
    the probe 25 for 8. A batch that particles come from gives no displacement.

    **Cost.** One backward pass (shared with other observables) and two forward passes of the N
    particles a batch, a backward pass for the loss, and a score fitted about 25 times to N points.

    Args:
        layer: Name of a module, or a pattern that matches one; a function ``(model, batch) -> (N,
            D)``; or ``"penultimate"``, what the last linear layer reads.
        pick: Which part of an output with more axes, as in `LatentSite`.
        side: Whether the layer's ``"output"`` or ``"input"`` is taken.
        decoder: ``decoder(model, batch, z)``, the mean loss of a batch whose latents are z (N, D);
            without it the rest of the network is found by hooks, which a function as ``layer``
            leaves unknown.
        dimensions: Axes; None for as many as batches and particles allow, at most 8.
        particles: Largest number of examples; copies are left out.
        examples: ``"train"`` or ``"heldout"`` of the probe, ``"batch"`` for its batches at the
            first record, kept; ``"auto"`` is train where that has the form of the batches.
            ``"fresh"``: the batch of each moment, for what a model writes itself: the cloud is then
            that of its present responses. Drift and diffusion are still those of the weights; how
            the responses change is in the distances.
        batch: Examples that a training step really takes, accumulation and ranks included; 0 for
            all of them, which has no noise. Without it the diffusion is that of steps on batches as
            large as the probe's.
        step: What a gradient does to the weights: ``"settled"``, all that it will have done once
            momentum has passed it on (−η/(1−β) g, −η P⁻¹g), or ``"next"``, the very next step from
            the present state of the optimizer, momentum of earlier gradients included.
        score: ``"residual"``, ``"gaussian"``, ``"mixture"`` or ``"kde"``, as in `fit_score`.
        classes: Write ``latent/c@class3`` and the like for the 16 most frequent labels; with fewer
            than 2d + 10 particles they say so.
        clusters: What needs no score, for so many clusters (k-means, started from the last record's
            centres): a cluster has an edge, where a density has no score.
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
    decoder: Callable[[Any, Any, Tensor], Tensor] | None = None
    dimensions: int | None = None
    particles: int = 256
    examples: Examples = "auto"
    batch: int | None = None
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
        if self.batch is not None and self.batch < 0:
            raise ValueError(
                "The `batch` of `LatentFlow` must be the number of examples in a training step, or "
                f"0 for all of them. Got {self.batch}."
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
            return state, missing("There is no optimizer to ask what a gradient does.")
        if len(taken) < 4:
            return state, missing(
                f"A drift and its noise need at least 4 batch gradients. Got {len(taken)}; give "
                "the probe more batches."
            )
        gradients = [one.gradient for one in taken]
        if not all(bool(torch.isfinite(part).all()) for one in gradients for part in one):
            return state, missing("A gradient of the probe's batches is not finite.")
        updates, why = STEPS[self.step](moment.optimizer, moment.view, gradients)
        if updates is None:
            return state, missing(why)
        try:
            particles = self._particles(state, moment)
            if len(particles.keep) < LEAST:
                return state, collapsed(particles)
            # A batch that particles come from knows them better than training does.
            updates = updates[particles.drawn :]
            if len(updates) < 4:
                return state, missing(
                    f"Of {len(taken)} batches {particles.drawn} hold the particles, and fewer than "
                    "4 are left for a drift. Give the probe more, or `train` or `heldout` examples."
                )
            raw = particles.raw(moment)
            moved = particles.moves(moment, updates, raw)
        except ValueError as error:  # no particles, or latents that cannot be taken now
            return state, missing(str(error))
        if self.batch and taken[0].size is None:
            return state, missing(
                "The size of the probe's batches cannot be read off them, so `batch` says nothing. "
                "Leave it out, or give the probe batches of tensors."
            )
        noise = self._noise(taken[0].size)
        scalars, arrays, state = self._measure(state, particles, raw, moved, noise, moment)
        for flag, reason in (
            (Flag.BELOW_PRECISION, moved.reason),
            (Flag.NONSTATIONARY, young(moment) if self.step == "settled" else ""),
        ):
            scalars = noted(scalars, flag, reason) if reason else scalars
        return state, Readings(scalars, arrays)

    def _noise(self, size: int | None) -> float:
        """Variance of the gradient in training over that of the probe's batches."""
        if not self.batch:
            return 1.0 if self.batch is None else 0.0
        assert size is not None
        return size / self.batch

    def _measure(
        self,
        state: LatentState,
        particles: Particles,
        raw: Tensor,
        moved: Displaced,
        noise: float,
        moment: Moment,
    ) -> tuple[dict[str, Estimate], dict[str, Any], LatentState]:
        """All there is to say about a cloud and its moves."""
        z, moves = particles.project(raw), moved.values
        fitted = fit_score(z, self.score, seed=self.seed)
        found = measured_flow(fitted, moves, refits=min(REFITS, len(z)), noise=noise)
        scalars = dict(flow_series(found))
        scalars |= against_loss(moves, slopes(particles, moment), noise=noise)
        scalars["latent/second_order"] = second_order(found, moved)
        scalars |= self._energy(particles, fitted, scalars["latent/temperature"], moment)
        scalars |= self._distances(state, z, moment.step)
        scalars |= quality(fitted, particles.share(raw))
        scalars["latent/distinct"] = Estimate.exact(particles.distinct, n=len(z))
        arrays, scalars["latent/flux_divergence"] = plane_of(
            z, found.mean, found.tensor, self.plane, moves=moves, noise=noise
        )
        if self.keep:
            arrays |= stored(particles, z, first=state.particles is None)
            if self.examples == "fresh" and particles.labels is not None:
                arrays["latent/labels"] = particles.labels
        parts, centres = self._parts(particles, state.centres, z)
        for name, rows in parts:
            scalars |= self._part(name, z[rows], moves[:, rows], noise)
        start = z if state.start is None else state.start
        return scalars, arrays, LatentState(particles, start, z, centres)

    def _particles(self, state: LatentState, moment: Moment) -> Particles:
        """Those of the first record, or in its axes those of now."""
        if state.particles is None:
            return self._choose(moment)
        if self.examples == "fresh":
            return state.particles.renewed(moment, self.particles, self.seed)
        return state.particles

    def _choose(self, moment: Moment) -> Particles:
        return choose_particles(
            moment,
            layer=self.layer,
            pick=self.pick,
            side=self.side,
            examples=self.examples,
            count=self.particles,
            dimensions=self.dimensions,
            seed=self.seed,
            decoder=self.decoder,
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

    def _part(self, name: str, z: Tensor, moves: Tensor, noise: float) -> dict[str, Estimate]:
        """What one class or cluster does by itself."""
        least = 2 * z.shape[1] + 10
        if len(z) < least:
            sentence = f"{len(z)} particles are too few for a part; {least} are needed."
            return {f"{info.name}@{name}": Estimate.missing(sentence) for info in FLOW}
        fitted = fit_score(z, self.score, seed=self.seed)
        flow = measured_flow(fitted, moves, refits=min(REFITS, len(z)), noise=noise)
        # A cluster ends where another begins: a density with an edge has no score there.
        kept = SCORELESS if name.startswith("cluster") else {info.name for info in FLOW}
        return {f"{series}@{name}": e for series, e in flow_series(flow) if series in kept}

    def _parts(
        self, particles: Particles, centres: NDArray[np.float64] | None, z: Tensor
    ) -> tuple[list[tuple[str, Tensor]], NDArray[np.float64] | None]:
        """Names and rows of the classes, of the most frequent ones, and of the clusters."""
        found: list[tuple[str, Tensor]] = []
        if self.classes and particles.labels is not None:
            found += members("class", particles.labels, z)
        if self.clusters:
            labels, centres = clusters(z, self.clusters, centres, self.seed)
            found += members("cluster", labels, z)
        return found, centres


__all__ = ["LatentFlow", "LatentState"]
