"""Descent: exact on quadratics, the loss that really changed, optimizers copied and stepped."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import foreshock
from foreshock.estimators.descent import PER_PART, Descent, DescentState
from foreshock.probe import Probe
from foreshock.probe.groups import Group
from foreshock.probe.moment import Moment
from foreshock.probe.optimizer import OptimizerView
from foreshock.probe.view import ModelView
from foreshock.stats.descent import expected_descent
from foreshock.stats.sample import mean_interval
from foreshock.types import Estimate, Flag, Readings
from tests.cases import CASES, MLP, loss


class Line(nn.Module):
    """Linear regression: a quadratic loss whose Hessian differs from batch to batch."""

    def __init__(self, d: int = 5) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.linspace(-1.0, 1.0, d, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w


def squares(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    return (model(batch[0]) - batch[1]).square().mean() / 2


SCALES = torch.tensor([2.0, 1.5, 1.0, 0.5, 0.2], dtype=torch.float64)  # of the inputs
NOISE = 0.5


def regression(batches: int, size: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """y = 0·x + noise, so the minimum is w = 0 and the error δ is w itself."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(batches, size, 5, generator=g, dtype=torch.float64) * SCALES
    y = NOISE * torch.randn(batches, size, generator=g, dtype=torch.float64)
    return list(zip(x, y, strict=True))


def regression_truth(w: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """μ, H and Σ of a batch in closed form, by Wick's theorem for Gaussian inputs."""
    h = torch.diag(SCALES**2)
    mu = h @ w
    sigma = (torch.outer(mu, mu) + (w @ h @ w + NOISE**2) * h) / size
    return mu, h, sigma


def after_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any, probe: Probe, step: int = 0
) -> Moment:
    """Make a step of the live run, and the moment after it."""
    view = ModelView(model)
    old = [p.clone() for p in view.parameters]
    optimizer.zero_grad()
    probe.loss(model, batch).backward()
    optimizer.step()
    update = tuple(new - was for new, was in zip(view.parameters, old, strict=True))
    optimizer.zero_grad()
    rates = tuple(g["lr"] for g in optimizer.param_groups)
    seen = OptimizerView(optimizer, view)
    return Moment(step, view, (None,) * len(old), rates, seen, probe=probe, update=update)


def measure(moment: Moment) -> dict[str, Estimate]:
    return dict(Descent().update(DescentState(), moment)[1].scalars)


def test_the_step_made_is_exact_on_a_quadratic_batch_by_batch() -> None:
    model, drawn = Line(), regression(6, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.5)
    before = [squares(model, b).item() for b in drawn]
    found = measure(after_step(model, optimizer, drawn[0], Probe(squares, drawn)))
    change = np.array([squares(model, b).item() for b in drawn]) - before
    assert abs(change.mean()) > 0.01
    half = 2.570581835636314 * change.std(ddof=1) / math.sqrt(6)  # t_5
    for name in ("grad/descent", "grad/descent_measured"):
        assert found[name].value == pytest.approx(change.mean(), rel=1e-10)
        assert found[name].high == pytest.approx(change.mean() + half, rel=1e-10)
        assert found[name].n == 6


def test_the_next_step_of_sgd_against_the_closed_form() -> None:
    size, rate = 4, 0.1
    model, drawn = Line(), regression(200, size, seed=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    found = measure(after_step(model, optimizer, drawn[0], Probe(squares, drawn)))
    mu, h, sigma = regression_truth(model.w.detach(), size)
    noise = (rate**2 / 2 * torch.trace(h @ sigma)).item()
    truth = (-rate * mu @ mu + rate**2 / 2 * mu @ h @ mu).item() + noise
    v = torch.trace(sigma).item()
    slope, across = (rate * mu @ h @ mu / (mu @ mu)).item(), 2 * noise / rate / v
    exact = {
        "grad/descent_expected": truth,
        "grad/descent_noise": noise,
        "grad/critical_margin": -truth / (rate * v),
        "grad/critical_snr": across / (2 - slope),
        "grad/d_sgd": rate**2 * v / 2,
        "grad/d_effective": rate**2 * v / 2,
    }
    for name, value in exact.items():
        assert found[name].low <= value <= found[name].high, name
        # an interval that holds everything would prove nothing
        assert found[name].high - found[name].low < 1.5 * abs(value), name
    assert found["grad/d_sgd"].value == pytest.approx(found["grad/d_effective"].value, rel=1e-12)


def trained(make: Any, steps: int = 60) -> tuple[MLP, torch.optim.Optimizer]:
    model = CASES["mlp"].model().double()
    optimizer = make(model.parameters())
    for step in range(steps):
        optimizer.zero_grad()
        loss(model, teacher(32, step)).backward()
        optimizer.step()
    return model, optimizer


def teacher(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Inputs, labelled by a fixed linear map with noise: something to learn, and not all of it."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=g, dtype=torch.float64)
    way = torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(6, 4).roll(1, 0)
    noisy = x @ way + 0.7 * torch.randn(n, 4, generator=g, dtype=torch.float64)
    return x, noisy.argmax(1)


RUNS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.2),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=5e-3, weight_decay=0.1),
}


@pytest.mark.parametrize("name", RUNS)
def test_holds_the_loss_change_that_really_happened(name: str) -> None:
    # The truth is the change of the loss over a population of 4,096, the estimate has 6 batches of
    # 32 drawn from it, anew at every step. Steps share nothing but the weights, so the number of
    # hits is binomial: of 100 at 95 %, at least 86 but for a chance of 2e-4.
    population = teacher(4096, 10_000)
    rng = torch.Generator().manual_seed(7)

    def draw(count: int) -> list[tuple[Tensor, Tensor]]:
        rows = torch.randint(4096, (count, 32), generator=rng)
        return [(population[0][r], population[1][r]) for r in rows]

    model = CASES["mlp"].model().double()
    optimizer = RUNS[name](model.parameters())
    hits, inside, errors, moved = [], [], [], []
    for step in range(100):
        before = loss(model, population).item()
        moment = after_step(model, optimizer, draw(1)[0], Probe(loss, draw(6)), step)
        change = loss(model, population).item() - before
        found = _step_made(moment)
        hits.append(found["grad/descent"].low <= change <= found["grad/descent"].high)
        measured = found["grad/descent_measured"]
        inside.append(measured.low <= change <= measured.high)
        errors.append(found["grad/descent"].value - measured.value)
        moved.append(measured.value)
    assert sum(hits) >= 86 and sum(inside) >= 86
    # The two share their batches: what is left is of third order, a few percent of the change.
    assert np.std(errors) < 0.05 * np.std(moved)


def _step_made(moment: Moment) -> dict[str, Estimate]:
    """Without the optimizer's response, which costs half of a measurement."""
    stranger = torch.optim.NAdam(moment.view.live_parameters)
    parts = {f: getattr(moment, f) for f in ("step", "view", "gradients", "learning_rates")}
    seen = OptimizerView(stranger, moment.view)
    return measure(Moment(**parts, optimizer=seen, probe=moment.probe, update=moment.update))


def step_copy(model: nn.Module, optimizer: Any, batch: Any) -> nn.Module:
    twin, follower = copy.deepcopy((model, optimizer))
    follower.zero_grad()
    loss(twin, batch).backward()
    follower.step()
    return twin


@pytest.mark.parametrize("name", RUNS)
def test_expects_what_copies_do_on_fresh_batches(name: str) -> None:
    # Monte Carlo over 300 fresh batches: copies of model and optimizer make the real step.
    model, optimizer = trained(RUNS[name])
    population = teacher(4096, 10_000)
    probe = Probe(loss, [teacher(32, 20_000 + i) for i in range(40)])
    found = measure(after_step(model, optimizer, teacher(32, 999), probe))
    before = loss(model, population).item()
    weights = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    changes, steps = [], []
    for i in range(300):
        twin = step_copy(model, optimizer, teacher(32, 30_000 + i))
        changes.append(loss(twin, population).item() - before)
        steps.append(torch.cat([p.detach().reshape(-1) for p in twin.parameters()]) - weights)
    expected, noise = found["grad/descent_expected"], found["grad/descent_noise"]
    assert expected.low <= np.mean(changes) <= expected.high
    moves = torch.stack(steps)
    diffusion = moves.var(0).sum().item() / 2
    d = found["grad/d_effective"]
    assert d.low <= diffusion <= d.high and d.high < 2 * d.low
    # What the noise costs: the mean change less that of the mean step.
    still = copy.deepcopy(model)
    torch.nn.utils.vector_to_parameters(weights + moves.mean(0), still.parameters())
    cost = np.mean(changes) - (loss(still, population).item() - before)
    assert noise.low <= cost <= noise.high and noise.low > 0


def test_diffusion_is_that_of_copied_optimizers_on_the_same_batches() -> None:
    model, optimizer = trained(RUNS["adamw"])
    probe = Probe(loss, [teacher(32, i) for i in range(5)])
    found = measure(after_step(model, optimizer, teacher(32, 999), probe))
    rows, gradients = [], []
    for batch in probe.draw(0):
        twin = step_copy(model, optimizer, batch)
        rows.append(torch.cat([p.detach().reshape(-1) for p in twin.parameters()]))
        gradient = ModelView(model).gradient(loss, batch)[1]
        gradients.append(torch.cat([g.reshape(-1) for g in gradient]))
    exact = torch.stack(rows).var(0).sum().item() / 2
    assert found["grad/d_effective"].value == pytest.approx(exact, rel=1e-6)
    plain = torch.stack(gradients).var(0).sum().item() * 5e-3**2 / 2
    assert found["grad/d_sgd"].value == pytest.approx(plain, rel=1e-9)


def test_the_noise_part_of_adam_is_the_linear_response() -> None:
    # u ≈ const - η (1 - β1) g/P: the second moment moves by 1 - β2 = .1 % a step, so P is frozen to
    # about a percent of what the first moment does.
    model, drawn = Line(), regression(12, 8, seed=3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for batch in regression(300, 8, seed=4):
        moment = after_step(model, optimizer, batch, Probe(squares, drawn))
    found = measure(moment)
    metric, _ = OptimizerView(optimizer, moment.view).preconditioner()
    assert metric is not None
    w = model.w.detach()
    g = torch.stack([x.T @ (x @ w - y) / len(y) for x, y in drawn])
    u = -0.01 * (1 - 0.9) * g / metric[0]
    h = torch.stack([x.T @ x / len(x) for x, _ in drawn])
    ring = (np.arange(12) + 1) % 12
    curvatures = torch.stack([u @ h[ring[j]] @ u[j] for j in range(12)], dim=1)
    linear = expected_descent((g @ u.T).numpy(), curvatures.numpy(), ring)["grad/descent_noise"]
    assert found["grad/descent_noise"].value == pytest.approx(linear.value, rel=0.03)


@pytest.mark.parametrize("make", [torch.optim.Muon, torch.optim.LBFGS])
def test_of_an_unknown_optimizer_the_step_made_is_still_there(make: Any) -> None:
    model = nn.Linear(5, 1, bias=False).double()
    view = ModelView(model)
    probe = Probe(lambda m, b: (m(b[0])[:, 0] - b[1]).square().mean(), regression(4, 8))
    update = tuple(-0.1 * g for g in view.gradient(probe.loss, probe.draw(0)[0])[1])
    before = [view.gradient(probe.loss, b)[0].item() for b in probe.draw(0)]
    with torch.no_grad():
        model.weight += update[0]
    seen = OptimizerView(make(model.parameters()), view)
    found = measure(Moment(0, view, (None,), (0.1,), seen, probe=probe, update=update))
    after = [view.gradient(probe.loss, b)[0].item() for b in probe.draw(0)]
    change = np.mean(after) - np.mean(before)
    assert found["grad/descent"].value == pytest.approx(change, rel=1e-9)
    assert found["grad/descent_measured"].value == pytest.approx(change, rel=1e-9)
    for name in ("descent_expected", "descent_noise", "critical_snr", "fdt", "d_effective"):
        assert make.__name__ in found[f"grad/{name}"].reason


@pytest.mark.parametrize("make", [
    lambda p: torch.optim.SGD(p, lr=0.02),
    lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9),
    lambda p: torch.optim.AdamW(p, lr=0.002, weight_decay=0.1),
])  # fmt: skip
def test_at_the_best_factor_the_next_step_is_expected_to_descend_most(make: Any) -> None:
    """The rate is really changed and all is measured anew, on the same probe."""
    model, drawn = Line(), regression(8, 16)
    optimizer = make(model.parameters())
    moment = after_step(model, optimizer, drawn[0], Probe(squares, drawn))
    rate, best = optimizer.param_groups[0]["lr"], measure(moment)["grad/descent_factor"]
    assert best.value > 1.5

    def at(factor: float) -> dict[str, Estimate]:
        optimizer.param_groups[0]["lr"] = rate * factor
        return measure(replace(moment, optimizer=OptimizerView(optimizer, moment.view)))

    there = at(best.value)
    assert there["grad/descent_factor"].value == pytest.approx(1.0, rel=1e-6)
    least = there["grad/descent_expected"].value
    for near in (0.9, 1.1):  # 1 % of the descent is lost at 10 % off
        change = at(near * best.value)["grad/descent_expected"].value
        assert change == pytest.approx(0.99 * least, rel=1e-6)


def test_the_critical_ratio_is_for_plain_sgd() -> None:
    probe = Probe(squares, regression(6, 8))
    for options in ({"momentum": 0.9}, {"weight_decay": 0.1}):
        model = Line()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, **options)
        found = measure(after_step(model, optimizer, probe.draw(0)[0], probe))
        assert "SGD without momentum or decay" in found["grad/critical_snr"].reason
        assert found["grad/descent_expected"].resolved


def test_averages_over_the_window_and_no_further() -> None:
    model, drawn = Line(), regression(40, 4, seed=5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    observable = Descent(window=16)
    state = observable.init()
    records: list[Readings] = []
    for step in range(20):
        probe = Probe(squares, drawn[step : step + 5])
        state, readings = observable.update(
            state, after_step(model, optimizer, drawn[20 + step], probe, step)
        )
        records.append(readings)
    assert "15 of the 16 measurements" in records[14].scalars["grad/fdt"].reason
    assert math.isfinite(records[15].scalars["grad/fdt"].value)
    assert len(state.drifts) == len(state.curvatures) == 16
    assert records[-1].scalars["grad/fdt"].value == pytest.approx(
        -2 * sum(state.drifts) / sum(state.curvatures)
    )


def test_a_change_below_the_rounding_of_the_loss_is_flagged() -> None:
    model = CASES["mlp"].model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-8)
    found = measure(after_step(model, optimizer, CASES["mlp"].batch(16, 0), CASES["mlp"].probe()))
    assert found["grad/descent_measured"].flags & Flag.BELOW_PRECISION
    assert found["grad/descent"].value < 0 and not found["grad/descent"].flags


def test_too_few_batches_are_said() -> None:
    model = Line()
    probe = Probe(squares, regression(3, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = measure(after_step(model, optimizer, probe.draw(0)[0], probe))
    assert found["grad/descent"].resolved
    assert "at least 4 probe batches" in found["grad/descent_expected"].reason


def test_differences_of_gradients_are_said() -> None:
    def once(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
        # the backward pass of this operation has no derivative of either kind
        return torch.cdist(model(batch[0])[None], batch[1][None], p=3.0).square().mean()

    def twice(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
        return (model(batch[0]) - batch[1]).abs().pow(3).sum().pow(2 / 3)

    found = []
    for function in (once, twice):
        model, drawn = Line(), regression(5, 8)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        found.append(measure(after_step(model, optimizer, drawn[0], Probe(function, drawn))))
    coarse, exact = found
    for name in ("descent", "descent_expected", "descent_noise", "critical_margin"):
        estimate = coarse[f"grad/{name}"]
        assert estimate.flags & Flag.BELOW_PRECISION and "differences" in estimate.reason
        assert estimate.value == pytest.approx(exact[f"grad/{name}"].value, rel=1e-4)
        assert not exact[f"grad/{name}"].flags
    for name in ("descent_measured", "d_effective", "d_sgd"):
        assert not coarse[f"grad/{name}"].flags


class Coarse(nn.Module):
    """Weights of bfloat16, outputs of float32."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = CASES["mlp"].model().bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.bfloat16()).float()


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().double().reshape(-1) for p in model.parameters()])


def test_of_bfloat16_weights_the_steps_that_happen_are_measured() -> None:
    # At this rate a step is below the rounding of most weights, 2^-9 of each.
    model, probe = Coarse(), CASES["mlp"].probe(batches=12)
    optimizer = torch.optim.SGD(model.parameters(), lr=3e-3)
    found = measure(after_step(model, optimizer, CASES["mlp"].batch(16, 0), probe))
    moves = [flat(step_copy(model, optimizer, b)) - flat(model) for b in probe.draw(0)]
    real = torch.stack(moves).var(0).sum().item() / 2
    assert found["grad/d_effective"].value == pytest.approx(real, rel=0.02)
    assert not found["grad/d_effective"].flags
    # What the same rate does to weights that take it, the planned step, is something else.
    assert not found["grad/d_sgd"].low <= real <= found["grad/d_sgd"].high
    assert "rounding to the type of the weights" in found["grad/critical_snr"].reason
    assert math.isnan(found["grad/critical_margin"].value)


def test_of_bfloat16_weights_the_loss_change_is_that_in_float64() -> None:
    model, drawn = Coarse(), CASES["mlp"].probe(batches=6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03)

    def exactly() -> float:
        twin = copy.deepcopy(model.inner).double()
        return float(np.mean([loss(twin, (x.double(), y)).item() for x, y in drawn.draw(0)]))

    before = exactly()
    found = measure(after_step(model, optimizer, drawn.draw(0)[0], drawn))
    # Gradients and products round to 2^-9 an entry, which averages out: 0.1 % over 30 steps.
    assert found["grad/descent"].value == pytest.approx(exactly() - before, rel=0.02)
    assert not found["grad/descent"].flags


def test_steps_that_rounding_swallows_are_said() -> None:
    model = Coarse()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9)
    found = measure(after_step(model, optimizer, CASES["mlp"].batch(16, 0), CASES["mlp"].probe()))
    for name in ("descent_expected", "descent_noise"):
        estimate = found[f"grad/{name}"]
        assert estimate.value == 0 and estimate.flags & Flag.BELOW_PRECISION
        assert "none moves" in estimate.reason
    assert found["grad/d_effective"].flags & Flag.BELOW_PRECISION


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_batches_are_not_taken_for_copies(count: int) -> None:
    model, drawn = Line(), regression(count, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = measure(after_step(model, optimizer, drawn[0], Probe(squares, drawn)))
    assert math.isfinite(found["grad/descent"].value)
    assert "identical" not in found["grad/descent"].reason
    same = measure(after_step(model, optimizer, drawn[0], Probe(squares, drawn[:1] * count)))
    assert same["grad/descent"].high == math.inf and same["grad/descent"].reason


@pytest.mark.parametrize("name", RUNS)
def test_copies_of_one_batch_have_no_interval(name: str) -> None:
    # They know no more than one batch does, whose interval is unbounded.
    drawn = [teacher(32, 0)] * 8
    model, optimizer = trained(RUNS[name], 3)
    moment = after_step(model, optimizer, teacher(32, 1), Probe(loss, drawn))
    state, readings = Descent().update(DescentState(), moment)
    found = readings.scalars
    for series in ("descent", "descent_measured", "descent_expected", "descent_noise"):
        estimate = found[f"grad/{series}"]
        assert math.isfinite(estimate.value) and estimate.high == math.inf == -estimate.low
        assert estimate.flags & Flag.UNRESOLVED and "identical" in estimate.reason
    one = measure(after_step(*trained(RUNS[name], 3), teacher(32, 1), Probe(loss, drawn[:1])))
    assert found["grad/descent"].value == pytest.approx(one["grad/descent"].value, rel=1e-9)
    assert "identical" in found["grad/fdt"].reason
    assert state == DescentState()  # and a ratio over later steps is not spoilt
    for series in ("d_effective", "d_sgd"):
        assert found[f"grad/{series}"].flags & Flag.BELOW_PRECISION


def test_a_rate_of_zero_is_no_copy() -> None:
    model, probe = Line(), Probe(squares, regression(6, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    found = measure(after_step(model, optimizer, probe.draw(0)[0], probe))
    for name in ("descent", "descent_measured", "descent_expected", "descent_noise"):
        assert found[f"grad/{name}"].value == 0 and not found[f"grad/{name}"].flags & 1


def test_an_empty_draw_is_said() -> None:
    model = Line()
    probe = Probe(squares, lambda step: regression(4, 8)[:0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = measure(after_step(model, optimizer, regression(1, 8)[0], probe))
    assert all("no batch" in estimate.reason for estimate in found.values())


def split(groups: Any, moment: Moment) -> dict[str, Estimate]:
    return dict(Descent(groups=groups).update(DescentState(), moment)[1].scalars)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("groups", ["layer", "block"])
def test_parts_sum_to_the_whole(name: str, groups: str) -> None:
    case = CASES[name]
    model = case.model().eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    moment = after_step(model, optimizer, case.batch(16, 1), case.probe(batches=5))
    found, whole = split(groups, moment), measure(moment)
    for series in PER_PART:
        parts = [e.value for n, e in found.items() if n.startswith(f"{series}@")]
        assert len(parts) > 1
        # Sums of float64 in another order, of terms that may cancel.
        error = 1e-9 * sum(map(abs, parts))
        assert sum(parts) == pytest.approx(whole[series].value, abs=error), series
    for series, estimate in whole.items():
        assert repr(found[series]) == repr(estimate), series


def test_a_part_is_the_dense_sum_over_its_weights() -> None:
    # SGD, so that the update to come is −η g; Hessians by torch, batch by batch.
    model, rate, n = MLP().double(), 0.3, 6
    drawn = [(x.double(), y) for x, y in CASES["mlp"].probe(batches=n).draw(0)]
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    groups = [
        Group("body", "^body"),
        Group("rows", r"body\.2\.weight", head=(1, 4)),
        Group("none", "nothing"),
    ]
    moment = after_step(model, optimizer, drawn[2], Probe(loss, drawn))
    found = split(groups, moment)
    view = moment.view
    sizes, shapes = [p.numel() for p in view.parameters], [p.shape for p in view.parameters]
    theta = torch.cat([p.reshape(-1) for p in view.parameters]).detach()

    def at(flat: Tensor, batch: Any) -> Tensor:
        pieces = [t.view(s) for t, s in zip(flat.split(sizes), shapes, strict=True)]
        return view.loss(pieces, loss, batch)

    h = torch.stack(
        [torch.autograd.functional.hessian(lambda t, b=b: at(t, b), theta) for b in drawn]
    )
    g = torch.stack(
        [torch.autograd.functional.jacobian(lambda t, b=b: at(t, b), theta) for b in drawn]
    )
    u = torch.cat([p.reshape(-1) for p in moment.update])
    inside = {"body": torch.zeros(len(theta)).bool(), "rows": torch.zeros(len(theta)).bool()}
    start = 0
    for name, parameter in zip(view.names, view.parameters, strict=True):
        where = torch.zeros(parameter.shape).bool()
        inside["body"][start : start + parameter.numel()] = name.startswith("body")
        if name == "body.2.weight":
            where[4:8] = True  # the second of four blocks of four rows
            inside["rows"][start : start + parameter.numel()] = where.reshape(-1)
        start += parameter.numel()
    ring = (np.arange(n) + 1) % n
    for part, p in inside.items():
        values = g[:, p] @ u[p] - (h @ u)[:, p] @ u[p] / 2
        naive = {"grad/descent": mean_interval(values.numpy())}
        step = -rate * g
        images = torch.stack([h[ring[j]] @ step[j] for j in range(n)])
        naive |= expected_descent(
            (g[:, p] @ step[:, p].T).numpy(), (step[:, p] @ images[:, p].T).numpy(), ring
        )
        for series, estimate in naive.items():
            got = found[f"{series}@{part}"]
            for field in ("value", "low", "high"):
                # Two ways to a Hessian in float64: rounding.
                expected = pytest.approx(getattr(estimate, field), rel=1e-9)
                assert getattr(got, field) == expected, (series, part)
        diffusion = rate**2 * g[:, p].var(0).sum().item() / 2
        for series in ("grad/d_effective", "grad/d_sgd"):
            assert found[f"{series}@{part}"].value == pytest.approx(diffusion, rel=1e-9)
    for series in PER_PART:
        assert "finds no trainable parameter" in found[f"{series}@none"].reason


class Sum(nn.Module):
    """`Line` in two parts, which see the same residual: their cross terms do not vanish."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor([-1.0, 0.5], dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor([0.3, 0.8, 1.0], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :2] @ self.a + x[:, 2:] @ self.b


def test_the_share_of_a_part_is_the_work_done_along_its_step() -> None:
    # ∫ ∇_part L · du_part along the step; on a quadratic the gradient is linear, so the mean of its
    # ends is exact.
    model, drawn = Sum(), regression(6, 8, seed=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.5)
    view = ModelView(model)
    before = [[g.clone() for g in view.gradient(squares, b)[1]] for b in drawn]
    moment = after_step(model, optimizer, drawn[0], Probe(squares, drawn))
    found = split({"a": "^a$", "b": "^b$"}, moment)
    after = [view.gradient(squares, b)[1] for b in drawn]
    assert moment.update is not None
    for i, part in enumerate("ab"):
        work = [
            ((old[i] + new[i]) / 2 @ moment.update[i]).item()
            for old, new in zip(before, after, strict=True)
        ]
        assert found[f"grad/descent@{part}"].value == pytest.approx(np.mean(work), rel=1e-10)
        half = 2.570581835636314 * np.std(work, ddof=1) / math.sqrt(6)  # t_5
        high = pytest.approx(np.mean(work) + half, rel=1e-10)
        assert found[f"grad/descent@{part}"].high == high
    # Which is not what moving that part alone would have changed.
    alone = copy.deepcopy(model)
    with torch.no_grad():
        alone.a -= moment.update[0]
    own = np.mean([(squares(model, b) - squares(alone, b)).item() for b in drawn])
    assert abs(own - found["grad/descent@a"].value) > 0.01 * abs(own)


def test_a_part_without_gradient_is_flagged() -> None:
    model = Sum()
    first = lambda m, b: (b[0][:, :2] @ m.a - b[1]).square().mean() / 2  # noqa: E731
    probe = Probe(first, regression(6, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = split({"a": "^a$", "b": "^b$"}, after_step(model, optimizer, probe.draw(0)[0], probe))
    for series in PER_PART:
        assert found[f"{series}@b"].flags and not found[f"{series}@a"].flags, series


@pytest.mark.parametrize("make", [torch.optim.Muon, torch.optim.LBFGS])
def test_parts_without_a_response_or_a_batch_are_said(make: Any) -> None:
    model = nn.Linear(5, 1, bias=False).double()
    view = ModelView(model)
    batches = regression(4, 8)
    objective = lambda m, b: (m(b[0])[:, 0] - b[1]).square().mean()  # noqa: E731
    update = tuple(-0.1 * g for g in view.gradient(objective, batches[0])[1])
    seen = OptimizerView(make(model.parameters()), view)
    for drawn, sentence in ((batches, make.__name__), ([], "no batch")):
        probe = Probe(objective, lambda step, drawn=drawn: drawn)
        moment = Moment(0, view, (None,), (0.1,), seen, probe=probe, update=update)
        found = split({"w": "weight"}, moment)
        for series in ("descent_expected", "descent_noise", "d_effective"):
            assert sentence in found[f"grad/{series}@w"].reason
        assert math.isfinite(found["grad/descent@w"].value) == bool(drawn)


def test_on_a_live_run(tmp_path: Any) -> None:
    # The monitor hands over θ_{t+1} - θ_t after the step: a run of gradient descent only descends.
    model = Line()
    drawn = regression(6, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    probe = Probe(squares, drawn)
    with foreshock.attach(
        model, optimizer, run=tmp_path / "run", probe=probe, observables=[Descent()], every=1
    ):
        truth = []
        for _ in range(5):
            optimizer.zero_grad()
            total = torch.stack([squares(model, b) for b in drawn]).mean()
            total.backward()
            optimizer.step()
            after = torch.stack([squares(model, b) for b in drawn]).mean()
            truth.append((after - total).item())
    with foreshock.Run.open(tmp_path / "run") as run:
        for name in ("grad/descent", "grad/descent_measured"):
            assert run.series(name).value.tolist() == pytest.approx(truth, rel=1e-9)
