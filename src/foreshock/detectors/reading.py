"""How rules read a step: all of their series or none, and an interval where one is claimed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from foreshock.types import Estimate

#: Negative values in a row after which a rule that takes logarithms says that it cannot read them.
NEGATIVE = 20


def resolved_row(
    reads: Sequence[str], values: Mapping[str, Estimate]
) -> tuple[Estimate, ...] | None:
    """The estimates of all series of a rule, or ``None`` if one is absent or not resolved.

    Args:
        reads: Names of the series.
        values: What one step has.

    Returns:
        As many estimates as names.

    Examples:
        >>> resolved_row(("x", "y"), {"x": Estimate.plain(1.0)}) is None
        True
    """
    if not all(name in values and values[name].resolved for name in reads):
        return None
    return tuple(values[name] for name in reads)


def ends(estimate: Estimate) -> tuple[float, float]:
    """Ends of the 95 % interval; the value itself where nobody claims an uncertainty.

    Args:
        estimate: A resolved estimate.

    Returns:
        Lower and upper end.

    Examples:
        >>> ends(Estimate(1.0, 0.5, 1.5, n=9)), ends(Estimate.plain(1.0))
        ((0.5, 1.5), (1.0, 1.0))
    """
    if math.isnan(estimate.low) or math.isnan(estimate.high):
        return estimate.value, estimate.value
    return estimate.low, estimate.high


def still_negative(rule: str, count: int, value: float) -> int:
    """Count values below zero that a rule for positive losses passes over, up to `NEGATIVE`.

    Silence would look like safety: a judge reports the exception once and drops the rule.

    Args:
        rule: Name of the rule.
        count: How many there were in a row.
        value: The next.

    Returns:
        The count with it.

    Raises:
        ValueError: If so many came in a row that this is no loss the rule can read.

    Examples:
        >>> still_negative("divergence(loss)", 3, -0.1)
        4
    """
    if count + 1 >= NEGATIVE:
        raise ValueError(
            f"`{rule}` compares logarithms, and the last {count + 1} values of its series are "
            f"negative, the newest {value:.3g}. Use `CUSUM`, `EWMA` or `PageHinkley` on it, or log "
            "a positive loss."
        )
    return count + 1
