"""Which examples are particles, and the axes their latents are followed in; the same all run."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from foreshock.density.groups import folds
from foreshock.estimators.latent_examples import (
    Chosen,
    Examples,
    NoParticlesError,
    cut,
    examples_of,
)
from foreshock.probe.latent import LatentSite, latents, loss_gradients, moves
from foreshock.probe.latent_layer import hooked
from foreshock.probe.moment import Moment
from foreshock.probe.quiet import quiet
from foreshock.probe.spec import Probe
from foreshock.probe.view import ModelView

#: The layer that stands for "what the last linear layer reads".
PENULTIMATE = "penultimate"
#: Batches that a direction takes: half the covariance of n displacements has rank n - 1.
BATCHES_A_DIRECTION = 3
#: Steps shorter than so many roundings of the latents are not taken but differentiated.
ROUNDINGS = 100.0
FIRST_ORDER = (
    "The steps are below the rounding of the weights, so the drift holds their first order only."
)
#: Fewest different latents that make a cloud.
LEAST = 8
#: Distance, in standard deviations, below which two latents are one.
COPY = 1e-5
#: Dimensions where none are asked for; a score costs n d^2 and needs n >> d.
DIMENSIONS = 8


#: ``decoder(model, batch, z)``: mean loss of a batch whose latents are z (N, D).
Decoder = Callable[[Any, Any, Tensor], Tensor]


class Displaced(NamedTuple):
    """What updates would do to particles.

    Args:
        values: (n, N, d) Displacement of each by each update.
        bend: (N, d) The part of its mean that is of second order; nan where there is none.
        reason: Why it is no whole step; empty if it is.
    """

    values: Tensor
    bend: Tensor
    reason: str = ""


@dataclass(frozen=True)
class Particles:
    """Chosen at the first record; kept, so that a latent at two times is one particle, or renewed.

    Args:
        site: Where the latents are taken.
        batches: What the loss is given.
        keep: (N,) Rows of the latents that are particles; copies of others are left out.
        labels: (N,) Class of every particle, or None.
        mean: (D,) Origin of the axes.
        basis: (D, d) Orthonormal axes.
        distinct: Share of the examples looked at whose latents are no copies of others.
        drawn: How many of the moment's first batches the particles come from.
        decoder: The loss from the latents on, where it is not the rest of the network.
    """

    site: LatentSite
    batches: tuple[Any, ...]
    keep: Tensor
    labels: NDArray[np.int64] | None
    mean: Tensor
    basis: Tensor
    distinct: float = 1.0
    drawn: int = 0
    decoder: Decoder | None = None

    def renewed(self, moment: Moment, count: int, seed: int) -> Particles:
        """The same axes, and the examples of this moment's first batch for particles."""
        found = _settled(examples_of(moment, "fresh", count, seed), self.site, moment, count, seed)
        return replace(found, mean=self.mean, basis=self.basis, decoder=self.decoder)

    def raw(self, moment: Moment) -> Tensor:
        """(N, D) Latents now, in float64."""
        return _latents(self.site, self.batches, moment)[self.keep].double()

    def project(self, raw: Tensor) -> Tensor:
        """(N, d) Coordinates of latents."""
        return (raw - self.mean) @ self.basis

    def share(self, raw: Tensor) -> float:
        """Share of the variance of these latents that the axes hold; nan if there is none."""
        total = float((raw - raw.mean(0)).square().sum())
        z = self.project(raw)
        return float((z - z.mean(0)).square().sum()) / total if total else math.nan

    def moves(self, moment: Moment, updates: Tensor, raw: Tensor) -> Displaced:
        """What each update would do to every particle: the whole step, as it would be made.

        z(θ + u) − z(θ), not its first order: the second one belongs to the drift after Itô, where
        it is as large as the diffusion. Steps below the rounding of the weights, and 16-bit
        weights, leave the derivative only, and the reason says so.

        Args:
            moment: When.
            updates: (n, P) Flat in the order of the view.
            raw: (N, D) Latents now; their size says what rounding hides.

        Returns:
            The displacements.
        """
        view = moment.view
        if torch.finfo(view.dtype).bits > 16:
            forward, back = (self.moved(moment, sign * updates, "step")[0] for sign in (1, -1))
            rounding = torch.finfo(view.dtype).eps * raw.square().mean().sqrt()
            seen = forward.square().mean().sqrt()
            # A step that vanishes in the rounding is not one that is not made.
            if not bool(updates.any()) or bool(seen >= ROUNDINGS * rounding):
                return Displaced(forward, 0.5 * (forward + back).mean(0))
        values, reason = self.moved(moment, updates, "jvp")
        reason = reason or FIRST_ORDER
        return Displaced(values, torch.full_like(values[0], torch.nan), reason)

    def moved(self, moment: Moment, updates: Tensor, how: str) -> tuple[Tensor, str]:
        """(n, N, d) Displacements by each update, and why they are not what was asked for."""
        loss = moment.probe.loss if moment.probe is not None else None
        assert loss is not None
        parts = [
            moves(moment.view, self.site, loss, batch, updates, basis=self.basis, how=how)
            for batch in self.batches
        ]
        return torch.cat([part.values for part in parts], 1)[:, self.keep].double(), parts[0].reason

    def slopes(self, moment: Moment, shift: Tensor | None = None) -> Tensor:
        """(N, d) ∇_z of every particle's own loss, all moved by ``shift`` (d,) before."""
        loss = moment.probe.loss if moment.probe is not None else None
        assert loss is not None
        by = None if shift is None else (self.basis @ shift).to(moment.view.dtype)
        parts = [
            loss_gradients(moment.view, self.site, loss, batch, shift=by)[1]
            if self.decoder is None
            else self._decoded(moment, self.decoder, batch, by)
            for batch in self.batches
        ]
        return torch.cat(parts)[self.keep].double() @ self.basis

    def _decoded(
        self, moment: Moment, decoder: Decoder, batch: Any, shift: Tensor | None
    ) -> Tensor:
        """(N, D) Gradient of each example's loss by a decoder of the user's."""
        assert moment.probe is not None
        view = moment.view
        z = latents(view, self.site, moment.probe.loss, batch)
        leaf = (z if shift is None else z + shift).requires_grad_()
        with quiet(view.seed):
            value = view.call(view.parameters, decoder, batch, leaf)
            if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
                raise ValueError(
                    "The `decoder` must return the mean loss of the batch as one number that "
                    "depends on the latents it is given: decoder(model, batch, z)."
                )
            return torch.autograd.grad(value.reshape(()), leaf)[0] * len(leaf)

    def energies(self, moment: Moment, groups: int) -> Tensor | None:
        """(N,) Mean loss of the jackknife group of every particle; None if it cannot be cut."""
        assert moment.probe is not None
        if len(self.batches) > 1 or cut(self.batches[0], self.keep[:1]) is None:
            return None
        fold = folds(len(self.keep), groups, self.keep.device)
        found = torch.empty(len(self.keep), dtype=torch.float64, device=self.keep.device)
        view = moment.view
        with quiet(view.seed), torch.no_grad():
            for group in range(groups):
                part = cut(self.batches[0], self.keep[fold == group])
                value = view.loss(view.parameters, moment.probe.loss, part)
                found[fold == group] = value.double()
        return found

    @property
    def stored(self) -> NDArray[np.float64]:
        """(1 + d, D) Mean and axes, as they are recorded."""
        return torch.cat([self.mean[None], self.basis.T]).cpu().numpy()


def choose_particles(
    moment: Moment,
    *,
    layer: Any,
    pick: Any,
    side: str,
    examples: Examples,
    count: int,
    dimensions: int | None,
    seed: int,
    resolved: bool = True,
    decoder: Decoder | None = None,
) -> Particles:
    """Fix particles and axes.

    Args:
        moment: Of the first record.
        layer: Name pattern, function, or `PENULTIMATE`.
        pick: Which token or pixel, as `LatentSite` has it.
        side: Whether the layer's output or input is taken.
        examples: Which of the probe's examples.
        count: Largest number of particles.
        dimensions: Axes wanted, or None for as many as can be resolved, at most 8.
        seed: Of the choice among many examples.
        resolved: Whether the batches that hold no particles must resolve a diffusion in the axes.
        decoder: The loss from the latents on; None for the rest of the network.

    Returns:
        The particles.

    Raises:
        NoParticlesError: If there are none, or the latents cannot be followed.
    """
    chosen = examples_of(moment, examples, count, seed)
    if layer == PENULTIMATE:
        site = LatentSite(_last_linear(moment, chosen.batches[0]), pick=pick, side="input")
    else:
        site = LatentSite(layer, pick=pick, side=side)  # type: ignore[arg-type]
    found = _settled(chosen, site, moment, count, seed)
    raw = found.raw(moment)
    left = len(moment.batch_gradients) - found.drawn
    most = (left - 1) // BATCHES_A_DIRECTION if resolved else DIMENSIONS
    width = raw.shape[1]
    if len(raw) < LEAST or most < 1:
        raise NoParticlesError(
            f"There are {len(raw)} different latents and {most} directions that the probe's "
            "batches can resolve: too few. Give the probe at least 4 batches, and more examples."
        )
    mean, sizes, axes = _principal(raw)
    # Nothing moves along an axis on which all particles agree, and no density lives there.
    rank = int((sizes > 1e-6 * sizes[0]).sum())
    d = min(rank, most, DIMENSIONS) if dimensions is None else min(dimensions, width)
    if d == width:  # nothing to leave out: the latents' own axes
        eye = torch.eye(width, dtype=raw.dtype, device=raw.device)
        return replace(found, mean=torch.zeros_like(mean), basis=eye, decoder=decoder)
    return replace(found, mean=mean, basis=axes[:, :d], decoder=decoder)


def _settled(chosen: Chosen, site: LatentSite, moment: Moment, count: int, seed: int) -> Particles:
    """Which rows of the batches are particles: some that are no copies, by lot; in no axes yet."""
    raw = _latents(site, chosen.batches, moment).double()
    rows = _distinct(raw)
    lot = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    # By lot, not the first: data often come sorted by class.
    keep = rows[lot[:count].to(rows.device)].sort().values
    known = chosen.labels is not None and len(chosen.labels) == len(raw)
    labels = chosen.labels[keep.cpu().numpy()] if known and chosen.labels is not None else None
    batches = chosen.batches
    if len(batches) == 1 and (less := cut(batches[0], keep)) is not None:
        batches, keep = (less,), torch.arange(len(keep), device=keep.device)
    nowhere = raw.new_zeros(raw.shape[1])
    share = len(rows) / max(len(raw), 1)
    return Particles(site, batches, keep, labels, nowhere, nowhere[:, None], share, chosen.drawn)


def rehearse(view: ModelView, probe: Probe, observable: Any) -> None:
    """Take latents once at the door, so that a wrong layer is refused there and not in the loop.

    `PENULTIMATE` needs no check: without such a layer the numbers are missing with a sentence.
    Latents that cannot be taken are a ValueError that lists the layers.

    Args:
        view: The live weights.
        probe: Loss and batches.
        observable: With ``layer``, ``pick`` and ``side``.
    """
    drawn = view.draw(probe, 0)
    if observable.layer == PENULTIMATE or not drawn:
        return
    site = LatentSite(observable.layer, pick=observable.pick, side=observable.side)
    latents(view, site, probe.loss, drawn[0])


def _last_linear(moment: Moment, batch: Any) -> str:
    """Name of the linear layer that the loss calls last."""
    assert moment.probe is not None
    view, called = moment.view, []
    with ExitStack() as stack:
        for name, module in view.shadow.named_modules():
            if isinstance(module, nn.Linear):
                stack.enter_context(hooked(module, "input", lambda _, n=name: called.append(n)))
        with quiet(view.seed), torch.no_grad():
            view.loss(view.parameters, moment.probe.loss, batch)
    if not called:
        raise NoParticlesError(
            "The loss calls no torch.nn.Linear, so there is no penultimate layer. Name one: "
            "LatentFlow('blocks.3')."
        )
    return called[-1]


def _latents(site: LatentSite, batches: tuple[Any, ...], moment: Moment) -> Tensor:
    assert moment.probe is not None
    found = [latents(moment.view, site, moment.probe.loss, batch) for batch in batches]
    return torch.cat(found)


def _distinct(raw: Tensor) -> Tensor:
    """(N,) Rows of which no earlier row is a copy, in their order."""
    # Two equal inputs need not have equal latents: a matrix product rounds rows differently. So
    # rows are copies if they agree in two random directions.
    generator = torch.Generator().manual_seed(0)
    axes = torch.randn(raw.shape[1], 2, generator=generator, dtype=torch.float64).to(raw.device)
    seen = raw.double() @ axes
    close = COPY * (seen - seen.mean(0)).square().mean(0).sqrt()
    order = seen[:, 0].argsort(stable=True)
    gaps = (seen[order[1:]] - seen[order[:-1]]).abs()
    begins = torch.ones(len(raw), dtype=torch.bool, device=raw.device)
    begins[1:] = (gaps > close).any(1)
    group = begins.cumsum(0) - 1
    first = torch.full((int(group[-1]) + 1,), len(raw), device=raw.device)
    return first.scatter_reduce(0, group, order, "amin").sort().values


def _principal(raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (D,), singular values and orthonormal principal axes (D, min(N, D))."""
    mean = raw.mean(0)
    _, sizes, axes = torch.linalg.svd(raw - mean, full_matrices=False)
    if not float(sizes[0]) > 0:
        raise NoParticlesError("All latents are the same: there is no cloud.")
    basis = axes.T
    # Of the two signs the one with a positive largest entry, so that runs can be compared.
    largest = basis.gather(0, basis.abs().argmax(0, keepdim=True))
    return mean, sizes, basis * largest.sign()
