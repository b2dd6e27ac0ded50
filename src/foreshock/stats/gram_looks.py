"""How many batches are enough: looks at growing n, with intervals that hold at all of them."""

from __future__ import annotations

from foreshock.stats.intervals import t_quantile
from foreshock.types import Estimate

#: Level of each of 1, 2, ... looks at growing n that leaves 5 % over all of them: Pocock's, for
#: equal steps. Steps that double are a little less dependent.
LEVELS = (0.05, 0.0294, 0.0221, 0.0182, 0.0158)
#: Batches of the first look, at least: with fewer the interval is long and little is ever settled.
FIRST = 8


def look_sizes(most: int) -> tuple[int, ...]:
    """Numbers of batches at which to look, doubling up to ``most``.

    Args:
        most: Batches that there are.

    Returns:
        At most 5 numbers in ascending order, the last one ``most``, the first at least 8 if there
        is more than one.

    Examples:
        >>> look_sizes(64), look_sizes(20), look_sizes(12)
        ((8, 16, 32, 64), (10, 20), (12,))
    """
    sizes = [most]
    while len(sizes) < len(LEVELS) and sizes[0] >= 2 * FIRST:
        sizes.insert(0, -(-sizes[0] // 2))
    return tuple(sizes)


def look_widening(looks: int, n: int) -> float:
    """Factor on the half-width of a 95 % interval that makes it hold at all looks jointly.

    Stopping as soon as an interval leaves a threshold makes it wrong too often: with four looks the
    plain one excluded a threshold that was the truth in 10 to 13 % of cases. Repeated confidence
    intervals hold whatever the rule by which one stops: 94-100 % of the intervals of C at the look
    where measuring stopped held the truth (`foreshock bench coverage gram_sequences`, up to 64
    batches, threshold 1, C from 0 to 4, d_eff in {2.5, 21, 500}). On average 8 to 63 of the 64
    batches were taken, the more the nearer C is to the threshold and the fewer directions there
    are in the noise.

    Args:
        looks: Looks in all, 1 to 5.
        n: Batches at this look.

    Returns:
        Ratio of Student's quantiles with n - 1 degrees of freedom, at Pocock's level and at 5 %.

    Raises:
        ValueError: If there is no level for so many looks.

    References:
        Pocock, Biometrika 64 (1977) 191; Jennison & Turnbull, JRSS B 51 (1989) 305.

    Examples:
        >>> look_widening(1, 8), round(look_widening(4, 64), 2)
        (1.0, 1.21)
    """
    if not 1 <= looks <= len(LEVELS):
        raise ValueError(f"The `looks` must be 1 to {len(LEVELS)}. Got {looks}.")
    return t_quantile(n - 1, 1 - LEVELS[looks - 1]) / t_quantile(n - 1)


def settled(estimate: Estimate, threshold: float) -> bool:
    """Whether more batches would not change on which side of a threshold the truth lies.

    Args:
        estimate: What was found so far.
        threshold: The value that is asked about.

    Returns:
        Whether the interval does not hold the threshold; yes where there is no interval, since
        that has other causes than too few batches.

    Examples:
        >>> settled(Estimate(2.0, 0.5, 3.5), 1.0), settled(Estimate(2.0, 1.5, 2.5), 1.0)
        (False, True)
    """
    return not estimate.low <= threshold <= estimate.high
