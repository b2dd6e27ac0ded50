"""Dynamics: conventions of state-dependent noise, detailed balance, refusals (T5)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import solve_continuous_lyapunov, solve_discrete_lyapunov
from torch import Tensor

from foreshock.simulators.dynamics import (
    ItoProcess,
    Langevin,
    StateDependentLangevin,
    divergence,
    largest_curvature,
)
from foreshock.simulators.potentials import DoubleWell, Quadratic
from foreshock.simulators.sde import EulerMaruyama, integrate


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("convention", ["ito", "stratonovich", "anti_ito", "fickian"])
def test_t5_state_dependent_diffusion_on_the_ring(convention: str) -> None:
    """mu = 0, D = 1 + sin(x)/2: 1/D (Itô), 1/sqrt(D) (Stratonovich), uniform (the others)."""
    n, dt = 20_000, 0.02
    process = ItoProcess(
        diffusion=lambda x: 1 + 0.5 * torch.sin(x),
        convention=convention,  # type: ignore[arg-type]
        divergence=lambda x: 0.5 * torch.cos(x),
    )
    start = 2 * math.pi * torch.rand(n, 1, generator=generator())
    # The slowest mode relaxes at ~ .8: e^-6.4 of what the start lacks is left, .0005.
    path = integrate(EulerMaruyama(process, dt), start, 400, generator=generator(1), every=400)
    angle = np.linspace(0, 2 * math.pi, 4001)[:-1]
    power = {"ito": 1.0, "stratonovich": 0.5}.get(convention, 0.0)
    density = (1 + 0.5 * np.sin(angle)) ** -power
    expected = float((np.sin(angle) * density).sum() / density.sum())
    found = float(torch.sin(path.values[-1]).mean())
    # 4 standard errors of a mean with a variance of about 1/2, and .004 for Euler's O(dt).
    assert abs(found - expected) < 4 * math.sqrt(0.5 / n) + 0.004


def test_t5_stratonovich_lies_between_and_ito_is_far_from_uniform() -> None:
    # -.2679 = (sqrt(3)/2 - 1) / .5: what the test above must be able to tell from 0.
    a = 0.5
    assert (math.sqrt(1 - a * a) - 1) / a == pytest.approx(-0.26795, abs=1e-5)


def test_divergence_of_a_diagonal_and_of_a_matrix() -> None:
    x = torch.randn(5, 2, dtype=torch.float64, generator=generator())

    def matrix(at: Tensor) -> Tensor:
        u, v = at[:, 0], at[:, 1]
        return torch.stack([torch.stack([u * u, u * v], 1), torch.stack([u * v, v**3], 1)], 1)

    u, v = x.T
    torch.testing.assert_close(divergence(matrix, x), torch.stack([3 * u, v + 3 * v * v], 1))
    diagonal = divergence(lambda at: torch.sin(at), x)
    torch.testing.assert_close(diagonal, torch.cos(x))
    assert not divergence(lambda at: torch.ones_like(at), x).any()


def test_gibbs_keeps_the_gibbs_law_where_published_has_another_one() -> None:
    """A matrix D = diag(1, .1) with the force of A: -M A x is Gibbs, -A x is not."""
    a = np.array([[2.0, 0.8], [0.8, 1.0]])
    mobility = np.diag([1.0, 0.1])
    true = solve_continuous_lyapunov(-a, -2 * mobility)
    np.testing.assert_allclose(true, [[0.5941, -0.2353], [-0.2353, 0.2882]], atol=5e-5)
    n, dt = 20_000, 0.05
    for mode, drift, steps in (("published", a, 200), ("gibbs", mobility @ a, 1000)):
        motion = StateDependentLangevin(
            Quadratic(torch.tensor(a)),
            1.0,
            lambda x: x.new_tensor([1.0, 0.1]).expand_as(x),
            mode=mode,  # type: ignore[arg-type]
            divergence=torch.zeros_like,
        )
        path = integrate(
            EulerMaruyama(motion, dt), torch.zeros(n, 2), steps, generator=generator(), every=steps
        )
        # Euler's own stationary covariance, so that no bias is left to allow for.
        step = np.eye(2) - dt * drift
        exact = solve_discrete_lyapunov(step, 2 * dt * mobility)
        error = np.sqrt((np.outer(np.diag(exact), np.diag(exact)) + exact**2) / n)
        # The slowest mode has decayed to e^-8 of its variance or less.
        assert (np.abs(np.cov(path.values[-1].T.numpy()) - exact) < 4 * error).all()
    gibbs = solve_continuous_lyapunov(-mobility @ a, -2 * mobility)
    np.testing.assert_allclose(gibbs, np.linalg.inv(a), atol=1e-12)


def test_a_mobility_matrix_gives_its_own_noise_and_drift() -> None:
    m = torch.tensor([[2.0, 0.6], [0.6, 0.5]])
    motion = Langevin(Quadratic(1.0, dimension=2), 0.7, m)
    x = torch.randn(4, 2, generator=generator())
    torch.testing.assert_close(motion.drift(x), -x @ m)
    unit = motion.noise(x[:2], torch.eye(2))
    torch.testing.assert_close(unit.T @ unit, 2 * 0.7 * m)
    top = torch.linalg.eigvalsh(m)[-1].item()
    assert motion.stiffness(x) == pytest.approx(top, rel=1e-6)


def test_largest_curvature_by_power_iteration_beyond_512_dimensions() -> None:
    k = torch.ones(600, dtype=torch.float64)
    k[17] = 9.0
    # 30 iterations at a ratio of 9: converged to the rounding of differences, ~ 1e-9.
    found = largest_curvature(Quadratic(k), torch.zeros(3, 600))
    assert found == pytest.approx(9.0, rel=1e-6)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Langevin(DoubleWell(), 0.0), "`temperature` of `Langevin` must be positive"),
        (lambda: Langevin(DoubleWell(), 1.0, -1.0), "`mobility` of `Langevin` must be positive"),
        (lambda: Langevin(DoubleWell(), 1.0, math.nan), "`mobility` of `Langevin` holds nan"),
        (
            lambda: Langevin(Quadratic(1.0, 2), 1.0, torch.tensor([[1.0, 2.0], [2.0, 1.0]])),
            "must be positive semidefinite. Its lowest eigenvalue is -1",
        ),
        (lambda: Langevin(Quadratic(1.0, 2), 1.0, torch.ones(3)), "has 3 rows"),
        (lambda: ItoProcess(convention="forward"), "must be one of"),  # type: ignore[arg-type]
        (
            lambda: StateDependentLangevin(DoubleWell(), -1.0, torch.ones_like),
            "For noiseless descent use `ItoProcess",
        ),
    ],
)
def test_bad_input_is_refused_with_a_remedy(make: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()  # type: ignore[operator]
