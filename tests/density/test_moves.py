"""Measured flow against Ornstein-Uhlenbeck closed forms, with noise that particles share or not."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from foreshock.density import fit_score, measured_flow
from foreshock.density.moves_intervals import Replicas, square
from foreshock.density.moves_terms import Sums, Terms, common_noise, drift_power
from foreshock.simulators.exact import ou_consolidation, ou_entropy_production, ou_entropy_rate
from foreshock.types import Estimate, Flag
from tests.density.clouds import gaussian, mixing, two_wells

INVARIANT = (
    "consolidation",
    "cosine",
    "irreversibility",
    "entropy_production",
    "entropy_production_bound",
    "entropy_rate",
    "drift_power",
    "fisher",
    "common_noise",
    "diffusion_spread",
)


def noise(n: int, count: int, d: int, seed: int, *, share: float = 0.0, dtype=torch.float32):
    """(n, N, d) of unit variance, of which `share` is the same for all particles."""
    generator = torch.Generator().manual_seed(1000 + seed)
    common = torch.randn(n, 1, d, generator=generator, dtype=dtype)
    own = torch.randn(n, count, d, generator=generator, dtype=dtype)
    return math.sqrt(share) * common + math.sqrt(1 - share) * own


def near(estimate: Estimate, truth: float) -> bool:
    """Within twice the 95 % interval, about 4 standard errors, on the side of the truth."""
    low = estimate.value - 2 * (estimate.value - estimate.low)
    high = estimate.value + 2 * (estimate.high - estimate.value)
    return low <= truth <= high


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("d", [1, 2, 8])
def test_an_ornstein_uhlenbeck_cloud_reads_its_closed_forms(d, share) -> None:
    count, n, s, m, k, diffusion = 256, 32, 0.25, 1.0, 0.9, 0.8
    z = gaussian(count, d, seed=d, mean=m, variance=s)
    moves = -k * z + math.sqrt(2 * diffusion) * noise(n, count, d, d, share=share)
    found = measured_flow(fit_score(z), moves)
    means = np.full(d, m)
    truths = {
        "consolidation": ou_consolidation(means, s, k, diffusion),
        "entropy_production": ou_entropy_production(means, s, k, diffusion),
        "entropy_rate": ou_entropy_rate(np.full(d, s), k, diffusion),
        "drift_power": d * k**2 * (s + m**2) / diffusion,
        "fisher": d * diffusion / s,
        "drift": math.sqrt(d * k**2 * (s + m**2)),
        "diffusion": d * diffusion,
        "cosine": k / math.sqrt(k**2 * (s + m**2) / s),
        "common_noise": share,
        "diffusion_spread": 0.0,
    }
    # C^2 = k^2 s (s + |m|^2/d)/D^2.
    assert truths["consolidation"] ** 2 == pytest.approx(k**2 * s * (s + m**2) / diffusion**2)
    for name, truth in truths.items():
        estimate = getattr(found, name)
        assert near(estimate, truth), (name, estimate, truth)
        assert estimate.low <= estimate.value <= estimate.high
    # What is told of it is not empty: own noise leaves the particles' own scatter, sqrt(2/(N d))
    # of I and a few times that of what is made of it.
    if share == 0:
        width = found.entropy_production.high - found.entropy_production.low
        assert width < 0.6 * found.entropy_production.value
    assert found.entropy_production_bound.low <= truths["entropy_production"]
    assert torch.allclose(found.velocity, found.mean - fit_score(z).values.double() @ found.tensor)


@pytest.mark.parametrize("d", [1, 3])
def test_drift_power_is_unbiased_where_all_particles_share_the_noise(d) -> None:
    # Rigid noise has n - 1 degrees of freedom: without h, D^-1 is (n - 1)/(n - d - 2) = 1.15 (1.36)
    # times too large, and without -2 d/n pure noise would read that.
    n, cases = 16, 3000
    rng = np.random.default_rng(0)
    drift = rng.standard_normal((50, d))
    found, still = [], []
    for _ in range(cases):
        rows = math.sqrt(2) * rng.standard_normal((n, d))
        mean = rows.mean(0)
        rows = rows - mean
        scatter = np.einsum("bi,bj->bij", rows, rows)
        shared = scatter.sum(0) / (n - 1)
        pull = np.full((d, d), math.nan)
        moved = (drift + mean).T @ (drift + mean) / 50
        found.append(drift_power(Terms(n, 50, moved, scatter, shared, math.nan, pull)))
        still.append(
            drift_power(Terms(n, 50, np.outer(mean, mean), scatter, shared, math.nan, pull))
        )
    truth = float((drift**2).sum(1).mean())  # D = 1
    # 4 standard errors of the mean of the cases.
    assert np.mean(found) == pytest.approx(truth, abs=4 * np.std(found) / math.sqrt(cases))
    assert np.mean(still) == pytest.approx(0, abs=4 * np.std(still) / math.sqrt(cases))


def test_pure_noise_reads_no_drift() -> None:
    # Of 60 intervals that hold 0 with 95 %, fewer than 51 do so in 0.3 % of all tries.
    cases, held, values = 60, 0, []
    for seed in range(cases):
        z = gaussian(48, 1, seed=seed)
        moves = noise(16, 48, 1, seed, share=1.0)
        found = measured_flow(fit_score(z, "gaussian"), moves, refits=5)
        power = found.drift_power
        held += power.low <= 0 <= power.high
        values.append(power.value)
        hidden = bool(found.consolidation.flags & Flag.UNRESOLVED)
        assert hidden == bool(power.flags & Flag.UNRESOLVED) == (power.low <= 0 <= power.high)
    assert held >= 51
    # Uncorrected, the mean would be 2/n = .125; 4 standard errors are .1.
    assert np.mean(values) == pytest.approx(0, abs=4 * np.std(values) / math.sqrt(cases))
    assert min(values) < 0  # kept, not clipped


@pytest.mark.parametrize("d", [1, 3])
def test_nothing_but_sizes_changes_with_the_coordinates(d) -> None:
    z = gaussian(120, d, seed=3, mean=0.5, dtype=torch.float64)
    moves = -z + noise(16, 120, d, 3, share=0.4, dtype=torch.float64)
    change = mixing(d, seed=1)
    plain = measured_flow(fit_score(z), moves)
    mixed = measured_flow(fit_score(z @ change.T + 3), moves @ change.T)
    for name in INVARIANT:
        for end in ("value", "low", "high"):
            before, after = getattr(getattr(plain, name), end), getattr(getattr(mixed, name), end)
            assert after == pytest.approx(before, rel=1e-7, abs=1e-9), name
    assert torch.allclose(mixed.velocity, plain.velocity @ change.T)
    # A step in other units of time: rates scale, what has no unit does not.
    slow = measured_flow(fit_score(z), 0.1 * moves)
    assert slow.drift.value == pytest.approx(0.1 * plain.drift.value)
    assert slow.diffusion.value == pytest.approx(0.01 * plain.diffusion.value)
    assert slow.drift_power.value == pytest.approx(plain.drift_power.value)


@pytest.mark.parametrize("share", [0.0, 0.6])
def test_leaving_a_batch_or_particles_out_equals_measuring_without(share) -> None:
    z = gaussian(40, 2, seed=4)
    moves = -z + noise(9, 40, 2, 4, share=share)
    sums, none = Sums(moves, 5), np.zeros((2, 2))
    whole = sums.without_group(None, 0.0, none)
    for b, part in enumerate(sums.without_batches(whole, sums.crosses(z))):
        keep = torch.arange(9) != b
        direct = Sums(moves[keep], 5)
        expected = direct.without_group(None, 0.0, none)
        assert np.allclose(part.square, expected.square)
        assert np.allclose(part.diffusion, expected.diffusion)
        assert np.allclose(part.shared, expected.shared)
        assert part.cross == pytest.approx(direct.crosses(z).mean())
        assert np.allclose(part.scatter, expected.scatter)
        assert part.power == pytest.approx(expected.power)
    for g in range(5):
        keep = sums.fold != g
        part = sums.without_group(g, 0.0, none)
        expected = Sums(moves[:, keep], 5).without_group(None, 0.0, none)
        assert np.allclose(part.scatter, expected.scatter)
        assert drift_power(part) == pytest.approx(drift_power(expected))
        assert common_noise(part) == pytest.approx(common_noise(expected))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_diffusion_that_varies_is_seen_beyond_the_noise(share) -> None:
    count, n = 400, 32
    z = gaussian(count, 1, seed=5)
    size = 1 + 0.8 * torch.sin(2 * z)  # D_i
    moves = -z + (2 * size).sqrt() * noise(n, count, 1, 5, share=share)
    found = measured_flow(fit_score(z), moves).diffusion_spread
    truth = float(size.std() / size.mean())
    assert truth > 0.5 and found.low > 0.3
    # Shared noise is a factor that cancels: what is left is rounding and the drift of a particle.
    assert near(found, truth)
    even = measured_flow(fit_score(z), -z + noise(n, count, 1, 5, share=share)).diffusion_spread
    assert even.low <= 0 <= even.high and abs(even.value) < 0.1


def test_a_square_that_a_jackknife_finds_exact_keeps_the_error_of_no_drift() -> None:
    # At mu = 0 an unbiased square is degenerate: its influences vanish, its error does not.
    replicas = Replicas(0.0, np.zeros(16), np.zeros(20))
    found = square(replicas, 0.5)
    assert found.value == 0
    # sinh of Student's quantile at 15 degrees of freedom, in units of the scale.
    assert found.high == pytest.approx(0.5 * math.sinh(2.1314), rel=1e-4)
    assert found.low == -found.high


def test_common_noise_reads_its_share() -> None:
    z = gaussian(200, 2, seed=6)
    for share in (0.0, 0.5, 1.0):
        found = measured_flow(fit_score(z), noise(32, 200, 2, 6, share=share)).common_noise
        assert near(found, share)
        assert found.null is not None
        if share == 0:
            assert found.null[0] < found.value < found.null[1] < 0.01
    assert found.value == pytest.approx(1, abs=1e-5)


def test_at_learning_rate_0_nothing_moves() -> None:
    z = gaussian(100, 2, seed=7)
    found = measured_flow(fit_score(z), torch.zeros(16, 100, 2))
    for estimate in (found.drift, found.diffusion):
        assert (estimate.value, estimate.low, estimate.high) == (0, 0, 0)
        assert not estimate.resolved and "Nothing moves" in estimate.reason
    for name in INVARIANT:
        assert math.isnan(getattr(found, name).value)
        assert "Nothing moves" in getattr(found, name).reason
    assert not found.mean.any() and not found.tensor.any() and not found.velocity.any()


def test_what_cannot_be_measured_is_refused_with_the_remedy() -> None:
    # d > (n - 1)/3: no inverse of D; I = E[s.Ds] and dH/dt are linear in D and stay.
    z = gaussian(200, 6, seed=8, mean=1.0)
    moves = -z + noise(16, 200, 6, 8)
    found = measured_flow(fit_score(z), moves)
    for name in ("consolidation", "entropy_production", "entropy_production_bound", "drift_power"):
        assert math.isnan(getattr(found, name).value)
        assert "at most 5" in getattr(found, name).reason
    assert found.fisher.resolved and found.entropy_rate.resolved and found.diffusion.resolved
    # d = 64, N = 32: the score is not valid either.
    z = gaussian(32, 64, seed=8)
    found = measured_flow(fit_score(z), -z + noise(16, 32, 64, 8))
    for name in INVARIANT:
        assert math.isnan(getattr(found, name).value) and getattr(found, name).reason
    assert found.entropy_rate.flags & Flag.INVALID_DENSITY
    assert math.isfinite(found.drift.value)
    # A score that is wrong takes with it what rests on it, and nothing else.
    z, _ = two_wells(400, 1, seed=8)
    moves = -z + noise(16, 400, 1, 8)
    wrong = measured_flow(fit_score(z, "gaussian"), moves)
    for name in ("consolidation", "cosine", "irreversibility", "entropy_production", "fisher"):
        assert getattr(wrong, name).flags & Flag.INVALID_DENSITY
        assert math.isnan(getattr(wrong, name).value)
    for name in ("drift_power", "drift", "diffusion", "common_noise", "entropy_production_bound"):
        assert getattr(wrong, name).resolved or name == "common_noise"
    # Not finite; no noise at all; copies.
    broken = moves.clone()
    broken[3, 5] = math.inf
    found = measured_flow(fit_score(z), broken)
    assert "not finite" in found.drift.reason and math.isnan(found.entropy_production.value)
    z = gaussian(100, 1, seed=8)
    same = measured_flow(fit_score(z), (-z).expand(8, 100, 1))
    assert same.diffusion.value == 0 and not same.diffusion.resolved
    assert same.drift.value == pytest.approx(float(z.square().mean().sqrt()))
    assert "singular" in same.drift_power.reason
    # Noise of a single batch: without it there is none.
    lone = (-z).repeat(8, 1, 1)
    lone[0] += 1
    found = measured_flow(fit_score(z), lone)
    assert math.isnan(found.diffusion.value) or found.diffusion.low >= 0
    assert found.drift_power.flags & Flag.UNRESOLVED
    twice = torch.cat([z, z])
    cloned = measured_flow(fit_score(twice), -twice + noise(8, 200, 1, 8))
    assert "copies" in cloned.entropy_production.reason and "copies" in cloned.drift_power.reason
    assert "copies" in cloned.entropy_production_bound.reason


def test_what_is_not_a_set_of_moves_is_refused_at_the_door() -> None:
    score = fit_score(gaussian(50, 2, seed=9))
    for moves in (torch.zeros(3, 50, 2), torch.zeros(8, 49, 2), torch.zeros(50, 2)):
        with pytest.raises(ValueError, match=r"`moves` of `measured_flow` must be"):
            measured_flow(score, moves)
    for refits in (4, 51):
        with pytest.raises(ValueError, match="`refits` of `measured_flow`"):
            measured_flow(score, torch.zeros(8, 50, 2), refits=refits)


def test_few_batches_refuse_what_needs_more() -> None:
    z = gaussian(60, 1, seed=10)
    found = measured_flow(fit_score(z), -z + noise(4, 60, 1, 10))
    assert math.isfinite(found.drift_power.value)
    assert "at least 6" in found.diffusion_spread.reason
    assert "too few" in found.entropy_production_bound.reason
    assert all(
        isinstance(getattr(found, field.name), Estimate | torch.Tensor)
        for field in dataclasses.fields(found)
    )
