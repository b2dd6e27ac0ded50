"""langevin.md's diagnostics as an observable: D in both forms, C(t), its regime, and the rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from foreshock.estimators.published import consolidation_ratio, lambda_power, series
from foreshock.probe.moment import Moment
from foreshock.stats import published as pub
from foreshock.types import Estimate, Readings

SOURCE = "langevin.md"
REGIMES = ("diffusive", "critical", "transitional", "deterministic")
PRODUCTS = 20

SERIES = (
    series("d_langevin", "D from gradients", "mean Var(g)/2", SOURCE, unit="(loss/weight)²"),
    series("d_parameters_langevin", "D from weights", "mean Var(θ)/T", SOURCE, unit="weight²/step"),
    series("c_langevin", "C(t), D from gradients", "|∇L|²/(D d), D = Var(g)/2", SOURCE),
    series(
        "c_parameters_langevin",
        "C(t), D from weights",
        "|∇L|²/(D d), D = Var(θ)/T",
        SOURCE,
        unit="loss²/weight⁴ · step",
    ),
    series("regime_langevin", "regime by C(t)", f"index in {REGIMES}", SOURCE),
    series("alert_langevin", "flag: C < 2 and falling", "1 if C < 2 and C < C before", SOURCE),
    series("d_eff_langevin", "D_eff", "η² Var(g)/B", SOURCE, unit="weight²"),
    series(
        "lambda_power20_langevin",
        "λ_max by 20 products",
        "v'Hv, v ← Hv/|Hv|",
        SOURCE,
        unit="loss/weight²",
    ),
    series("alpha_opt_langevin", "learning rate of the formula", "2 D/λ_max", SOURCE, unit="loss"),
)


@dataclass(frozen=True)
class LangevinState:
    """Running mean and squared deviations of the weights, how many, and the last C."""

    count: int = 0
    mean: tuple[Tensor, ...] = ()
    squares: tuple[Tensor, ...] = ()
    c: float = math.nan
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class PublishedLangevin:
    """langevin.md's C(t) with both of its estimates of D, its regime, D_eff and learning rate.

    ∇L is the plain mean of the probe's batch gradients. D from weights is the variance of all
    snapshots since the first measurement over their number, kept as running sums: two float64
    copies of the weights. η is that of the first parameter group.

    What is wrong with each number is said in `foreshock.stats.published` and shown by a test: in
    short, C(t) with D = Var(g)/2 is twice `published/c_signal`, so it is no second witness; D from
    the weights reads a third of a free diffusion; and 2D/λ_max has the unit of a loss.

    Args:
        tolerance: Half-width of "C ≈ 1"; the text gives none.
        seed: Seed of the power iteration's starts.

    Raises:
        ValueError: If ``tolerance`` is not positive.

    Examples:
        >>> PublishedLangevin().name
        'published_langevin'
    """

    tolerance: float = 0.2
    seed: int = 0
    name: str = "published_langevin"
    needs: frozenset[str] = frozenset({"probe"})
    price: float = 60.0
    stride: int = 0

    def __post_init__(self) -> None:
        if not self.tolerance > 0:
            raise ValueError(
                f"The `tolerance` of `PublishedLangevin` must be positive. Got {self.tolerance}."
            )

    @property
    def series(self) -> tuple:
        """What every measurement writes."""
        return SERIES

    def init(self) -> LangevinState:
        """No snapshot so far."""
        return LangevinState()

    def update(self, state: LangevinState, moment: Moment) -> tuple[LangevinState, Readings]:
        """Measure at one moment."""
        assert moment.probe is not None
        names = tuple(moment.view.names)
        if state.names != names:
            state = LangevinState(c=state.c, names=names)
        count, mean, squares = _welford(
            state, [p.to(torch.float64, copy=True) for p in moment.view.parameters]
        )
        taken = moment.batch_gradients
        if len(taken) < 2:
            missing = Estimate.missing("A variance needs at least 2 batches.")
            after = LangevinState(count, mean, squares, names=names)
            return after, Readings({info.name: missing for info in SERIES})
        signal, noise, _ = consolidation_ratio([one.gradient for one in taken])
        dimension = sum(p.numel() for p in moment.view.parameters)
        spread = torch.stack([part.sum() for part in squares]).sum().item()
        top = lambda_power(
            moment.view,
            moment.probe.loss,
            [taken[0].batch],
            products=PRODUCTS,
            seed=self.seed * 1_000_003 + moment.step,
        )
        # Mean over coordinates of the unbiased variance, as the forms on numbers take it.
        diffusion = noise / dimension / 2
        finite = math.isfinite(signal) and math.isfinite(noise) and noise > 0
        c = pub.c_langevin(signal, diffusion, dimension) if finite else math.nan
        lr = moment.learning_rates[0]
        size = next((one.size for one in taken if one.size), None)
        found = {
            "d_langevin": Estimate.plain(diffusion),
            **self._by_weights(count, spread, signal, dimension),
            **self._by_c(c, state.c),
            "d_eff_langevin": (
                Estimate.missing("The batch size is unknown.")
                if size is None
                else Estimate.plain(pub.d_eff_langevin(lr, noise / dimension, size))
            ),
            "lambda_power20_langevin": Estimate.plain(top),
            "alpha_opt_langevin": (
                Estimate.plain(pub.alpha_opt_langevin(diffusion, top))
                if top
                else Estimate.missing("λ_max is zero.")
            ),
        }
        ordered = {info.name: found[info.name.partition("/")[2]] for info in SERIES}
        return LangevinState(count, mean, squares, c, names), Readings(ordered)

    def _by_weights(
        self, count: int, spread: float, signal: float, dimension: int
    ) -> dict[str, Estimate]:
        """D from the weights' variance over the trajectory so far, and its C."""
        if count < 2 or not spread > 0:
            missing = Estimate.missing("A variance of the weights needs 2 different snapshots.")
            return {"d_parameters_langevin": missing, "c_parameters_langevin": missing}
        diffusion = spread / (count - 1) / dimension / count
        c = pub.c_langevin(signal, diffusion, dimension)
        return {
            "d_parameters_langevin": Estimate.plain(diffusion),
            "c_parameters_langevin": Estimate.plain(c),
        }

    def _by_c(self, c: float, previous: float) -> dict[str, Estimate]:
        """C and what is read off it."""
        if not math.isfinite(c):
            missing = Estimate.missing("The gradients are not finite, or have no noise.")
            return dict.fromkeys(("c_langevin", "regime_langevin", "alert_langevin"), missing)
        return {
            "c_langevin": Estimate.plain(c),
            "regime_langevin": Estimate.plain(
                float(REGIMES.index(pub.regime_langevin(c, self.tolerance)))
            ),
            "alert_langevin": (
                Estimate.plain(float(pub.alert_langevin(c, previous)))
                if math.isfinite(previous)
                else Estimate.missing('"Falling" needs an earlier record.')
            ),
        }


def _welford(
    state: LangevinState, weights: list[Tensor]
) -> tuple[int, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Running mean and sum of squared deviations; anew if the parameters changed."""
    shapes = [w.shape for w in weights]
    if [m.shape for m in state.mean] != shapes:
        return 1, tuple(weights), tuple(torch.zeros_like(w) for w in weights)
    count = state.count + 1
    shifts = [w - m for w, m in zip(weights, state.mean, strict=True)]
    mean = tuple(m + s / count for m, s in zip(state.mean, shifts, strict=True))
    squares = tuple(
        q + s * (w - m) for q, s, w, m in zip(state.squares, shifts, weights, mean, strict=True)
    )
    return count, mean, squares
