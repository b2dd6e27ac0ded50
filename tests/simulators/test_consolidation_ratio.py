"""The corrected ratio: no unit, an interval that covers, and where it is missing."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from foreshock.density import fdt_ratio
from foreshock.simulators.consolidation_ratio import consolidation, laplacian, regime
from foreshock.simulators.potentials import Quadratic
from foreshock.stats.published_langevin import c_langevin


def test_c6_the_published_ratio_has_a_unit_and_ours_has_none() -> None:
    """Measured in millimetres instead of metres the published C at rest moves by 1e-6, ours not."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(4000, 2, dtype=torch.float64, generator=generator)
    published, ours = [], []
    for unit in (1.0, 1000.0):
        curvature = torch.tensor([1.0, 9.0], dtype=torch.float64) / unit**2
        theta = z * (0.5 / curvature).sqrt()  # Gibbs at T = .5: the same physical state
        gradients = curvature * theta
        published.append(c_langevin(float(gradients.square().sum(1).mean()), 0.5, 2))
        ours.append(consolidation(gradients, curvature.sum().expand(4000), 0.5))
    assert published[0] == pytest.approx(5.0, rel=0.1)  # tr(H)/d, although all is at rest
    assert published[1] == pytest.approx(published[0] * 1e-6)
    assert ours[0].value == pytest.approx(ours[1].value, rel=1e-12)
    assert ours[0].low < 1 < ours[0].high


def test_the_interval_of_the_ratio_covers() -> None:
    """300 stationary samples of 30 replicas: 95 % within four binomial errors, 90 to 100 %."""
    generator, hits = torch.Generator().manual_seed(3), 0
    for _ in range(300):
        gradients = torch.randn(30, 5, dtype=torch.float64, generator=generator)
        found = consolidation(gradients, torch.full((30,), 5.0), 1.0)
        hits += found.low <= 1 <= found.high
    assert 0.90 <= hits / 300 <= 0.995


def test_the_laplacian_is_the_trace_in_pieces_or_whole() -> None:
    curvature = torch.arange(1.0, 3001.0).double()  # 3000^2 > 2^24 / 2: one replica at a time
    found = laplacian(Quadratic(curvature), torch.zeros(2, 3000).double())
    assert found.tolist() == [4501500.0] * 2


def test_a_ratio_that_cannot_be_computed_is_missing() -> None:
    rows, ones = torch.ones(20, 1), torch.ones(20)
    assert "8" in consolidation(rows[:3], ones[:3], 1.0).reason
    assert "no noise" in consolidation(rows, ones, 0.0).reason
    assert "not positive" in consolidation(rows, -ones, 1.0).reason
    assert "not finite" in consolidation(rows * math.nan, ones, 1.0).reason
    assert regime(consolidation(rows, -ones, 1.0)) == "unresolved"


def test_the_interval_is_that_of_the_density_layer_with_its_null() -> None:
    """One estimator serves both; on x^4/4 its skewness matters, which a symmetric one ignores."""
    x = torch.randn(100, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = consolidation(x**3, 3 * x[:, 0] ** 2, 1.0)
    assert found.null == (1.0, 1.0)
    assert found == replace(fdt_ratio(x**3, 3 * x[:, 0] ** 2, 1.0), null=(1.0, 1.0))
    assert found.high - found.value > 1.2 * (found.value - found.low)
