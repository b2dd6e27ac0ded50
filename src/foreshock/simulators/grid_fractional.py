r"""A line on which particles make stable jumps: the fractional Fokker-Planck equation in 1-D.

dp/dt = -d(mu p)/dx - sigma^alpha (-d^2/dx^2)^{alpha/2} p, the law of dx = mu dt + sigma dL.

Jumps over the distance y have the rate c sigma^alpha/|y|^{1+alpha}. On nodes h apart a jump over m
cells has that rate integrated over the cell that it ends in. This alone has the wrong second
moment: jumps shorter than h/2 are lost and each cell counts as its middle. The difference is given
to jumps to the nearest neighbours. Without that match the error of an exit time stalls at some per
cent for alpha near 2; with it it is of order h (the solution has a square-root-like edge). The
drift is upwind, first order in h. All rates are positive for alpha < 2, so densities stay so.

Document: levy. Exact: Getoor's exit time, the Cauchy quartic (`exact_levy`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import solve, solve_toeplitz, toeplitz

from foreshock.simulators.door import Array, finite, not_negative, positive, stability_index
from foreshock.simulators.exact_levy import stable_tail_constant
from foreshock.simulators.grid_axes import at_nodes

Ends = Literal["absorbing", "stopping"]


@dataclass(frozen=True, eq=False)
class StableGrid:
    """Cells on a line, jumps of every length between them, and a drift.

    Made by `stable_grid`.

    Args:
        nodes: (n,) Equally spaced positions.
        jumps: (n - 1,) Rates of jumping over 1, 2, ... n - 1 cells, to one side.
        beyond: (n,) Rate of jumping from a node over 1, 2, ... n cells or more, to one side.
        right: (n,) Rate of drifting to the next node.
        left: (n,) Rate of drifting to the node before.
        ends: ``absorbing``: what jumps beyond the ends is gone. ``stopping``: it stays at the end.
    """

    nodes: Array
    jumps: Array
    beyond: Array
    right: Array
    left: Array
    ends: Ends

    @property
    def spacing(self) -> float:
        """Distance of neighbouring nodes, h."""
        return float(self.nodes[1] - self.nodes[0])


def stable_grid(
    nodes: ArrayLike,
    alpha: float,
    *,
    scale: float = 1.0,
    drift: ArrayLike = 0.0,
    ends: Ends = "absorbing",
) -> StableGrid:
    r"""Cells for a motion with stable jumps.

    Args:
        nodes: (n,) Equally spaced positions. With absorbing ends the walls lie h beyond the first
            and the last node.
        alpha: Index in (0, 2).
        scale: sigma.
        drift: mu at the nodes, or a number.
        ends: What happens beyond the ends.

    Returns:
        The grid.

    Raises:
        ValueError: If the nodes are not equally spaced, fewer than 3, alpha is 2, or the ends have
            no such name.

    Examples:
        >>> grid = stable_grid(np.linspace(-1, 1, 5), alpha=1.0)
        >>> bool((grid.jumps > 0).all())
        True
    """
    x = np.asarray(nodes, np.float64)
    finite("stable_grid", nodes=x, drift=drift)
    if x.ndim != 1 or x.size < 3 or not np.allclose(np.diff(x), x[1] - x[0]) or not x[1] > x[0]:
        raise ValueError(
            "The `nodes` of `stable_grid` must be at least 3 equally spaced increasing positions: "
            "jumps of one length need one rate. Use `np.linspace`."
        )
    if ends not in ("absorbing", "stopping"):
        raise ValueError(
            f'The `ends` of `stable_grid` must be "absorbing" or "stopping". Got {ends!r}.'
        )
    stability_index("stable_grid", alpha)
    if alpha == 2:
        raise ValueError(
            "The `alpha` of `stable_grid` must be below 2. At 2 the motion is Brownian: use "
            "`grid.drift_grid` with D = scale**2."
        )
    positive("stable_grid", scale=scale)
    h, n = float(x[1] - x[0]), x.size
    strength = stable_tail_constant(alpha) * scale**alpha
    # Far enough for the sums over cells: their terms fall like m^-1-alpha, the rest is integrated.
    m = np.arange(1, max(4 * n, 4096) + 1)
    lower, upper = (m - 0.5) * h, (m + 0.5) * h
    rates = strength / alpha * (lower**-alpha - upper**-alpha)
    moment = strength / (2 - alpha) * (upper ** (2 - alpha) - lower ** (2 - alpha))
    lost = strength / (2 - alpha) * (h / 2) ** (2 - alpha) + float(
        np.sum(moment - (m * h) ** 2 * rates)
    )
    rates[0] += lost / h**2
    beyond = np.cumsum(rates[::-1])[::-1] + strength / alpha * upper[-1] ** -alpha
    mu = at_nodes("stable_grid", "drift", drift, x.shape)
    right, left = np.maximum(mu, 0) / h, np.maximum(-mu, 0) / h
    return StableGrid(x, rates[: n - 1], beyond[:n], right, left, ends)


def jump_matrix(grid: StableGrid) -> Array:
    """The generator Q as a dense matrix: dp/dt = Q p for masses p; columns sum to 0 or less.

    Args:
        grid: From `stable_grid`.

    Returns:
        (n, n); n = 2,000 takes 32 MB.

    Examples:
        >>> q = jump_matrix(stable_grid(np.linspace(-1, 1, 5), alpha=1.0, ends="stopping"))
        >>> bool(abs(q.sum(0)).max() < 1e-12)
        True
    """
    n = grid.nodes.size
    q: Array = np.asarray(toeplitz(np.concatenate([[0.0], grid.jumps])))
    inner = np.arange(n - 1)
    q[inner + 1, inner] += grid.right[:-1]
    q[inner, inner + 1] += grid.left[1:]
    leaving = 2 * grid.beyond[0] + grid.right + grid.left
    if grid.ends == "stopping":
        # A jump from node i over n - 1 - i cells or more ends at the last node, and stays there.
        q[-1, :-1] = grid.beyond[n - 2 :: -1][: n - 1]
        q[0, 1:] = grid.beyond[: n - 1]
        q[-1, n - 2] += grid.right[n - 2]
        q[0, 1] += grid.left[1]
        leaving = q.sum(0)
    q[np.arange(n), np.arange(n)] -= leaving
    return q


def exit_time(grid: StableGrid) -> Array:
    """Mean time to leave the line from every node: Q' u = -1.

    Toeplitz without drift, so n = 10,000 is no matter; with drift a dense solve.

    Args:
        grid: With absorbing ends.

    Returns:
        (n,) Times.

    Raises:
        ValueError: If nothing leaves, the ends being `stopping`.

    Examples:
        >>> from foreshock.simulators.exact_levy import getoor_exit_time
        >>> x = np.linspace(-1, 1, 803)[1:-1]
        >>> error = exit_time(stable_grid(x, 1.0)) - getoor_exit_time(abs(x), 1.0)
        >>> bool(abs(error).max() < 0.03)
        True
    """
    if grid.ends != "absorbing":
        raise ValueError("`exit_time` needs a grid with absorbing `ends`; here nothing leaves.")
    ones = np.ones(grid.nodes.size)
    if not (grid.right.any() or grid.left.any()):
        column = np.concatenate([[2 * grid.beyond[0]], -grid.jumps])
        return np.asarray(solve_toeplitz(column, ones))
    return solve(-jump_matrix(grid).T, ones)


def stable_stationary(grid: StableGrid) -> Array:
    """The stationary density.

    Args:
        grid: With stopping ends, far enough out that little mass is there.

    Returns:
        (n,) Density at the nodes, of mass 1.

    Raises:
        ValueError: If mass leaves through the ends.

    Examples:
        >>> x = np.linspace(-8, 8, 401)
        >>> p = stable_stationary(stable_grid(x, 1.0, drift=-(x**3), ends="stopping"))
        >>> round(float(p[200]), 2), bool(p.min() > 0)
        (0.32, True)
    """
    if grid.ends != "stopping":
        raise ValueError("`stable_stationary` needs a grid with stopping `ends`, or mass leaves.")
    q = jump_matrix(grid)
    # One equation is the sum of the others; the mass takes its place.
    q[-1] = grid.spacing
    right = np.zeros(grid.nodes.size)
    right[-1] = 1.0
    return solve(q, right)


def stable_evolve(grid: StableGrid, density: ArrayLike, time: float, *, steps: int = 64) -> Array:
    """A density after some time, by backward Euler: positive for every step, first order in time.

    Args:
        grid: The line.
        density: (n,) Density at the start.
        time: How long.
        steps: Steps of equal length, of which one factorisation serves all.

    Returns:
        (n,) The density.

    Raises:
        ValueError: If the density does not fit or is negative.

    Examples:
        >>> x = np.linspace(-8, 8, 401)
        >>> grid = stable_grid(x, 1.0, ends="stopping")
        >>> p = stable_evolve(grid, np.exp(-x**2), 0.5)
        >>> bool(p.min() > 0)
        True
    """
    from scipy.linalg import lu_factor, lu_solve

    p = np.asarray(density, np.float64)
    not_negative("stable_evolve", density=p, time=time)
    if p.shape != grid.nodes.shape or steps < 1:
        raise ValueError(
            f"The `density` of `stable_evolve` must have one value for each of the "
            f"{grid.nodes.size} nodes, and `steps` be positive. Got shape {p.shape}, {steps} steps."
        )
    if time == 0:
        return p
    system = lu_factor(np.eye(p.size) - time / steps * jump_matrix(grid))
    for _ in range(steps):
        p = np.asarray(lu_solve(system, p))
    return p
