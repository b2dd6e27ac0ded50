"""Curvature of the loss: the largest Hessian eigenvalue, tracked while the weights move."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from foreshock.estimators.hvp import DIFFERENCES, HessianProduct, Product
from foreshock.estimators.hvp import hessian as hessian
from foreshock.estimators.lanczos import FEWEST, TOLERANCE, Ritz
from foreshock.estimators.lanczos import lanczos as lanczos
from foreshock.estimators.probe_hessian import (
    PartProduct,
    check_on,
    needs_of,
    part_index,
    probe_product,
)
from foreshock.probe.groups import Groups, check_groups, resolve_groups
from foreshock.probe.moment import Moment
from foreshock.probe.quiet import quiet
from foreshock.probe.view import ModelView
from foreshock.types import Estimate, Flag, Readings, SeriesInfo

#: Most products of one Lanczos run. A spectrum that needs more has no top eigenvalue to speak of.
MOST = 64
#: Length of the random vector that is added to a unit start, and of the second Ritz vector. Without
#: it a start that has converged stays on its eigenvector for ever, whatever overtakes it.
ADMIXTURE = 0.1


EMPTY_GROUP = "The group {name!r} finds no trainable parameter."


@dataclass(frozen=True)
class CurvatureState:
    """What one measurement hands to the next: where to start, and when the last check was.

    Args:
        vectors: The two leading Ritz vectors, ``(2, d)``.
        count: Measurements made.
        checked_at: Step of the last cold check.
        warm: Whether warm starts save products; decided anew at every cold check.
        groups: States of the parts, by name.
    """

    vectors: Tensor | None = None
    count: int = 0
    checked_at: int = -1
    warm: bool = True
    groups: Mapping[str, CurvatureState] = field(default_factory=dict)


def lambda_max(
    view: ModelView,
    loss: Callable,
    batch: object,
    state: CurvatureState | None = None,
    *,
    step: int = 0,
    cold_every: int = 25,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> tuple[CurvatureState, Estimate]:
    """Largest eigenvalue of the Hessian of the loss on one batch, tracked over training.

    See `Curvature` for what the number is worth; `track` is the same for any symmetric product.

    Args:
        view: The live weights.
        loss: ``loss(model, batch) -> scalar``.
        batch: One batch.
        state: From the previous measurement; ``None`` at the first.
        step: For the sentence that says when the last cold check was.
        cold_every: Distance of cold checks, in measurements.
        tolerance: Relative error at which Lanczos stops.
        seed: Seed of the random starts.

    Returns:
        Next state and the estimate.

    Examples:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
        >>> _, top = lambda_max(ModelView(model), lambda m, x: m(x).pow(2).sum() / 2, x)
        >>> round(top.value, 4)  # largest eigenvalue of x'x
        9.0
    """
    with quiet(seed):
        return track(
            HessianProduct(view, loss, batch),
            state,
            step=step,
            cold_every=cold_every,
            tolerance=tolerance,
            seed=seed,
        )


def track(
    product: Product,
    state: CurvatureState | None = None,
    *,
    step: int = 0,
    cold_every: int = 25,
    tolerance: float = TOLERANCE,
    seed: int = 0,
    to_norm: bool = False,
) -> tuple[CurvatureState, Estimate]:
    """Largest eigenvalue of a symmetric matrix that changes from call to call.

    The start is v₁ + v₂/10 from the last call, with 10 % of random admixture. The first call
    and every ``cold_every``-th also run from a random start (the first from two) and take the
    larger value. A random start serves between checks, too, when the last check found that warm
    starts save nothing: so it is where many eigenvalues crowd at the top and swap.

    Args:
        product: v ↦ Hv, with its dimension, device and dtype. Call within `quiet`.
        state: From the previous call; ``None`` at the first.
        step: For the sentence that says when the last cold check was.
        cold_every: Distance of cold checks, in calls.
        tolerance: Relative error at which Lanczos stops.
        seed: Seed of the random starts.
        to_norm: Whether the tolerance is relative to the norm of the matrix instead of θ.

    Returns:
        Next state, and θ with interval θ ± residual; flagged ``not_converged`` where Lanczos
        stopped short, or where two starts of a check disagree. ``n`` is the number of products.
        ``null``, at a check, is the span of the starts' values.

    Examples:
        >>> from foreshock.estimators.hvp import hessian
        >>> model, x = torch.nn.Linear(2, 1, bias=False), torch.tensor([[3.0, 0.0], [0.0, 1.0]])
        >>> with quiet(0):
        ...     view = ModelView(model)
        ...     product, _, _ = hessian(view, lambda m, x: m(x).pow(2).sum() / 2, x)
        ...     _, top = track(product)
        >>> round(top.value, 4)
        9.0
    """
    state = state or CurvatureState()
    if state.vectors is not None and state.vectors.shape[1] != product.dimension:
        state = CurvatureState()  # parameters were frozen or unfrozen: another matrix
    check = state.vectors is None or state.count % cold_every == 0
    generator = torch.Generator(device=product.device).manual_seed(seed * 1_000_003 + state.count)

    def random() -> Tensor:
        shape, kind = product.dimension, product.dtype
        noise = torch.randn(shape, generator=generator, device=product.device, dtype=kind)
        return noise.div_(torch.linalg.vector_norm(noise))

    def run(start: Tensor) -> Ritz:
        return lanczos(product, start, MOST, tolerance=tolerance, least=FEWEST, to_norm=to_norm)

    runs = []
    if state.vectors is not None and (state.warm or check):
        vectors = state.vectors.to(product.dtype)
        start = vectors[0]
        if len(vectors) > 1:
            start = torch.add(start, vectors[1], alpha=ADMIXTURE)
        start = start / torch.linalg.vector_norm(start)
        runs.append(run(start.add_(random(), alpha=ADMIXTURE)))
    if check or not state.warm:
        runs.append(run(random()))
    if state.vectors is None and math.isfinite(runs[0].value):
        runs.append(run(random()))
    best = max(runs, key=lambda one: (math.isfinite(one.value), one.value))
    checked = check or not state.warm
    after = CurvatureState(
        vectors=best.vectors if math.isfinite(best.value) else None,
        count=state.count + 1,
        checked_at=step if checked else state.checked_at,
        warm=runs[0].steps < runs[1].steps
        if check and state.vectors is not None and len(runs) > 1
        else state.warm,
        groups=state.groups,
    )
    return after, _estimate(state, runs, best, check, product.method, after.checked_at)


def _estimate(
    state: CurvatureState,
    runs: list[Ritz],
    best: Ritz,
    check: bool,
    method: str,
    checked_at: int,
) -> Estimate:
    if not math.isfinite(best.value):
        return Estimate.missing("The Hessian of the probe's loss is not finite.")
    allowed = best.tolerance * best.scale
    flags, sentences = Flag.NONE, []
    if not best.converged:
        flags |= Flag.NOT_CONVERGED
        sentences.append(
            f"Lanczos stopped after {best.steps} products with a residual of "
            f"{best.residual:.2g}: an eigenvalue lies within it, the largest may be another."
        )
    elif not all(run.converged for run in runs):
        flags |= Flag.NOT_CONVERGED
        sentences.append("The cold check did not converge, so the value may not be the largest.")
    elif check and max(abs(run.value - best.value) for run in runs) > allowed:
        flags |= Flag.NOT_CONVERGED
        sentences.append(
            "A cold start and the other start disagree: another direction overtook since the "
            f"check at step {state.checked_at}."
            if state.checked_at >= 0
            else "Two random starts disagree; the larger is given."
        )
    if method == "differences":
        flags |= Flag.BELOW_PRECISION
        sentences.append(DIFFERENCES)
    if not flags:  # no flag, but what the number claims depends on it
        sentences.append(f"The largest eigenvalue by the cold check at step {checked_at}.")
    return Estimate(
        best.value,
        best.value - best.residual,
        best.value + best.residual,
        n=sum(run.steps for run in runs),
        flags=flags,
        reason=" ".join(sentences),
        null=(min(r.value for r in runs), max(r.value for r in runs)) if check else None,
    )


@dataclass(frozen=True)
class Curvature:
    """Largest Hessian eigenvalue λ_max on one batch, the same at every measurement, and ηλ_max/2.

    **Algorithm.** Lanczos with full reorthogonalisation, started from what the last measurement
    found, v₁ + v₂/10, and 10 % of random admixture. It stops when the residual r = |Hv − θv|
    is at most ``tolerance`` of θ, or when r ≤ θ/10 and r²/(θ − θ₂) is at most half of it: the error
    of θ is of second order in r. A residual proves *an* eigenvalue, not the largest. So the first
    measurement and every ``cold_every``-th also start from random vectors and flag a
    disagreement: an unflagged value is an eigenvalue within r, the largest by the last such check.
    A direction that overtakes in between is found there at the latest, and often only there: of 20
    sudden swaps planted among 2,000 directions 15 stayed unseen, and unflagged, until the check. So
    every value says in its ``reason`` at which step the last check was; a smaller ``cold_every``
    costs one Lanczos run from scratch (5 to 9 products) each.

    **Uncertainty.** The interval θ ± r is arithmetic: how far Lanczos may be from the eigenvalue of
    *this batch*. The true error is smaller (r²/gap). It does not say how far another batch would
    be, and the largest eigenvalue of a batch lies above that of all the data: compare along a run,
    or take ``on="probe"``.

    ``hessian/eta_lambda_half`` = ηλ_max/2 with the largest learning rate of the groups: gradient
    descent without momentum is linearly stable below 1. For other optimizers the edge is elsewhere:
    `Stability`.

    **Cost.** Mean products a measurement, every 8 steps of AdamW: 3.0 on an MLP (95 % of errors
    below .12 %), 3.0 to 3.3 on a transformer of four layers after its first 150 steps, 3.6 to 4.0
    before, 3.1 to 5.4 where nine eigenvalues crowd at the top. On the seed for which the rule was
    chosen 95 % of errors lay below .7 % in each; on two other seeds, where two eigenvalues came
    within 3 to 7 % of each other, single errors reached 3 %, unflagged. To the products come the
    checks, and one training step for the graph. A product costs 1.2 steps on the MLP, 2.1 on the
    transformer.

    Args:
        cold_every: Distance of cold checks, in measurements.
        seed: Seed of the random starts.
        on: ``"batch"``, the first batch of the probe at step 0; ``"train"``, all of the probe's
            training examples as one batch, for losses that take pairs (inputs, labels); or
            ``"probe"``, the mean Hessian over the batches of the probe at step 0 (times their
            number in cost and memory).
        tolerance: Relative error at which Lanczos stops.
        groups: Parts of the model whose diagonal blocks are tracked, too, as
            ``hessian/lambda_max@part``: ``"layer"``, ``"block"``, a dict of patterns, or `Group`
            objects (heads). Each costs as much as the whole.

    Raises:
        ValueError: If ``cold_every`` is below 1, ``tolerance`` not between 0 and 1, or ``on`` or
            ``groups`` unknown.

    References:
        Ghorbani et al., ICML 2019 (Lanczos for networks); Cohen et al., ICLR 2021 (the edge).

    Examples:
        >>> [s.name for s in Curvature().series]
        ['hessian/lambda_max', 'hessian/eta_lambda_half']
    """

    cold_every: int = 25
    seed: int = 0
    on: Literal["batch", "train", "probe"] = "batch"
    tolerance: float = TOLERANCE
    groups: Groups = None
    name: str = "curvature"
    price: float = 40.0
    stride: int = 0

    def __post_init__(self) -> None:
        if self.cold_every < 1:
            raise ValueError(
                f"The `cold_every` of `Curvature` must be at least 1. Got {self.cold_every}."
            )
        if not 0 < self.tolerance < 1:
            raise ValueError(
                f"The `tolerance` of `Curvature` must lie between 0 and 1. Got {self.tolerance}."
            )
        check_on(self.on, "Curvature")
        object.__setattr__(self, "groups", check_groups(self.groups, "Curvature"))

    @property
    def needs(self) -> frozenset[str]:
        """The probe, and of it one batch, the training examples as one, or all batches."""
        return needs_of(self.on)

    @property
    def series(self) -> tuple[SeriesInfo, ...]:
        """What every measurement writes."""
        source = "levy.md 2; signal.md 6; Cohen et al. 2021"
        return (
            SeriesInfo(
                "hessian/lambda_max",
                "largest Hessian eigenvalue",
                "loss/weight²",
                "the span of two Lanczos starts",
                layered=self.groups is not None,
                formula="max eigenvalue of ∇²L on one batch; interval θ ± |Hv − θv|",
                oracle="dense float64 Hessians of an MLP, a CNN and a transformer; planted spectra",
                source=source,
            ),
            SeriesInfo(
                "hessian/eta_lambda_half",
                "ηλ/2 (edge of plain SGD: 1)",
                "1",
                "the span of two Lanczos starts",
                formula="max η · λ_max / 2",
                oracle="hessian/lambda_max times the learning rate",
                source=source,
            ),
        )

    def init(self) -> CurvatureState:
        """Nothing to start from."""
        return CurvatureState()

    def update(self, state: CurvatureState, moment: Moment) -> tuple[CurvatureState, Readings]:
        """Measure at one moment."""
        options: dict[str, Any] = {
            "step": moment.step,
            "cold_every": self.cold_every,
            "tolerance": self.tolerance,
            "seed": self.seed,
        }
        with quiet(self.seed):
            product = probe_product(moment, self.on)
            after, top = track(product, state, **options)
            scalars = {
                "hessian/lambda_max": top,
                "hessian/eta_lambda_half": scaled(top, max(moment.learning_rates) / 2),
            }
            found = blocks(product, self.groups, moment)
            states, parts = track_blocks(found, state.groups, "hessian/lambda_max", options)
        return replace(after, groups=states), Readings(scalars | parts)


def track_blocks(
    found: Mapping[str, PartProduct | None],
    states: Mapping[str, CurvatureState],
    series: str,
    options: Mapping[str, Any],
) -> tuple[dict[str, CurvatureState], dict[str, Estimate]]:
    """`track` for every block, each from its own state.

    Args:
        found: As `blocks` gives them.
        states: Of the earlier call, by part.
        series: Name of the series; parts are written behind its ``@``.
        options: Of `track`.

    Returns:
        Next states, and estimates by series.
    """
    after, scalars = {}, {}
    for name, block in found.items():
        if block is None:
            scalars[f"{series}@{name}"] = Estimate.missing(EMPTY_GROUP.format(name=name))
        else:
            after[name], scalars[f"{series}@{name}"] = track(block, states.get(name), **options)
    return after, scalars


def blocks(product: Product, groups: Groups, moment: Moment) -> dict[str, PartProduct | None]:
    """The diagonal blocks of a matrix over the weights that belong to parts of the model.

    Args:
        product: The whole matrix.
        groups: As an observable keeps them.
        moment: For its view.

    Returns:
        Name of the part to its block; ``None`` for a part that finds no trainable parameter.
    """
    found = resolve_groups(groups, moment.view)
    indices = {name: part_index(moment.view, members) for name, members in found.items()}
    return {name: PartProduct(product, i) if len(i) else None for name, i in indices.items()}


def scaled(estimate: Estimate, factor: float) -> Estimate:
    """An estimate times a number >= 0, interval, null and flags with it.

    Args:
        estimate: Any estimate.
        factor: At least 0.

    Returns:
        The product.

    Examples:
        >>> scaled(Estimate(2.0, 1.0, 3.0), 0.5).high
        1.5
    """
    null = estimate.null
    return Estimate(
        estimate.value * factor,
        estimate.low * factor,
        estimate.high * factor,
        n=estimate.n,
        flags=estimate.flags,
        reason=estimate.reason,
        null=None if null is None else (null[0] * factor, null[1] * factor),
    )
