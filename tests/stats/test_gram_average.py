"""Averages of Gram matrices: sums one by one, long vectors, and ratios that have no average."""

import numpy as np
import pytest

from foreshock.stats.gram import signal_noise
from foreshock.stats.gram_average import GramAverage

MEMORY = 5.0


def path(n: int, measurements: int, seed: int, d: int = 30) -> np.ndarray:
    """Gradients (measurements, n, d) whose mean turns and grows."""
    rng = np.random.default_rng(seed)
    mean = np.linspace(0.1, 0.4, measurements)[:, None, None] * np.sign(rng.standard_normal(d))
    return mean + rng.standard_normal((measurements, n, d))


def averaged(gradients: np.ndarray) -> GramAverage:
    average = GramAverage()
    for g in gradients:
        average = average.add(g @ g.T, MEMORY)
    return average


def test_is_the_ratio_of_averages() -> None:
    gradients = path(8, 12, seed=0)
    found = signal_noise(averaged(gradients).mean, batch_size=16)
    signal = noise = weight = 0.0
    for age, g in enumerate(gradients[::-1]):
        w = (1 - 1 / MEMORY) ** age
        m, v = g.mean(0), g.var(0, ddof=1).sum()
        signal, noise, weight = signal + w * (m @ m - v / 8), noise + w * v, weight + w
    # sums of float64 in another order
    assert found["grad/signal"].value == pytest.approx(signal / weight, rel=1e-9)
    assert found["grad/noise"].value == pytest.approx(noise / weight, rel=1e-9)
    assert found["grad/snr"].value == pytest.approx(signal / noise, rel=1e-9)
    assert found["grad/noise_scale"].value == pytest.approx(16 * noise / signal, rel=1e-9)


def test_is_one_gram_of_long_vectors() -> None:
    gradients = path(8, 12, seed=1)
    weights = (1 - 1 / MEMORY) ** np.arange(12)[::-1]
    long = np.concatenate(list(np.sqrt(weights / weights.sum())[:, None, None] * gradients), axis=1)
    by_hand, found = signal_noise(long @ long.T), signal_noise(averaged(gradients).mean)
    for name in ("grad/signal", "grad/noise", "grad/snr"):
        for field in ("value", "low", "high"):
            expected = pytest.approx(getattr(by_hand[name], field), rel=1e-9)
            assert getattr(found[name], field) == expected, (name, field)


def test_fresh_batches_sharpen_it_and_frozen_ones_do_not() -> None:
    rng = np.random.default_rng(2)
    mean, noise = np.full(30, 0.3), rng.standard_normal((40, 8, 30))
    width = {}
    for kind, rows in (("fresh", noise), ("frozen", np.repeat(noise[:1], 40, axis=0))):
        snr = signal_noise(averaged(mean + rows).mean)["grad/snr"]
        width[kind] = (snr.high - snr.low) / snr.value
        assert snr.low < 0.09 < snr.high  # |mu|²/tr S = .3²
    one = signal_noise((mean + noise[0]) @ (mean + noise[0]).T)["grad/snr"]
    # One batch again and again knows what it knows once; an average over 2·5 − 1 = 9 effective
    # fresh ones has a third of the error, here less than two thirds for want of many directions.
    assert width["frozen"] == pytest.approx((one.high - one.low) / one.value, rel=1e-9)
    assert width["fresh"] < 2 / 3 * width["frozen"]


def test_the_average_of_ratios_is_another_thing() -> None:
    # V/U = 20 for an example, and U of a measurement, 1 ± 1.1, is often near 0: its reciprocal has
    # no expectation. 30 blocks of 40 measurements, quartiles over the blocks.
    rng = np.random.default_rng(3)
    means, ratios = [], []
    for _ in range(30):
        average, single = GramAverage(), []
        for _ in range(40):
            g = rng.standard_normal((8, 20)) + np.sqrt(1 / 20)
            one = signal_noise(g @ g.T, batch_size=1)["grad/noise_scale"].value
            single.append(one)
            average = average.add(g @ g.T, memory=40)
        means.append(np.mean(single))
        ratios.append(signal_noise(average.mean, batch_size=1)["grad/noise_scale"].value)
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    # Sd of U over some 35 effective measurements: 1.1/√35 = .19; of a median of 30, .19·1.25/√30 =
    # .043; 4 of them, and the curvature of 1/U, .19² = .04.
    assert middle == pytest.approx(20, rel=0.21)
    below, above = np.quantile(means, [0.25, 0.75])
    assert above - below > 3 * (high - low)


def test_begins_anew_where_the_number_of_batches_changes() -> None:
    eight, five = path(8, 3, seed=4), path(5, 1, seed=5)
    average = averaged(eight).add(five[0] @ five[0].T, MEMORY)
    assert average.count == 1
    np.testing.assert_allclose(average.mean, five[0] @ five[0].T)
    assert averaged(eight).count == 3 and GramAverage().grams is None


def test_a_memory_of_one_is_the_present() -> None:
    gradients = path(8, 4, seed=6)
    average = GramAverage()
    for g in gradients:
        average = average.add(g @ g.T, 1)
    np.testing.assert_allclose(average.mean, gradients[-1] @ gradients[-1].T, rtol=1e-12)
