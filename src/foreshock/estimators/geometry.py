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

from torch import Tensor

from foreshock.estimators.geometry_planes import (
    first_derivative,
    output_gram,
    over_bases,
    read_curvature,
    sectional_of,
    slice_of,
)
from foreshock.estimators.model_outputs import Outputs
from foreshock.types import Estimate


def damping(outputs: Outputs, theta: Tensor, *, relative: float = 1e-3) -> float:
    """A damping ε = ``relative`` · tr(JJ')/N to be chosen once, at the first record, and kept.

    Args:
        outputs: f, ``(d,) -> (N,)``, called with float64 weights.
        theta: Weights ``(d,)``.
        relative: Share of the mean eigenvalue of JJ'.

    Returns:
        ε, in output². Cost: N backward passes.

    Raises:
        ValueError: If f does not depend on the weights, or its derivative is not finite.

    Examples:
        >>> import torch
        >>> damping(lambda t: 2 * t, torch.zeros(3))
        0.004
    """
    gram, _ = output_gram(outputs, theta.detach().double())
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
        outputs: f, ``(d,) -> (N,)``, called with float64 weights and twice differentiable by
            `torch.func.jvp`; such as the first result of `model_outputs`.
        theta: Weights ``(d,)``.
        u: A direction ``(d,)``, of any length.
        v: Another. K depends on the plane of the two only.
        epsilon: ε > 0, the same number all along a run.

    Returns:
        K in 1/output², with the arithmetic interval of the module. Flagged ``below_precision``
        where the interval contains 0 (other than K = 0 exactly, of a linear f), ``not_converged``
        where torch's second derivative fails its check, and missing where u and v span no plane.
        ``n`` counts bases. Its null: 0, to which it tends with ε where
        d > N. Cost: N backward passes, and 18 double and 4 single forward derivatives. Memory: N
        gradients.

    Raises:
        ValueError: If ε is not positive or the shapes disagree.

    Examples:
        A sphere of radius 2, in latitude and longitude:

        >>> import torch
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
    sectional = sectional_of(outputs, theta, epsilon)
    if sectional is None:
        return Estimate.missing("The derivative of the outputs is not finite.")
    return read_curvature(over_bases(outputs, theta, u, v, epsilon, [sectional])[0].cpu().numpy())


def slice_curvature(
    outputs: Outputs, theta: Tensor, u: Tensor, v: Tensor, *, epsilon: float = 0.0
) -> Estimate:
    """Gauss curvature of the flat slice: of the surface (a, b) -> f(θ + a u + b v).

    (f_uu' Q f_vv - f_uv' Q f_uv) / area², Q the projection off Ju and Jv. It is not the sectional
    curvature: it says how that sheet bends, not how the manifold does. With ``epsilon`` > 0 it is
    the sheet in the graph (f, sqrt(ε) θ), as for `sectional_curvature`.

    Args:
        outputs: f, ``(d,) -> (N,)``, called with float64 weights.
        theta: Weights ``(d,)``.
        u: A direction ``(d,)``.
        v: Another.
        epsilon: ε >= 0.

    Returns:
        As `sectional_curvature`, whose Gram it does not need: 18 double and 4 single forward
        derivatives. Missing where Ju and Jv are parallel and ε = 0.

    Raises:
        ValueError: If ε is negative or the shapes disagree.

    Examples:
        The saddle z = xy bends by -1/(1 + x² + y²)²:

        >>> import torch
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
    slices = over_bases(outputs, theta, u, v, epsilon, [slice_of(epsilon)])
    return read_curvature(slices[0].cpu().numpy())


def step_curvature(
    curvature: Estimate, outputs: Outputs, theta: Tensor, step: Tensor, *, epsilon: float
) -> Estimate:
    """K · |Δθ|²_G, a curvature without units: of one step, with <Δθ,Δθ> = |JΔθ|² + ε|Δθ|².

    Outputs c f with damping c² ε leave it as it is.

    Args:
        curvature: K, in 1/output², at these weights and with this ε.
        outputs: f, ``(d,) -> (N,)``, called with float64 weights.
        theta: Weights ``(d,)``.
        step: Δθ ``(d,)``, such as the update.
        epsilon: ε >= 0 of the metric.

    Returns:
        The product; interval, flags and null are those of K, scaled. A length has no sampling
        error. Cost: one forward derivative.

    Raises:
        ValueError: If ε is negative or the shapes disagree.

    Examples:
        >>> import torch
        >>> k = Estimate.exact(0.25)
        >>> step_curvature(k, lambda t: 2 * t, torch.zeros(2), torch.ones(2), epsilon=0.0).value
        2.0
    """
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise ValueError(
            f"The `epsilon` of `step_curvature` must be finite and not negative. Got {epsilon}."
        )
    theta, step = _vectors(theta, step, function="step_curvature")
    return times_length(curvature, float(squared_length(outputs, theta, step, epsilon)))


def squared_length(outputs: Outputs, theta: Tensor, step: Tensor, epsilon: float) -> Tensor:
    """|JΔθ|² + ε|Δθ|² on the device, a forward derivative."""
    image = first_derivative(outputs, theta, step)
    return image @ image + epsilon * (step @ step)


def times_length(curvature: Estimate, length: float) -> Estimate:
    """A curvature times a squared length, which has no sampling error."""
    if not math.isfinite(length):
        return Estimate.missing("The length of the step in the metric is not finite.")
    return curvature.times(length)


def _vectors(*vectors: Tensor, function: str) -> tuple[Tensor, ...]:
    """Detached float64 vectors of one length."""
    shapes = {tuple(x.shape) for x in vectors}
    if len(shapes) != 1 or vectors[0].ndim != 1:
        raise ValueError(
            f"Weights and directions of `{function}` must be vectors (d,) of one length. "
            f"Got shapes {sorted(shapes)}."
        )
    return tuple(x.detach().double() for x in vectors)
