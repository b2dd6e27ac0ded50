"""The median weight against the F law, its band, and what it refuses."""

import math

import numpy as np
import pytest
from scipy.stats import f

from foreshock.stats.weight_snr import weight_snr_median, weight_snr_null
from foreshock.types import Flag


@pytest.mark.parametrize("n", [3, 8, 30])
def test_null_is_the_f_law(n: int) -> None:
    for level in (0.05, 0.5, 0.95):
        assert weight_snr_null(n, level) == pytest.approx(f.ppf(level, 1, n - 1) / n, rel=1e-9)
    g = np.random.default_rng(n).standard_normal((n, 40_000))
    ratio = g.mean(0) ** 2 / g.var(0, ddof=1)
    for level in (0.25, 0.5, 0.75):
        # the level reached has sd sqrt(level (1 - level)/40,000) < .0025; 4 of them
        assert abs(np.mean(ratio < weight_snr_null(n, level)) - level) < 0.01


def test_a_common_part_widens_the_band() -> None:
    free = weight_snr_median(0.06, np.full(8, 0.06), np.eye(8) * 8000 / 8, 1000)
    # all weights move together: one independent weight, levels .5 +- .98 reach everything
    tied = weight_snr_median(
        0.06, np.full(8, 0.06), np.outer(*[np.r_[-1.0, 1, -1, 1, -1, 1, -1, 1]] * 2) * 1000, 1000
    )
    assert free.null is not None and tied.null is not None
    assert free.null[1] - free.null[0] < 0.1 < tied.null[1] - tied.null[0]


def test_refusals() -> None:
    assert math.isnan(weight_snr_median(math.nan, [1.0] * 4, np.eye(4), 3).value)
    still = weight_snr_median(math.inf, [math.inf] * 4, np.zeros((4, 4)), 3)
    assert Flag.UNRESOLVED in still.flags and "no noise" in still.reason
    zero = weight_snr_median(0.0, [0.0] * 4, np.eye(4), 3)
    assert zero.value == 0.0 and "exactly 0" in zero.reason
    with pytest.raises(ValueError, match="needs n >= 2"):
        weight_snr_null(1, 0.5)
