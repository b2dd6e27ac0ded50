"""`Geometry` on live models: S³, its frozen damping, its planes, and what it cannot say."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from foreshock.estimators import Geometry, damping, model_outputs
from foreshock.estimators import sectional_curvature as sectional
from foreshock.estimators import slice_curvature as flat_slice
from foreshock.probe import Probe
from foreshock.probe.moment import Moment
from foreshock.probe.view import ModelView
from foreshock.types import Flag

F64 = torch.float64
SECTIONAL, SLICE, STEP = (f"geometry/{x}_curvature" for x in ("sectional", "slice", "step"))


class Sphere(nn.Module):
    """Three angles, of which the outputs are a point of the sphere of radius 2 in R^4."""

    def __init__(self) -> None:
        super().__init__()
        self.angles = nn.Parameter(torch.tensor([0.9, 1.3, 0.4], dtype=F64))

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = self.angles
        point = [a.cos(), a.sin() * b.cos(), a.sin() * b.sin() * c.cos()]
        return 2 * x * torch.stack([*point, a.sin() * b.sin() * c.sin()])


class Net(nn.Module):
    """38 weights, smooth."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor
        self.inner = nn.Linear(3, 6, dtype=F64)
        self.outer = nn.Linear(6, 2, dtype=F64)

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.outer(torch.tanh(self.inner(x)))


def net(factor: float = 1.0) -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Net(factor)


def squared(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    out = model(batch[0])
    return (out - torch.arange(out.shape[1], dtype=F64)).square().mean()


def batch(n: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 3, generator=generator, dtype=F64), torch.zeros(n, dtype=torch.long)


def moment(model: nn.Module, probe: Probe, update: Tensor | None, step: int = 0) -> Moment:
    view = ModelView(model)
    parts = None
    if update is not None:
        sizes = [p.numel() for p in view.parameters]
        parts = tuple(
            u.view_as(p) for u, p in zip(update.split(sizes), view.parameters, strict=True)
        )
    gradients = tuple(None for _ in view.names)
    return Moment(step, view, gradients, (0.1,), probe=probe, update=parts)


def direction(d: int, seed: int) -> Tensor:
    return torch.randn(d, generator=torch.Generator().manual_seed(seed), dtype=F64)


def test_a_quarter_on_the_sphere_of_radius_two_in_every_plane() -> None:
    model, one = Sphere(), torch.ones(1, 4, dtype=F64)
    probe = Probe(squared, [(one, torch.zeros(1))])
    watch = Geometry(examples=1, planes=("random", "hessian"), relative=1e-8)
    slices = []
    for seed in range(3):
        at = moment(model, probe, direction(3, seed), step=seed)
        _, read = watch.update(watch.init(), at)
        for plane in ("", "@random", "@hessian"):
            # K = .25 up to a term of the order of ε over the smallest eigenvalue of J'J
            assert read.scalars[SECTIONAL + plane].value == pytest.approx(0.25, rel=1e-6)
            slices.append(read.scalars[SLICE + plane].value)
    assert max(abs(s - 0.25) for s in slices) > 0.01  # the slice is another object


def test_readings_are_those_of_the_functions_with_the_first_damping() -> None:
    model, probe = net(), Probe(squared, [batch(), batch(6)])
    watch = Geometry(examples=8)
    state, epsilon = watch.init(), None
    for step in range(2):
        view = ModelView(model)
        f, theta = model_outputs(view, probe, torch.cat([batch()[0], batch(6)[0]])[:8])
        epsilon = damping(f, theta) if epsilon is None else epsilon
        update = 0.01 * direction(len(theta), step)
        state, read = watch.update(state, moment(model, probe, update, step))
        gradient = sum(
            torch.cat([g.reshape(-1) for g in view.gradient(squared, one)[1]])
            for one in probe.batches
        )
        assert state == epsilon
        truth = sectional(f, theta, gradient, update, epsilon=epsilon)
        got = read.scalars[SECTIONAL]
        # Bases of the plane are rotated in another gauge: equal up to rounding in P and in f''.
        assert got.value == pytest.approx(truth.value, rel=1e-8)
        bent = flat_slice(f, theta, gradient, update, epsilon=epsilon)
        assert read.scalars[SLICE].value == pytest.approx(bent.value, rel=1e-8)
        jacobian = torch.func.jacfwd(f)(theta)
        length = (jacobian @ update).square().sum() + epsilon * update.square().sum()
        assert read.scalars[STEP].value == pytest.approx(truth.value * float(length), rel=1e-8)
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(1.7)


def test_step_curvature_has_no_unit() -> None:
    # Outputs times 5, and with them ε times 25: K falls by 25 in the same plane of weights.
    probe = Probe(squared, [batch()])
    reads = []
    for factor in (1.0, 5.0):
        watch = Geometry(examples=4, planes=("random",))
        _, read = watch.update(watch.init(), moment(net(factor), probe, direction(38, 0)))
        reads.append(read.scalars)
    small, large = reads
    ratio = small[f"{SECTIONAL}@random"].value / large[f"{SECTIONAL}@random"].value
    assert ratio == pytest.approx(25, rel=1e-6)
    assert small[f"{STEP}@random"].value == pytest.approx(large[f"{STEP}@random"].value, rel=1e-6)


def test_the_hessian_plane_is_that_of_the_exact_eigenvectors() -> None:
    model, probe = net(), Probe(squared, [batch()])
    view = ModelView(model)
    f, theta = model_outputs(view, probe, batch()[0])

    def loss(t: Tensor) -> Tensor:
        out = 2.0 * f(t).reshape(4, 2)  # f carries 1/sqrt(4)
        return (out - torch.arange(2, dtype=F64)).square().mean()

    _, vectors = torch.linalg.eigh(torch.func.hessian(loss)(theta))
    watch = Geometry(examples=4, planes=("hessian",), hessian_steps=len(theta))
    epsilon, read = watch.update(watch.init(), moment(model, probe, direction(len(theta), 0)))
    truth = sectional(f, theta, vectors[:, -1], vectors[:, -2], epsilon=epsilon)
    # A Krylov space of the whole dimension holds both eigenvectors up to rounding.
    assert read.scalars[f"{SECTIONAL}@hessian"].value == pytest.approx(truth.value, rel=1e-5)


def test_random_planes_are_drawn_by_the_step() -> None:
    model, probe, watch = net(), Probe(squared, [batch()]), Geometry(examples=4, planes=("random",))
    update = direction(38, 0)
    values = [
        watch.update(1e-3, moment(model, probe, update, step))[1]
        .scalars[f"{SECTIONAL}@random"]
        .value
        for step in (3, 3, 4)
    ]
    assert values[0] == values[1] != values[2]


def test_what_cannot_be_said_is_said() -> None:
    model, probe, watch = net(), Probe(squared, [batch()]), Geometry(examples=4)
    state, read = watch.update(None, moment(model, probe, None))
    assert state is None and "no update" in read.scalars[SECTIONAL].reason
    gradient = torch.cat([g.reshape(-1) for g in ModelView(model).gradient(squared, batch())[1]])
    _, read = watch.update(None, moment(model, probe, -0.1 * gradient))
    assert "span no plane" in read.scalars[SECTIONAL].reason
    assert "span no plane" in read.scalars[STEP].reason
    tight = Geometry(examples=4, memory=1e-9)
    state, read = tight.update(None, moment(model, probe, gradient))
    assert state is None and "8 outputs by 38 weights" in read.scalars[SLICE].reason
    with torch.no_grad():
        model.outer.weight.fill_(math.nan)
    state, read = watch.update(None, moment(model, probe, gradient))
    assert state is None and all(e.flags & Flag.UNRESOLVED for e in read.scalars.values())
    state, read = watch.update(1e-3, moment(model, probe, gradient))
    assert state == 1e-3 and "not finite" in read.scalars[SECTIONAL].reason


class Refuses(torch.autograd.Function):
    """An operation without a forward derivative."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # noqa: ANN001
        ctx.save_for_backward(x)
        return x.exp()

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # noqa: ANN001
        return grad * ctx.saved_tensors[0].exp()


def test_an_operation_that_torch_cannot_differentiate_forward() -> None:
    model = net()
    probe = Probe(squared, [batch()], forward=lambda m, x: Refuses.apply(m(x)))
    watch = Geometry(examples=4)
    _, read = watch.update(None, moment(model, probe, direction(38, 0)))
    assert "cannot take the derivatives" in read.scalars[SECTIONAL].reason


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"planes": ("fisher",)}, "`planes`"),
        ({"examples": 0}, "`examples`"),
        ({"hessian_steps": 1}, "`hessian_steps`"),
        ({"relative": 0.0}, "`relative`"),
        ({"memory": -1.0}, "`memory`"),
    ],
)
def test_the_door_is_checked(arguments: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"The {sentence} of `Geometry` must be"):
        Geometry(**arguments)
