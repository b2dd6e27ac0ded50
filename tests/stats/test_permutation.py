"""Permutation p-value: exact enumeration, uniformity under the null, ties and doors."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import rankdata

from foreshock.stats import permutation
from foreshock.stats.permutation import shuffled_moments, true_label_rank_p
from tests import oracles


@pytest.mark.parametrize("ties", [False, True])
def test_against_all_permutations(ties: bool) -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((7, 3))
    if ties:
        logits = np.round(logits)
    labels = rng.integers(3, size=7)
    exact = oracles.true_label_rank_p(logits, labels)
    draws = 20_000
    p = true_label_rank_p(logits, labels, draws=draws)
    # sd sqrt(p(1-p)/20,000) <= .0035; 4 sd and the 1/(1+draws) of the definition.
    assert abs(p.value - exact) < 4 * math.sqrt(exact * (1 - exact) / draws) + 1e-4
    assert p.low <= p.value <= p.high


def test_p_is_valid_and_uniform_without_information() -> None:
    # 600 data sets with a strong bias towards one class and unbalanced labels, which z takes for
    # knowledge: P(p <= .1) = .1 up to the ties of a sum of ranks; sd .012, 4 sd.
    rng = np.random.default_rng(1)
    small = 0
    for seed in range(600):
        labels = rng.choice(4, p=[0.55, 0.25, 0.1, 0.1], size=30)
        logits = rng.standard_normal((30, 4)) + np.array([2.0, 0, 0, -1])
        small += true_label_rank_p(logits, labels, draws=99, seed=seed).value <= 0.1
    assert abs(small / 600 - 0.1) < 0.05


def test_knowledge_gives_the_smallest_p() -> None:
    labels = np.arange(20) % 4
    assert true_label_rank_p(np.eye(4)[labels], labels, draws=199).value == 1 / 200


def test_what_cannot_be_permuted_is_missing() -> None:
    assert "nan or inf" in true_label_rank_p([[0.0, np.nan], [1, 2]], [0, 1]).reason
    assert "constant" in true_label_rank_p(np.ones((4, 3)), [0, 1, 2, 0]).reason
    assert "2 examples" in true_label_rank_p(np.ones((1, 3)), [0]).reason


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        pytest.param(np.array([0, 3]), "must lie in 0..2. Got 0..3", id="range"),
        pytest.param(np.array([0.0, 1.0]), "must be integers", id="float"),
        pytest.param(np.array([0, 1, 2]), "needs logits", id="length"),
    ],
)
def test_the_door_is_checked(labels: np.ndarray, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        true_label_rank_p(np.zeros((2, 3)), labels)
    with pytest.raises(ValueError, match="The `draws`"):
        true_label_rank_p(np.zeros((2, 3)), np.array([0, 1]), draws=0)


def test_shuffled_moments_by_listing_every_permutation() -> None:
    scores = np.random.default_rng(3).standard_normal((6, 3)) + [0.0, 2.0, -1.0]
    labels = np.array([0, 0, 0, 0, 1, 2])  # unbalanced, and logits that know it
    sums = [scores[np.arange(6), list(order)].sum() for order in itertools.permutations(labels)]
    mean, variance = shuffled_moments(scores, labels)
    assert mean == pytest.approx(np.mean(sums), rel=1e-12)
    assert variance == pytest.approx(np.var(sums), rel=1e-12)


def test_ranks_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    for scores in (rng.standard_normal((20, 7)), rng.integers(3, size=(20, 7)).astype(float)):
        expected = rankdata(-scores, axis=1) - 1
        assert np.array_equal(permutation._ranks(scores), expected)
