r"""What Euler's step gets wrong in a potential, to first order in dt, in any number of dimensions.

One step of the chain is exp(dt L_x), L_x the generator with the drift a frozen where the step
begins, and not exp(dt L). The two differ by

    dt^2/2 (L_x^2 - L^2) u = -dt^2 g(u),
    g(u) = ((a . grad a + T lap a) . grad u + 2 T grad a : grad grad u)/2,

at mobility 1, so a mean passage time t is off by dt L^-1 g(t), and a stationary mean of f by
dt E[g(u)], where L u = f - E f. Solved on a `Grid`. Of higher order is what remains: in the double
well at dt U'' = .04 it is a twentieth of this, at .08 a tenth (`euler_chain` is exact, on a line).

Source: D. Talay and L. Tubaro, Stoch. Anal. Appl. 8, 483 (1990).
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csc_array, eye_array
from scipy.sparse.linalg import splu

from foreshock.simulators.door import Array
from foreshock.simulators.grid_cells import Grid, rate_matrix
from foreshock.simulators.potentials import Potential


def grid_points(grid: Grid) -> torch.Tensor:
    """Nodes of a grid as particles.

    Args:
        grid: The grid.

    Returns:
        (..., d) Positions, float64.

    Examples:
        >>> from foreshock.simulators.grid import drift_grid
        >>> grid_points(drift_grid([0.0, 1.0, 2.0], 0.0, 1.0)).shape
        torch.Size([3, 1])
    """
    return torch.from_numpy(np.stack(np.meshgrid(*grid.axes, indexing="ij"), -1))


def passage_error(grid: Grid, potential: Potential, temperature: float, times: Array) -> Array:
    """Error of a mean passage time per unit of dt, with the crossing test at a flat wall.

    Args:
        grid: With absorbing cells.
        potential: U.
        temperature: T, at mobility 1.
        times: `mean_first_passage(grid)`.

    Returns:
        Of the shape of the grid; times dt, it is what Euler's chain takes longer.

    Examples:
        >>> from foreshock.simulators.grid import energy_grid
        >>> from foreshock.simulators.grid_solvers import mean_first_passage
        >>> from foreshock.simulators.potentials import Quadratic
        >>> x = np.linspace(-6, 1, 401)
        >>> grid = energy_grid(x, x**2 / 2, 1.0, walls=("reflecting", "absorbing"))
        >>> error = passage_error(grid, Quadratic(1.0), 1.0, mean_first_passage(grid))
        >>> bool((error < 1e-9).all())
        True
    """
    live = grid.live.ravel()
    source = _commutator(grid, potential, temperature, times).ravel()[live]
    error = np.zeros(live.size)
    error[live] = splu(csc_array(rate_matrix(grid).T)).solve(source)
    return error.reshape(grid.shape)


def stationary_error(
    grid: Grid, potential: Potential, temperature: float, law: Array, observed: Array
) -> float:
    """Error of a stationary mean per unit of dt.

    Args:
        grid: Without absorbing cells.
        potential: U.
        temperature: T, at mobility 1.
        law: Stationary density.
        observed: f at the nodes.

    Returns:
        The error; times dt, what Euler's chain has more.

    Examples:
        >>> from foreshock.simulators.grid import energy_grid
        >>> from foreshock.simulators.grid_solvers import stationary
        >>> from foreshock.simulators.potentials import Quadratic
        >>> x = np.linspace(-8, 8, 801)
        >>> grid = energy_grid(x, x**2, 1.0)  # k = 2: variance T/(k (1 - k dt/2)), T/2 per dt
        >>> round(stationary_error(grid, Quadratic(2.0), 1.0, stationary(grid), x**2), 3)
        0.5
    """
    mass = (law * grid.volume).ravel()
    generator = rate_matrix(grid).T
    # The constant is in the null space; a shift far below every relaxation rate fixes it.
    shift = 1e-9 * float(np.abs(generator.diagonal()).mean())
    right = observed.ravel() - float(mass @ observed.ravel())
    solved = splu(csc_array(generator - shift * eye_array(mass.size))).solve(right)
    source = _commutator(grid, potential, temperature, solved.reshape(grid.shape))
    return float(mass @ source.ravel())


def _commutator(grid: Grid, potential: Potential, temperature: float, u: Array) -> Array:
    """The g(u) above, for a = -grad U."""
    at = grid_points(grid)
    slope, bend = potential.gradient(at).numpy(), potential.hessian(at).numpy()
    slopes = _gradient(grid, u)
    bends = np.stack([_gradient(grid, slopes[..., i]) for i in range(slopes.shape[-1])], -1)
    roundness = _gradient(grid, np.trace(bend, axis1=-2, axis2=-1))
    push = np.einsum("...ij,...j->...i", bend, slope) - temperature * roundness
    return ((push * slopes).sum(-1) - 2 * temperature * (bend * bends).sum((-1, -2))) / 2


def _gradient(grid: Grid, field: Array) -> Array:
    """Central differences, of second order to the edges."""
    parts = [np.gradient(field, axis, axis=i, edge_order=2) for i, axis in enumerate(grid.axes)]
    return np.stack(parts, -1)
