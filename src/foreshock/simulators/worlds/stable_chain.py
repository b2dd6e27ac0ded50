r"""What the step itself gets wrong for stable jumps: the law of the chain, summed, not sampled.

As `euler_chain` for Brownian noise: particles follow x' = m(x) + h X with a standard stable X, and
their exit times and late rates are those of a matrix. X has an analytic density, so Gauss' rule
over the ball from which they leave converges exponentially.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.linalg import lu_factor, lu_solve
from scipy.special import j0, roots_legendre

from foreshock.simulators.door import Array

#: e^-36: where a characteristic function is cut.
_CUT = 36.0


def radial_density(alpha: float, dimension: int, reach: float) -> Callable[[Array], Array]:
    """Density of the isotropic stable law of scale 1 on a line or in the plane, out to `reach`.

    The inverse Fourier (Hankel) integral by Gauss' rule, twenty nodes to ten radians, splined.

    Args:
        alpha: Index, 1 to 2.
        dimension: 1 or 2.
        reach: Largest distance.

    Returns:
        Density over the distance.

    Examples:
        >>> cauchy = radial_density(1.0, 1, 3.0)
        >>> bool(abs(cauchy(np.array([1.0]))[0] - 1 / (2 * np.pi)) < 1e-6)
        True
    """
    top = _CUT ** (1 / alpha)
    panels = math.ceil(top * reach / 10) + 4
    nodes, weights = roots_legendre(20)
    starts = np.arange(panels)[:, None] * (top / panels)
    k = (starts + (nodes + 1) * (top / panels / 2)).ravel()
    w = np.tile(weights * (top / panels / 2), panels)
    damped = w * np.exp(-(k**alpha))
    # Dense near 0, where the density bends on the scale 1, sparse in the tail.
    r = np.sinh(np.linspace(0, math.asinh(reach), 700))
    wave = np.outer(r, k)
    values = np.cos(wave) @ damped / math.pi
    if dimension == 2:
        values = j0(wave) @ (damped * k) / (2 * math.pi)
    return CubicSpline(r, values)


def interval_kernel(alpha: float, width: float, factor: float, count: int) -> tuple[Array, Array]:
    """Chain x' = factor x + width X on (-1, 1): kernel between Gauss nodes, and from 0.

    Args:
        alpha: Index.
        width: Scale of the noise of a step.
        factor: 1 - k dt.
        count: Nodes.

    Returns:
        (m, m) Kernel with the weights in it, and the row (m,) of a start at 0.

    Examples:
        >>> kernel, first = interval_kernel(1.5, 0.1, 1.0, 100)
        >>> bool(0.9 < first.sum() < 1)
        True
    """
    x, w = roots_legendre(count)
    density = radial_density(alpha, 1, 2 / width)
    kernel = density(np.abs(x - factor * x[:, None]) / width) / width * w
    return kernel, density(np.abs(x) / width) / width * w


def disc_kernel(alpha: float, width: float, radii: Array, count: int) -> tuple[Array, Array]:
    """Free chain x' = x + width X in the unit disc, between rings of equal radius.

    Args:
        alpha: Index.
        width: Scale of the noise of a step.
        radii: (m,) Where chains start besides.
        count: Rings.

    Returns:
        (c, c) Kernel with the weights in it, and rows (m, c) of the starts.

    Examples:
        >>> kernel, first = disc_kernel(1.5, 0.2, np.array([0.0]), 60)
        >>> bool(0.7 < first.sum() < 1)
        True
    """
    nodes, weights = roots_legendre(count)
    r, w = (nodes + 1) / 2, weights / 2
    density = radial_density(alpha, 2, 2 / width)
    # The trapezoid rule over half a circle is spectrally accurate once a step spans three nodes.
    turns = max(64, math.ceil(3 * math.pi / width))
    angle = (np.arange(turns) + 0.5) * math.pi / turns

    def rows(start: Array) -> Array:
        found = np.empty((start.size, count))
        for i, place in enumerate(start):
            square = place**2 + r[:, None] ** 2 - 2 * place * r[:, None] * np.cos(angle)
            distance = np.sqrt(np.maximum(square, 0)) / width
            found[i] = density(distance).mean(1) * (2 * math.pi) * r * w / width**2
        return found

    return rows(r), rows(np.asarray(radii, np.float64))


def exit_steps(kernel: Array, first: Array) -> Array:
    """Mean number of steps until the chain is outside.

    Args:
        kernel: (m, m).
        first: (s, m) or (m,) Rows of the starts.

    Returns:
        (s,) Or one number.

    Examples:
        >>> float(exit_steps(np.array([[0.5]]), np.array([0.5])))
        2.0
    """
    return 1 + first @ np.linalg.solve(np.eye(len(kernel)) - kernel, np.ones(len(kernel)))


def late_rate(kernel: Array, dt: float) -> float:
    """Rate of leaving once the start is forgotten, as `exponential_rate` counts it.

    Args:
        kernel: (m, m).
        dt: Step.

    Returns:
        The rate, 1/time.

    Examples:
        >>> late_rate(np.array([[0.5]]), 1.0) == 0.5 / 0.75  # the step of the exit counts half
        True
    """
    size = len(kernel)
    factor = lu_factor(np.eye(size) - kernel)
    vector: Array = np.ones(size)
    left = 0.5
    for _ in range(60):  # inverse iteration: an error falls by rate/gap a round
        image: Array = np.asarray(lu_solve(factor, vector))
        grown = float(np.abs(image).max())
        change, left = abs(1 / grown - left), 1 / grown
        vector = image / grown
        if change < 1e-13:
            break
    return left / ((1 - left / 2) * dt)


def quartic_chain(dt: float, steps: int, edges: Array, *, cells: int = 1200) -> Array:
    """Probabilities of |x| after `steps` Lie steps on U = x^4/4 with Cauchy noise, from 0.

    The flow brings everything into |u| < 1/sqrt(2 dt); between cells of u the Cauchy distribution
    function is exact, so the only error is that a cell acts from its middle, of second order.

    Args:
        dt: Step.
        steps: How many.
        edges: (m + 1,) Increasing edges from 0; the last may be inf.
        cells: Cells of |u|.

    Returns:
        (m,) Probabilities of the bins.

    Examples:
        >>> share = quartic_chain(0.05, 200, np.array([0.0, 0.5, np.inf]), cells=300)
        >>> bool(abs(share.sum() - 1) < 1e-9)
        True
    """
    top = 1 / math.sqrt(2 * dt)
    # Finer near 0, where the noise of a step must be resolved: nearly all particles are there.
    at = top * np.linspace(0, 1, cells + 1) ** 2
    middle = (at[1:] + at[:-1]) / 2
    with np.errstate(divide="ignore"):
        outer = at / np.sqrt(np.maximum(1 - 2 * dt * at**2, 0))  # the flow backwards
    outer[-1] = np.inf

    def folded(ends: Array) -> Array:
        """Distribution function of |u + dt C| at the ends, for every middle."""
        up = np.arctan((ends - middle[:, None]) / dt)
        down = np.arctan((-ends - middle[:, None]) / dt)
        return (up - down) / math.pi

    kernel = np.diff(folded(outer), axis=1)
    law = np.zeros(cells)
    law[0] = 1.0
    for _ in range(steps - 1):
        law = law @ kernel
    return law @ np.diff(folded(edges), axis=1)
