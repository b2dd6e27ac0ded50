"""Latent flow on models whose latents obey a law in closed form, through the whole monitor path."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import foreshock as fs
from foreshock.estimators import LatentFlow, PublishedFokkerPlanck
from foreshock.probe import Probe
from foreshock.probe.moment import Moment
from foreshock.probe.optimizer import OptimizerView
from foreshock.probe.view import ModelView
from foreshock.types import Estimate, Flag, Readings

#: Rate of return a, noise of a batch's target, and the law of the first cloud.
RATE, NOISE, SHIFT, SPREAD = 0.05, 1.0, 1.5, 0.3


class Cloud(nn.Module):
    """The weights are the particles, so that their motion under SGD has a closed form."""

    def __init__(self, n: int, d: int, seed: int = 0) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        centre = torch.zeros(d)
        centre[0] = SHIFT
        start = centre + math.sqrt(SPREAD) * torch.randn(n, d, generator=g)
        self.theta = nn.Parameter(start.double())
        self.latent = nn.Identity()

    def forward(self, rows: Tensor) -> Tensor:
        return self.latent(self.theta[rows])


def pull(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Half the squared distance of every particle to a target of its own: drift and noise."""
    rows, targets = batch
    return (model(rows) - targets).square().sum(1).mean() / 2


def targets(n: int, d: int, seed: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.arange(n), NOISE * torch.randn(n, d, generator=g, dtype=torch.float64)


def cloud_probe(n: int, d: int, batches: int = 32) -> Probe:
    def draw(step: int) -> list[tuple[Tensor, Tensor]]:
        return [targets(n, d, 10_000 + 100 * step + b) for b in range(batches)]

    return Probe(loss=pull, batches=draw)


def train(
    folder: Path, n: int, d: int, steps: int, *, lr: float | None = None, **options: Any
) -> fs.Run:
    """SGD on the cloud with the monitor attached: z <- z - RATE (z - target)."""
    model = Cloud(n, d)
    rate = RATE * n if lr is None else lr  # the loss is a mean over particles
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    observable = LatentFlow("latent", particles=n, plane=0, **options)
    with fs.attach(
        model, optimizer, run=folder, probe=cloud_probe(n, d), observables=[observable], every=10
    ) as watch:
        for step in range(steps):
            optimizer.zero_grad()
            pull(model, targets(n, d, step)).backward()
            optimizer.step()
            watch.log(loss=0.0)
    return fs.Run.open(folder)


def law(step: int) -> tuple[float, float]:
    """Mean along the first axis and variance of every axis after so many steps."""
    mean, spread = SHIFT, SPREAD
    for _ in range(step):
        mean, spread = (1 - RATE) * mean, (1 - RATE) ** 2 * spread + (RATE * NOISE) ** 2
    return mean, spread


def closed_forms(step: int, d: int) -> dict[str, float]:
    """Of dz = -a z dt + sqrt(2 D) dW at N(m, s): D = a² σ²/2, all per step."""
    m, s = law(step)
    a, diffusion = RATE, (RATE * NOISE) ** 2 / 2
    power, fisher = a * a * (d * s + m * m) / diffusion, diffusion * d / s
    production = power - 2 * a * d + fisher
    m0, s0 = law(0)
    return {
        "latent/c": math.sqrt(power / fisher),
        "latent/cosine": a * d / math.sqrt(power * fisher),
        "latent/irreversibility": production / (power + fisher),
        "latent/entropy_production": production,
        "latent/entropy_rate": fisher - a * d,
        "latent/drift_power": power,
        "latent/fisher": fisher,
        "latent/drift": a * math.sqrt(d * s + m * m),
        "latent/diffusion": d * diffusion,
        "latent/entropy": d / 2 * math.log(2 * math.pi * math.e * s),
        "latent/w2_start": math.hypot(m - m0, math.sqrt(d) * (math.sqrt(s) - math.sqrt(s0))),
        "latent/w2_start_sliced": math.hypot(m - m0, math.sqrt(d) * (math.sqrt(s) - math.sqrt(s0))),
    }


@pytest.mark.parametrize("d", [1, 2, 8])
def test_ornstein_uhlenbeck_latents_read_their_closed_forms(tmp_path: Path, d: int) -> None:
    """Oracle: the law of an AR(1). Through attach, JVPs, batch gradients, score and store."""
    recorded = train(tmp_path / "run", 512, d, 31)
    held, asked = 0, 0
    for step in (0, 10, 20, 30):
        for name, exact in closed_forms(step, d).items():
            series = recorded.series(name)
            found = series.estimate(series.step.tolist().index(step))
            if "w2" in name and step == 0:
                assert not found.resolved  # nothing to compare with
                continue
            asked += 1
            held += found.low <= exact <= found.high
            # A 95 % interval doubled is four standard errors: 6e-5 for each of some 140 numbers.
            half = max(found.high - found.value, found.value - found.low)
            assert abs(found.value - exact) <= 2 * half, (name, step, found, exact)
            assert not found.flags, (name, step, found)
    # They are not independent (the same cloud, four times), so the margin is wider than binomial.
    assert held >= 0.9 * asked, (held, asked)
    bound = recorded.series("latent/entropy_production_bound")
    for i, step in enumerate(bound.step.tolist()):
        assert bound.low[i] <= closed_forms(step, d)["latent/entropy_production"]


def test_refused_where_the_score_cannot_be_believed(tmp_path: Path) -> None:
    """d = 64 axes from n = 32 particles: a sentence, not a number."""
    recorded = train(tmp_path / "run", 32, 64, 1, dimensions=64)
    for name in ("c", "entropy_production", "entropy_rate", "irreversibility", "cosine"):
        found = recorded.series(f"latent/{name}").estimate(0)
        assert math.isnan(found.value) and found.reason, name
        assert found.flags & Flag.UNRESOLVED


def test_nothing_moves_at_learning_rate_zero(tmp_path: Path) -> None:
    """The null: drift and diffusion exactly 0, and what needs them unresolved."""
    recorded = train(tmp_path / "run", 128, 2, 11, lr=0.0)
    for name in ("drift", "diffusion"):
        series = recorded.series(f"latent/{name}")
        assert series.value.tolist() == [0.0, 0.0]
    for name in ("c", "entropy_production", "irreversibility", "entropy_rate", "drift_power"):
        assert all(f & Flag.UNRESOLVED for f in recorded.series(f"latent/{name}").flags), name
    same = recorded.series("latent/w2_start").estimate(1)
    assert not same.resolved  # the very same cloud


def moment_of(model: nn.Module, probe: Probe, optimizer: Any, step: int = 0) -> Moment:
    view = ModelView(model)
    gradient = tuple(view.gradient(probe.loss, probe.draw(step)[0])[1])
    return Moment(step, view, gradient, (0.1,), OptimizerView(optimizer, view), probe=probe)


def measure(observable: Any, moment: Moment) -> Readings:
    return observable.update(observable.init(), moment)[1]


def test_linear_regression_under_sgd_has_its_drift_and_diffusion() -> None:
    """z = Wx, x ~ N(0, I), y = W*x + ε: the gradient's mean and covariance in closed form.

    For a batch of B: μ_i = -η (2/q) Δ x_i and D_i = (η²/2)(4/q²)/B [Δ(|x_i|² + x_i x_i')Δ' +
    σ²|x_i|²], Δ = W - W*, by the fourth moments of a Gaussian.
    """
    p, q, size, rate, sigma = 6, 2, 16, 0.1, 0.5
    g = torch.Generator().manual_seed(0)
    truth = torch.randn(q, p, generator=g, dtype=torch.float64)
    model = nn.Linear(p, q, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.randn(q, p, generator=g, dtype=torch.float64))

    def pair(n: int, seed: int) -> tuple[Tensor, Tensor]:
        h = torch.Generator().manual_seed(seed)
        x = torch.randn(n, p, generator=h, dtype=torch.float64)
        return x, x @ truth.T + sigma * torch.randn(n, q, generator=h, dtype=torch.float64)

    probe = Probe(
        loss=lambda m, b: (m(b[0]) - b[1]).square().mean(),
        batches=[pair(size, 50 + i) for i in range(64)],
        train=pair(300, 7),
    )
    model = nn.Sequential(model)
    at = moment_of(model, probe, torch.optim.SGD(model.parameters(), lr=rate))
    observable = LatentFlow("0", particles=300, plane=0)
    state, readings = observable.update(observable.init(), at)
    x = state.particles.batches[0][0][state.particles.keep]
    delta = model[0].weight.detach() - truth
    drift = -rate * (2 / q) * x @ delta.T
    square = x.square().sum(1)
    traces = (
        (4 / q**2)
        / size
        * (square * delta.square().sum() + (x @ delta.T).square().sum(1) + q * sigma**2 * square)
    )
    expected = {
        "latent/drift": float(drift.square().sum(1).mean().sqrt()),
        "latent/diffusion": float(rate**2 / 2 * traces.mean()),
    }
    for name, exact in expected.items():
        found = readings.scalars[name]
        assert found.low <= exact <= found.high, (name, found, exact)
    # The slope of the loss points against the drift, but not along it: Δx is rotated by Σ only.
    assert readings.scalars["latent/loss_cosine"].value > 0


def test_c_and_entropy_production_do_not_move_under_a_change_of_axes() -> None:
    """z -> Az: the same model followed in other axes. The published C changes by 2^d for A = 2."""
    d, n = 2, 400
    # Of Gaussian clouds 0.4 % are refused for their kurtosis; that of seed 0 is one of them.
    model, probe = Cloud(n, d, seed=1), cloud_probe(n, d)
    at = moment_of(model, probe, torch.optim.SGD(model.parameters(), lr=RATE * n))
    turn = torch.tensor([[2.0, 0.7], [-0.4, 0.5]], dtype=torch.float64)

    def turned(m: Any, batch: Any) -> Tensor:
        return m(batch[0]) @ turn.T

    plain = measure(LatentFlow("latent", particles=n), at).scalars
    other = measure(LatentFlow(turned, particles=n), at).scalars
    for name in ("c", "cosine", "irreversibility", "entropy_production", "entropy_rate"):
        a, b = plain[f"latent/{name}"], other[f"latent/{name}"]
        # In exact arithmetic they are equal; whitening costs some digits.
        for one, two in ((a.value, b.value), (a.low, b.low), (a.high, b.high)):
            assert one == pytest.approx(two, rel=1e-6), name


def test_published_c_changes_by_two_to_the_d() -> None:
    """The same cloud in half the unit, its bandwidth too: C is 2^d times as large. Ours is not."""
    for d in (1, 3):
        n = 100
        readings = []
        for scale in (1.0, 2.0):
            model, probe = Scaled(n, d, scale), cloud_probe(n, d)
            at = moment_of(model, probe, torch.optim.SGD(model.parameters(), lr=RATE * n))
            # μ = -η∇_z loss goes with 1/scale and not with it: η and D carry scale² as they must.
            observable = PublishedFokkerPlanck(
                "latent",
                particles=n,
                bandwidth=0.5 * scale,
                eta_0=0.01 * scale**2,
                d_0=scale**2,
                entropy=0.0,
                gamma=0.0,
            )
            readings.append(measure(observable, at).scalars["published/c_fp"].value)
        assert readings[1] / readings[0] == pytest.approx(2.0**d, rel=1e-3)


class Scaled(Cloud):
    """The same particles, looked at in another unit."""

    def __init__(self, n: int, d: int, scale: float) -> None:
        super().__init__(n, d)
        self.scale = scale

    def forward(self, rows: Tensor) -> Tensor:
        return self.latent(self.scale * self.theta[rows]) / self.scale


def test_no_published_constant_reaches_the_measured_family() -> None:
    """Each of the document's constants times 10, in the same run: every latent/* value stays."""
    n, d = 100, 2
    model, probe = Cloud(n, d), cloud_probe(n, d)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE * n)
    base = PublishedFokkerPlanck("latent", particles=n)
    names = ("eta_0", "tau_eta", "entropy", "d_0", "tau_d", "gamma", "bandwidth")
    first: dict[str, str] | None = None
    moved: set[str] = set()
    published: dict[str, Estimate] = {}
    for name in ("", *names):
        model_of_document = replace(base, **{name: 10 * getattr(base, name)}) if name else base
        at = moment_of(model, probe, optimizer, step=100)
        theirs = measure(model_of_document, at).scalars
        ours = measure(LatentFlow("latent", particles=n), at)
        text = {k: repr(v) for k, v in ours.scalars.items()}
        first, published = first or text, published or dict(theirs)
        assert text == first
        moved |= {name for k in theirs if repr(theirs[k]) != repr(published[k])}
    assert moved == set(names)  # and each of them does change what was published


class Radius(Cloud):
    """Latents that are no linear function of the weights: the norms of vectors in R^20."""

    def forward(self, rows: Tensor) -> Tensor:
        theta = self.theta[rows]
        self.latent(theta.norm(dim=1, keepdim=True))
        return theta


def test_the_drift_has_its_second_order_part() -> None:
    """Oracle: |θ| of an Ornstein-Uhlenbeck θ at rest is at equilibrium: EP 0, cosine 1, C 1.

    Itô's (q − 1)D/|θ| is what keeps it there; of the first order alone EP would read about 1.
    """
    n, q = 400, 20
    model = Radius(n, q)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():  # the law at rest, for small steps
        rest = math.sqrt(RATE * NOISE**2 / 2)
        model.theta.copy_(rest * torch.randn(n, q, generator=g, dtype=torch.float64))
    at = moment_of(model, cloud_probe(n, q), torch.optim.SGD(model.parameters(), lr=RATE * n))
    found = measure(LatentFlow("latent", particles=n, plane=0), at).scalars
    for name, exact in (("entropy_production", 0.0), ("cosine", 1.0), ("c", 1.0)):
        estimate = found[f"latent/{name}"]
        assert estimate.low <= exact <= estimate.high, (name, estimate)
    assert found["latent/entropy_production_bound"].low <= 0
    # E of the second-order part, (q − 1)D/|θ|, over Ds = (z − m)D/s² of a near-Gaussian |θ|: > 1.
    assert found["latent/second_order"].value > 1


def test_the_batch_of_training_scales_the_noise() -> None:
    """Probe batches of 16, 64: with the training batch told, D is the same, and A with it."""
    p, q = 5, 2
    g = torch.Generator().manual_seed(0)
    truth = torch.randn(q, p, generator=g, dtype=torch.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(p, q, bias=False)).double()

    def pair(n: int, seed: int) -> tuple[Tensor, Tensor]:
        h = torch.Generator().manual_seed(seed)
        x = torch.randn(n, p, generator=h, dtype=torch.float64)
        return x, x @ truth.T + torch.randn(n, q, generator=h, dtype=torch.float64)

    found = {}
    for size in (16, 64):
        probe = Probe(
            loss=lambda m, b: (m(b[0]) - b[1]).square().mean(),
            batches=[pair(size, 1000 * size + i) for i in range(60)],
            train=pair(300, 7),
        )
        at = moment_of(model, probe, torch.optim.SGD(model.parameters(), lr=0.1))
        for batch in (None, 16):
            found[size, batch] = measure(LatentFlow("0", batch=batch, plane=0), at).scalars
    for name in ("diffusion", "drift_power"):
        same = [found[size, 16][f"latent/{name}"] for size in (16, 64)]
        assert max(e.low for e in same) < min(e.high for e in same), name
        plain = [found[size, None][f"latent/{name}"] for size in (16, 64)]
        ratio = plain[0].value / plain[1].value
        assert (ratio > 2) if name == "diffusion" else (ratio < 0.5)
    still = measure(LatentFlow("0", batch=0, plane=0), at).scalars
    assert still["latent/diffusion"].value == 0.0
    assert not still["latent/c"].resolved and "no noise" in still["latent/c"].reason


def test_particles_are_not_measured_with_batches_they_are_in() -> None:
    """Static batches without `train`: an example's own gradient would count with weight 1/(nB)."""
    batches = [targets(40, 2, 7 + i) for i in range(24)]
    model = Cloud(40, 2)
    at = moment_of(
        model, Probe(loss=pull, batches=batches), torch.optim.SGD(model.parameters(), lr=1.0)
    )
    observable = LatentFlow("latent", particles=40, plane=0)
    state, readings = observable.update(observable.init(), at)
    assert state.particles is not None and state.particles.drawn == 2  # 80 rows for 40 and copies
    assert readings.scalars["latent/drift"].n == 22


def test_particles_are_drawn_by_lot() -> None:
    """Data sorted by class: every class is among the particles."""
    g = torch.Generator().manual_seed(0)
    y = torch.arange(10).repeat_interleave(100)
    x = torch.randn(1000, 4, generator=g)
    rows = torch.randint(1000, (8, 16), generator=g)
    probe = Probe(
        loss=lambda m, b: nn.functional.cross_entropy(m(b[0]), b[1]),
        batches=[(x[r], y[r]) for r in rows],
        train=(x, y),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 10))
    at = moment_of(model, probe, torch.optim.SGD(model.parameters(), lr=0.1))
    labels = measure(LatentFlow("0", particles=256), at).arrays["latent/labels"]
    # 25.6 of each are expected, with a standard deviation of 4.5: four of them.
    assert len(labels) == 256 and min(torch.tensor(labels).bincount(minlength=10)) > 7


def test_a_young_metric_is_told(tmp_path: Path) -> None:
    """AdamW: for some 30 steps its second moments are those of a few gradients."""
    n, d = 64, 2
    model = Cloud(n, d)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    with fs.attach(
        model,
        optimizer,
        run=tmp_path / "run",
        probe=cloud_probe(n, d, batches=10),
        observables=[LatentFlow("latent", particles=n, plane=0)],
        every=20,
    ):
        for step in range(41):
            optimizer.zero_grad()
            pull(model, targets(n, d, step)).backward()
            optimizer.step()
    series = fs.Run.open(tmp_path / "run").series("latent/drift")
    assert series.step.tolist() == [0, 20, 40]
    early, late = series.estimate(1), series.estimate(2)
    assert early.flags & Flag.NONSTATIONARY and "made 20 steps" in early.reason
    assert not late.flags & Flag.NONSTATIONARY


def test_a_decoder_of_ones_own_stands_for_the_rest_of_the_network() -> None:
    """A function as layer, its decoder written out: the same as the named layer with its hooks."""
    n, d = 100, 2
    model, probe = Cloud(n, d, seed=1), cloud_probe(n, d)
    at = moment_of(model, probe, torch.optim.SGD(model.parameters(), lr=RATE * n))

    def rest(m: Any, batch: tuple[Tensor, Tensor], z: Tensor) -> Tensor:
        return (z - batch[1]).square().sum(1).mean() / 2

    def layer(m: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
        return m(batch[0])

    for kind, name in (
        (LatentFlow, "latent/loss_cosine"),
        (PublishedFokkerPlanck, "published/c_fp"),
    ):
        named = measure(kind("latent", particles=n), at).scalars[name]
        own = measure(kind(layer, decoder=rest, particles=n), at).scalars[name]
        assert own.value == pytest.approx(named.value, rel=1e-9)
        none = measure(kind(layer, particles=n), at).scalars[name]
        assert math.isnan(none.value) and "`layer`" in none.reason
        broken = measure(kind(layer, decoder=lambda m, b, z: z, particles=n), at).scalars[name]
        assert "must return the mean loss" in broken.reason


def test_steps_that_rounding_hides_are_differentiated() -> None:
    """At a rate of 1e-9 in float32 no weight moves; the drift is there to first order, flagged."""
    n, d = 100, 2
    model, probe = Cloud(n, d, seed=1).float(), cloud_probe(n, d)
    rate = 1e-9
    found = {}
    for lr in (rate, 0.0):
        at = moment_of(model, probe, torch.optim.SGD(model.parameters(), lr=lr * n))
        found[lr] = measure(LatentFlow("latent", particles=n, plane=0), at).scalars["latent/drift"]
    exact = rate * float(model.theta.detach().square().sum(1).mean().sqrt())
    assert found[rate].low < exact < found[rate].high
    assert found[rate].flags & Flag.BELOW_PRECISION and "first order only" in found[rate].reason
    assert found[0.0].value == 0.0 and "Nothing moves" in found[0.0].reason
