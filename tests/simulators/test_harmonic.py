"""The document's optimizer against the exact law of its chain."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from foreshock.simulators.consolidation_ratio import regime
from foreshock.simulators.exact_linear import chain_variance, sgd_temperature, stationary_energy
from foreshock.simulators.harmonic import StochasticHarmonic, Training, recovered_diffusion, train
from foreshock.simulators.learning_rate import learning_rate
from foreshock.simulators.noise_control import AdaptiveNoise
from foreshock.simulators.potentials import DoubleWell, Quadratic
from foreshock.stats.published_langevin import (
    adaptive_lr_langevin,
    alpha_opt_langevin,
    d_eff_langevin,
    d_parameters_langevin,
    lr_for_batch_langevin,
)
from foreshock.types import Estimate, Flag


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def run_bowl(
    curvature: Tensor, temperature: float, lr: float, *, n: int = 2000, **how: object
) -> Training:
    chain = StochasticHarmonic(Quadratic(curvature), lr, temperature, **how)  # type: ignore[arg-type]
    start = torch.zeros(n, len(curvature), dtype=torch.float64)
    steps = int(10 / (lr * 0.5))  # exp(-2 lr k steps) of the slowest direction is below 1e-8
    return train(chain, start, steps, generator=seeded(), every=steps)


def assert_within(values: Tensor, expected: Tensor | float, errors: float = 4.0) -> None:
    """The mean over replicas is the expected one, within four standard errors."""
    mean, error = values.mean(0), values.std(0) / math.sqrt(len(values))
    assert bool(((mean - torch.as_tensor(expected)).abs() < errors * error).all()), (mean, expected)


def test_the_variance_is_that_of_the_discrete_chain() -> None:
    curvature = torch.tensor([0.5, 2.0, 8.0], dtype=torch.float64)
    run = run_bowl(curvature, temperature=0.3, lr=0.1)
    # diffusion = T and dt = lr: 2 T lr/(lr k (2 - lr k)).
    exact = torch.from_numpy(chain_variance(0.1, curvature.numpy(), 0.3, 0.1))
    assert_within(run.path[-1].square(), exact)
    # At lr k = .8 the Gibbs variance T/k is 40 % too small, which the test can tell.
    assert float(exact[2] / (0.3 / 8.0)) == pytest.approx(2 / (2 - 0.8))


def test_the_energy_at_rest_is_half_a_temperature_a_direction() -> None:
    curvature = torch.tensor([0.5, 1.0, 4.0, 2.0], dtype=torch.float64)
    run = run_bowl(curvature, temperature=0.3, lr=0.01)
    # The chain at lr = .01 is above Gibbs by 1/(1 - lr k/2), at most 2 %.
    corrected = stationary_energy(4, 0.3) / 4 * float((1 / (1 - 0.005 * curvature)).sum())
    assert_within(run.loss[-1], corrected)


def test_t12_the_temperature_of_the_published_chain_is_not_its_noise_scale() -> None:
    """C1: lr = .01, D = .001, dt = 1: variance .1005 by the exact chain, .001 by the document."""
    chain = StochasticHarmonic.published(Quadratic(1.0), lr=0.01, noise_scale=0.001)
    assert chain.temperature == pytest.approx(0.1)
    start = torch.zeros(1500, 1, dtype=torch.float64)
    generator, theta = seeded(), start
    for _ in range(1000):  # the document's own lines
        noise = torch.randn(theta.shape, dtype=torch.float64, generator=generator)
        theta = theta - 0.01 * theta + math.sqrt(2 * 0.001 * 1.0) * noise
    assert_within(theta.square(), 0.1005)
    ours = train(chain, start, 1000, generator=seeded(1), every=1000)
    assert_within(ours.path[-1].square(), float(chain_variance(0.01, 1.0, 0.001, 1.0)[0]))
    assert float(theta.square().mean()) > 90 * 0.001  # the Gibbs law with D for T is 100 times off


def test_a_metric_changes_the_rates_and_not_the_law() -> None:
    """The natural-gradient arm: with G = H every direction relaxes at the rate lr."""
    curvature = torch.tensor([0.5, 2.0, 8.0], dtype=torch.float64)
    run = run_bowl(curvature, temperature=0.3, lr=0.05, metric=torch.diag(curvature))
    # In the metric each direction is a unit bowl: variance T/k * 2/(2 - lr).
    assert_within(run.path[-1].square(), 0.3 / curvature * 2 / (2 - 0.05))
    chain = StochasticHarmonic(Quadratic(curvature), 0.05, 0.0, torch.diag(curvature))
    start = torch.ones(1, 3, dtype=torch.float64)
    relaxed = train(chain, start, 20, generator=seeded(), every=20).path[-1]
    torch.testing.assert_close(relaxed, torch.full_like(relaxed, 0.95**20))


def test_a_full_metric_keeps_the_law() -> None:
    hessian = torch.tensor([[2.0, 0.8], [0.8, 1.0]], dtype=torch.float64)
    metric = torch.tensor([[1.0, -0.3], [-0.3, 0.5]], dtype=torch.float64)
    chain = StochasticHarmonic(Quadratic(hessian), 0.01, 0.5, metric)
    run = train(chain, torch.zeros(4000, 2).double(), 800, generator=seeded(), every=800)
    x = run.path[-1]
    products = torch.stack([x[:, 0] ** 2, x[:, 0] * x[:, 1], x[:, 1] ** 2], 1)
    exact = 0.5 * torch.linalg.inv(hessian)
    # lr lambda_max(G^-1 H) = .05 adds some per cent, which `scale` holds exactly.
    scale = torch.linalg.inv(hessian - 0.005 * hessian @ torch.linalg.inv(metric) @ hessian) * 0.5
    assert_within(products, torch.stack([scale[0, 0], scale[0, 1], scale[1, 1]]))
    torch.testing.assert_close(scale, exact, rtol=0.06, atol=0)


def test_the_entropy_term_adds_to_the_temperature() -> None:
    """A5: minimising L - lambda H; the document's L + lambda H would make the cloud narrower."""
    curvature = torch.ones(1, dtype=torch.float64)
    run = run_bowl(curvature, temperature=0.2, lr=0.05, entropy=0.3)
    assert_within(run.path[-1].square(), 0.5 * 2 / (2 - 0.05))


def test_the_ratio_is_one_at_rest_and_tells_where_the_loss_goes() -> None:
    chain = StochasticHarmonic(Quadratic(torch.tensor([0.5, 4.0]).double()), 0.005, 0.3)
    n = 2000
    far = torch.full((n, 2), 3.0).double()
    falling = train(chain, far, 1, generator=seeded())
    assert falling.regimes[0] == "unresolved" or falling.ratio[0].value > 1  # all replicas alike
    hot = train(chain, torch.randn(n, 2, generator=seeded()).double() * 3, 1, generator=seeded())
    assert hot.regimes[0] == "falling"
    cold = train(
        chain, torch.randn(n, 2, generator=seeded()).double() * 0.05, 1, generator=seeded()
    )
    assert cold.regimes[0] == "rising"
    rest = train(chain, torch.zeros(n, 2).double(), 3000, generator=seeded(), every=3000)
    found = rest.ratio[-1]
    # The chain itself is above 1 by at most lr k/2 = 1 %.
    assert found.low < 1.01 and found.high > 1 and rest.regimes[-1] == "stationary"


def test_c8_diffusion_is_read_from_increments_and_not_from_the_spread() -> None:
    """Free diffusion: the published estimator reads a third of D; at rest it tends to 0."""
    free = Quadratic(torch.tensor([1e-12]).double())
    chain = StochasticHarmonic(free, 1.0, 0.25)
    run = train(chain, torch.zeros(200, 1).double(), 2000, generator=seeded())
    published = sum(d_parameters_langevin(run.path[:, i].numpy()) for i in range(200)) / 200
    # Expectation D (T + 1)/(3 T); the spread of one path is 90 % of it, of the mean of 200 6 %.
    assert published == pytest.approx(0.25 / 3, rel=0.25)
    found = recovered_diffusion(run, chain)
    assert found.low < 0.25 < found.high and found.high - found.low < 0.004
    rest = StochasticHarmonic(Quadratic(torch.tensor([1.0]).double()), 0.1, 0.25)
    run = train(rest, torch.zeros(50, 1).double(), 4000, generator=seeded())
    assert d_parameters_langevin(run.path[:, 0].numpy()) < 0.25 / 500
    found = recovered_diffusion(run, rest)
    assert found.low < 0.25 < found.high


def test_c7_a_constant_temperature_needs_a_rate_in_proportion_to_the_batch() -> None:
    """And the published D_eff is twice the diffusion of a step."""
    base = sgd_temperature(0.1, 2.0, 32)
    linear = learning_rate(1.0, temperature=base, variance=2.0, batch=128, safety=1.0)
    assert linear.value == pytest.approx(0.4) and linear.limit == "noise"
    assert sgd_temperature(linear.value, 2.0, 128) == pytest.approx(base)
    root = lr_for_batch_langevin(0.1, 32, 128)
    assert sgd_temperature(root, 2.0, 128) == pytest.approx(base / 2)
    assert d_eff_langevin(0.1, 2.0, 32) == pytest.approx(2 * 0.1 * base)  # 2 D dt with dt = lr
    # alpha_opt = 2 D/lambda_max changes with the unit of the loss; the edge has the inverse unit.
    for scale in (1.0, 100.0):
        assert alpha_opt_langevin(0.3 * scale, 5.0 * scale) == pytest.approx(0.12)
        assert learning_rate(5.0 * scale).edge == pytest.approx(0.4 / scale)


def test_c9_the_published_rules_contradict_each_other() -> None:
    """C < .5 raises the rate, and "reduce alpha when C < 1" is the next page's advice."""
    assert adaptive_lr_langevin(0.1, 0.4) > 0.1
    # Ours says what the loss does and leaves the action to a policy.
    assert regime(Estimate(0.4, 0.3, 0.5)) == "rising"


def test_a_schedule_is_followed() -> None:
    def cosine(step: int) -> float:
        return 0.05 * (1 + math.cos(math.pi * step / 10))

    chain = StochasticHarmonic(Quadratic(1.0), cosine, 0.0)
    run = train(chain, torch.ones(1, 1).double(), 10, generator=seeded())
    expected = math.prod(1 - cosine(step) for step in range(10))
    assert run.path[-1].item() == pytest.approx(expected, rel=1e-12)
    assert recovered_diffusion(run, chain).value == pytest.approx(0.0, abs=1e-25)


def test_adaptive_noise_frees_what_is_stuck_and_cools_again() -> None:
    well = DoubleWell(barrier=1.0)
    chain = StochasticHarmonic(well, 0.01, 0.05)  # barrier/T = 20: nobody leaves in 4,000 steps
    start = torch.full((200, 1), -1.0).double()
    still = train(chain, start, 4000, generator=seeded(), every=4000)
    assert bool((still.path[-1] < 0).all())
    control = AdaptiveNoise(threshold=1.5, boost=10.0, hold=200, refractory=300, start=50)
    moved = train(chain, start, 4000, generator=seeded(), noise=control, every=1)
    assert float((moved.path[-1] > 0).double().mean()) > 0.2
    assert moved.factors.unique().tolist() == [1.0, 10.0]
    # A boost and its rest take 500 steps, and a replica at rest reads below 1.5 most of the time.
    assert bool((moved.boosts >= 6).all() and (moved.boosts <= 8).all())
    assert recovered_diffusion(moved, chain).flags == Flag.NONSTATIONARY


def test_adaptive_noise_knows_rest_in_any_bowl() -> None:
    """At rest it acts alike at every curvature; the published C rests at the curvature itself."""
    control = AdaptiveNoise(threshold=1.5, boost=2.0, hold=5, refractory=45, start=0)
    boosts, published = [], []
    for curvature in (0.1, 1.0, 10.0):
        bowl = Quadratic(curvature, dimension=20)
        chain = StochasticHarmonic(bowl, 0.01 / curvature, 0.5)
        rest = torch.randn(50, 20, generator=seeded(1)).double() * math.sqrt(0.5 / curvature)
        run = train(chain, rest, 500, generator=seeded(), noise=control, every=100)
        boosts.append(float(run.boosts.double().mean()))
        published.append(float(run.published[0].mean()))
    assert max(boosts) - min(boosts) < 0.5 and min(boosts) > 8  # 10 in 500 steps, all alike
    assert published == pytest.approx([0.1, 1.0, 10.0], rel=0.1)
    # While the loss falls the ratio is large and nothing fires.
    far = torch.full((50, 20), 30.0).double()
    falling = train(
        StochasticHarmonic(Quadratic(1.0, dimension=20), 0.01, 0.5),
        far,
        200,
        generator=seeded(),
        noise=control,
        every=200,
    )
    assert int(falling.boosts.max()) == 0


def test_what_cannot_be_computed_is_refused() -> None:
    bowl = Quadratic(torch.tensor([1.0, 100.0]).double())
    with pytest.raises(ValueError, match="diverges from 2 on. Take an `lr` below 0.02"):
        train(StochasticHarmonic(bowl, 0.02, 0.1), torch.zeros(1, 2), 1, generator=seeded())
    with pytest.raises(ValueError, match=r"`theta` of `train` must .* \(n, 2\). Got \(1, 3\)"):
        train(StochasticHarmonic(bowl, 0.01, 0.1), torch.zeros(1, 3), 1, generator=seeded())
    with pytest.raises(
        ValueError, match="`steps` of `train` must be at least 1 and a whole number. Got 0"
    ):
        train(StochasticHarmonic(bowl, 0.01, 0.1), torch.zeros(1, 2), 0, generator=seeded())
    with pytest.raises(ValueError, match="or in a well"):  # no curvature at 0, 8 in the wells
        train(StochasticHarmonic(DoubleWell(), 0.3, 0.1), torch.zeros(1, 1), 1, generator=seeded())
    with pytest.raises(ValueError, match="gave -0.1 at step 1"):
        chain = StochasticHarmonic(bowl, lambda step: 0.01 if step == 0 else -0.1, 0.1)
        train(chain, torch.zeros(1, 2), 5, generator=seeded())
    with pytest.raises(ValueError, match="must be positive. Got 0"):
        StochasticHarmonic.published(bowl, lr=0)
    whole = train(
        StochasticHarmonic(bowl, 0.01, 0.1), torch.ones(1, 2).int(), 1, generator=seeded()
    )
    assert whole.path.is_floating_point()
    for wrong in ({"lr": 0.0}, {"temperature": -1.0}, {"entropy": math.nan}):
        with pytest.raises(ValueError, match="of `StochasticHarmonic` must be"):
            StochasticHarmonic(bowl, **({"lr": 0.01, "temperature": 0.1} | wrong))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="positive definite"):
        StochasticHarmonic(bowl, 0.01, 0.1, metric=torch.diag(torch.tensor([1.0, -1.0])))
    with pytest.raises(ValueError, match="Record with `every=1`"):
        chain = StochasticHarmonic(bowl, 0.01, 0.1)
        recovered_diffusion(train(chain, torch.zeros(2, 2), 4, generator=seeded(), every=2), chain)
    for bad in (
        {"lambda_max": 0.0},
        {"lambda_max": 1.0, "momentum": 1.0},
        {"lambda_max": 1.0, "temperature": 0.1},
    ):
        with pytest.raises(ValueError, match="of `learning_rate`|`learning_rate` needs"):
            learning_rate(**bad)


def test_heavy_ball_has_the_edge_and_the_temperature_that_the_rate_assumes() -> None:
    """v <- b v - lr (k x + noise): the variance is lr s^2/(2 B k (1 - b)) for small lr."""
    rate = learning_rate(4.0, temperature=0.05, variance=1.0, batch=4, momentum=0.9)
    assert rate.edge == pytest.approx(2 * 1.9 / 4.0) and rate.value == pytest.approx(0.04)
    generator, n = seeded(), 4000
    x, v = torch.zeros(n).double(), torch.zeros(n).double()
    for _ in range(600):
        noise = torch.randn(n, dtype=torch.float64, generator=generator) * 0.5  # sigma/sqrt(B)
        v = 0.9 * v - rate.value * (x + noise)
        x = x + v
    # Exact stationary variance of heavy ball on k = 1: lr s^2 (1+b)/(k (1-b) (2 (1+b) - lr k)).
    exact = 0.04 * 0.25 * 1.9 / (0.1 * (3.8 - 0.04))
    assert_within(x.square(), exact)
    assert exact == pytest.approx(0.05, rel=0.02)


def test_a_rate_that_a_schedule_raises_over_the_edge_is_refused_before_it_diverges() -> None:
    """lr(s) = .01 + .001 s in a bowl of 10: lr k reaches 2 at step 190, 3.6e123 at step 400."""
    bowl, start = Quadratic(10.0), torch.zeros(64, 1).double()
    chain = StochasticHarmonic(bowl, lambda s: 0.01 + 0.001 * s, 0.1)
    with pytest.raises(ValueError, match=r"= 4.09 at the start or in a well at step 399: .* below"):
        train(chain, start, 400, generator=seeded(), every=100)
    assert bool(torch.isfinite(train(chain, start, 190, generator=seeded(), every=190).path).all())
    warm = StochasticHarmonic(bowl, lambda s: 0.0 if s == 0 else 3.0, 0.1)
    with pytest.raises(ValueError, match="= 30 at the start or in a well at step 1"):
        train(warm, start, 2, generator=seeded())
    spike = StochasticHarmonic(bowl, lambda s: 0.3 if s == 7 else 0.01, 0.1)
    with pytest.raises(ValueError, match="at step 7"):
        train(spike, start, 9, generator=seeded())


class Cliff:
    """A force of 1 to the right before 0, a bowl of stiffness 100 behind: flat where it starts."""

    dimension = 1

    def energy(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, 50 * x.square() - x, -x)[:, 0]

    def gradient(self, x: Tensor) -> Tensor:
        return 100 * x.clamp(min=0) - 1

    def hessian(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, 100.0, 0.0)[:, :, None].to(x)


def test_a_ratio_where_steps_diverge_is_not_one_of_a_law() -> None:
    """lr k = 4 behind the cliff: replicas are thrown back for ever; at lr k = .4 they rest."""
    start = torch.full((64, 1), -0.2).double()
    for lr, flagged in ((0.04, True), (0.004, False)):
        chain = StochasticHarmonic(Cliff(), lr, 0.01)
        run = train(chain, start, 200, generator=seeded(), every=20)
        last = run.ratio[-1]
        assert ("lr * lambda_max >= 2 and a step diverges" in last.reason) is flagged
        assert (run.regimes[-1] == "unresolved") is flagged and math.isfinite(last.value)


def test_steps_at_rate_0_hold_no_noise_and_are_left_out() -> None:
    """A warm-up from 0: D within its bars, from one step less; nothing at all at rate 0."""
    warm = StochasticHarmonic(Quadratic(1.0), lambda s: 0.1 * min(1, s / 10), 0.5)
    run = train(warm, torch.zeros(64, 1).double(), 200, generator=seeded())
    found = recovered_diffusion(run, warm)
    assert found.low < 0.5 < found.high and found.n == 64 * 199
    still = StochasticHarmonic(Quadratic(1.0), lambda s: 0.0, 0.5)
    run = train(still, torch.zeros(4, 1).double(), 3, generator=seeded())
    assert "rate was 0 at every step" in recovered_diffusion(run, still).reason


@pytest.mark.parametrize(
    ("theta", "sentence"),
    [
        (torch.zeros(0, 2), r"Got \(0, 2\): a row for each of n >= 1 particles"),
        (torch.tensor([[0.0, math.nan], [1.0, 1.0]]), "holds nan or inf in 1 of 2 rows"),
        (torch.zeros(3, 2).half(), r"float32 or float64. Got torch.float16, .* `theta.float\(\)`"),
        (torch.zeros(3, 2).bfloat16(), "Got torch.bfloat16"),
    ],
)
def test_a_start_of_no_use_is_refused_by_its_cause(theta: Tensor, sentence: str) -> None:
    chain = StochasticHarmonic(Quadratic(1.0, dimension=2), 0.1, 0.1)
    with pytest.raises(ValueError, match=sentence):
        train(chain, theta, 2, generator=seeded())
    with pytest.raises(ValueError, match="`every` of `train` must be .* Got 2.0"):
        train(chain, torch.zeros(2, 2), 2, generator=seeded(), every=2.0)  # type: ignore[arg-type]


def test_a_warm_up_is_judged_in_the_wells_and_not_at_a_start_it_has_left() -> None:
    def rate(step: int) -> float:
        return min(0.1, 0.001 + 1e-4 * step)

    start = torch.full((32, 1), 3.0, dtype=torch.float64)  # curvature 104 there, 8 in the wells
    method = StochasticHarmonic(DoubleWell(), lr=rate, temperature=0.01)
    found = train(method, start, 1500, generator=torch.Generator().manual_seed(0), every=500)
    assert found.path[-1].abs().max() < 1.5
    with pytest.raises(ValueError, match="in a well at step"):  # .3 · 8 > 2
        train(
            StochasticHarmonic(DoubleWell(), lr=lambda s: 3 * rate(s), temperature=0.01),
            torch.ones(32, 1, dtype=torch.float64) * 0.9, 1500,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
