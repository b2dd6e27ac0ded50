r"""Entropies, fluxes and irreversibility of a density on a `Grid`.

J. Schnakenberg, Rev. Mod. Phys. 48, 571 (1976) for the production of a jump process; U. Seifert,
Rep. Prog. Phys. 75, 126001 (2012).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import entr, kl_div

from foreshock.simulators.door import Array, positive
from foreshock.simulators.grid_cells import Grid, checked


def face_flux(grid: Grid, density: ArrayLike) -> Array:
    r"""Net probability through each face, tail to head, 1/time: in one dimension the current J.

    Resets and absorption are left aside. Summed over a ring and multiplied by its circumference
    over the number of faces it is the mean velocity.

    Args:
        grid: The grid.
        density: Of its shape.

    Returns:
        (f,) forward m_tail - backward m_head.

    Examples:
        >>> from foreshock.simulators.grid import drift_grid
        >>> face_flux(drift_grid([0.0, 1.0, 2.0], 0.0, 1.0), [1.0, 0.0, 0.0])
        array([1., 0.])
    """
    out, back = _one_way(grid, density, "face_flux")
    return out - back


def entropy_production(grid: Grid, density: ArrayLike) -> float:
    r"""Schnakenberg's total entropy production, nats/time: sum over faces of (F - B) log(F/B).

    F and B are the one-way fluxes. Never negative, and 0 exactly where every face balances. It
    tends to E[v . D^-1 v] with order 2 in the spacing.

    Args:
        grid: The grid, without absorption or resets.
        density: Of its shape.

    Returns:
        The rate; ``inf`` where a flux runs one way only, such as from an empty cell's neighbour.

    Raises:
        ValueError: If the grid absorbs or resets: a jump without a way back has no finite one.

    Examples:
        >>> from foreshock.simulators.grid import energy_grid
        >>> from foreshock.simulators.grid_solvers import stationary
        >>> x = np.linspace(-3, 3, 61)
        >>> grid = energy_grid(x, x**4, 1.0)
        >>> entropy_production(grid, stationary(grid)) < 1e-20
        True
    """
    if grid.reset_rate or not grid.live.all():
        raise ValueError(
            "`entropy_production` is infinite where jumps have no way back, and resets and "
            "absorption have none. Pass the grid without them for the production of the diffusion."
        )
    out, back = _one_way(grid, density, "entropy_production")
    with np.errstate(divide="ignore", invalid="ignore"):  # 0/0 is a face without traffic
        terms = np.where(out == back, 0.0, (out - back) * np.log(out / back))
    return float(np.sum(terms))


def _one_way(grid: Grid, density: ArrayLike, function: str) -> tuple[Array, Array]:
    """Flux from tail to head and back, per face; rounding below 0 is 0."""
    m = np.maximum((checked(grid, function, density) * grid.volume).ravel(), 0.0)
    return grid.forward * m[grid.tail], grid.backward * m[grid.head]


def density_entropy(grid: Grid, density: ArrayLike) -> float:
    r"""Differential entropy -sum V p log p, in nats.

    Args:
        grid: The grid.
        density: Of its shape.

    Returns:
        H. It depends on the unit of x; its changes do not.

    Examples:
        >>> from foreshock.simulators.grid import drift_grid
        >>> density_entropy(drift_grid([0.0, 1.0, 2.0], 0.0, 1.0), [0.5, 0.5, 0.5])
        0.6931471805599453
    """
    p = np.maximum(checked(grid, "density_entropy", density), 0.0)
    return float(np.sum(grid.volume * entr(p)))


def relative_entropy(grid: Grid, density: ArrayLike, reference: ArrayLike) -> float:
    r"""KL(p | q) = sum V (p log(p/q) - p + q), in nats; for equal masses the usual one.

    It never grows along the flow when q is stationary.

    Args:
        grid: The grid.
        density: p.
        reference: q.

    Returns:
        KL, ``inf`` where q is 0 and p is not.

    Examples:
        >>> from foreshock.simulators.grid import drift_grid
        >>> grid = drift_grid([0.0, 1.0, 2.0], 0.0, 1.0)
        >>> relative_entropy(grid, [0.5, 0.5, 0.5], [0.5, 0.5, 0.5])
        0.0
    """
    p = np.maximum(checked(grid, "relative_entropy", density), 0.0)
    q = np.maximum(checked(grid, "relative_entropy", reference), 0.0)
    return float(np.sum(grid.volume * kl_div(p, q)))


def free_energy(grid: Grid, density: ArrayLike, energy: ArrayLike, temperature: float) -> float:
    r"""F = E[U] - T H. Its least value, -T log Z, is that of exp(-U/T)/Z.

    The excess over it is T KL(p | Gibbs), and dF/dt = -T (entropy production) at constant D.

    Args:
        grid: The grid.
        density: Of its shape.
        energy: U at the nodes.
        temperature: T.

    Returns:
        F, in the unit of U.

    Raises:
        ValueError: If the energies have another shape than the grid.

    Examples:
        >>> from foreshock.simulators.grid import drift_grid
        >>> grid = drift_grid([0.0, 1.0, 2.0], 0.0, 1.0)
        >>> round(free_energy(grid, [0.5, 0.5, 0.5], [3.0, 3.0, 3.0], 1.0), 6)  # 3 - log 2
        2.306853
    """
    positive("free_energy", temperature=temperature)
    p, u = checked(grid, "free_energy", density), np.asarray(energy, np.float64)
    if u.shape != grid.shape:
        raise ValueError(
            f"The `energy` of `free_energy` must have the shape {grid.shape} of the grid. "
            f"Got {u.shape}."
        )
    return float(np.sum(grid.volume * p * u)) - temperature * density_entropy(grid, p)
