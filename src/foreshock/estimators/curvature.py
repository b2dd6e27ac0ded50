"""Curvature of the loss: the largest Hessian eigenvalue, tracked while the weights move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from foreshock.estimators.hvp import HessianProduct
from foreshock.estimators.hvp import hessian as hessian
from foreshock.estimators.lanczos import TOLERANCE
from foreshock.estimators.lanczos import lanczos as lanczos
from foreshock.estimators.probe_hessian import check_on, needs_of, probe_product
from foreshock.estimators.tracking import CurvatureState, blocks, track_blocks
from foreshock.estimators.tracking import track as track
from foreshock.probe.groups import Groups, check_groups
from foreshock.probe.moment import Moment
from foreshock.probe.quiet import quiet
from foreshock.probe.view import ModelView
from foreshock.types import Estimate, Readings, SeriesInfo


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


@dataclass(frozen=True)
class Curvature:
    """Largest Hessian eigenvalue λ_max on one batch, the same at every measurement, and ηλ_max/2.

    **Algorithm.** Lanczos with full reorthogonalisation, started from what the last measurement
    found, v₁ + v₂/10, and 10 % of random admixture. It stops when the residual r = |Hv − θv|
    is at most ``tolerance`` of θ, or when r ≤ θ/10 and r²/(θ − θ₂) is at most half of it (the error
    of θ is of second order in r); after four products at the earliest, the last of which brought r
    down by a fifth. A residual proves *an* eigenvalue, not the largest. So the first measurement
    and every ``cold_every``-th also start from random vectors, take at least eight products, and
    flag a disagreement: an unflagged value is an eigenvalue within r, the largest by the last
    check. A direction that overtakes in between can stay unseen until then: of 20 planted among
    2,000 that rose at once to 30, 10 or 5 % above the top, all were found within 3, 7 and 14
    measurements. So every value says in its ``reason`` at which step the last check was; a smaller
    ``cold_every`` costs two exact runs (12 to 20 products) each.

    **Uncertainty.** The interval θ ± r is arithmetic: how far Lanczos may be from the eigenvalue of
    *this batch*. The true error is smaller (r²/gap). It does not say how far another batch would
    be, and the largest eigenvalue of a batch lies above that of all the data: compare along a run,
    or take ``on="probe"``.

    ``hessian/eta_lambda_half`` = ηλ_max/2 with the largest learning rate of the groups: gradient
    descent without momentum is linearly stable below 1. For other optimizers the edge is elsewhere:
    `Stability`.

    Simulated (`foreshock bench coverage curvature`, every eigenvalue moving by 5 % from measurement
    to measurement): unflagged intervals between checks held the largest eigenvalue in 99 to 100 %
    where the top stands out, in 88 to 90 % where ten outliers are 10 % apart, and in 66 to 70 % of
    a flat spectrum where hundreds swap: there the number is *an* eigenvalue near the top.

    **Products.** Between checks they are differences of gradients, half the price of exact ones or
    less (`GradientDifferences`), wherever their error, measured at checks and where the vector has
    turned by 60° or the value changed by a half, is at most 30 % of ``tolerance``; it widens the
    interval, and the ``reason`` says it. Where they are further off or do not converge (bfloat16,
    kinks under a step, a tight ``tolerance``) products are exact until the next check.

    **Cost.** `foreshock bench estimators curvature`, every 8 steps of AdamW, checks included: 6.8
    training steps a measurement on an MLP, 6.9, 7.3 and 8.9 on a transformer of four layers after
    its first 150 steps (three seeds), 7.9 to 10.5 where nine eigenvalues crowd at the top; by 4.0
    to 5.7 products. 95 % of errors lay below .02, .16 and .55 % of λ_max, the largest at 1.3 %.
    The MLP with ReLU, whose products stay exact: 7.9 and 6.7 steps, .01 % (two seeds).

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
                formula="max eigenvalue of ∇²L on one batch; interval θ ± (|Hv − θv| + error of H)",
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
                "hessian/eta_lambda_half": top.times(max(moment.learning_rates) / 2),
            }
            found = blocks(product, self.groups, moment)
            states, parts = track_blocks(found, state.groups, "hessian/lambda_max", options)
        return replace(after, groups=states), Readings(scalars | parts)
