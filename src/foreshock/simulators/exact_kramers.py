r"""Escape over a barrier in one dimension, exactly; `eyring_kramers` has the asymptotic rates.

dx = -M U' dt + sqrt(2 T M) dW: one temperature T, mobility M, D = T M. The exact values are double
integrals, carried in logarithms on Gauss-Legendre panels that are doubled until they agree, so a
barrier of hundreds of T neither overflows nor loses digits. A feature narrower than about 1/500 of
the interval can be missed by all of the panels.

Source: P. Hanggi, P. Talkner and M. Borkovec, Rev. Mod. Phys. 62, 251 (1990).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
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
