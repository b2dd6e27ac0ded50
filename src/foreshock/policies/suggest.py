"""`suggest_lr`: learning rates that formulas give, published and corrected, with their units."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from foreshock.policies.batches import ends
from foreshock.policies.rate_rules import positive
from foreshock.policies.triggers import trusted
from foreshock.stats.published import alpha_opt_langevin
from foreshock.types import Estimate


@dataclass(frozen=True)
class Suggestion:
    """One formula for the learning rate.

    Args:
        name: What it is.
        formula: How it is made.
        unit: Its unit; a learning rate of SGD is weight²/loss.
        rate: The number, missing with a sentence where an ingredient is.
        note: What it may be used for.
    """

    name: str
    formula: str
    unit: str
    rate: Estimate
    note: str

    def __str__(self) -> str:
        """One line for a person."""
        if not math.isfinite(self.rate.value):
            return f"{self.name}: refused. {self.rate.reason}"
        low, high = ends(self.rate)
        span = "" if low == high else f" ({low:.4g} to {high:.4g})"
        return f"{self.name}: {self.rate.value:.4g}{span} {self.unit}; {self.formula}. {self.note}"


@dataclass(frozen=True)
class Suggestions:
    """What `suggest_lr` found; ``print`` it.

    Args:
        rows: One a formula.
    """

    rows: tuple[Suggestion, ...]

    def __str__(self) -> str:
        """A line a formula."""
        return "\n".join(str(row) for row in self.rows)


def suggest_lr(
    values: Mapping[str, Estimate],
    *,
    lr: float | None = None,
    momentum: float = 0.0,
    dimension: int | None = None,
) -> Suggestions:
    """Learning rates by the published formula and by those that have the right unit.

    | row | formula | unit |
    |---|---|---|
    | published | 2 D/λ_max, D = tr Σ/(2 d) | loss, not that of a rate |
    | edge | 2 (1 + β)/λ_max | weight²/loss |
    | noise bound | (C/(1 + C))/λ_max, C = signal/noise | weight²/loss |
    | best single step | lr × ``grad/descent_factor`` | that of lr |

    The *edge* is where SGD leaves a quadratic, no goal: training at it is the edge of stability.
    The *noise bound* is the rate that is best for one step of plain SGD if all signal and noise lay
    along the steepest direction, so the best single step is at least as long. The published formula
    has the unit of a loss: ten times the loss gives ten times the rate, where the edge
    falls to a tenth; it is printed for comparison and not to be used.

    Args:
        values: Series to estimates, as a run has them at a step. Reads ``hessian/lambda_max``,
            ``grad/signal``, ``grad/noise`` and ``grad/descent_factor``; flagged ones are refused.
        lr: The present learning rate, for the best single step.
        momentum: β of SGD, in [0, 1).
        dimension: d, number of trained weights, for the published D.

    Returns:
        Four suggestions; what an ingredient is missing for is refused in words.

    Raises:
        ValueError: If `lr`, `momentum` or `dimension` is out of range.

    References:
        The document "langevin", experiment 3; Cohen et al., arXiv:2103.00065 (edge).

    Examples:
        >>> found = suggest_lr({"hessian/lambda_max": Estimate(4.0)}, momentum=0.5)
        >>> print(found.rows[1])
        edge: 0.75 weight²/loss; 2 (1 + β)/λ_max. Above it SGD leaves a quadratic: no goal.
        >>> print(found.rows[3])
        best single step: refused. `suggest_lr` needs the present `lr` for it.
    """
    if lr is not None:
        positive("suggest_lr", "lr", lr)
    if not 0 <= momentum < 1:
        raise ValueError(f"The `momentum` of `suggest_lr` must be in [0, 1). Got {momentum}.")
    if dimension is not None and dimension < 1:
        raise ValueError(f"The `dimension` of `suggest_lr` must be at least 1. Got {dimension}.")
    top, noise = _positive(values, "hessian/lambda_max"), _positive(values, "grad/noise")
    signal, best = _positive(values, "grad/signal"), _positive(values, "grad/descent_factor")
    return Suggestions((
        _published(top, noise, dimension),
        Suggestion(
            "edge",
            "2 (1 + β)/λ_max",
            "weight²/loss",
            _over(2 * (1 + momentum), top),
            "Above it SGD leaves a quadratic: no goal.",
        ),
        _bound(top, signal, noise),
        _step(best, lr),
    ))  # fmt: skip


def _positive(values: Mapping[str, Estimate], series: str) -> Estimate:
    """The estimate if it can be trusted and is positive; else a missing one that says why."""
    estimate = values.get(series)
    if estimate is None:
        return Estimate.missing(f"There is no `{series}` at this step.")
    if trusted(values, series) is None:
        why = estimate.reason or f"It is {estimate.value}."
        return Estimate.missing(f"`{series}` cannot be trusted: {why}")
    if estimate.value <= 0:
        return Estimate.missing(f"`{series}` is {estimate.value:.4g}, not positive.")
    return estimate


def _over(above: float, below: Estimate) -> Estimate:
    """A constant over a positive estimate."""
    if not math.isfinite(below.value):
        return below
    low, high = ends(below)
    return Estimate(above / below.value, above / high, above / low if low > 0 else math.inf)


def _published(top: Estimate, noise: Estimate, dimension: int | None) -> Suggestion:
    rate = next((e for e in (top, noise) if not math.isfinite(e.value)), None)
    if rate is None and dimension is None:
        rate = Estimate.missing("`suggest_lr` needs the `dimension` for its D.")
    if rate is None and dimension is not None:
        rate = Estimate.plain(alpha_opt_langevin(noise.value / dimension / 2, top.value))
    return Suggestion(
        "published",
        "2 D/λ_max with D = Var(g)/2",
        "loss, where a rate has weight²/loss",
        rate or top,
        "Its unit is not that of a rate, so no number may be compared with it.",
    )


def _bound(top: Estimate, signal: Estimate, noise: Estimate) -> Suggestion:
    lack = next((e for e in (top, signal, noise) if not math.isfinite(e.value)), None)
    if lack is None:
        p = signal.value / (signal.value + noise.value)
        lack = Estimate.plain(p / top.value)
    return Suggestion(
        "noise bound",
        "(C/(1 + C))/λ_max",
        "weight²/loss",
        lack,
        "The best single step of plain SGD is at least this long.",
    )


def _step(best: Estimate, lr: float | None) -> Suggestion:
    if lr is None:
        rate = Estimate.missing("`suggest_lr` needs the present `lr` for it.")
    elif not math.isfinite(best.value):
        rate = best
    else:
        low, high = ends(best)
        rate = Estimate(lr * best.value, lr * low, lr * high, n=best.n)
    return Suggestion(
        "best single step",
        "lr × −μ·E u/E u'Hu",
        "the unit of lr",
        rate,
        "One step ahead only: a run is often better at longer steps.",
    )
