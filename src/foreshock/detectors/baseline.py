"""What the values of a series were like so far: mean and variance, equal weights first."""

from __future__ import annotations

import math
from typing import NamedTuple

#: Least standard deviation, as a share of the mean; most that enters, in standard deviations.
FLICKER, WILD = 1e-6, 10.0


class Baseline(NamedTuple):
    """Mean and variance of ``count`` values, the last ones counting most.

    Examples:
        >>> baseline = Baseline()
        >>> for x in (1.0, 2.0, 3.0):
        ...     baseline = baseline.followed_by(x, span=100)
        >>> baseline.mean, round(baseline.variance, 3), baseline.count
        (2.0, 0.667, 3)
    """

    mean: float = 0.0
    variance: float = 0.0
    count: int = 0

    def followed_by(self, x: float, span: float) -> Baseline:
        """The baseline after one more value.

        Weights are equal for ``span`` values and exponential later, so it is unbiased from the
        second value on; ``span = inf`` keeps them equal.

        Args:
            x: The value.
            span: Memory, in values.

        Returns:
            The new baseline.
        """
        weight = 1.0 / min(self.count + 1, span)
        delta = x - self.mean
        return Baseline(
            self.mean + weight * delta,
            (1 - weight) * (self.variance + weight * delta * delta),
            self.count + 1,
        )

    @property
    def deviation(self) -> float:
        """Standard deviation, at least a millionth of the mean: less is rounding, not noise."""
        return max(math.sqrt(self.variance), FLICKER * abs(self.mean))

    def residual(self, x: float) -> float:
        """(x − mean)/standard deviation, which must be positive."""
        return (x - self.mean) / self.deviation

    def usual(self, x: float) -> float:
        """The value, drawn in to ten standard deviations: one wild number must not blind a rule.

        Args:
            x: What would enter the baseline.

        Returns:
            What enters; a level that stays so far away is still learnt, the deviation growing.
        """
        reach = WILD * self.deviation
        return min(max(x, self.mean - reach), self.mean + reach)
