"""Progress measures on hand-built networks, torch's own losses, and what is not modular."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from foreshock.estimators.modular import ModularProgress
from foreshock.experiments.grokking import Grokking, make_data, make_model, make_probe
from foreshock.probe import Probe
from foreshock.probe.moment import Moment
from foreshock.probe.view import ModelView
from foreshock.types import Estimate
from tests.cases import CASES

P = 11


def read(model: nn.Module, probe: Probe, **how: Any) -> dict[str, Estimate]:
    view = ModelView(model)
    moment = Moment(0, view, tuple(None for _ in view.names), (0.1,), probe=probe)
    return dict(ModularProgress(**how).update(None, moment)[1].scalars)


class Clock(nn.Module):
    """Adds by angles: an embedding on circles, products of cosines, a readout by cos w(· − c)."""

    def __init__(self, frequencies: list[int], height: float = 9.0) -> None:
        super().__init__()
        turn = 2 * math.pi * torch.arange(P)[:, None] * torch.tensor(frequencies) / P
        # a token "=" after the numbers, as in the one-layer transformers of the literature
        circles = torch.cat([turn.cos(), turn.sin()], 1)
        self.embed = nn.Parameter(torch.cat([circles, torch.zeros(1, circles.shape[1])]))
        self.height, self.m = height, len(frequencies)

    def forward(self, pairs: torch.Tensor) -> torch.Tensor:
        (c1, s1), (c2, s2) = (self.embed[pairs[:, i]].split(self.m, 1) for i in (0, 1))
        cos, sin = c1 * c2 - s1 * s2, s1 * c2 + c1 * s2
        out_cos, out_sin = self.embed[:P].split(self.m, 1)
        return self.height * (cos @ out_cos.T + sin @ out_sin.T)


def probe_of(pairs: torch.Tensor) -> Probe:
    labels = pairs.sum(1) % P
    return Probe(lambda m, b: functional.cross_entropy(m(b[0]), b[1]), [(pairs, labels)])


GRID = torch.cartesian_prod(torch.arange(P), torch.arange(P))


def test_a_network_that_adds_by_angles() -> None:
    found = read(Clock([1, 4]), probe_of(GRID[::3]), top=2)
    assert found["modular/concentration"].value == pytest.approx(1.0, abs=1e-6)
    assert found["modular/embedding_concentration"].value == pytest.approx(1.0, abs=1e-6)
    assert found["modular/excluded_loss"].value == pytest.approx(math.log(P), abs=1e-5)
    assert found["modular/restricted_loss"].value == pytest.approx(
        found["modular/loss"].value, rel=1e-4
    )
    assert found["modular/excluded_loss"].n == len(GRID[::3])
    assert found["modular/concentration"].null[1] < 0.3  # type: ignore[index]


def test_half_the_keys_leave_the_rest_behind() -> None:
    # two circles of one height, one key: half of the power, and the other circle still answers
    found = read(Clock([1, 4]), probe_of(GRID), top=1)
    assert found["modular/concentration"].value == pytest.approx(0.5, abs=1e-6)
    single = functional.cross_entropy(Clock([1])(GRID), GRID.sum(1) % P).item()
    assert found["modular/restricted_loss"].value == pytest.approx(single, rel=1e-4)
    assert found["modular/excluded_loss"].value == pytest.approx(single, rel=1e-4)


@pytest.mark.parametrize("task", ["p59", "p23"])
def test_the_networks_of_the_experiment_at_the_start_read_their_null(task: Any) -> None:
    config = Grokking(task=task)
    model, probe = make_model(config), make_probe(config, make_data(config))
    how: dict[str, Any] = {"loss": "squared"} if task == "p23" else {}
    found = read(model, probe, **how)
    pairs = torch.cartesian_prod(*(torch.arange(config.modulus),) * 2)
    labels = pairs.sum(1) % config.modulus
    outputs = model(pairs).detach()
    hot = functional.one_hot(labels, config.modulus).float()
    expected = (
        functional.mse_loss(outputs, hot)
        if task == "p23"
        else functional.cross_entropy(outputs, labels)
    )
    assert found["modular/loss"].value == pytest.approx(expected.item(), rel=1e-5)
    circles = found["modular/embedding_concentration"]
    assert circles.null is not None
    # Gaussian, or uniform one-hot weights: inside the band but for one case in twenty
    width = circles.null[1] - circles.null[0]
    assert circles.null[0] - width < circles.value < circles.null[1] + width
    # Functions of one token alone hold most of the power at the start: the keys hold less than
    # their share in noise
    assert found["modular/concentration"].value < 2 * found["modular/concentration"].null[1]  # type: ignore[index]


class OneHot(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(2 * P, 8)
        self.readout = nn.Linear(8, P)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.readout(self.hidden(x).square())


def one_hot(pairs: torch.Tensor) -> torch.Tensor:
    return functional.one_hot(pairs, P).flatten(1).float()


def test_other_encodings_come_through_a_function() -> None:
    torch.manual_seed(0)
    model = OneHot()
    x, y = one_hot(GRID[::2]), GRID[::2].sum(1) % P
    probe = Probe(lambda m, b: functional.cross_entropy(m(b[0]), b[1]), [(x, y)])
    assert "integer pairs" in read(model, probe)["modular/loss"].reason
    found = read(model, probe, inputs=one_hot)
    expected = functional.cross_entropy(model(one_hot(GRID)), GRID.sum(1) % P).item()
    assert found["modular/loss"].value == pytest.approx(expected, rel=1e-5)
    assert found["modular/embedding_concentration"].value == pytest.approx(1.0)  # 5 of 5 keys
    two = read(model, probe, inputs=one_hot, top=2)["modular/embedding_concentration"].value
    weight = model.hidden.weight.detach().double().numpy()
    power = sum((np.abs(np.fft.rfft(w, axis=1)) ** 2).sum(0)[1:] for w in np.split(weight, 2, 1))
    assert two == pytest.approx(np.sort(power)[-2:].sum() / power.sum())
    assert found["modular/excluded_loss"].n == P * P  # which pairs are trained on is not known


def test_what_is_not_modular_says_so() -> None:
    case = CASES["transformer"]
    found = read(case.model(), case.probe())
    assert all("integer pairs" in e.reason for e in found.values())
    few = read(Clock([1]), probe_of(GRID), top=6)
    assert all("lower `top`" in e.reason for e in few.values())
    wrong = read(Clock([1]), probe_of(GRID), modulus=10)
    assert all("outputs on all pairs" in e.reason for e in wrong.values())


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"modulus": 2}, "at least 3. Got 2"),
        ({"operation": "multiply"}, "'add' or 'subtract'"),
        ({"loss": "hinge"}, "'cross_entropy' or 'squared'"),
        ({"top": 0}, "at least 1"),
    ],
)
def test_the_door(how: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ModularProgress(**how)
