"""Curvature: Lanczos against dense float64 Hessians, planted spectra, and a planted crossing."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from foreshock.estimators.curvature import (
    TOLERANCE,
    Curvature,
    CurvatureState,
    hessian,
    lambda_max,
    lanczos,
)
from foreshock.probe.quiet import quiet
from foreshock.probe.view import ModelView
from foreshock.types import Flag
from tests.cases import CASES, loss


def dense_top(model: torch.nn.Module, batch) -> float:
    """Largest eigenvalue of the Hessian, built column by column in float64."""
    model = copy.deepcopy(model).double()
    if batch[0].is_floating_point():
        batch = (batch[0].double(), batch[1])
    view = ModelView(model)
    with quiet(0):
        product, d, _ = hessian(view, loss, batch)
        columns = torch.stack([product(e) for e in torch.eye(d, dtype=torch.float64)])
    assert torch.allclose(columns, columns.T, atol=1e-10)
    return torch.linalg.eigvalsh(columns)[-1].item()


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_the_dense_hessian_where_it_says_converged(name: str) -> None:
    case = CASES[name]
    model, batch = case.model(), case.batch(32, seed=1)
    view = ModelView(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    state, converged = None, 0
    for step in range(8):
        state, top = lambda_max(view, loss, batch, state, step=step, cold_every=4)
        # The dense Hessian takes the time: look at cold checks, and just before one.
        if not top.flags and step % 4 in (0, 3):
            converged += 1
            # The tolerance of the flag itself; float32 products add about 1e-6.
            assert top.value == pytest.approx(dense_top(model, batch), rel=TOLERANCE)
            assert top.low <= top.value <= top.high
        for _ in range(3):
            optimizer.zero_grad()
            loss(model.eval(), batch).backward()
            optimizer.step()
    assert converged >= 3  # a flag that is always up would pass the line above


def test_a_plain_spectrum_and_its_largest_not_its_largest_in_size() -> None:
    spectrum = torch.cat([torch.linspace(0, 1, 98), torch.tensor([2.0, -5.0])]).double()
    start = torch.randn(100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    top = lanczos(lambda v: spectrum * v, start, steps=30)
    assert top.value == pytest.approx(2.0, abs=1e-9)
    assert top.residual < 1e-6


@pytest.mark.parametrize("d", [1, 2, 5])
def test_exhausted_krylov_spaces_add_no_zero_eigenvalues(d: int) -> None:
    spectrum = -torch.arange(1, d + 1).double()  # all negative: a spurious 0 would win
    top = lanczos(lambda v: spectrum * v, torch.ones(d, dtype=torch.float64), steps=10)
    assert top.value == pytest.approx(-1.0, abs=1e-9)


def test_identity_exhausts_after_one_step() -> None:
    top = lanczos(lambda v: -3 * v, torch.ones(50, dtype=torch.float64), steps=10)
    assert top.value == pytest.approx(-3.0, abs=1e-9)
    assert top.residual < 1e-9


class Diagonal(torch.nn.Module):
    """One weight a direction; the loss below has the given diagonal as its Hessian."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(d))


def test_a_planted_crossing_is_found_by_the_next_cold_check() -> None:
    d = 400
    view = ModelView(Diagonal(d))
    spectrum = torch.linspace(0, 1, d)
    spectrum[0] = 2.0

    def bowl(model: Diagonal, h: torch.Tensor) -> torch.Tensor:
        return (h * model.weight**2).sum() / 2

    state: CurvatureState | None = None
    for step in range(3):
        state, top = lambda_max(view, bowl, spectrum, state, step=step, cold_every=5)
    assert top.value == pytest.approx(2.0, rel=TOLERANCE)
    spectrum[200] = 2.6  # another direction overtakes
    readings = []
    for step in range(3, 9):
        state, top = lambda_max(view, bowl, spectrum, state, step=step, cold_every=5)
        readings.append(top)
    # The check at the sixth measurement at the latest; after it all are right.
    assert all(r.value == pytest.approx(2.6, rel=TOLERANCE) for r in readings[3:])


def test_first_measurement_has_a_null_from_another_seed() -> None:
    case = CASES["mlp"]
    _, top = lambda_max(ModelView(case.model()), loss, case.batch(32, seed=1))
    assert top.null is not None
    low, high = top.null
    assert low <= top.value <= high
    assert high - low <= 2 * TOLERANCE * top.value  # two seeds agree when both converged


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
