"""`Stability`: how far the optimizer that is used is from its own edge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from foreshock.estimators.hvp import Product
from foreshock.estimators.lanczos import TOLERANCE
from foreshock.estimators.probe_hessian import check_on, needs_of, probe_product
from foreshock.estimators.tracking import CurvatureState, blocks, track, track_blocks
from foreshock.probe.groups import Groups, check_groups
from foreshock.probe.moment import Moment
from foreshock.probe.optimizer import OptimizerView
from foreshock.probe.quiet import quiet
from foreshock.stats.stability import edge_factor
from foreshock.types import Estimate, Readings, SeriesInfo

NO_OPTIMIZER = "No optimizer was given, and every optimizer has its own edge."


class ScaledProduct:
    """v ↦ R H R v + a v with diagonal R and a: H in the metric of an optimizer.

    Args:
        product: H.
        root: Diagonal of R, ``(d,)``.
        shift: Diagonal a, ``(d,)``.

    Examples:
        >>> import torch
        >>> from foreshock.estimators.hvp import HessianProduct
        >>> from foreshock.probe.view import ModelView
        >>> view = ModelView(torch.nn.Linear(1, 1, bias=False))
        >>> h = HessianProduct(view, lambda m, x: m(x).pow(2).sum() / 2, torch.ones(1, 1))
        >>> ScaledProduct(h, torch.tensor([3.0]), torch.tensor([0.5]))(torch.ones(1)).item()
        9.5
    """

    def __init__(self, product: Product, root: Tensor, shift: Tensor) -> None:
        self._product = product
        self._root, self._shift = root.to(product.dtype), shift.to(product.dtype)
        self.dimension, self.device = product.dimension, product.device
        self.dtype = product.dtype

    @property
    def method(self) -> str:
        """How H takes its products."""
        return self._product.method

    def __call__(self, v: Tensor) -> Tensor:
        """The product with a flat vector."""
        root, shift = self._root.to(v.dtype), self._shift.to(v.dtype)
        return root * self._product(root * v) + shift * v

    def by_differences(self) -> ScaledProduct | None:
        """The same scaling of the cheaper products, where H has them."""
        quick = self._product.by_differences()
        return None if quick is None else ScaledProduct(quick, self._root, self._shift)


def optimizer_metric(optimizer: OptimizerView) -> tuple[tuple[Tensor, Tensor] | None, str]:
    """Diagonals R and a for which the edge of the optimizer is λ_max(R H R + a) = 1.

    With c of `edge_factor`, R² = cη/P, every parameter with the settings of its own group. Coupled
    weight decay ω is part of the gradient, H + ωI: a = R²ω. Decoupled decay pulls the weight itself
    and adds a = ηω/2 whatever P is (put θ_{t+1} = −θ_t into θ(1 − ηω) − η m/P).

    Args:
        optimizer: Settings and state of the live optimizer.

    Returns:
        Flat float64 R and a, and an empty sentence; or ``None`` and why there is no edge to give.
    """
    metric, why = optimizer.preconditioner()
    if metric is None:
        return None, why
    roots, shifts = [], []
    for p, settings, rate, state, (decay, decoupled) in zip(
        metric,
        optimizer.settings,
        optimizer.learning_rates,
        optimizer.state,
        optimizer.decay,
        strict=True,
    ):
        if settings.get("maximize"):
            return None, "The optimizer maximises, and near a maximum of what it climbs: no edge."
        c = edge_factor(optimizer.name, settings) if settings else 0.0
        if c is None:
            return None, f"The edge of {optimizer.name} is not known here."
        square = c * _rate(rate, settings, state) / p
        shift = torch.full_like(square, rate * decay / 2) if decoupled else square * decay
        roots.append(square.sqrt().reshape(-1))
        shifts.append(shift.reshape(-1))
    return (torch.cat(roots), torch.cat(shifts)), ""


def _rate(rate: float, settings: Mapping[str, Any], state: Mapping[str, Any]) -> float:
    """Learning rate with Adagrad's own decay."""
    decay = float(settings.get("lr_decay", 0.0))
    return rate / (1 + (float(state["step"]) - 1) * decay) if decay and state else rate


@dataclass(frozen=True)
class Stability:
    """How near the run is to the edge of its optimizer: linearly unstable above 1.

    ``hessian/stability`` = λ_max(R H R + a), R² = cη/P with P the optimizer's diagonal metric as it
    stands, c from momentum (`foreshock.stats.stability.edge_factor`) and a from weight decay
    (`optimizer_metric`). For SGD that is ηλ_max/2; with heavy ball ηλ_max/(2 + 2β); for Adam
    λ_max(P^-½HP^-½) · η(1 − β₁)/(2 + 2β₁), with P bias-corrected. Parameter groups with different
    settings enter exactly.

    It is the stability of the linear recursion with P and H frozen. Training may stay at 1 for long
    (the edge of stability), and P follows the gradient, which the number does not know.

    **Uncertainty.** As of `Curvature`: θ ± r on one batch, cold checks included.

    **Cost.** As `Curvature`.

    Args:
        cold_every: Distance of cold checks, in measurements.
        seed: Seed of the random starts.
        on: ``"batch"``, ``"train"`` or ``"probe"``, as for `Curvature`.
        tolerance: Relative error at which Lanczos stops.
        groups: Parts of the model whose own edge is tracked, too, as ``hessian/stability@part``: as
            if the rest of the weights stood still. Each costs as much as the whole.

    Raises:
        ValueError: If ``cold_every`` is below 1, ``tolerance`` not between 0 and 1, or ``on`` or
            ``groups`` unknown.

    References:
        Cohen et al., ICLR 2021 and arXiv:2207.14484.

    Examples:
        >>> [s.name for s in Stability().series]
        ['hessian/stability']
    """

    cold_every: int = 25
    seed: int = 0
    on: Literal["batch", "train", "probe"] = "batch"
    tolerance: float = TOLERANCE
    groups: Groups = None
    name: str = "stability"
    price: float = 40.0
    stride: int = 0

    def __post_init__(self) -> None:
        if self.cold_every < 1:
            raise ValueError(
                f"The `cold_every` of `Stability` must be at least 1. Got {self.cold_every}."
            )
        if not 0 < self.tolerance < 1:
            raise ValueError(
                f"The `tolerance` of `Stability` must lie between 0 and 1. Got {self.tolerance}."
            )
        check_on(self.on, "Stability")
        object.__setattr__(self, "groups", check_groups(self.groups, "Stability"))

    @property
    def needs(self) -> frozenset[str]:
        """The probe, and of it one batch, the training examples as one, or all batches."""
        return needs_of(self.on)

    @property
    def series(self) -> tuple[SeriesInfo, ...]:
        """What every measurement writes."""
        return (
            SeriesInfo(
                "hessian/stability",
                "nearness to the optimizer's edge (edge: 1)",
                "1",
                "the span of two Lanczos starts",
                layered=self.groups is not None,
                formula="λ_max(R H R + a), R² = cη/P; unstable above 1",
                oracle="torch's own optimizers on quadratics just below and above the edge",
                source="levy.md 2; Cohen et al. 2021, 2022",
            ),
        )

    def init(self) -> CurvatureState:
        """Nothing to start from."""
        return CurvatureState()

    def update(self, state: CurvatureState, moment: Moment) -> tuple[CurvatureState, Readings]:
        """Measure at one moment."""
        if moment.optimizer is None:
            return state, Readings({"hessian/stability": Estimate.missing(NO_OPTIMIZER)})
        metric, why = optimizer_metric(moment.optimizer)
        if metric is None:
            return state, Readings({"hessian/stability": Estimate.missing(why)})
        with quiet(self.seed):
            product = ScaledProduct(probe_product(moment, self.on), *metric)
            options: dict[str, Any] = {
                "step": moment.step,
                "cold_every": self.cold_every,
                "tolerance": self.tolerance,
                "seed": self.seed,
            }
            after, top = track(product, state, **options)
            found = blocks(product, self.groups, moment)
            states, parts = track_blocks(found, state.groups, "hessian/stability", options)
        return replace(after, groups=states), Readings({"hessian/stability": top} | parts)
