"""`StochasticHarmonicLearning` against its listing, its limits, and its defects as numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from foreshock.documents import StochasticHarmonicLearning


def bowl(dim: int, lr: float, noise_scale: float, seed: int = 0) -> StochasticHarmonicLearning:
    return StochasticHarmonicLearning(
        lambda x: 0.5 * np.sum(x**2), lambda x: x, dim, lr, noise_scale, seed=seed
    )


def wells(noise_scale: float, lr: float = 0.01) -> StochasticHarmonicLearning:
    """(x^2 - 1)^2: minima at -1 and 1 of energy 0, barrier 1."""
    return StochasticHarmonicLearning(
        lambda x: ((x**2 - 1) ** 2).sum(), lambda x: 4 * x * (x**2 - 1), 1, lr, noise_scale
    )


def test_the_chain_is_that_of_the_listing() -> None:
    """Oracle: the listing with the same normals, dt and the adaptive noise that stays."""
    ours = bowl(3, 0.1, 0.4)
    found = ours.train(np.full(3, 2.0), n_steps=80, dt=0.7, C_threshold=0.9)
    g, theta, d = torch.Generator().manual_seed(0), np.full(3, 2.0), 0.4
    path, ratios, changed = [theta], [], []
    for step in range(80):
        xi = torch.empty(1, 3, dtype=torch.float64).normal_(generator=g)[0].numpy()
        theta = theta - 0.1 * theta + np.sqrt(2 * d * 0.7) * xi
        path.append(theta)
        ratios.append(np.sum(theta**2) / (d * 3))
        if ratios[-1] < 0.9 and step > 50:
            d *= 5.0
            changed.append(step)
    np.testing.assert_allclose(found["trajectory"], path, rtol=1e-12)
    assert found["consolidations"] == pytest.approx(ratios)
    assert found["losses"] == pytest.approx([0.5 * np.sum(x**2) for x in path[1:]])
    assert found["interventions"] == changed and changed
    assert found["final_loss"] == found["losses"][-1]
    assert ours.D == pytest.approx(d)  # never restored, as published


def test_the_temperature_is_not_the_noise_scale() -> None:
    # Defect: exact variance 2 D/(1 - (1 - lr)^2) = .1333, by the document's Gibbs law D = .05.
    # After 30 steps of lr = .5 nothing is left of the start; 4 standard errors are 4 sqrt(2/4000).
    end = bowl(4000, 0.5, 0.05).train(np.zeros(4000), 30, adaptive_noise=False)["final_theta"]
    assert np.mean(end**2) == pytest.approx(0.1 / 0.75, rel=0.09)
    assert np.mean(end**2) > 2 * 0.05
    # Defect: dt scales the noise alone: half the time is half the variance, at the same drift.
    run = bowl(4000, 0.5, 0.05).train(np.zeros(4000), 30, dt=0.5, adaptive_noise=False)
    assert np.mean(run["final_theta"] ** 2) == pytest.approx(0.05 / 0.75, rel=0.09)


def test_the_boost_is_never_taken_back_and_explodes() -> None:
    # Defect: in a double well D goes from .1 up by 5 at each intervention, until theta is nan.
    system = wells(0.1)
    with pytest.warns(UserWarning, match="none taken back"):
        results = system.train(np.array([-1.0]), n_steps=400, C_threshold=0.5)
    boosts = results["interventions"]
    assert len(boosts) >= 2 and system.D == pytest.approx(0.1 * 5.0 ** len(boosts))
    assert not np.isfinite(results["final_theta"]).all()
    # The same without it stays where it is.
    calm = wells(0.1).train(np.array([-1.0]), n_steps=100, adaptive_noise=False)
    assert np.isfinite(calm["trajectory"]).all()


def test_equal_wells_have_no_barrier_and_the_time_is_its_limit() -> None:
    system = wells(0.05)
    here, there = np.array([-1.0]), np.array([1.0])
    # Defect: between equal wells the barrier of 1 reads 0, and the escape takes no time.
    assert system.estimate_barrier_height(here, there) == 0
    assert system.escape_time(0.0) == 0
    assert system.estimate_barrier_height(here, np.array([0.0])) == 1
    assert system.estimate_barrier_height(np.array([0.0]), here) == 0
    assert system.escape_time(0.1) == pytest.approx(math.exp(2))
    assert system.escape_time(1e9) == math.inf
    assert wells(0.0).escape_time(1.0) == math.inf


def test_c_of_the_text_and_its_limits() -> None:
    assert bowl(4, 0.1, 0.5).consolidation_ratio(np.full(4, 2.0)) == 16 / (0.5 * 4)
    assert bowl(4, 0.1, 0.0).consolidation_ratio(np.ones(4)) == math.inf
    assert math.isnan(bowl(4, 0.1, 0.0).consolidation_ratio(np.zeros(4)))
    # Defect: at rest it reads tr(H)/d: of a bowl of curvature 9 at its Gibbs law, 9 and not 1.
    x = np.random.default_rng(0).standard_normal(20_000) * math.sqrt(0.1 / 9)
    steep = StochasticHarmonicLearning(lambda x: 0.0, lambda x: 9 * x, 20_000, 0.1, 0.1)
    assert steep.consolidation_ratio(x) == pytest.approx(9, rel=0.05)


def test_it_touches_neither_its_arguments_nor_the_global_generators() -> None:
    def careless(x: np.ndarray) -> np.ndarray:
        x *= 2
        return x

    start = np.ones(3)
    numpy_before, torch_before = np.random.get_state()[1].copy(), torch.get_rng_state()
    system = StochasticHarmonicLearning(lambda x: 0.0, careless, 3, 0.1, 0.0)
    np.testing.assert_allclose(system.step(start), 0.8)
    assert (start == 1).all()
    results = system.train(start, 5)
    assert (start == 1).all() and (results["trajectory"][0] == 1).all()
    assert (np.random.get_state()[1] == numpy_before).all()
    assert torch.equal(torch.get_rng_state(), torch_before)
    ends = [bowl(3, 0.1, 0.1, seed).train(start, 5)["final_theta"] for seed in (0, 0, 1)]
    assert (ends[0] == ends[1]).all() and (ends[0] != ends[2]).all()


def test_door() -> None:
    for bad in ({"dim": 0}, {"lr": 0.0}, {"noise_scale": -1.0}, {"lr": math.nan}):
        arguments = {"dim": 1, "lr": 0.1, "noise_scale": 0.1} | bad
        with pytest.raises(ValueError, match="needs dim >= 1, a positive lr"):
            StochasticHarmonicLearning(np.sum, np.sign, **arguments)  # type: ignore[arg-type]
    stopped = StochasticHarmonicLearning(lambda x: 0.0, lambda x: x, dim=2)
    stopped.lr = 0.0
    with pytest.raises(ValueError, match="`lr` .* must be positive"):
        stopped.step(np.zeros(2))
    with pytest.raises(ValueError, match=r"\(2,\). Got \(3,\)"):
        bowl(2, 0.1, 0.1).step(np.ones(3))
    with pytest.raises(ValueError, match="at least 1. Got 0"):
        bowl(2, 0.1, 0.1).train(np.ones(2), 0)
    with pytest.raises(ValueError, match="not negative. Got -1"):
        bowl(2, 0.1, 0.1).step(np.ones(2), dt=-1)


def test_interventions_begin_after_step_50_and_a_loss_that_writes_does_no_harm() -> None:
    def careless(x: np.ndarray) -> float:
        x *= 0
        return 1.0

    system = StochasticHarmonicLearning(careless, lambda x: x, 2, 0.1, 0.0)
    np.testing.assert_allclose(system.train(np.ones(2), 3)["final_theta"], 0.9**3)
    results = bowl(2, 0.1, 0.1).train(np.zeros(2), 53, C_threshold=math.inf)
    assert results["interventions"] == [51, 52]
