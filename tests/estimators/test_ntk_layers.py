"""Grams of output gradients by layer: against jacrev in float64, and what the check catches."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import foreshock.estimators.ntk_layers as ntk_layers
import foreshock.estimators.ntk_rules as ntk_rules
from foreshock.estimators.ntk_layers import parameter_grams
from foreshock.probe import Probe
from foreshock.probe.view import ModelView
from tests.cases import CASES, loss

N = 10


class Convolutions(nn.Module):
    """Stride, groups, dilation, circular padding, one dimension, frozen batch norm, in-place."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(
            4, 8, 3, groups=2, dilation=2, padding="same", padding_mode="circular", bias=False
        )
        self.third = nn.Conv1d(8, 4, 3, stride=2)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu_(self.norm(self.first(x)))
        return self.head(self.third(self.second(h).flatten(2)).mean(-1))


class Sequences(nn.Module):
    """Packed attention with positions first, cross-attention, positions, tables, weight norm."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 8, padding_idx=0)
        self.positions = nn.Embedding(6, 8)
        self.shift = nn.Parameter(torch.randn(1, 9, 8))
        self.matrix = nn.Parameter(torch.randn(8, 8) / 3)
        self.rms = nn.RMSNorm(8)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16)
        self.cross = nn.MultiheadAttention(8, 2, batch_first=True)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
        self.head = nn.Linear(8, 3)
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        time = x.shape[1]
        h = self.table(x) + self.positions(torch.arange(time)) + self.shift[:, :time]
        h = self.rms(h) @ self.matrix
        h = self.encoder(h.transpose(0, 1)).transpose(0, 1)
        h = self.normed(h + self.cross(h, 2 * h, h + 1)[0])
        return self.head(h.mean(1))


class Twice(nn.Module):
    """One layer used twice, and a parameter that enters through a product of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(5, 5)
        self.factor = nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        return self.line(torch.tanh(self.line(x)) * self.factor) - self.factor


def tokens(seed: int) -> Tensor:
    return torch.randint(11, (N, 6), generator=torch.Generator().manual_seed(seed))


def normal(*shape: int) -> Callable[[int], Tensor]:
    return lambda seed: torch.randn(N, *shape, generator=torch.Generator().manual_seed(seed))


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Tensor]]] = {
    **{
        name: (case.make, lambda seed, case=case: case.batch(N, seed)[0])
        for name, case in CASES.items()
    },
    "convolutions": (Convolutions, normal(2, 8, 8)),
    "sequences": (Sequences, tokens),
    "encoder layer": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True),
        normal(7, 8),
    ),
    "used twice": (Twice, normal(5)),
}


def made(name: str, dtype: torch.dtype) -> tuple[nn.Module, Tensor]:
    make, draw = MODELS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):  # statistics that are not those of the start
                module.running_mean.uniform_(-1, 1, generator=torch.Generator().manual_seed(1))
                module.running_var.uniform_(1, 2, generator=torch.Generator().manual_seed(2))
    x = draw(3)
    return model.to(dtype), x.to(dtype) if x.is_floating_point() else x


def dense(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Jacobians (n, K, d) of every parameter, by jacrev in float64."""
    twin, x = model.double(), x.double() if x.is_floating_point() else x
    weights = dict(twin.named_parameters())

    def outputs(weights: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(twin, weights, (x,)).reshape(len(x), -1)

    with (
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", UserWarning)  # of operations that vmap runs in a loop
        jacobians = torch.func.jacrev(outputs)(weights)
    return {
        name: j.detach().reshape(len(x), -1, weights[name].numel()) for name, j in jacobians.items()
    }


def expected(jacobian: Tensor, reduction: str) -> Tensor:
    if reduction == "sum":
        rows = jacobian.sum(1)
        return rows @ rows.T
    if reduction == "trace":
        return torch.einsum("ikd,jkd->ij", jacobian, jacobian)
    rows = jacobian.flatten(0, 1)
    return rows @ rows.T


@pytest.fixture
def rules_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse the slow path, which would hide a wrong rule behind its right answer."""

    def refuse(view: ModelView, *rest: object) -> None:
        raise AssertionError([view.names[i] for i in rest[2]])

    monkeypatch.setattr(ntk_layers, "_by_examples", refuse)


@pytest.mark.usefixtures("rules_only")
@pytest.mark.parametrize("reduction", ["sum", "trace", "full"])
@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_agrees_with_jacrev(name: str, reduction: str) -> None:
    model, x = made(name, torch.float64)
    got = parameter_grams(ModelView(model), Probe(loss, [x]), x, reduction=reduction)
    jacobians = dense(model, x)
    names = [n for n, _ in model.named_parameters()]
    for parameter, gram in zip(names, got, strict=True):
        truth = expected(jacobians[parameter], reduction)
        # sums of some thousand terms of size 1, in float64
        assert torch.allclose(gram, truth, rtol=1e-10, atol=1e-10 * truth.abs().max()), parameter


@pytest.mark.usefixtures("rules_only")
@pytest.mark.parametrize("name", MODELS)
def test_single_precision(name: str) -> None:
    model, x = made(name, torch.float32)
    got = sum(parameter_grams(ModelView(model), Probe(loss, [x]), x))
    truth = sum(expected(j, "sum") for j in dense(model, x).values())
    # 2^-24 = 6e-8 a rounding, some hundred of them in a row
    assert float((got - truth).abs().max() / truth.abs().max()) < 1e-5


@pytest.mark.parametrize("wrong", ["_linear", "_layer_norm", "_embedding"])
def test_a_wrong_rule_is_caught_and_measured_again(
    wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = getattr(ntk_rules, wrong)

    def bent(*arguments: object) -> ntk_rules.Factors:
        left, right, rows = rule(*arguments)
        return ntk_rules.Factors(left, 1.001 * right, rows)

    for name, known in ntk_rules.RULES.items():
        if known is rule:
            monkeypatch.setitem(ntk_rules.RULES, name, bent)
    again: list[int] = []
    slow = ntk_layers._by_examples

    def counted(*arguments: object) -> list[Tensor]:
        again.extend(arguments[3])
        return slow(*arguments)

    monkeypatch.setattr(ntk_layers, "_by_examples", counted)
    model, x = made("transformer", torch.float64)
    got = sum(parameter_grams(ModelView(model), Probe(loss, [x]), x))
    truth = sum(expected(j, "sum") for j in dense(model, x).values())
    assert torch.allclose(got, truth, rtol=1e-10)
    assert again


class Unknown(nn.Module):
    """A parameter in an operation without a rule, beside one with a rule."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(4, 4)
        self.norm = nn.GroupNorm(2, 4)
        self.power = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.line(x)).abs() ** self.power


@pytest.mark.parametrize("reduction", ["sum", "trace", "full"])
def test_what_no_rule_knows_is_not_dropped(reduction: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Unknown().double().eval()
    x = torch.randn(N, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    got = parameter_grams(ModelView(model), Probe(loss, [x]), x, reduction=reduction)
    for gram, jacobian in zip(got, dense(model, x).values(), strict=True):
        assert torch.allclose(gram, expected(jacobian, reduction), rtol=1e-10, atol=1e-12)
        assert float(gram.abs().max()) > 0


class Mixing(nn.Module):
    """Examples see the mean of the batch, also in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.line(x - 0.5 * x.mean(0))


def test_a_model_that_mixes_examples_is_measured_one_by_one() -> None:
    model, x = Mixing().double(), torch.randn(6, 3, dtype=torch.float64)
    weight, bias = parameter_grams(ModelView(model), Probe(loss, [x]), x)
    alone = x / 2  # of an example alone, its own mean goes
    assert torch.allclose(weight, 2 * alone @ alone.T)
    assert torch.allclose(bias, torch.full((6, 6), 2.0, dtype=torch.float64))


def test_tied_weights_are_added_before_the_product() -> None:
    model, x = made("transformer", torch.float64)
    view = ModelView(model)
    tied = parameter_grams(view, Probe(loss, [x]), x)[view.names.index("embed.weight")]
    model.unembed.weight = nn.Parameter(model.embed.weight.detach().clone())
    view = ModelView(model)
    apart = parameter_grams(view, Probe(loss, [x]), x)
    two = apart[view.names.index("embed.weight")] + apart[view.names.index("unembed.weight")]
    assert float((tied - two).abs().max() / two.abs().max()) > 0.05  # the cross terms


def test_frozen_parameters_have_no_part() -> None:
    model, x = made("mlp", torch.float64)
    model.body.requires_grad_(False)
    got = parameter_grams(ModelView(model), Probe(loss, [x]), x)
    jacobians = dense(model, x)
    assert len(got) == 2
    assert torch.allclose(got[0], expected(jacobians["head.weight"], "sum"), rtol=1e-10)


def test_too_many_outputs_are_refused() -> None:
    model, x = nn.Linear(2, 600), torch.ones(3, 2)
    with pytest.raises(ValueError, match="this model has 600 an example"):
        parameter_grams(ModelView(model), Probe(loss, [x]), x, reduction="full")
