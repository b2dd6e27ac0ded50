"""Signal and noise from norms: identities with exact sums, laws of the block, and refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from foreshock.stats.norm_noise import BLOCK, ENOUGH, NormRow, norm_noise
from foreshock.types import Flag


def gradients(rng: np.random.Generator, n: int, signal: float, d: int = 40) -> np.ndarray:
    """(n, d) Per-example gradients with |mu|^2 = signal and trace of the covariance d."""
    return rng.standard_normal((n, d)) + math.sqrt(signal / d)


def row(g: np.ndarray, small: int = 1) -> NormRow:
    parts = g.reshape(len(g) // small, small, -1).mean(1)
    return NormRow((parts**2).sum(1).mean(), (parts.mean(0) ** 2).sum(), small, len(g))


@pytest.mark.parametrize("small", [1, 4])
def test_a_row_is_the_gram_form_of_signal_and_noise(small: int) -> None:
    """U = mean of g_i.g_j over i != j; V_1 = small x the unbiased variance of small batches."""
    g = gradients(np.random.default_rng(0), 24, 2.0)
    parts = g.reshape(24 // small, small, -1).mean(1)
    gram = parts @ parts.T
    n = len(parts)
    pairs = (gram.sum() - np.trace(gram)) / (n * (n - 1))
    got = row(g, small)
    assert got.signal == pytest.approx(pairs, rel=1e-10)
    assert got.noise == pytest.approx(small * parts.var(0, ddof=1).sum(), rel=1e-10)


def test_sums_are_divided_not_ratios_averaged() -> None:
    rng = np.random.default_rng(1)
    rows = [row(gradients(rng, n, 0.5)) for n in (4, 8, 64) * 6]
    found = norm_noise(rows)
    u, v = sum(r.signal for r in rows), sum(r.noise for r in rows)
    assert found["grad/snr_per_example"].value == pytest.approx(u / v, rel=1e-12)
    assert found["grad/noise_scale"].value == pytest.approx(v / u, rel=1e-12)
    mean_size = np.mean([r.big_size for r in rows])
    assert found["grad/snr"].value == pytest.approx(mean_size * u / v, rel=1e-12)
    assert found["grad/noise"].value == pytest.approx(v / len(rows) / mean_size, rel=1e-12)
    assert found["grad/signal"].value == pytest.approx(u / len(rows), rel=1e-12)
    assert found["grad/snr_per_example"].value != pytest.approx(
        np.mean([r.signal / r.noise for r in rows]), rel=1e-3
    )


def test_interval_of_the_mean_is_students() -> None:
    """With one step a part the jackknife of a mean is t s/sqrt(n)."""
    from scipy.stats import t

    rng = np.random.default_rng(2)
    rows = [row(gradients(rng, 16, 1.0)) for _ in range(ENOUGH)]
    signal = np.array([r.signal for r in rows])
    found = norm_noise(rows)["grad/signal"]
    half = t.ppf(0.975, ENOUGH - 1) * signal.std(ddof=1) / math.sqrt(ENOUGH)
    assert found.value == pytest.approx(signal.mean())
    assert found.high - found.value == pytest.approx(half, rel=1e-10)
    assert found.value - found.low == pytest.approx(half, rel=1e-10)


def test_sizes_need_only_be_right_relative_to_each_other_for_the_ratio() -> None:
    """Ranks whose batch size is unknown: C at the global batch is the same, C_1 is missing."""
    rng = np.random.default_rng(3)
    rows = [row(gradients(rng, 32, 4.0), 8) for _ in range(20)]
    unit = [NormRow(r.small, r.big, 1, 4) for r in rows]
    known, unknown = norm_noise(rows), norm_noise(unit, sized=False)
    for name in ("grad/snr", "grad/signal", "grad/noise", "grad/p_published"):
        assert unknown[name].value == pytest.approx(known[name].value, rel=1e-12)
        assert unknown[name].high == pytest.approx(known[name].high, rel=1e-12)
    assert unknown["grad/noise_scale"].flags & Flag.UNRESOLVED
    assert "batch size is unknown" in unknown["grad/snr_per_example"].reason


def test_a_drift_is_flagged_and_widens_the_interval() -> None:
    """Noise that doubles over the block: parts rise by 1/16 each, and scatter by 2 %."""
    rng = np.random.default_rng(4)
    still = [row(gradients(rng, 32, 8.0)) for _ in range(BLOCK)]
    rising = [row(gradients(rng, 32, 8.0) * math.sqrt(1 + i / BLOCK)) for i in range(BLOCK)]
    calm, moved = norm_noise(still)["grad/noise"], norm_noise(rising)["grad/noise"]
    assert not calm.flags & Flag.NONSTATIONARY
    assert moved.flags & Flag.NONSTATIONARY and "drifted" in moved.reason
    # Its parts spread by .29 of the mean about it, the calm ones by .02.
    assert math.log(moved.high / moved.low) > 5 * math.log(calm.high / calm.low)


def test_only_the_last_block_counts() -> None:
    rng = np.random.default_rng(5)
    rows = [row(gradients(rng, 16, 1.0)) for _ in range(BLOCK + 30)]
    assert norm_noise(rows) == norm_noise(rows[30:])
    assert norm_noise(rows)["grad/snr"].n == BLOCK


def test_no_signal_is_unresolved_and_the_noise_scale_is_bounded_below_only() -> None:
    rng = np.random.default_rng(6)
    found = norm_noise([row(gradients(rng, 16, 0.0)) for _ in range(40)])
    assert found["grad/signal"].flags & Flag.UNRESOLVED
    scale = found["grad/noise_scale"]
    assert scale.high == math.inf and scale.low > 0
    assert found["grad/noise"].flags == Flag.NONE


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([NormRow(2.0, 1.0, 1, 8)] * (ENOUGH - 1), "at least 16 measured steps"),
        ([NormRow(math.nan, 1.0, 1, 8)] * 40, "there are 0"),
        ([NormRow(2.0, 1.0, 1, 1)] * 40, "there are 0"),
        ([NormRow(1.0, 1.0, 1, 8)] * 40, "no noise"),
        ([NormRow(0.0, 0.0, 1, 8)] * 40, "no noise"),
        ([NormRow(1.0 + (-1) ** i * 1e-3, 1.0, 1, 8) for i in range(41)], "changes sign"),
    ],
)
def test_nothing_is_said_where_nothing_can_be(rows: list[NormRow], words: str) -> None:
    found = norm_noise(rows)
    assert len(found) == 6
    for estimate in found.values():
        assert math.isnan(estimate.value) and words in estimate.reason


def test_tiny_gradients_do_not_vanish() -> None:
    rng = np.random.default_rng(7)
    rows = [row(gradients(rng, 16, 4.0)) for _ in range(20)]
    tiny = [NormRow(1e-280 * r.small, 1e-280 * r.big, 1, 16) for r in rows]
    a, b = norm_noise(rows)["grad/snr"], norm_noise(tiny)["grad/snr"]
    assert (b.value, b.low, b.high) == pytest.approx((a.value, a.low, a.high), rel=1e-9)
