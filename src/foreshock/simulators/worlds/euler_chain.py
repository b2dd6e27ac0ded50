r"""What Euler's step itself gets wrong on a line: the law of the chain, summed instead of sampled.

With a finite dt particles follow the Euler-Maruyama chain x' = x + a(x) dt + sqrt(2 D(x) dt) z and
not the diffusion. On a line or a ring its transition density, with the crossing test of `passage`
at a wall, fits into a matrix, so that its passage times, its stationary law and its law after any
number of steps are known to many digits. The difference from the diffusion is the `bias` that a
world states: computed for its own dt, not guessed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from foreshock.simulators.door import Array

Field = Callable[[Array], Array]


def euler_nodes(
    low: float, high: float, diffusion: float, dt: float, *, finer: int = 8, most: int = 900
) -> Array:
    """Nodes from `low` to `high`, some to the standard deviation of a step.

    Args:
        low: First node.
        high: Last node.
        diffusion: Smallest D.
        dt: Step.
        finer: Spacings in a standard deviation: 8 at a wall, 3 are plenty without.
        most: Most nodes.

    Returns:
        (k,) Nodes.

    Raises:
        ValueError: If more than `most` nodes would be needed.

    Examples:
        >>> len(euler_nodes(-2.0, 1.0, 0.25, 0.01))
        341
    """
    count = math.ceil(finer * (high - low) / math.sqrt(2 * diffusion * dt)) + 1
    if count > most:
        least = (finer * (high - low) / (most - 1)) ** 2 / (2 * diffusion)
        raise ValueError(
            f"The `dt` of {dt:g} is too short for the table of its own error: {count} nodes, and "
            f"{most} are allowed. Use a `dt` of {least:.1e} or more."
        )
    return np.linspace(low, high, count)


def euler_kernel(
    nodes: Array,
    drift: Field,
    diffusion: Field,
    dt: float,
    *,
    wall: bool = False,
    period: float | None = None,
    start: Array | None = None,
) -> Array:
    r"""Probabilities of one step to each node.

    The trapezoid rule on a Gaussian is exact to 1e-8 where the spacing is at most a standard
    deviation of a step; at the wall, where the density has a kink, its error is of second order.

    Args:
        nodes: (k,) Equally spaced; of a ring, without the last.
        drift: a, Itô.
        diffusion: D.
        dt: Step.
        wall: Whether the last node absorbs, with the crossing test exp(-a b/(D dt)) between two
            points at the distances a and b from it.
        period: Circumference of a ring.
        start: (m,) From where; from every node by default.

    Returns:
        (m, k) Rows that sum to 1, less what is absorbed or leaves the nodes.

    Examples:
        >>> ring = np.arange(60) / 60
        >>> still, one = (lambda x: 0 * x), (lambda x: 1 + 0 * x)
        >>> bool(abs(euler_kernel(ring, still, one, 0.01, period=1.0).sum(1) - 1).max() < 1e-12)
        True
    """
    x = nodes if start is None else np.asarray(start, np.float64)
    variance = 2 * diffusion(x) * dt
    gap = nodes[1] - nodes[0]
    apart = nodes - (x + drift(x) * dt)[:, None]
    images = (0.0,) if period is None else (-2.0, -1.0, 0.0, 1.0, 2.0)
    kernel = np.zeros_like(apart)
    for turn in images:
        kernel += np.exp(-((apart + turn * (period or 0.0)) ** 2) / (2 * variance[:, None]))
    kernel *= gap / np.sqrt(2 * np.pi * variance)[:, None]
    if wall:
        to_wall = np.maximum(nodes[-1] - np.stack([x]), 0.0).T * (nodes[-1] - nodes)
        kernel *= -np.expm1(-2 * to_wall / variance[:, None])
    return kernel


def chain_passage_time(kernel: Array, first: Array, dt: float) -> float:
    """Mean passage time as `first_passage` records it: the middle of the step of the crossing.

    Args:
        kernel: (k, k) From `euler_kernel` with a wall.
        first: (1, k) The row of the start.
        dt: Step.

    Returns:
        The mean time.

    Examples:
        >>> kernel, first = np.array([[0.5]]), np.array([[0.5]])  # a fair coin a step
        >>> chain_passage_time(kernel, first, 1.0)
        1.5
    """
    steps = np.linalg.solve(np.eye(len(kernel)) - kernel, np.ones(len(kernel)))
    return dt * (0.5 + float((first @ steps)[0]))


def chain_rate(kernel: Array, dt: float) -> float:
    """Late rate of absorption as `exponential_rate` counts it: crossings over time inside.

    Args:
        kernel: (k, k) From `euler_kernel` with a wall.
        dt: Step.

    Returns:
        The rate, 1/time.

    Examples:
        >>> chain_rate(np.array([[0.5]]), 1.0) == 0.5 / 0.75  # the crossing step counts half
        True
    """
    kept = float(np.abs(np.linalg.eigvals(kernel)).max())
    return (1 - kept) / ((1 + kept) / 2 * dt)


def chain_after(kernel: Array, law: Array, steps: int) -> Array:
    """Probabilities of the nodes after some steps, by repeated squaring.

    Args:
        kernel: (k, k).
        law: (k,) Probabilities at the start.
        steps: How many.

    Returns:
        (k,) Probabilities.

    Examples:
        >>> chain_after(np.array([[0.5, 0.5], [0.0, 1.0]]), np.array([1.0, 0.0]), 3)
        array([0.125, 0.875])
    """
    power, result = kernel, np.asarray(law, np.float64)
    while steps:
        if steps % 2:
            result = result @ power
        power, steps = power @ power, steps // 2
    return result


def chain_stationary(kernel: Array) -> Array:
    """Stationary probabilities of a chain that absorbs nowhere.

    Args:
        kernel: (k, k).

    Returns:
        (k,) Probabilities.

    Examples:
        >>> chain_stationary(np.array([[0.75, 0.25], [0.5, 0.5]])).round(4)
        array([0.6667, 0.3333])
    """
    size = len(kernel)
    # The balance of one node follows from the others'; in its place the sum is 1.
    system = (np.eye(size) - kernel).T
    system[0] = 1.0
    right = np.zeros(size)
    right[0] = 1.0
    return np.asarray(np.linalg.solve(system, right), np.float64)
