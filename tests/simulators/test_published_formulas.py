"""What fokker_planck and langevin claim in closed form: each fails by a number, ours does not.

One test for each item of the audit (A.., C..). "Ours" is checked here against quadrature, a grid or
the process itself and not against its own formula.
"""

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.sparse.linalg import spsolve
from scipy.stats import chi

from foreshock.simulators import exact, exact_kramers, exact_linear, exact_resets, eyring_kramers
from foreshock.simulators import exact_published as claims
from foreshock.simulators.grid import energy_grid
from foreshock.simulators.grid_cells import rate_matrix, with_target
from foreshock.simulators.grid_entropy import density_entropy, entropy_production, relative_entropy
from foreshock.simulators.grid_solvers import evolve, stationary
from foreshock.stats import published as langevin


def test_a7_drift_entropy_bound_is_violated() -> None:
    left = claims.drift_entropy_product([-2.0], [1.0], 1.0, 1.0)
    right = claims.published_drift_entropy_bound([-2.0], 1.0, 1.0, 1.0)
    assert (left, right) == (1.0, -1.0)
    # Its own proof, with the sign it had one line before, does hold: Young's inequality.
    rng = np.random.default_rng(0)
    for _ in range(200):
        loss, g = rng.normal(size=(2, 3))
        eta, weight = rng.uniform(0.1, 2, 2)
        young = -eta * weight / 2 * g @ g + eta / (2 * weight) * loss @ loss
        assert claims.drift_entropy_product(loss, g, eta, weight) <= young + 1e-12


def test_a7_entropy_rate_identity_holds_on_a_grid() -> None:
    # dH/dt = E[div mu] + E[s . D s] = E[-U''] + T E[s^2] in the double well.
    x = np.linspace(-2.2, 2.2, 441)
    temperature = 0.5
    grid = energy_grid(x, (x**2 - 1) ** 2, temperature)
    start = np.exp(-((x - 0.3) ** 2) / 0.1)
    start /= np.sum(start * grid.volume)
    h = 1e-3
    p = [evolve(grid, start, t) for t in (0.1 - h, 0.1, 0.1 + h)]
    rate = (density_entropy(grid, p[2]) - density_entropy(grid, p[0])) / (2 * h)
    score = np.gradient(np.log(p[1]), x)
    curvature = 12 * x**2 - 4
    identity = float(np.sum(grid.volume * p[1] * (temperature * score**2 - curvature)))
    # Order 2 in dx and in h: the two differ by 2e-4 here.
    assert rate == pytest.approx(identity, rel=2e-3)


def test_a8_every_positive_gamma_keeps_the_diffusion_positive() -> None:
    j = np.random.default_rng(1).normal(size=(3, 4))
    fisher = j.T @ j  # singular, as a Fisher matrix of a 3-dimensional output is
    limit = claims.published_fisher_limit(fisher)
    for gamma in (2 * limit, 100 * limit, 1e6 * limit):
        # The smallest eigenvalue is 1 up to rounding of the largest.
        lowest = np.linalg.eigvalsh(np.eye(4) + gamma * fisher)[0]
        assert lowest == pytest.approx(1, abs=1e-15 * 1e6 * 10)
    below = claims.fisher_limit(fisher)
    assert np.linalg.eigvalsh(np.eye(4) + 0.999 * below * fisher)[0] > 0
    assert np.linalg.eigvalsh(np.eye(4) + 1.001 * below * fisher)[0] < 0


@pytest.mark.parametrize("d", [1, 2, 32])
def test_a9_exploration_radius_fails_for_free_diffusion(d: int) -> None:
    # Jensen: the mean radius is below the root mean square, here as an integral over the chi law.
    diffusion, t = 2.0, 0.01
    mean_radius = math.sqrt(2 * diffusion * t) * float(chi(d).mean())
    assert exact.free_diffusion_radius(d, diffusion, t) == pytest.approx(mean_radius, rel=1e-9)
    assert mean_radius < claims.published_exploration_radius(d, diffusion, t)


def test_a9_exploration_radius_fails_under_drift() -> None:
    # k = D = 1, t = 2: claimed variance 4, true .98; in the limit of long times infinitely less.
    claimed = claims.published_exploration_radius(1, 1.0, 2.0) ** 2
    true = exact.ou_variance(0.0, 1.0, 1.0, 2.0)[0]
    assert claimed == pytest.approx(4)
    assert true == pytest.approx(0.98, abs=2e-3)
    x = np.linspace(-7, 7, 281)
    grid = energy_grid(x, x**2 / 2, 1.0)
    start = np.where(abs(x) < 1e-9, 1 / grid.volume, 0.0)
    late = evolve(grid, start, 2.0)
    # The grid starts from a cell and not a point; its error is of order dx^2 = .0025.
    assert float(np.sum(late * x**2 * grid.volume)) == pytest.approx(true, abs=2.5e-3)


def test_a10_effective_temperature_depends_on_the_unit_and_is_not_d_over_eta() -> None:
    eta, k, temperature = 0.3, 2.0, 0.7
    diffusion = eta * temperature * np.eye(2)
    at = claims.published_effective_temperature(diffusion, [-eta * k * 0.4, 0.0])
    # z -> 10 z: D times 100, mu times 10, the loss and so a temperature unchanged.
    other = claims.published_effective_temperature(100 * diffusion, [-10 * eta * k * 0.4, 0.0])
    assert other == pytest.approx(10 * at)
    assert claims.published_effective_temperature(diffusion, [0.0, 0.0]) == math.inf
    # True: drift -eta grad L, D = eta T: Lyapunov's covariance is Gibbs's at T = D/eta.
    s = exact_linear.lyapunov_covariance(eta * k * np.eye(2), diffusion)
    assert s == pytest.approx(temperature / k * np.eye(2))


def test_a12_kl_rate_depends_on_the_lower_curvature_only() -> None:
    # The theorem and its proof differ by D_0 lambda/D_1.
    ours, proof = (
        f(0.7, 2.0, 3.0, 0.5) for f in (claims.published_kl_rate, claims.published_kl_rate_proof)
    )
    assert proof / ours == pytest.approx(0.7 * 0.5 / 3.0)
    # Curvature 1e-3, allowed by kappa = 1, D = 1 and lambda = 1: claimed rate 1, true .002.
    k, d, t = 1e-3, 1.0, 5.0
    start = exact.ou_kl(1.0, d / k, k, d)
    after = exact.ou_kl(exact.ou_mean(1.0, k, t), d / k, k, d)
    claimed = start * math.exp(-claims.published_kl_rate(d, 1.0, d, 1.0) * t)
    assert after > 100 * claimed
    assert after == pytest.approx(start * math.exp(-claims.kl_rate(1.0, k) * t))
    # More diffusion does not help: the rate is the same at any D, where the claim multiplies it.
    after_10 = exact.ou_kl(exact.ou_mean(1.0, k, t), 10 * d / k, k, 10 * d)
    assert after_10 / exact.ou_kl(1.0, 10 * d / k, k, 10 * d) == pytest.approx(after / start)


def test_a12_lower_curvature_bounds_the_decay_of_a_quartic() -> None:
    # U = x^2/2 + x^4/4 has U'' >= 1: KL(t) <= KL(0) exp(-2 t) from any start.
    x = np.linspace(-4, 4, 201)
    grid = energy_grid(x, x**2 / 2 + x**4 / 4, 1.0)
    target = stationary(grid)
    p = np.exp(-((x - 1.5) ** 2) / 0.2)
    p /= np.sum(p * grid.volume)
    first = relative_entropy(grid, p, target)
    for t in (0.1, 0.3, 1.0):
        bound = first * math.exp(-claims.kl_rate(1.0, 1.0) * t)
        assert relative_entropy(grid, evolve(grid, p, t), target) <= bound


def test_a14_a15_entropy_sum_is_the_kl_and_the_published_one_is_not() -> None:
    m, s, k, d = np.array([0.5, -0.2]), 0.25, 1.0, 1.0
    kl = exact.ou_kl(m, s, k, d)

    def total(production) -> float:
        return quad(production, 0, 40, epsabs=1e-11, limit=200)[0]

    ours = total(
        lambda t: exact.ou_entropy_production(
            exact.ou_mean(m, k, t), exact.ou_variance([s, s], k, d, t), k, d
        )
    )
    theirs = total(
        lambda t: claims.published_entropy_production(exact.ou_variance([s, s], k, d, t), k, d)
    )
    assert ours == pytest.approx(kl, rel=1e-8)
    change = exact.gaussian_entropy([s, s]) - exact.gaussian_entropy([d / k, d / k])
    assert theirs == pytest.approx(change, rel=1e-8)
    assert theirs < 0 < kl  # claimed: at least the KL
    # In the driven steady state theirs is 0 while heat flows: the ring.
    assert exact_linear.ring_entropy_production(3.0, 2.0) == 4.5


def test_a15_entropy_sum_is_the_kl_in_a_double_well() -> None:
    # No closed form here: Schnakenberg's production summed over time on the grid, by Simpson.
    x = np.linspace(-2, 2, 161)
    grid = energy_grid(x, (x**2 - 1) ** 2, 0.5)
    p = np.exp(-((x - 0.8) ** 2) / 0.1)
    p /= np.sum(p * grid.volume)
    target, times = stationary(grid), np.linspace(0, 0.4, 81)
    kl, rates = [relative_entropy(grid, p, target)], [entropy_production(grid, p)]
    for _ in times[1:]:
        p = evolve(grid, p, times[1])
        rates.append(entropy_production(grid, p))
    weights = np.full(times.size, 2.0)
    weights[1::2], weights[0], weights[-1] = 4.0, 1.0, 1.0
    produced = times[1] / 3 * float(weights @ np.array(rates))
    # The identity holds on the grid itself; Simpson's error at this step is below 1e-4.
    assert produced == pytest.approx(kl[0] - relative_entropy(grid, p, target), rel=1e-4)


def test_a17_talagrand_needs_the_curvature() -> None:
    # A normal shifted by 1 in a trap of curvature 1/4 at T = 1.
    k, temperature = 0.25, 1.0
    kl = exact.ou_kl(1.0, temperature / k, k, temperature)
    w2 = exact.ou_w2_squared(1.0, temperature / k, k, temperature)
    assert w2 > claims.published_talagrand_bound(kl, temperature)  # 1 > .25
    assert w2 == pytest.approx(claims.talagrand_bound(kl, temperature, k))  # equality for shifts
    narrow = exact.ou_kl(0.0, 0.5, k, temperature)
    assert exact.ou_w2_squared(0.0, 0.5, k, temperature) < claims.talagrand_bound(
        narrow, temperature, k
    )


def test_a17_mixing_time_needs_the_rate() -> None:
    k, temperature, eps = 0.01, 1.0, 0.5
    kl = exact.ou_kl(2.0, temperature / k, k, temperature)
    claimed = claims.published_mixing_time(kl, temperature, eps)
    certain = claims.mixing_time(kl, claims.kl_rate(1.0, k), k / temperature, eps)

    def distance(t: float) -> float:
        return math.sqrt(
            exact.ou_w2_squared(exact.ou_mean(2.0, k, t), temperature / k, k, temperature)
        )

    assert distance(max(claimed, 0.0)) > eps  # too early (it is even negative here)
    assert claimed < 0
    assert distance(certain) == pytest.approx(eps)  # attained by a shift


def test_a18_no_reset_is_needed_to_reach_the_global_minimum() -> None:
    assert claims.published_reset_count(2, 0.2) > 3

    # Two minima, one lower: Langevin with no reset arrives, in a mean time that a grid confirms.
    def energy(x: np.ndarray) -> np.ndarray:
        return (x**2 - 1) ** 2 - 0.1 * x

    time = exact_kramers.mean_first_passage_time(energy, 0.25, -1.0, 1.0)
    assert 30 < time < 100
    # Resets to the start help where the CV exceeds 1; here it is below (a nearly exponential time
    # preceded by relaxation): the second moment by T_2 = 2 int G T_1, on the grid's own matrix.
    x = np.linspace(-2.2, 1.0, 641)
    grid = with_target(energy_grid(x, energy(x), 0.25), x >= 1)
    backward = rate_matrix(grid).T.tocsc()
    first = spsolve(backward, -np.ones(backward.shape[0]))
    second = spsolve(backward, -2 * first)
    i = int(np.argmin(abs(x + 1)))
    assert first[i] == pytest.approx(time, rel=1e-3)
    assert exact_resets.reset_slope(first[i], second[i]) > 0  # a reset makes it slower


def test_c3_published_kramers_rate_lacks_the_barrier_curvature() -> None:
    # U = (x^2 - 1)^2: published over exact 1.566, 1.494, 1.475 (the audit's), towards sqrt 2.
    for inverse, ratio in ((4, 1.566), (8, 1.494), (10, 1.475)):
        exact_rate = exact_kramers.well_decay_rate(lambda x: (x**2 - 1) ** 2, 1 / inverse, -1, 0)
        theirs = langevin.kramers_rate_langevin(8.0, 1.0, 1 / inverse)
        assert theirs / (exact_rate / 2) == pytest.approx(ratio, abs=1e-3)
    ours = eyring_kramers.eyring_kramers_rate(8, 4, 1, 0.1)
    assert langevin.kramers_rate_langevin(8, 1, 0.1) / ours == pytest.approx(math.sqrt(2))


def test_c4_uncertainty_relation_fails_out_of_equilibrium() -> None:
    # N(0, s) in U = k x^2/2: sd(x) sd(U') = k s, below D/2 for s < D/(2k).
    k, diffusion = 2.0, 1.0
    bound = langevin.uncertainty_bound_langevin(diffusion)
    assert k * 0.1 < bound

    # True: at stationarity E[(x - m) . grad U] = D d (Stein), so the product is at least D; here
    # by quadrature in a potential that is not quadratic.
    def energy(x: float) -> float:
        return x**4 / 4 + x**2 / 2 + 0.3 * x

    def gradient(x: float) -> float:
        return x**3 + x + 0.3

    def mean(f) -> float:
        z = quad(lambda x: math.exp(-energy(x)), -8, 8)[0]
        return quad(lambda x: f(x) * math.exp(-energy(x)) / z, -8, 8, epsabs=1e-12)[0]

    m = mean(lambda x: x)
    assert mean(lambda x: (x - m) * gradient(x)) == pytest.approx(1)  # D d
    spread = mean(lambda x: (x - m) ** 2) * mean(lambda x: gradient(x) ** 2)
    assert math.sqrt(spread) > 1
    # Equality for the quadratic at its stationary variance D/k.
    assert k * exact.ou_stationary_variance(k, diffusion)[0] == pytest.approx(diffusion)


def test_c5_convergence_floor_is_violated_by_a_parabola() -> None:
    k, diffusion, d = 10.0, 1.0, 4
    floor = langevin.error_bound_langevin(1.0, k, 1e9, diffusion, d)
    energy = k / 2 * d * exact.ou_stationary_variance(k, diffusion)[0]
    assert (floor, energy) == pytest.approx((0.4, 2.0))
    assert energy == pytest.approx(exact_linear.stationary_energy(d, diffusion))
    ours = exact_linear.convergence_bound(1.0, 1e9, k, k * d, diffusion)
    assert energy <= ours * (1 + 1e-12)


def test_c5_convergence_bound_holds_in_a_quartic() -> None:
    # U = x^2/2 + x^4/4, T = .3: U'' >= 1. What the bound needs of the trace is E[U''] over the
    # run, which falls from its start.
    x = np.linspace(-4, 4, 161)
    energy, temperature = x**2 / 2 + x**4 / 4, 0.3
    grid = energy_grid(x, energy, temperature)
    p = np.exp(-((x - 1.5) ** 2) / 0.05)
    p /= np.sum(p * grid.volume)
    gap = float(np.sum(grid.volume * p * energy))
    trace = float(np.sum(grid.volume * p * (1 + 3 * x**2)))
    for t in (0.2, 1.0, 5.0):
        after = evolve(grid, p, t)
        assert float(np.sum(grid.volume * after * (1 + 3 * x**2))) < trace
        late = float(np.sum(grid.volume * after * energy))
        assert late <= exact_linear.convergence_bound(gap, t, 1.0, trace, temperature)


def test_c7_square_root_scaling_does_not_keep_the_temperature() -> None:
    lr, batch, variance = 0.1, 32, 4.0
    before = exact_linear.sgd_temperature(lr, variance, batch)
    theirs = langevin.lr_for_batch_langevin(lr, batch, 4 * batch)
    assert exact_linear.sgd_temperature(theirs, variance, 4 * batch) == pytest.approx(before / 2)
    assert exact_linear.sgd_temperature(4 * lr, variance, 4 * batch) == pytest.approx(before)
    # That T is the temperature: the chain with this noise has energy T/2, to O(lr k).
    k = 0.01
    chain = exact_linear.chain_variance(lr, k, lr**2 * variance / (2 * batch))[0]
    assert k / 2 * chain == pytest.approx(before / 2, rel=lr * k)
    # alpha_opt = 2 D/lambda has the unit of a loss: loss x 10 should divide it by 10.
    ratio = langevin.alpha_opt_langevin(100.0, 10.0) / langevin.alpha_opt_langevin(1.0, 1.0)
    assert ratio == pytest.approx(10)
