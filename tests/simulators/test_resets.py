"""Resets: laws with closed forms, rows in their places, and what is refused."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch

from foreshock.simulators.decoder import DecoderPotential
from foreshock.simulators.diffusion import ParticleFisher
from foreshock.simulators.particles import Engine, State, reset_now, step
from foreshock.simulators.potentials import Quadratic
from foreshock.simulators.resets import CloudReset, PointReset, below, jumped, planned, redraw
from foreshock.simulators.schedules import constant_schedules
from tests.simulators.decoders import generator
from tests.simulators.flat import Flat


def free(resets: PointReset | CloudReset | None, dt: float, dimension: int = 1) -> Engine:
    """Free diffusion with D = 1."""
    return Engine(Flat(dimension), constant_schedules(), dt=dt, resets=resets)


def test_t8_law_of_reset_particles_is_laplace() -> None:
    """D = r = 1: variance 2, kurtosis 6. The step's own variance is 2 dt (1-p)/p, p = 1-e^{-dt}."""
    dt, n = 0.02, 20_000
    engine = free(PointReset(torch.zeros(1), rate=1.0), dt)
    state, source = State(torch.zeros(n, 1)), generator(1)
    for _ in range(round(8 / dt)):  # e^{-8}: the start is forgotten
        state = step(engine, state, source)
    x = state.z[:, 0].double()
    p = -math.expm1(-dt)
    scheme = 2 * dt * (1 - p) / p
    assert scheme == pytest.approx(2, rel=0.011)  # First order in r dt: 1 %.
    variance = float(x.var())
    assert abs(variance - scheme) < 4 * scheme * math.sqrt(5 / n)  # se = v sqrt((kappa - 1)/n)
    # Quantiles of |x| are those of an exponential of scale 1; 4 se of the mean, plus 1 % of step.
    assert float(x.abs().mean()) == pytest.approx(1, abs=4 / math.sqrt(n) + 0.01)
    kurtosis = float(x.pow(4).mean() / x.pow(2).mean() ** 2)
    # se of the sample kurtosis: sqrt((m8 - 4 m4 m6/m2 + 4 m4^3/m2^2 - m4^2)/n)/m2^2, with the
    # moments k! of a Laplace law: sqrt((40320 - 4*24*720/2 + 4*13824/4 - 576)/n)/4.
    error = math.sqrt((40320 - 34560 + 13824 - 576) / n) / 4
    assert abs(kurtosis - 6) < 4 * error


def test_t8_mean_first_passage_with_resets_is_e_minus_one() -> None:
    """D = r = L = 1: (e^{aL} - 1)/r = 1.718, with the crossing test of the Brownian bridge.

    Jumps at the end of a step delay a reset by dt/2 on average, and the passage is dated at the end
    of its step: a bias of O(dt), bounded here by 2 dt.
    """
    dt, n = 0.01, 6000
    engine = free(PointReset(torch.zeros(1), rate=1.0), dt)
    source = generator(2)
    state = State(torch.zeros(n, 1))
    # The bridge needs the diffusion alone, so that the jump comes after the crossing test.
    inside = torch.ones(n, dtype=torch.bool)
    passage = torch.full((n,), math.inf, dtype=torch.float64)
    still = free(None, dt)
    for k in range(1, round(20 / dt)):  # P(T > 20) ~ e^{-20/1.7}: nobody is cut off unnoticed
        before = state.z[:, 0]
        state = step(still, state, source)
        after = state.z[:, 0]
        bridge = torch.exp(-(1 - before).clamp(min=0) * (1 - after).clamp(min=0) / dt)
        crossed = torch.rand(n, generator=source) < bridge
        passage[inside & crossed] = k * dt
        inside &= ~crossed
        if not inside.any():
            break
        z, _ = jumped(engine.resets, state.z, dt, source)
        state = State(z, state.steps)
    passage = passage[torch.isfinite(passage)]
    assert len(passage) > n - 5
    error = float(passage.std()) / math.sqrt(len(passage))
    assert abs(float(passage.mean()) - (math.e - 1)) < 4 * error + 2 * dt


def test_t8_covariance_after_a_cloud_reset_is_one_plus_half_alpha() -> None:
    """A19: at alpha = .2 the covariance grows by 1.1, the radius by 1.049, not by 1.5."""
    reset, n = CloudReset(0.2, stretch=1.5), 100_000
    z = torch.randn(n, 2, generator=generator(3), dtype=torch.float64) @ torch.tensor(
        [[1.0, 0.5], [0.0, 2.0]], dtype=torch.float64
    )
    after, _ = redraw(reset, z, generator(4))
    ratio = torch.cov(after.T) / torch.cov(z.T)
    # Only alpha n rows change: se of a variance ratio ~ sqrt(2 (alpha 1.5^2 + alpha)/n).
    error = math.sqrt(2 * (0.2 * 2.25 + 0.2) / n)
    assert abs(float(ratio[0, 0]) - 1.1) < 4 * error
    assert abs(float(ratio[1, 1]) - 1.1) < 4 * error
    assert reset.covariance_factor == pytest.approx(1.1)


def test_kept_rows_stay_in_place_bitwise() -> None:
    z = torch.randn(101, 3, generator=generator(5))
    after, mask = redraw(CloudReset(0.3), z, generator(6))
    assert int(mask.sum()) == 30
    assert torch.equal(after[~mask], z[~mask])
    assert (after[mask] != z[mask]).all()


def test_a_cloud_in_a_line_stays_in_it_even_with_few_particles() -> None:
    line = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None] * torch.ones(1, 4)
    after, mask = redraw(CloudReset(1.0), line, generator(7))
    assert mask.all()
    torch.testing.assert_close(after, after[:, :1].expand(5, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_cloud_in_a_line_stays_in_it_with_many_particles(dtype: torch.dtype) -> None:
    """n > 2d: off the line by the rounding of the coordinates, not by its root (3e-4 or 1e-8)."""
    direction = torch.tensor([1.0, 0.3, -2.0, 0.7], dtype=dtype)
    line = torch.linspace(-1, 1, 1000, dtype=dtype)[:, None] * direction
    after, mask = redraw(CloudReset(1.0), line, generator(7))
    unit = direction / direction.norm()
    off = (after - (after @ unit)[:, None] * unit).abs().max()
    assert mask.all() and float(off) < 100 * torch.finfo(dtype).eps
    assert float(after.std(0)[2]) == pytest.approx(1.22 * float(line.std(0)[2]), rel=0.1)


@pytest.mark.parametrize(("n", "d"), [(6, 4), (4, 4), (2, 1), (9, 4), (5, 2), (3, 1)])
def test_redrawn_rows_have_the_stretched_covariance_of_small_clouds(n: int, d: int) -> None:
    """stretch X'X/(n - 1) about the mean, on both sides of n = 2d: 4.5 se over many redraws."""
    z = torch.randn(n, d, generator=generator(8), dtype=torch.float64) + 3
    source, reset = generator(9), CloudReset(1.0, stretch=1.7)
    rows = torch.cat([redraw(reset, z, source)[0] for _ in range(12_000 // n)])
    expected = 1.7 * torch.atleast_2d(torch.cov(z.T))
    loose = rows - z.mean(0)
    found = loose.T @ loose / len(rows)
    variance = expected.diagonal()
    error = ((variance[:, None] * variance + expected.square()) / len(rows)).sqrt()
    assert ((found - expected).abs() < 4.5 * error).all()
    assert (loose.mean(0).abs() < 4.5 * (variance / len(rows)).sqrt()).all()


@pytest.mark.parametrize("time", [0.0, 0.004, 0.01, 0.014])
def test_a_plan_before_the_first_step_fires_at_its_end(time: float) -> None:
    for reset in (CloudReset(0.5, times=(time,)), PointReset(torch.zeros(1), 0.0, times=(time,))):
        state, source = State(torch.randn(20, 1, generator=generator(8))), generator(9)
        engine, fired = free(reset, 0.01), []
        for _ in range(5):
            state = step(engine, state, source)
            if state.redrawn is not None and bool(state.redrawn.any()):
                fired.append(state.steps)
        assert fired == [1]


def test_every_plan_fires_once_wherever_it_lies() -> None:
    """On the bounds of the windows too, which are (k + 1/2) dt computed one way."""
    times = tuple((k + 0.5) * 0.01 for k in range(0, 200, 2))
    state, source = State(torch.randn(4, 1, generator=generator(8))), generator(9)
    engine, fired = free(CloudReset(0.5, times=times), 0.01), 0
    for _ in range(210):
        state = step(engine, state, source)
        fired += state.redrawn is not None
    assert fired == 100


def test_a_point_of_another_dimension_is_refused_even_if_it_is_only_planned() -> None:
    with pytest.raises(ValueError, match="has 1 coordinates and the particles have 3"):
        free(PointReset(torch.tensor([7.0]), 0.0, times=(0.01,)), 0.01, dimension=3)


def test_planned_times_fire_once_each_and_the_refractory_time_is_obeyed() -> None:
    reset = CloudReset(0.5, times=(0.1, 0.15, 0.5), refractory=0.2)
    state, source = State(torch.randn(20, 1, generator=generator(8))), generator(9)
    fired = []
    engine = free(reset, 0.01)
    for _ in range(100):
        state = step(engine, state, source)
        if state.redrawn is not None:
            fired.append(state.steps)
    assert fired == [10, 50]  # .15 falls into the refractory time of .1
    assert planned((0.1,), 0.0, 0.1) is False and planned((0.1,), 0.1, 0.2) is True


def test_poisson_clock_of_the_cloud() -> None:
    """20,000 steps, each with probability p = 1 - e^{-r dt} = .39: within 4 sqrt(m p (1 - p)).

    That is 3.5 % of 7869; r dt in place of p would be 27 % more.
    """
    engine = free(CloudReset(0.1, rate=25.0), 0.02)
    state, source, events = State(torch.randn(10, 1, generator=generator(1))), generator(2), 0
    for _ in range(20_000):
        state = step(engine, state, source)
        events += state.redrawn is not None
    p = -math.expm1(-0.5)
    assert abs(events - 20_000 * p) < 4 * math.sqrt(20_000 * p * (1 - p))


def test_boost_raises_the_diffusion_for_its_time_only() -> None:
    """Variance gained: 2 (D + beta) dt per step while boosted, 2 D dt before and after."""
    n, dt = 100_000, 0.01
    engine = free(CloudReset(1e-6, times=(0.05,), boost=3.0, boost_time=0.05), dt)
    state, source = State(torch.zeros(n, 1)), generator(3)
    gains = []
    for _ in range(15):
        before = state.z
        state = step(engine, state, source)
        moved = state.z - before
        if state.redrawn is not None:
            moved = moved[~state.redrawn]
        gains.append(float(moved.var()) / (2 * dt))
    error = 4 * math.sqrt(2 / n)
    for k, gain in enumerate(gains):
        expected = 4.0 if 5 <= k < 10 else 1.0
        assert gain == pytest.approx(expected, rel=error), k


@pytest.mark.parametrize("mode", ["published", "gibbs"])
def test_boost_is_in_the_noise_that_follows_a_decoder(mode: str) -> None:
    """Variance of a step 2 (D (1 + gamma F) + beta) dt while boosted; published is the fused step.

    Decoder (z1 + z2, z1): F = [[2, 1], [1, 1]]/sigma^2, and a slope that moves the mean only.
    """
    n, dt, gamma = 40_000, 0.01, 0.5
    matrix = torch.tensor([[1.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    potential = DecoderPotential(
        lambda z: z @ matrix, torch.ones(n, 2).double(), dimension=2, noise_scale=2.0
    )
    resets = CloudReset(0.2, boost=3.0, boost_time=0.015)
    engine = Engine(
        potential, constant_schedules(0.5, 0.8), dt, ParticleFisher(gamma), mode, resets
    )
    boosted = State(torch.zeros(n, 2, dtype=torch.float64), steps=4, boosted_until=0.055)
    base = 0.8 * (torch.eye(2) + gamma * matrix @ matrix.T / 4).double()
    source = generator(3)
    for expected in (base + 3 * torch.eye(2), base + 3 * torch.eye(2), base):
        z = boosted.z
        boosted = step(engine, replace(boosted, z=torch.zeros_like(z)), source)
        found = torch.cov(boosted.z.T) / (2 * dt)
        d = expected.diagonal()
        error = ((d[:, None] * d + expected.square()) / n).sqrt()
        assert ((found - expected).abs() < 4.5 * error).all()


def test_reset_now_is_for_detectors() -> None:
    engine = free(CloudReset(0.5, refractory=1.0), 0.01)
    state, source = State(torch.randn(10, 1, generator=generator(4)), steps=5), generator(5)
    after = reset_now(engine, state, source)
    assert after.redrawn is not None and int(after.redrawn.sum()) == 5
    assert after.last_reset == pytest.approx(0.05)
    assert reset_now(engine, after, source) is after
    with pytest.raises(ValueError, match="resets=CloudReset"):
        reset_now(free(None, 0.01), state, source)


def test_planned_jump_moves_all_particles_to_the_point() -> None:
    engine = free(PointReset(torch.tensor([2.0]), rate=0.0, times=(0.02,)), 0.01)
    state, source = State(torch.zeros(50, 1)), generator(6)
    for _ in range(2):
        state = step(engine, state, source)
    assert (state.z == 2.0).all()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: CloudReset(0.0), r"`fraction` of `CloudReset` must be in \(0, 1\]"),
        (lambda: CloudReset(stretch=0.0), "`stretch` of `CloudReset` must be positive"),
        (lambda: CloudReset(refractory=-1.0), "`refractory` of `CloudReset` must be finite"),
        (lambda: CloudReset(boost=2.0), "lasts 0. Set `boost_time`"),
        (lambda: CloudReset(rate=-1.0), "`rate` of `CloudReset` must be finite and at least 0"),
        (lambda: CloudReset(times=(2.0, 1.0)), "`times` of `CloudReset` must rise"),
        (lambda: PointReset(torch.zeros(1), 0.0), "`PointReset` never fires"),
        (lambda: PointReset(torch.zeros(1, 1), 1.0), r"of shape \(d,\). Got shape \(1, 1\)"),
        (lambda: redraw(CloudReset(), torch.zeros(1, 2), generator()), "at least two particles"),
        (
            lambda: jumped(PointReset(torch.zeros(2), 1.0), torch.zeros(3, 1), 0.1, generator()),
            "has 2 coordinates and the particles have 1",
        ),
    ],
)
def test_unfit_resets_are_refused(make, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make()


def test_resets_and_drift_together_have_the_variance_of_their_moment_equation() -> None:
    """OU with Poisson resets to 0: dv/dt = -2kv + 2D - r v, so v = 2D/(2k + r) = .4 at k=2, r=1."""
    dt, n = 0.01, 20_000
    engine = Engine(
        Quadratic(torch.tensor([[2.0]])),
        constant_schedules(),
        dt=dt,
        resets=PointReset(torch.zeros(1), rate=1.0),
    )
    state, source = State(torch.zeros(n, 1)), generator(7)
    for _ in range(300):
        state = step(engine, state, source)
    p = -math.expm1(-dt)
    keep = (1 - p) * (1 - 2 * dt) ** 2
    scheme = (1 - p) * 2 * dt / (1 - keep)
    assert scheme == pytest.approx(0.4, rel=0.02)
    assert float(state.z.var()) == pytest.approx(scheme, rel=4 * math.sqrt(4 / n))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("probability", [2.0**-26, 2.0**-24, 0.3 * 2.0**-23, 2.3e-5, 0.0])
def test_a_draw_on_the_grid_decides_for_every_probability(dtype, probability: float) -> None:
    """Exactly: sum over the 2^24 values of P(below | value)/2^24 is p; 2^-26 read 2^-24 before.

    P(below | value) is 1 under the cell of p and 0 above; in it, the share found in many draws.
    """
    if dtype == torch.float64:
        probability *= 2.0**-29
    cells = 2.0 ** (24 if dtype == torch.float32 else 53)
    cell = math.floor(probability * cells)
    near = sorted({max(cell - 1, 0), cell, cell + 1})
    near = torch.tensor(near, dtype=torch.float64) / cells
    draws = near[near < 1].to(dtype).repeat(20_000, 1)
    shares = below(draws, probability, generator(30)).double().mean(0)
    whole = cell + float(shares[draws[0] == cell / cells].sum())
    assert whole / cells == pytest.approx(probability, abs=4.5 * 0.5 / math.sqrt(20_000) / cells)
    assert set(shares[draws[0] != cell / cells].tolist()) <= {0.0, 1.0}


def test_draws_outside_of_the_cell_are_decided_and_drawn_as_before() -> None:
    """No further draw, so the path of all other seeds stays what it was."""
    source, twin = generator(32), generator(32)
    draws = torch.rand(100_000, generator=source)
    assert torch.equal(draws, torch.rand(100_000, generator=twin))
    for probability in (1e-5, 1e-4, 0.01, 1.0):
        assert torch.equal(below(draws, probability, source), draws < probability)
    assert torch.equal(source.get_state(), twin.get_state())


def test_both_clocks_ask_for_the_exact_probability(monkeypatch) -> None:
    """With draws that are all 0 a particle jumps with p 2^24, here a quarter, and so the cloud."""
    rand, calls = torch.rand, itertools.count()

    def first_zeros(*size, **how):
        return rand(*size, **how) * (next(calls) % 2)

    monkeypatch.setattr(torch, "rand", first_zeros)
    rate, source, z = 2.0**-26 / 0.1, generator(33), torch.randn(4000, 1, generator=generator(34))
    _, mask = jumped(PointReset(torch.zeros(1), rate), z, 0.1, source)
    assert abs(float(mask.double().mean()) - 0.25) < 4.5 * math.sqrt(0.25 * 0.75 / 4000)
    engine, fired = free(CloudReset(0.5, rate=rate), 0.1), 0
    for _ in range(1000):
        state = step(engine, State(z[:10]), source)
        fired += state.redrawn is not None
    assert abs(fired / 1000 - 0.25) < 4.5 * math.sqrt(0.25 * 0.75 / 1000)
