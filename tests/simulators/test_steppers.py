"""Special steppers: the exact transition, the tamed drift, the cubic flow."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.linalg import expm, solve_continuous_lyapunov

from foreshock.simulators.dynamics import ItoProcess, Langevin
from foreshock.simulators.potentials import DoubleWell, Quadratic, Quartic
from foreshock.simulators.sde import EulerMaruyama, integrate
from foreshock.simulators.steppers import CubicSplitting, ExactOU, TamedEuler, cubic_flow


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dt", [0.01, 3.0])
def test_exact_transition_of_a_matrix_is_the_lyapunov_solution(dt: float) -> None:
    k = np.array([[2.0, 0.8], [0.8, 1.0]])
    m = np.array([[1.0, 0.2], [0.2, 0.5]])
    motion = Langevin(Quadratic(torch.tensor(k)), 0.7, torch.tensor(m))
    decay, spread = (part.numpy() for part in ExactOU(motion, dt).transition)
    np.testing.assert_allclose(decay, expm(-m @ k * dt), atol=1e-12)
    stationary = solve_continuous_lyapunov(-m @ k, -2 * 0.7 * m)
    np.testing.assert_allclose(stationary, 0.7 * np.linalg.inv(k), atol=1e-12)  # Gibbs
    exact = stationary - decay @ stationary @ decay.T
    np.testing.assert_allclose(spread @ spread.T, exact, atol=1e-12)


def test_the_diagonal_and_the_matrix_form_agree_saddles_and_flat_directions_included() -> None:
    k = torch.tensor([2.0, 0.0, -0.5], dtype=torch.float64)
    decay, spread = ExactOU(Langevin(Quadratic(k), 0.7), 0.4).transition
    full, root = ExactOU(Langevin(Quadratic(torch.diag(k)), 0.7), 0.4).transition
    torch.testing.assert_close(torch.diag(decay), full, atol=1e-12, rtol=0)
    torch.testing.assert_close(torch.diag(spread**2), root @ root.T, atol=1e-12, rtol=0)
    assert spread[1].item() ** 2 == pytest.approx(2 * 0.7 * 0.4, rel=1e-12)  # free diffusion


def test_t1_the_exact_stepper_has_the_moments_of_the_process() -> None:
    """Three steps of .4: no bias, so only the sampling error is allowed for."""
    n, temperature = 40_000, 0.8
    k = torch.tensor([[1.5, 0.5], [0.5, 1.0]])
    path = integrate(
        ExactOU(Langevin(Quadratic(k), temperature), 0.4),
        torch.full((n, 2), 2.0),
        3,
        generator=generator(),
        every=3,
    )
    decay = expm(-k.double().numpy() * 1.2)
    stationary = temperature * np.linalg.inv(k.double().numpy())
    exact = stationary - decay @ stationary @ decay.T
    last = path.values[-1].double().numpy()
    error = np.sqrt((np.outer(np.diag(exact), np.diag(exact)) + exact**2) / n)
    assert (np.abs(last.mean(0) - decay @ [2.0, 2.0]) < 4 * np.sqrt(np.diag(exact) / n)).all()
    assert (np.abs(np.cov(last.T) - exact) < 4 * error).all()


def matrices() -> list[tuple[list[list[float]], list[list[float]]]]:
    mild, stiff = [[1.0, 0.5], [0.5, 2.0]], [[100.0, 1.0], [1.0, 1.0]]
    return [(mild, [[1.0, 0.0], [0.0, 1.0]]), (stiff, [[1.0, 0.0], [0.0, 1.0]]),
            (mild, [[1.0, 0.2], [0.2, 0.5]]), (mild, [[1.0, 2.0], [2.0, 4.0]])]  # fmt: skip


@pytest.mark.parametrize("k, m", matrices(), ids=["mild", "stiff", "mobility", "singular"])
@pytest.mark.parametrize("dt", [0.05, 8.0, 50.0, 1e3])
def test_exact_transition_for_long_steps_and_singular_mobilities(
    dt: float, k: list[list[float]], m: list[list[float]]
) -> None:
    """Against short transitions composed by doubling, in which no growing exponential appears."""
    motion = Langevin(Quadratic(torch.tensor(k)), 1.3, torch.tensor(m))
    decay, spread = (part.numpy() for part in ExactOU(motion, dt).transition)
    # Oracle: a step of dt / 2^j by Van Loan's block exponential, doubled j times by
    # C(2t) = C(t) + e^{-MKt} C(t) e^{-KMt}.
    doublings = max(0, math.ceil(math.log2(100 * dt)))
    mk, zero = np.array(m) @ np.array(k), np.zeros((2, 2))
    block = np.block([[mk, 2 * 1.3 * np.array(m)], [zero, -mk.T]]) * (dt / 2**doublings)
    power = expm(block)
    exact_decay = power[2:, 2:].T
    exact = exact_decay @ power[:2, 2:]
    for _ in range(doublings):
        exact = exact + exact_decay @ exact @ exact_decay.T
        exact_decay = exact_decay @ exact_decay
    np.testing.assert_allclose(decay, exact_decay, atol=1e-11)
    # Along the null space of a singular M nothing decays and nothing spreads.
    np.testing.assert_allclose(spread @ spread.T, exact, atol=1e-10)


def test_cubic_flow_solves_its_equation() -> None:
    x = torch.linspace(-3, 3, 13, dtype=torch.float64)
    torch.testing.assert_close(cubic_flow(cubic_flow(x, 0.3), 0.4), cubic_flow(x, 0.7))
    slope = (cubic_flow(x, 1e-6) - cubic_flow(x, 0.0)) / 1e-6
    torch.testing.assert_close(slope, -(x**3), rtol=1e-3, atol=1e-9)


def test_cubic_flow_from_far_away_tends_to_its_limit() -> None:
    """1/sqrt(2 t) = .7071 from everywhere far out; 1e20 squared is not a float32."""
    limit = 0.5**0.5
    far = torch.tensor([1e20, -3e38, math.inf, -math.inf, 0.0])
    expected = torch.tensor([limit, -limit, limit, -limit, 0.0])
    torch.testing.assert_close(cubic_flow(far, 1.0), expected)


def test_splitting_reaches_the_gibbs_law_of_the_quartic() -> None:
    n, dt = 40_000, 0.01
    motion = Langevin(Quartic(strength=2.0), 0.5)
    path = integrate(
        CubicSplitting(motion, dt), torch.zeros(n, 1), 400, generator=generator(), every=400
    )
    weight = [quad(lambda x, p=p: x**p * math.exp(-(x**4)), -5, 5)[0] for p in (0, 2, 4)]
    second, fourth = weight[1] / weight[0], weight[2] / weight[0]
    error = math.sqrt((fourth - second**2) / n)
    # Lie splitting records after the noise: half of its 2 T dt is bias, .005, allowed for once.
    assert abs(float((path.values[-1] ** 2).mean()) - second) < 4 * error + 2 * 0.5 * dt


def test_euler_explodes_where_the_tamed_and_the_split_step_do_not() -> None:
    motion, far = Langevin(Quartic(), 0.5), torch.full((4, 1), 30.0)
    force = ItoProcess(velocity=motion.drift, diffusion=lambda x: 0.5 * torch.ones_like(x))
    with pytest.warns(RuntimeWarning, match="lost 4 of 4 particles"):
        assert integrate(EulerMaruyama(force, 0.01), far, 50, generator=generator()).lost == 4
    for stepper in (TamedEuler(motion, 0.01), CubicSplitting(motion, 0.01)):
        path = integrate(stepper, far, 3000, generator=generator(), every=3000)
        assert path.lost == 0 and path.values[-1].abs().max() < 3


def test_taming_converges_to_euler() -> None:
    motion = Langevin(DoubleWell(), 0.25)
    x = torch.randn(20, 1, dtype=torch.float64, generator=generator())
    difference = []
    for dt in (1e-3, 5e-4):
        plain = EulerMaruyama(motion, dt).step((x,), generator(1))[0]
        tamed = TamedEuler(motion, dt).step((x,), generator(1))[0]
        difference.append(float((plain - tamed).abs().max()))
    assert difference[0] / difference[1] == pytest.approx(4.0, rel=0.1)  # dt^2 a |a| a step


@pytest.mark.parametrize("stepper", [TamedEuler, CubicSplitting])
def test_a_jump_is_added_in_the_same_step(stepper: type) -> None:
    motion, x = Langevin(Quartic(), 1.0), torch.zeros(3, 1)
    plain = stepper(motion, 0.1).step((x,), generator())[0]
    both = stepper(motion, 0.1, lambda shape, dt, _, dtype: torch.full(shape, dt, dtype=dtype))
    torch.testing.assert_close(both.step((x,), generator())[0], plain + 0.1)


def test_bad_input_is_refused_with_a_remedy() -> None:
    with pytest.raises(ValueError, match="exact for a `Quadratic` potential only. Got DoubleWell"):
        ExactOU(Langevin(DoubleWell(), 1.0), 0.1)
    with pytest.raises(ValueError, match="Use `TamedEuler` for other steep potentials"):
        CubicSplitting(Langevin(DoubleWell(), 1.0), 0.1)
    with pytest.raises(ValueError, match="`dt` of `TamedEuler` must be positive"):
        TamedEuler(Langevin(DoubleWell(), 1.0), -0.1)
