"""Curvature: Lanczos against dense float64 Hessians, planted spectra, and a planted crossing."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from foreshock.estimators.curvature import Curvature, lambda_max
from foreshock.estimators.lanczos import TOLERANCE
from foreshock.estimators.probe_hessian import part_index
from foreshock.estimators.tracking import MOST_DIFFERENCES
from foreshock.probe import Probe
from foreshock.probe.groups import resolve_groups
from foreshock.probe.moment import Moment
from foreshock.probe.quiet import quiet
from foreshock.probe.view import ModelView
from foreshock.types import Flag
from tests.cases import CASES, Case, loss


def dense(model: torch.nn.Module, batch) -> torch.Tensor:
    """The Hessian in float64: all rows at once by a batched backward of the gradient."""
    model = copy.deepcopy(model).double().eval()
    if batch[0].is_floating_point():
        batch = (batch[0].double(), batch[1])
    with quiet(0):
        weights = list(model.parameters())
        gradient = torch.autograd.grad(loss(model, batch), weights, create_graph=True)
        flat = torch.cat([g.reshape(-1) for g in gradient])
        eye = torch.eye(len(flat), dtype=torch.float64)
        rows = torch.autograd.grad(flat, weights, eye, is_grads_batched=True)
    matrix = torch.cat([row.reshape(len(eye), -1) for row in rows], 1)
    assert torch.allclose(matrix, matrix.T, atol=1e-10)
    return matrix


def trained(case: Case, model: torch.nn.Module, batch, steps: int) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model.eval(), batch).backward()
        optimizer.step()


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_the_dense_hessian_where_it_says_converged(name: str) -> None:
    case = CASES[name]
    model, batch = case.model(), case.batch(16, seed=1)
    view = ModelView(model)
    state, converged = None, 0
    for step in range(5):
        state, top = lambda_max(view, loss, batch, state, step=step, cold_every=4)
        # The dense Hessian takes the time: look at a cold check, and just before one.
        if not top.flags and step in (3, 4):
            converged += 1
            truth = torch.linalg.eigvalsh(dense(model, batch))[-1].item()
            # The tolerance of the flag itself; float32 products add about 1e-6.
            assert top.value == pytest.approx(truth, rel=TOLERANCE)
            assert top.low <= truth <= top.high
        trained(case, model, batch, 3)
    assert converged >= 1  # a flag that is always up would pass the lines above


def test_a_stricter_tolerance_is_kept() -> None:
    case = CASES["mlp"]
    model, batch = case.model().double(), case.batch(16, seed=1)
    batch = (batch[0].double(), batch[1])
    truth = torch.linalg.eigvalsh(dense(model, batch))[-1].item()
    _, top = lambda_max(ModelView(model), loss, batch, tolerance=1e-8)
    assert not top.flags
    assert top.value == pytest.approx(truth, rel=1e-8)
    _, loose = lambda_max(ModelView(model), loss, batch, tolerance=1e-1)
    assert loose.n < top.n


def test_first_measurement_has_a_null_from_another_seed() -> None:
    case = CASES["mlp"]
    _, top = lambda_max(ModelView(case.model()), loss, case.batch(32, seed=1))
    assert top.null is not None
    low, high = top.null
    assert low <= top.value <= high
    assert high - low <= 2 * TOLERANCE * top.value  # two seeds agree when both converged


def at(model: torch.nn.Module, probe: Probe, step: int = 0) -> Moment:
    view = ModelView(model)
    return Moment(step, view, tuple(None for _ in view.names), (0.1, 0.4), probe=probe)


def test_parts_are_diagonal_blocks() -> None:
    case = CASES["mlp"]
    model, probe = case.model(), case.probe(batches=2)
    matrix = dense(model, probe.batches[0])
    observable = Curvature(groups="layer", tolerance=1e-4)
    _, readings = observable.update(observable.init(), at(model, probe))
    view = ModelView(model)
    parts = resolve_groups("layer", view)
    assert len(parts) == 3
    for name, members in parts.items():
        index = part_index(view, members)
        block = matrix[index][:, index]
        read = readings.scalars[f"hessian/lambda_max@{name}"]
        assert not read.flags
        # The tolerance, and float32's 1e-6.
        assert read.value == pytest.approx(torch.linalg.eigvalsh(block)[-1].item(), rel=2e-4)
    whole = readings.scalars["hessian/lambda_max"].value
    assert readings.scalars["hessian/eta_lambda_half"].value == pytest.approx(0.2 * whole)


def test_a_group_without_parameters_gets_a_sentence() -> None:
    case = CASES["mlp"]
    observable = Curvature(groups={"none": "nowhere"})
    _, readings = observable.update(observable.init(), at(case.model(), case.probe()))
    assert "finds no trainable parameter" in readings.scalars["hessian/lambda_max@none"].reason


def test_the_mean_over_the_probe_is_the_hessian_of_all_its_examples() -> None:
    case = CASES["mlp"]
    model, probe = case.model(), case.probe(batches=3)
    x, y = (torch.cat([b[i] for b in probe.batches]) for i in (0, 1))
    truth = torch.linalg.eigvalsh(dense(model, (x, y)))[-1].item()
    for on in ("probe", "train"):
        observable = Curvature(on=on, tolerance=1e-4)
        _, readings = observable.update(observable.init(), at(model, probe))
        # All batches have the same size, so both are the same matrix.
        assert readings.scalars["hessian/lambda_max"].value == pytest.approx(truth, rel=2e-4)


@pytest.mark.parametrize("kind", [torch.nn.GELU, torch.nn.ReLU])
def test_between_checks_it_is_right_at_a_bounded_price_on_kinks_too(kind: type) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(6, 64), kind(), torch.nn.Linear(64, 64), kind(), torch.nn.Linear(64, 4)
    )
    batch = CASES["mlp"].batch(128, seed=1)
    view, state, by_differences = ModelView(model), None, 0
    for step in range(12):
        state, top = lambda_max(view, loss, batch, state, step=step, cold_every=4)
        if not top.flags and step % 4 != 0:
            # A kink that is stepped over may cost products; the interval must hold the truth.
            _, truth = lambda_max(view, loss, batch, tolerance=1e-4)
            assert top.low <= truth.value * (1 + 1e-4) and truth.value * (1 - 1e-4) <= top.high
            assert top.value == pytest.approx(truth.value, rel=TOLERANCE)
        # 16 by differences and as many exact ones at the very most; a check makes two runs.
        assert top.n <= (3 if step % 4 == 0 else 1) * 2 * MOST_DIFFERENCES
        by_differences += "differences" in top.reason
        trained(CASES["mlp"], model, batch, 3)
    assert by_differences >= 6 or kind is torch.nn.ReLU


def test_intervals_between_checks_hold_the_truth_of_weights_that_stand_still() -> None:
    held = []
    for seed in range(4):
        torch.manual_seed(seed)
        model = torch.nn.Sequential(torch.nn.Linear(6, 32), torch.nn.GELU(), torch.nn.Linear(32, 4))
        batch = CASES["mlp"].batch(64, seed=seed)
        truth = torch.linalg.eigvalsh(dense(model, batch))[-1].item()
        view, state = ModelView(model), None
        for step in range(15):
            state, top = lambda_max(view, loss, batch, state, step=step, cold_every=5)
            if not top.flags:
                held.append(top.low <= truth <= top.high)
    assert len(held) >= 50 and all(held)  # θ ± (r + error) is a bound while nothing moves


@pytest.mark.parametrize("on", ["batch", "probe"])
def test_a_loss_that_draws_random_numbers_reads_the_same_at_checks_and_between(on: str) -> None:
    def noisy(m: torch.nn.Module, batch) -> torch.Tensor:
        return loss(lambda x: m(x + 0.5 * torch.randn_like(x)), batch)

    case = CASES["mlp"]
    probe = Probe(loss=noisy, batches=[case.batch(32, seed=i) for i in (1, 2)])
    observable = Curvature(cold_every=3, seed=5, on=on)  # type: ignore[arg-type]
    state, values, reasons = observable.init(), [], ""
    moment = at(case.model(), probe)
    for _ in range(7):
        state, readings = observable.update(state, moment)
        values.append(readings.scalars["hessian/lambda_max"].value)
        reasons += readings.scalars["hessian/lambda_max"].reason
    assert "differences" in reasons
    # The same weights and the same draws: the tolerance of Lanczos, twice.
    assert max(values) - min(values) <= 2 * TOLERANCE * values[0]


def test_parts_are_tracked_by_differences_of_the_same_block() -> None:
    case = CASES["mlp"]
    model, probe = case.model().double(), case.probe(batches=1)
    x, y = probe.batches[0]
    probe = Probe(loss=loss, batches=[(x.double(), y)])
    observable = Curvature(groups="layer")
    state, first = observable.update(observable.init(), at(model, probe))
    _, second = observable.update(state, at(model, probe))
    for name, estimate in second.scalars.items():
        if "@" in name:
            assert "differences" in estimate.reason
            assert estimate.value == pytest.approx(first.scalars[name].value, rel=TOLERANCE)


def test_nan_weights_give_a_flag_not_a_number() -> None:
    model = CASES["mlp"].model()
    with torch.no_grad():
        model.head.weight.fill_(math.nan)
    state, top = lambda_max(ModelView(model), loss, CASES["mlp"].batch(8, seed=1))
    assert math.isnan(top.value)
    assert Flag.UNRESOLVED in top.flags
    assert state.vectors is None  # the next measurement starts cold


def test_a_loss_linear_in_the_weights_has_curvature_zero() -> None:
    model = torch.nn.Linear(3, 1)
    _, top = lambda_max(ModelView(model), lambda m, x: m(x).sum(), torch.ones(2, 3))
    assert top.value == 0.0


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="`cold_every` of `Curvature` must be at least 1. Got 0"):
        Curvature(cold_every=0)
    with pytest.raises(ValueError, match="`tolerance` of `Curvature` must lie between 0 and 1"):
        Curvature(tolerance=1.0)
    with pytest.raises(ValueError, match="`on` of `Curvature` must be"):
        Curvature(on="heldout")  # type: ignore[arg-type]
