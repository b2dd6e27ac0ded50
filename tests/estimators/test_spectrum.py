"""Trace, density and smallest eigenvalue: dense float64 Hessians, planted spectra, moments."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foreshock.estimators.hvp import HessianProduct
from foreshock.estimators.spectrum import (
    Negative,
    Spectrum,
    hutch_plus_plus,
    lanczos_quadrature,
)
from foreshock.probe.moment import Moment
from foreshock.probe.quiet import quiet
from foreshock.probe.view import ModelView
from foreshock.types import Flag
from tests.cases import CASES, loss
from tests.estimators.test_curvature import dense
from tests.estimators.test_tracking import Planted


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def measured(observable: Spectrum, name: str):
    case = CASES[name]
    model, probe = case.model(), case.probe(batches=2, size=8)
    view = ModelView(model)
    moment = Moment(0, view, tuple(None for _ in view.names), (0.1,), probe=probe)
    return observable.update(observable.init(), moment)[1], dense(model, probe.batches[0])


@pytest.mark.parametrize("name", CASES)
def test_against_the_dense_hessian(name: str) -> None:
    readings, matrix = measured(Spectrum(), name)
    values = torch.linalg.eigvalsh(matrix)
    norm = values.abs().max().item()
    smallest = readings.scalars["hessian/lambda_min"]
    assert not smallest.flags
    assert smallest.value == pytest.approx(values[0].item(), abs=0.01 * norm)
    trace = readings.scalars["hessian/trace"]
    # A fixed seed whose 95 % interval holds; twice its width is 4 standard errors.
    assert abs(trace.value - matrix.trace().item()) <= trace.high - trace.value
    grid, density = readings.arrays["hessian/density_grid"], readings.arrays["hessian/density"]
    assert np.trapezoid(density, grid) == pytest.approx(1.0, abs=0.01)
    # The mean of the density is tr H/d: 4 starts of d coordinates each, so its standard deviation
    # is sqrt(2 tr H²/4)/d; 5 of them, and the smoothing leaves means alone.
    d = len(matrix)
    spread = (2 * (values**2).sum().item() / 4) ** 0.5 / d
    mean = np.trapezoid(density * grid, grid)
    assert mean == pytest.approx(matrix.trace().item() / d, abs=5 * spread + 1e-3 * norm)


def test_trace_is_unbiased_and_better_than_plain_sampling() -> None:
    j = torch.arange(1, 301).double()
    spectrum = 1 / j
    ours = [
        hutch_plus_plus(lambda v: spectrum * v, 300, 24, generator(s)).value for s in range(200)
    ]
    plain = []
    for s in range(200):
        omega = torch.randn(24, 300, generator=generator(s), dtype=torch.float64)
        plain.append(((omega**2) @ spectrum).mean().item())
    truth = spectrum.sum().item()
    # 4 standard errors of the mean of 200.
    assert abs(np.mean(ours) - truth) < 4 * np.std(ours) / 200**0.5
    # By theory the tail beyond the caught range is all that varies; here half, within 5 %.
    assert np.std(ours) < 0.6 * np.std(plain)


def test_trace_is_exact_where_products_reach_and_on_low_rank() -> None:
    planted = Planted(500, 5, 0)
    low_rank = hutch_plus_plus(planted, 500, 24, generator())
    assert low_rank.value == pytest.approx(planted.values.sum().item(), abs=1e-9)
    assert low_rank.high - low_rank.low < 1e-9
    diagonal = torch.arange(7).double()
    small = hutch_plus_plus(lambda v: diagonal * v, 7, 9, generator())
    assert small.value == small.low == small.high == 21.0


def test_quadrature_has_the_moments_and_the_shares_of_the_spectrum() -> None:
    class Diagonal:
        dimension, device, dtype, method = 3000, torch.device("cpu"), torch.float64, "reverse"
        values = torch.cat([torch.full((600,), 2.0), torch.full((2400,), -1.0)]).double()

        def __call__(self, v: torch.Tensor) -> torch.Tensor:
            return self.values * v

    found = lanczos_quadrature(Diagonal(), 4, 10, generator())
    assert found is not None
    # Two distinct eigenvalues: two nodes a start, exactly there.
    assert np.allclose(np.sort(found.nodes), [-1.0] * 4 + [2.0] * 4)
    share = found.weights[found.nodes > 0].sum()
    # Share of |v|² in 600 of 3000 coordinates: SD sqrt(2 · .2 · .8/12000) = .005; 4 of them.
    assert share == pytest.approx(0.2, abs=0.02)
    assert found.weights.sum() == pytest.approx(1.0)
    grid, density = found.smoothed(400, 0.02)
    above = grid > 0.5
    assert np.trapezoid(density[above], grid[above]) == pytest.approx(share, abs=1e-3)


def test_the_negative_turns_the_spectrum_round() -> None:
    case = CASES["mlp"]
    with quiet(0):
        product = HessianProduct(ModelView(case.model()), loss, case.batch(8, seed=1))
        v = torch.randn(product.dimension, generator=generator())
        assert torch.equal(Negative(product)(v), -product(v))


def test_nan_is_missing_everywhere() -> None:
    trace = hutch_plus_plus(lambda v: v * float("nan"), 100, 24, generator())
    assert Flag.UNRESOLVED in trace.flags


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="`products` of `Spectrum` must be at least 9. Got 3"):
        Spectrum(products=3)
    with pytest.raises(ValueError, match="`products` of `hutch_plus_plus` must be at least 9"):
        hutch_plus_plus(lambda v: v, 10, 5, generator())
    with pytest.raises(ValueError, match="`width` of `Spectrum`"):
        Spectrum(width=0.0)
