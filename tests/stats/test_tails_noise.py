"""Noise tails: loops over all subsets, exact stable samples, the null that they are given."""

import math

import numpy as np
import pytest

from foreshock.stats.stable_law import stable_samples
from foreshock.stats.tails_noise import READINGS, noise_tails
from foreshock.types import Flag

INDICES = READINGS[:4]


@pytest.mark.parametrize("alpha", [1.2, 1.6, 2.0])
@pytest.mark.parametrize("n", [5, 8, 13])
def test_scale_free_indices_are_unbiased_at_any_number_of_batches(alpha: float, n: int) -> None:
    rng = np.random.default_rng(1)
    x = stable_samples(alpha, (n, 6000), rng) * rng.lognormal(0, 3, 6000)
    found = noise_tails(x)
    # One coordinate has sd .08-.13 of 1/α, 1.2 of the log-variance (both measured): with 6,000,
    # 4 sd are below .03 in α at α = 2, where they are widest (α² and α³·3/π² times the sd).
    names = ("log_moment", "block") if n < 8 else ("log_moment", "block", "clt")
    for name in names:
        assert found[name].value == pytest.approx(alpha, abs=0.09 if n == 5 else 0.06), name
    if n < 8:
        assert "need 8 probe batches. Got 5" in found["clt"].reason
        assert found["finite_variance"].flags & Flag.UNRESOLVED


def test_standardising_makes_a_gaussian_look_heavy_and_the_null_says_so() -> None:
    rng = np.random.default_rng(2)
    for n, reading in ((8, 1.62), (16, 1.76), (64, 1.92)):  # as the docstring says
        found = noise_tails(rng.standard_normal((n, 4000)))["mcculloch"]
        assert found.value == pytest.approx(reading, abs=0.04)
        assert found.null[0] < found.value < found.null[1]
        assert found.null[1] < 2


def low_rank(n: int, m: int, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise whose 512 coordinates depend on each other through 20 directions."""
    scales = np.arange(1.0, 21) ** -0.5
    return (rng.standard_normal((n, 20)) * scales) @ rng.standard_normal((20, m))


@pytest.mark.parametrize("kind", ["independent", "dependent"])
def test_null_band_holds_gaussian_noise(kind: str) -> None:
    rng = np.random.default_rng(3)
    inside = dict.fromkeys(INDICES, 0)
    for _ in range(100):
        x = rng.standard_normal((8, 128)) if kind == "independent" else low_rank(8, 128, rng)
        found = noise_tails(x * rng.lognormal(0, 2, 128))
        for name in INDICES:
            inside[name] += found[name].null[0] <= found[name].value <= found[name].null[1]
    # 95 % of independent draws (100 cases: sd 2.2, 4 sd); wider where coordinates depend, because
    # the squared correlation bounds what it stands for.
    low = 86 if kind == "independent" else 95
    assert all(low <= hits for hits in inside.values()), inside
    if kind == "independent":
        assert min(inside.values()) < 100  # and the band is no barn door


def test_stable_noise_leaves_the_null_band() -> None:
    found = noise_tails(stable_samples(1.5, (8, 512), np.random.default_rng(4)))
    assert all(found[name].value < found[name].null[0] for name in INDICES)


def test_the_verdict() -> None:
    rng = np.random.default_rng(5)
    # 6,000 coordinates make the verdict on a stable law sure, and keep it on laws of finite
    # variance that read 1.2 to 1.7.
    size = (8, 6000)
    assert noise_tails(stable_samples(1.5, size, rng))["finite_variance"].value == 0
    mixture = noise_tails(rng.standard_normal(size) * rng.lognormal(size=size))
    assert mixture["finite_variance"].value == 1 and mixture["block"].high < 1.4
    laplace = noise_tails(rng.laplace(size=size))
    assert laplace["finite_variance"].value == 1 and laplace["clt"].value > laplace["block"].value


def test_level_of_the_verdict() -> None:
    rng = np.random.default_rng(6)
    for draw in (
        lambda: rng.standard_normal((8, 128)),
        lambda: rng.standard_t(3, (8, 128)),
        lambda: rng.laplace(size=(8, 128)),
    ):
        values = [noise_tails(draw())["finite_variance"].value for _ in range(80)]
        assert np.mean(values) > 0.93  # level .025 at most: 80 cases, sd .0175, 2.5 sd


def test_a_few_large_values_among_many_small_ones_are_not_rejected() -> None:
    rng = np.random.default_rng(11)
    for p in (0.02, 0.05, 0.1, 0.2):
        for small in (0.001, 0.01):
            for _ in range(5):
                large = rng.random((8, 512)) < p
                found = noise_tails(rng.standard_normal((8, 512)) * np.where(large, 1, small))
                # Every index reads as heavy as can be; 0 of 300 rejected (measured).
                assert found["clt"].high < 2 or p == 0.2
                assert found["finite_variance"].value == 1


def test_power_of_the_verdict() -> None:
    rng = np.random.default_rng(12)
    hits = [
        noise_tails(stable_samples(1.2, (8, 512), rng))["finite_variance"].value == 0
        for _ in range(40)
    ]
    assert np.mean(hits) > 0.36  # .66 measured: 40 cases, 4 sd are .30


def test_dependent_coordinates_are_flagged_and_independent_ones_are_not() -> None:
    rng = np.random.default_rng(13)
    mixing = rng.standard_normal((16, 512))
    dependent = noise_tails(stable_samples(1.5, (8, 16), rng) @ mixing)
    independent = noise_tails(stable_samples(1.5, (8, 512), rng))
    for name in INDICES:
        assert dependent[name].flags == Flag.UNRESOLVED and np.isfinite(dependent[name].value)
        assert "coordinates depend on each other" in dependent[name].reason
        assert independent[name].resolved
    assert dependent["finite_variance"].resolved


def test_scale_shift_and_size_do_not_matter() -> None:
    rng = np.random.default_rng(8)
    x = rng.standard_t(3, (8, 100))
    base, moved = noise_tails(x), noise_tails((x + rng.standard_normal(100)) * 1e-200)
    for name in INDICES:
        assert moved[name].value == pytest.approx(base[name].value, rel=1e-6)
    assert noise_tails(x * 1e300)["block"].value == pytest.approx(base["block"].value)


@pytest.mark.parametrize(
    ("samples", "sentence"),
    [
        pytest.param(np.ones((4, 50)), "5 probe batches. Got 4", id="few batches"),
        pytest.param(np.ones((8, 50)), "differ between batches. Got 0 of 50", id="no noise"),
        pytest.param(np.full((8, 50), np.nan), "nan or inf", id="nan"),
        pytest.param(np.eye(8, 50), "16 coordinates that differ", id="sparse"),
        pytest.param(
            np.tile(np.arange(8) % 2, (50, 1)).T, "Only 0 of 50 coordinates", id="rounded"
        ),
    ],
)
def test_what_has_no_index_is_missing(samples: np.ndarray, sentence: str) -> None:
    for estimate in noise_tails(samples).values():
        assert math.isnan(estimate.value) and sentence in estimate.reason


def test_ties_are_left_out_and_flagged() -> None:
    x = np.random.default_rng(9).standard_normal((8, 60))
    kept = noise_tails(x)
    x = np.concatenate([x, np.eye(8, 20, 1)], axis=1)  # 8 coordinates alive in one batch only
    found = noise_tails(x)
    for name in INDICES:
        assert found[name].value == pytest.approx(kept[name].value)
        assert found[name].flags == Flag.BELOW_PRECISION
        assert "8 of 68 coordinates were left out" in found[name].reason


def test_the_door_is_checked() -> None:
    with pytest.raises(ValueError, match=r"`samples` of `noise_tails` must be \(n, m\)"):
        noise_tails(np.ones(8))
