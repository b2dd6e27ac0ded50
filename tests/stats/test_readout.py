"""Held-out signal: law under shuffled labels, twins, doors. Ridge: leave-one-out by refits."""

import math

import numpy as np
import pytest

from foreshock.stats.readout import LAMBDA_GRID, heldout_signal, ridge_readout
from foreshock.types import Flag
from tests import oracles


def test_value_and_error_are_the_naive_ones() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((20, 5)) + 1.0, rng.integers(5, size=20)
    z = heldout_signal(logits, labels)
    assert z.value == pytest.approx(oracles.heldout_z(logits, labels), rel=1e-12)
    quantile = 2.093024054408263  # t_19(.975)
    assert z.high - z.value == pytest.approx(
        quantile * oracles.heldout_se(logits, labels), rel=1e-9
    )
    assert z.value - z.low == pytest.approx(z.high - z.value)


@pytest.mark.parametrize("factor", [1e-300, 1e-3, 1e300])
def test_scale_and_row_shifts_do_not_matter(factor: float) -> None:
    rng = np.random.default_rng(1)
    logits, labels = rng.standard_normal((30, 4)), rng.integers(4, size=30)
    expected = heldout_signal(logits, labels)
    scaled = heldout_signal(logits * factor, labels)
    assert scaled.value == pytest.approx(expected.value, rel=1e-9)
    assert scaled.low == pytest.approx(expected.low, rel=1e-9)
    shifted = heldout_signal(logits + rng.standard_normal((30, 1)), labels)
    assert shifted.value == pytest.approx(expected.value, rel=1e-9)


@pytest.mark.parametrize("law", ["normal", "heavy rows", "one-hot"])
def test_standard_normal_under_shuffled_labels(law: str) -> None:
    # 2,000 label shuffles: mean +- 4/sqrt(2000) = .09; var 1 +- 4 sqrt(2/2000) = .126, less (K-1)/K
    # type terms of order 1/n = .005. Share beyond 1.96: .05 +- 4 sd = .0195.
    rng = np.random.default_rng(2)
    n, classes = 200, 10
    logits = rng.standard_normal((n, classes))
    if law == "heavy rows":
        logits *= rng.lognormal(size=(n, 1))
    elif law == "one-hot":
        logits = np.eye(classes)[rng.integers(classes, size=n)]
    z = np.array([heldout_signal(logits, rng.integers(classes, size=n)).value for _ in range(2000)])
    assert abs(z.mean()) < 0.09
    assert abs(z.var() - 1) < 0.13
    assert abs(np.mean(np.abs(z) > 1.96) - 0.05) < 0.0195


def test_interval_covers_the_population_value() -> None:
    # Logits N(0, 1) plus .2 on the true class: z0 = sqrt(n) * .2 (1 - 1/K)/rms; 600 sets at .95:
    # sd .009, 4 sd .036.
    rng = np.random.default_rng(3)
    n, classes, shift = 100, 8, 0.2
    mean = shift * (1 - 1 / classes)
    rms = math.sqrt(1 - 1 / classes + shift * mean / classes)
    covered = 0
    for _ in range(600):
        labels = rng.integers(classes, size=n)
        z = heldout_signal(
            rng.standard_normal((n, classes)) + shift * np.eye(classes)[labels], labels
        )
        covered += z.low <= math.sqrt(n) * mean / rms <= z.high
    assert abs(covered / 600 - 0.95) < 0.036


def test_unresolved_where_the_interval_contains_zero() -> None:
    rng = np.random.default_rng(4)
    z = heldout_signal(rng.standard_normal((50, 4)), rng.integers(4, size=50))
    assert Flag.UNRESOLVED in z.flags and z.low < 0 < z.high and z.null is not None
    labels = rng.integers(4, size=50)
    assert heldout_signal(np.eye(4)[labels] + rng.standard_normal((50, 4)), labels).resolved


@pytest.mark.parametrize(
    ("logits", "sentence"),
    [
        pytest.param(np.zeros((7, 3)), "at least 8 examples. Got 7", id="few"),
        pytest.param(np.zeros((9, 1)), "at least 2 classes. Got 1", id="one class"),
        pytest.param(np.full((9, 3), 0.1), "same for every class", id="constant"),
        pytest.param(np.full((9, 3), np.nan), "nan or inf", id="nan"),
        pytest.param(np.full((9, 3), np.inf), "nan or inf", id="inf"),
    ],
)
def test_nothing_to_read_is_missing(logits: np.ndarray, sentence: str) -> None:
    z = heldout_signal(logits, np.zeros(len(logits), dtype=int))
    assert math.isnan(z.value) and sentence in z.reason


def test_one_lively_row_has_no_interval() -> None:
    logits = np.zeros((9, 2))
    logits[3] = (1.0, -1.0)
    z = heldout_signal(logits, np.zeros(9, dtype=int))
    assert z.value == pytest.approx(math.sqrt(9) * (1 / 9) / math.sqrt(1 / 9))
    assert Flag.UNRESOLVED in z.flags and math.isnan(z.low)


@pytest.mark.parametrize(("n", "m"), [(40, 6), (20, 15), (12, 30)], ids=["tall", "near", "wide"])
def test_ridge_is_the_best_of_its_grid_by_refits(n: int, m: int) -> None:
    rng = np.random.default_rng(5)
    classes = 3
    labels = np.arange(n) % classes
    features = rng.standard_normal((n, m)) + np.eye(classes, m)[labels] + 5.0
    heldout = rng.standard_normal((11, m)) + 5.0
    scores, strength = ridge_readout(features, labels, heldout, classes)
    x = features - features.mean(0)
    mean = np.trace(x.T @ x) / min(n, m)
    errors = [
        oracles.ridge_loo_error(features, labels, classes, factor * mean) for factor in LAMBDA_GRID
    ]
    assert strength == pytest.approx(LAMBDA_GRID[int(np.argmin(errors))] * mean)
    np.testing.assert_allclose(
        scores, oracles.ridge_fit(features, labels, heldout, classes, strength), atol=1e-9
    )
    np.testing.assert_allclose(scores.sum(1), 1.0)  # one-hot targets sum to 1, so do predictions


@pytest.mark.parametrize("factor", [1e-120, 1e-3, 1e120])
def test_ridge_predictions_ignore_the_scale_of_the_features(factor: float) -> None:
    rng = np.random.default_rng(8)
    labels = np.arange(60) % 3
    features = rng.standard_normal((80, 9)) + np.eye(3, 9)[np.arange(80) % 3]
    scores, strength = ridge_readout(features[:60], labels, features[60:], 3)
    other, scaled = ridge_readout(features[:60] * factor, labels, features[60:] * factor, 3)
    np.testing.assert_allclose(other, scores, rtol=1e-9)
    assert scaled == pytest.approx(strength * factor**2, rel=1e-9)


def test_ridge_of_noise_shrinks_to_the_class_frequencies() -> None:
    rng = np.random.default_rng(6)
    labels = rng.integers(4, size=300)
    scores, strength = ridge_readout(
        rng.standard_normal((300, 60)), labels, rng.standard_normal((50, 60)), 4
    )
    assert strength >= 300.0  # at least the mean eigenvalue
    np.testing.assert_allclose(scores, np.tile(np.bincount(labels) / 300, (50, 1)), atol=0.15)
    constant, strength = ridge_readout(np.ones((30, 2)), labels[:30], np.ones((2, 2)), 4)
    assert math.isinf(strength)
    np.testing.assert_allclose(constant[0], np.bincount(labels[:30], minlength=4) / 30)


def test_ridge_readout_carries_no_signal_on_random_labels() -> None:
    # Memorising 80 random labels from 100 features says nothing about 200 others: z ~ N(0, 1) over
    # label draws; 60 draws, |mean| < 4/sqrt(60) = .52.
    rng = np.random.default_rng(7)
    train, heldout = rng.standard_normal((80, 100)), rng.standard_normal((200, 100))
    zs = []
    for _ in range(60):
        scores, _ = ridge_readout(train, rng.integers(5, size=80), heldout, 5)
        zs.append(heldout_signal(scores, rng.integers(5, size=200)).value)
    assert abs(np.mean(zs)) < 0.52


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param((np.ones((1, 2)), [0], np.ones((1, 2)), 2), "n >= 2", id="one example"),
        pytest.param((np.ones((3, 2)), [0, 1], np.ones((1, 2)), 2), "train_labels", id="labels"),
        pytest.param((np.ones((2, 2)), [0, 1], np.ones((1, 3)), 2), "must be \\(h, 2\\)", id="m"),
        pytest.param((np.ones((2, 2)), [0, 2], np.ones((1, 2)), 2), "0..1", id="class"),
        pytest.param(
            (np.full((2, 2), np.nan), [0, 1], np.ones((1, 2)), 2), "must be finite", id="nan"
        ),
    ],
)
def test_the_door_of_ridge_is_checked(arguments: tuple, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ridge_readout(*arguments)


def test_a_bias_towards_the_frequent_class_is_no_knowledge() -> None:
    """73 % of one class, and logits that favour it: a huge z that its null expects."""
    rng = np.random.default_rng(0)
    labels = (rng.random(400) > 0.73).astype(int) * rng.integers(1, 10, 400)
    logits = rng.standard_normal((400, 10)) + 2.0 * (np.arange(10) == 0)
    z = heldout_signal(logits, labels)
    assert z.value > 10 and z.null is not None and z.null[0] < z.value < z.null[1]
    assert Flag.UNRESOLVED in z.flags and "favour the frequent classes" in z.reason
    knows = heldout_signal(logits + 2.0 * np.eye(10)[labels], labels)
    assert knows.null is not None and knows.value > knows.null[1] and knows.resolved


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.95, 0.05), (0.73, *[0.03] * 9)])
def test_standardised_has_mean_0_and_variance_1_over_shuffles(shares: tuple[float, ...]) -> None:
    rng = np.random.default_rng(1)
    labels = rng.choice(len(shares), size=200, p=shares)
    scores = rng.standard_normal((200, len(shares))) * rng.lognormal(size=(200, 1)) + shares
    z = [
        heldout_signal(scores, rng.permutation(labels), standardise=True).value for _ in range(800)
    ]
    # Standard errors over 800 draws: .035 of the mean, .05 to .07 of the variance (kurtosis).
    assert abs(np.mean(z)) < 0.15 and abs(np.var(z) - 1) < 0.25
