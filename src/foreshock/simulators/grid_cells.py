"""Cells and the rates of jumping between them: what a density on a `Grid` lives on.

`grid` and `grid_plane` build it, `grid_solvers` and `grid_entropy` work on it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array, csc_array

from foreshock.simulators.door import Array, finite, not_negative


@dataclass(frozen=True, eq=False)
class Grid:
    """Cells, and the rates of jumping through the faces between them. Made by the builders.

    Args:
        axes: Node positions along each dimension.
        volume: Size of each cell; its shape is that of a density.
        tail: (f,) For each face the flat index of the cell on its lower side.
        head: (f,) The cell on its upper side.
        forward: (f,) Rate of jumping from tail to head, 1/time.
        backward: (f,) Rate of jumping from head to tail.
        live: Where the density lives; False in cells that absorb.
        reset_rate: Rate of resets; 0 without.
        reset_mass: Distribution after a reset, one probability for each cell.
        periods: Circumference along each dimension, ``None`` between walls; empty: walls only.

    Examples:
        >>> from foreshock.simulators.grid import energy_grid
        >>> grid = energy_grid([-1.0, 0.0, 1.0], [0.5, 0.0, 0.5], temperature=1.0)
        >>> grid.shape, grid.volume.tolist()
        ((3,), [0.5, 1.0, 0.5])
    """

    axes: tuple[Array, ...]
    volume: Array
    tail: NDArray[np.intp]
    head: NDArray[np.intp]
    forward: Array
    backward: Array
    live: NDArray[np.bool_]
    reset_rate: float = 0.0
    reset_mass: Array | None = None
    periods: tuple[float | None, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a density on this grid."""
        return self.volume.shape

    @property
    def is_chain(self) -> bool:
        """Whether the cells form an open line, each linked to the next only."""
        return (
            len(self.axes) == 1
            and self.tail.size == self.volume.size - 1
            and bool(np.all(self.head == self.tail + 1))
        )


def with_resets(grid: Grid, rate: float, mass: ArrayLike) -> Grid:
    r"""The same grid with Poisson resets: dp/dt = ... - r p + r (mass left) delta.

    Args:
        grid: The grid.
        rate: r >= 0, resets/time.
        mass: Probability of landing in each cell, such as `point_mass`.

    Returns:
        A new grid.

    Raises:
        ValueError: If `mass` is not a distribution over the live cells.

    Examples:
        >>> from foreshock.simulators.grid import drift_grid
        >>> grid = drift_grid(np.linspace(-1, 1, 5), 0.0, 1.0)
        >>> with_resets(grid, 2.0, point_mass(grid, 0.0)).reset_rate
        2.0
    """
    not_negative("with_resets", rate=rate, mass=mass)
    landing = np.asarray(mass, np.float64)
    if landing.shape != grid.shape or abs(landing.sum() - 1) > 1e-9 or landing[~grid.live].any():
        raise ValueError(
            "The `mass` of `with_resets` must be probabilities of the live cells that sum to 1. "
            f"Got shape {landing.shape} for {grid.shape}, sum {landing.sum():.6g}. "
            "For one place use `point_mass(grid, x)`."
        )
    return replace(grid, reset_rate=float(rate), reset_mass=landing)


def with_target(grid: Grid, target: ArrayLike) -> Grid:
    """The same grid with more cells that absorb.

    Args:
        grid: The grid.
        target: Mask of the shape of a density, True where a particle is absorbed.

    Returns:
        A new grid.

    Raises:
        ValueError: If the mask has another shape or leaves no live cell.

    Examples:
        >>> from foreshock.simulators.grid import drift_grid
        >>> grid = drift_grid(np.linspace(-1, 1, 5), 0.0, 1.0)
        >>> with_target(grid, grid.axes[0] > 0.9).live.tolist()
        [True, True, True, True, False]
    """
    mask = np.asarray(target, bool)
    if mask.shape != grid.shape:
        raise ValueError(
            f"The `target` of `with_target` must be a mask of shape {grid.shape}. "
            f"Got {mask.shape}. Write it with the nodes, as in `grid.axes[0] > 1`."
        )
    live = grid.live & ~mask
    if not live.any():
        raise ValueError("The `target` of `with_target` covers every live cell: nothing can move.")
    return replace(grid, live=live)


def point_mass(grid: Grid, *position: float) -> Array:
    """A particle at a point, as probabilities: split over the nearest nodes, mean kept.

    On a ring any position is on it, and past the last node the closing face is split.

    Args:
        grid: The grid.
        *position: One coordinate for each dimension.

    Returns:
        Probabilities of the cells; divide by ``grid.volume`` for a density.

    Raises:
        ValueError: If the point is outside the nodes of a line.

    Examples:
        >>> from foreshock.simulators.grid import drift_grid
        >>> grid = drift_grid([0.0, 1.0, 2.0], 0.0, 1.0)
        >>> point_mass(grid, 0.25)
        array([0.75, 0.25, 0.  ])
    """
    finite("point_mass", position=position)
    if len(position) != len(grid.axes):
        raise ValueError(
            f"`point_mass` needs {len(grid.axes)} coordinates on this grid. Got {len(position)}."
        )
    mass = np.ones(())
    periods = grid.periods or (None,) * len(grid.axes)
    for axis, place, period in zip(grid.axes, position, periods, strict=True):
        x, value = axis, place
        if period is not None:
            # The first node closes the ring; rounding of the remainder may reach it.
            x = np.append(axis, axis[0] + period)
            value = min(max(axis[0] + (place - axis[0]) % period, x[0]), x[-1])
        if not x[0] <= value <= x[-1]:
            raise ValueError(
                f"The `position` {value} of `point_mass` is outside the nodes [{x[0]}, {x[-1]}]."
            )
        upper = min(max(int(np.searchsorted(x, value)), 1), x.size - 1)
        share = (value - x[upper - 1]) / (x[upper] - x[upper - 1])
        one = np.zeros(axis.size)
        one[upper - 1], one[upper % axis.size] = 1 - share, share
        mass = np.multiply.outer(mass, one)
    return mass


def rate_matrix(grid: Grid) -> csc_array:
    """The matrix A of dm/dt = A m for the probabilities of the live cells, in flat order.

    Columns sum to minus the rate of absorption, 0 without absorbing cells. Off-diagonal entries
    are rates, never negative.

    Args:
        grid: The grid.

    Returns:
        (k, k) Sparse, k live cells.

    Examples:
        >>> from foreshock.simulators.grid import drift_grid
        >>> rate_matrix(drift_grid([0.0, 1.0, 2.0], 0.0, 1.0)).toarray()
        array([[-2.,  1.,  0.],
               [ 2., -2.,  2.],
               [ 0.,  1., -2.]])
    """
    n = grid.volume.size
    rows = np.concatenate((grid.head, grid.tail, grid.tail, grid.head))
    columns = np.concatenate((grid.tail, grid.tail, grid.head, grid.head))
    values = np.concatenate((grid.forward, -grid.forward, grid.backward, -grid.backward))
    matrix = csc_array((values, (rows, columns)), shape=(n, n))
    alive = np.flatnonzero(grid.live.ravel())
    matrix = csc_array(matrix[np.ix_(alive, alive)])
    if grid.reset_rate and grid.reset_mass is not None:
        landing = grid.reset_mass.ravel()[alive]
        places = np.flatnonzero(landing)
        everywhere = np.arange(alive.size)
        gain = coo_array(
            (
                grid.reset_rate * np.repeat(landing[places], alive.size),
                (np.repeat(places, alive.size), np.tile(everywhere, places.size)),
            ),
            shape=matrix.shape,
        )
        loss = coo_array((np.full(alive.size, -grid.reset_rate), (everywhere, everywhere)))
        matrix = csc_array(matrix + gain.tocsc() + loss.tocsc())
    return matrix


def face_rates(
    w: Array, d_tail: Array, d_head: Array, width: Array, v_tail: Array, v_head: Array
) -> tuple[Array, Array]:
    """Scharfetter-Gummel rates through faces, from and to the tail; arguments are per face.

    Args:
        w: Integral of mu/D from tail to head.
        d_tail: D at the tail.
        d_head: D at the head.
        width: Area of the face over the distance of the nodes.
        v_tail: Volume of the cell of the tail.
        v_head: Volume of the cell of the head.

    Returns:
        Forward and backward rates.

    Examples:
        >>> one = np.ones(1)
        >>> face_rates(np.zeros(1), one, one, one, one, one)
        (array([1.]), array([1.]))
    """
    return bernoulli(-w) * d_tail * width / v_tail, bernoulli(w) * d_head * width / v_head


def bernoulli(w: ArrayLike) -> Array:
    r"""B(w) = w/(exp(w) - 1), without cancellation at 0 or overflow far out; B(-w) = B(w) + w.

    Args:
        w: Any finite numbers.

    Returns:
        B, positive (0 by underflow above w = 745).

    Examples:
        >>> bernoulli([0.0, 1000.0, -1000.0])
        array([   1.,    0., 1000.])
    """
    w = np.asarray(w, np.float64)
    size = np.abs(w)
    safe = np.where(size < 1e-8, 1.0, size)
    # |w| e^-|w|/(1 - e^-|w|) at +|w|; its mirror image has |w| more.
    upper = np.where(size < 1e-8, 1 - size / 2, safe * np.exp(-safe) / -np.expm1(-safe))
    return np.where(w >= 0, upper, upper + size)


def checked(grid: Grid, function: str, density: ArrayLike) -> Array:
    """A density as an array of the grid's shape.

    Args:
        grid: The grid.
        function: Who asks.
        density: The density.

    Returns:
        The array.

    Raises:
        ValueError: If its shape is another, or an entry is clearly negative.

    Examples:
        >>> from foreshock.simulators.grid import drift_grid
        >>> checked(drift_grid([0.0, 1.0, 2.0], 0.0, 1.0), "total_mass", [0, 1, 0])
        array([0., 1., 0.])
    """
    finite(function, density=density)
    p = np.asarray(density, np.float64)
    if p.shape != grid.shape:
        raise ValueError(
            f"The `density` of `{function}` must have the shape {grid.shape} of the grid. "
            f"Got {p.shape}."
        )
    if p.size and p.min() < -1e-9 * max(float(p.max()), 1e-300):
        raise ValueError(
            f"The `density` of `{function}` is negative: its smallest entry is {p.min():.3g}. "
            'Evolve it with method="backward_euler", which stays positive at any step.'
        )
    return p


def total_mass(grid: Grid, density: ArrayLike) -> float:
    """Total probability of a density: a trapezoid sum over the nodes.

    Args:
        grid: The grid.
        density: Of the shape of the grid.

    Returns:
        The mass.

    Examples:
        >>> from foreshock.simulators.grid import drift_grid
        >>> total_mass(drift_grid([0.0, 1.0, 2.0], 0.0, 1.0), [0.5, 0.5, 0.5])
        1.0
    """
    return float(np.sum(checked(grid, "total_mass", density) * grid.volume))
