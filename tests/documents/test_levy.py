"""`CriticalityTracker` against the listing, its limits, its door, and its defects as numbers."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import nn

from foreshock.documents import CriticalityTracker
from foreshock.stats import published as pub
from tests.published.test_model import LR, Tracker, flat, make, mse


def test_every_number_is_that_of_the_listing() -> None:
    """Oracle: the listing line for line, float64, gradients by autograd.grad: rounding only."""
    model, probe = make()
    assert probe.train is not None
    batch = probe.train
    ours, theirs = CriticalityTracker(model, window=12), Tracker(window=12)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    compared = 0
    for step in range(15):
        optimizer.zero_grad()
        loss = mse(model, batch)
        loss.backward(retain_graph=True)
        gradient = flat([p.grad for p in model.parameters()])
        theirs.norms.append(gradient.norm().item())
        # Twice, by the tensor and by the function: the seed moves on with every S.
        which = loss if step % 2 else (lambda m: mse(m, batch))
        got = ours.check_criticality(which, batch[0], LR)
        rho, rate = theirs.rho(model, batch[0])
        if got is not None:
            s, top = theirs.s(model, batch, seed=step - 10)
            c, alpha = theirs.c_alpha()  # type: ignore[misc]
            expected = {"C_alpha": c, "alpha": alpha, "S": s, "lambda_max": top}
            expected |= {"rho": rho, "drho_dt": rate}
            assert {k: got[k] for k in expected} == pytest.approx(expected, rel=1e-6, abs=1e-9)
            flags = (0.8 <= c <= 1.2, -0.1 <= s <= 0.1, abs(rate) > 0.5)
            assert tuple(got["components"].values()) == flags
            assert got["is_critical"] is all(flags)
            compared += 1
        assert ours.rho_history == pytest.approx(theirs.rhos, rel=1e-6)
        optimizer.step()
    assert compared == 4 and ours.grad_norms == pytest.approx(theirs.norms)
    # Defect: the descent is far from any edge, and S is nothing but 2/lr, to a tenth.
    assert got is not None and got["S"] == pytest.approx(2 / LR, rel=0.1)


@pytest.mark.parametrize(
    "norms, expected",
    [
        ([1.0] * 9 + [0.0], 0.0),  # D = (std/0)^alpha is infinite
        ([2.0] * 10, math.inf),  # D = 0
        ([0.0] * 10, math.nan),
        ([1.0] * 9 + [math.nan], math.nan),
        ([1.0] * 9 + [1e300], math.nan),  # g^2 beyond float64
    ],
)
def test_where_the_formula_divides_by_zero_its_limit_is_returned(
    norms: list[float], expected: float
) -> None:
    tracker = CriticalityTracker(nn.Linear(1, 1), window=10)
    tracker.grad_norms = norms
    found = tracker.compute_C_alpha()
    assert found is not None and found[0] == pytest.approx(expected, nan_ok=True)
    tracker.grad_norms = norms[:9]
    assert tracker.compute_C_alpha() is None


def test_without_a_learning_rate_s_is_infinite() -> None:
    model, probe = make()
    tracker = CriticalityTracker(model)
    s, top = tracker.compute_S(lambda m: mse(m, probe.train), 0.0)  # type: ignore[arg-type]
    assert s == math.inf and math.isfinite(top)


def test_a_hook_is_not_called_and_the_tensor_form_says_why_it_is_nan() -> None:
    model, probe = make()
    called = []
    model[2].register_full_backward_hook(lambda *_: called.append(1))
    tracker = CriticalityTracker(model)
    loss = mse(model, probe.train)  # type: ignore[arg-type]
    loss.backward(retain_graph=True)
    assert called == [1]
    with pytest.warns(UserWarning, match="backward hooks, which would be called"):
        s, top = tracker.compute_S(loss, 0.1)
    assert math.isnan(s) and math.isnan(top) and called == [1]
    assert math.isfinite(tracker.compute_S(lambda m: mse(m, probe.train), 0.1)[0])
    assert called == [1]


def test_what_a_loop_does_wrong_is_refused_at_the_first_call_and_missing_later() -> None:
    model = nn.Linear(2, 1)
    x = torch.eye(2)
    tracker = CriticalityTracker(model, window=10)
    with pytest.raises(ValueError, match=r"between `loss.backward\(\)` and"):
        tracker.check_criticality(lambda m: m(x).sum(), x, 0.1)
    model(x).sum().backward()
    with pytest.raises(ValueError, match="`compute_rho` of `CriticalityTracker` failed at its"):
        tracker.check_criticality(lambda m: m(x).sum(), torch.ones(3, 7), 0.1)
    tracker.compute_rho(x)
    with pytest.warns(UserWarning, match="`compute_rho` of .* is nan at this step"):
        rho, rate = tracker.compute_rho(torch.ones(3, 7))
    assert math.isnan(rho) and math.isnan(rate)
    with pytest.raises(ValueError, match="must be at least 10. Got 9"):
        CriticalityTracker(model, window=9)
    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        CriticalityTracker(model.requires_grad_(False))


def test_published_listing_fails_on_its_own_example_and_leaves_another_gradient() -> None:
    # Defect: the graph is gone after backward, which its example calls first.
    model, probe = make()
    assert probe.train is not None
    x, _ = probe.train
    params = list(model.parameters())
    loss = mse(model, probe.train)
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, params, create_graph=True)
    with pytest.warns(UserWarning, match="is nan at this step"):
        assert math.isnan(CriticalityTracker(model).compute_S(loss, LR)[0])
    # Defect: what optimizer.step() finds is the gradient of one output of the last of 32 inputs.
    true = flat([p.grad.clone() for p in params])
    outputs = model(x)
    for i in range(32):
        model.zero_grad()
        outputs[i].sum().backward(retain_graph=True)
    left = flat([p.grad for p in params])
    cosine = float(true @ left / (true.norm() * left.norm()))
    assert abs(cosine) < 0.7 and float(left.norm() / true.norm()) > 3
    # Defect: the unit of the loss alone decides: 10 times the loss is 100 times C.
    norms = torch.linspace(1, 2, 100).tolist()
    first, tenth = (pub.c_levy_code([n * k for n in norms]) for k in (1, 10))
    assert tenth / first == pytest.approx(100)


def test_norms_of_a_window_cost_no_warning() -> None:
    tracker = CriticalityTracker(nn.Linear(1, 1), window=10)
    tracker.grad_norms = [0.0] * 5 + [math.inf] * 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(tracker.compute_C_alpha()[0])  # type: ignore[index]


@pytest.mark.parametrize("rate, expected", [(0.7, True), (-0.7, True), (0.4, False)])
def test_critical_is_all_three(
    rate: float, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nn.Linear(1, 1)
    model(torch.ones(1, 1)).sum().backward()
    tracker = CriticalityTracker(model)
    monkeypatch.setattr(tracker, "compute_C_alpha", lambda: (1.1, 1.5))
    monkeypatch.setattr(tracker, "compute_S", lambda loss, lr: (-0.05, 40.0))
    monkeypatch.setattr(tracker, "compute_rho", lambda X: (3.0, rate))
    found = tracker.check_criticality(lambda m: m.weight.sum(), torch.ones(1, 1), 0.1)
    assert found is not None and found["is_critical"] is expected
    parts = {"stochastic": True, "spectral": True, "geometric": expected}
    assert found["components"] == parts
