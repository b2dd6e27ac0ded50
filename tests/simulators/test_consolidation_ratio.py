"""The corrected ratio: no unit, an interval that covers, and where it is missing."""

from __future__ import annotations

import math

import pytest
import torch

from foreshock.simulators.consolidation_ratio import consolidation, laplacian, regime
from foreshock.simulators.potentials import Quadratic
from foreshock.stats.published_langevin import (
    c_langevin,
)


def test_c6_the_published_ratio_has_a_unit_and_ours_has_none() -> None:
    """Measured in millimetres instead of metres the published C at rest moves by 1e-6, ours not."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(4000, 2, dtype=torch.float64, generator=generator)
    published, ours = [], []
    for unit in (1.0, 1000.0):
        curvature = torch.tensor([1.0, 9.0], dtype=torch.float64) / unit**2
        theta = z * (0.5 / curvature).sqrt()  # Gibbs at T = .5: the same physical state
        squared = (curvature * theta).square().sum(1)
        published.append(c_langevin(float(squared.mean()), 0.5, 2))
        ours.append(consolidation(squared, curvature.sum().expand(4000), 0.5))
    assert published[0] == pytest.approx(5.0, rel=0.1)  # tr(H)/d, although all is at rest
    assert published[1] == pytest.approx(published[0] * 1e-6)
    assert ours[0].value == pytest.approx(ours[1].value, rel=1e-12)
    assert ours[0].low < 1 < ours[0].high


def test_the_interval_of_the_ratio_covers() -> None:
    """300 stationary samples of 30 replicas: 95 % within four binomial errors, 90 to 100 %."""
    generator, hits = torch.Generator().manual_seed(3), 0
    for _ in range(300):
        squared = torch.randn(30, 5, dtype=torch.float64, generator=generator).square().sum(1)
        found = consolidation(squared, torch.full((30,), 5.0), 1.0)
        hits += found.low <= 1 <= found.high
    assert 0.90 <= hits / 300 <= 0.995


def test_the_laplacian_is_the_trace_in_pieces_or_whole() -> None:
    curvature = torch.arange(1.0, 3001.0).double()  # 3000^2 > 2^24 / 2: one replica at a time
    found = laplacian(Quadratic(curvature), torch.zeros(2, 3000).double())
    assert found.tolist() == [4501500.0] * 2


def test_a_ratio_that_cannot_be_computed_is_missing() -> None:
    ones = torch.ones(20)
    assert "8" in consolidation(ones[:3], ones[:3], 1.0).reason
    assert "no noise" in consolidation(ones, ones, 0.0).reason
    assert "not positive" in consolidation(ones, -ones, 1.0).reason
    assert "not finite" in consolidation(ones * math.nan, ones, 1.0).reason
    assert regime(consolidation(ones, -ones, 1.0)) == "unresolved"
