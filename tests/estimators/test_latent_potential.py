"""Cosine and temperature where the latents are the weights, in closed form."""

import math

import pytest
import torch

from foreshock.estimators.latent_potential import NO_MOBILITY, against_loss
from foreshock.types import Flag

COSINE, TEMPERATURE = "latent/loss_cosine", "latent/temperature"


def noise(n: int, count: int, d: int, seed: int, share: float = 0.0):
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(n, 1, d, generator=generator).double()
    own = torch.randn(n, count, d, generator=generator).double()
    return math.sqrt(share) * common + math.sqrt(1 - share) * own


@pytest.mark.parametrize("rate, sigma", [(0.1, 1.0), (0.02, 3.0)])
def test_weights_of_linear_regressions_have_the_temperature_of_their_noise(rate, sigma) -> None:
    # N runs of SGD at theta_i, loss |theta|^2/2, gradient theta + sigma e: mu = -rate theta,
    # D = rate^2 sigma^2/2, so m = rate, T = rate sigma^2/2 and the cosine is 1.
    generator = torch.Generator().manual_seed(1)
    theta = 1 + torch.randn(400, 3, generator=generator).double()
    moves = -rate * (theta + sigma * noise(40, 400, 3, 2))
    found = against_loss(moves, theta)
    truth = rate * sigma**2 / 2
    for name, exact in ((COSINE, 1.0), (TEMPERATURE, truth)):
        estimate = found[name]
        assert estimate.low < exact < estimate.high and estimate.resolved
        # tr Cov of 48 000 numbers: .6 %; m of 1200 x 40: sigma/sqrt(48 000 E theta^2) = 1 %.
        assert estimate.value == pytest.approx(exact, rel=0.05)
        assert estimate.high - estimate.low < 0.2 * exact
        assert type(estimate.value) is type(estimate.low) is type(estimate.high) is float
    # Training with batches of a quarter: four times the noise, the same mobility.
    hot = against_loss(moves, theta, noise=4.0)
    assert hot[TEMPERATURE].value == pytest.approx(4 * found[TEMPERATURE].value)
    assert hot[TEMPERATURE].high == pytest.approx(4 * found[TEMPERATURE].high)
    assert hot[COSINE].value == pytest.approx(found[COSINE].value)
    cold = against_loss(moves, theta, noise=0.0)
    assert math.isnan(cold[TEMPERATURE].value) and "no noise" in cold[TEMPERATURE].reason
    assert cold[COSINE].resolved


def test_a_drift_across_the_slope_has_its_cosine() -> None:
    # mu = -m (cos a + sin a J) loss slope: cosine cos a, mobility m cos a.
    generator = torch.Generator().manual_seed(3)
    slopes = torch.randn(300, 2, generator=generator).double()
    angle, m = 1.0, 0.7
    across = slopes @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]]).double()
    drift = -m * (math.cos(angle) * slopes + math.sin(angle) * across)
    found = against_loss(drift + noise(24, 300, 2, 4), slopes)
    assert found[COSINE].value == pytest.approx(math.cos(angle), abs=0.1)
    assert found[COSINE].low < math.cos(angle) < found[COSINE].high
    # D = 1/2, d = 2: T = tr D/(d m cos a).
    exact = 0.5 / (m * math.cos(angle))
    assert found[TEMPERATURE].low < exact < found[TEMPERATURE].high
    assert found[TEMPERATURE].value == pytest.approx(exact, rel=0.2)
    uphill = against_loss(-drift + noise(24, 300, 2, 4), slopes)
    assert uphill[COSINE].high < 0 and uphill[TEMPERATURE].high < 0


def test_ratios_to_a_mobility_that_may_be_0_claim_nothing() -> None:
    # Shared noise of 8 batches hides a mobility of .1: Fieller's set is no interval.
    held = resolved = 0
    for seed in range(60):
        slopes = 1 + noise(1, 64, 2, seed)[0]
        moves = -0.3 * slopes + math.sqrt(2) * noise(8, 64, 2, 100 + seed, share=1.0)
        found = against_loss(moves, slopes)[TEMPERATURE]
        held += found.low <= 1 / 0.3 <= found.high
        resolved += found.resolved
        if not found.resolved:
            assert (found.low, found.high) == (-math.inf, math.inf)
            assert found.flags == Flag.UNRESOLVED and found.reason == NO_MOBILITY
    # Of 60 at 95 % fewer than 51 hold in .3 % of all tries.
    assert held >= 51 and 0 < resolved < 50
    lost = against_loss(noise(16, 64, 2, 7, share=1.0), slopes)
    assert not lost[COSINE].resolved and not lost[TEMPERATURE].resolved


def test_what_has_no_slope_or_moves_is_refused_with_the_sentence() -> None:
    slopes = torch.ones(50, 2).double()
    assert "why" in against_loss(noise(8, 50, 2, 0), "why")[COSINE].reason
    assert "no slope" in against_loss(noise(8, 50, 2, 0), 0 * slopes)[COSINE].reason
    assert "Nothing moves" in against_loss(torch.zeros(8, 50, 2), slopes)[TEMPERATURE].reason
    broken = noise(8, 50, 2, 0)
    broken[0, 0, 0] = math.nan
    assert "finite" in against_loss(broken, slopes)[COSINE].reason
    with pytest.raises(ValueError, match="`noise` of `against_loss`"):
        against_loss(noise(8, 50, 2, 0), slopes, noise=-1.0)
