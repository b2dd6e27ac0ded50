r"""Escape over a barrier, exactly and asymptotically, in one dimension and in d.

dx = -M U' dt + sqrt(2 T M) dW: one temperature T, mobility M, D = T M. The exact values are double
integrals, carried in logarithms on Gauss-Legendre panels that are doubled until they agree, so a
barrier of hundreds of T neither overflows nor loses digits. A feature narrower than about 1/500 of
the interval can be missed by all of the panels.

Sources: P. Hanggi, P. Talkner and M. Borkovec, Rev. Mod. Phys. 62, 251 (1990); A. Bovier et al.,
J. Eur. Math. Soc. 6, 399 (2004) (d dimensions).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from foreshock.simulators.door import Array, finite, positive

Energy = Callable[[Array], Array]

ORDER = 12  # nodes of a panel: a polynomial of degree 11 follows exp(U/T) where it varies by e^2
AGREEMENT = 1e-10  # relative change on doubling the panels at which they are enough
NATURAL_DEPTH = 60.0  # an infinite end is cut where U/T has risen by this: weight e^-60


@dataclass(frozen=True)
class _Panels:
    """Gauss-Legendre panels of an interval and the integrals up to each node, in logarithms."""

    nodes: Array  # (p, q)
    half: float
    weights: Array  # (q,)
    partial: Array  # (q, q): row i integrates the interpolant from the panel's left end to node i

    def log_integrals(self, log_values: Array) -> tuple[Array, Array]:
        """Logs of the integrals from the left end to each node (p, q), and of each panel (p,)."""
        top = log_values.max(1, keepdims=True)
        scaled = np.exp(log_values - top)
        whole = top[:, 0] + np.log(self.half * (scaled @ self.weights))
        # The interpolant of a positive function may dip below 0 by rounding near the left end.
        inside = np.maximum(self.half * (scaled @ self.partial.T), 1e-300)
        before = np.concatenate(([-np.inf], np.logaddexp.accumulate(whole)[:-1]))
        return np.logaddexp(before[:, None], top + np.log(inside)), whole


def _panels(left: float, right: float, count: int) -> _Panels:
    """Equal panels of [left, right]."""
    x, w = np.polynomial.legendre.leggauss(ORDER)
    half = (right - left) / (2 * count)
    centres = left + half * (2 * np.arange(count) + 1)
    vandermonde = np.polynomial.legendre.legvander(x, ORDER)
    # int_-1^x P_n = (P_{n+1} - P_{n-1})/(2n+1), and x + 1 for n = 0.
    integrals = np.empty((ORDER, ORDER))
    integrals[:, 0] = x + 1
    for n in range(1, ORDER):
        integrals[:, n] = (vandermonde[:, n + 1] - vandermonde[:, n - 1]) / (2 * n + 1)
    partial = integrals @ np.linalg.inv(vandermonde[:, :ORDER])
    return _Panels(centres[:, None] + half * x, half, w, partial)


def _agreed(function: str, compute: Callable[[int], float]) -> float:
    """A logarithm computed on 64, 128, ... panels until two agree.

    Args:
        function: Who asks.
        compute: The logarithm with a number of panels.

    Returns:
        The last logarithm.

    Raises:
        ValueError: If 16,384 panels do not agree with 8,192.
    """
    previous, change = compute(64), math.inf
    for count in (128, 256, 512, 1024, 2048, 4096, 8192, 16_384):
        value = compute(count)
        change = abs(value - previous)
        if change < AGREEMENT * max(1.0, abs(value)):
            return value
        previous = value
    raise ValueError(
        f"The `energy` of `{function}` is too rough for its quadrature: the last two refinements "
        f"differ by {change:.1e}. Smooth it, or solve on a `Grid`."
    )


def _natural_end(energy: Energy, temperature: float, start: float, side: float) -> float:
    """Where an infinite end is cut: U has risen by 60 T above everything passed on the way."""
    reach = 1.0
    for _ in range(60):
        path = energy(start + side * np.linspace(0, reach, 2001)) / temperature
        risen = path - path.min() > NATURAL_DEPTH
        beyond = np.flatnonzero(risen & (np.arange(2001) > int(path.argmin())))
        if beyond.size:
            return start + side * reach * float(beyond[0]) / 2000
        reach *= 2
    raise ValueError(
        "The `energy` does not rise without end on the side away from the target, so the mean "
        "passage time is infinite. Give a reflecting wall with `wall=`."
    )


def log_mean_first_passage_time(
    energy: Energy,
    temperature: float,
    start: float,
    target: float,
    *,
    mobility: float = 1.0,
    wall: float | None = None,
) -> float:
    r"""Logarithm of the mean time from `start` to the first visit of `target`, exact.

    T_mean = (1/(T M)) int_start^target dy exp(U(y)/T) int_wall^y dz exp(-U(z)/T), the other side
    of `start` closed by a reflecting wall or by U itself.

    Args:
        energy: U, vectorised.
        temperature: T > 0.
        start: Where the particle begins.
        target: Where it is absorbed, on either side.
        mobility: M.
        wall: Reflecting end on the far side of `start`; ``None``: the line is infinite there.

    Returns:
        log of the mean time.

    Raises:
        ValueError: If `start` is not between `wall` and `target`.

    Examples:
        >>> round(log_mean_first_passage_time(lambda x: (x**2 - 1) ** 2, 0.001, -1, 1), 3)
        1000.105
    """
    positive("log_mean_first_passage_time", temperature=temperature, mobility=mobility)
    finite("log_mean_first_passage_time", start=start, target=target)
    if target < start:
        mirrored = None if wall is None else -wall
        return log_mean_first_passage_time(
            lambda x: energy(-x), temperature, -start, -target, mobility=mobility, wall=mirrored
        )
    if wall is None:
        wall = _natural_end(energy, temperature, start, -1.0)
    if not wall <= start < target:
        raise ValueError(
            "`log_mean_first_passage_time` needs `start` between `wall` and `target`. "
            f"Got wall {wall}, start {start}, target {target}."
        )

    def log_time(count: int) -> float:
        before = _panels(wall, start, count) if start > wall else None
        inside = -np.inf
        if before is not None:
            _, whole = before.log_integrals(-energy(before.nodes) / temperature)
            inside = float(logsumexp(whole))
        after = _panels(start, target, count)
        scaled = energy(after.nodes) / temperature
        inner, _ = after.log_integrals(-scaled)
        _, outer = after.log_integrals(scaled + np.logaddexp(inside, inner))
        return float(logsumexp(outer)) - math.log(temperature * mobility)

    return _agreed("log_mean_first_passage_time", log_time)


def mean_first_passage_time(
    energy: Energy,
    temperature: float,
    start: float,
    target: float,
    *,
    mobility: float = 1.0,
    wall: float | None = None,
) -> float:
    r"""Mean time from `start` to the first visit of `target`: see `log_mean_first_passage_time`.

    Args:
        energy: U, vectorised.
        temperature: T > 0.
        start: Where the particle begins.
        target: Where it is absorbed, on either side.
        mobility: M.
        wall: Reflecting end on the far side of `start`; ``None``: the line is infinite there.

    Returns:
        The mean time; ``inf`` above 1e308, where the logarithm is the number to use.

    Examples:
        >>> round(mean_first_passage_time(lambda x: (x**2 - 1) ** 2, 1 / 4, -1, 1), 2)
        69.26
    """
    log_time = log_mean_first_passage_time(
        energy, temperature, start, target, mobility=mobility, wall=wall
    )
    return math.exp(log_time) if log_time < 709 else math.inf


def well_decay_rate(
    energy: Energy,
    temperature: float,
    bottom: float,
    barrier: float,
    *,
    mobility: float = 1.0,
    wall: float | None = None,
) -> float:
    r"""Slowest decay rate lambda_1 of a well that is absorbed at `barrier`, by inverse iteration.

    u <- (1/(T M)) int_x^barrier dy e^{U(y)/T} int_wall^y dz e^{-U(z)/T} u(z) until the ratio is
    constant. For a *symmetric* double well with `barrier` at its centre this is the first
    non-zero eigenvalue of the whole double well, and a particle hops at the rate lambda_1/2.

    Args:
        energy: U, vectorised.
        temperature: T.
        bottom: A point inside the well.
        barrier: The absorbing point.
        mobility: M.
        wall: Reflecting end on the far side; ``None``: the line is infinite there.

    Returns:
        lambda_1, 1/time.

    Raises:
        ValueError: If `bottom` is not between `wall` and `barrier`.

    Examples:
        >>> round(well_decay_rate(lambda x: (x**2 - 1) ** 2, 1 / 4, -1, 0), 5)
        0.02978
    """
    positive("well_decay_rate", temperature=temperature, mobility=mobility)
    finite("well_decay_rate", bottom=bottom, barrier=barrier)
    if barrier < bottom:
        mirrored = None if wall is None else -wall
        return well_decay_rate(
            lambda x: energy(-x), temperature, -bottom, -barrier, mobility=mobility, wall=mirrored
        )
    if wall is None:
        wall = _natural_end(energy, temperature, bottom, -1.0)
    if not wall <= bottom < barrier:
        raise ValueError(
            "`well_decay_rate` needs `bottom` between `wall` and `barrier`. "
            f"Got wall {wall}, bottom {bottom}, barrier {barrier}."
        )

    def log_rate(count: int) -> float:
        panels = _panels(wall, barrier, count)
        scaled = energy(panels.nodes) / temperature
        log_u = np.zeros_like(scaled)
        previous = math.inf
        for _ in range(200):
            inner, _ = panels.log_integrals(log_u - scaled)
            upto, whole = panels.log_integrals(scaled + inner)
            # int_x^barrier = whole integral minus the part up to x, summed from the right instead:
            # a difference of the two would cancel near the barrier.
            log_u = _from_the_right(panels, scaled + inner)
            growth = float(log_u.max())
            log_u = log_u - growth
            if abs(growth - previous) < AGREEMENT / 10:
                break
            previous = growth
        return math.log(temperature * mobility) - growth

    return math.exp(_agreed("well_decay_rate", log_rate))


def _from_the_right(panels: _Panels, log_values: Array) -> Array:
    """Logs of the integrals from each node to the right end: the mirror image's, mirrored."""
    mirrored, _ = panels.log_integrals(log_values[::-1, ::-1])
    return mirrored[::-1, ::-1]


def eyring_kramers_rate(
    curvature_well: float,
    curvature_barrier: float,
    barrier: float,
    temperature: float,
    *,
    mobility: float = 1.0,
) -> float:
    r"""Escape rate over one barrier in one dimension, asymptotic for barrier >> T.

    k = M sqrt(U''(a) |U''(b)|)/(2 pi) exp(-barrier/T). Too large by a relative O(T/barrier): for
    U = (x^2 - 1)^2 by 10.7, 5.6, 4.3 and 2.0 % at barrier/T = 4, 8, 10 and 20 (exact: lambda_1/2).

    Args:
        curvature_well: U''(a) > 0 at the minimum.
        curvature_barrier: |U''(b)| at the maximum.
        barrier: U(b) - U(a) > 0.
        temperature: T.
        mobility: M.

    Returns:
        The rate, 1/time.

    Examples:
        >>> round(eyring_kramers_rate(8.0, 4.0, 1.0, 1 / 4), 5)
        0.01649
    """
    positive(
        "eyring_kramers_rate",
        curvature_well=curvature_well,
        curvature_barrier=curvature_barrier,
        barrier=barrier,
        temperature=temperature,
        mobility=mobility,
    )
    curvature = math.sqrt(curvature_well * curvature_barrier)
    return mobility * curvature / (2 * math.pi) * math.exp(-barrier / temperature)


def eyring_kramers_rate_nd(
    hessian_well: ArrayLike,
    hessian_saddle: ArrayLike,
    barrier: float,
    temperature: float,
    *,
    mobility: float = 1.0,
) -> float:
    r"""Escape rate over one saddle in d dimensions, isotropic mobility, for barrier >> T.

    k = M |lambda_-|/(2 pi) sqrt(det H_a/|det H_b|) exp(-barrier/T), lambda_- the one negative
    eigenvalue at the saddle. Determinants by logarithms, so d may be large.

    Args:
        hessian_well: (d, d) Hessian at the minimum, positive definite.
        hessian_saddle: (d, d) Hessian at the saddle, exactly one negative eigenvalue.
        barrier: U(saddle) - U(minimum) > 0.
        temperature: T.
        mobility: M.

    Returns:
        The rate, 1/time.

    Raises:
        ValueError: If the points are not a minimum and a saddle of index 1.

    Examples:
        >>> h_well, h_saddle = np.diag([8.0, 3.0]), np.diag([-4.0, 3.0])
        >>> round(eyring_kramers_rate_nd(h_well, h_saddle, 1.0, 1 / 4), 5)
        0.01649
    """
    positive("eyring_kramers_rate_nd", barrier=barrier, temperature=temperature, mobility=mobility)
    finite("eyring_kramers_rate_nd", hessian_well=hessian_well, hessian_saddle=hessian_saddle)
    well = np.linalg.eigvalsh(np.asarray(hessian_well, np.float64))
    saddle = np.linalg.eigvalsh(np.asarray(hessian_saddle, np.float64))
    if well.shape != saddle.shape or not well[0] > 0:
        raise ValueError(
            "The `hessian_well` of `eyring_kramers_rate_nd` must be that of a minimum, of the same "
            f"dimension as the saddle's. Its smallest eigenvalue is {well[0]:.3g}. "
            "Relax the point to a minimum first."
        )
    if not (saddle[0] < 0 and np.all(saddle[1:] > 0)):
        raise ValueError(
            "The `hessian_saddle` of `eyring_kramers_rate_nd` must have exactly one negative "
            f"eigenvalue and none at 0. Got {int((saddle < 0).sum())} negative of {saddle.size}, "
            f"the second smallest {saddle[min(1, saddle.size - 1)]:.3g}. "
            "The formula holds at the lowest saddle of index 1."
        )
    log_ratio = (np.log(well).sum() - np.log(np.abs(saddle)).sum()) / 2
    log_rate = math.log(mobility * -saddle[0] / (2 * math.pi)) + log_ratio - barrier / temperature
    return math.exp(log_rate)


def finite_barrier_ratio(
    energy: Energy,
    temperature: float,
    well: float,
    barrier: float,
    curvature_well: float,
    curvature_barrier: float,
) -> float:
    r"""Eyring-Kramers over exact, for a **symmetric** double well: what the asymptotics cost.

    k_EK/(lambda_1/2). A measured rate must be compared with the exact one: a precise interval
    around the asymptotic rate has to exclude it.

    Args:
        energy: U, vectorised, symmetric about `barrier`.
        temperature: T.
        well: Position of a minimum.
        barrier: Position of the barrier.
        curvature_well: U'' at the minimum.
        curvature_barrier: |U''| at the barrier.

    Returns:
        The ratio, above 1 for the usual shapes.

    Raises:
        ValueError: If U is not symmetric about the barrier.

    Examples:
        >>> round(finite_barrier_ratio(lambda x: (x**2 - 1) ** 2, 1 / 8, -1, 0, 8, 4), 3)
        1.056
    """
    apart = np.linspace(0, 1.5 * abs(well - barrier), 7)
    left, right = energy(barrier - apart), energy(barrier + apart)
    if not np.allclose(left, right, rtol=1e-9, atol=1e-9 * float(np.ptp(left))):
        raise ValueError(
            "The `energy` of `finite_barrier_ratio` must be symmetric about the barrier: otherwise "
            "lambda_1 is the sum of two different hop rates. Compare "
            "`eyring_kramers_rate` with 1/`mean_first_passage_time` instead."
        )
    height = float(energy(np.array([barrier]))[0] - energy(np.array([well]))[0])
    exact = well_decay_rate(energy, temperature, well, barrier) / 2
    return eyring_kramers_rate(curvature_well, curvature_barrier, height, temperature) / exact
