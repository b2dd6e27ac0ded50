"""Forecasters: from an alarm to when the event is expected, with an interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

from foreshock.types import Forecast


@dataclass(frozen=True)
class OnsetRatio:
    """Onset of generalisation as a multiple of the alarm's step: log(T_on/alarm) ~ N(mean, sd²).

    The defaults were measured on development seeds 0 to 29 of the ``grokking`` experiment (p = 59,
    cross-entropy, evaluated every 10 steps; see LOG.md) and hold for that set-up. The ratio differs
    between tasks and losses; the interval covers seeds of one task, not tasks.

    Args:
        mean: Mean of the log ratio.
        sd: Its standard deviation over seeds.
        n: Seeds they rest on.

    Raises:
        ValueError: If ``n`` is below 2 or ``sd`` negative.

    Examples:
        >>> forecast = OnsetRatio(mean=0.0, sd=0.1, n=30).at(500)
        >>> forecast.low < forecast.step == 500.0 < forecast.high
        True
    """

    mean: float = 0.373
    sd: float = 0.063
    n: int = 30

    def __post_init__(self) -> None:
        if self.n < 2:
            raise ValueError(f"The `n` of `OnsetRatio` must be at least 2. Got {self.n}.")
        if not self.sd >= 0:
            raise ValueError(f"The `sd` of `OnsetRatio` must not be negative. Got {self.sd}.")

    def at(self, step: int) -> Forecast:
        """The forecast of an alarm at ``step``, with the 95 % prediction interval of a new seed."""
        from scipy.special import stdtrit

        half = float(stdtrit(self.n - 1, 0.975)) * self.sd * math.sqrt(1 + 1 / self.n)
        start = max(step, 1)
        return Forecast(
            event="onset",
            step=start * math.exp(self.mean),
            low=start * math.exp(self.mean - half),
            high=start * math.exp(self.mean + half),
            basis=(
                f"exploratory: the ratio onset/alarm of {self.n} development seeds of the grokking "
                "task; other tasks have other ratios"
            ),
        )
