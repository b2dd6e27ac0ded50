"""Permutation test of held-out labels, for samples too small for a normal approximation."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from foreshock.stats.intervals import clopper_pearson
from foreshock.types import Estimate


def true_label_rank_p(
    logits: ArrayLike, labels: ArrayLike, draws: int = 999, seed: int = 0
) -> Estimate:
    """Permutation p-value of the mean rank of the true label: do the logits know the labels?

    Each row of logits is turned into ranks (0 = largest; ties share their mean rank), the statistic
    is the mean rank of the true label, and its law without information comes from permuting the
    labels over the rows. With b of `draws` permutations at or below the observed mean,

        p = (1 + b) / (1 + draws),

    which is exact: P(p <= a) <= a whenever labels and logits are exchangeable, for every n, every
    law of the logits, and every imbalance of the classes. Small p: the true label ranks too high.

    **Cost.** O(nK log K) for the ranks, O(draws n) for the permutations.

    Args:
        logits: (n, K).
        labels: (n,) Integers 0..K-1.
        draws: Permutations; p is never below 1/(1 + draws).
        seed: Seed of the private generator.

    Returns:
        p; its interval is the Monte-Carlo one (Clopper-Pearson for b of `draws`, what more draws
        could still change); n; null band (.025, .975). Missing if a logit is not finite, n < 2, or
        every row is constant.

    Raises:
        ValueError: If shapes or labels do not fit or `draws` < 1.

    References:
        Phipson & Smyth, Stat. Appl. Genet. Mol. Biol. 9 (2010) 39.

    Examples:
        >>> labels = np.arange(12) % 3
        >>> true_label_rank_p(np.eye(3)[labels], labels).value < 0.01
        True
    """
    from scipy.stats import rankdata

    scores, targets = checked(logits, labels, "true_label_rank_p")
    if draws < 1:
        raise ValueError(f"The `draws` of `true_label_rank_p` must be at least 1. Got {draws}.")
    n, classes = scores.shape
    if n < 2 or classes < 2:
        return Estimate.missing(
            f"A permutation needs 2 examples and 2 classes. Got {n} and {classes}.", n=n
        )
    if not np.isfinite(scores).all():
        return Estimate.missing("A logit is nan or inf.", n=n)
    ranks = np.asarray(rankdata(-scores, axis=1)) - 1  # (n, K)
    if np.ptp(ranks) == 0:
        return Estimate.missing("Every row of logits is constant.", n=n)
    rows = np.arange(n)
    # Ranks are multiples of 1/2, so doubled sums are exact integers and ties compare exactly.
    doubled = np.rint(2 * ranks).astype(np.int64)
    observed = doubled[rows, targets].sum()
    rng = np.random.default_rng(seed)
    below = 0
    chunk = max(1, 2_000_000 // n)  # ~ 16 MB of indices at a time
    for start in range(0, draws, chunk):
        size = min(chunk, draws - start)
        shuffled = rng.permuted(np.broadcast_to(targets, (size, n)), axis=1)
        below += int((doubled[rows, shuffled].sum(1) <= observed).sum())
    low, high = clopper_pearson(below, draws)
    p = (1 + below) / (1 + draws)
    return Estimate(p, min(low, p), max(high, p), n=n, null=(0.025, 0.975))


def checked(logits: ArrayLike, labels: ArrayLike, function: str) -> tuple[np.ndarray, np.ndarray]:
    """Logits (n, K) in float64 and labels (n,) as integers that fit them.

    Args:
        logits: (n, K).
        labels: (n,).
        function: Name for the error sentence.

    Returns:
        Both as arrays.

    Raises:
        ValueError: If they do not fit.
    """
    scores = np.asarray(logits, dtype=np.float64)
    targets = np.asarray(labels)
    if scores.ndim != 2 or targets.shape != scores.shape[:1]:
        raise ValueError(
            f"`{function}` needs logits (n, K) and labels (n,). "
            f"Got {scores.shape} and {targets.shape}."
        )
    if targets.size and not np.issubdtype(targets.dtype, np.integer):
        raise ValueError(f"The `labels` of `{function}` must be integers. Got {targets.dtype}.")
    if targets.size and (targets.min() < 0 or targets.max() >= scores.shape[1]):
        raise ValueError(
            f"The `labels` of `{function}` must lie in 0..{scores.shape[1] - 1}. "
            f"Got {targets.min()}..{targets.max()}."
        )
    return scores, targets
