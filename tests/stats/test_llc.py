"""Sampler health against naive twins and autoregressive chains; the quadratic by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from foreshock.stats.llc import (
    SERIES,
    effective_draws,
    llc_quadratic,
    llc_summary,
    split_r_hat,
)
from foreshock.types import Flag


def autoregressive(phi: float, chains: int, length: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = np.empty((chains, length))
    x[:, 0] = rng.standard_normal(chains)
    for t in range(1, length):
        x[:, t] = phi * x[:, t - 1] + math.sqrt(1 - phi**2) * rng.standard_normal(chains)
    return x


@pytest.mark.parametrize("step", [0.001, 0.2, 1.0])
def test_the_quadratic_by_the_linear_recursion(step: float) -> None:
    # The law of the chain on a quadratic is Gaussian: its variance solves v = (1 − εa/2)² v + ε,
    # iterated here to its fixed point.
    h, n_beta, gamma = np.array([2.0, 0.3, 0.0]), 1.5, 0.5
    a, v = n_beta * h + gamma, np.zeros(3)
    for _ in range(100_000):
        v = (1 - step * a / 2) ** 2 * v + step
    assert llc_quadratic(h, n_beta, gamma, step) == pytest.approx(
        n_beta * float(h @ v) / 2, rel=1e-9
    )


def test_the_quadratic_has_its_limits() -> None:
    assert llc_quadratic(np.ones(7), 1e9, 1e-3) == pytest.approx(3.5, rel=1e-9)  # d/2
    assert llc_quadratic([1.0], 1.0, 1.0, step=2.0) == math.inf  # εa = 4: |1 − εa/2| = 1
    with pytest.raises(ValueError, match="n_beta h \\+ gamma positive"):
        llc_quadratic([-2.0], 1.0, 1.0)


def test_split_r_hat_is_the_naive_one() -> None:
    x = np.random.default_rng(0).standard_normal((3, 10)) + np.array([[0.0], [1.0], [3.0]])
    halves = [half for chain in x for half in (chain[:5], chain[5:])]
    within = np.mean([np.var(h, ddof=1) for h in halves])
    between = 5 * np.var([np.mean(h) for h in halves], ddof=1)
    assert split_r_hat(x) == pytest.approx(math.sqrt((4 / 5 * within + between / 5) / within))
    drift = np.tile(np.linspace(0, 1, 10), (3, 1)) + 0.01 * x
    assert split_r_hat(drift) > 1.5  # chains agree with each other, not with themselves
    assert math.isnan(split_r_hat(np.ones((2, 8))))
    with pytest.raises(ValueError, match="T >= 4"):
        split_r_hat(np.ones((2, 3)))


@pytest.mark.parametrize("phi", [0.0, 0.6, 0.9, -0.5])
def test_effective_draws_of_autoregressive_chains(phi: float) -> None:
    # 4 chains of 5,000: the sum of autocorrelations has a relative sd below 8 % up to φ = .9.
    truth = 20_000 * (1 - phi) / (1 + phi)
    assert effective_draws(autoregressive(phi, 4, 5000, 1)) == pytest.approx(truth, rel=0.25)


def test_effective_draws_see_disagreement() -> None:
    apart = autoregressive(0.0, 4, 500, 2) + 10 * np.arange(4)[:, None]
    assert effective_draws(apart) < 20
    assert math.isnan(effective_draws(np.zeros((2, 10))))


def test_the_interval_is_students_over_chains_and_a_loss_of_zero_counts() -> None:
    x = np.random.default_rng(3).gamma(2.0, size=(4, 50))
    found = llc_summary(x, 0.0, 3.0, np.zeros_like(x))["llc/lambda"]
    means = 3.0 * x.mean(1)
    half = 3.182446305284263 * means.std(ddof=1) / 2  # t_3(.975)
    assert found.value == pytest.approx(means.mean())
    assert found.high - found.value == pytest.approx(half)
    assert not found.flags


@pytest.mark.parametrize(
    ("losses", "initial", "ratio", "flag", "sentence"),
    [
        pytest.param(np.full((2, 8), np.nan), 1.0, 0.0, Flag.NOT_CONVERGED, "diverged", id="nan"),
        pytest.param(np.ones((2, 8)), math.inf, 0.0, Flag.UNRESOLVED, "not finite", id="inf"),
        pytest.param(None, 9.0, 0.0, Flag.NOT_CONVERGED, "no minimum", id="falls"),
        pytest.param(None, 2.0, 0.0, Flag.UNRESOLVED, "contains 0", id="zero"),
        pytest.param(None, 0.0, -99.0, Flag.NOT_CONVERGED, "Metropolis", id="step"),
        pytest.param(None, 0.0, math.nan, Flag.NOT_CONVERGED, "Metropolis", id="ratio"),
    ],
)
def test_flags_say_why(
    losses: np.ndarray | None, initial: float, ratio: float, flag: Flag, sentence: str
) -> None:
    if losses is None:
        losses = np.random.default_rng(4).gamma(2.0, size=(4, 50))
    found = llc_summary(losses, initial, 1.0, np.full(losses.shape, ratio))
    assert set(found) == set(SERIES)
    assert flag in found["llc/lambda"].flags
    assert sentence in found["llc/lambda"].reason


def test_one_chain_has_no_interval() -> None:
    with pytest.raises(ValueError, match="2 chains"):
        llc_summary(np.ones((1, 9)), 0.0, 1.0, np.zeros((1, 9)))


def test_chains_too_short_for_a_flat_direction_say_so() -> None:
    """They agree with each other and have not reached their place: R-hat is blind to it."""
    x = np.random.default_rng(0).gamma(1.0, 1.0, (4, 200))
    short = llc_summary(x, 0.0, 1.0, np.zeros_like(x), relaxations=0.5)["llc/lambda"]
    long = llc_summary(x, 0.0, 1.0, np.zeros_like(x), relaxations=5.0)["llc/lambda"]
    assert Flag.NOT_CONVERGED in short.flags and "0.5 relaxation times" in short.reason
    assert not long.flags and (short.low, short.high) == (long.low, long.high)
