"""Dimension of the path: closed forms, clouds of known dimension, and its AR(1) null."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from foreshock.estimators.trajectory import Trajectory, trajectory_dimension
from foreshock.probe.moment import Moment
from foreshock.probe.view import ModelView
from foreshock.stats.trajectory import gram_dimension
from foreshock.types import Flag

PR, CD, RHO = (f"trajectory/{x}" for x in ("participation_ratio", "correlation_dimension", "rho_1"))


@pytest.mark.parametrize("spectrum", [[1.0] * 7, [4.0, 2.0, 1.0], [1.0, 0.5, 0.25, 0.125]])
def test_participation_ratio_of_a_known_spectrum(spectrum: list[float]) -> None:
    n, rng = 12, np.random.default_rng(0)
    left = np.linalg.qr(rng.standard_normal((n, n)))[0][:, : len(spectrum)]
    right = np.linalg.qr(rng.standard_normal((50, 50)))[0][:, : len(spectrum)]
    updates = left * np.sqrt(spectrum) @ right.T
    truth = sum(spectrum) ** 2 / sum(s * s for s in spectrum)
    for scale in (1e-120, 1.0, 1e150):
        got = trajectory_dimension(scale * updates, draws=39)[PR]
        assert got.value == got.low == got.high == pytest.approx(truth, rel=1e-12)
    tensor = torch.from_numpy(updates).float()
    # float32 rounds the updates to 6e-8, the products are float64
    assert trajectory_dimension(tensor, draws=39)[PR].value == pytest.approx(truth, rel=1e-6)


def ball(n: int, k: int, rng: np.random.Generator) -> np.ndarray:
    """Uniform points of the k-ball, turned into 10 dimensions."""
    x = rng.standard_normal((n, k))
    x *= rng.random((n, 1)) ** (1 / k) / np.linalg.norm(x, axis=1, keepdims=True)
    return x @ np.linalg.qr(rng.standard_normal((10, 10)))[0][:k]


@pytest.mark.parametrize("k", [1, 2, 3])
def test_correlation_dimension_of_a_line_a_disc_and_a_ball(k: int) -> None:
    runs, values, hits = 40, [], 0
    for seed in range(runs):
        got = trajectory_dimension(ball(300, k, np.random.default_rng([seed, k])), draws=39)[CD]
        assert got.flags == Flag.NONE
        values.append(got.value)
        hits += got.low <= k <= got.high
    # Takens' mean at finite r_c, 1/D = ∫ C(r)/C(r_c) dr/r with C(r) of the k-ball in closed form
    # (the disc by quadrature of its distance law), at C(r_c) = .05.
    r = np.linspace(1e-6, 1, 200_001)
    density = {
        1: 1 - r / 2,
        2: 2 * r * (2 / np.pi * np.arccos(r / 2) - r / np.pi * np.sqrt(1 - r**2 / 4)),
        3: 3 * r**2 - 9 / 4 * r**3 + 3 / 16 * r**5,
    }[k]
    share = np.cumsum(density) * (r[1] - r[0])
    last = int(np.searchsorted(share, 0.05))
    truth = share[last] / ((share[:last] / r[:last]).sum() * (r[1] - r[0]))
    error = 4 * np.std(values) / math.sqrt(runs)  # 4 standard errors; 1/mean is biased by 1/pairs
    assert np.mean(values) == pytest.approx(truth, abs=error + 0.002 * k)
    assert truth > 0.92 * k
    # A hull of two intervals holds the limit at least as often as 95 %: 34 of 40 has p = .01.
    assert hits >= 34


def walk(n: int, p: int, rho: float, rng: np.random.Generator) -> np.ndarray:
    """A stationary AR(1) sequence."""
    x = rng.standard_normal((n, p))
    for t in range(1, n):
        x[t] = rho * x[t - 1] + math.sqrt(1 - rho**2) * x[t]
    return x


@pytest.mark.parametrize(
    ("n", "p", "rho"), [(30, 800, 0.6), (30, 20, 0.0), (40, 20, 0.9), (40, 5, 0.5), (30, 90, -0.4)]
)
def test_null_holds_a_walk(n: int, p: int, rho: float) -> None:
    runs = 60
    hits = {PR: 0, CD: 0}
    for seed in range(runs):
        got = trajectory_dimension(walk(n, p, rho, np.random.default_rng([seed, p])), draws=99)
        for name in hits:
            low, high = got[name].null
            hits[name] += low <= got[name].value <= high
    # Nominal 95 %; ρ is fitted to the same updates, which makes it more. 51 of 60 has p = .003.
    assert min(hits.values()) >= 51


def test_null_tells_a_plane_from_a_walk_and_momentum_from_a_plane() -> None:
    rng = np.random.default_rng(3)
    planar = walk(60, 2, 0.5, rng) @ rng.standard_normal((2, 400))
    got = trajectory_dimension(planar)
    assert got[PR].value < 2.01 < got[PR].null[0]
    assert got[CD].value < 3 < got[CD].null[0]
    assert got[RHO].value > 0.2 > got[RHO].null[1]
    free = trajectory_dimension(walk(60, 400, 0.9, rng))[PR]
    assert free.value < 15 and free.null[0] <= free.value <= free.null[1]


def test_what_few_updates_cannot_resolve_is_flagged() -> None:
    rng = np.random.default_rng(4)
    got = trajectory_dimension(rng.standard_normal((60, 2000)))
    assert got[CD].flags == Flag.UNRESOLVED and got[CD].value > 2 * math.log10(60)
    few = trajectory_dimension(rng.standard_normal((12, 5)))
    assert few[PR].resolved and not few[CD].resolved
    two = trajectory_dimension(rng.standard_normal((2, 5)))
    zero = trajectory_dimension(np.eye(30) * (np.arange(30) > 0))
    bad = trajectory_dimension(np.full((30, 3), math.nan))
    for missing in (two, zero, bad):
        assert all(estimate.flags == Flag.UNRESOLVED for estimate in missing.values())
    twice = rng.standard_normal((15, 4)).repeat(2, axis=0)
    assert trajectory_dimension(twice)[CD].flags & Flag.BELOW_PRECISION
    same = trajectory_dimension(np.ones((30, 4)))
    assert same[PR].value == pytest.approx(1) and same[CD].flags & Flag.BELOW_PRECISION


def test_dimension_refuses_what_it_cannot_use() -> None:
    with pytest.raises(ValueError, match="matrix"):
        trajectory_dimension(np.ones(3))
    with pytest.raises(ValueError, match="square"):
        gram_dimension(np.ones((3, 2)), dimension=5)
    with pytest.raises(ValueError, match="dimension"):
        gram_dimension(np.eye(3), dimension=0.5)
    with pytest.raises(ValueError, match="draws"):
        gram_dimension(np.eye(3), dimension=5, draws=10)


def follow(
    path: np.ndarray, observable: Trajectory, dtype: torch.dtype = torch.float64
) -> list[dict]:
    """What the observable reads along given weights, one row a step."""
    model = torch.nn.Linear(path.shape[1], 1, bias=False, dtype=dtype)
    view, state, found = ModelView(model), observable.init(), []
    for step, weights in enumerate(path):
        with torch.no_grad():
            model.weight.copy_(torch.from_numpy(weights)[None])
        moment = Moment(observable.stride * step, view, (None,), (0.1,))
        state, readings = observable.update(state, moment)
        found.append(dict(readings.scalars))
    return found


def test_observable_reads_the_last_updates() -> None:
    rng = np.random.default_rng(5)
    path = np.cumsum(walk(29, 60, 0.5, rng), 0)
    read = follow(path, Trajectory(width=24, stride=10, draws=99))
    assert all("24 updates so far" in one[PR].reason for one in read[:24])
    for last in (24, 28):
        truth = trajectory_dimension(np.diff(path, axis=0)[last - 24 : last], draws=99)
        for name in (PR, CD, RHO):
            assert read[last][name].value == pytest.approx(truth[name].value, rel=1e-9)
            assert read[last][name].null == pytest.approx(truth[name].null, rel=1e-9)


def test_sketched_path() -> None:
    # 20,000 weights in 4,096 numbers: ratios are sums of 600 products, each off by 1/64 of the
    # norms; tr(G²) gains n/4,096 = 0.6 % of tr(G)²/n, and 5 sd of its noise are less than 4 %.
    rng = np.random.default_rng(6)
    flat = walk(24, 3, 0.3, rng) @ rng.standard_normal((3, 20_000))
    path = np.cumsum(np.concatenate([rng.standard_normal((1, 20_000)), flat]), 0)
    exact = follow(path, Trajectory(width=24, stride=1, draws=39, sketch=20_000))[-1]
    sketched = follow(path, Trajectory(width=24, stride=1, draws=39, sketch=4096))[-1]
    for name, tolerance in ((PR, 0.04), (CD, 0.1), (RHO, 0.1)):
        assert sketched[name].value == pytest.approx(exact[name].value, rel=tolerance)
    assert exact[PR].value < 3.01 < exact[PR].null[0]  # three directions are found as such
    assert exact[PR].null == pytest.approx(sketched[PR].null, rel=0.05)


def test_a_sketched_walk_stays_in_its_null() -> None:
    # Of 40 walks nominally 38 lie in the band; 33 of 40 has p = .003. Without the sketch in the
    # null none would: the band of 5,000 dimensions lies above what 1,024 numbers can show.
    inside = outside = 0
    for seed in range(40):
        steps = walk(13, 5000, 0.0, np.random.default_rng(seed))
        watch = Trajectory(width=12, stride=1, draws=99, sketch=1024, seed=seed)
        read = follow(np.cumsum(steps, 0), watch)[-1][PR]
        inside += read.null[0] <= read.value <= read.null[1]
        exact = trajectory_dimension(steps[1:], draws=39)[PR]
        outside += read.value < exact.null[0]
    assert inside >= 33 and outside >= 33


def test_a_change_of_distance_starts_anew() -> None:
    model = torch.nn.Linear(5, 1)
    view, observable = ModelView(model), Trajectory(width=3, stride=1)
    state = observable.init()
    reasons = []
    for step in (0, 1, 2, 4, 5, 6, 7):
        with torch.no_grad():
            model.weight.add_(torch.randn(1, 5, generator=torch.Generator().manual_seed(step)))
        state, read = observable.update(state, Moment(step, view, (None, None), (0.1,)))
        reasons.append(read.scalars[PR].reason)
    # the jump from 2 to 4 empties the window; three more even steps fill it
    assert [r[19:20] for r in reasons] == ["0", "1", "2", "0", "1", "2", ""]


def test_no_step_and_coarse_weights_are_said() -> None:
    rng = np.random.default_rng(7)
    still = follow(np.ones((5, 8)), Trajectory(width=4, stride=1))[-1]
    assert all("zero or not finite" in e.reason for e in still.values())
    # Steps of 1e-3 around weights of 1: bfloat16 keeps 8 bits, so most of a step is rounding.
    path = 1 + np.cumsum(1e-3 * rng.standard_normal((5, 80)), 0)
    coarse = follow(path, Trajectory(width=4, stride=1), torch.bfloat16)[-1]
    fine = follow(path, Trajectory(width=4, stride=1), torch.float32)[-1]
    assert Flag.BELOW_PRECISION in coarse[PR].flags and "bfloat16" in coarse[PR].reason
    assert fine[PR].flags == Flag.NONE
    spoiled = follow(np.full((5, 8), np.nan), Trajectory(width=4, stride=1))[-1]
    assert all(e.flags & Flag.UNRESOLVED for e in spoiled.values())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"width": 2}, "`width`"),
        ({"stride": 0}, "`stride`"),
        ({"draws": 9}, "`draws`"),
        ({"sketch": 10}, "`sketch`"),
    ],
)
def test_the_observable_is_checked_at_the_door(arguments: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Trajectory(**arguments)
