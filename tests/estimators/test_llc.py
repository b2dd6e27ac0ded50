"""Langevin chains: the closed form on quadratics, quadrature on normal crossings, live weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from foreshock.estimators.llc import LocalLearningCoefficient, sgld
from foreshock.probe import Probe
from foreshock.probe.moment import Moment
from foreshock.probe.view import ModelView
from foreshock.stats.llc import llc_quadratic, llc_summary
from foreshock.types import Estimate, Flag
from tests.cases import CASES


class Copies(nn.Module):
    """Many copies of one small weight vector; the loss is the sum of theirs, so λ adds up."""

    def __init__(self, copies: int, start: list[float]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(start).repeat(copies, 1))

    def forward(self, _: torch.Tensor) -> torch.Tensor:
        return self.w


def probe_of(loss: Any, examples: int = 8) -> Probe:
    return Probe(loss=lambda m, x: loss(m(x)), batches=[torch.ones(examples, 1)])


def sample(copies: int, start: list[float], loss: Any, n_beta: float, **how: Any) -> Estimate:
    view = ModelView(Copies(copies, start))
    probe = probe_of(loss)
    found = sgld(view, probe, probe.draw(0), n_beta=n_beta, **how)
    traces = found.losses.numpy() / copies
    ratios = found.log_ratios.numpy()
    return llc_summary(traces, found.initial.item() / copies, n_beta, ratios)["llc/lambda"]


@pytest.mark.parametrize("step", [0.002, 0.015])
def test_the_closed_form_on_a_quadratic(step: float) -> None:
    h = torch.tensor([4.0, 1.0, 0.1, 0.0])
    found = sample(
        300, [0.3, -1.0, 2.0, 0.0],
        lambda w: 0.5 * (h * (w - torch.tensor([0.3, -1.0, 2.0, 0.0])) ** 2).sum(),
        n_beta=50.0, gamma=5.0, step=step, chains=2, burn_in=600, draws=600,
    )  # fmt: skip
    truth = llc_quadratic(h.numpy(), 50.0, 5.0, step)
    # 1,200 draws of 300 copies, correlated over 2/(ε a) <= 200 steps: the sum of four Gamma(1/2)
    # has sd .9, over 300 * 1200/200 draws .02; four of these, and the step moves it by 10 %.
    assert found.value == pytest.approx(truth, abs=0.08)
    if step == 0.015:
        assert found.value > 1.15 * llc_quadratic(h.numpy(), 50.0, 5.0)


def quadrature(k1: int, k2: int, n_beta: float, gamma: float) -> float:
    """nβ E[K] under exp(−nβ K − γ|w|²/2), K = w1^2k1 w2^2k2, on a grid even in log |w|.

    At every nβ it is exact; as nβ → ∞ it tends to min 1/(2 k_i), slower with a multiplicity.
    """
    log_w = np.linspace(math.log(1e-12), math.log(9 / math.sqrt(gamma)), 1500)
    w = np.exp(log_w)
    k = w[:, None] ** (2 * k1) * w[None, :] ** (2 * k2)
    weight = np.exp(
        -n_beta * k - gamma / 2 * (w[:, None] ** 2 + w[None, :] ** 2) + log_w[:, None] + log_w
    )
    return float(n_beta * (k * weight).sum() / weight.sum())


@pytest.mark.parametrize(
    ("k1", "k2", "coefficient"), [(1, 0, 1 / 2), (1, 2, 1 / 4), (1, 3, 1 / 6), (2, 3, 1 / 6)]
)
def test_the_quadrature_tends_to_the_learning_coefficient(
    k1: int, k2: int, coefficient: float
) -> None:
    # Simple poles: the corrections are powers of nβ, the largest (nβ)^(1/6 − 1/4) for (2, 3).
    slack = 0.12 if (k1, k2) == (2, 3) else 0.02
    assert quadrature(k1, k2, 1e14, 1.0) == pytest.approx(coefficient, rel=slack)


def test_a_multiplicity_slows_it_down() -> None:
    # w1² w2²: λ = 1/2 of multiplicity 2, so nβ E[K] = 1/2 − 1/log(nβ) + ...; here log nβ = 23
    assert quadrature(1, 1, 1e10, 1.0) == pytest.approx(0.5 - 1 / math.log(1e10), abs=0.01)


@pytest.mark.parametrize(("k1", "k2"), [(1, 1), (1, 2), (1, 3)])
def test_normal_crossings_against_quadrature(k1: int, k2: int) -> None:
    n_beta, gamma = 20.0, 2.0
    found = sample(
        1000, [0.0, 0.0],
        lambda w: (w[:, 0] ** (2 * k1) * w[:, 1] ** (2 * k2)).sum(),
        n_beta=n_beta, gamma=gamma, step=0.004, chains=2, burn_in=700, draws=500,
    )  # fmt: skip
    truth = quadrature(k1, k2, n_beta, gamma)
    # nβK has sd below .6; 1000 copies and 1000 draws correlated over ~250 steps leave .01. Four of
    # these and the step's bias, at most 3 % at εa = .1 on the typical slope.
    assert found.value == pytest.approx(truth, abs=0.04)
    assert truth < 0.45  # well below the 1 of a regular model of two weights


def test_the_step_chosen_here_is_stable_and_near_the_closed_form() -> None:
    h = torch.tensor([40.0, 4.0])
    view = ModelView(Copies(1, [1.0, 1.0]))
    probe = probe_of(lambda w: 0.5 * (h * (w - 1) ** 2).sum())
    found = sgld(view, probe, probe.draw(0), n_beta=10.0, gamma=1.0)
    # 8 power iterations at a ratio of 10 leave less than 1e-6 of the eigenvalue
    assert found.step.item() == pytest.approx(0.2 / 401, rel=1e-4)


def test_acceptance_is_the_metropolis_ratio_of_a_gaussian() -> None:
    # One weight, U = a w²/2: the log ratio of w → w' is ε a² (w² − w'²) (… ) in closed form:
    # log α = −(ε a²/8)(w'² − w²), since drift and target are both linear.
    view = ModelView(Copies(1, [0.0]))
    probe = probe_of(lambda w: 0.5 * 3.0 * (w**2).sum())
    found = sgld(view, probe, probe.draw(0), n_beta=2.0, gamma=1.0, step=0.1, burn_in=0, draws=30)
    squares = 2 * found.losses.numpy() / 3.0
    before = np.concatenate([np.zeros((4, 1)), squares[:, :-1]], axis=1)
    np.testing.assert_allclose(
        found.log_ratios.numpy(), -0.1 * 49 / 8 * (squares - before), atol=1e-5
    )


def read(model: nn.Module, probe: Probe, **how: Any) -> dict[str, Estimate]:
    view = ModelView(model)
    moment = Moment(0, view, tuple(None for _ in view.names), (0.1,), probe=probe)
    return dict(LocalLearningCoefficient(**how).update(None, moment)[1].scalars)


def test_a_minimum_with_loss_zero_counts_and_live_weights_stay() -> None:
    model = nn.Linear(6, 1, bias=False)
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.weight.zero_()
    probe = Probe(loss=lambda m, x: 0.5 * m(x).square().mean(), batches=[x[:32], x[32:]])
    found = read(model, probe, gamma=1.0, draws=400, burn_in=100)["llc/lambda"]
    h = np.linalg.eigvalsh((x.T @ x / 64).numpy())
    truth = llc_quadratic(h, 64 / math.log(64), 1.0)
    assert torch.equal(model.weight, torch.zeros(1, 6)) and model.weight.grad is None
    # the chosen step adds at most 5 %, and the interval holds the sampling error
    assert found.low <= truth * 1.05 and truth <= found.high
    assert found.value == pytest.approx(truth, rel=0.3)


def test_weights_on_a_slope_are_flagged() -> None:
    model = nn.Linear(6, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(3.0)
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    probe = Probe(loss=lambda m, x: m(x).square().mean(), batches=[x])
    found = read(model, probe, gamma=1.0)["llc/lambda"]
    assert found.value < 0 and Flag.NOT_CONVERGED in found.flags


def test_an_unknown_size_asks_for_n_beta() -> None:
    model = nn.Linear(6, 1, bias=False)
    probe = Probe(loss=lambda m, seed: m(torch.ones(3, 6) * seed).square().mean(), batches=[1.0])
    assert "pass `n_beta`" in read(model, probe)["llc/lambda"].reason
    assert math.isfinite(read(model, probe, n_beta=5.0)["llc/lambda"].value)


def test_batches_that_do_not_fit_are_averaged_by_size() -> None:
    case = CASES["mlp"]
    whole = case.batch(24, 0)
    nested = [{"x": whole[0][:20], "y": whole[1][:20]}, (whole[0][20:], whole[1][20:])]

    def loss(model: Any, batch: Any) -> torch.Tensor:
        x, y = (batch["x"], batch["y"]) if isinstance(batch, dict) else batch
        return nn.functional.cross_entropy(model(x), y)

    view = ModelView(case.model())
    one = sgld(view, Probe(loss, [whole]), [whole], n_beta=5.0, step=1e-3, draws=5)
    two = sgld(view, Probe(loss, nested), nested, n_beta=5.0, step=1e-3, draws=5)
    np.testing.assert_allclose(two.losses.numpy(), one.losses.numpy(), rtol=1e-5)


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"chains": 1}, "`chains`.*at least 2. Got 1"),
        ({"draws": 3}, "`draws`.*at least 4"),
        ({"gamma": 0.0}, "`gamma`.*positive"),
        ({"n_beta": -1.0}, "`n_beta`.*not be negative"),
    ],
)
def test_the_door(how: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        LocalLearningCoefficient(**how)
