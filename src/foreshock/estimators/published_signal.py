"""signal.md's diagnostics as an observable: C, p, I in both forms, states, and the one-liners."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from foreshock.estimators.published import consolidation_ratio, lambda_power, series
from foreshock.probe.moment import Moment
from foreshock.stats import published as pub
from foreshock.types import Estimate, Readings

SOURCE = "signal.md"
PHASES = ("exploration", "transition", "generalization")
STATES = ("failing", "sub-threshold", "critical", "learning", "strong")
I_STATES = ("divergence", "stagnation", "transition", "healthy")
#: The listing takes 20 batches, and `estimate_lambda_max` 5 batches and 20 products.
BATCHES, HESSIAN_BATCHES, PRODUCTS = 20, 5, 20

SERIES = (
    series("signal_signal", "plug-in signal", "|mean gradient|²", SOURCE, unit="(loss/weight)²"),
    series("noise_signal", "noise", "Σ variance of a batch", SOURCE, unit="(loss/weight)²"),
    series("c_signal", "consolidation ratio", "|mean|²/(Σ var + 1e-10)", SOURCE),
    series("p_signal", "p", "C/(1 + C)", SOURCE),
    series("p_gauss_signal", "p of the derivation", "Φ(√C)", SOURCE),
    series("odds_signal", "odds", "p/(1 − p)", SOURCE),
    series("phase_signal", "learning phase", f"index in {PHASES}", SOURCE),
    series("state_signal", "state by p", f"index in {STATES}", SOURCE),
    series("state_by_c_signal", "state by C", f"index in {STATES}", SOURCE),
    series(
        "lambda_power20",
        "λ_max by 20 products",
        "v'Hv, v ← Hv/|Hv|, 5 batches",
        SOURCE,
        unit="loss/weight²",
    ),
    series("s_signal", "S", "2η − λ_max", SOURCE, unit="mixed: 2η less loss/weight²"),
    series("hill_signal", "α, clipped to [1, 2]", "1/mean log(X_i/X_(k+1)), k = 100", SOURCE),
    series("d_h_signal", "d_H", "min(d, α)", SOURCE),
    series("i_placeholder_signal", "I with placeholders", "p·.1/1.5", SOURCE),
    series("i_signal", "I with measured S and d_H", "p S/d_H", SOURCE, unit="as S"),
    series("i_state_signal", "state by I", f"index in {I_STATES}", SOURCE),
    series("lv_signal", "LV", "−|μ|² + Tr D with D = Σ", SOURCE, unit="(loss/weight)²"),
    series("lambda_eff_signal", "λ_eff", "η C |μ|", SOURCE, unit="weight"),
    series("mu_pl_signal", "μ_PL with L* = 0", "|μ|²/(2 L)", SOURCE, unit="loss/weight²"),
    series("order_parameter_signal", "order parameter", "p − 1/2", SOURCE),
    series("type_two_error_signal", "type II error", "1 − p", SOURCE),
    series("mutual_information_signal", "mutual information", "log(1 + C)", SOURCE, unit="nat"),
)


@dataclass(frozen=True)
class PublishedSignal:
    """Everything signal.md computes from n batch gradients, as it is written.

    Gradients are those of the probe's batches (at most 20), in evaluation mode; λ_max takes 20
    products on at most 5 of them; α is read off the entries of the first batch's gradient, as
    `estimate_tail_index` does with what it is given; η is that of the first parameter group. The
    text says "about 1/2" without a width, so ``tolerance`` is ours. The minimum L* is taken as 0.

    What is wrong with each number is said in `foreshock.stats.published` and shown by a test: in
    short, C is biased by 1/n, p is no probability that a step helps, I with its placeholders is a
    constant times p, and S = 2η − λ mixes units.

    Args:
        tolerance: Half-width of the transition around p = 1/2.
        seed: Seed of the power iteration's starts.

    Raises:
        ValueError: If ``tolerance`` is not in [0, .5).

    Examples:
        >>> PublishedSignal().needs == frozenset({"probe"})
        True
    """

    tolerance: float = 0.05
    seed: int = 0
    name: str = "published_signal"
    needs: frozenset[str] = frozenset({"probe"})
    price: float = 200.0
    stride: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < 0.5:
            raise ValueError(
                f"The `tolerance` of `PublishedSignal` must lie in [0, .5). Got {self.tolerance}."
            )

    @property
    def series(self) -> tuple:
        """What every measurement writes."""
        return SERIES

    def init(self) -> None:
        """No state."""

    def update(self, state: None, moment: Moment) -> tuple[None, Readings]:
        """Measure at one moment."""
        assert moment.probe is not None
        taken = moment.batch_gradients[:BATCHES]
        if len(taken) < 2:
            missing = Estimate.missing("The listing needs at least 2 batches for a variance.")
            return state, Readings({info.name: missing for info in SERIES})
        signal, noise, c = consolidation_ratio([one.gradient for one in taken])
        if not math.isfinite(c):
            missing = Estimate.missing("A gradient of the probe is not finite.")
            return state, Readings({info.name: missing for info in SERIES})
        loss = torch.stack([one.loss.double() for one in taken]).mean().item()
        top = lambda_power(
            moment.view,
            moment.probe.loss,
            [one.batch for one in taken[:HESSIAN_BATCHES]],
            products=PRODUCTS,
            seed=self.seed * 1_000_003 + moment.step,
        )
        lr, p = moment.learning_rates[0], pub.p_signal(c)
        s = pub.s_signal(lr, top)
        out = {
            "signal_signal": signal,
            "noise_signal": noise,
            "c_signal": c,
            "p_signal": p,
            "p_gauss_signal": pub.p_gauss_signal(c),
            "odds_signal": pub.odds_signal(p) if p < 1 else math.inf,
            "phase_signal": PHASES.index(pub.phase_signal(p, self.tolerance)),
            "state_signal": STATES.index(pub.state_signal(p)),
            "state_by_c_signal": STATES.index(pub.state_by_c_signal(c)),
            "lambda_power20": top,
            "s_signal": s,
            "i_placeholder_signal": pub.i_signal(p),
            "lv_signal": pub.lv_signal(signal, noise),
            "lambda_eff_signal": lr * c * math.sqrt(signal),
            "mu_pl_signal": pub.mu_pl_signal(signal, loss) if loss > 0 else math.inf,
            "order_parameter_signal": pub.order_parameter_signal(p),
            "type_two_error_signal": pub.type_two_error_signal(p),
            "mutual_information_signal": pub.mutual_information_signal(c),
        }
        found = {f"published/{name}": Estimate.plain(float(value)) for name, value in out.items()}
        found |= self._dimension(moment, p, s)
        return state, Readings({info.name: found[info.name] for info in SERIES})

    def _dimension(self, moment: Moment, p: float, s: float) -> dict[str, Estimate]:
        """α of the gradient's entries, d_H, and I with both measured."""
        names = ("hill_signal", "d_h_signal", "i_signal", "i_state_signal")
        gradient = moment.batch_gradients[0].gradient
        entries = torch.cat([part.reshape(-1) for part in gradient]).double().abs()
        if len(entries) <= 100:
            missing = Estimate.missing("The listing's k = 100 needs more than 100 weights.")
            return {f"published/{name}": missing for name in names}
        alpha = pub.hill_signal(entries.cpu().numpy())
        d_h = pub.d_h_signal(len(entries), alpha)
        value = pub.i_signal(p, s, d_h)
        state = (
            Estimate.plain(float(I_STATES.index(pub.i_state_signal(value))))
            if math.isfinite(value)
            else Estimate.missing("S is not finite.")
        )
        numbers = [Estimate.plain(alpha), Estimate.plain(d_h), Estimate.plain(value), state]
        return {f"published/{name}": n for name, n in zip(names, numbers, strict=True)}
