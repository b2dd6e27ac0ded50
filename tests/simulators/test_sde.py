"""Steppers and their loop: moments (T1), weak orders (T2), records, refusals."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from foreshock.simulators.dynamics import ItoProcess, Langevin
from foreshock.simulators.grid import energy_grid
from foreshock.simulators.grid_cells import point_mass
from foreshock.simulators.grid_solvers import evolve
from foreshock.simulators.inertia import BAOAB
from foreshock.simulators.passage import coordinate_boundary, first_passage
from foreshock.simulators.potentials import DoubleWell, Quadratic
from foreshock.simulators.sde import EulerMaruyama, LeimkuhlerMatthews, Stepper, integrate
from foreshock.simulators.steppers import TamedEuler


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_t1_moments_of_ornstein_uhlenbeck_particles() -> None:
    """Mean m e^{-kt} and variance D/k (1 - e^{-2kt}) of Euler's chain, in their own closed form."""
    n, k, temperature, dt, steps = 40_000, 1.5, 0.8, 0.02, 50
    stepper = EulerMaruyama(Langevin(Quadratic(k, dimension=2), temperature), dt)
    path = integrate(stepper, torch.full((n, 2), 2.0), steps, generator=generator(), every=steps)
    decay = 1 - k * dt
    mean = 2 * decay**steps
    variance = 2 * temperature * dt * (1 - decay ** (2 * steps)) / (1 - decay**2)
    # The chain itself is O(dt) from the process: half of 2 k^2 t dt / 2 for the mean, ~ 2 %.
    assert abs(mean / (2 * math.exp(-k * 1.0)) - 1) < 0.03
    assert abs(variance / (temperature / k * (1 - math.exp(-2 * k))) - 1) < 0.03
    last = path.values[-1].double()
    assert (last.mean(0) - mean).abs().max() < 4 * math.sqrt(variance / n)
    assert (last.var(0) - variance).abs().max() < 4 * variance * math.sqrt(2 / n)


def response(stepper: Stepper) -> tuple[list[float], float]:
    """A linear scheme's answer, exactly: to each entry of the state, and to its normal.

    Two runs from the same seed differ by nothing but the entry that was changed.
    """

    def step(*state: float) -> float:
        tensors = tuple(torch.tensor([[s]], dtype=torch.float64) for s in state)
        return stepper.step(tensors, generator(7))[0].item()

    size = len(stepper.start(torch.zeros(1, 1, dtype=torch.float64), generator()))
    zero = [0.0] * size
    still = step(*zero)
    drawn = torch.empty(1, 1, dtype=torch.float64).normal_(generator=generator(7)).item()
    unit = [step(*(float(i == j) for j in range(size))) - still for i in range(size)]
    return unit, still / drawn


def test_t2_exact_bias_on_a_quadratic() -> None:
    """Euler-Maruyama T/(k (1 - k dt/2)); Leimkuhler-Matthews exactly T/k."""
    k, temperature = 2.0, 0.7
    motion = Langevin(Quadratic(k), temperature)
    bias = []
    for dt in (0.1, 0.05):
        (a,), spread = response(EulerMaruyama(motion, dt))
        variance = spread**2 / (1 - a * a)
        assert variance == pytest.approx(temperature / (k * (1 - k * dt / 2)), rel=1e-12)
        bias.append(variance - temperature / k)
        (a, old), fresh = response(LeimkuhlerMatthews(motion, dt))
        # x' = a x + old R + fresh R', where x itself holds fresh R.
        averaged = (old**2 + fresh**2 + 2 * a * old * fresh) / (1 - a * a)
        assert averaged == pytest.approx(temperature / k, rel=1e-12)
    assert math.log2(bias[0] / bias[1]) == pytest.approx(1.0, abs=0.1)  # 1 + O(dt)


def chain_bias(dt: float, scheme: str) -> float:
    """<x^2> of a scheme's own stationary law in U = (x^2-1)^2 at T = 1/4, minus the exact one.

    The transition on a grid: 60-point Gauss-Hermite noise, deposited by cubic interpolation, which
    keeps three moments. Leimkuhler-Matthews as the Markov chain y = x - s R/2 (Vilmart's
    postprocessor), whose drift is taken at x.
    """
    temperature, edge, n = 0.25, 2.2, 241
    spread = math.sqrt(2 * temperature * dt)
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    fine = np.linspace(-5, 5, 20_001)
    gibbs = np.exp(-((fine * fine - 1) ** 2) / temperature)
    grid = np.linspace(-edge, edge, n)
    at = grid[:, None] + (spread * nodes / 2 if scheme == "lm" else 0 * nodes)
    to = grid[:, None] + spread * nodes - dt * 4 * at * (at * at - 1)
    cell = (to + edge) / (grid[1] - grid[0])
    left = np.clip(np.floor(cell).astype(int), 1, n - 3)
    f = np.clip(cell - left, 0, 1)
    share = np.broadcast_to(weights / weights.sum(), to.shape)
    source = np.broadcast_to(np.arange(n)[:, None], to.shape)
    transition = np.zeros((n, n))
    lagrange = (
        -f * (f - 1) * (f - 2) / 6,
        (f + 1) * (f - 1) * (f - 2) / 2,
        -(f + 1) * f * (f - 2) / 2,
        (f + 1) * f * (f - 1) / 6,
    )
    for shift, weight in zip((-1, 0, 1, 2), lagrange, strict=True):
        np.add.at(transition, (left + shift, source), share * weight)
    law = np.linalg.matrix_power(transition, 4096) @ np.full(n, 1 / n)
    value = float(law @ grid**2 / law.sum())
    shift = spread**2 / 4 if scheme == "lm" else 0.0
    return value + shift - float((gibbs * fine**2).sum() / gibbs.sum())


def test_t2_weak_order_in_the_double_well() -> None:
    """At dt = .05 Euler's bias is -1.8e-2, that of Leimkuhler-Matthews below 4e-4."""
    assert chain_bias(0.05, "em") == pytest.approx(-1.83e-2, abs=1e-4)
    assert 0 < chain_bias(0.05, "lm") < 4e-4
    orders = [
        math.log2(chain_bias(0.025, scheme) / chain_bias(0.0125, scheme)) for scheme in ("em", "lm")
    ]
    assert orders == pytest.approx([1.0, 2.0], abs=0.1)  # and O(dt): 1.08 and 2.01


@pytest.mark.parametrize("scheme", ["em", "lm"])
def test_t2_particles_have_the_bias_of_their_chain(scheme: str) -> None:
    motion = Langevin(DoubleWell(), 0.25)
    kind = EulerMaruyama if scheme == "em" else LeimkuhlerMatthews
    start = torch.ones(40_000, 1)
    path = integrate(kind(motion, 0.05), start, 300, generator=generator(), every=3)
    # <x^2> relaxes at about 8 per time: 60 steps are 24 relaxation times.
    means = (path.values[20:].double() ** 2).mean(0)
    fine = np.linspace(-5, 5, 20_001)
    gibbs = np.exp(-((fine * fine - 1) ** 2) / 0.25)
    exact = float((gibbs * fine**2).sum() / gibbs.sum())
    error = float(means.std()) / math.sqrt(len(means))
    assert error < 1e-3  # so that the -1.8e-2 of Euler's scheme cannot pass for 0
    assert abs(float(means.mean()) - exact - chain_bias(0.05, scheme)) < 4 * error


def test_t2_histogram_of_particles_tends_to_the_density_of_the_grid() -> None:
    """L1 distance sqrt(2/(pi n)) sum_k sqrt(p_k (1 - p_k)): a quarter at 16 times as many."""
    temperature, time, dt, n, many = 0.25, 0.5, 0.0025, 64_000, 16_000
    nodes = np.linspace(-2.2, 2.2, 441)
    grid = energy_grid(nodes, (nodes**2 - 1) ** 2, temperature)
    density = evolve(grid, point_mass(grid, 0.1) / grid.volume, time)
    # Bins of ten cells between the faces; the cells at the walls hold nothing.
    mass = (density * grid.volume)[5:-6].reshape(-1, 10).sum(1)
    edges = np.linspace(-2.155, 2.145, 44)
    assert mass.sum() == pytest.approx(1.0, abs=1e-6)
    path = integrate(
        EulerMaruyama(Langevin(DoubleWell(), temperature), dt),
        torch.full((n, 1), 0.1, dtype=torch.float64),
        round(time / dt),
        generator=generator(),
        every=round(time / dt),
    )
    x = path.values[-1].ravel().numpy()

    def distance(size: int) -> float:
        shares = [np.histogram(part, edges)[0] / size for part in x.reshape(-1, size)]
        return float(np.mean([np.abs(share - mass).sum() for share in shares]))

    expected = math.sqrt(2 / (math.pi * many)) * np.sqrt(mass * (1 - mass)).sum()
    # One L1 sum over ~ 30 occupied bins has a relative error of .76/sqrt(30) = .14, a mean over 4
    # of them .07. And O(dt) of Euler's scheme: with 2,000,000 particles .0056 is left, of which
    # .0028 is sampling (.0211 at four times the dt).
    assert distance(many) == pytest.approx(expected, abs=4 * 0.07 * expected + 0.005)
    order = math.log(distance(many // 16) / distance(many)) / math.log(16)
    assert order == pytest.approx(0.5, abs=(4 * 0.07 + 0.16) / math.log(16))


def test_increments_of_leimkuhler_matthews_halve_the_diffusion() -> None:
    """Why it is no default: D from one-step increments reads D/2, at lag m (1 - 1/2m) D."""
    n, dt, temperature = 100_000, 0.01, 0.5
    stepper = LeimkuhlerMatthews(Langevin(Quadratic(1e-6), temperature), dt)
    path = integrate(stepper, torch.zeros(n, 1), 10, generator=generator())
    for lag in (1, 10):
        increment = path.values[lag] - path.values[0]
        found = float((increment**2).mean()) / (2 * dt * lag)
        expected = temperature * (1 - 0.5 / lag)
        assert abs(found / expected - 1) < 4 * math.sqrt(2 / n)


def test_a_jump_is_added_in_the_same_step() -> None:
    seen = []

    def jump(
        shape: tuple[int, ...], dt: float, source: torch.Generator, dtype: torch.dtype
    ) -> torch.Tensor:
        seen.append((shape, dt, dtype))
        return torch.full(shape, 5.0, dtype=torch.float64)

    motion = Langevin(Quadratic(1.0), 1.0)
    x = torch.zeros(3, 1)
    plain = EulerMaruyama(motion, 0.1).step((x,), generator())[0]
    both = EulerMaruyama(motion, 0.1, jump).step((x,), generator())[0]
    torch.testing.assert_close(both, plain + 5)
    assert seen == [((3, 1), 0.1, torch.float32)] and both.dtype == torch.float32


def test_records_times_progress_and_continuation() -> None:
    stepper = EulerMaruyama(Langevin(DoubleWell(), 0.25), 0.01)
    x, calls = torch.full((10, 1), -1.0), []
    path = integrate(
        stepper, x, 20, generator=generator(), every=5, progress=lambda *c: calls.append(c)
    )
    assert path.times.tolist() == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2])
    assert path.values.shape == (5, 10, 1) and torch.equal(path.values[0], x)
    assert torch.equal(path.values[-1], path.state[0]) and calls[-1] == (20, 20)
    assert (x == -1).all()
    again = integrate(stepper, x, 20, generator=generator(), every=5)
    assert torch.equal(again.values, path.values)
    # An observable is recorded instead of positions, and chunks cover every particle.
    squares = integrate(
        stepper, x, 4, generator=generator(), chunk=3, observe=lambda at: (at**2).sum(1)
    )
    assert squares.values.shape == (5, 10) and (squares.values[1:] != 1).all()


def test_the_general_and_the_fused_step_agree() -> None:
    x = torch.randn(50, 1, dtype=torch.float64, generator=generator())
    number = EulerMaruyama(Langevin(DoubleWell(), 0.3, 0.7), 0.01)
    vector = EulerMaruyama(Langevin(DoubleWell(), 0.3, torch.tensor([0.7]).double()), 0.01)
    torch.testing.assert_close(number.step((x,), generator())[0], vector.step((x,), generator())[0])


def test_runaways_are_counted() -> None:
    process = ItoProcess(velocity=lambda x: x**3)
    with pytest.warns(RuntimeWarning, match="lost 1 of 2 particles.* or `TamedEuler`"):
        path = integrate(
            EulerMaruyama(process, 1.0), torch.tensor([[0.0], [10.0]]), 20, generator=generator()
        )
    assert path.lost == 1


@pytest.mark.parametrize("chunk", [None, 3])
def test_a_run_goes_on_from_its_state(chunk: int | None) -> None:
    """Two halves are the whole, with velocities: a BAOAB started anew draws other ones."""
    stepper, x = BAOAB(DoubleWell(), 0.25, 0.05), torch.full((10, 1), -1.0)
    source = generator()
    whole = integrate(stepper, x, 20, generator=generator())
    first = integrate(stepper, x, 10, generator=source)
    second = integrate(stepper, first.state, 10, generator=source, chunk=chunk)
    assert torch.equal(second.values[0], first.values[-1])
    if chunk is None:
        assert torch.equal(second.values, whole.values[10:])
    # Chunks draw other numbers, but from the same velocities: x' = x + v dt + O(dt^(3/2)).
    drawn = generator(1)
    anew = integrate(stepper, first.state[0], 1, generator=drawn).values[1] - first.state[0]
    kept = second.values[1] - first.state[0] - 0.05 * first.state[1]
    assert kept.abs().max() < 0.05 * 0.5 < (anew - 0.05 * first.state[1]).abs().max()
    with pytest.raises(ValueError, match="state of `BAOAB` has 3 parts. Got 1"):
        integrate(stepper, first.state[:1], 1, generator=source)


def test_bad_input_is_refused_with_a_remedy() -> None:
    motion = Langevin(DoubleWell(), 0.25)
    good, x = EulerMaruyama(motion, 0.01), torch.ones(2, 1)
    with pytest.raises(ValueError, match=r"dt \* rate = 0.3 \* 8 = 2.4.* Use dt < 0.25"):
        integrate(EulerMaruyama(motion, 0.3), x, 1, generator=generator())
    with pytest.raises(ValueError, match="unstable for the stiffest mode"):
        integrate(LeimkuhlerMatthews(motion, 0.3), x, 1, generator=generator())
    # On top of the barrier no mode is stiff; the wells are looked at all the same.
    with pytest.raises(ValueError, match=r"dt \* rate = 0.3 \* 8 = 2.4.* Use dt < 0.25"):
        integrate(EulerMaruyama(motion, 0.3), 0 * x, 1, generator=generator())
    for stepper in (good, TamedEuler(motion, 0.01), BAOAB(DoubleWell(), 1.0, 0.01)):
        with pytest.raises(ValueError, match=r"of shape \(n, 1\). Got \(5, 3\): .*of `DoubleWell`"):
            integrate(stepper, torch.ones(5, 3), 1, generator=generator())
    with pytest.raises(ValueError, match="`dt` of `EulerMaruyama` must be positive"):
        EulerMaruyama(motion, 0.0)
    with pytest.raises(ValueError, match="wrong where D changes"):
        LeimkuhlerMatthews(ItoProcess(), 0.1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"Use `x\[:, None\]`"):
        integrate(good, torch.ones(2), 1, generator=generator())
    with pytest.raises(ValueError, match="holds nan or inf"):
        integrate(good, torch.full((2, 1), math.nan), 1, generator=generator())
    with pytest.raises(ValueError, match="must be at least 1"):
        integrate(good, x, 0, generator=generator())
    with pytest.raises(ValueError, match="GiB. Use a larger `every`"):
        integrate(good, torch.ones(10**6, 1), 2000, generator=generator())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_floats_of_two_bytes_are_refused(dtype: torch.dtype) -> None:
    """In bfloat16 a step of .01 is lost at x = 1: the variance reads 8, where it is 1."""
    stepper = EulerMaruyama(Langevin(Quadratic(1.0), 1.0), 0.01)
    with pytest.raises(ValueError, match=r"must be float32 or float64. Got torch.*`x.float\(\)`"):
        integrate(stepper, torch.zeros(5, 1, dtype=dtype), 2, generator=generator())
    with pytest.raises(ValueError, match="The `x` of `first_passage` must be float32 or float64"):
        first_passage(
            stepper, torch.zeros(5, 1, dtype=dtype), coordinate_boundary(1.0), steps=2,
            generator=generator(),
        )  # fmt: skip


@pytest.mark.parametrize("count", ["steps", "every", "chunk"])
@pytest.mark.parametrize("value", [3.0, 0, "2"])
def test_counts_are_whole_numbers(count: str, value: object) -> None:
    stepper = EulerMaruyama(Langevin(Quadratic(1.0), 1.0), 0.01)
    how = {"steps": 2} | {count: value}
    with pytest.raises(ValueError, match=f"`{count}` of `integrate` must be at least 1 and"):
        integrate(stepper, torch.zeros(5, 1), generator=generator(), **how)  # type: ignore[arg-type]
    integrate(stepper, torch.zeros(5, 1), np.int64(2), generator=generator())  # type: ignore[arg-type]


def spun(x: torch.Tensor) -> torch.Tensor:
    """A slow and a fast pull, rates .1 and 5, along axes at 45 degrees."""
    sum_, difference = x.sum(1, keepdim=True), x[:, :1] - x[:, 1:]
    return -torch.cat([0.1 * sum_ + 5 * difference, 0.1 * sum_ - 5 * difference], 1) / 2


OVERSHOOTS = {
    "rate 3 of one": (lambda x: -x, 1, 3.0),
    "fastest of two": (spun, 2, 0.41),
    "barely": (lambda x: -x, 1, 2.01),
}
FINE = {
    "stable": (lambda x: -x, 1, 1.9),
    "fastest of two": (spun, 2, 0.39),
    "true growth": (lambda x: x, 1, 0.1),
    "constant pull": (lambda x: -x.sign(), 1, 0.1),
    "rest": (torch.zeros_like, 1, 1.0),
}


@pytest.mark.parametrize("case", OVERSHOOTS)
def test_an_unstable_step_of_an_unknown_rate_is_seen_at_the_end(case: str) -> None:
    """dt * rate > 2: the drift is multiplied by 1 - dt * rate < -1 in every step."""
    velocity, d, dt = OVERSHOOTS[case]
    stepper = EulerMaruyama(ItoProcess(velocity, torch.ones_like), dt)
    with pytest.warns(RuntimeWarning, match="drift of 100% of the particles turns round and grows"):
        integrate(stepper, torch.ones(50, d), 100 if dt > 2.1 else 1000, generator=generator())


@pytest.mark.parametrize("case", FINE)
def test_stable_steps_and_true_growth_are_not_taken_for_it(case: str) -> None:
    velocity, d, dt = FINE[case]
    stepper = EulerMaruyama(ItoProcess(velocity, torch.ones_like), dt)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        integrate(stepper, torch.ones(50, d), 100, generator=generator())
    assert not said


@pytest.mark.parametrize("product", [1.5, 1.92])
def test_a_long_stable_step_is_warned_of_with_the_bias_it_has(product: float) -> None:
    """Euler's variance over T/k is 1/(1 - dt k/2), 4 and 25; 5 standard errors of 4,000."""
    exact = 1 / (1 - product / 2)
    stepper = EulerMaruyama(Langevin(Quadratic(2.0), 1.0), product / 2)
    with pytest.warns(RuntimeWarning, match=rf"makes the variance {exact:.3g} times the exact one"):
        path = integrate(stepper, torch.zeros(4000, 1), 200, generator=generator(), every=200)
    found = float(path.values[-1].var()) * 2.0
    assert found == pytest.approx(exact, rel=5 * math.sqrt(2 / 4000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # twice the variance, and exact
        integrate(replace(stepper, dt=0.5), torch.zeros(9, 1), 2, generator=generator())
        averaged = LeimkuhlerMatthews(Langevin(Quadratic(2.0), 1.0), product / 2)
        integrate(averaged, torch.zeros(9, 1), 2, generator=generator())


def test_a_drift_with_noise_of_its_own_is_not_taken_for_an_unstable_step() -> None:
    def noisy(x: torch.Tensor) -> torch.Tensor:  # a gradient of one random example
        return -x + 5 * torch.randn_like(x)

    process = ItoProcess(velocity=noisy, diffusion=torch.ones_like)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        integrate(
            EulerMaruyama(process, 0.01), torch.zeros(200, 1), 50,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
    assert not said
