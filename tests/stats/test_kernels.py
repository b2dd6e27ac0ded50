"""Likeness of kernels: naive loops, closed forms, invariances, and the permutation null."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from foreshock.stats.kernels import kernel_alignment, kernel_cka
from foreshock.types import Flag


def kernel(seed: int, n: int = 24, d: int = 40) -> np.ndarray:
    j = np.random.default_rng(seed).standard_normal((n, d))
    return j @ j.T


def naive(a: np.ndarray, b: np.ndarray) -> float:
    """CKA by the centring matrix and traces."""
    n = len(a)
    h = np.eye(n) - np.ones((n, n)) / n
    a, b = h @ a @ h, h @ b @ h
    return float(np.trace(a @ b) / math.sqrt(np.trace(a @ a) * np.trace(b @ b)))


def test_value_and_interval_are_the_naive_ones() -> None:
    a, b = kernel(0), kernel(0) + 0.5 * kernel(1)
    got = kernel_cka(a, b)
    assert got.value == pytest.approx(naive(a, b), rel=1e-12)
    without = []
    for block in np.array_split(np.arange(24), 8):
        kept = np.setdiff1d(np.arange(24), block)
        without.append(math.log(1 - naive(a[np.ix_(kept, kept)], b[np.ix_(kept, kept)])))
    se = math.sqrt(7 / 8 * sum((x - np.mean(without)) ** 2 for x in without))
    half = 2.3646242510102993 * se  # t_7(.975)
    assert math.log(1 - got.low) == pytest.approx(math.log(1 - got.value) + half)
    assert math.log(1 - got.high) == pytest.approx(math.log(1 - got.value) - half)
    assert got.n == 24


def test_free_of_scale_shift_and_order() -> None:
    a, b = kernel(2), kernel(3)
    value = kernel_cka(a, b).value
    order = np.random.default_rng(0).permutation(24)
    for other in (1e-200 * a, 7 * a + 3):
        assert kernel_cka(other, b).value == pytest.approx(value, rel=1e-9)
    same = kernel_cka(a[np.ix_(order, order)], b[np.ix_(order, order)])
    assert same.value == pytest.approx(value, rel=1e-12)
    unmoved = kernel_cka(a, 3 * a)
    assert unmoved.value == unmoved.low == unmoved.high == 1.0
    assert unmoved.null == (1.0, 1.0)


def test_rows_of_one_example_leave_together() -> None:
    # Every example twice: the kernel of pairs is K ⊗ 11', and CKA is that of single rows.
    a, b = kernel(4), kernel(4) + kernel(5)
    pairs = np.ones((2, 2))
    one, two = kernel_cka(a, b), kernel_cka(np.kron(a, pairs), np.kron(b, pairs), rows=2)
    assert (two.value, two.low, two.high) == pytest.approx((one.value, one.low, one.high))
    assert two.n == 24


def test_alignment_with_its_own_classes_is_one() -> None:
    y = np.arange(24) % 3
    got = kernel_alignment((y[:, None] == y).astype(float), y)
    assert got.value == pytest.approx(1.0) and got.flags == Flag.NONE
    assert got.null is not None and got.null[1] < 0.5


def test_mean_over_all_permutations_in_closed_form() -> None:
    # Six examples, 720 permutations: tr K~ tr Y~ / ((n-1) |K~| |Y~|), as the docstring says.
    k, y = kernel(6, n=6), np.array([0, 0, 1, 1, 1, 2])
    target = (y[:, None] == y).astype(float)
    values = [naive(k, target[np.ix_(o, o)]) for o in map(list, itertools.permutations(range(6)))]
    h = np.eye(6) - np.ones((6, 6)) / 6
    a, b = h @ k @ h, h @ target @ h
    mean = np.trace(a) * np.trace(b) / (5 * np.linalg.norm(a) * np.linalg.norm(b))
    assert np.mean(values) == pytest.approx(mean, rel=1e-12)


def test_null_band_is_that_of_the_naive_permutations() -> None:
    k, y = kernel(7), np.arange(24) % 4
    got = kernel_alignment(k, y, draws=999)
    target = (y[:, None] == y).astype(float)
    rng = np.random.default_rng(1)
    orders = [rng.permutation(24) for _ in range(999)]
    values = [naive(k, target[np.ix_(o, o)]) for o in orders]
    low, high = np.quantile(values, [0.025, 0.975])
    # A 2.5 % quantile of 999 normal draws has a standard error of 2.67 sd/sqrt(999): 4 of them,
    # sqrt(2) for two samples.
    error = 4 * math.sqrt(2) * 2.67 * np.std(values) / math.sqrt(999)
    assert got.null == pytest.approx((low, high), abs=error)


def test_random_labels_are_inside_the_null_and_classes_are_not() -> None:
    # 200 labels at random: 5 % outside, ± 4 sd of .015.
    inside = 0
    for seed in range(200):
        y = np.random.default_rng([seed, 1]).integers(0, 3, 24)
        inside += bool(kernel_alignment(kernel(seed), y, draws=99).flags & Flag.UNRESOLVED)
    assert 0.87 <= inside / 200 <= 1.0
    y = np.arange(24) % 2
    rows = np.random.default_rng(8).standard_normal((24, 10))
    rows[:, 0] += 3 * y
    got = kernel_alignment(rows @ rows.T, y)
    assert got.flags == Flag.NONE and got.null is not None and got.value > got.null[1]
    assert got.low <= got.value <= got.high <= 1


def test_what_has_no_likeness_is_missing() -> None:
    spoiled = kernel(9)
    spoiled[0, 0] = math.nan
    assert "nan" in kernel_cka(spoiled, kernel(9)).reason
    assert "same for all" in kernel_cka(np.ones((24, 24)), kernel(9)).reason
    assert "same for all" in kernel_alignment(kernel(9), np.zeros(24, int)).reason


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        pytest.param(lambda: kernel_cka(np.eye(15), np.eye(15)), "at least 16", id="n"),
        pytest.param(lambda: kernel_cka(np.eye(16), np.eye(17)), "one shape", id="shapes"),
        pytest.param(lambda: kernel_cka(np.eye(16), np.eye(16), groups=2), "`groups`", id="groups"),
        pytest.param(lambda: kernel_alignment(np.eye(16), np.ones(3)), "`labels`", id="labels"),
        pytest.param(
            lambda: kernel_alignment(np.eye(16), np.arange(16), draws=9), "`draws`", id="draws"
        ),
    ],
)
def test_the_door_is_checked(call, sentence: str) -> None:  # noqa: ANN001
    with pytest.raises(ValueError, match=sentence):
        call()
