"""Dynamics: conventions of state-dependent noise, detailed balance, refusals (T5)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import solve_continuous_lyapunov, solve_discrete_lyapunov

from foreshock.simulators.dynamics import (
    ItoProcess,
    Langevin,
    StateDependentLangevin,
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
    if convention == "ito":  # (sqrt(1 - a^2) - 1)/a at a = 1/2: far from uniform, and half of it
        assert expected == pytest.approx((math.sqrt(0.75) - 1) / 0.5)
    if convention == "stratonovich":  # lies between
        assert -0.14 < expected < -0.13
    found = float(torch.sin(path.values[-1]).mean())
    # 4 standard errors of a mean with a variance of about 1/2, and .004 for Euler's O(dt).
    assert abs(found - expected) < 4 * math.sqrt(0.5 / n) + 0.004


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


SINGULAR = ([[1.0, 1.0], [1.0, 1.0]], [[1.0, 0.0], [0.0, 0.0]], [[0.3, 0.6], [0.6, 1.2]])


@pytest.mark.parametrize("matrix", SINGULAR)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_singular_diffusion_moves_particles_along_its_range(
    matrix: list[list[float]], dtype: torch.dtype
) -> None:
    """The noise of the unit vectors is a root R with R R' = 2 D, and 2 T M for a mobility."""
    d, x = torch.tensor(matrix, dtype=dtype), torch.zeros(2, 2, dtype=dtype)
    unit = torch.eye(2, dtype=dtype)
    field = lambda at: d.expand(len(at), 2, 2)  # noqa: E731
    root = ItoProcess(diffusion=field).noise(torch.cat([x, x[:1]]), torch.cat([unit, unit[:1]]))[:2]
    torch.testing.assert_close(root.T @ root, 2 * d, rtol=1e-5, atol=1e-5)
    motion = StateDependentLangevin(Quadratic(1.0, dimension=2), 0.7, field)
    moved = integrate(EulerMaruyama(motion, 0.1), x, 5, generator=generator())
    assert moved.lost == 0
    null = torch.linalg.eigh(d.double()).eigenvectors[:, 0]
    assert (moved.values.double() @ null).abs().max() < 1e-2 * moved.values.abs().max()


def test_a_lost_particle_does_not_stop_the_others() -> None:
    field = lambda at: torch.diag_embed(at * at)  # noqa: E731
    x = torch.tensor([[1.0, 2.0], [math.nan, 1.0], [1.0, 0.0]])
    noise = ItoProcess(diffusion=field).noise(x, torch.ones(3, 2))
    assert noise[1].isnan().all()
    root2 = math.sqrt(2)
    expected = torch.tensor([[root2, 2 * root2], [root2, 0.0]])
    torch.testing.assert_close(noise[[0, 2]], expected)


@pytest.mark.parametrize("bare", [np.array([1.0, 2.0]), [1.0, 2.0], np.diag([1.0, 2.0])])
def test_arrays_and_lists_are_mobilities_too(bare: object) -> None:
    motion = Langevin(Quadratic(1.0, dimension=2), 0.5, bare)  # type: ignore[arg-type]
    x = torch.ones(3, 2)
    torch.testing.assert_close(motion.drift(x), torch.tensor([[-1.0, -2.0]] * 3))
    torch.testing.assert_close(motion.noise(x, x), torch.tensor([[1.0, math.sqrt(2)]] * 3))


@pytest.mark.parametrize(
    "field, words",
    [
        (lambda x: -torch.ones_like(x), "positive semidefinite. Its lowest entry is -1"),
        (
            lambda x: -torch.eye(2).expand(len(x), 2, 2),
            "positive semidefinite. Its lowest eigenvalue is -1",
        ),
        (lambda x: torch.tensor([[1.0, 0.5], [0.0, 1.0]]).expand(len(x), 2, 2), "be symmetric"),
        (lambda x: torch.eye(2), r"return a diagonal \(n, d\) or .*`matrix.expand"),
        (lambda x: x[:, 0], r"return a diagonal \(n, d\)"),
    ],
    ids=["diagonal", "matrix", "asymmetric", "constant", "vector"],
)
@pytest.mark.parametrize("n", [2, 3])  # at n = d a constant matrix looks like a diagonal
def test_a_diffusion_that_is_none_is_refused(field: object, words: str, n: int) -> None:
    x = torch.zeros(n, 2)
    force = Quadratic(1.0, dimension=2)
    with pytest.raises(ValueError, match="`diffusion` of `ItoProcess` must.*" + words):
        ItoProcess(diffusion=field).noise(x, x)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`mobility` of `StateDependentLangevin` must.*" + words):
        StateDependentLangevin(force, 2.0, field).noise(x, x)  # type: ignore[arg-type]


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
