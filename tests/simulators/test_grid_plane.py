"""The grid in the plane: driven linear systems, products of one-dimensional worlds, refusals."""

import math

import numpy as np
import pytest

from foreshock.simulators import exact_kramers, exact_linear
from foreshock.simulators.grid import energy_grid
from foreshock.simulators.grid_cells import (
    Grid,
    point_mass,
    rate_matrix,
    total_mass,
    with_resets,
    with_target,
)
from foreshock.simulators.grid_entropy import (
    density_entropy,
    entropy_production,
    face_flux,
    relative_entropy,
)
from foreshock.simulators.grid_plane import drift_plane, energy_plane
from foreshock.simulators.grid_solvers import (
    committor,
    evolve,
    log_weights,
    mean_first_passage,
    spectrum,
    stationary,
)

A = np.array([[2.0, 0.8], [0.8, 1.0]])
D = np.diag([1.0, 0.1])


def linear(matrix: np.ndarray, diffusion: np.ndarray, n: int) -> Grid:
    """dx = -matrix x dt + sqrt(2 D) dW on +-6 standard deviations."""
    reach = 6 * np.sqrt(np.diag(exact_linear.lyapunov_covariance(matrix, diffusion)))
    x, y = (np.linspace(-r, r, n + 1) for r in reach)
    field = np.meshgrid(x, y, indexing="ij")
    drift = -np.einsum("ij,jab->iab", matrix, np.stack(field))
    return drift_plane(x, y, drift, diffusion)


def test_t3_rotational_entropy_production_converges_with_order_2() -> None:
    k, omega = 2.0, 1.2
    errors, distances = [], []
    for n in (40, 80, 120):
        grid = linear(np.array([[k, omega], [-omega, k]]), np.eye(2), n)
        p = stationary(grid)
        errors.append(exact_linear.rotational_entropy_production(k, omega))
        errors[-1] -= entropy_production(grid, p)
        x, y = grid.axes
        gauss = np.outer(np.exp(-k * x**2 / 2), np.exp(-k * y**2 / 2)) * k / (2 * np.pi)
        distances.append(float(np.sum(abs(p - gauss) * grid.volume)))
        assert p.min() > 0 and total_mass(grid, p) == pytest.approx(1, abs=1e-12)
        m = (p * grid.volume).ravel()
        assert abs(rate_matrix(grid) @ m).max() < 1e-12
        # A steady state that is not an equilibrium: the entropy rests, the current does not.
        assert abs(face_flux(grid, p)).max() > 1e-4
    for values in (errors, distances):
        orders = [
            math.log(values[i] / values[i + 1]) / math.log(b / a)
            for i, (a, b) in enumerate(((40, 80), (80, 120)))
        ]
        assert orders == pytest.approx([2, 2], abs=0.05)
    assert errors[-1] == pytest.approx(0, abs=2.5e-3)


def test_a10_lyapunov_entropy_production_on_the_grid() -> None:
    exact = exact_linear.lyapunov_entropy_production(A, D)
    s = exact_linear.lyapunov_covariance(A, D)
    values = []
    for n in (60, 120):
        grid = linear(A, D, n)
        p = stationary(grid)
        values.append(entropy_production(grid, p))
    # Richardson: the errors are 3.0e-2 and 7.7e-3, of order 2.
    assert exact == pytest.approx(1.728, abs=5e-4)
    assert values[1] == pytest.approx(exact, rel=6e-3)
    assert (4 * values[1] - values[0]) / 3 == pytest.approx(exact, rel=1e-3)
    x, y = np.meshgrid(*grid.axes, indexing="ij")
    assert np.sum(x * y * p * grid.volume) == pytest.approx(s[0, 1], rel=0.01)
    # What the published form, -dH/dt, reads here.
    later = evolve(grid, p, 0.05)
    assert density_entropy(grid, later) == pytest.approx(density_entropy(grid, p), abs=1e-9)


def test_t3_a_matrix_in_front_of_the_drift_too_restores_detailed_balance() -> None:
    # Drift -D A x with D = diag(1, .1): Gibbs, exactly at the nodes with the energy form.
    s = np.linalg.inv(A)
    x, y = (np.linspace(-r, r, 61) for r in 6 * np.sqrt(np.diag(s)))
    xx, yy = np.meshgrid(x, y, indexing="ij")
    energy = (A[0, 0] * xx**2 + 2 * A[0, 1] * xx * yy + A[1, 1] * yy**2) / 2
    mobility = np.broadcast_to(np.array([1.0, 0.1])[:, None, None], (2, 61, 61))
    grid = energy_plane(x, y, energy, 1.0, mobility)
    p = stationary(grid)
    gibbs = np.exp(-energy)
    assert p == pytest.approx(gibbs / np.sum(gibbs * grid.volume), rel=1e-8)
    m = p * grid.volume
    assert abs(rate_matrix(grid) @ m.ravel()).max() < 1e-12
    balance = grid.forward * m.ravel()[grid.tail] - grid.backward * m.ravel()[grid.head]
    assert abs(balance).max() < 1e-12
    assert entropy_production(grid, p) < 1e-18


@pytest.mark.parametrize("method", ["exponential", "backward_euler", "tr_bdf2"])
def test_t3_mass_positivity_and_kl_in_a_driven_plane(method) -> None:
    grid = linear(np.array([[2.0, 1.2], [-1.2, 2.0]]), np.eye(2), 40)
    assert log_weights(grid) is None
    target = stationary(grid)
    p = point_mass(grid, 1.0, -0.5) / grid.volume
    p = evolve(grid, p, 0.02, method="backward_euler", steps=2)
    kl = [relative_entropy(grid, p, target)]
    for _ in range(10):
        p = evolve(grid, p, 0.1, method=method, steps=10)
        assert p.min() >= (0 if method == "backward_euler" else -1e-12)
        kl.append(relative_entropy(grid, p, target))
    assert np.all(np.diff(kl) < 0)
    assert total_mass(grid, p) == pytest.approx(1, abs=1e-12)


def test_a_product_evolves_as_its_factors() -> None:
    x, y = np.linspace(-2, 2, 41), np.linspace(-3, 3, 31)
    one, two = energy_grid(x, (x**2 - 1) ** 2, 0.5), energy_grid(y, y**2 / 2, 0.5, 3.0)
    u = ((x**2 - 1) ** 2)[:, None] + y**2 / 2
    plane = energy_plane(x, y, u, 0.5, np.stack((np.ones(u.shape), np.full(u.shape, 3.0))))
    p, q = np.exp(-((x - 1) ** 2) * 5), np.exp(-((y + 1) ** 2))
    both = evolve(plane, np.outer(p, q), 0.3)
    assert both == pytest.approx(np.outer(evolve(one, p, 0.3), evolve(two, q, 0.3)), abs=1e-10)
    # Sums of eigenvalues: the four smallest of the product from those of the factors.
    sums = np.sort(np.add.outer(spectrum(one, 4), spectrum(two, 4)).ravel())[:4]
    assert spectrum(plane, 4) == pytest.approx(sums, abs=1e-8)


def test_exit_from_a_square_is_the_fourier_series() -> None:
    # Brownian motion, D = 1, centre of [-1, 1]^2: T = .2946854...
    odd = np.arange(1, 200, 2)
    signs = (-1.0) ** ((odd - 1) // 2)
    series = 0.5 - float(np.sum(16 * signs / (np.pi**3 * odd**3 * np.cosh(odd * np.pi / 2))))
    errors = []
    for n in (20, 40):
        x = np.linspace(-1, 1, n + 1)
        grid = drift_plane(x, x, np.zeros((2, n + 1, n + 1)), 1.0)
        edge = np.maximum.outer(abs(x), abs(x)) > 1 - 1e-9
        errors.append(mean_first_passage(with_target(grid, edge))[n // 2, n // 2] - series)
    assert series == pytest.approx(0.29468541, abs=1e-7)
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.05)
    rates = spectrum(with_target(grid, edge), 1)
    assert rates[0] == pytest.approx(np.pi**2 / 2, rel=1e-3)


def test_t4_escape_along_a_channel_is_the_one_dimensional_one() -> None:
    # U = (x^2 - 1)^2 + 2 y^2: y decouples, so the passage to x >= 1 is that of one dimension.
    x, y = np.linspace(-2, 1.2, 161), np.linspace(-1.5, 1.5, 25)
    u = ((x**2 - 1) ** 2)[:, None] + 2 * y**2
    grid = energy_plane(x, y, u, 0.25)
    target = np.broadcast_to((x >= 1 - 1e-9)[:, None], u.shape)
    times = mean_first_passage(with_target(grid, target))[np.argmin(abs(x + 1))]
    assert np.ptp(times) / times.mean() < 1e-9
    exact = exact_kramers.mean_first_passage_time(lambda z: (z**2 - 1) ** 2, 0.25, -1, 1)
    assert times.mean() == pytest.approx(exact, rel=1e-3)
    source = np.broadcast_to((x <= -1 + 1e-9)[:, None], u.shape)
    q = committor(grid, source, target)
    assert q[np.argmin(abs(x))] == pytest.approx(0.5, abs=1e-9)


def test_periodic_plane_with_a_constant_force() -> None:
    # Torus, force f along x: uniform, EP = f_x^2/D_x + f_y^2/D_y, at any spacing.
    x = np.arange(12) * 2 * np.pi / 12
    drift = np.stack((np.full((12, 12), 3.0), np.full((12, 12), -0.5)))
    diffusion = np.diag([2.0, 0.25])
    grid = drift_plane(x, x, drift, diffusion, periods=(2 * np.pi, 2 * np.pi))
    p = stationary(grid)
    assert p == pytest.approx(1 / (2 * np.pi) ** 2, rel=1e-10)
    assert entropy_production(grid, p) == pytest.approx(9 / 2 + 0.25 / 0.25, rel=1e-9)


def test_resets_in_the_plane() -> None:
    # A marginal of isotropic diffusion with resets is the one-dimensional Laplace law: variance
    # 2 D/r on each axis, up to the order-2 error.
    x = np.linspace(-8, 8, 33)
    grid = drift_plane(x, x, np.zeros((2, 33, 33)), 1.0)
    p = stationary(with_resets(grid, 2.0, point_mass(grid, 0.0, 0.0)))
    assert np.sum(p * x**2 * grid.volume) == pytest.approx(1.0, rel=2e-3)


X = np.linspace(-1, 1, 5)
REST = np.zeros((2, 5, 5))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: drift_plane(X, X, REST, -1.0), "`diffusion` .* must be positive"),
        (lambda: drift_plane(X, X, REST, [[1, 0.5], [0.5, 1]]), "Rotate the coordinates"),
        (lambda: drift_plane(X, X, REST, np.ones((2, 2, 5, 5))), "one field for each axis"),
        (lambda: drift_plane(X, X, REST[0], 1.0), "one field for each"),
        (lambda: drift_plane(X, X, REST * np.nan, 1.0), "finite"),
        (lambda: drift_plane(X[::-1], X, REST, 1.0), "`x` .* increasing"),
        (lambda: drift_plane(X, X, REST, 1.0, periods=(None, 1.0)), "`y` .* exceed"),
        (lambda: energy_plane(X, X, np.zeros((5, 4)), 1.0), "indexing"),
        (lambda: energy_plane(X, X, np.zeros((5, 5)), 0.0), "`temperature`"),
        (lambda: energy_plane(X, X, np.zeros((5, 5)), 1.0, correction="no"), '"ito"'),
        (lambda: spectrum(linear(np.array([[1.0, 1], [-1, 1]]), np.eye(2), 10)), "complex"),
    ],
)
def test_bad_input_is_refused_with_a_remedy(call, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()
