"""levy.md's `CriticalityTracker` as an observable: its whole output, and the text's variants."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from foreshock.estimators.ntk import probe_inputs
from foreshock.estimators.published import lambda_power, metric_log_det, series
from foreshock.probe.moment import Moment
from foreshock.stats import published as pub
from foreshock.types import Estimate, Readings

SOURCE = "levy.md"
#: Readings of S, in the order of the index that the series holds.
BANDS = ("divergence", "edge", "unnamed", "stable")

SERIES = (
    series("hill_levy", "α, clipped to [1.1, 1.9]", "clip(k/Σ log(X_i/X_(k+1)), 1.1, 1.9)", SOURCE),
    series(
        "c_levy_code",
        "C_α of the listing",
        "g²/(2 D W), D = (std/g)^α",
        SOURCE,
        unit="(loss/weight)²",
    ),
    series(
        "c_levy_text", "C_α of the text", "g²/(2 D d), D = (σ/g)^α", SOURCE, unit="(loss/weight)²"
    ),
    series(
        "lambda_power5",
        "λ_max by 5 power iterations",
        "v'Hv after 5 of v ← Hv/|Hv|",
        SOURCE,
        unit="loss/weight²",
    ),
    series("s_levy", "stability margin S", "2/η − λ_max", SOURCE, unit="loss/weight²"),
    series("s_band_levy", "reading of S", f"index in {BANDS}", SOURCE),
    series("rho_levy", "ρ = log det G", "Σ log λ over λ > 1e-6", SOURCE, unit="nat"),
    series("drho_levy", "dρ/dt of the listing", "ρ(t) − ρ(t−1), 0 at first", SOURCE, unit="nat"),
    series("drho_levy_text", "dρ/dt of the text", "(ρ(t) − ρ(t−1))/Δt", SOURCE, unit="nat/step"),
    series("stochastic_levy", "flag: C_α in [.8, 1.2]", "1 if .8 ≤ C ≤ 1.2", SOURCE),
    series("spectral_levy", "flag: S in [−.1, .1]", "1 if |S| ≤ .1", SOURCE),
    series("geometric_levy", "flag: |dρ/dt| > .5", "1 if |dρ/dt| > .5", SOURCE),
    series("is_critical_levy", "flag: all three", "the product of the three flags", SOURCE),
    series(
        "phi_levy",
        "Φ",
        "exp(−[(C−1)²/2σ₁² + S²/2σ₂² + (r−μ)²/2σ₃²]), σ = .3, .15, .5, μ = 1",
        SOURCE,
    ),
)


@dataclass(frozen=True)
class LevyState:
    """Gradient norms so far (the last window of them), and the last ρ with its step."""

    norms: tuple[float, ...] = ()
    rho: float = math.nan
    step: int = -1


@dataclass(frozen=True)
class PublishedLevy:
    """Everything that levy.md's `CriticalityTracker.check_criticality` returns, as it is written.

    Measured on the probe: λ_max on its first batch at this step, ρ on the first 32 training inputs,
    in evaluation mode. The gradient norm is that of the optimizer, one a *measurement*: to be the
    listing, measure every step. C, the flags and Φ exist once the window is full, before which the
    listing returns nothing at all.

    η is that of the optimizer's first parameter group.

    What is wrong with each number is said in `foreshock.stats.published` and shown by a test.
    In short: with its own thresholds the joint event does not occur, C mixes units, S is no pure
    number, and ρ jumps by 13.8 whenever an eigenvalue crosses 1e-6.

    Args:
        window: Norms that C and α are taken from.
        examples: Inputs of the metric.
        seed: Seed of the power iteration's starts.

    Raises:
        ValueError: If ``window`` is below 10 or ``examples`` below 1.

    Examples:
        >>> "published/phi_levy" in [s.name for s in PublishedLevy().series]
        True
    """

    window: int = 100
    examples: int = 32
    seed: int = 0
    name: str = "published_levy"
    needs: frozenset[str] = frozenset({"gradients", "probe", "inputs"})
    price: float = 30.0
    stride: int = 0

    def __post_init__(self) -> None:
        if self.window < 10:
            raise ValueError(
                f"The `window` of `PublishedLevy` must be at least 10. Got {self.window}."
            )
        if self.examples < 1:
            raise ValueError(
                f"The `examples` of `PublishedLevy` must be at least 1. Got {self.examples}."
            )

    @property
    def series(self) -> tuple:
        """What every measurement writes."""
        return SERIES

    def init(self) -> LevyState:
        """No norm and no ρ so far."""
        return LevyState()

    def update(self, state: LevyState, moment: Moment) -> tuple[LevyState, Readings]:
        """Measure at one moment."""
        assert moment.probe is not None
        norms = (*state.norms, moment.gradient_norm)[-self.window :]
        batches = moment.view.draw(moment.probe, moment.step)[:1]
        seed = self.seed * 1_000_003 + moment.step
        top = math.nan
        if batches:
            top = lambda_power(moment.view, moment.probe.loss, batches, products=6, seed=seed)
        inputs = probe_inputs(moment.probe, self.examples)
        rho = metric_log_det(moment.view, moment.probe, inputs)
        found = self._scalars(state, norms, top, rho, moment)
        return LevyState(norms, rho, moment.step), Readings(found)

    def _scalars(
        self, state: LevyState, norms: tuple[float, ...], top: float, rho: float, moment: Moment
    ) -> dict[str, Estimate]:
        lr = moment.learning_rates[0]
        s = pub.s_levy(lr, top) if lr else math.nan
        history = [rho] if state.step < 0 else [state.rho, rho]
        rate = pub.drho_levy_code(history) if math.isfinite(rho) else math.nan
        out = {
            "published/lambda_power5": Estimate.plain(top),
            "published/s_levy": Estimate.plain(s) if lr else Estimate.missing("2/η at η = 0."),
            "published/s_band_levy": (
                Estimate.plain(float(BANDS.index(pub.s_band_levy(s))))
                if math.isfinite(s)
                else Estimate.missing("S is not finite, or η is zero.")
            ),
            "published/rho_levy": Estimate.plain(rho),
            "published/drho_levy": Estimate.plain(rate),
            "published/drho_levy_text": (
                Estimate.missing("A rate needs an earlier record.")
                if state.step < 0
                else Estimate.plain(pub.drho_levy_text(rho, state.rho, moment.step - state.step))
            ),
        }
        recent = np.asarray(norms)
        usable = np.isfinite(recent).all() and recent.min() > 0 and recent.std() > 0 and lr
        if len(norms) < self.window or not usable:
            sentence = (
                f"The listing returns nothing before {self.window} gradient norms."
                if len(norms) < self.window
                else "The norms of the window are zero, all equal or not finite, or η is zero."
            )
            missing = Estimate.missing(sentence, n=len(norms))
            return {info.name: out.get(info.name, missing) for info in SERIES}
        alpha = pub.hill_levy(recent)
        c = pub.c_levy_code(recent, self.window)
        dimension = sum(p.numel() for p in moment.view.parameters)
        text = pub.c_levy_text(norms[-1], float(recent.std()), alpha, dimension)
        parts = pub.components_levy(c, s, rate)
        out |= {
            "published/hill_levy": Estimate.plain(alpha),
            "published/c_levy_code": Estimate.plain(c),
            "published/c_levy_text": Estimate.plain(text),
            "published/is_critical_levy": Estimate.plain(float(pub.is_critical_levy(c, s, rate))),
            "published/phi_levy": Estimate.plain(pub.phi_levy(c, s, rate)),
        }
        for key, value in parts.items():
            out[f"published/{key}_levy"] = Estimate.plain(float(value))
        return {info.name: out[info.name] for info in SERIES}
