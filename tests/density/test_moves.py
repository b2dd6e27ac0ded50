"""Measured flow against Ornstein-Uhlenbeck closed forms, with noise that particles share or not."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from foreshock.density import fit_score, measured_flow
from foreshock.density.moves_intervals import Replicas, square
from foreshock.density.moves_noise import noise_correlation
from foreshock.density.moves_terms import Sums, Terms, drift_power
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
    "noise_correlation",
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
        "flux": math.sqrt(d * ((diffusion / s - k) ** 2 * s + (k * m) ** 2)),
        "common_noise": share**2,
        "noise_correlation": share,
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
    # A bound is loose by the error of score and drift from halves: .7 of the truth and 4 standard
    # errors below it, no more than these above.
    bound, truth = found.entropy_production_bound, truths["entropy_production"]
    error = 4 * (bound.value - bound.low) / 1.645
    assert bound.low <= truth and 0.7 * truth - error < bound.value < truth + error
    assert share or error < 0.6 * truth
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
        found.append(drift_power(Terms(n, 50, moved, scatter, shared, pull, pull)))
        still.append(drift_power(Terms(n, 50, np.outer(mean, mean), scatter, shared, pull, pull)))
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
    whole = sums.without_group(None, none, none)
    for b, part in enumerate(sums.without_batches(whole, sums.crosses(z))):
        keep = torch.arange(9) != b
        direct = Sums(moves[keep], 5)
        expected = direct.without_group(None, none, none)
        assert np.allclose(part.square, expected.square)
        assert np.allclose(part.diffusion, expected.diffusion)
        assert np.allclose(part.shared, expected.shared)
        assert np.allclose(part.mixed, direct.crosses(z).mean(0))
        assert part.cross == pytest.approx(np.trace(direct.crosses(z).mean(0)))
        assert np.allclose(part.scatter, expected.scatter)
        assert part.power == pytest.approx(expected.power)
    for g in range(5):
        keep = sums.fold != g
        part = sums.without_group(g, none, none)
        expected = Sums(moves[:, keep], 5).without_group(None, none, none)
        assert np.allclose(part.scatter, expected.scatter)
        assert drift_power(part) == pytest.approx(drift_power(expected))
        assert noise_correlation(part) == pytest.approx(noise_correlation(expected))


def test_a_square_that_a_jackknife_finds_exact_keeps_the_error_of_no_drift() -> None:
    # At mu = 0 an unbiased square is degenerate: its influences vanish, its error does not.
    replicas = Replicas(0.0, np.zeros(16), np.zeros(20))
    found = square(replicas, 0.5)
    assert found.value == 0
    # sinh of Student's quantile at 15 degrees of freedom, in units of the scale.
    assert found.high == pytest.approx(0.5 * math.sinh(2.1314), rel=1e-4)
    assert found.low == -found.high


def test_at_learning_rate_0_nothing_moves() -> None:
    z = gaussian(100, 2, seed=7)
    found = measured_flow(fit_score(z), torch.zeros(16, 100, 2))
    for estimate in (found.drift, found.diffusion, found.flux):
        assert (estimate.value, estimate.low, estimate.high) == (0, 0, 0)
        assert not estimate.resolved and "Nothing moves" in estimate.reason
    for name in INVARIANT:
        assert math.isnan(getattr(found, name).value)
        assert "Nothing moves" in getattr(found, name).reason
    assert not found.mean.any() and not found.tensor.any() and not found.velocity.any()


def test_one_batch_that_alone_moves_is_refused_without_an_error() -> None:
    # Whole numbers over a power of 2, so that without that batch exactly nothing is left.
    x, moves = gaussian(200, 2, seed=1), torch.zeros(32, 200, 2)
    moves[3] = gaussian(200, 2, seed=2).round()
    found = measured_flow(fit_score(x), moves)
    for name in ("consolidation", "irreversibility", "entropy_production", "fisher"):
        one = getattr(found, name)
        assert math.isnan(one.value) and one.flags & Flag.UNRESOLVED
        assert one.reason.startswith("0/0")


def test_irreversibility_of_small_steps_is_a_ratio_of_either_sign() -> None:
    # A is debiased: below the noise it may lie under -I, and the ratio goes to 1 from above.
    source = torch.Generator().manual_seed(0)
    z = torch.randn(96, 2, generator=source)
    own = torch.randn(16, 96, 2, generator=source)
    moves = 0.01 * own + 0.01 * torch.randn(16, 1, 2, generator=source)
    found = measured_flow(fit_score(z), moves, refits=8)
    assert found.drift_power.value + found.fisher.value < 0
    assert found.irreversibility.low < 1 < found.irreversibility.high


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


def test_training_with_other_batches_has_another_noise() -> None:
    # Batches of the probe are 4 times smaller than those of training: D is a quarter. Moves of the
    # training batches themselves, noise halved, have the closed forms of D = .2.
    count, n, s, m, k, probe, ratio = 256, 32, 0.25, 1.0, 0.9, 0.8, 0.25
    z = gaussian(count, 2, seed=11, mean=m, variance=s)
    shocks = math.sqrt(2 * probe) * noise(n, count, 2, 11, share=0.5)
    score, diffusion = fit_score(z), ratio * probe
    found = measured_flow(score, -k * z + shocks, noise=ratio)
    means = np.full(2, m)
    truths = {
        "consolidation": ou_consolidation(means, s, k, diffusion),
        "entropy_production": ou_entropy_production(means, s, k, diffusion),
        "entropy_rate": ou_entropy_rate(np.full(2, s), k, diffusion),
        "drift_power": 2 * k**2 * (s + m**2) / diffusion,
        "fisher": 2 * diffusion / s,
        "drift": math.sqrt(2 * k**2 * (s + m**2)),
        "diffusion": 2 * diffusion,
        "cosine": k / math.sqrt(k**2 * (s + m**2) / s),
        "flux": math.sqrt(2 * ((diffusion / s - k) ** 2 * s + (k * m) ** 2)),
    }
    for name, truth in truths.items():
        assert near(getattr(found, name), truth), (name, getattr(found, name), truth)
    own = -k * z + math.sqrt(2 * probe) * noise(n, count, 2, 11)
    bound = measured_flow(score, own, noise=ratio).entropy_production_bound
    truth, error = truths["entropy_production"], 4 * (bound.value - bound.low) / 1.645
    assert 0.7 * truth - error < bound.value < truth + error and error < 0.6 * truth
    # Exactly: what the probe reads, by its powers of D; the noise of the drift's mean stays.
    plain = measured_flow(score, -k * z + shocks)
    assert found.drift_power.value == pytest.approx(plain.drift_power.value / ratio)
    assert found.fisher.value == pytest.approx(ratio * plain.fisher.value)
    assert found.drift.value == pytest.approx(plain.drift.value)
    assert torch.allclose(found.tensor, ratio * plain.tensor)
    assert torch.allclose(found.velocity, found.mean - score.values.double() @ found.tensor)
    for name in ("common_noise", "diffusion_spread", "cosine"):
        assert getattr(found, name).value == pytest.approx(getattr(plain, name).value, abs=0.05)


def test_training_on_the_whole_data_has_no_diffusion() -> None:
    z = gaussian(200, 2, seed=12, mean=1.0)
    score = fit_score(z)
    found = measured_flow(score, -z + noise(16, 200, 2, 12), noise=0.0)
    assert found.diffusion.value == 0 and not found.tensor.any()
    assert torch.equal(found.velocity, found.mean)
    for name in ("consolidation", "entropy_production", "entropy_production_bound", "drift_power"):
        assert math.isnan(getattr(found, name).value)
        assert "the whole data at once: no noise" in getattr(found, name).reason
    # Without diffusion the entropy changes by E[div mu] = -d alone, and the flux is the drift.
    assert near(found.entropy_rate, -2.0) and near(found.flux, 2.0)
    for noises in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="`noise` of `measured_flow`"):
            measured_flow(score, -z.expand(8, 200, 2), noise=noises)
    with pytest.raises(ValueError, match="`fraction`"):
        measured_flow(score, -z.expand(8, 200, 2), fraction=1.1)


def test_batches_that_are_a_whole_epoch_know_their_mean() -> None:
    # 25 batches without replacement are the population: their mean is the drift, without noise.
    # Taken as 25 of many, A = .3 reads .3 - 2 d/n = -.34.
    found = {0.0: [], 1.0: []}
    d, n, cases = 8, 25, 8
    for seed in range(cases):
        z = gaussian(64, d, seed=seed)
        shocks = noise(n, 64, d, seed, share=1.0) + 1e-3 * noise(n, 64, d, seed + 50)
        moves = math.sqrt(0.3 / d) + math.sqrt(2) * (shocks - shocks.mean(0))
        for fraction, values in found.items():
            flow = measured_flow(fit_score(z, "gaussian"), moves, refits=5, fraction=fraction)
            values.append(flow.drift_power.value)
            if fraction:  # the square of a mean that is known
                assert flow.drift.value == pytest.approx(math.sqrt(0.3), abs=1e-3)
    # A is .3/D of a D from 24 degrees of freedom: 4 standard errors of the mean of the cases.
    error = 4 * np.std(found[1.0]) / math.sqrt(cases)
    assert np.mean(found[1.0]) == pytest.approx(0.3, abs=error) and error < 0.25
    assert np.mean(found[0.0]) == pytest.approx(np.mean(found[1.0]) - 2 * d / n)


def test_at_equilibrium_nothing_is_produced_and_that_is_said() -> None:
    for seed in range(12):
        z = gaussian(96, 2, seed=seed)
        moves = -z + math.sqrt(2) * noise(16, 96, 2, seed, share=0.5)
        found = measured_flow(fit_score(z, "gaussian"), moves, refits=5)
        for name in ("entropy_production", "irreversibility", "entropy_rate", "flux"):
            estimate = getattr(found, name)
            holds = estimate.low <= 0 <= estimate.high
            assert holds == (not estimate.resolved), name
        bound = found.entropy_production_bound
        assert (bound.low <= 0) == (not bound.resolved) and math.isfinite(bound.value)
        seen = found.flux.low <= 0 <= found.flux.high
        assert seen or seed not in (0, 1, 2)


def test_a_rotation_is_the_flux_and_the_production_of_a_steady_state() -> None:
    # Equilibrium turned: v = omega J z exactly, |v|^2 = 2 omega^2, EP = 2 omega^2/D at D = 1.
    omega, z = 1.5, gaussian(400, 2, seed=14)
    turn = omega * torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    shocks = math.sqrt(2) * noise(32, 400, 2, 14, share=0.2)
    found = measured_flow(fit_score(z), -z + z @ turn.T + shocks)
    assert near(found.flux, math.sqrt(2) * omega) and found.flux.resolved
    assert found.flux.value == pytest.approx(math.sqrt(2) * omega, rel=0.15)
    assert near(found.entropy_production, 2 * omega**2)
    bound = found.entropy_production_bound
    assert bound.value == pytest.approx(2 * omega**2, rel=0.2) and bound.resolved
    still = measured_flow(fit_score(z), -z + shocks).flux
    assert still.low <= 0 <= still.high and not still.resolved
    assert abs(still.value) < 0.5


def test_a_batch_that_decides_alone_is_told() -> None:
    z = gaussian(100, 1, seed=15)
    shocks = noise(32, 100, 1, 15, share=0.5)
    calm = measured_flow(fit_score(z), -z + shocks)
    assert "One batch" not in calm.diffusion.reason
    shocks[3] *= 30
    wild = measured_flow(fit_score(z), -z + shocks)
    assert "One batch makes" in wild.diffusion.reason and "narrow" in wild.drift.reason
