"""Lanczos on planted spectra: values, residuals, stopping, and what ends a Krylov space."""

from __future__ import annotations

import math

import pytest
import torch

from foreshock.estimators.lanczos import Krylov, lanczos


def start(d: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_a_plain_spectrum_and_its_largest_not_its_largest_in_size() -> None:
    spectrum = torch.cat([torch.linspace(0, 1, 98), torch.tensor([2.0, -5.0])]).double()
    top = lanczos(lambda v: spectrum * v, start(100), steps=30)
    assert top.value == pytest.approx(2.0, abs=1e-9)
    assert top.residual < 1e-6


@pytest.mark.parametrize("d", [1, 2, 5])
def test_exhausted_krylov_spaces_add_no_zero_eigenvalues(d: int) -> None:
    spectrum = -torch.arange(1, d + 1).double()  # all negative: a spurious 0 would win
    top = lanczos(lambda v: spectrum * v, torch.ones(d, dtype=torch.float64), steps=10)
    assert top.value == pytest.approx(-1.0, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_identity_exhausts_after_one_step(dtype: torch.dtype) -> None:
    top = lanczos(lambda v: -3 * v, torch.ones(50, dtype=dtype), steps=10)
    assert top.steps == 1
    # A few roundings of the type.
    assert top.value == pytest.approx(-3.0, rel=20 * torch.finfo(dtype).eps)
    assert top.residual < 1e3 * torch.finfo(dtype).eps


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("tolerance", [1e-1, 1e-2, 1e-4])
def test_stops_when_converged_and_the_residual_is_the_true_one(seed: int, tolerance: float) -> None:
    d = 300
    spectrum = torch.rand(d, generator=torch.Generator().manual_seed(seed)).double()
    spectrum[7] = 1.6
    top = lanczos(lambda v: spectrum * v, start(d, seed), 100, tolerance=tolerance, least=3)
    v = top.vectors[0]
    assert top.converged and 3 <= top.steps < 60
    assert v.norm().item() == pytest.approx(1.0, abs=1e-10)
    assert top.residual == pytest.approx((spectrum * v - top.value * v).norm().item(), rel=1e-8)
    # Temple's estimate allows half the tolerance; θ₂ below the second eigenvalue costs the rest.
    assert 0 <= 1.6 - top.value <= tolerance * 1.6


def test_asymmetry_shows_in_the_residual() -> None:
    d = 40
    matrix = torch.diag(torch.arange(d).double())
    noise = 0.5 * torch.randn(d, d, generator=torch.Generator().manual_seed(1)).double()
    top = lanczos(lambda v: (matrix + noise) @ v, start(d), steps=d)
    v = top.vectors[0]
    true = ((matrix + noise) @ v - top.value * v).norm().item()
    assert top.residual == pytest.approx(true, rel=1e-8)
    assert true > 0.1  # a residual from the last coefficient alone would be 0 here


def test_float32_vectors_reach_what_float32_can() -> None:
    d = 500
    spectrum = torch.linspace(0, 1, d)
    spectrum[3] = 3.0
    top = lanczos(lambda v: spectrum * v, start(d, dtype=torch.float32), 40, tolerance=1e-5)
    assert top.converged
    assert top.value == pytest.approx(3.0, rel=1e-6)


def test_what_is_not_finite_stops_at_once() -> None:
    top = lanczos(lambda v: v * math.nan, start(10), steps=5)
    assert math.isnan(top.value) and top.steps == 1


def test_relative_to_the_norm_where_the_value_is_zero() -> None:
    spectrum = torch.cat([torch.zeros(1), -torch.linspace(1, 100, 199)]).double()
    found = lanczos(lambda v: spectrum * v, start(200), 64, tolerance=1e-2, to_norm=True)
    assert found.converged and abs(found.value) < 1.0
    own = lanczos(lambda v: spectrum * v, start(200), 20, tolerance=1e-2)
    assert not own.converged


def test_the_basis_grows_beyond_its_first_room_and_stays_orthonormal() -> None:
    krylov = Krylov(lambda v: torch.linspace(-1, 1, 60).double() * v, start(60))
    while krylov.size < 37 and krylov.grow():
        pass
    assert krylov.size == 37
    eye = torch.eye(37, dtype=torch.float64)
    assert torch.allclose(krylov.basis @ krylov.basis.T, eye, atol=1e-12)


@pytest.mark.parametrize("d", [3, 4, 40])
def test_the_image_of_the_leading_vector_costs_no_product(d: int) -> None:
    spectrum = torch.arange(1, d + 1).double()
    made = []

    def product(v: torch.Tensor) -> torch.Tensor:
        made.append(1)
        return spectrum * v

    top = lanczos(product, start(d), steps=4)
    assert top.image is not None and len(made) == top.steps
    assert torch.allclose(top.image, spectrum * top.vectors[0], atol=1e-12)
    beyond = (top.image - top.value * top.vectors[0]).norm().item()
    assert beyond == pytest.approx(top.residual, abs=1e-12)
