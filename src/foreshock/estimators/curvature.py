"""Curvature: the largest Hessian eigenvalue by warm-started Lanczos, with its residual.

A residual proves that *an* eigenvalue is near, not that it is the largest: when a second direction
overtakes the first, a warm start stays "converged" on the wrong one. So every tenth measurement
starts cold with another seed, and the flag says which cold check it rests on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from foreshock.probe.moment import Moment
from foreshock.probe.quiet import quiet
from foreshock.probe.view import ModelView, labelled
from foreshock.types import NAN, Estimate, Flag, Readings, SeriesInfo

#: Relative residual below which an eigenvalue counts as found.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Ritz:
    """Largest Ritz pair of a Lanczos run.

    Args:
        value: Ritz value θ.
        residual: |Hv − θv|: an eigenvalue lies within this distance of θ.
        vectors: The two leading Ritz vectors, ``(2, d)`` float64, for a warm start.
        steps: Hessian-vector products spent.
    """

    value: float
    residual: float
    vectors: Tensor
    steps: int

    @property
    def converged(self) -> bool:
        """Residual at most `TOLERANCE` of the value."""
        return self.residual <= TOLERANCE * abs(self.value)


def hessian(
    view: ModelView, loss: Callable, batch: object
) -> tuple[Callable[[Tensor], Tensor], int, torch.device]:
    """Hessian of the probe's loss as a product v ↦ Hv, reverse over reverse on one shared graph.

    Call it, and use what it returns, within `foreshock.probe.quiet.quiet`.

    Args:
        view: The live weights.
        loss: ``loss(model, batch) -> scalar``.
        batch: One batch.

    Returns:
        The product on flat float64 vectors ``(d,)``, the dimension d, and the device. Each product
        costs about two gradients; the graph of the gradient is kept until the product is dropped.
    """
    leaves = view.leaves()
    value = view.loss(leaves, loss, batch)
    gradient = torch.autograd.grad(
        value, leaves, create_graph=True, materialize_grads=True, allow_unused=True
    )
    live = [g for g in gradient if g.requires_grad]
    sizes = [leaf.numel() for leaf in leaves]

    def product(v: Tensor) -> Tensor:
        parts = [
            part.view_as(leaf).to(leaf.dtype)
            for part, leaf in zip(v.split(sizes), leaves, strict=True)
        ]
        cotangents = [part for part, g in zip(parts, gradient, strict=True) if g.requires_grad]
        if not live:  # a loss linear in the weights
            return torch.zeros_like(v)
        rows = torch.autograd.grad(
            live,
            leaves,
            grad_outputs=cotangents,
            retain_graph=True,
            materialize_grads=True,
            allow_unused=True,
        )
        return torch.cat([row.reshape(-1) for row in rows]).double()

    return product, sum(sizes), leaves[0].device


def lanczos(product: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> Ritz:
    """Algebraically largest Ritz pair after ``steps`` Lanczos steps from ``start``.

    Full re-orthogonalisation in float64, twice. The residual is explicit, |Hv − θv| from the stored
    products, so rounding inside H shows in it.

    Args:
        product: v ↦ Hv on flat float64 vectors.
        start: Starting vector ``(d,)``.
        steps: Number of products; at most d are useful.

    Returns:
        The leading pair; θ is never above the largest eigenvalue (up to the rounding of H).

    Examples:
        >>> import torch
        >>> diagonal = torch.tensor([3.0, 1.0, -5.0], dtype=torch.float64)
        >>> pair = lanczos(lambda v: diagonal * v, torch.ones(3, dtype=torch.float64), steps=3)
        >>> round(pair.value, 6), pair.residual < 1e-9
        (3.0, True)
    """
    return _to_host([_lanczos(product, start, steps)])[0]


class _Device(NamedTuple):
    """A Ritz pair that is still on the device."""

    value: Tensor
    residual: Tensor
    vectors: Tensor
    steps: int


def _to_host(runs: list[_Device]) -> list[Ritz]:
    """Values and residuals of several runs in one transfer."""
    numbers = torch.stack([x for run in runs for x in (run.value, run.residual)]).tolist()
    return [
        Ritz(numbers[2 * i], numbers[2 * i + 1], run.vectors, run.steps)
        for i, run in enumerate(runs)
    ]


def _lanczos(product: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> _Device:
    """`lanczos` without the transfer."""
    d = len(start)
    steps = min(steps, d)
    basis = start.new_zeros(steps, d)
    image = start.new_zeros(steps, d)
    alive = torch.zeros(steps, dtype=torch.bool, device=start.device)
    q = start / start.norm()
    scale = start.new_zeros(())
    for j in range(steps):
        basis[j] = q
        alive[j] = q.any()
        image[j] = product(q)
        scale = torch.maximum(scale, image[j].norm())
        w = image[j].clone()
        for _ in range(2):
            w -= basis[: j + 1].T @ (basis[: j + 1] @ w)
        beta = w.norm()
        # The Krylov space is exhausted: what is left is rounding (1e-12 of |H|), so stop with zeros
        # rather than with noise. A branch here would cost a transfer every step.
        q = torch.where(beta > 1e-12 * scale, w / beta.clamp_min(1e-300), torch.zeros_like(w))
    projected = basis @ image.T
    projected = (projected + projected.T) / 2
    finite = torch.isfinite(projected).all()
    values, mix = torch.linalg.eigh(torch.where(finite, projected, torch.zeros_like(projected)))
    # Rows of zeros add eigenvalues 0 that do not belong to H: push them below all others.
    real = (mix**2 * alive[:, None]).sum(0) > 0.5
    order = torch.where(real, values, values.new_full((), -math.inf)).argsort(descending=True)[:2]
    vectors = mix[:, order].T @ basis
    residual = (mix[:, order[0]] @ image - values[order[0]] * vectors[0]).norm()
    value = torch.where(finite, values[order[0]], values.new_full((), NAN))
    return _Device(value, residual, vectors, steps)


@dataclass(frozen=True)
class CurvatureState:
    """What one measurement hands to the next: where to start, how long to iterate, last check."""

    vectors: Tensor | None = None
    count: int = 0
    warm_steps: int = 16
    cold_steps: int = 24
    checked_at: int = -1


def lambda_max(
    view: ModelView,
    loss: Callable,
    batch: object,
    state: CurvatureState | None = None,
    *,
    step: int = 0,
    cold_every: int = 10,
    seed: int = 0,
) -> tuple[CurvatureState, Estimate]:
    """Largest eigenvalue of the Hessian of the loss on one batch, tracked over training.

    The first measurement and every ``cold_every``-th run Lanczos from a random start (the first
    from two); the others start from the last two Ritz vectors with 10 % of random admixture. The
    number of iterations follows the residual: it grows after a measurement that did not converge.

    Args:
        view: The live weights.
        loss: ``loss(model, batch) -> scalar``.
        batch: One batch.
        state: From the previous measurement; ``None`` at the first.
        step: For the sentence that says when the last cold check was.
        cold_every: Distance of cold checks, in measurements.
        seed: Seed of the random starts.

    Returns:
        Next state and the estimate: θ with interval θ ± residual, flagged ``not_converged`` where
        the residual exceeds 1e-3 |θ| or a cold start found a larger eigenvalue than the warm one
        did since the last check. ``null``, where two seeds were run, is the span of their values.

    Examples:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
        >>> _, top = lambda_max(ModelView(model), lambda m, x: m(x).pow(2).sum() / 2, x)
        >>> round(top.value, 4)  # largest eigenvalue of x'x
        9.0
    """
    state = state or CurvatureState()
    if state.vectors is not None and state.vectors.shape[1] != sum(
        p.numel() for p in view.parameters
    ):
        state = CurvatureState()  # parameters were frozen or unfrozen: another matrix
    cold = state.vectors is None or state.count % cold_every == 0
    with quiet(seed):
        product, d, device = hessian(view, loss, batch)
        generator = torch.Generator(device=device).manual_seed(seed * 1_000_003 + state.count)

        def random() -> Tensor:
            noise = torch.randn(d, generator=generator, device=device, dtype=torch.float64)
            return noise / noise.norm()

        started = []
        if state.vectors is None:
            started.append(_lanczos(product, random(), state.cold_steps))
        else:
            start = state.vectors.sum(0)
            mixed = start / start.norm() + 0.1 * random()
            started.append(_lanczos(product, mixed, state.warm_steps))
        if cold:
            started.append(_lanczos(product, random(), state.cold_steps))
        runs = _to_host(started)
    best = max(runs, key=lambda run: (math.isfinite(run.value), run.value))
    return _next(state, runs, best, cold, step), _estimate(state, runs, best, cold, step)


def _next(
    state: CurvatureState, runs: list[Ritz], best: Ritz, cold: bool, step: int
) -> CurvatureState:
    """Aim the next run at a tenth of the tolerance, as if residuals fell geometrically."""

    def adapted(steps: int, run: Ritz, least: int) -> int:
        relative = run.residual / abs(run.value) if run.value else math.inf
        if not 0 < relative < 0.5:
            return min(2 * steps, 128) if relative else max(steps // 2, least)
        aimed = math.ceil(steps * math.log(0.1 * TOLERANCE) / math.log(relative))
        # Fewer than 6 iterations miss a planted crossing even with the admixture.
        return min(max(aimed, steps // 2, least), 2 * steps, 128)

    warm = state.warm_steps
    if state.vectors is not None:
        warm = adapted(warm, runs[0], least=6)
    finite = math.isfinite(best.value)
    return CurvatureState(
        vectors=best.vectors if finite else None,
        count=state.count + 1,
        warm_steps=warm,
        cold_steps=adapted(state.cold_steps, runs[-1], least=16) if cold else state.cold_steps,
        checked_at=step if cold else state.checked_at,
    )


def _estimate(
    state: CurvatureState, runs: list[Ritz], best: Ritz, cold: bool, step: int
) -> Estimate:
    if not math.isfinite(best.value):
        return Estimate.missing("The Hessian of the probe's loss is not finite.")
    low, high = best.value - best.residual, best.value + best.residual
    spent = sum(run.steps for run in runs)
    null = (min(r.value for r in runs), max(r.value for r in runs)) if cold else None
    if not best.converged:
        sentence = (
            "Lanczos stopped at a residual above 1e-3 of the value (the interval shows it); "
            "the next measurement iterates longer."
        )
    elif cold and not all(run.converged for run in runs):
        sentence = "The cold check did not converge, so the value may not be the largest."
    elif cold and max(abs(r.value - best.value) for r in runs) > TOLERANCE * abs(best.value):
        sentence = (
            "A cold start and the other start disagree: another direction overtook since the "
            f"check at step {state.checked_at}."
            if state.checked_at >= 0
            else "Two random starts disagree; the larger is given."
        )
    else:
        return Estimate(best.value, low, high, n=spent, null=null)
    return Estimate(
        best.value, low, high, n=spent, flags=Flag.NOT_CONVERGED, reason=sentence, null=null
    )


@dataclass(frozen=True)
class Curvature:
    """Largest Hessian eigenvalue λ_max on one batch, the same at every measurement, and ηλ_max/2.

    The interval is arithmetic: how far Lanczos may be from the eigenvalue of *this batch*. It does
    not say how far another batch would be, and the largest eigenvalue of a batch lies above that of
    all the data (p59, batch 512 of 1,740: 3 to 32 % above on ten batches). Compare along a run.

    ``hessian/eta_lambda_half`` = ηλ_max/2 with the largest learning rate of the groups: gradient
    descent without momentum is linearly stable below 1. For momentum the edge is elsewhere, and for
    Adam it belongs to the preconditioned Hessian: read it there as a scale, not as an edge.

    Cost: 10 to 25 Hessian-vector products (about 2 gradients each), twice that at a cold check.

    Args:
        cold_every: Distance of cold checks, in measurements.
        seed: Seed of the random starts.
        on: ``"batch"``, the first batch of the probe at step 0; or ``"train"``, all of the probe's
            training examples as one batch, for losses that take pairs (inputs, labels).

    Raises:
        ValueError: If ``cold_every`` is below 1 or ``on`` is neither.

    Examples:
        >>> [s.name for s in Curvature().series]
        ['hessian/lambda_max', 'hessian/eta_lambda_half']
    """

    cold_every: int = 10
    seed: int = 0
    on: Literal["batch", "train"] = "batch"
    name: str = "curvature"
    price: float = 100.0
    stride: int = 0

    def __post_init__(self) -> None:
        if self.cold_every < 1:
            raise ValueError(
                f"The `cold_every` of `Curvature` must be at least 1. Got {self.cold_every}."
            )
        if self.on not in ("batch", "train"):
            raise ValueError(
                f"The `on` of `Curvature` must be 'batch' or 'train'. Got {self.on!r}."
            )

    @property
    def needs(self) -> frozenset[str]:
        """The probe, and of it one batch, or the training examples as one."""
        return frozenset({"probe", "train"} if self.on == "train" else {"probe", "batch"})

    @property
    def series(self) -> tuple[SeriesInfo, ...]:
        """What every measurement writes."""
        null = "the span of two Lanczos seeds"
        return (
            SeriesInfo("hessian/lambda_max", "largest Hessian eigenvalue", "loss/weight²", null),
            SeriesInfo("hessian/eta_lambda_half", "ηλ/2 (edge of plain SGD: 1)", "1", null),
        )

    def init(self) -> CurvatureState:
        """Nothing to start from."""
        return CurvatureState()

    def update(self, state: CurvatureState, moment: Moment) -> tuple[CurvatureState, Readings]:
        """Measure at one moment."""
        assert moment.probe is not None
        # Always the same batch: a fresh one would be another matrix, and its crossings an artefact.
        train = labelled(moment.probe) if self.on == "train" else None
        state, top = lambda_max(
            moment.view,
            moment.probe.loss,
            moment.view.draw(moment.probe, 0)[0] if train is None else train,
            state,
            step=moment.step,
            cold_every=self.cold_every,
            seed=self.seed,
        )
        half = max(moment.learning_rates) / 2
        scaled = Estimate(
            top.value * half,
            top.low * half,
            top.high * half,
            n=top.n,
            flags=top.flags,
            reason=top.reason,
            null=None if top.null is None else (top.null[0] * half, top.null[1] * half),
        )
        return state, Readings({"hessian/lambda_max": top, "hessian/eta_lambda_half": scaled})
