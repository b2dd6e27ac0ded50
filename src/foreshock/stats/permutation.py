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
    ranks = _ranks(scores)  # (n, K)
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


def shuffled_moments(scores: ArrayLike, labels: ArrayLike) -> tuple[float, float]:
    r"""Mean and variance of Σ_i S[i, y_π(i)] over all permutations π of the labels, exactly.

    With class shares w_k, row means r_i = Σ_k w_k S_ik, column means c_k and g = Σ_k w_k c_k
    (Hoeffding 1951): mean n g, variance n/(n-1) Σ_i Σ_k w_k (S_ik - r_i - c_k + g)^2.

    Args:
        scores: (n, K) S.
        labels: (n,) Integers 0..K-1, n >= 2.

    Returns:
        Mean and variance.

    References:
        Hoeffding, Ann. Math. Stat. 22 (1951) 558.

    Examples:
        Two examples, one of each class: the sum is 3 or 7.

        >>> shuffled_moments([[1.0, 4.0], [3.0, 2.0]], [0, 1])
        (5.0, 4.0)
    """
    values, targets = checked(scores, labels, "shuffled_moments")
    n = len(values)
    share = np.bincount(targets, minlength=values.shape[1]) / n
    rows, columns = values @ share, values.mean(0)
    grand = float(columns @ share)
    left = values - rows[:, None] - columns + grand
    return n * grand, n / (n - 1) * float(((left**2) @ share).sum())


def _ranks(scores: np.ndarray) -> np.ndarray:
    """Rank of every entry in its row, 0 for the largest; ties share their mean."""
    # `scipy.stats.rankdata` does the same, but loading it takes half a second, in a training loop.
    place = np.arange(scores.shape[1])
    order = np.argsort(-scores, axis=1, kind="stable")
    ordered = np.take_along_axis(scores, order, axis=1)
    edge = np.ones((len(scores), 1), dtype=bool)
    changes = ordered[:, 1:] != ordered[:, :-1]
    first = np.maximum.accumulate(np.where(np.hstack([edge, changes]), place, 0), axis=1)
    stops = np.where(np.hstack([changes, edge]), place, len(place))
    last = np.minimum.accumulate(stops[:, ::-1], axis=1)[:, ::-1]
    ranks = np.empty(scores.shape)
    np.put_along_axis(ranks, order, (first + last) / 2, axis=1)
    return ranks


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
