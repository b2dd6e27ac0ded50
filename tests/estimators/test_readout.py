"""Held-out signal: N(0, 1) under shuffled labels, large where labels are known, blind to scale."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from foreshock.estimators import HeldoutSignal, ProbeSignal, RidgeSignal
from foreshock.probe import Probe
from foreshock.probe.moment import Moment
from foreshock.probe.view import ModelView
from foreshock.types import Estimate
from tests.cases import CASES, loss


def read(
    observable: HeldoutSignal | ProbeSignal | RidgeSignal, model: nn.Module, probe: Probe
) -> dict[str, Estimate]:
    view = ModelView(model)
    moment = Moment(0, view, tuple(None for _ in view.names), (0.1,), probe=probe)
    return dict(observable.update(None, moment)[1].scalars)


@pytest.mark.parametrize("observable", [HeldoutSignal(), RidgeSignal()], ids=["heldout", "ridge"])
def test_null_is_standard_normal(observable: HeldoutSignal | RidgeSignal) -> None:
    case = CASES["mlp"]
    model = case.model()
    z = []
    for seed in range(200):
        train, (x, _) = case.batch(64, 2 * seed), case.batch(100, 2 * seed + 1)
        labels = torch.randint(4, (100,), generator=torch.Generator().manual_seed(seed))
        probe = Probe(loss, [train], heldout=(x, labels))
        name = observable.series[0].name
        z.append(read(observable, model, probe)[name].value)
    # 200 draws of N(0, 1): the mean has sd .071, the standard deviation .05; four of each
    assert abs(np.mean(z)) < 0.28
    assert abs(np.std(z) - 1) < 0.2


def test_a_model_that_knows_is_heard_and_scale_does_not_matter() -> None:
    x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    y = x.argmax(1)
    model = nn.Linear(4, 4, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.eye(4))
    probe = Probe(loss, [(x, y)], heldout=(x, y))
    one = read(HeldoutSignal(), model, probe)
    with torch.no_grad():
        model.weight.mul_(1000)
    other = read(HeldoutSignal(), model, probe)
    assert one["readout/heldout_signal"].value > 10
    assert one["readout/heldout_signal"].value == pytest.approx(
        other["readout/heldout_signal"].value, rel=1e-5
    )
    assert one["readout/probe_accuracy"].value == 1.0
    assert one["readout/heldout_accuracy"].value == 1.0


def test_the_baselines_are_those_of_torch() -> None:
    g = torch.Generator().manual_seed(3)
    x, y = torch.randn(60, 4, generator=g), torch.randint(4, (60,), generator=g)
    model = nn.Linear(4, 4)
    found = read(HeldoutSignal(), model, Probe(loss, [(x, y)], heldout=(x, y)))
    with torch.no_grad():
        logits = model(x)
    expected = nn.functional.cross_entropy(logits, y).item()
    assert found["readout/heldout_loss"].value == pytest.approx(expected, rel=1e-6)
    hits = (logits.argmax(1) == y).double().mean().item()
    assert found["readout/heldout_accuracy"].value == pytest.approx(hits)
    with torch.no_grad():
        model.weight.mul_(1e5)  # losses of 1e5 nats must not overflow
    assert read(HeldoutSignal(), model, Probe(loss, [(x, y)], heldout=(x, y)))[
        "readout/heldout_loss"
    ].resolved


class Hidden(nn.Module):
    """Features that hold the label, behind a readout that ignores them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 4, bias=False)
        self.head = nn.Linear(4, 4)
        with torch.no_grad():
            self.body.weight.copy_(torch.eye(4))
            self.head.weight.zero_()
            self.head.bias.copy_(torch.arange(4.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def test_ridge_hears_features_that_the_readout_does_not_use() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(400, 4, generator=generator)
    y = x.argmax(1)
    probe = Probe(loss, [(x[:200], y[:200])], heldout=(x[200:], y[200:]))
    model = Hidden()
    assert abs(read(HeldoutSignal(), model, probe)["readout/heldout_signal"].value) < 3
    assert read(RidgeSignal(), model, probe)["readout/ridge_signal"].value > 10


class NoReadout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight


def test_ridge_needs_a_linear_readout_and_says_so() -> None:
    x, y = torch.randn(50, 4), torch.randint(4, (50,))
    probe = Probe(loss, [(x, y)], heldout=(x, y))
    found = read(RidgeSignal(), NoReadout(), probe)["readout/ridge_signal"]
    assert "last layer is a torch.nn.Linear" in found.reason


def test_sequences_count_every_position() -> None:
    model = nn.Sequential(nn.Embedding(5, 8), nn.Linear(8, 5))
    tokens = torch.randint(5, (20, 7), generator=torch.Generator().manual_seed(2))
    probe = Probe(
        lambda m, b: nn.functional.cross_entropy(m(b[0]).flatten(0, 1), b[1].flatten()),
        [(tokens, tokens)],
        heldout=(tokens, tokens),
    )
    found = read(HeldoutSignal(), model, probe)
    assert found["readout/heldout_signal"].n == 140
    assert read(RidgeSignal(), model, probe)["readout/ridge_signal"].value > 3  # copies its input


def test_rank_p_is_uniform_under_shuffled_labels_and_small_where_the_model_knows() -> None:
    case = CASES["mlp"]
    model = case.model()
    p = []
    for seed in range(150):
        labels = torch.randint(4, (20,), generator=torch.Generator().manual_seed(seed))
        probe = Probe(loss, [case.batch(16, 0)], heldout=(case.batch(20, seed)[0], labels))
        p.append(read(HeldoutSignal(), model, probe)["readout/rank_p"].value)
    # 150 uniform draws: mean .5 of sd .024, share below .2 of sd .033; four of each
    assert abs(np.mean(p) - 0.5) < 0.095
    assert abs(np.mean(np.array(p) <= 0.2) - 0.2) < 0.13
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    knows = nn.Linear(4, 4, bias=False)
    with torch.no_grad():
        knows.weight.copy_(torch.eye(4))
    probe = Probe(loss, [(x, x.argmax(1))], heldout=(x, x.argmax(1)))
    assert read(HeldoutSignal(), knows, probe)["readout/rank_p"].value == pytest.approx(1 / 200)


@pytest.mark.parametrize("imbalance", [0.25, 0.85])
def test_probe_signal_is_standard_normal_under_shuffled_labels(imbalance: float) -> None:
    # With 85 % of one class the ridge predicts that class: z of the raw predictions would be 5.
    case = CASES["mlp"]
    model, z = case.model(), []
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        rare = torch.randint(1, 4, (120,), generator=generator)
        labels = torch.where(torch.rand(120, generator=generator) < imbalance, 0, rare)
        probe = Probe(loss, [case.batch(8, 0)], heldout=(case.batch(120, seed)[0], labels))
        z.append(read(ProbeSignal(), model, probe)["readout/probe_signal"].value)
    assert abs(np.mean(z)) < 0.28  # sd .071, four of them
    if imbalance == 0.25:
        assert abs(np.std(z) - 1) < 0.2
    else:
        # rms(Z) is a mean over all classes, and rare ones move less: z is narrower or wider there
        assert 0.5 < np.std(z) < 2.0


def test_probe_signal_hears_features_and_never_sees_training_labels() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(400, 4, generator=generator)
    y = x.argmax(1)
    model = Hidden()
    one = read(ProbeSignal(), model, Probe(loss, [(x[:200], y[:200])], heldout=(x[200:], y[200:])))
    wrong = torch.randint(4, (200,), generator=generator)
    two = read(ProbeSignal(), model, Probe(loss, [(x[:200], wrong)], heldout=(x[200:], y[200:])))
    assert one["readout/probe_signal"].value > 10
    assert one == two
    assert one["readout/probe_signal"].n == 100  # half of the held-out set
    few = Probe(loss, [(x, y)], heldout=(x[:15], y[:15]))
    assert "Got 15 in all" in read(ProbeSignal(), model, few)["readout/probe_signal"].reason
    found = read(ProbeSignal(), NoReadout(), Probe(loss, [(x, y)], heldout=(x, y)))
    assert "last layer is a torch.nn.Linear" in found["readout/probe_signal"].reason
    with pytest.raises(ValueError, match="at least 16. Got 4"):
        ProbeSignal(examples=4)
