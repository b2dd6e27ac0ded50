"""Covariance and spread within groups: against loops, unbiased, blind to what lies between."""

from __future__ import annotations

import math

import numpy as np
import pytest

from foreshock.detectors import within_groups


def test_against_loops_in_any_order_and_for_names() -> None:
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 6, 50)
    gold, proxy = rng.standard_normal((2, 50))
    c = v = freedom = 0.0
    for one in range(6):
        g, p = gold[groups == one], proxy[groups == one]
        c += ((g - g.mean()) * (p - p.mean())).sum()
        v += ((p - p.mean()) ** 2).sum()
        freedom += len(g) - 1
    expected = (c / freedom, math.sqrt(v / freedom))
    assert within_groups(gold, proxy, groups) == pytest.approx(expected, rel=1e-12)
    names = [f"prompt {i}" for i in groups]
    assert within_groups(gold, proxy, names) == pytest.approx(expected, rel=1e-12)
    # One group is the textbook covariance; what is added to a group changes nothing.
    assert within_groups(gold, proxy, [0] * 50)[0] == pytest.approx(np.cov(gold, proxy)[0, 1])
    moved = within_groups(gold + 7 * groups, proxy - 3 * groups, groups)
    assert moved == pytest.approx(expected, rel=1e-9)


def test_unbiased_with_groups_of_any_size() -> None:
    # Cov 0.3, Var 1 within a group; 4,000 draws: 4 standard errors of the mean.
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(4), [2, 2, 3, 8])
    found = []
    for _ in range(4000):
        gold, other = rng.standard_normal((2, 15)) + 5 * rng.standard_normal(4)[groups]
        found.append(within_groups(0.3 * gold, gold, groups))
    c, v = np.array(found)[:, 0], np.array(found)[:, 1] ** 2
    assert abs(c.mean() - 0.3) < 4 * c.std() / 4000**0.5
    assert abs(v.mean() - 1.0) < 4 * v.std() / 4000**0.5


def test_unfit_input() -> None:
    assert all(map(math.isnan, within_groups([1.0, 2.0], [1.0, 2.0], ["a", "b"])))
    assert all(map(math.isnan, within_groups([], [], [])))
    for arguments in (([1.0], [1.0, 2.0], [0, 0]), ([1.0, 2.0], [1.0, 2.0], [0])):
        with pytest.raises(ValueError, match="one gold, one proxy and one group a response"):
            within_groups(*arguments)
    with pytest.raises(ValueError, match="needs finite rewards"):
        within_groups([1.0, math.nan], [1.0, 2.0], [0, 0])
