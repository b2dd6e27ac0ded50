"""Which examples are particles, and the axes their latents are followed in; the same all run."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from foreshock.density.groups import folds
from foreshock.estimators.latent_examples import Examples, NoParticlesError, cut, examples_of
from foreshock.probe.latent import LatentSite, latents, loss_gradients, moves
from foreshock.probe.latent_layer import hooked
from foreshock.probe.moment import Moment
from foreshock.probe.quiet import quiet
from foreshock.probe.spec import Probe
from foreshock.probe.view import ModelView

#: The layer that stands for "what the last linear layer reads".
PENULTIMATE = "penultimate"
#: Fewest different latents that make a cloud.
LEAST = 8
#: Distance, in standard deviations, below which two latents are one.
COPY = 1e-5
#: Dimensions where none are asked for; a score costs n d^2 and needs n >> d.
DIMENSIONS = 8


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
    """

    site: LatentSite
    batches: tuple[Any, ...]
    keep: Tensor
    labels: NDArray[np.int64] | None
    mean: Tensor
    basis: Tensor
    distinct: float = 1.0

    def renewed(self, moment: Moment, count: int, seed: int) -> Particles:
        """The same axes, and the examples of this moment's first batch for particles."""
        batches, labels = examples_of(moment, "fresh", count, seed)
        raw = _latents(self.site, batches, moment)
        rows = _distinct(raw)
        keep = rows[:count]
        found = None if labels is None else labels[keep.cpu().numpy()]
        share = len(rows) / len(raw)
        return replace(self, batches=batches, keep=keep, labels=found, distinct=share)

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

    def moves(self, moment: Moment, updates: Tensor) -> tuple[Tensor, str]:
        """(n, N, d) Displacement of every particle by each update, and why it is no derivative."""
        assert moment.probe is not None
        parts = [
            moves(moment.view, self.site, moment.probe.loss, batch, updates, basis=self.basis)
            for batch in self.batches
        ]
        moved = torch.cat([part.values for part in parts], 1)[:, self.keep].double()
        return moved, parts[0].reason

    def slopes(self, moment: Moment, shift: Tensor | None = None) -> Tensor:
        """(N, d) ∇_z of every particle's own loss, all moved by ``shift`` (d,) before."""
        loss = moment.probe.loss if moment.probe is not None else None
        assert loss is not None
        by = None if shift is None else (self.basis @ shift).to(moment.view.dtype)
        parts = [
            loss_gradients(moment.view, self.site, loss, batch, shift=by)[1]
            for batch in self.batches
        ]
        return torch.cat(parts)[self.keep].double() @ self.basis

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
    most: int,
    seed: int,
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
        most: Axes that the number of batches allows.
        seed: Of the choice among many examples.

    Returns:
        The particles.

    Raises:
        NoParticlesError: If there are none, or the latents cannot be followed.
    """
    batches, labels = examples_of(moment, examples, count, seed)
    assert moment.probe is not None
    if layer == PENULTIMATE:
        site = LatentSite(_last_linear(moment, batches[0]), pick=pick, side="input")
    else:
        site = LatentSite(layer, pick=pick, side=side)  # type: ignore[arg-type]
    raw = _latents(site, batches, moment).double()
    if not bool(torch.isfinite(raw).all()):
        raise NoParticlesError("The latents are not finite.")
    rows = _distinct(raw)
    keep, share = rows[:count], len(rows) / max(len(raw), 1)
    raw = raw[keep]
    found = labels[keep.cpu().numpy()] if labels is not None and len(labels) >= len(raw) else None
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
        return Particles(site, batches, keep, found, torch.zeros_like(mean), eye, share)
    return Particles(site, batches, keep, found, mean, axes[:, :d], share)


def rehearse(view: ModelView, probe: Probe, observable: Any) -> None:
    """Take latents once at the door, so that a wrong layer is refused there and not in the loop.

    One derivative is taken too: what torch loads for its first (0.2 to 0.7 s) would otherwise be
    charged to the training loop. `PENULTIMATE` needs no check: without such a layer the numbers are
    missing with a sentence. Latents that cannot be taken are a ValueError that lists the layers.

    Args:
        view: The live weights.
        probe: Loss and batches.
        observable: With ``layer``, ``pick`` and ``side``.
    """
    drawn = view.draw(probe, 0)
    if observable.layer == PENULTIMATE or not drawn:
        return
    site = LatentSite(observable.layer, pick=observable.pick, side=observable.side)
    found = latents(view, site, probe.loss, drawn[0])
    still = torch.zeros(1, sum(view.sizes), dtype=view.dtype, device=found.device)
    moves(view, site, probe.loss, drawn[0], still)


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
