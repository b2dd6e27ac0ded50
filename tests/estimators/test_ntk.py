"""Tangent kernel: against the Jacobian by jacrev in float64, and its null at lr = 0."""

from __future__ import annotations

import math

import pytest
import torch

from foreshock.estimators import Ntk, ntk_gram
from foreshock.probe import Probe
from foreshock.probe.groups import Group
from foreshock.probe.moment import Moment
from foreshock.probe.view import ModelView
from tests import oracles
from tests.cases import CASES, loss


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_jacrev(name: str) -> None:
    case = CASES[name]
    model = case.model().eval().double()
    x = case.batch(12, seed=3)[0]
    x = x.double() if x.is_floating_point() else x
    weights = dict(model.named_parameters())

    def outputs(weights: dict) -> torch.Tensor:
        return torch.func.functional_call(model, weights, (x,)).sum(1)

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        jacobian = torch.func.jacrev(outputs)(weights)
    rows = torch.cat([j.reshape(12, -1) for j in jacobian.values()], 1)
    got = ntk_gram(ModelView(model), case.probe(), x)
    assert torch.allclose(got, rows @ rows.T / 12, rtol=1e-10)


class Branching(torch.nn.Module):
    """Control flow on data, which vmap refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.line = torch.nn.Linear(3, 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.line(x) * (2 if x.sum() > 0 else 1)


def test_falls_back_to_one_example_at_a_time() -> None:
    model = Branching()
    x = torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]])
    probe = Probe(loss, [x])
    # rows of J are 2·x and 1·x for either output: products 2·(2·2), 2·(-2), 2·1, over n = 2
    got = ntk_gram(ModelView(model), probe, x)
    assert got.tolist() == [[4.0, -2.0], [-2.0, 1.0]]


def still(view: ModelView, probe: Probe, step: int) -> Moment:
    """A moment without gradients."""
    return Moment(step, view, tuple(None for _ in view.names), (0.1,), probe=probe)


def test_nothing_moves_at_lr_zero_with_the_fixed_probe() -> None:
    case = CASES["mlp"]
    view, probe, ntk = ModelView(case.model()), case.probe(batches=8), Ntk()
    state = ntk.init()
    for step in (0, 10):
        state, readings = ntk.update(state, still(view, probe, step))
    for name in ("ntk/log_det_rate", "ntk/log_scale_rate"):
        rate = readings.scalars[name]
        assert rate.value == 0.0
        assert rate.null is not None and rate.null[0] < 0 < rate.null[1]
    for name in ("ntk/cka_start", "ntk/cka_previous"):
        assert readings.scalars[name].value == readings.scalars[name].low == 1.0


def test_fresh_probes_at_lr_zero_stay_in_the_null_of_the_rate() -> None:
    # The state carries the record of another probe, so groups differ too: the interval of the rate
    # holds 0 and the null band holds the rate. 40 independent pairs, nominal 95 %: 33 has p = .003.
    case, ntk = CASES["mlp"], Ntk(examples=32, draws=39)
    view = ModelView(case.model())
    names = ("ntk/log_det_rate", "ntk/log_scale_rate")
    inside = dict.fromkeys([(name, kind) for name in names for kind in ("null", "interval")], 0)
    for pair in range(40):
        state = ntk.init()
        for step in (0, 1):
            batch = case.batch(32, 1000 + 2 * pair + step)
            state, readings = ntk.update(state, still(view, Probe(loss, [batch]), step))
        for name in names:
            rate = readings.scalars[name]
            assert rate.null is not None
            inside[name, "null"] += rate.null[0] <= rate.value <= rate.null[1]
            inside[name, "interval"] += rate.low <= 0 <= rate.high
    assert min(inside.values()) >= 33, inside


@pytest.mark.parametrize("reduction", ["trace", "full"])
def test_other_reductions(reduction: str) -> None:
    case = CASES["mlp"]
    model = case.model().double()
    x = case.batch(20, seed=3)[0].double()
    probe, view = Probe(loss, [(x, torch.arange(20) % 4)]), ModelView(model)
    whole = ntk_gram(view, probe, x, reduction=reduction)
    each = [
        ntk_gram(
            view, Probe(loss, [x], forward=lambda m, x, k=k: m(x)[:, k : k + 1]), x, reduction="sum"
        )
        for k in range(4)
    ]
    if reduction == "full":
        assert whole.shape == (80, 80)
        for k in range(4):
            assert torch.allclose(whole[k::4, k::4], each[k], rtol=1e-10)
        # Σ over all outputs is the published kernel.
        summed = whole.reshape(20, 4, 20, 4).sum((1, 3))
        assert torch.allclose(summed, ntk_gram(view, probe, x), rtol=1e-10)
    else:
        assert torch.allclose(whole, sum(each), rtol=1e-10)
    ntk = Ntk(examples=20, reduction=reduction)
    read = ntk.update(ntk.init(), still(view, probe, 0))[1].scalars
    expected = oracles.ntk_log_det(whole.numpy(), 1e-4)
    assert read["ntk/log_det"].value == pytest.approx(expected, rel=1e-8)
    assert "class labels" not in read["ntk/alignment"].reason


def test_parts_add_up() -> None:
    case = CASES["transformer"]
    view, probe = ModelView(case.model().double()), case.probe(batches=2)
    x = torch.cat([b[0] for b in probe.batches])
    ntk = Ntk(examples=32, groups="layer")
    read = ntk.update(ntk.init(), still(view, probe, 0))[1].scalars
    parts = {name.partition("@")[2] for name in read if "@" in name}
    assert parts == {name.rpartition(".")[0] for name in view.names}
    total = torch.zeros(32, 32, dtype=torch.float64)
    for part in sorted(parts):
        alone = case.model().double()
        for name, p in alone.named_parameters():
            p.requires_grad_(name.rpartition(".")[0] == part)
        gram = ntk_gram(ModelView(alone), probe, x)
        expected = oracles.ntk_log_det(gram.numpy(), 1e-4)
        assert read[f"ntk/log_det@{part}"].value == pytest.approx(expected, rel=1e-6), part
        total += gram
    assert torch.allclose(total, ntk_gram(view, probe, x), rtol=1e-10)


def test_alignment_needs_classes() -> None:
    case = CASES["mlp"]
    inputs = case.batch(20, 0)[0]
    view = ModelView(case.model())
    probe = Probe(loss, [inputs], train=(inputs, torch.randn(20)))
    read = Ntk().update(Ntk().init(), still(view, probe, 0))[1].scalars["ntk/alignment"]
    assert "no class labels" in read.reason


def test_alignment_grows_with_learning_and_cka_falls() -> None:
    # Two clouds with 20 examples a class; any feature learning moves the kernel towards them.
    torch.manual_seed(0)
    y = torch.arange(40) % 2
    x = torch.randn(40, 6)
    x[:, 0] += 1.5 * (2 * y - 1)
    model = CASES["mlp"].model()
    probe, ntk = Probe(loss, [(x, y)]), Ntk(examples=40, reduction="trace")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    state, first = ntk.update(ntk.init(), still(ModelView(model), probe, 0))
    for _ in range(60):
        optimizer.zero_grad()
        loss(model, (x, y)).backward()
        optimizer.step()
    _, last = ntk.update(state, still(ModelView(model), probe, 60))
    assert last.scalars["ntk/alignment"].value > first.scalars["ntk/alignment"].value + 0.1
    assert last.scalars["ntk/cka_start"].value < 0.99
    assert "no earlier record" in first.scalars["ntk/cka_start"].reason


def test_scale_free() -> None:
    case = CASES["mlp"]
    model, probe = case.model(), case.probe(batches=8)
    view, found = ModelView(model), []
    for factor in (1.0, 3.0):
        scaled = Probe(probe.loss, probe.batches, forward=lambda m, x, factor=factor: factor * m(x))
        moment = Moment(0, view, tuple(None for _ in view.names), (0.1,), probe=scaled)
        ntk = Ntk()
        found.append(ntk.update(ntk.init(), moment)[1].scalars)
    small, large = found
    # float32 Jacobians: 1e-7 per entry, amplified by 1/ε = 1e4 at the smallest eigenvalues
    assert large["ntk/log_det"].value == pytest.approx(small["ntk/log_det"].value, abs=1e-2)
    assert large["ntk/log_scale"].value - small["ntk/log_scale"].value == pytest.approx(
        2 * math.log(3), abs=1e-5
    )


def test_too_few_examples_and_arguments() -> None:
    case = CASES["mlp"]
    view = ModelView(case.model())
    probe = case.probe(batches=1, size=8)
    moment = Moment(0, view, tuple(None for _ in view.names), (0.1,), probe=probe)
    ntk = Ntk()
    read = ntk.update(ntk.init(), moment)[1].scalars
    assert "fewer than 16" in read["ntk/log_det"].reason
    with pytest.raises(ValueError, match="`examples` of `Ntk` must be at least 16. Got 4"):
        Ntk(examples=4)
    with pytest.raises(ValueError, match="`epsilon` of `Ntk` must be positive"):
        Ntk(epsilon=0.0)
    with pytest.raises(ValueError, match="`reduction` of `Ntk` must be one of"):
        Ntk(reduction="mean")
    with pytest.raises(ValueError, match="`reduction` of `ntk_gram` must be one of"):
        ntk_gram(view, probe, torch.ones(2, 6), reduction="mean")
    with pytest.raises(ValueError, match="cannot hold heads"):
        Ntk(groups=[Group("one", "body", head=(0, 2))])
