"""Covariance of two rewards and spread of one among the responses to the same prompt."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def within_groups(gold: ArrayLike, proxy: ArrayLike, groups: ArrayLike) -> tuple[float, float]:
    """What `GoldSelection` reads: pooled covariance and spread within groups of responses.

    With d the deviations from the mean of a response's own group, the covariance is
    sum d_gold d_proxy/(n - k) and the variance sum d_proxy^2/(n - k), over n responses in k groups
    of at least two. Both are unbiased for the average within a group, whatever lies between groups,
    and their quotient is the least-squares slope of gold on proxy with one intercept a group. Group
    by prompt: selection acts among the responses to one prompt (as the advantages of GRPO do),
    while covariance over a whole batch also holds how prompts differ, which changes with them.

    In TRL a reward function does not see what another returned, and ``log_metric`` averages over a
    logging window, so one function computes both rewards and calls this (see the example in
    docs/latent.md).

    Args:
        gold: Held-out reward of each response, ``(n,)``.
        proxy: Optimised reward of the same, ``(n,)``.
        groups: Which group each belongs to, ``(n,)``: numbers or the prompts themselves.

    Returns:
        Covariance of gold and proxy, and standard deviation of the proxy: log them as
        ``reward/covariance`` and ``reward/proxy_std``. Both nan without two responses in a group.

    Raises:
        ValueError: If lengths differ or a reward is not finite.

    Examples:
        Two prompts, one of them better in both rewards by 10; within each gold falls with proxy.

        >>> covariance, spread = within_groups([1, 0, 11, 10], [0, 1, 10, 11], ["a", "a", "b", "b"])
        >>> covariance, round(spread, 3)
        (-0.5, 0.707)
        >>> bool(np.cov([1, 0, 11, 10], [0, 1, 10, 11])[0, 1] > 30)
        True
    """
    table = np.stack(
        [np.asarray(x, dtype=float).ravel() for x in (gold, proxy)]
        if np.size(gold) == np.size(proxy)
        else [np.empty(0)]
    )
    names = np.asarray(groups).ravel()
    if len(table) != 2 or table.shape[1] != len(names):
        raise ValueError(
            "`within_groups` needs one gold, one proxy and one group a response. Got "
            f"{np.size(gold)}, {np.size(proxy)} and {len(names)}."
        )
    if not np.isfinite(table).all():
        raise ValueError("`within_groups` needs finite rewards. Drop responses without one.")
    _, place, sizes = np.unique(names, return_inverse=True, return_counts=True)
    place = place.ravel()
    freedom = int((sizes - 1).sum())
    if freedom == 0:
        return float("nan"), float("nan")
    means = np.stack([np.bincount(place, row) / sizes for row in table])
    d_gold, d_proxy = table - means[:, place]
    covariance, variance = d_gold @ d_proxy / freedom, d_proxy @ d_proxy / freedom
    return float(covariance), float(np.sqrt(variance))
