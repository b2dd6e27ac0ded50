"""The covariance of each kind of noise, and what is refused."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import Tensor

from foreshock.simulators.decoder import DecoderPotential
from foreshock.simulators.diffusion import (
    Isotropic,
    ParticleFisher,
    SharedFisher,
    SharedMatrix,
    fisher_divergence,
)
from foreshock.simulators.diffusion_tensor import DiffusionTensor
from tests.simulators.decoders import generator, tanh_decoder


def covariance_matches(noise: Tensor, expected: Tensor) -> None:
    """Each entry within 4.5 standard errors sqrt((S_ii S_jj + S_ij^2)/n) of a Gaussian sample."""
    n = len(noise)
    found = noise.T @ noise / n
    d = expected.diagonal()
    error = ((d[:, None] * d[None, :] + expected.square()) / n).sqrt()
    assert ((found - expected).abs() < 4.5 * error).all(), (found, expected)


def clones(n: int) -> tuple[DecoderPotential, Tensor]:
    """n particles at one and the same place, so that the sample covariance is that of one D(z)."""
    z = torch.tensor([[0.3, -0.5, 0.8]], dtype=torch.float64).repeat(n, 1)
    targets = torch.zeros(n, 4, dtype=torch.float64)
    return DecoderPotential(tanh_decoder(), targets, dimension=3, noise_scale=0.7), z


def test_t6_noise_of_a_particle_has_covariance_one_plus_gamma_fisher() -> None:
    potential, z = clones(40_000)
    gamma = 0.6
    tensor = ParticleFisher(gamma).tensor(z, None, 1.0)
    noise = tensor.noise(
        z, 1.0, generator(7), linear=potential.linearise(z), noise_scale=potential.noise_scale
    )
    jacobian = torch.autograd.functional.jacobian(lambda p: potential.decode(p[None])[0], z[0])
    fisher = jacobian.T @ jacobian / 0.7**2
    expected = torch.eye(3, dtype=torch.float64) + gamma * fisher
    assert (
        gamma * float(torch.linalg.eigvalsh(fisher)[-1]) > 1
    )  # The coupling is no small addition.
    covariance_matches(noise, expected)
    torch.testing.assert_close(tensor.dense(z[:2], potential.rows(slice(0, 2)))[0], expected)


def test_t6_fisher_of_a_linear_decoder_is_exact() -> None:
    """F = A'A/sigma^2, whatever the targets: the noise does not vanish at a perfect fit."""
    matrix = torch.randn(4, 3, generator=generator(5), dtype=torch.float64)
    z = torch.randn(5, 3, generator=generator(6), dtype=torch.float64)
    potential = DecoderPotential(lambda p: p @ matrix.T, z @ matrix.T, dimension=3, noise_scale=0.5)
    assert not potential.energy(z).any()
    expected = matrix.T @ matrix / 0.25
    torch.testing.assert_close(potential.fisher(z), expected.expand(5, 3, 3))
    tensor = ParticleFisher(2.0).tensor(z, None, 0.3)
    product = tensor.product(z, torch.eye(3).double()[:1].expand(5, 3), potential)
    torch.testing.assert_close(product[0], 0.3 * (torch.eye(3).double() + 2 * expected)[0])


def test_t6_div_of_fisher_with_random_signs_is_unbiased() -> None:
    """Mean over 20,000 clones within 4.5 standard errors of the exact average over all signs."""
    potential, z = clones(20_000)
    draws = fisher_divergence(potential, z, generator(8))
    one = potential.rows(slice(0, 1))
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=z.dtype)] * 3)
    exact = torch.stack([one.fisher_divergence(z[:1], s[None]) for s in signs]).mean(0)[0]
    error = draws.std(0) / math.sqrt(len(z))
    assert ((draws.mean(0) - exact).abs() < 4.5 * error + 1e-12).all()
    assert exact.abs().max() > 0.1


def test_shared_fisher_is_the_mean_of_the_particles() -> None:
    """Signs: entries of n^-1 sum s s' within 4.5 standard errors of the mean of F(z_i)."""
    n = 20_000
    z = torch.randn(n, 3, generator=generator(9), dtype=torch.float64)
    potential = DecoderPotential(
        tanh_decoder(), torch.zeros(n, 4).double(), dimension=3, noise_scale=0.7
    )
    tensor = SharedFisher(0.6).tensor(
        z, potential.linearise(z), 0.5, 0.1, generator=generator(10), noise_scale=0.7
    )
    fisher = potential.fisher(z)
    assert tensor.matrix is not None and tensor.factor is not None
    found = (tensor.matrix - 0.6 * torch.eye(3)) / (0.5 * 0.6)
    square = (
        fisher.square()
        + fisher.diagonal(dim1=1, dim2=2)[:, :, None] * fisher.diagonal(dim1=1, dim2=2)[:, None, :]
    )  # Var(s_i s_j) = F_ii F_jj + F_ij^2 for normal e; signs have no fourth cumulant but -2:
    slopes = (potential.jacobian(z) / 0.7).square()
    square = (square - 2 * slopes.mT @ slopes).clamp(min=0)
    error = square.mean(0).sqrt() / math.sqrt(n)
    assert ((found - fisher.mean(0)).abs() < 4.5 * error).all()
    torch.testing.assert_close(tensor.factor @ tensor.factor.T, tensor.matrix)
    covariance_matches(tensor.noise(z, 2.0, generator(11)), 2 * tensor.matrix)


def test_signs_through_a_decoder_with_one_output_give_the_fisher_information_itself() -> None:
    """s s' = J'e e'J/sigma^2 with e^2 = 1, whatever was drawn; 41 signs are no whole bytes."""
    z = torch.randn(41, 3, generator=generator(9), dtype=torch.float64)
    weights = torch.tensor([[0.5], [-1.0], [2.0]], dtype=torch.float64)
    potential = DecoderPotential(
        lambda z: torch.tanh(z @ weights), torch.zeros(41, 1).double(), dimension=3, noise_scale=0.7
    )
    tensor = SharedFisher(0.6).tensor(
        z, potential.linearise(z), 0.5, generator=generator(10), noise_scale=0.7
    )
    expected = 0.5 * (torch.eye(3) + 0.6 * potential.fisher(z).mean(0))
    torch.testing.assert_close(tensor.matrix, expected)


def test_shared_matrix_noise_and_its_sum_with_the_identity() -> None:
    matrix = torch.tensor([[2.0, 0.8], [0.8, 0.5]], dtype=torch.float64)
    z = torch.zeros(40_000, 2, dtype=torch.float64)
    tensor = SharedMatrix(matrix).tensor(z, None, 0.7, 0.2)
    expected = 0.7 * matrix + 0.2 * torch.eye(2)
    torch.testing.assert_close(tensor.value(2), expected)
    covariance_matches(tensor.noise(z, 0.1, generator(12)), 0.1 * expected)
    boosted = tensor.raised(3.0)
    covariance_matches(boosted.noise(z, 0.1, generator(13)), 0.1 * (expected + 3 * torch.eye(2)))
    u = torch.ones(3, 2).double()
    torch.testing.assert_close(boosted.product(z[:3], u, None), u @ boosted.value(2))


def test_a_semidefinite_matrix_makes_no_noise_in_its_null_direction() -> None:
    shape = SharedMatrix(torch.tensor([[1.0, 1.0], [1.0, 1.0]]))
    noise = shape.tensor(torch.zeros(50, 2), None, 1.0).noise(torch.zeros(50, 2), 1.0, generator())
    torch.testing.assert_close(noise[:, 0], noise[:, 1])


def test_covariance_shape_has_mean_eigenvalue_one() -> None:
    z = torch.randn(500, 3, generator=generator(1)) * torch.tensor([1.0, 2.0, 3.0])
    shape = SharedMatrix.of(z)
    assert float(shape.matrix.trace()) == pytest.approx(3.0, rel=1e-5)
    torch.testing.assert_close(shape.matrix, torch.cov(z.T) * 3 / torch.cov(z.T).trace())


def test_a8_a_positive_gamma_is_never_too_large_and_a_negative_one_can_be() -> None:
    """Proposition 2 wants gamma < 1/lambda_max; the only limit is gamma > -1/lambda_max."""
    n = 400
    z = torch.randn(n, 3, generator=generator(9), dtype=torch.float64)
    potential = DecoderPotential(
        tanh_decoder(), torch.zeros(n, 4).double(), dimension=3, noise_scale=0.1
    )
    linear = potential.linearise(z)
    top = float(torch.linalg.eigvalsh(potential.fisher(z).mean(0))[-1])
    for gamma in (100 / top, -0.5 / top):
        tensor = SharedFisher(gamma).tensor(
            z, linear, 1.0, generator=generator(10), noise_scale=0.1
        )
        assert float(torch.linalg.eigvalsh(tensor.matrix)[0]) > 0
    with pytest.raises(ValueError, match=r"\(D_0 lambda_max\(F\)\), here -0\.0\d+; gamma >= 0"):
        SharedFisher(-2 / top).tensor(z, linear, 1.0, generator=generator(10), noise_scale=0.1)
    with pytest.raises(ValueError, match="use `SharedFisher`. Got -0.1"):
        ParticleFisher(-0.1)


def test_the_least_gamma_that_is_named_counts_the_entropy_weight_and_is_the_least() -> None:
    """D_0 (1 + gamma F) + eta lambda > 0: with the same signs, 1 % above works and below fails."""
    n = 400
    z = torch.randn(n, 3, generator=generator(9), dtype=torch.float64)
    potential = DecoderPotential(tanh_decoder(), torch.zeros(n, 4).double(), dimension=3)
    linear = potential.linearise(z)
    with pytest.raises(ValueError, match="gamma >= 0 never fails") as caught:
        SharedFisher(-50.0).tensor(z, linear, 0.5, 2.0, generator=generator(10))
    named = re.search(r"here (-[\d.]+(?:e-\d+)?);", str(caught.value))
    assert named is not None
    least = float(named[1])
    SharedFisher(0.99 * least).tensor(z, linear, 0.5, 2.0, generator=generator(10))
    with pytest.raises(ValueError, match="is not positive definite"):
        SharedFisher(1.01 * least).tensor(z, linear, 0.5, 2.0, generator=generator(10))


def test_estimated_matrices_need_more_particles_than_dimensions() -> None:
    with pytest.raises(
        ValueError, match="4 x 4 matrix and needs more than 4 particles; there are 4"
    ):
        SharedMatrix.of(torch.randn(4, 4, generator=generator()))
    potential = DecoderPotential(lambda p: p, torch.zeros(2, 3), dimension=3)
    z = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="`Isotropic\\(\\)` or `ParticleFisher\\(gamma\\)`"):
        SharedFisher(0.1).tensor(z, potential.linearise(z), 1.0, generator=generator())


@pytest.mark.parametrize(
    ("matrix", "sentence"),
    [
        (torch.ones(2, 3), r"must be \(d, d\). Got \(2, 3\)"),
        (torch.tensor([[1.0, 0.5], [0.0, 1.0]]), "must be symmetric"),
        (torch.tensor([[1.0, 2.0], [2.0, 1.0]]), "smallest eigenvalue is -1. Add a multiple"),
        (torch.tensor([[torch.nan]]), "contains nan"),
    ],
)
def test_unfit_matrices_are_refused(matrix: Tensor, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        SharedMatrix(matrix)


def test_a_matrix_of_another_dimension_is_refused() -> None:
    with pytest.raises(ValueError, match=r"have 3 dimensions .* must be \(3, 3\)"):
        SharedMatrix(torch.eye(2)).tensor(torch.zeros(5, 3), None, 1.0)


def test_value_is_what_the_density_functions_take() -> None:
    assert Isotropic().tensor(torch.zeros(3, 2), None, 0.4, 0.1).value(2) == 0.5
    with pytest.raises(ValueError, match="Every particle has its own diffusion"):
        DiffusionTensor(1.0, fisher=0.1).value(2)
