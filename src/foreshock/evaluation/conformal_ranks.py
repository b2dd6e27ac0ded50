"""How many safe runs give which false-alarm rate: ranks of scores, and nothing else."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike


def conformal_threshold(scores: ArrayLike, alpha: float) -> float:
    """The number that the score of one more run exceeds with probability at most ``alpha``.

    The k-th smallest of M scores, k = ceil((1 − alpha)(M + 1)). If the new score and the M are
    exchangeable, the probability to exceed it is exactly 1 − k/(M + 1) for continuous scores and
    less with ties, for every law of the scores.

    Args:
        scores: ``(M,)``, one for each run; -inf for a run that never had one.
        alpha: In (0, 1).

    Returns:
        The threshold.

    Raises:
        ValueError: If alpha is out of range, a score is nan, or there are too few.

    Examples:
        >>> conformal_threshold(range(1, 20), alpha=0.05)
        19.0
        >>> conformal_threshold(range(18), alpha=0.05)
        Traceback (most recent call last):
        ...
        ValueError: 18 calibration scores cannot give a false-alarm rate of 0.05: at least 19 are \
needed.
    """
    values = np.sort(np.asarray(scores, dtype=float).ravel())
    if np.isnan(values).any():
        raise ValueError(
            "A calibration score is nan. Write -inf for a run whose score never existed."
        )
    k = _rank(len(values), alpha)
    if k > len(values):
        raise ValueError(
            f"{len(values)} calibration scores cannot give a false-alarm rate of {alpha:g}: at "
            f"least {_scores_needed(alpha)} are needed."
        )
    return float(values[k - 1])


def false_alarm_bound(scores: int, alpha: float, confidence: float = 0.95) -> float:
    """What the false-alarm rate of one calibration stays below, with a confidence.

    ``alpha`` holds on average over sets of safe runs. Given one set of M scores the rate of its
    threshold, the k-th smallest, has the law Beta(M + 1 − k, k) for continuous scores.

    Args:
        scores: M, how many runs gave the threshold.
        alpha: As asked for, in (0, 1).
        confidence: In (0, 1).

    Returns:
        The quantile of that law.

    Raises:
        ValueError: If alpha is out of range, or M too small for it.

    Examples:
        >>> round(false_alarm_bound(20, 0.05), 3), round(false_alarm_bound(40, 0.05), 3)
        (0.139, 0.113)
    """
    from scipy.special import betaincinv

    k = _rank(scores, alpha)
    if k > scores:
        raise ValueError(
            f"{scores} calibration scores cannot give a false-alarm rate of {alpha:g}: at least "
            f"{_scores_needed(alpha)} are needed."
        )
    return float(betaincinv(scores + 1 - k, k, confidence))


def runs_needed(alpha: float) -> int:
    """Fewest safe runs for `calibrate`: a third of them gives location and scale.

    Args:
        alpha: False-alarm rate, in (0, 1).

    Returns:
        How many runs.

    Examples:
        >>> runs_needed(0.05), runs_needed(0.01)
        (30, 150)
    """
    scores = _scores_needed(alpha)
    # Rounded up to whole thirds, so that every number from here on is enough; a scale needs two.
    return 3 * max(math.ceil(scores / 2), 2)


def _rank(count: int, alpha: float) -> int:
    """ceil((1 − alpha)(count + 1)), not one more because 0.95·20 is 19.000000000000004."""
    if not 0 < alpha < 1:
        raise ValueError(f"The `alpha` of a calibration must lie in (0, 1). Got {alpha:g}.")
    return math.ceil((1 - alpha) * (count + 1) - 1e-9)


def _scores_needed(alpha: float) -> int:
    """Fewest scores whose largest is exceeded with probability at most alpha."""
    if not 0 < alpha < 1:
        raise ValueError(f"The `alpha` of a calibration must lie in (0, 1). Got {alpha:g}.")
    return math.ceil(1 / alpha - 1e-9) - 1
