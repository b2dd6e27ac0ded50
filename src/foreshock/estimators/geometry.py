r"""Geometry of function space: sectional curvature at the weights.

**Sectional curvature.** Let f: R^d -> R^N be all outputs on a probe as a function of the weights,
J its Jacobian and f_ab = ∂_a ∂_b f its second derivative along two directions. With more weights
than outputs, d > N, as in every real network, J'J has a null space: moving along it changes no
output, and across it the outputs are free coordinates of R^N, which is flat. So the metric itself
has no curvature to report there, and we give it a floor, a constant ε:

    G_ε = J'J + ε I,

the metric that the graph θ -> (f(θ), sqrt(ε) θ) inherits from R^(N+d). By the equation of Gauss

    K(u, v) = (f_uu' P f_vv - f_uv' P f_uv) / (<u,u><v,v> - <u,v>^2),     P = ε (JJ' + ε I)^-1,

with inner products in G_ε. P is the projection off *all* d tangents of the graph, seen from R^N, so
nothing of size d x d is formed. The formula holds for an ε that does not depend on θ: choose it
once in a run (`damping` proposes it). As ε -> 0, K goes to the curvature of the image where d <= N,
and to 0 where d > N.

**The slice is another object.** The surface {f(θ + a u + b v)} has a Gauss curvature too
(`slice_curvature`), which projects off Ju and Jv only. Straight lines of weights are not geodesics
of G_ε, so the sheet is bent inside the graph as well, and the two differ even on a round sphere.

**Units.** K is 1/output²: twice the logits, a quarter of K. `step_curvature` multiplies with the
squared length of a step in G_ε, a pure number: to leading order the angle by which a frame turns
when it is carried around a square in that plane with sides as long as the step.

**Interval.** K given the probe, the weights and ε is a number without sampling error; the interval
is arithmetic. K does not depend on the basis of the plane, so we compute it in six rotated ones,
take the median, and as interval the span, which misses a value that errors scatter around with
median 0 in 2 · 2^-6 = 3 % of cases; and to either side what a relative rounding of N u in JJ' could
do to P at first order. It says nothing of other probe examples. Second derivatives of piecewise
linear units (ReLU) are those within a piece.

**Torch's rules.** Some nested forward derivatives of torch are silently wrong (seen in 2.13 for
`layer_norm`; reported for batch statistics, `det` and `solve`: pytorch/pytorch#198017).
`model_outputs` writes layer norm out in elementary operations, and every measurement compares
one second derivative with a central difference: where the two disagree it is ``not_converged``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
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


def damping(outputs: Outputs, theta: Tensor, *, relative: float = 1e-3) -> float:
    """A damping ε = ``relative`` · tr(JJ')/N to be chosen once, at the first record, and kept.

    Args:
        outputs: f, ``(d,) -> (N,)``.
        theta: Weights ``(d,)``.
        relative: Share of the mean eigenvalue of JJ'.

    Returns:
        ε, in output². Cost: N backward passes.

    Raises:
        ValueError: If f does not depend on the weights, or its derivative is not finite.

    Examples:
        >>> damping(lambda t: 2 * t, torch.zeros(3))
        0.004
    """
    gram, _ = _output_gram(outputs, theta.detach().double())
    mean = float(gram.diagonal().mean())
    if not (math.isfinite(mean) and mean > 0):
        raise ValueError(
            f"The `outputs` of `damping` must depend on the weights. The mean of JJ' is {mean}."
        )
    return relative * mean


def sectional_curvature(
    outputs: Outputs, theta: Tensor, u: Tensor, v: Tensor, *, epsilon: float
) -> Estimate:
    """Sectional curvature K(u, v) of the damped metric J'J + εI at the weights.

    Args:
        outputs: f, ``(d,) -> (N,)``, twice differentiable by `torch.func.jvp`; such as the first
            result of `model_outputs`.
        theta: Weights ``(d,)``.
        u: A direction ``(d,)``, of any length.
        v: Another. K depends on the plane of the two only.
        epsilon: ε > 0, the same number all along a run.

    Returns:
        K in 1/output², with the arithmetic interval of the module. Flagged ``below_precision``
        where the interval contains 0 (other than K = 0 exactly, of a linear f), ``not_converged``
        where torch's second derivative fails its check, and missing where u and v span no plane.
        ``n`` counts bases. Its null: 0, to which it tends with ε where
        d > N. Cost: N backward passes, and 18 double and 14 single forward derivatives. Memory: N
        gradients.

    Raises:
        ValueError: If ε is not positive or the shapes disagree.

    Examples:
        A sphere of radius 2, in latitude and longitude:

        >>> def sphere(t):
        ...     return 2 * torch.stack(
        ...         [t[0].cos() * t[1].cos(), t[0].cos() * t[1].sin(), t[0].sin()])
        >>> theta, (u, v) = torch.tensor([0.3, 0.2]), torch.eye(2)
        >>> k = sectional_curvature(sphere, theta, u, u + 3 * v, epsilon=1e-7)
        >>> round(k.value, 5), k.flags.names
        (0.25, ())
    """
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise ValueError(
            "The `epsilon` of `sectional_curvature` must be finite and positive. "
            f"Got {epsilon}; `damping` proposes one."
        )
    theta, u, v = _vectors(theta, u, v, function="sectional_curvature")
    gram, unit = _output_gram(outputs, theta)
    if not bool(torch.isfinite(gram).all()):
        return Estimate.missing("The derivative of the outputs is not finite.")
    values, vectors = torch.linalg.eigh(gram)
    values = values.clamp_min(0.0)  # positive semi-definite but for rounding
    weights = epsilon / (values + epsilon)
    relative = len(values) * unit * float(values[-1]) / epsilon  # of P' = -P (dA) P / ε

    def curvature(plane: _Plane) -> tuple[Tensor, Tensor]:
        aa, ab, bb = (vectors.T @ x for x in (plane.aa, plane.ab, plane.bb))
        top = aa @ (weights * bb) - ab @ (weights * ab)
        norms = [(weights * x).norm() for x in (aa, ab, bb)]
        return top / plane.area, relative * (norms[0] * norms[2] + norms[1] ** 2) / plane.area

    return _over_bases(outputs, theta, u, v, epsilon, curvature)


def slice_curvature(
    outputs: Outputs, theta: Tensor, u: Tensor, v: Tensor, *, epsilon: float = 0.0
) -> Estimate:
    """Gauss curvature of the flat slice: of the surface (a, b) -> f(θ + a u + b v).

    (f_uu' Q f_vv - f_uv' Q f_uv) / area², Q the projection off Ju and Jv. It is not the sectional
    curvature: it says how that sheet bends, not how the manifold does. With ``epsilon`` > 0 it is
    the sheet in the graph (f, sqrt(ε) θ), as for `sectional_curvature`.

    Args:
        outputs: f, ``(d,) -> (N,)``.
        theta: Weights ``(d,)``.
        u: A direction ``(d,)``.
        v: Another.
        epsilon: ε >= 0.

    Returns:
        As `sectional_curvature`, whose Gram it does not need: 18 double and 14 single forward
        derivatives. Missing where Ju and Jv are parallel and ε = 0.

    Raises:
        ValueError: If ε is negative or the shapes disagree.

    Examples:
        The saddle z = xy bends by -1/(1 + x² + y²)²:

        >>> saddle = lambda t: torch.stack([t[0], t[1], t[0] * t[1]])
        >>> u, v = torch.eye(2)
        >>> round(slice_curvature(saddle, torch.tensor([1.0, 1.0]), u, v).value, 6)
        -0.111111
    """
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise ValueError(
            f"The `epsilon` of `slice_curvature` must be finite and not negative. Got {epsilon}."
        )
    theta, u, v = _vectors(theta, u, v, function="slice_curvature")
    root = math.sqrt(epsilon)

    def curvature(plane: _Plane) -> tuple[Tensor, Tensor]:
        frame = [torch.cat([y, root * t]) for y, t in ((plane.fa, plane.a), (plane.fb, plane.b))]
        padding = torch.zeros_like(plane.a)

        def normal(second: Tensor) -> Tensor:
            rest = torch.cat([second, padding])
            for tangent in frame * 2:  # twice, as in any Gram-Schmidt
                rest = rest - (tangent @ rest) * tangent
            return rest

        aa, ab, bb = normal(plane.aa), normal(plane.ab), normal(plane.bb)
        return (aa @ bb - ab @ ab) / plane.area, torch.zeros_like(plane.area)

    return _over_bases(outputs, theta, u, v, epsilon, curvature)


def step_curvature(
    curvature: Estimate, outputs: Outputs, theta: Tensor, step: Tensor, *, epsilon: float
) -> Estimate:
    """K · |Δθ|²_G, a curvature without units: of one step, with <Δθ,Δθ> = |JΔθ|² + ε|Δθ|².

    Outputs c f with damping c² ε leave it as it is.

    Args:
        curvature: K, in 1/output², at these weights and with this ε.
        outputs: f, ``(d,) -> (N,)``.
        theta: Weights ``(d,)``.
        step: Δθ ``(d,)``, such as the update.
        epsilon: ε >= 0 of the metric.

    Returns:
        The product; interval, flags and null are those of K, scaled. A length has no sampling
        error. Cost: one forward derivative.

    Raises:
        ValueError: If ε is negative or the shapes disagree.

    Examples:
        >>> k = Estimate.exact(0.25)
        >>> step_curvature(k, lambda t: 2 * t, torch.zeros(2), torch.ones(2), epsilon=0.0).value
        2.0
    """
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise ValueError(
            f"The `epsilon` of `step_curvature` must be finite and not negative. Got {epsilon}."
        )
    theta, step = _vectors(theta, step, function="step_curvature")
    image = _first(outputs, theta, step)
    length = float(image @ image + epsilon * (step @ step))
    if not math.isfinite(length):
        return Estimate.missing("The length of the step in the metric is not finite.")
    return Estimate(
        curvature.value * length,
        curvature.low * length,
        curvature.high * length,
        n=curvature.n,
        flags=curvature.flags,
        reason=curvature.reason,
        null=None
        if curvature.null is None
        else (curvature.null[0] * length, curvature.null[1] * length),
    )


class _Plane(NamedTuple):
    """A basis orthonormal in G_ε: the tangents, their images, second derivatives, squared area."""

    a: Tensor
    b: Tensor
    fa: Tensor
    fb: Tensor
    aa: Tensor
    ab: Tensor
    bb: Tensor
    area: Tensor


def _vectors(*vectors: Tensor, function: str) -> tuple[Tensor, ...]:
    """Detached float64 vectors of one length."""
    shapes = {tuple(x.shape) for x in vectors}
    if len(shapes) != 1 or vectors[0].ndim != 1:
        raise ValueError(
            f"Weights and directions of `{function}` must be vectors (d,) of one length. "
            f"Got shapes {sorted(shapes)}."
        )
    return tuple(x.detach().double() for x in vectors)


def _flat(outputs: Outputs, theta: Tensor) -> Tensor:
    return outputs(theta).reshape(-1).double()


def _output_gram(outputs: Outputs, theta: Tensor) -> tuple[Tensor, float]:
    """JJ' in float64 and the rounding unit of the outputs."""
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


def _first(outputs: Outputs, theta: Tensor, a: Tensor) -> Tensor:
    """f_a, a forward derivative."""
    return _along(lambda t: _flat(outputs, t), theta, a)[1]


def _second(outputs: Outputs, theta: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """f_a and f_ab: a forward derivative of a forward derivative."""
    return _along(lambda t: _first(outputs, t, a), theta, b)


def _basis(
    outputs: Outputs, theta: Tensor, a: Tensor, b: Tensor, epsilon: float
) -> tuple[_Plane, Tensor]:
    """Gram-Schmidt of two directions in G_ε, twice, with second derivatives; sine of the angle."""

    def inner(x: Tensor, fx: Tensor, y: Tensor, fy: Tensor) -> Tensor:
        return fx @ fy + epsilon * (x @ y)

    fa, fb = _first(outputs, theta, a), _first(outputs, theta, b)
    length = inner(a, fa, a, fa).sqrt()
    a, fa = a / length, fa / length
    before = inner(b, fb, b, fb).sqrt()
    for _ in range(2):
        share = inner(a, fa, b, fb)
        b, fb = b - share * a, fb - share * fa
    after = inner(b, fb, b, fb).sqrt()
    b = b / after
    fa, aa = _second(outputs, theta, a, a)
    fb, bb = _second(outputs, theta, b, b)
    _, ab = _second(outputs, theta, a, b)
    area = inner(a, fa, a, fa) * inner(b, fb, b, fb) - inner(a, fa, b, fb) ** 2
    return _Plane(a, b, fa, fb, aa, ab, bb, area), after / before


def _disagrees(outputs: Outputs, theta: Tensor, plane: _Plane) -> bool:
    """Whether the second derivative along a + b is not that of a central difference."""
    along = plane.a + plane.b
    # A millionth of the weights: short against kinks, long against rounding.
    h = 1e-6 * float(theta.norm() or 1.0) / float(along.norm())
    ends = [_first(outputs, theta + sign * h * along, along) for sign in (1, -1)]
    second = plane.aa + 2 * plane.ab + plane.bb
    error = float((second - (ends[0] - ends[1]) / (2 * h)).norm())
    unit = float(torch.finfo(outputs(theta).dtype).eps)
    rounding = 1e3 * unit * float(ends[0].norm()) / h
    return error > 1e-3 * float(second.norm()) + rounding


def _over_bases(
    outputs: Outputs,
    theta: Tensor,
    u: Tensor,
    v: Tensor,
    epsilon: float,
    curvature: Callable[[_Plane], tuple[Tensor, Tensor]],
) -> Estimate:
    """Median and span of a curvature over rotated bases of one plane."""
    u, v = u / u.norm(), v / v.norm()
    numbers, planes = [], []
    for k in range(BASES):
        # Rotated before Gram-Schmidt, so the rounding of a narrow angle differs between bases too.
        c, s = math.cos(k * math.pi / (2 * BASES)), math.sin(k * math.pi / (2 * BASES))
        plane, sine = _basis(outputs, theta, c * u + s * v, c * v - s * u, epsilon)
        numbers.append(torch.stack([*curvature(plane), sine]))
        planes.append(plane)
    values, errors, sines = torch.stack(numbers).T.cpu().numpy()
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
    if _disagrees(outputs, theta, planes[0]):
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
