"""Orderings over a grid: known cases, and a pooled correlation that they see through."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from foreshock.evaluation.generalisation import ordering, pairs, signed_orders

GRID = [
    {"lr": lr, "width": w, "n": n} for lr, w, n in itertools.product((1, 2, 3), (8, 16), (0, 5))
]


def test_a_measure_that_is_the_gap_orders_everything() -> None:
    gap = np.random.default_rng(0).standard_normal(len(GRID))
    found = ordering(GRID, gap, gap)
    assert found.overall == 1 and found.sign_error == 0
    assert set(found.psi.values()) == {1.0}
    reverse = ordering(GRID, -gap, gap)
    assert reverse.overall == -1 and reverse.sign_error == 1


def test_pairs_differ_in_one_thing_and_are_counted() -> None:
    told = list(pairs(GRID))
    # lr: 3 pairs at each of 4 others; width and n: 1 pair at each of 6.
    assert len(told) == 3 * 4 + 6 + 6 == ordering(GRID, range(12), range(12)).pairs
    for name, _, i, j in told:
        assert GRID[i][name] < GRID[j][name]
        assert [k for k in GRID[i] if GRID[i][k] != GRID[j][k]] == [name]


def test_a_pooled_correlation_can_have_the_other_sign() -> None:
    # Along every hyper-parameter but n the measure is inverted; n moves both by much more.
    measure = np.array([-c["lr"] - c["width"] / 8 + 100 * c["n"] for c in GRID])
    gap = np.array([c["lr"] + c["width"] / 8 + 100 * c["n"] for c in GRID])
    assert np.corrcoef(measure, gap)[0, 1] > 0.99
    found = ordering(GRID, measure, gap)
    assert found.psi == {"n": 1.0, "width": -1.0, "lr": -1.0}
    assert found.sign_error == 1 and found.worst.startswith(("lr", "width"))


def test_ties_count_half() -> None:
    found = ordering(GRID, np.zeros(len(GRID)), np.arange(12.0))
    assert found.overall == 0 and found.sign_error == 0.5


def test_ties_of_the_gap_count_half_too() -> None:
    found = ordering(GRID, np.arange(12.0), np.zeros(len(GRID)))
    assert found.overall == 0 and found.sign_error == 0.5


def test_signed_orders_are_those_of_blind_sums_of_the_hyper_parameters() -> None:
    gap = np.random.default_rng(1).standard_normal(len(GRID))
    by_hand = []
    for signs in itertools.product((-1, 1), repeat=3):
        # Any increasing function of each will do: only the sign of a difference is read.
        z = [np.array([c["lr"], np.log(c["width"]), c["n"] ** 2 / 7]) for c in GRID]
        by_hand.append(ordering(GRID, np.dot(z, signs), gap).overall)
    assert np.allclose(signed_orders(GRID, gap), sorted(by_hand))


def test_every_blind_measure_is_one_of_the_signed_orders() -> None:
    # A shuffle of the grid called 97 % of such measures out of the ordinary: independent sums of
    # the hyper-parameters. Here each of them is one of the null's 2^5 = 32 values.
    rng = np.random.default_rng(2)
    keys = itertools.product((0, 1, 2), (0, 1), (0, 1, 2), (0, 1), (0, 1))
    grid: list[dict[str, int]] = [dict(zip("abcde", key, strict=True)) for key in keys]
    z = np.array([list(c.values()) for c in grid], dtype=float)
    for _ in range(20):
        gap, measure = (z @ (rng.choice([-1, 1], 5) * rng.uniform(0.5, 2, 5)) for _ in range(2))
        nulls = signed_orders(grid, gap)
        assert len(nulls) == 32
        assert np.isclose(nulls, ordering(grid, measure, gap).overall).any()


def test_signed_orders_need_a_pair() -> None:
    with pytest.raises(ValueError, match="single hyper-parameter"):
        signed_orders([{"a": 1, "b": 1}, {"a": 2, "b": 2}], [0, 1])


@pytest.mark.parametrize(
    ("grid", "measure", "sentence"),
    [
        (GRID, range(3), "12 configurations, 3 measures"),
        (GRID, [np.nan] * 12, "finite"),
        ([{"a": 1, "b": 1}, {"a": 2, "b": 2}], [0, 1], "single hyper-parameter"),
    ],
)
def test_bad_input(grid: list[dict[str, int]], measure: list[float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ordering(grid, measure, np.zeros(len(grid)))
