"""The two symbols of "spectral_edge": their limits, doors, and defects as numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from foreshock.documents import adiabatic_parameter, k_star


def test_k_star() -> None:
    assert [k_star(s) for s in ([4.0, 3.0, 1.0], [9.0, 1.0, 0.9], [2.0, 1.0])] == [2, 1, 1]
    assert k_star([3.0, 2.0, 0.0]) == 2  # a ratio to 0 wins
    with pytest.raises(ValueError, match="at least 2. Got shape"):
        k_star([1.0])
    with pytest.raises(ValueError, match="must descend"):
        k_star([1.0, 2.0, 8.0])
    assert k_star([4.0, 4.0, 1.0]) == 2
    # Defect: windows of pure noise have one too, in most of them at one of the two ends.
    g = np.random.default_rng(0)
    found = [
        k_star(np.linalg.svd(g.standard_normal((10, 400)), compute_uv=False)) for _ in range(200)
    ]
    # 1 or 9 in over 40 %; by chance alone 2/9 = 22 %, whose standard error over 200 is 3 %.
    assert np.mean([k in (1, 9) for k in found]) > 0.22 + 4 * 0.03


def test_adiabatic_parameter() -> None:
    assert adiabatic_parameter(2.0, 0.5, 2.0) == 1.0
    assert adiabatic_parameter(2.0, 0.5, 0.0) == math.inf
    assert adiabatic_parameter(2.0, 0.0, 1.0) == math.inf
    assert adiabatic_parameter(np.float64(2), 0.5, np.float64(0)) == math.inf
    assert math.isnan(adiabatic_parameter(0.0, 0.5, 0.0))
    # Defect: the same path in weights ten times larger reads a tenth, or a thousandth.
    before = adiabatic_parameter(1.0, 0.1, 2.0)
    for power, factor in ((1, 10), (2, 1000)):
        assert before / adiabatic_parameter(100.0, 1.0, 2.0 * 10**power) == pytest.approx(factor)
