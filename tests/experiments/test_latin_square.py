"""Latin squares: valid, reproducible, and uniform over the 576 squares of order 4."""

from __future__ import annotations

from collections import Counter

import pytest

from foreshock.experiments.latin_square import random_latin_square


@pytest.mark.parametrize("order", [2, 3, 7, 23])
def test_every_symbol_once_in_every_row_and_column(order: int) -> None:
    square = random_latin_square(order, seed=order)
    assert all(sorted(line) == list(range(order)) for line in [*square, *zip(*square, strict=True)])


def test_same_seed_same_square() -> None:
    assert random_latin_square(7, seed=3) == random_latin_square(7, seed=3)
    assert random_latin_square(7, seed=3) != random_latin_square(7, seed=4)


def test_uniform_over_order_four() -> None:
    draws, squares = 5760, 576  # ten expected of each
    counts = Counter(
        tuple(map(tuple, random_latin_square(4, seed=seed, visits=50))) for seed in range(draws)
    )
    assert len(counts) <= squares
    expected = draws / squares
    chi2 = sum((c - expected) ** 2 for c in counts.values()) / expected
    chi2 += (squares - len(counts)) * expected
    # chi-squared with 575 degrees of freedom: mean 575, sd 33.9; five sd. Stopping after a fixed
    # number of moves instead of proper visits gives 1,300.
    assert abs(chi2 - 575) < 5 * 33.9


def test_order_is_checked() -> None:
    with pytest.raises(ValueError, match="`order` of a Latin square must be at least 2. Got 1"):
        random_latin_square(1, seed=0)
