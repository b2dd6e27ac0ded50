"""Matrix drift, rings and chains against recursions, an independent package and each other."""

import math

import numpy as np
import pytest
from kramers.formulas import tilted_periodic_velocity

from foreshock.simulators import exact, exact_linear

A = np.array([[2.0, 0.8], [0.8, 1.0]])
D = np.diag([1.0, 0.1])


def test_a10_lyapunov_covariance_and_its_current() -> None:
    s = exact_linear.lyapunov_covariance(A, D)
    assert s == pytest.approx(np.array([[0.5941, -0.2353], [-0.2353, 0.2882]]), abs=5e-5)
    assert A @ s + s @ A.T == pytest.approx(2 * D, abs=1e-12)
    assert exact_linear.lyapunov_entropy_production(A, D) == pytest.approx(1.728, abs=5e-4)
    # The Gibbs guess of a matrix D with drift -A x, D A^-1 made symmetric, is another matrix.
    guess = np.linalg.inv(np.linalg.inv(D) @ A)
    guess = (guess + guess.T) / 2
    assert abs(guess - s).max() > 0.1
    # With the drift -D A x (the same matrix in front) it is Gibbs, S = A^-1, and nothing flows.
    assert exact_linear.lyapunov_covariance(D @ A, D) == pytest.approx(np.linalg.inv(A))
    assert exact_linear.lyapunov_entropy_production(D @ A, D) == pytest.approx(0, abs=1e-12)


def test_lyapunov_production_is_invariant_under_a_change_of_basis() -> None:
    # x -> B x: A -> B A B^-1, D -> B D B'.
    b = np.array([[1.0, 2.0], [0.5, -3.0]])
    moved = exact_linear.lyapunov_entropy_production(b @ A @ np.linalg.inv(b), b @ D @ b.T)
    assert moved == pytest.approx(exact_linear.lyapunov_entropy_production(A, D), rel=1e-10)


@pytest.mark.parametrize("diffusion", [0.2, 5.0])
def test_rotational_entropy_production_is_that_of_its_matrix(diffusion: float) -> None:
    k, omega = 2.0, 1.2
    matrix = np.array([[k, omega], [-omega, k]])
    production = exact_linear.lyapunov_entropy_production(matrix, diffusion * np.eye(2))
    assert production == pytest.approx(1.44, rel=1e-12)
    assert exact_linear.rotational_entropy_production(k, omega) == pytest.approx(1.44, rel=1e-12)


@pytest.mark.parametrize(
    ("force", "temperature", "rel"),
    [(0.5, 0.5, 1e-11), (1.0, 0.05, 1e-10), (-0.3, 1.0, 1e-11), (5.0, 0.3, 1e-10)],
)
def test_tilted_ring_velocity_against_an_independent_package(
    force: float, temperature: float, rel: float
) -> None:
    theirs = tilted_periodic_velocity(np.cos, force, 2 * np.pi, temperature, temperature)
    assert exact_linear.tilted_ring_velocity(np.cos, force, temperature) == pytest.approx(
        theirs, rel=rel
    )


def test_tilted_ring_velocity_is_converged_and_has_its_limits() -> None:
    fine = exact_linear.tilted_ring_velocity(np.cos, 1.0, 0.3)
    coarse = exact_linear.tilted_ring_velocity(np.cos, 1.0, 0.3, points=64)
    assert coarse == pytest.approx(fine, rel=1e-12)
    assert exact_linear.tilted_ring_velocity(np.cos, 0.0, 0.3) == 0
    # Far above the barriers mobility * force is left: v/(M f) - 1 = -1/(2 f^2) + O(1/f^4).
    fast = exact_linear.tilted_ring_velocity(np.cos, 40.0, 0.3, mobility=2.0)
    assert fast / 80 - 1 == pytest.approx(-1 / (2 * 40**2), rel=2e-3)
    doubled = exact_linear.tilted_ring_velocity(lambda x: np.cos(2 * x), 2.0, 0.3, period=math.pi)
    # y = x/2: 2 y moves as x does with time 4 times as fast, so v_y = 4 v_x/2.
    assert doubled == pytest.approx(2 * fine, rel=1e-10)


@pytest.mark.parametrize("k", [0.3, 1.0, 90.0, 190.0])
def test_c1_chain_variance_is_the_fixed_point_of_its_recursion(k: float) -> None:
    lr, diffusion, dt = 0.01, 0.001, 1.0
    s = 0.0
    for _ in range(6000):
        s = (1 - lr * k) ** 2 * s + 2 * diffusion * dt
    assert exact_linear.chain_variance(lr, k, diffusion, dt)[0] == pytest.approx(s, rel=1e-9)


def test_c1_the_temperature_of_langevins_chain_is_d_dt_over_lr() -> None:
    variance = exact_linear.chain_variance(0.01, 1.0, 0.001)[0]
    assert variance == pytest.approx(0.1005, abs=5e-5)
    assert variance == pytest.approx(0.001 / 0.01, rel=0.01)  # D dt/lr
    assert variance > 100 * 0.001  # the "Gibbs" value, D
    # With lr = dt it is Euler-Maruyama, whose bias is a factor 1/(1 - dt k/2).
    euler = exact_linear.chain_variance(0.05, 2.0, 0.7, 0.05)[0]
    assert euler == pytest.approx(0.7 / 2 / (1 - 0.05), rel=1e-12)


def test_convergence_bound_holds_and_its_floor_is_attained() -> None:
    k, temperature, d = 10.0, 1.0, 4
    for t in (0.0, 0.05, 0.2, 5.0):
        energy = k / 2 * d * (exact.ou_mean(1.0, k, t) ** 2 + exact.ou_variance(0, k, 1, t))[0]
        bound = exact_linear.convergence_bound(k / 2 * d, t, k, k * d, temperature)
        assert energy <= bound * (1 + 1e-12)
    assert bound == pytest.approx(exact_linear.stationary_energy(d, temperature), rel=1e-12)
    # Anisotropic: the floor still bounds T d/2.
    assert exact_linear.convergence_bound(0, 9, 1.0, 1.0 + 5.0, 1.0) >= 1.0


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: exact_linear.lyapunov_covariance(-A, D), "pull inwards"),
        (lambda: exact_linear.lyapunov_covariance(A, [[1, 2], [2, 1]]), "positive semidefinite"),
        (lambda: exact_linear.lyapunov_covariance(A, 1.0), "np.eye"),
        (lambda: exact_linear.lyapunov_entropy_production(A, np.diag([1.0, 0.0])), "singular"),
        (lambda: exact_linear.chain_variance(0.1, 20.0, 1.0), "edge of stability"),
        (lambda: exact_linear.tilted_ring_velocity(np.cos, 1.0, 0.0), "`temperature`"),
    ],
)
def test_bad_input_is_refused_with_a_remedy(call, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()
