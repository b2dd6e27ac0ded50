"""Descent: the loss change a step was expected to make, the one it made, and how updates diffuse.

Measured right after the step θ_t → θ_{t+1} = θ_t + u, at the weights after it. From that end

    L(θ_{t+1}) − L(θ_t) = μ·u − ½u'Hu + O(|u|³),     μ, H at θ_{t+1}

since θ_t = θ_{t+1} − u: the sign of the second term is not that of the formula at the old weights.
Both are exact on a quadratic.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch

from foreshock.estimators.descent_record import Sums, part_columns, step_record
from foreshock.estimators.hvp import DIFFERENCES
from foreshock.probe.groups import Groups, check_groups, resolve_groups
from foreshock.probe.moment import Moment
from foreshock.probe.optimizer import OptimizerView
from foreshock.probe.response import responses
from foreshock.probe.view import ModelView
from foreshock.stats.descent import (
    CRITICAL,
    LEAST,
    critical_snr,
    descent_factor,
    descent_pieces,
    expected_descent,
)
from foreshock.stats.fluctuation import BLOCKS, diffusion, equal_rows, fluctuation_dissipation
from foreshock.stats.sample import mean_interval
from foreshock.types import Estimate, Flag, Readings, SeriesInfo

YAIDA = "Yaida 2019, arXiv:1810.00004"
SERIES = (
    SeriesInfo(
        "grad/descent",
        "loss change of the step, to second order",
        "loss",
        "0 at lr = 0",
        layered=True,
        formula="μ·u − ½u'Hu at the weights after the step u = θ_{t+1} − θ_t",
        oracle="exact change of a quadratic; change of the whole loss over runs of SGD and AdamW",
        source=YAIDA,
    ),
    SeriesInfo(
        "grad/descent_measured",
        "loss change of the step, measured",
        "loss",
        "0 at lr = 0",
        formula="L(θ_{t+1}) − L(θ_t) on the probe's batches, two forward passes each",
        oracle="losses of the live model before and after the step",
        source="definition",
    ),
    SeriesInfo(
        "grad/descent_expected",
        "loss change expected of the next step",
        "loss",
        "0 on average at stationarity",
        layered=True,
        formula="μ·E u + ½E u'Hu over the update u that a fresh batch would cause",
        oracle="Monte Carlo of E ΔL on a quadratic with known μ, Σ, H",
        source=YAIDA,
    ),
    SeriesInfo(
        "grad/descent_noise",
        "loss change that the noise of the next step adds",
        "loss",
        "0 for a full batch",
        layered=True,
        formula="½ tr(H Cov u); ½η² tr(HΣ) for SGD",
        oracle="closed form on a quadratic; linear response (1 − β1)/P of Adam",
        source=YAIDA,
    ),
    SeriesInfo(
        "grad/descent_factor",
        "factor on the learning rate at which the next step descends most",
        "1",
        "1/2 where the loss has stopped changing",
        formula="−μ·E u / E u'Hu over the update u that a fresh batch would cause",
        oracle="closed form on a quadratic with known μ, Σ, H; a minimum over measured rates",
        source=YAIDA,
    ),
    SeriesInfo(
        "grad/critical_snr",
        "signal / noise above which plain SGD descends",
        "1",
        "0 at lr = 0",
        formula="η λ_Σ/(2 − η λ_μ), +inf where η λ_μ ≥ 2",
        oracle="closed form on a quadratic, both sides of η λ_μ = 2",
        source=YAIDA,
    ),
    SeriesInfo(
        "grad/critical_margin",
        "margin of descent of plain SGD, in units of C",
        "1",
        "0: the step neither descends nor ascends",
        formula="C(1 − η λ_μ/2) − η λ_Σ/2 = −E ΔL/(η tr Σ)",
        oracle="closed form on a quadratic",
        source=YAIDA,
    ),
    SeriesInfo(
        "grad/fdt",
        "fluctuation-dissipation ratio",
        "1",
        "1 at stationarity",
        formula="−2 Σ μ·E u / Σ E u'Hu over measurements; 2E|μ|²/(η E[μ'Hμ + tr HΣ]) for SGD",
        oracle="1 on stationary SGD, anisotropic quadratic and noise, small and large η",
        source=YAIDA,
    ),
    SeriesInfo(
        "grad/d_effective",
        "diffusion of the next update, D",
        "weight²/step",
        "0 for a full batch",
        layered=True,
        formula="½ tr Cov of the update over batches, at frozen weights and optimizer state",
        oracle="copies of model and optimizer, each stepped on one batch",
        source="langevin document, FAQ",
    ),
    SeriesInfo(
        "grad/d_sgd",
        "diffusion of plain SGD at this learning rate",
        "weight²/step",
        "0 for a full batch",
        layered=True,
        formula="½ η² V, V the noise of the gradient",
        oracle="definition",
        source="langevin document, section 3",
    ),
)
EXPECTED = ("grad/descent_expected", "grad/descent_noise")
FACTOR = "grad/descent_factor"
#: What is also written for a part of the model.
PER_PART = tuple(info.name for info in SERIES if info.layered)

#: Rounding of a loss, in units of its type's epsilon: a forward pass sums, and two are subtracted.
LOSS_ROUNDING = 4.0
#: Share of the square of a step of plain SGD that the type of the weights may add by rounding.
STEP_ROUNDING = 0.01
COPIES = "The batch gradients are identical (copies of one batch, all data, or all 0): no spread."
SWALLOWED = "The steps are smaller than the rounding of the weights: none moves."


@dataclass(frozen=True)
class DescentState:
    """Drift and curvature along the steps of the last measurements, oldest first."""

    drifts: tuple[float, ...] = ()
    curvatures: tuple[float, ...] = ()


@dataclass(frozen=True)
class Descent:
    """Loss change of the step made and of the step to come, their noise part, and diffusion.

    **Of the step that was made**, for any optimizer: ``grad/descent`` = μ·u − ½u'Hu along u =
    θ_{t+1} − θ_t at the weights after it, n values, one a probe batch, with Student's interval;
    and ``grad/descent_measured`` from the losses before and after, on the same batches. Their
    difference is of third order in u: where it is not small, no second-order quantity means much.

    **Of the step to come**, over a fresh batch: the update that the optimizer would make from its
    present state with each of the n probe gradients, not linearised. ``grad/descent_expected`` is
    μ·E u + ½E u'Hu, ``grad/descent_noise`` the part ½ tr(H Cov u) of it that a full batch would not
    have, ``grad/descent_factor`` the factor on the rate at which the former is least,
    ``grad/d_effective`` = ½ tr Cov u. One step at a frozen state: over many steps momentum
    diffuses 1/(1 − β)² as much, because a buffer hands each batch on. ``grad/fdt`` averages over
    the last ``window`` measurements. For SGD, Adam, AdamW, RMSprop and Adagrad; others (Muon,
    LBFGS) get the step made, and a sentence. ``critical_snr`` and ``critical_margin`` are for plain
    SGD: no momentum, no decay, one learning rate.

    The probe's batches must be as large as those of the training loop, since the noise is theirs,
    and the probe's gradients are not clipped. Learning rates are those of now, before a scheduler
    steps. Losses are those of evaluation mode, before and after with the buffers of now. Steps are
    those that the type of the weights lets happen (`foreshock.probe.response`): where rounding adds
    more than 1 % of the square of a plain step, a critical ratio is missing, and where it swallows
    them all the step to come is flagged. Copies of one batch get unbounded intervals and a flag.

    Cost of a probe batch: one gradient (shared with other observables measured after the update),
    one with a graph, two Hessian-vector products, one forward pass; half of the products without a
    known response. About 45 training steps for 8 batches of 256 and an MLP of 235,000 weights under
    AdamW.

    **Of a part of the model**: what the whole is a sum of over weights, summed over the weights of
    the part: μ·u − ½u·(Hu) and so on, with the u and H of the whole. So parts that partition the
    weights sum to the whole, and ``grad/descent@part`` is the share of the loss change along the
    step that moving this part made (loss change allocation, Lan et al., arXiv:1909.01440), not the
    change that moving it alone would have made: the cross terms of two parts go half to each. For
    that reason it may be positive while every part by itself descends. A part without gradient is
    flagged. Losses do not split, and the critical ratio and ``grad/fdt`` are balances of the whole.

    Args:
        window: Measurements that ``grad/fdt`` averages over, at most.
        groups: Parts of the model to measure beside the whole: ``"layer"``, ``"block"``, a dict of
            name to pattern, or a list of `Group`. Costs no gradient and no Hessian product, but the
            sums over weights again: a fifth more for the three layers of that MLP. Intervals of
            parts cover what those of the whole do (`foreshock bench coverage descent`: 93-99 %).

    Raises:
        ValueError: If ``window`` is below 16 or ``groups`` cannot be used.

    Examples:
        >>> Descent(window=3)
        Traceback (most recent call last):
        ...
        ValueError: The `window` of `Descent` must be at least 16. Got 3.
    """

    window: int = 64
    stride: int = 0
    name: str = "descent"
    needs: frozenset[str] = frozenset({"update", "probe"})
    price: float = 45.0
    groups: Groups = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", check_groups(self.groups, "Descent"))
        if self.window < 2 * BLOCKS:
            raise ValueError(
                f"The `window` of `Descent` must be at least {2 * BLOCKS}. Got {self.window}."
            )

    @property
    def series(self) -> tuple[SeriesInfo, ...]:
        """What every measurement writes."""
        return SERIES

    def init(self) -> DescentState:
        """Nothing averaged yet."""
        return DescentState()

    def update(self, state: DescentState, moment: Moment) -> tuple[DescentState, Readings]:
        """Measure the step that was just made, and the one to come."""
        parts = resolve_groups(self.groups, moment.view)
        if moment.update is None or moment.probe is None or moment.optimizer is None:
            return state, _missing(
                "There is no update, no probe or no optimizer to look at.", parts
            )
        view, optimizer, taken = moment.view, moment.optimizer, moment.batch_gradients
        if not taken:
            return state, _missing("The probe drew no batch at this step.", parts)
        planned, unknown = None, f"An interval needs at least {LEAST} probe batches."
        if len(taken) >= LEAST:
            planned, unknown = responses(optimizer, view, [one.gradient for one in taken])
        rates = optimizer.learning_rates
        columns = part_columns(view.parameters, parts)
        record = step_record(view, moment.probe.loss, taken, moment.update, rates, planned, columns)
        n = len(taken)
        ring = (np.arange(n) + 1) % n
        scalars: dict[str, Estimate] = {}
        for part in parts:
            empty = Estimate.missing(f"The group {part!r} finds no trainable parameter.")
            found = dict.fromkeys(PER_PART, empty)
            if part in record.parts:
                sums = record.parts[part]
                found = _flagged(_summed(sums, ring, unknown), sums, rates, record.method)
            scalars |= {f"{name}@{part}": estimate for name, estimate in found.items()}
        whole = _summed(record.whole, ring, unknown)
        whole["grad/descent_measured"] = _measured(record.after - record.before, record.after, view)
        after = state
        if planned is None:
            lack = Estimate.missing(unknown, n=n)
            whole |= dict.fromkeys((*CRITICAL, "grad/fdt", FACTOR), lack)
        else:
            whole |= _critical(record.whole, optimizer, ring)
            sums = record.whole
            whole[FACTOR] = descent_factor(sums.products, sums.curvatures, ring)
            reason = whole["grad/descent_expected"].reason
            if not whole["grad/descent_expected"].resolved or _copies(record.whole, rates):
                whole["grad/fdt"] = Estimate.missing(reason or COPIES, n=n)
            else:
                pieces = descent_pieces(record.whole.products, record.whole.curvatures, ring)
                after = DescentState(
                    (*state.drifts, float(pieces.drift[0]))[-self.window :],
                    (*state.curvatures, float(pieces.curvature[0]))[-self.window :],
                )
                whole["grad/fdt"] = fluctuation_dissipation(after.drifts, after.curvatures)
        return after, Readings(_flagged(whole, record.whole, rates, record.method) | scalars)


def _missing(sentence: str, parts: Iterable[str]) -> Readings:
    absent = Estimate.missing(sentence)
    names = [info.name for info in SERIES]
    names += [f"{name}@{part}" for part in parts for name in PER_PART]
    return Readings(dict.fromkeys(names, absent))


def _summed(sums: Sums, ring: np.ndarray, unknown: str) -> dict[str, Estimate]:
    """The series that are sums over weights; those of the next step only where it is known."""
    found = {
        "grad/descent": mean_interval(sums.slopes - sums.bends / 2),
        "grad/d_sgd": diffusion(sums.scaled),
    }
    if unknown:
        lack = Estimate.missing(unknown, n=len(ring))
        return found | dict.fromkeys((*EXPECTED, "grad/d_effective"), lack)
    found |= expected_descent(sums.products, sums.curvatures, ring)
    return found | {"grad/d_effective": diffusion(sums.spread)}


def _copies(sums: Sums, rates: Iterable[float]) -> bool:
    """Whether all batches have one gradient; at a rate of 0 nobody can tell, and nothing moves."""
    return len(sums.slopes) > 1 and any(rates) and equal_rows(sums.scaled)


def _flagged(
    scalars: dict[str, Estimate], sums: Sums, rates: Iterable[float], method: str
) -> dict[str, Estimate]:
    """The same readings, with a word on those that rest on less than their intervals claim."""
    found = dict(scalars)
    rates = tuple(rates)
    if _copies(sums, rates):
        names = found.keys() & {"grad/descent", "grad/descent_measured", *EXPECTED, FACTOR}
        for name in names:
            endless = replace(found[name], low=-math.inf, high=math.inf)
            found[name] = _with(endless, Flag.UNRESOLVED, COPIES)
    elif any(rates) and not sums.spread.any():
        for name in found.keys() & {*EXPECTED, FACTOR}:
            found[name] = _with(found[name], Flag.BELOW_PRECISION, SWALLOWED)
    if method == "differences":
        for name in found.keys() & {"grad/descent", *EXPECTED, *CRITICAL, "grad/fdt", FACTOR}:
            found[name] = _with(found[name], Flag.BELOW_PRECISION, DIFFERENCES)
    return found


def _with(estimate: Estimate, flag: Flag, sentence: str) -> Estimate:
    """An estimate with one more flag; as it is where nothing could be computed."""
    if not np.isfinite(estimate.value):
        return estimate
    reason = f"{estimate.reason} {sentence}".strip()
    return replace(estimate, flags=estimate.flags | flag, reason=reason)


def _measured(change: np.ndarray, losses: np.ndarray, view: ModelView) -> Estimate:
    """Mean loss change, flagged where the losses are too coarse to show it."""
    found = mean_interval(change)
    dtype = view.dtype
    coarse = LOSS_ROUNDING * torch.finfo(dtype).eps * float(np.abs(losses).mean())
    if not found.resolved or abs(found.value) > coarse:
        return found
    return Estimate(
        found.value,
        found.low,
        found.high,
        n=found.n,
        flags=Flag.BELOW_PRECISION,
        reason=f"The losses are known to about {coarse:.1g} in {dtype}, and change by less.",
    )


def _critical(sums: Sums, optimizer: OptimizerView, ring: np.ndarray) -> dict[str, Estimate]:
    """The critical ratio, where the optimizer is the one it is a formula for."""
    rates = set(optimizer.learning_rates)
    plain = optimizer.name == "SGD" and all(
        not any(settings.get(key) for key in ("momentum", "weight_decay", "maximize"))
        for settings in optimizer.settings
    )
    if not plain or len(rates) != 1:
        sentence = (
            "The critical ratio is a formula for SGD without momentum or decay, at one learning "
            "rate. The sign of `grad/descent_expected` answers the same question here."
        )
        return {name: Estimate.missing(sentence, n=len(sums.slopes)) for name in CRITICAL}
    rate = rates.pop()
    size = np.trace(sums.scaled)
    rounded = np.trace(sums.spread) + 2 * rate * np.trace(sums.products) + size  # |u + ηg|²
    if rounded > STEP_ROUNDING * size:
        sentence = (
            f"The step is not −ηg: rounding to the type of the weights adds {rounded / size:.2g} "
            "of its square. The sign of `grad/descent_expected` answers the same question here."
        )
        return {name: Estimate.missing(sentence, n=len(sums.slopes)) for name in CRITICAL}
    square = rate**2 or 1.0  # at a rate of 0 all products are 0, and `critical_snr` says so
    return critical_snr(sums.scaled / square, sums.curvatures / square, rate, ring)
