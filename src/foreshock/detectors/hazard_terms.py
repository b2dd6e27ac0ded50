"""`Term`: one number that a `Hazard` makes of the recent readings of a series."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from foreshock.types import NAN

Kind = Literal["last", "slope", "square", "missing"]

#: Recent readings of one series: step and value, oldest first.
Readings = tuple[tuple[int, float], ...]

#: The name that stands for the optimizer step itself, the clock.
STEP = "step"

#: Fewest readings that a slope is made of.
SLOPE_READINGS = 3


@dataclass(frozen=True)
class Term:
    """One standardised covariate, (x − location)/scale, of the readings up to now.

    x is by kind: ``last``, the last reading; ``slope``, the least-squares slope of the readings in
    the window, per step, from three on; ``square``, the squared standardised last reading;
    ``missing``, 1 if there is no fresh reading and 0 otherwise. With ``log`` every reading is
    replaced by its logarithm first, log(1 + step) for the clock.

    A reading that is nan or infinite, or not positive under ``log``, is no reading. A finite one
    counts even if it is flagged ``unresolved``: that an unbiased estimate lies near 0 is
    information, and to keep only the resolved ones would select the large.

    Args:
        series: Name, or ``"step"`` for the optimizer step.
        kind: What is made of the readings.
        log: Whether of their logarithms.
        location: Mean over the landmarks it was fitted on.
        scale: Standard deviation over them.

    Raises:
        ValueError: If the kind is unknown, or the scale not positive.
    """

    series: str
    kind: Kind = "last"
    log: bool = False
    location: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(
                f"The `kind` of a `Term` must be one of {', '.join(get_args(Kind))}. Got "
                f"{self.kind!r}."
            )
        if not (self.scale > 0 and math.isfinite(self.scale) and math.isfinite(self.location)):
            raise ValueError(
                f"A `Term` needs a finite `location` and a positive `scale`. Got {self.location} "
                f"and {self.scale}."
            )

    @property
    def title(self) -> str:
        """How a table calls it, such as ``slope of log loss``."""
        name = f"log {self.series}" if self.log else self.series
        return name if self.kind == "last" else f"{self.kind} of {name}"

    def raw(self, readings: Readings, step: int, stale: int) -> float:
        """The covariate before it is standardised, from what was read up to ``step``.

        Args:
            readings: Recent readings of the series, oldest first; ignored for the clock.
            step: Now.
            stale: Age in steps beyond which the last reading is not used any more.

        Returns:
            The number; nan where it is missing.

        Examples:
            >>> slope = Term("loss", "slope")
            >>> slope.raw(((0, 4.0), (10, 3.0), (20, 2.0)), step=25, stale=100)
            -0.1
            >>> slope.raw(((0, 4.0), (10, 3.0), (20, 2.0)), step=500, stale=100)
            nan
        """
        if self.series == STEP:
            return math.log1p(max(step, 0)) if self.log else float(step)
        known = [(t, _log(x) if self.log else x) for t, x in readings]
        known = [(t, x) for t, x in known if math.isfinite(x)]
        fresh = bool(known) and step - known[-1][0] <= stale
        if self.kind == "missing":
            return 0.0 if fresh else 1.0
        if not fresh:
            return NAN
        return _slope(known) if self.kind == "slope" else known[-1][1]

    def standardised(self, raw: float) -> float:
        """The covariate that enters; a missing one enters as the mean, 0 (1 when squared)."""
        z = 0.0 if math.isnan(raw) else (raw - self.location) / self.scale
        if self.kind == "square":
            return 1.0 if math.isnan(raw) else z * z
        return z


def _log(x: float) -> float:
    return math.log(x) if x > 0 and math.isfinite(x) else NAN


def _slope(known: Sequence[tuple[int, float]]) -> float:
    """Least-squares slope per step; nan with fewer than three readings."""
    if len(known) < SLOPE_READINGS:
        return NAN
    middle = sum(t for t, _ in known) / len(known)
    spread = sum((t - middle) ** 2 for t, _ in known)
    return sum((t - middle) * x for t, x in known) / spread
