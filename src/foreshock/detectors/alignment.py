"""What the triple alignment as published and its causal form share: parts, tau, sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence

from foreshock.types import Alarm, Estimate

#: Letters of the conditions, with the names of the flags in the listing.
CONDITIONS = {"c": "stochastic", "s": "spectral", "r": "geometric"}
#: Past rates a threshold that depends on the task is taken from, and the least to take it from.
MEMORY, ENOUGH = 100, 20


def aligned(
    name: str,
    step: int,
    reads: Sequence[str],
    parts: Sequence[str],
    row: Sequence[Estimate],
    tau: float,
    edge: float,
) -> Alarm:
    """The alarm on a row, compared with tau, or with the centre of its first condition."""
    numbers = ", ".join(
        f"{series} = {one.value:.3g}" for series, one in zip(reads, row, strict=True)
    )
    beyond = f" (tau = {tau:.3g})" if "r" in parts else ""
    sentence = f"All of its conditions hold: {numbers}{beyond}."
    place = parts.index("r") if "r" in parts else 0
    centre = {"c": 1.0, "s": edge, "r": tau}[parts[place]]
    return Alarm(step, name, reads[place], row[place].value, centre, sentence)


def tau_of(given: float | None, past: Sequence[float]) -> float:
    """The given tau, or the .95 quantile of the past; infinite while there is too little of it."""
    if given is not None:
        return given
    if len(past) < ENOUGH:
        return math.inf
    return sorted(past)[math.ceil(0.95 * len(past)) - 1]


def chosen_parts(parts: Sequence[str], name: str) -> tuple[str, ...]:
    """The conditions in their order, or a sentence for who asked for others."""
    if not parts or not set(parts) <= set(CONDITIONS):
        raise ValueError(
            f"The `parts` of `{name}` must be some of 'c', 's' and 'r'. Got {parts!r}."
        )
    return tuple(part for part in CONDITIONS if part in parts)


def name_of(base: str, parts: Sequence[str]) -> str:
    """The name of a rule with some of the conditions."""
    return base if len(parts) == len(CONDITIONS) else f"{base}({', '.join(parts)})"


def check_threshold(threshold: float | None, name: str) -> None:
    """Refuse a negative tau."""
    if threshold is not None and not threshold >= 0:
        raise ValueError(
            f"The `threshold` of `{name}` must be at least 0, or None for one that is taken from "
            f"the past of the run. Got {threshold}."
        )
