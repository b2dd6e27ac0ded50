"""The published system against a literal transcription."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from foreshock.simulators.published_fokker_planck import FokkerPlanckDynamics
from tests.simulators.decoders import small_decoder

N, WIDTH, H = 30, 3, 0.4


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def system() -> FokkerPlanckDynamics:
    data = torch.randn(4, WIDTH, generator=seeded(2), dtype=torch.float64)
    return FokkerPlanckDynamics(small_decoder(), data, eta_0=0.3, lambda_reg=0.2, kde_bandwidth=H)


@pytest.fixture
def z() -> Tensor:
    return torch.randn(N, 2, generator=seeded(3), dtype=torch.float64)


# Section 12.1 with a loop for vmap and numpy for jnp.
def literal_gradient(system: FokkerPlanckDynamics, z: Tensor, what: str) -> np.ndarray:
    rows = []
    for one in z:
        single = one.clone().requires_grad_()
        x_recon = system.decode(single)
        square = (x_recon - system.target_x) ** 2
        value = torch.mean(square) if what == "loss" else -torch.sum(square)
        rows.append(torch.autograd.grad(value, single)[0].numpy())
    return np.stack(rows)


def literal_density(z: np.ndarray) -> np.ndarray:
    difference = z[:, None, :] - z[None, :, :]
    kernel = np.exp(-np.sum(difference**2, axis=-1) / (2 * H**2))
    return kernel.sum(axis=1) / (len(z) * (2 * np.pi * H**2) ** (z.shape[1] / 2))


def literal_drift(system: FokkerPlanckDynamics, z: Tensor, t: float) -> np.ndarray:
    a = z.numpy()
    norm = len(a) * (2 * np.pi * H**2) ** (a.shape[1] / 2)
    difference = a[:, None, :] - a[None, :, :]
    kernel = np.exp(-np.sum(difference**2, axis=-1) / (2 * H**2))
    rho_grad = -(kernel[:, :, None] * difference).sum(axis=1) / (H**2 * norm)
    rho = kernel.sum(axis=1, keepdims=True) / norm
    entropy = -rho_grad * (1.0 + np.log(rho + 1e-10))
    eta = system.eta_0 / (1.0 + t / system.tau_eta)
    return -eta * (literal_gradient(system, z, "loss") + system.lambda_reg * entropy)


def literal_diffusion(system: FokkerPlanckDynamics, z: Tensor, t: float) -> np.ndarray:
    scores = literal_gradient(system, z, "log_prob")
    fisher = (scores.T @ scores) / len(z)
    matrix = system.D_0 * np.exp(-t / system.tau_D) * (np.eye(2) + system.gamma * fisher)
    return np.tile(matrix[None, :, :], (len(z), 1, 1))


def test_drift_and_diffusion_are_those_of_the_listing(system: FokkerPlanckDynamics, z) -> None:
    for t in (0.0, 700.0):
        assert np.allclose(system.drift(z, t), literal_drift(system, z, t), rtol=1e-9)
        assert np.allclose(system.diffusion(z, t), literal_diffusion(system, z, t), rtol=1e-9)
    with torch.no_grad():
        one = (system.decode(z[0]) - system.target_x).square().mean()
        assert float(system.losses(z)[0]) == pytest.approx(float(one))


def test_b5_tiled_cholesky_factors_are_copies_of_one(system: FokkerPlanckDynamics, z) -> None:
    # Published: n factors of n equal matrices and an einsum. Ours: one. Same normals, same step.
    noise = torch.randn(z.shape, generator=seeded(4), dtype=z.dtype).numpy()
    tensor = literal_diffusion(system, z, 5.0) + 1e-6 * np.eye(2)[None, :, :]
    roots = np.linalg.cholesky(tensor)
    assert np.ptp(roots, axis=0).max() == 0
    correlated = np.einsum("bij,bj->bi", roots, noise)
    literal = z.numpy() + literal_drift(system, z, 5.0) * 0.01 + np.sqrt(0.02) * correlated
    assert np.allclose(system.step(z, 5.0, 0.01, seeded(4)), literal, rtol=1e-9)
    # The diffusion is a view of one matrix: 4 numbers are stored and not 4 n.
    assert system.diffusion(z, 0.0).untyped_storage().nbytes() == 4 * 8
    assert literal_diffusion(system, z, 0.0).nbytes == N * 4 * 8


def test_flux_and_entropy_production_are_those_of_the_listing(
    system: FokkerPlanckDynamics, z: Tensor
) -> None:
    rho, a = literal_density(z.numpy()), z.numpy()
    columns = []
    for i in range(2):
        moved = a.copy()
        moved[:, i] += 1e-4
        columns.append((literal_density(moved) - rho) / 1e-4)
    mu, d = literal_drift(system, z, 0.0), literal_diffusion(system, z, 0.0)
    flux = mu * rho[:, None] - np.einsum("bij,bj->bi", d, np.stack(columns, axis=-1))
    # Shifting all particles leaves rounding of 1e-16 rho/1e-4, which is not reproduced.
    assert np.allclose(system.flux(z, 0.0), flux, atol=1e-9)
    assert np.allclose(flux, mu * rho[:, None], atol=1e-9)  # Defect (B1): J is mu rho.
    entropy_grad = -(mu / -system.eta_0 - literal_gradient(system, z, "loss")) / -system.lambda_reg
    log_rho_grad = -entropy_grad / (1.0 + np.log(rho + 1e-10)[:, None] + 1e-10)
    literal = float(np.mean(np.sum(flux * log_rho_grad, axis=-1)))
    assert system.entropy_production(z, torch.tensor(flux)) == pytest.approx(literal, rel=1e-6)


def test_a19_reset_permutes_rows_and_widens_by_half_alpha() -> None:
    system = FokkerPlanckDynamics(nn.Identity(), torch.zeros(2))
    z = torch.randn(40_000, 2, generator=seeded(5), dtype=torch.float64) + 3
    after = system.apply_reset(z, seeded(6))
    kept = after[:32_000]
    # Every kept row is an old one; next to none is where it was (expected: .8 rows).
    assert len(torch.unique(torch.cat([z, kept]), dim=0)) == len(z)
    assert int((kept == z[:32_000]).all(1).sum()) < 8
    # Covariance 1 + .5 x .2; relative standard error sqrt(2/40000) = .7 %.
    factor = torch.cov(after.T).trace() / torch.cov(z.T).trace()
    assert float(factor) == pytest.approx(1.1, abs=0.03)


def test_a19_published_epoch_resets_at_every_step_below_the_threshold() -> None:
    # Every finite C is below an infinite theta; the code waits ten steps and then never again.
    system = FokkerPlanckDynamics(nn.Identity(), torch.zeros(2), C_threshold=math.inf)
    z = torch.randn(25, 2, generator=seeded(7))
    _, history = system.train_epoch(z, n_steps=15, generator=seeded(8))
    assert history["transitions"] == [11, 12, 13, 14]
    assert [len(history[name]) for name in ("C", "S_dot", "loss")] == [15, 15, 15]


def test_the_epoch_observes_the_moved_particles_at_the_time_before(
    system: FokkerPlanckDynamics, z: Tensor
) -> None:
    final, history = system.train_epoch(z, n_steps=2, dt=5.0, generator=seeded(20))
    generator, moved = seeded(20), z
    for k in range(2):
        t = 5.0 * k
        moved = system.step(moved, t, 5.0, generator)
        flux = system.flux(moved, t)
        assert history["S_dot"][k] == system.entropy_production(moved, flux)
        assert history["C"][k] == system.consolidation_ratio(moved, t)
    assert torch.equal(final, moved)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"target_x": torch.zeros(2, 2, 2)}, "`target_x` of `FokkerPlanckDynamics` must have"),
        ({"kde_bandwidth": 0.0}, "`kde_bandwidth` of `FokkerPlanckDynamics` must be positive"),
    ],
)
def test_unfit_arguments_are_refused(change: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        FokkerPlanckDynamics(**({"decode": nn.Identity(), "target_x": torch.zeros(2)} | change))
