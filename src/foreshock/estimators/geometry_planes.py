"""Curvatures of one plane of weights: bases, second derivatives, and what they are worth.

The machinery behind `foreshock.estimators.geometry`, whose docstring has the formulas. Everything
stays on the device until `read_curvature`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreshock.estimators.model_outputs import Outputs
from foreshock.types import Estimate, Flag

Array = NDArray[np.float64]

#: Number of bases of the same plane.
BASES = 6

#: Sine of the angle between two directions below which they span no plane.
SMALLEST_SINE = 1e-12


class Plane(NamedTuple):
    """A basis orthonormal in G_ε: the tangents, their images, second derivatives, squared area."""

    a: Tensor
    b: Tensor
    fa: Tensor
    fb: Tensor
    aa: Tensor
    ab: Tensor
    bb: Tensor
    area: Tensor


PlaneCurvature = Callable[[Plane], tuple[Tensor, Tensor]]


def _flat(outputs: Outputs, theta: Tensor) -> Tensor:
    return outputs(theta).reshape(-1).double()


def output_gram(outputs: Outputs, theta: Tensor) -> tuple[Tensor, float]:
    """JJ' in float64 and the rounding unit of the outputs.

    Args:
        outputs: f, ``(d,) -> (N,)``.
        theta: Weights ``(d,)`` in float64.

    Returns:
        ``(N, N)``, and the machine epsilon of the type that f computes in.
    """
    with torch.enable_grad():
        leaf = theta.detach().requires_grad_()
        raw = outputs(leaf).reshape(-1)
        values = raw.double()
        rows = theta.new_zeros(len(values), len(theta))
        if values.requires_grad:
            for i, value in enumerate(values):
                (rows[i],) = torch.autograd.grad(
                    value, leaf, retain_graph=True, materialize_grads=True, allow_unused=True
                )
    return rows @ rows.T, float(torch.finfo(raw.dtype).eps)


def _along(function: Outputs, theta: Tensor, tangent: Tensor) -> tuple[Tensor, Tensor]:
    """A function and its derivative along a tangent, in forward mode."""
    with warnings.catch_warnings():
        # Torch compiles some rules of its own when it first differentiates forward.
        warnings.filterwarnings("ignore", ".*torch.jit.script", DeprecationWarning)
        result = torch.func.jvp(function, (theta,), (tangent,))
    return result[0], result[1]


def first_derivative(outputs: Outputs, theta: Tensor, a: Tensor) -> Tensor:
    """f_a, a forward derivative."""
    return _along(lambda t: _flat(outputs, t), theta, a)[1]


def _second(outputs: Outputs, theta: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """f_a and f_ab: a forward derivative of a forward derivative."""
    return _along(lambda t: first_derivative(outputs, t, a), theta, b)


def _seconds(outputs: Outputs, theta: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """f_a and f_ab for rows of directions, all in one go where the model allows it."""

    def one(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return _second(outputs, theta, a, b)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # vmap says where it loops instead of batching
        try:
            return torch.func.vmap(one)(a, b)
        except (RuntimeError, NotImplementedError):  # a rule without a batched form
            rows = [one(x, y) for x, y in zip(a, b, strict=True)]
    first, second = zip(*rows, strict=True)
    return torch.stack(first), torch.stack(second)


def _bases(
    outputs: Outputs, theta: Tensor, u: Tensor, v: Tensor, epsilon: float
) -> tuple[list[Plane], list[Tensor]]:
    """Bases of one plane, orthonormal in G_ε, with second derivatives; sines of the angles."""
    fu, fv = first_derivative(outputs, theta, u), first_derivative(outputs, theta, v)

    def inner(x: Tensor, fx: Tensor, y: Tensor, fy: Tensor) -> Tensor:
        return fx @ fy + epsilon * (x @ y)

    pairs, sines = [], []
    for k in range(BASES):
        # Rotated before Gram-Schmidt, so the rounding of a narrow angle differs between bases too.
        c, s = math.cos(k * math.pi / (2 * BASES)), math.sin(k * math.pi / (2 * BASES))
        a, fa, b, fb = c * u + s * v, c * fu + s * fv, c * v - s * u, c * fv - s * fu
        length = inner(a, fa, a, fa).sqrt()
        a, fa = a / length, fa / length
        before = inner(b, fb, b, fb).sqrt()
        for _ in range(2):
            share = inner(a, fa, b, fb)
            b, fb = b - share * a, fb - share * fa
        after = inner(b, fb, b, fb).sqrt()
        pairs.append((a, b / after))
        sines.append(after / before)
    left = torch.stack([x for a, b in pairs for x in (a, b, a)])
    right = torch.stack([x for a, b in pairs for x in (a, b, b)])
    first, second = _seconds(outputs, theta, left, right)
    planes = []
    for (a, b), (fa, fb, _), (aa, bb, ab) in zip(
        pairs, first.split(3), second.split(3), strict=True
    ):
        area = inner(a, fa, a, fa) * inner(b, fb, b, fb) - inner(a, fa, b, fb) ** 2
        planes.append(Plane(a, b, fa, fb, aa, ab, bb, area))
    return planes, sines


def _disagreement(outputs: Outputs, theta: Tensor, plane: Plane) -> Tensor:
    """Second derivative along a + b against a central difference: beyond 1 they disagree."""
    along = plane.a + plane.b
    # A millionth of the weights: short against kinks, long against rounding.
    size = theta.norm()
    h = 1e-6 * torch.where(size > 0, size, torch.ones_like(size)) / along.norm()
    ends = [first_derivative(outputs, theta + sign * h * along, along) for sign in (1, -1)]
    second = plane.aa + 2 * plane.ab + plane.bb
    error = (second - (ends[0] - ends[1]) / (2 * h)).norm()
    unit = float(torch.finfo(outputs(theta).dtype).eps)
    rounding = 1e3 * unit * ends[0].norm() / h
    return error / (1e-3 * second.norm() + rounding + torch.finfo(torch.float64).tiny)


def sectional_of(outputs: Outputs, theta: Tensor, epsilon: float) -> PlaneCurvature | None:
    """The sectional curvature as a function of planes at these weights.

    Args:
        outputs: f, ``(d,) -> (N,)``.
        theta: Weights ``(d,)`` in float64.
        epsilon: ε > 0.

    Returns:
        Plane to curvature and what rounding of JJ' may do to it; ``None`` where JJ' is not finite.
        Cost: N backward passes, once for all planes.
    """
    gram, unit = output_gram(outputs, theta)
    if not bool(torch.isfinite(gram).all()):
        return None
    values, vectors = torch.linalg.eigh(gram)
    values = values.clamp_min(0.0)  # positive semi-definite but for rounding
    weights = epsilon / (values + epsilon)
    relative = len(values) * unit * values[-1] / epsilon  # of P' = -P (dA) P / ε

    def curvature(plane: Plane) -> tuple[Tensor, Tensor]:
        aa, ab, bb = (vectors.T @ x for x in (plane.aa, plane.ab, plane.bb))
        top = aa @ (weights * bb) - ab @ (weights * ab)
        norms = [(weights * x).norm() for x in (aa, ab, bb)]
        return top / plane.area, relative * (norms[0] * norms[2] + norms[1] ** 2) / plane.area

    return curvature


def slice_of(epsilon: float) -> PlaneCurvature:
    """The curvature of the flat slice as a function of planes."""
    root = math.sqrt(epsilon)

    def curvature(plane: Plane) -> tuple[Tensor, Tensor]:
        frame = [torch.cat([y, root * t]) for y, t in ((plane.fa, plane.a), (plane.fb, plane.b))]
        padding = torch.zeros_like(plane.a)

        def normal(second: Tensor) -> Tensor:
            rest = torch.cat([second, padding])
            for tangent in frame * 2:  # twice, as in any Gram-Schmidt
                rest = rest - (tangent @ rest) * tangent
            return rest

        aa, ab, bb = normal(plane.aa), normal(plane.ab), normal(plane.bb)
        return (aa @ bb - ab @ ab) / plane.area, torch.zeros_like(plane.area)

    return curvature


def over_bases(
    outputs: Outputs,
    theta: Tensor,
    u: Tensor,
    v: Tensor,
    epsilon: float,
    curvatures: Sequence[PlaneCurvature],
) -> Tensor:
    """Curvatures over rotated bases of one plane, on the device.

    Args:
        outputs: f, ``(d,) -> (N,)``.
        theta: Weights ``(d,)`` in float64.
        u: A direction.
        v: Another.
        epsilon: ε of the metric that makes the bases orthonormal.
        curvatures: From `sectional_of` and `slice_of`.

    Returns:
        ``(len(curvatures), 3 BASES + 1)``: values, errors and sines of the bases, and how far the
        second derivative is from its check; for `read_curvature`.
    """
    u, v = u / u.norm(), v / v.norm()
    values: list[list[Tensor]] = [[] for _ in curvatures]
    errors: list[list[Tensor]] = [[] for _ in curvatures]
    planes, sines = _bases(outputs, theta, u, v, epsilon)
    for plane in planes:
        for i, curvature in enumerate(curvatures):
            value, error = curvature(plane)
            values[i].append(value)
            errors[i].append(error)
    doubt = _disagreement(outputs, theta, planes[0])
    return torch.stack(
        [torch.stack([*v, *e, *sines, doubt]) for v, e in zip(values, errors, strict=True)]
    )


def read_curvature(numbers: Array) -> Estimate:
    """Median and span over the bases of one plane, with flags.

    Args:
        numbers: A row of `over_bases`.

    Returns:
        See `sectional_curvature`.
    """
    values, errors, sines = numbers[:-1].reshape(3, BASES)
    if not np.all(sines > SMALLEST_SINE):  # nan where a direction has no length
        return Estimate.missing(
            "The two directions span no plane in the metric: they are parallel up to rounding, "
            "one of them has no length, or a derivative is not finite.",
            flags=Flag.UNRESOLVED | Flag.BELOW_PRECISION,
        )
    if not np.all(np.isfinite(values)):
        return Estimate.missing("The second derivative of the outputs is not finite.")
    value, error = float(np.median(values)), float(errors.max())
    low, high = float(values.min()) - error, float(values.max()) + error
    if not numbers[-1] <= 1:
        return Estimate(
            value,
            low,
            high,
            n=BASES,
            flags=Flag.NOT_CONVERGED,
            reason="The second derivative that torch computes is not that of a central difference: "
            "an operation has a wrong rule, or a kink lies within 1e-6 of the weights.",
        )
    if low < high and low <= 0 <= high:
        return Estimate(
            value,
            low,
            high,
            n=BASES,
            flags=Flag.BELOW_PRECISION,
            reason="Bases of the same plane disagree about the sign: the curvature is rounding.",
        )
    return Estimate(value, low, high, n=BASES)
