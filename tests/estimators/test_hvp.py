"""Hessian products: three methods against each other and against dense float64 Hessians."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from foreshock.estimators.hvp import HessianProduct, MeanProduct, hessian
from foreshock.probe.quiet import quiet
from foreshock.probe.view import ModelView
from tests.cases import CASES, loss


def random(d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def wide(name: str) -> tuple[ModelView, tuple[torch.Tensor, torch.Tensor]]:
    """A case in float64."""
    case = CASES[name]
    x, y = case.batch(8, seed=1)
    view = ModelView(copy.deepcopy(case.model()).double())
    return view, (x.double() if x.is_floating_point() else x, y)


@pytest.mark.parametrize("name", CASES)
def test_three_methods_agree(name: str) -> None:
    view, batch = wide(name)
    with quiet(0):
        results = {}
        for method in ("reverse", "forward", "differences"):
            product = HessianProduct(view, loss, batch, method=method)
            results[method] = product(random(product.dimension))
            assert product.method == method
    size = results["reverse"].norm()
    # Both are exact: rounding. LayerNorm by jvp is what is watched here.
    assert (results["forward"] - results["reverse"]).norm() < 1e-10 * size
    # Central differences in float64: truncation and rounding of about ε^(2/3) = 4e-11 relative to
    # |g|, which is up to 1e3 times |Hv|; a step across a kink of a ReLU would show at 1e-2.
    assert (results["differences"] - results["reverse"]).norm() < 1e-4 * size


def test_symmetric_and_equal_to_the_dense_hessian_of_torch() -> None:
    view, batch = wide("mlp")
    with quiet(0):
        product, d, _ = hessian(view, loss, batch)
        rows = torch.stack([product(e) for e in torch.eye(d, dtype=torch.float64)])
        sizes = [p.numel() for p in view.parameters]
        shapes = [p.shape for p in view.parameters]

        def flat(theta: torch.Tensor) -> torch.Tensor:
            parts = [t.view(s) for t, s in zip(theta.split(sizes), shapes, strict=True)]
            return view.loss(parts, loss, batch)

        theta = torch.cat([p.reshape(-1) for p in view.parameters])
        dense = torch.autograd.functional.hessian(flat, theta)
    assert torch.allclose(rows, rows.T, atol=1e-12)
    assert torch.allclose(rows, dense, atol=1e-12)


class NoDoubleBackward(torch.autograd.Function):
    """x³ whose backward pass reads as linear to torch: the second derivative is silently 0."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor) -> torch.Tensor:
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g: torch.Tensor) -> torch.Tensor:
        return 3 * ctx.saved_tensors[0] ** 2 * g


class Cubic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return NoDoubleBackward.apply(self.weight * x)


class Distance(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        start = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
        self.weight = nn.Parameter(start.double())
        self.naive = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.naive:
            return ((self.weight[:, None] - x[None]).abs() ** 3).sum(-1) ** (1 / 3)
        return torch.cdist(self.weight, x, p=3.0)  # its backward pass has no derivative


def test_an_operation_without_double_backward_falls_back_to_differences() -> None:
    x = torch.ones(2, 3, dtype=torch.float64)
    model = Distance()
    results = []
    for naive in (False, True):
        model.naive = naive
        with quiet(0):
            product = HessianProduct(ModelView(model), lambda m, x: m(x).square().sum(), x)
            results.append(product(random(12)))
        assert product.method == ("reverse" if naive else "differences")
    # Central differences in float64: about ε^(2/3) = 4e-11 times the conditioning of the loss.
    assert torch.allclose(*results, rtol=1e-6)


def test_a_second_derivative_that_is_silently_zero_is_noticed() -> None:
    x = torch.tensor([1.0, 0.5], dtype=torch.float64)
    with quiet(0):
        product = HessianProduct(ModelView(Cubic()), lambda m, x: m(x).square().sum(), x)
        got = product(torch.tensor([1.0, 1.0], dtype=torch.float64))
    assert product.method == "differences"
    # d²/dw² (wx)⁶ = 30 w⁴ x⁶; differences keep about 9 digits of a smooth function in float64.
    truth = torch.tensor([30.0, 30 * 16 / 64], dtype=torch.float64)
    assert torch.allclose(got, truth, rtol=1e-6)


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 5), nn.Tanh())
        self.head = nn.Linear(5, 4)
        self.saved: bool | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.saved is None:
            return self.head(self.body(x))
        return self.head(checkpoint(self.body, x, use_reentrant=self.saved))


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_gives_the_same_product(reentrant: bool) -> None:
    torch.manual_seed(0)
    model = Checkpointed().double()
    x, y = CASES["mlp"].batch(8, seed=1)
    v = random(sum(p.numel() for p in model.parameters()))
    results = []
    for saved in (reentrant, None):
        model.saved = saved
        with quiet(0):
            product = HessianProduct(ModelView(model), loss, (x.double(), y))
            results.append(product(v))
        assert product.method == "reverse"
    assert torch.allclose(*results, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_several_vectors_at_once_are_the_same_products(name: str) -> None:
    view, batch = wide(name)
    with quiet(0):
        product, d, _ = hessian(view, loss, batch)
        vectors = torch.stack([random(d, seed) for seed in range(3)])
        one_by_one = torch.stack([product(v) for v in vectors])
        assert torch.allclose(product.rows(vectors), one_by_one, atol=1e-12)


def test_a_compiled_module_is_measured_as_the_module_it_wraps() -> None:
    view, batch = wide("mlp")
    model = copy.deepcopy(CASES["mlp"].model()).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(model, backend="eager")
    v = random(sum(p.numel() for p in model.parameters()))
    with quiet(0):
        assert torch.equal(
            HessianProduct(ModelView(compiled), loss, batch)(v),
            HessianProduct(view, loss, batch)(v),
        )


def test_the_mean_of_batches_is_the_hessian_of_their_mean_loss() -> None:
    view, (x, y) = wide("mlp")
    v = random(sum(p.numel() for p in view.parameters))
    with quiet(0):
        parts = [HessianProduct(view, loss, (x[s], y[s])) for s in (slice(0, 2), slice(2, 8))]
        mean = MeanProduct(parts, [2, 6])(v)
        whole = HessianProduct(view, loss, (x, y))(v)
    assert torch.allclose(mean, whole, atol=1e-12)


def test_vectors_keep_their_type_and_a_linear_loss_has_no_curvature() -> None:
    model = nn.Linear(3, 1)
    x = torch.ones(2, 3)
    with quiet(0):
        flat = HessianProduct(ModelView(model), lambda m, x: m(x).sum(), x)
        assert flat(torch.ones(4)).dtype == torch.float32
        assert flat(torch.ones(4).double()).tolist() == [0.0] * 4
        curved = HessianProduct(ModelView(model), lambda m, x: functional.gelu(m(x)).sum(), x)
        assert curved(torch.ones(4)).dtype == torch.float32
    assert curved.dtype == torch.float32
