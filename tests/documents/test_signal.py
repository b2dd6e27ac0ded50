"""The listings of "signal" against transcriptions, their doors, and their defects as numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from foreshock.documents import (
    compute_consolidation_ratio,
    compute_loss,
    estimate_lambda_max,
    estimate_tail_index,
    evaluate,
    get_adaptive_lr,
    hessian_vector_product,
    should_stop_early,
    track_learning_dynamics,
)
from foreshock.documents.loaders import borrow
from foreshock.stats import published as pub
from tests.published.test_model import flat, hvp, make, mse


def test_consolidation_ratio_is_that_of_the_listing() -> None:
    model, probe = make()
    batches = probe.draw(0)
    params = list(model.parameters())
    grads = torch.stack([flat(torch.autograd.grad(mse(model, b), params)) for b in batches[:5]])
    signal, noise = (grads.mean(0) ** 2).sum().item(), grads.var(0).sum().item()
    c = signal / (noise + 1e-10)
    expected = {"C_alpha": c, "p": c / (1 + c), "signal": signal, "noise": noise}
    expected["I"] = c / (1 + c) * 0.1 / 1.5
    got = compute_consolidation_ratio(model, batches, n_samples=5)
    assert got == pytest.approx(expected, rel=1e-9)
    assert got == compute_consolidation_ratio(model, batches, 5, compute_loss=mse)


def test_consolidation_ratio_defects() -> None:
    # Defect: pure noise reads 1/n: gradients b w with b of mean 0. Over 40 draws in 200 dimensions
    # the standard error of C is about sqrt(2/200)/20/sqrt(40) = 8e-4.
    model, g = nn.Linear(200, 1, bias=False), torch.Generator().manual_seed(0)

    def noise(m: Any, direction: Tensor) -> Tensor:
        return (m.weight * direction).sum()

    def mean(draws: int, scale: float, shift: float) -> float:
        found = []
        for _ in range(draws):
            rows = list(shift + scale * torch.randn(20, 200, generator=g))
            found.append(compute_consolidation_ratio(model, rows, compute_loss=noise))
        return float(np.mean([one["C_alpha"] for one in found]))

    assert mean(40, 1.0, 0.0) == pytest.approx(1 / 20, abs=3.2e-3)  # 4 standard errors
    # Defect: the batch size moves p through the "transition": 16 times the batch, .25 the scatter.
    small, large = mean(3, 2.0, 1.0), mean(3, 0.5, 1.0)
    assert pub.p_signal(small) < 0.3 and pub.p_signal(large) > 0.75
    # Defect: I with its placeholders is below .1, "stagnation", however good the signal.
    perfect = compute_consolidation_ratio(model, [torch.ones(200)] * 3, compute_loss=noise)
    assert perfect["p"] == pytest.approx(1) and pub.i_state_signal(perfect["I"]) == "stagnation"


def test_curvature_is_that_of_the_listing() -> None:
    model, probe = make()
    batches = probe.draw(0)
    params = list(model.parameters())
    v = [torch.linspace(-1, 1, p.numel(), dtype=p.dtype).reshape(p.shape) for p in params]
    expected = sum(hvp(model, b, flat(v)) for b in batches[:3]) / 3
    got = hessian_vector_product(model, mse, batches, v, n_batches=3)
    assert [a.shape for a in got] == [p.shape for p in params]
    torch.testing.assert_close(flat(got), expected, rtol=1e-8, atol=1e-12)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        start = flat([torch.randn_like(p) for p in params])
    w, top = start / start.norm(), math.nan
    for _ in range(7):
        image = sum(hvp(model, b, w) for b in batches[:3]) / 3
        top, w = (w * image).sum().item(), image / image.norm()
    assert estimate_lambda_max(model, mse, batches, 7, 3, seed=4) == pytest.approx(top, rel=1e-8)


def test_curvature_defects() -> None:
    # Defect: with two batches of five asked for, it is 2/5 of the curvature, of both.
    model = nn.Linear(2, 1, bias=False)
    x = torch.tensor([[1.0, 0.0], [0.0, 3.0]])

    def half(m: Any, x: Tensor) -> Tensor:
        return m(x).square().sum() / 2

    with pytest.warns(UserWarning, match="2/5 of the mean"):
        assert estimate_lambda_max(model, half, [x] * 2) == pytest.approx(9 * 2 / 5, rel=1e-3)
    with pytest.warns(UserWarning, match="2/5 of the mean"):
        image = hessian_vector_product(model, half, [x] * 2, [torch.ones(1, 2)])
    torch.testing.assert_close(image[0], torch.tensor([[0.4, 3.6]]))
    # Defect: of +2 and -2.2 it finds the latter.
    bends = torch.tensor([[2.0, -2.2]])

    def saddle(m: Any, _: Any) -> Tensor:
        return (bends * m.weight.square()).sum() / 2

    assert estimate_lambda_max(model, saddle, [0] * 5, n_iter=200) == pytest.approx(-2.2)
    # A loss without curvature: 0/0 by the formula, and no exception.
    flat_loss = estimate_lambda_max(model, lambda m, x: m(x).sum(), [x] * 5)
    assert math.isnan(flat_loss)


def test_learning_rates_and_their_defects() -> None:
    table = {0.39: 0.1, 0.4: 0.5, 0.49: 0.5, 0.5: 1.0, 0.6: 1.5, 0.74: 1.5, 0.75: 2.0}
    assert {p: get_adaptive_lr(1.0, p) for p in table} == table
    # Defect: a factor of 5 for a change of p in the last digit; nan is the strongest phase.
    assert get_adaptive_lr(1.0, 0.4) / get_adaptive_lr(1.0, math.nextafter(0.4, 0)) == 5
    assert get_adaptive_lr(1.0, math.nan) == 2.0


@pytest.mark.parametrize(
    "p, c, i, expected",
    [
        (0.3, [0.4] * 10, 0.02, True),
        (0.6, [2 - 0.1 * k for k in range(10)], 0.04, True),
        (0.6, [2.0] * 10, -0.1, True),
        (0.6, [2.0] * 10, 0.04, False),
        (0.6, [2 - 0.1 * k for k in range(9)] + [1.3], 0.04, False),
    ],
)
def test_stops_by_the_three_rules(p: float, c: list[float], i: float, expected: bool) -> None:
    history = [{"p": p, "C_alpha": one, "I": i} for one in c]
    stop, why = should_stop_early(history)
    assert stop is expected and why
    assert should_stop_early(history[:-1])[0] is False
    assert should_stop_early([{"p": 1.0, "C_alpha": 9.0, "I": 1.0}, *history])[0] is expected


def test_stop_defect_and_door() -> None:
    # Defect: a run whose C_1 of .005 is steady, and which learns at B = 32, is stopped at once.
    p = pub.p_signal(0.005 * 32)
    assert should_stop_early([{"p": p, "C_alpha": 0.16, "I": p / 15}] * 10)[0]
    with pytest.raises(ValueError, match="There is no C_alpha, I"):
        should_stop_early([{"p": 0.3}])
    with pytest.raises(ValueError, match="at least 1. Got 0"):
        should_stop_early([], window=0)
    assert should_stop_early([])[0] is False


def test_tail_index_and_its_defects() -> None:
    g = np.random.default_rng(0)
    tail = g.pareto(1.4, 5000) + 1
    ordered = np.sort(np.abs(tail))[::-1]
    expected = 1 / (np.mean(np.log(ordered[:100] / (ordered[100] + 1e-10))) + 1e-10)
    assert estimate_tail_index(tail) == pytest.approx(expected)
    assert estimate_tail_index(torch.tensor(tail, requires_grad=True)) == pytest.approx(expected)
    # Defect: a light tail reads the stop 2 and a tiny unit the stop 1.
    normal = g.standard_normal(5000)
    assert estimate_tail_index(normal) == 2.0 and estimate_tail_index(normal * 1e-14) == 1.0
    assert math.isnan(estimate_tail_index([math.nan] * 200))
    for none in (0, -5):
        with pytest.raises(ValueError, match=f"at least 1. Got {none}"):
            estimate_tail_index(normal, n_tail=none)
    with pytest.raises(ValueError, match="more than `n_tail` = 100"):
        estimate_tail_index(normal[:100])


def test_the_loop_says_when_p_crosses_and_who_trains_is_the_user() -> None:
    """Gradients b + w with b = -1, 1: mean w, variance 2, so C = w^2/2 crosses 1 at w = sqrt 2."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)

    def train_epoch(m: Any, loader: Any) -> None:
        with torch.no_grad():
            m.weight += 0.5

    def loss(m: Any, b: float) -> Tensor:
        return (b * m.weight + m.weight.square() / 2).sum()

    said: list[str] = []
    history = track_learning_dynamics(
        model, [-1.0, 1.0], [0.0], 4, train_epoch=train_epoch, compute_loss=loss,
        evaluate=lambda m, loader: float(len(list(loader))), report=said.append,
    )  # fmt: skip
    assert [row["C_alpha"] for row in history] == pytest.approx([0.125, 0.5, 1.125, 2], rel=1e-6)
    assert len(said) == 1 and said[0].startswith("Epoch 2: p rose through 1/2")
    assert (history[0]["train_acc"], history[0]["test_acc"]) == (2.0, 1.0)
    # Defect: nothing else happened at that epoch; noise of another unit moves it (here away).
    nn.init.zeros_(model.weight)
    track_learning_dynamics(
        model, [-2.0, 2.0], [0.0], 4, train_epoch=train_epoch, compute_loss=loss,
        evaluate=lambda m, loader: 0.0, report=said.append,
    )  # fmt: skip
    assert len(said) == 1


def test_what_the_document_leaves_undefined() -> None:
    model = nn.Linear(2, 2, bias=False)
    nn.init.eye_(model.weight)
    x, labels = torch.eye(2), torch.tensor([0, 1])
    assert compute_loss(model, (x, labels)).item() == pytest.approx(math.log(1 + math.exp(-1)))
    assert compute_loss(model, (x, torch.zeros(2, 2))).item() == pytest.approx(0.5)
    assert evaluate(model, [(x, labels), (x, 1 - labels)]) == 0.5
    assert math.isnan(evaluate(model, []))
    data = [(x, labels)] * 3
    with pytest.raises(ValueError, match="needs your own `train_epoch"):
        track_learning_dynamics(model, data, data)
    with pytest.raises(ValueError, match="needs integer labels"):
        evaluate(model, [(x, x)])
    trained: list[int] = []
    with pytest.raises(ValueError, match="needs integer labels"):  # before anything is trained
        track_learning_dynamics(
            model, data, [(x, x)], train_epoch=lambda m, loader: trained.append(1)
        )
    assert not trained
    with pytest.raises(ValueError, match=r"must be a pair \(inputs, labels\)"):
        compute_consolidation_ratio(model, [x, x])


def test_batches_are_borrowed() -> None:
    data = TensorDataset(torch.arange(40.0))
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(data, batch_size=4, shuffle=True, generator=generator)

    def order(seed: int) -> list[float]:
        return torch.cat([b[0] for b in borrow(loader, 3, seed=seed)]).tolist()

    before = generator.get_state()
    assert order(0) == order(0) != order(1)
    assert torch.equal(before, generator.get_state())
    twin = DataLoader(data, batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(3))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(loader, twin, strict=True))
    with pytest.raises(ValueError, match="would be missing in training"):
        borrow(iter([1, 2]), 1, seed=0)
    with pytest.raises(ValueError, match="Got int"):
        borrow(3, 1, seed=0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 2 batches for a variance. Got 1"):
        compute_consolidation_ratio(nn.Linear(1, 1), [0])
    with pytest.raises(ValueError, match="at least one batch"):
        estimate_lambda_max(nn.Linear(1, 1), mse, [])
    with pytest.raises(ValueError, match=r"of the shapes \[\(1, 1\), \(1,\)\]. Got \[\]"):
        hessian_vector_product(nn.Linear(1, 1), mse, [0], [])
    # A generator that fails half-way leaves the loader's as it was.
    broken = DataLoader(data, batch_size=4, shuffle=True, generator=generator, collate_fn=None)
    broken.collate_fn = lambda rows: 1 / 0  # type: ignore[assignment]
    before = generator.get_state()
    with pytest.raises(ZeroDivisionError):
        borrow(broken, 1, seed=0)
    assert torch.equal(before, generator.get_state())
