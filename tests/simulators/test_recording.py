"""Runs: the path, the observables against closed forms, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from foreshock.simulators.decoder import DecoderPotential
from foreshock.simulators.diffusion import Isotropic, ParticleFisher, SharedFisher, SharedMatrix
from foreshock.simulators.observing import NAMES, observe
from foreshock.simulators.particles import Engine, State, motion, reset_now
from foreshock.simulators.potentials import Quadratic
from foreshock.simulators.recording import RunStoppedError, run_engine
from foreshock.simulators.resets import CloudReset, PointReset
from foreshock.simulators.schedules import (
    Constant,
    Cosine,
    Exponential,
    InverseTime,
    Schedules,
    constant_schedules,
)
from foreshock.types import Estimate
from tests.simulators.decoders import generator, twisted
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


ENGINES = {
    "matrix": Engine(
        Quadratic(1.0, dimension=3),
        constant_schedules(0.5, 0.5),
        0.02,
        shape=SharedMatrix(torch.diag(torch.tensor([1.0, 2.0, 0.5]))),
        resets=CloudReset(0.3, rate=3.0),
    ),
    "shared": SharedFisher(0.3),
    "own, gibbs": ParticleFisher(0.3),
    "own, published": ParticleFisher(0.3),
}


@pytest.mark.parametrize("name", ENGINES)
def test_to_look_is_not_to_touch(name: str) -> None:
    """The path is bitwise the same, watched or not, and so is what another record would see."""
    potential, z = twisted(60)
    engine = ENGINES[name]
    if not isinstance(engine, Engine):
        mode = "published" if name.endswith("published") else "gibbs"
        engine = Engine(potential, constant_schedules(0.5, 0.5), 0.01, shape=engine, mode=mode)
    runs = [
        run_engine(engine, z, 12, generator=generator(20), every=every, observed=watched, refits=0)
        for every, watched in ((3, True), (3, False), (6, True))
    ]
    assert torch.equal(runs[0].path, runs[1].path)
    assert torch.equal(runs[0].path[::2], runs[2].path)
    assert torch.equal(runs[0].final.z, runs[1].final.z) and runs[0].redrawn == runs[1].redrawn


def test_a_run_in_two_pieces_is_the_run_in_one() -> None:
    """Times, schedules, boosts and refractory times go on; only W2 starts anew."""
    resets = CloudReset(0.3, times=(0.05, 0.12), boost=2.0, boost_time=0.05, refractory=0.06)
    falling = Schedules("own", InverseTime(1.0, 0.1), Exponential(1.0, 0.2), Constant(0.1))
    engine = Engine(Quadratic(1.0, dimension=2), falling, 0.01, resets=resets)
    z = torch.randn(50, 2, generator=generator(21))
    whole = run_engine(engine, z, 20, generator=generator(22), every=5, observed=False)
    source = generator(22)
    first = run_engine(engine, z, 10, generator=source, every=5, observed=False)
    second = run_engine(engine, first.final, 10, generator=source, every=5, refits=0)
    assert second.times == pytest.approx((0.1, 0.15, 0.2)) and second.final.steps == 20
    assert torch.equal(second.path, whole.path[2:])
    assert first.redrawn + second.redrawn == whole.redrawn == pytest.approx((0.05, 0.12))


def test_what_a_record_returns_goes_on_in_its_place() -> None:
    """A detector on C resets the cloud at the third record; the refractory time is obeyed."""
    engine = Engine(Quadratic(1.0, dimension=2), constant_schedules(), 0.01, resets=CloudReset(0.5))
    z = torch.randn(100, 2, generator=generator(23))
    seen = []

    def watch(state: State, found: Mapping[str, Estimate]) -> State | None:
        seen.append((state.steps, found["c"].value))
        return reset_now(engine, state, generator(24)) if state.steps == 10 else None

    found = run_engine(engine, z, 20, generator=generator(25), every=5, refits=0, on_record=watch)
    assert [steps for steps, _ in seen] == [0, 5, 10, 15, 20]
    assert [c for _, c in seen] == [e.value for e in found.observables["c"]]
    assert found.redrawn == pytest.approx((0.1,)) and found.final.last_reset == pytest.approx(0.1)
    plain = run_engine(engine, z, 20, generator=generator(25), every=5, observed=False)
    assert torch.equal(found.path[:3], plain.path[:3])
    moved = (found.path[3] - plain.path[3]).abs().sum(1) > 1e-3
    assert int(moved.sum()) == 50


def test_entropy_rate_is_refused_where_jumps_are_a_part_of_it() -> None:
    """Free diffusion with resets to 0 at D = r = 1 rests at Laplace: dH/dt = 0, and without the
    jumps it would read E[s.D s] = 1.
    """
    n = 400
    laplace = torch.empty(n, 1).exponential_(generator=generator(26))
    laplace *= torch.sign(torch.rand(n, 1, generator=generator(27)) - 0.5)
    for resets, refused in (
        (PointReset(torch.zeros(1), 1.0), [True, True]),
        (CloudReset(0.2, rate=1.0), [True, True]),
        (CloudReset(0.2, times=(0.05,)), [False, False]),
        (CloudReset(0.2, times=(0.02,)), [False, True]),
        (CloudReset(0.2, times=(0.0,)), [True, False]),
        (None, [False, False]),
    ):
        engine = Engine(Flat(1), constant_schedules(), dt=0.02, resets=resets)
        for steps, gone in zip((0, 1), refused, strict=True):
            if resets is not None and resets.times == (0.02,):
                gone = steps == 0  # the step from 0 to .02 ends with it
            state = State(laplace, steps=steps)
            moved = motion(engine, state, generator(28))
            found, _ = observe(engine, state, moved, generator(28), refits=0, bounds=False)
            rate = found["entropy_rate"]
            assert math.isnan(rate.value) == gone, (resets, steps)
            assert ("Resets change the entropy too" in rate.reason) == gone
            assert math.isfinite(found["c"].value)


def test_t9_what_a_run_observes_does_not_depend_on_the_frame() -> None:
    """z -> z A': L(z A'^-1) and M -> A M A': C, cosine, irreversibility, production to rounding."""
    a = torch.tensor([[1.5, 0.4], [-0.3, 0.7]], dtype=torch.float64)
    k = torch.tensor([[2.0, 0.8], [0.8, 1.0]], dtype=torch.float64)
    m = torch.tensor([[1.0, 0.2], [0.2, 0.1]], dtype=torch.float64)
    z = torch.randn(200, 2, generator=generator(29), dtype=torch.float64)
    back = torch.linalg.inv(a)
    rows = []
    for curvature, matrix, cloud in ((k, m, z), (back.T @ k @ back, a @ m @ a.T, z @ a.T)):
        engine = Engine(
            Quadratic(curvature), constant_schedules(), 0.01, shape=SharedMatrix(matrix)
        )
        moved = motion(engine, State(cloud), generator(30))
        found, _ = observe(engine, State(cloud), moved, generator(30), refits=0, bounds=False)
        names = ("c", "cosine", "irreversibility", "entropy_production", "energy")
        rows.append([found[name].value for name in names])
    assert rows[0] == pytest.approx(rows[1], rel=1e-6)


def test_noise_that_dies_out_is_observed_to_its_end() -> None:
    """D = .5 e^{-t/.1} is 1e-45 at t = 10.3: no noise, said so, and every record is there."""
    dying = Schedules("own", Constant(1.0), Exponential(0.5, 0.1), Constant(0.0))
    z = torch.randn(60, 1, generator=generator(31))
    for shape in (Isotropic(), SharedMatrix(torch.ones(1, 1))):
        engine = Engine(Quadratic(1.0), dying, 0.02, shape=shape)
        found = run_engine(engine, z, 600, generator=generator(32), every=100, refits=0)
        assert len(found.times) == 7 and "There is no noise" in found.observables["c"][-1].reason
        assert math.isfinite(found.observables["c"][0].value)
        assert torch.isfinite(found.path).all()


def test_a_direction_without_noise_is_said_and_not_thrown() -> None:
    shape = SharedMatrix(torch.diag(torch.tensor([1.0, 0.0])))
    engine = Engine(Quadratic(1.0, dimension=2), constant_schedules(), 0.01, shape=shape)
    z = torch.randn(60, 2, generator=generator(33))
    found = run_engine(engine, z, 2, generator=generator(34), every=1, refits=0).observables
    assert "direction without noise" in found["c"][0].reason
    assert "direction without noise" in found["entropy_rate"][-1].reason


def test_what_was_recorded_before_a_run_had_to_stop_is_kept() -> None:
    ends = Schedules("own", Constant(1.0), lambda t: math.nan if t == 0.25 else 1.0, Constant(0.0))
    engine = Engine(Quadratic(1.0), ends, 0.05)
    z = torch.randn(40, 1, generator=generator(35))
    with pytest.raises(ValueError, match=r"diffusion of the `schedules` .* at t = 0.25"):
        run_engine(engine, z, 10, generator=generator(36))  # at the door: nothing is lost

    def stop(state: State, found: Mapping[str, Estimate]) -> None:
        if state.steps == 4:
            raise ValueError("The detector does not like it.")

    fine = Engine(Quadratic(1.0), constant_schedules(), 0.05)
    with pytest.raises(RunStoppedError, match="does not like it") as caught:
        run_engine(fine, z, 10, generator=generator(36), every=2, refits=0, on_record=stop)
    kept = caught.value.recorded
    assert kept.times == pytest.approx((0.0, 0.1, 0.2)) and kept.path.shape == (3, 40, 1)
    assert len(kept.observables["c"]) == 3 and kept.final.steps == 4

    def fail(points: Tensor) -> Tensor:
        if float(points.detach().abs().max()) < 0.5:
            raise RuntimeError("The decoder gave up.")
        return points

    falling = Engine(
        DecoderPotential(fail, torch.zeros(40, 1), dimension=1),
        constant_schedules(diffusion=0.0),
        0.1,
    )
    start = torch.linspace(-1, 1, 40)[:, None]
    for watched in (True, False):
        with pytest.raises(RunStoppedError, match="gave up") as caught:
            run_engine(
                falling, start, 20, generator=generator(), every=2, refits=0, observed=watched
            )
        # .9^k < .5 from k = 7 on: the record of step 6 is the last one.
        assert caught.value.recorded.times == pytest.approx((0.0, 0.2, 0.4, 0.6))
        assert len(caught.value.recorded.path) == 4


def test_a_schedule_that_ends_with_the_run_may_do_so_if_nothing_is_read_after_it() -> None:
    ends = Schedules("own", Cosine(1.0, 0.0, 0.1), Constant(0.1), Constant(0.0))
    engine = Engine(Quadratic(1.0), ends, 0.01)
    z = torch.randn(40, 1, generator=generator(37))
    source = generator(38)
    assert run_engine(engine, z, 10, generator=source, observed=False).final.steps == 10
    assert run_engine(engine, z, 10, generator=source, every=3, refits=0).final.steps == 10
    with pytest.raises(ValueError, match=r"rate of the `schedules` .* at t = 0.1, where") as caught:
        run_engine(engine, z, 10, generator=source, every=5, refits=0)
    assert not isinstance(caught.value, RunStoppedError)  # at the door


def test_resets_are_listed() -> None:
    engine = Engine(Flat(1), constant_schedules(), dt=0.1, resets=CloudReset(0.5, times=(0.2, 0.7)))
    z = torch.randn(20, 1, generator=generator(9))
    found = run_engine(engine, z, 10, generator=generator(10), observed=False)
    assert found.redrawn == pytest.approx((0.2, 0.7))


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
        (torch.full((4, 2), torch.inf), {}, "must be finite. It holds nan or inf in 4 of 4 rows"),
        (torch.zeros(4, 2), {"steps": 3.0}, "at least 1 and a whole number. Got 3.0"),
        (torch.zeros(4, 2), {"every": 0}, "`every` of `run_engine` must be at least 1"),
        (torch.zeros(4, 2), {"steps": 0}, "`steps` of `run_engine` must be at least 1"),
        (torch.zeros(0, 2), {"observed": False}, r"of shape \(n, 2\). Got \(0, 2\)"),
        (torch.zeros(9, 2).half(), {}, "float32 or float64. Got torch.float16, .*`start.float"),
        (torch.zeros(10, 2), {}, "need at least 20 particles; .* has 10. Use more, `refits=0`"),
        (torch.zeros(3, 2), {"refits": 0}, "at least 4 particles; .* has 3. Use more, or `observ"),
        (torch.zeros(9, 2), {"refits": 3}, "`refits` of `run_engine` must be 0 or at least 5"),
        (State(torch.zeros(4, 3)), {}, r"of shape \(n, 2\). Got \(4, 3\)"),
    ],
)
def test_unfit_runs_are_refused(start: Tensor | State, change: dict, sentence: str) -> None:
    engine = Engine(Quadratic(1.0, dimension=2), constant_schedules(), dt=0.01)
    with pytest.raises(ValueError, match=sentence):
        run_engine(engine, start, **{"steps": 5, "generator": generator(), **change})


def test_particles_that_run_away_stop_the_run() -> None:
    """x' = +x^2-like escape in float32: a saddle of curvature -1e4 with eta dt = 1."""
    engine = Engine(Quadratic(-1e4), constant_schedules(), dt=1.0)
    with pytest.raises(RunStoppedError, match="left the finite numbers by step 10") as caught:
        run_engine(engine, torch.ones(4, 1), 20, generator=generator(), observed=False)
    assert caught.value.recorded.times == (0.0,)
