"""Runs: the path, the observables against closed forms, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from foreshock.simulators.decoder import DecoderPotential
from foreshock.simulators.diffusion import ParticleFisher, SharedFisher, SharedMatrix
from foreshock.simulators.particles import Engine, State, motion
from foreshock.simulators.potentials import Quadratic
from foreshock.simulators.recording import NAMES, observe, run_engine
from foreshock.simulators.resets import CloudReset
from foreshock.simulators.schedules import constant_schedules
from tests.simulators.decoders import generator, tanh_decoder
from tests.simulators.flat import Flat


def test_t1_observables_of_a_relaxing_ou_cloud() -> None:
    """N(m, s I) in k x^2/2: C^2 = k^2 s (s + m^2)/D^2, EP/d = (k s - D)^2/(s D) + k^2 m^2/D.

    C and entropy production within 10 % (at n = 2048, d <= 8; the 95 % bars
    have their own coverage cells), the bound's lower end below the truth, dH/dt = d (D/s - k).
    """
    n, d, k, m, s = 2048, 4, 1.0, 1.0, 0.25
    z = m + math.sqrt(s) * torch.randn(n, d, generator=generator(1))
    engine = Engine(Quadratic(k, dimension=d), constant_schedules(), dt=0.01)
    found = run_engine(engine, z, 1, generator=generator(2), every=1).observables
    assert set(found) == set(NAMES)
    exact = {
        "c": math.sqrt(k * k * s * (s + m * m)),
        "entropy_production": d * ((k * s - 1) ** 2 / s + k * k * m * m),
        "entropy_rate": d * (1 / s - k),
        "energy": d * k * (s + m * m) / 2,
        "temperature": 1.0,
    }
    for name, value in exact.items():
        assert found[name][0].value == pytest.approx(value, rel=0.1), name
    assert found["entropy_production_bound"][0].low < exact["entropy_production"]
    assert found["cosine"][0].value == pytest.approx(k * s / (exact["c"]), rel=0.1)


def test_w2_of_a_moving_cloud_and_its_null_at_the_start() -> None:
    """Free fall to 0: m = 2 e^{-t}, s constant = 1: W2 = (2 - 2/e) sqrt(d), within its bars."""
    n, d = 2000, 2
    z = 2 + torch.randn(n, d, generator=generator(3))
    engine = Engine(Quadratic(1.0, dimension=d), constant_schedules(), dt=0.01)
    found = run_engine(engine, z, 100, generator=generator(4), every=100).observables["w2"]
    assert found[0].low <= 0 <= found[0].high
    truth = 2 * (1 - math.exp(-1)) * math.sqrt(d)
    # Independent halves of 1000: se of a mean difference sqrt(2/1000) per axis, and Euler's .5 %.
    assert found[1].value == pytest.approx(truth, abs=4 * math.sqrt(2 / 1000) + 0.01)


def test_entropy_weight_is_in_the_diffusion_that_is_observed() -> None:
    """At stationarity with D = 0, eta lambda = 1: C = 1 and no entropy production."""
    z = torch.randn(2048, 2, generator=generator(5))
    engine = Engine(
        Quadratic(1.0, dimension=2), constant_schedules(diffusion=0.0, entropy=1.0), dt=0.01
    )
    found = run_engine(engine, z, 1, generator=generator(6), every=1).observables
    assert found["c"][0].low < 1 < found["c"][0].high
    # 4 standard errors of an estimate that is 0 at second order: (2/n)-sized, seen .001.
    assert abs(found["entropy_production"][0].value) < 0.02


def test_path_and_times() -> None:
    z = torch.randn(64, 2, generator=generator(7))
    engine = Engine(Quadratic(1.0, dimension=2), constant_schedules(), dt=0.01)
    calls: list[tuple[int, int]] = []
    found = run_engine(
        engine, z, 25, generator=generator(8), every=10, observed=False,
        progress=lambda done, total: calls.append((done, total)),
    )  # fmt: skip
    assert found.times == (0.0, 0.1, 0.2) and found.path.shape == (3, 64, 2)
    assert torch.equal(found.path[0], z) and found.final.steps == 25
    assert calls == [(0, 25), (10, 25), (20, 25)] and found.observables == {}
    again = run_engine(engine, z, 20, generator=generator(8), every=20, observed=False)
    assert torch.equal(again.path[1], found.path[2])


def test_resets_are_listed() -> None:
    engine = Engine(Flat(1), constant_schedules(), dt=0.1, resets=CloudReset(0.5, times=(0.2, 0.7)))
    z = torch.randn(20, 1, generator=generator(9))
    found = run_engine(engine, z, 10, generator=generator(10), observed=False)
    assert found.redrawn == pytest.approx((0.2, 0.7))


def twisted(n: int) -> tuple[DecoderPotential, Tensor]:
    z = torch.randn(n, 3, generator=generator(11), dtype=torch.float64)
    targets = torch.zeros(n, 4, dtype=torch.float64)
    return DecoderPotential(tanh_decoder(), targets, dimension=3, noise_scale=2.0), z


def test_both_modes_of_the_particles_own_diffusion_are_observed_without_hutchinsons_noise() -> None:
    """b = mu - div D: in gibbs exactly -(D/T) grad L, in published -eta grad L - div D by all axes.

    Two motions of other random signs read the same C, so no sign enters.
    """
    potential, z = twisted(300)
    for mode in ("gibbs", "published"):
        engine = Engine(
            potential, constant_schedules(0.5, 0.5), 0.01, shape=ParticleFisher(0.3), mode=mode
        )
        values = []
        for seed in (12, 13):
            moved = motion(engine, State(z), generator(seed))
            found, _ = observe(engine, State(z), moved, generator(14), refits=0, bounds=False)
            values.append((found["c"].value, found["entropy_production"].value))
        assert values[0] == pytest.approx(values[1], rel=1e-9)


def test_div_mu_of_a_shared_diffusion_is_minus_the_trace_of_mobility_times_hessian() -> None:
    """dH/dt = -E tr(M H) + E[s.D s]: both modes through the series, by the exact Hessian."""
    from foreshock.simulators.recording import _source

    potential, z = twisted(300)
    engine = Engine(potential, constant_schedules(0.5, 0.5), 0.01, shape=SharedFisher(0.3))
    moved = motion(engine, State(z), generator(15))
    draws = torch.stack(
        [_source(engine, z, moved, generator(seed)) for seed in range(200)]
    )  # fmt: skip
    mobility = moved.mobility
    assert isinstance(mobility, Tensor)
    exact = -(potential.hessian(z) * mobility).sum((1, 2))
    error = draws.std(0) / math.sqrt(len(draws))
    assert ((draws.mean(0) - exact).abs() < 5 * error + 1e-9).all()  # 300 particles: 5, not 4
    matrix = torch.tensor([[2.0, 0.5], [0.5, 1.0]])
    flat = Engine(
        Quadratic(3.0, dimension=2), constant_schedules(0.5, 0.5), 0.01, shape=SharedMatrix(matrix)
    )
    moved = motion(flat, State(z[:, :2].float()), generator(16))
    found = _source(flat, z[:, :2].float(), moved, generator(17))
    assert found is not None
    torch.testing.assert_close(found, torch.full((300,), -0.5 * 3 * 3.0))


def test_no_noise_leaves_nothing_to_compare_the_drift_with() -> None:
    engine = Engine(Quadratic(1.0), constant_schedules(diffusion=0.0), dt=0.01)
    z = torch.randn(50, 1, generator=generator(18))
    found = run_engine(engine, z, 1, generator=generator(19), every=1).observables
    assert "There is no noise" in found["c"][0].reason
    assert found["energy"][0].resolved


@pytest.mark.parametrize(
    ("start", "change", "sentence"),
    [
        (torch.zeros(4, 3), {}, r"of shape \(n, 2\). Got \(4, 3\)"),
        (torch.full((4, 2), torch.inf), {}, "must be finite"),
        (torch.zeros(4, 2), {"every": 0}, "`every` of `run_engine` must be at least 1"),
        (torch.zeros(4, 2), {"steps": 0}, "`steps` of `run_engine` must be at least 1"),
    ],
)
def test_unfit_runs_are_refused(start: Tensor, change: dict, sentence: str) -> None:
    engine = Engine(Quadratic(1.0, dimension=2), constant_schedules(), dt=0.01)
    with pytest.raises(ValueError, match=sentence):
        run_engine(engine, start, **{"steps": 5, "generator": generator(), **change})


def test_particles_that_run_away_stop_the_run() -> None:
    """x' = +x^2-like escape in float32: a saddle of curvature -1e4 with eta dt = 1."""
    engine = Engine(Quadratic(-1e4), constant_schedules(), dt=1.0)
    with pytest.raises(ValueError, match="left the finite numbers by step 10"):
        run_engine(engine, torch.ones(4, 1), 20, generator=generator(), observed=False)
