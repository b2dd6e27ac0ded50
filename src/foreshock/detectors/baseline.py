"""What the values of a series were like so far: mean and variance, equal weights first."""

from __future__ import annotations

import math
from typing import NamedTuple


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

    def residual(self, x: float) -> float:
        """(x − mean)/standard deviation; the variance must be positive."""
        return (x - self.mean) / math.sqrt(self.variance)
