"""Curvature against the Riemann tensor, spheres and saddles."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from foreshock.estimators.geometry import (
    damping,
    sectional_curvature,
    slice_curvature,
    step_curvature,
)
from foreshock.estimators.model_outputs import model_outputs
from foreshock.probe import Probe
from foreshock.probe.view import ModelView
from foreshock.types import Estimate, Flag
from tests.cases import CASES

Outputs = Callable[[Tensor], Tensor]
F64 = torch.float64


def riemann(outputs: Outputs, theta: Tensor, u: Tensor, v: Tensor, epsilon: float) -> float:
    """K from the metric alone: Christoffel symbols and R_iklm by automatic differentiation."""

    def metric(t: Tensor) -> Tensor:
        jacobian = torch.func.jacfwd(outputs)(t)
        return jacobian.T @ jacobian + epsilon * torch.eye(len(t), dtype=F64)

    g = metric(theta)
    first = torch.func.jacfwd(metric)(theta)  # [i, j, k] = ∂_k g_ij
    second = torch.func.jacfwd(torch.func.jacfwd(metric))(theta)  # [i, j, k, l] = ∂_l ∂_k g_ij
    # Γ_nij = (∂_j g_ni + ∂_i g_nj − ∂_n g_ij)/2
    lower = (first + first.permute(0, 2, 1) - first.permute(2, 0, 1)) / 2
    raised = torch.einsum("nkl,nm->mkl", lower, torch.linalg.inv(g))
    curved = (
        torch.einsum("imkl->iklm", second)
        + torch.einsum("klim->iklm", second)
        - torch.einsum("ilkm->iklm", second)
        - torch.einsum("kmil->iklm", second)
    ) / 2
    curved = curved + torch.einsum("pkl,pim->iklm", raised, lower)
    curved = curved - torch.einsum("pkm,pil->iklm", raised, lower)
    top = torch.einsum("iklm,i,k,l,m->", curved, u, v, u, v)
    return float(top / ((u @ g @ u) * (v @ g @ v) - (u @ g @ v) ** 2))


def network(d: int, outputs: int, seed: int) -> tuple[Outputs, Tensor, Tensor, Tensor]:
    """A smooth map R^d -> R^N with generic curvature, a point and a plane."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=F64)

    inner, outer = normal(8, d), normal(outputs, 8) / 3
    f = lambda t: outer @ torch.tanh(inner @ t / 2)  # noqa: E731
    return f, normal(d), normal(d), normal(d)


def sphere(t: Tensor) -> Tensor:
    """Three angles onto the sphere of radius 2 in R^4."""
    a, b, c = t
    return 2 * torch.stack(
        [a.cos(), a.sin() * b.cos(), a.sin() * b.sin() * c.cos(), a.sin() * b.sin() * c.sin()]
    )


def agrees(got: Estimate, truth: float, rtol: float) -> None:
    assert got.value == pytest.approx(truth, rel=rtol)
    assert got.low <= got.value <= got.high
    assert got.flags == Flag.NONE


POINT = torch.tensor([1.0, 1.2, 0.4], dtype=F64)
PLANES = [
    ([1, 0, 0], [0, 1, 0]),
    ([1, 0, 1], [0, 1, 0]),
    ([1, 0, 2], [0, 1, 2]),
    ([-4, 1, -4], [2, -2, 4]),
]


@pytest.mark.parametrize(("u", "v"), PLANES)
def test_every_plane_of_a_3_sphere_of_radius_2_reads_a_quarter(u: list, v: list) -> None:
    u, v = torch.tensor(u, dtype=F64), torch.tensor(v, dtype=F64)
    # JJ' has eigenvalues of order 1, so ε = 1e-8 changes K by 1e-8 of itself, and a relative
    # rounding of 4 · 2e-16 in JJ' over ε by 1e-7.
    agrees(sectional_curvature(sphere, POINT, u, v, epsilon=1e-8), 0.25, 1e-6)


def test_slices_of_the_3_sphere_differ_and_agree_with_their_own_metric() -> None:
    readings = []
    for u, v in PLANES:
        u, v = torch.tensor(u, dtype=F64), torch.tensor(v, dtype=F64)
        got = slice_curvature(sphere, POINT, u, v)

        def sheet(t: Tensor, u: Tensor = u, v: Tensor = v) -> Tensor:
            return sphere(POINT + t[0] * u + t[1] * v)

        # Gauss's theorem: the metric of the sheet alone knows its curvature.
        truth = riemann(sheet, torch.zeros(2, dtype=F64), *torch.eye(2, dtype=F64), 0.0)
        agrees(got, truth, 1e-10)
        readings.append(got.value)
    # The first plane is a great sphere, totally geodesic; the others bend to either side.
    assert readings == pytest.approx([0.25, 0.301, 0.368, 0.223], abs=5e-4)


@pytest.mark.parametrize(("x", "y"), [(0.0, 0.0), (1.0, -0.5), (0.3, 2.0)])
def test_saddle(x: float, y: float) -> None:
    def saddle(t: Tensor) -> Tensor:
        return torch.stack([t[0], t[1], t[0] * t[1]])

    theta, (u, v) = torch.tensor([x, y], dtype=F64), torch.eye(2, dtype=F64)
    truth = -1 / (1 + x**2 + y**2) ** 2
    agrees(slice_curvature(saddle, theta, u, v), truth, 1e-12)
    agrees(sectional_curvature(saddle, theta, u, v, epsilon=1e-8), truth, 1e-6)


@pytest.mark.parametrize("epsilon", [1.0, 1e-1, 1e-2, 1e-4])
@pytest.mark.parametrize("outputs", [4, 20])
@pytest.mark.parametrize("d", [3, 6])
def test_agrees_with_the_riemann_tensor(d: int, outputs: int, epsilon: float) -> None:
    f, theta, u, v = network(d, outputs, seed=10 * d + outputs)
    truth = riemann(f, theta, u, v, epsilon)
    # The twin inverts G_ε, whose condition is λ/ε <= 1e6: it loses 6 and more of 16 digits.
    agrees(sectional_curvature(f, theta, u, v, epsilon=epsilon), truth, 1e-6)
    sheet = lambda t: torch.cat([f(t), math.sqrt(epsilon) * t])  # noqa: E731
    here = slice_curvature(sheet, theta, u, v)
    # The same sheet in the same graph, written by hand.
    agrees(slice_curvature(f, theta, u, v, epsilon=epsilon), here.value, 1e-8)


def test_interval_holds_the_value_where_arithmetic_is_strained() -> None:
    # On the sphere ε changes K smoothly, so K(ε) = K + O(ε) is known to O(ε), while rounding
    # grows as 1/ε: the interval must notice.
    u, v = (torch.tensor(x, dtype=F64) for x in PLANES[2])
    for epsilon in (1e-10, 1e-12, 1e-14):
        got = sectional_curvature(sphere, POINT, u, v, epsilon=epsilon)
        assert got.low - 10 * epsilon <= 0.25 <= got.high + 10 * epsilon
    assert got.high - got.low > 1e-3


def test_curvature_vanishes_with_the_damping_where_weights_outnumber_outputs() -> None:
    f, theta, u, v = network(6, 4, seed=3)
    epsilons = (1e-5, 1e-6, 1e-7, 1e-8)
    values = [abs(sectional_curvature(f, theta, u, v, epsilon=e).value) for e in epsilons]
    # P = ε (JJ')^-1 to first order and the area stays, so K is linear in ε.
    for large, small in pairwise(values):
        assert small == pytest.approx(large / 10, rel=0.2)
    # ... while a slice does not.
    assert abs(slice_curvature(f, theta, u, v).value) > 100 * values[-1]


def test_curvature_is_that_of_the_plane_not_of_its_basis() -> None:
    f, theta, u, v = network(6, 20, seed=4)
    reference = sectional_curvature(f, theta, u, v, epsilon=1e-2)
    flat = slice_curvature(f, theta, u, v)
    for a, b, c, d in ((2.0, 0, 0, -1e-3), (0.6, 0.8, -0.8, 0.6), (1, 1, 0, 5), (1, 0, 1, 0.01)):
        basis = a * u + b * v, c * u + d * v
        # The last basis has an angle of .01, which costs 2 digits of 16, squared 4.
        agrees(sectional_curvature(f, theta, *basis, epsilon=1e-2), reference.value, 1e-9)
        agrees(slice_curvature(f, theta, *basis), flat.value, 1e-9)


@pytest.mark.parametrize("scale", [1e-3, 7.0, 1e4])
def test_step_curvature_has_no_units(scale: float) -> None:
    f, theta, u, v = network(6, 20, seed=5)
    once = sectional_curvature(f, theta, u, v, epsilon=1e-2)
    pure = step_curvature(once, f, theta, v, epsilon=1e-2)
    scaled, epsilon = (lambda t: scale * f(t)), 1e-2 * scale**2
    twice = sectional_curvature(scaled, theta, u, v, epsilon=epsilon)
    assert twice.value == pytest.approx(once.value / scale**2, rel=1e-9)
    again = step_curvature(twice, scaled, theta, v, epsilon=epsilon)
    agrees(again, pure.value, 1e-9)
    jacobian = torch.func.jacfwd(f)(theta)
    length = float((jacobian @ v).square().sum() + 1e-2 * v.square().sum())
    assert pure.value == pytest.approx(once.value * length, rel=1e-12)
    assert damping(scaled, theta) == pytest.approx(1e-3 * scale**2 * jacobian.square().sum() / 20)


def test_linear_outputs_are_flat_exactly() -> None:
    matrix = torch.randn(5, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    theta, (u, v, _) = torch.zeros(3, dtype=F64), torch.eye(3, dtype=F64)
    got = sectional_curvature(lambda t: matrix @ t, theta, u, v, epsilon=1e-3)
    assert (got.low, got.value, got.high, got.flags) == (0.0, 0.0, 0.0, Flag.NONE)


def test_no_plane_is_missing_and_says_so() -> None:
    f, theta, u, v = network(6, 20, seed=6)
    degenerate = Flag.UNRESOLVED | Flag.BELOW_PRECISION
    for other in (2 * u, -u, torch.zeros_like(u)):
        assert sectional_curvature(f, theta, u, other, epsilon=1e-2).flags == degenerate
        assert slice_curvature(f, theta, u, other).flags == degenerate
    # One output: Ju and Jv are parallel, and only the damping separates them.
    one = lambda t: f(t)[:1]  # noqa: E731
    assert slice_curvature(one, theta, u, v).flags == degenerate
    assert sectional_curvature(one, theta, u, v, epsilon=1e-2).flags == Flag.NONE
    broken = lambda t: (t - t).sqrt()  # noqa: E731
    assert sectional_curvature(broken, theta, u, v, epsilon=1e-2).flags & Flag.UNRESOLVED
    assert slice_curvature(broken, theta, u, v).flags & Flag.UNRESOLVED


def test_rounding_that_decides_the_sign_is_flagged() -> None:
    # Second derivatives of order 1 within the image: after projection only rounding is left.
    f = lambda t: torch.stack([t[0].exp(), t[1].exp(), t[2].exp()])  # noqa: E731
    u, v = torch.tensor([[1.0, 2.0, 0.5], [0.3, -1.0, 1.0]], dtype=F64)
    got = sectional_curvature(f, torch.zeros(3, dtype=F64), u, v, epsilon=1e-15)
    assert got.low <= 0 <= got.high and got.flags == Flag.BELOW_PRECISION


def test_refuses_what_it_cannot_use() -> None:
    f, theta, u, v = network(6, 4, seed=7)
    for epsilon in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="epsilon"):
            sectional_curvature(f, theta, u, v, epsilon=epsilon)
    with pytest.raises(ValueError, match="epsilon"):
        slice_curvature(f, theta, u, v, epsilon=-1.0)
    with pytest.raises(ValueError, match="epsilon"):
        step_curvature(Estimate.exact(1.0), f, theta, u, epsilon=-1.0)
    with pytest.raises(ValueError, match="one length"):
        sectional_curvature(f, theta, u, v[:3], epsilon=1.0)
    with pytest.raises(ValueError, match="depend on the weights"):
        damping(lambda t: torch.ones(3), theta)


@pytest.mark.parametrize("name", CASES)
def test_models_are_measured_in_float64_and_left_alone(name: str) -> None:
    case = CASES[name]
    model = case.model()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    view, probe, (x, _) = ModelView(model), case.probe(), case.batch(5, seed=1)
    f, theta = model_outputs(view, probe, x)
    generator = torch.Generator().manual_seed(2)
    u, v = torch.randn(2, len(theta), generator=generator, dtype=F64)
    epsilon = damping(f, theta)
    got = sectional_curvature(f, theta, u, v, epsilon=epsilon)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert f(theta).dtype == F64
    assert torch.allclose(
        f(theta).float() * math.sqrt(5), view.outputs(probe, x).reshape(-1), atol=1e-5
    )
    assert got.flags == Flag.NONE
    # Twin: all by reverse mode, J dense, P by an inverse, f_ab from N Hessians.
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        leaf = theta.clone().requires_grad_()
        gradients = [torch.autograd.grad(y, leaf, create_graph=True)[0] for y in f(leaf)]
        rows = {
            key: torch.stack(
                [torch.autograd.grad(g @ a, leaf, retain_graph=True)[0] @ b for g in gradients]
            )
            for key, (a, b) in {"uu": (u, u), "uv": (u, v), "vv": (v, v)}.items()
        }
    jacobian = torch.stack(gradients).detach()
    p = epsilon * torch.linalg.inv(jacobian @ jacobian.T + epsilon * torch.eye(20, dtype=F64))
    plane = torch.stack([u, v])
    g = jacobian @ plane.T
    g = g.T @ g + epsilon * plane @ plane.T
    top = rows["uu"] @ p @ rows["vv"] - rows["uv"] @ p @ rows["uv"]
    agrees(got, float(top / torch.det(g)), 1e-8)


def test_a_wrong_rule_of_torch_is_noticed() -> None:
    class Wrong(torch.autograd.Function):
        """t³, whose forward rule hides its dependence on t from a second derivative."""

        generate_vmap_rule = True

        @staticmethod
        def forward(t: Tensor) -> Tensor:
            return t**3

        @staticmethod
        def setup_context(ctx, inputs, output) -> None:  # noqa: ANN001
            ctx.save_for_backward(*inputs)
            ctx.save_for_forward(*inputs)

        @staticmethod
        def backward(ctx, grad: Tensor) -> Tensor:  # noqa: ANN001
            return 3 * ctx.saved_tensors[0] ** 2 * grad

        @staticmethod
        def jvp(ctx, tangent: Tensor) -> Tensor:  # noqa: ANN001
            return 3 * ctx.saved_tensors[0].detach() ** 2 * tangent

    f, theta, u, v = network(3, 20, seed=8)
    assert sectional_curvature(f, theta, u, v, epsilon=1e-2).flags == Flag.NONE
    wrong = lambda t: f(Wrong.apply(t))  # noqa: E731
    right = lambda t: f(t**3)  # noqa: E731
    assert sectional_curvature(right, theta, u, v, epsilon=1e-2).flags == Flag.NONE
    for measure in (sectional_curvature, slice_curvature):
        assert measure(wrong, theta, u, v, epsilon=1e-2).flags == Flag.NOT_CONVERGED


class Stubborn(torch.nn.Module):
    """A model that casts by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.line = torch.nn.Linear(3, 4)
        self.head = torch.nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.line(x.float()).tanh())


def test_a_model_that_insists_on_float32_has_a_wider_interval() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x = Stubborn(), torch.randn(6, 3)
    probe = Probe(lambda m, x: m(x).sum(), [x])
    f, theta = model_outputs(ModelView(model), probe, x)
    assert f(theta).dtype == torch.float32
    weights = [p.detach().double() for p in model.parameters()]

    def twin(t: Tensor) -> Tensor:
        w1, b1, w2, b2 = (
            part.view_as(w)
            for part, w in zip(t.split([w.numel() for w in weights]), weights, strict=True)
        )
        return (torch.tanh(x.double() @ w1.T + b1) @ w2.T + b2).reshape(-1) / math.sqrt(6)

    u, v = torch.randn(2, len(theta), generator=torch.Generator().manual_seed(1), dtype=F64)
    got = sectional_curvature(f, theta, u, v, epsilon=1e-2)
    truth = sectional_curvature(twin, theta, u, v, epsilon=1e-2)
    assert got.low <= truth.value <= got.high
    assert got.high - got.low > 1e3 * (truth.high - truth.low)
    with pytest.raises(ValueError, match="inputs"):
        model_outputs(ModelView(model), probe, "?")
