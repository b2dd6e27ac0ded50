r"""Finite volumes for the Fokker-Planck equation: a grid is a set of cells and of jump rates.

dx = mu dt + sqrt(2 D) dW, **Ito**, so the flux is J = mu p - d(D p)/dx. With q = D p it is
q mu/D - q', and between two nodes at distance h, with w = int mu/D dx, Scharfetter and Gummel's

    J = (B(-w) q_left - B(w) q_right)/h,    B(w) = w/(exp(w) - 1),

is exact for constant J and mu/D. Every rate is positive, so the discrete equation is that of a
Markov jump process: mass is conserved, densities stay positive, the Gibbs density is *exactly*
stationary at the nodes, and any grid Peclet number |w| is safe (far above 1 the scheme becomes
upwind, of first order, with numerical diffusion |mu| h/2). Where w is of order h it is of order 2.

Nodes are the ends of the interval and what lies between: walls, reflecting or absorbing, stand
**at** the end nodes, whose cells are half as wide, so a mass is a trapezoid sum. `grid_plane`
builds the same `Grid` in two dimensions; `grid_solvers` and `grid_entropy` work on either.

Sources: D. Scharfetter and H. Gummel, IEEE Trans. Electron Devices 16, 64 (1969); V. Holubec,
K. Kroy and S. Steffenoni, Phys. Rev. E 99, 032117 (2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from foreshock.simulators.door import Array, finite, positive
from foreshock.simulators.grid_axes import at_nodes, cell_widths, face_widths, node_axis
from foreshock.simulators.grid_cells import Grid, face_rates

Wall = Literal["reflecting", "absorbing"]
Correction = Literal["gibbs", "ito"]


def energy_grid(
    nodes: ArrayLike,
    energy: ArrayLike,
    temperature: float,
    mobility: ArrayLike = 1.0,
    *,
    correction: Correction = "gibbs",
    walls: tuple[Wall, Wall] = ("reflecting", "reflecting"),
    period: float | None = None,
) -> Grid:
    r"""A line or ring on which a potential pulls: D = T M.

    With ``correction="gibbs"`` the Ito drift is -M U' + T M', which leaves exp(-U/T) stationary
    for any M(x); with ``"ito"`` it is -M U' alone, whose stationary density is exp(-U/T)/M. The
    two agree for constant M. Both are exact at the nodes, whatever the spacing.

    Args:
        nodes: (n,) Increasing positions, spaced equally or not.
        energy: (n,) U at the nodes.
        temperature: T > 0, in the unit of U.
        mobility: M > 0, a number or (n,).
        correction: Whether the drift contains T M'.
        walls: Lower and upper end; ignored on a ring.
        period: Circumference of a ring; its first node is not repeated at the end.

    Returns:
        The grid.

    Raises:
        ValueError: If the correction has no such name.

    Examples:
        >>> x = np.linspace(-5, 5, 201)
        >>> grid = energy_grid(x, x**2 / 2, temperature=1.0)
        >>> from foreshock.simulators.grid_solvers import spectrum
        >>> abs(spectrum(grid, 3)).round(3)
        array([0.   , 1.   , 1.999])
    """
    positive("energy_grid", temperature=temperature, mobility=mobility)
    if correction not in ("gibbs", "ito"):
        raise ValueError(
            f'The `correction` of `energy_grid` must be "gibbs" or "ito". Got {correction!r}.'
        )
    x = node_axis("energy_grid", "nodes", nodes, period)
    u = at_nodes("energy_grid", "energy", energy, x.shape)
    d = temperature * at_nodes("energy_grid", "mobility", mobility, x.shape)
    potential = -u / temperature + (np.log(d) if correction == "gibbs" else 0.0)
    return _line(x, _steps(potential, period), d, walls, period)


def drift_grid(
    nodes: ArrayLike,
    drift: ArrayLike,
    diffusion: ArrayLike,
    *,
    walls: tuple[Wall, Wall] = ("reflecting", "reflecting"),
    period: float | None = None,
) -> Grid:
    r"""A line or ring on which the Ito drift mu(x) and D(x) are given at the nodes.

    w is the trapezoid rule on mu/D, so a drift -U' reproduces exp(-U/T) to order 2, where
    `energy_grid` is exact.

    Args:
        nodes: (n,) Increasing positions.
        drift: mu, a number or (n,), length/time.
        diffusion: D > 0, a number or (n,), length^2/time.
        walls: Lower and upper end; ignored on a ring.
        period: Circumference of a ring.

    Returns:
        The grid.

    Examples:
        >>> x = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        >>> ring = drift_grid(x, 3.0, 2.0, period=2 * np.pi)
        >>> from foreshock.simulators.grid_entropy import entropy_production
        >>> from foreshock.simulators.grid_solvers import stationary
        >>> round(entropy_production(ring, stationary(ring)), 2)
        4.5
    """
    positive("drift_grid", diffusion=diffusion)
    finite("drift_grid", drift=drift)
    x = node_axis("drift_grid", "nodes", nodes, period)
    d = at_nodes("drift_grid", "diffusion", diffusion, x.shape)
    slope = at_nodes("drift_grid", "drift", drift, x.shape) / d
    following = np.roll(slope, -1)
    widths = face_widths(x, period)
    w = (widths * (slope + following)[: widths.size]) / 2
    return _line(x, w, d, walls, period)


def _line(x: Array, w: Array, d: Array, walls: Sequence[str], period: float | None) -> Grid:
    """The grid of a line or ring from its face integrals."""
    n = x.size
    widths = face_widths(x, period)
    volume = cell_widths(x, period)
    tail = np.arange(widths.size)
    head = (tail + 1) % n
    rates = face_rates(w, d[tail], d[head], 1 / widths, volume[tail], volume[head])
    live = np.ones(n, bool)
    if period is None:
        for wall, end in zip(walls, (0, -1), strict=True):
            if wall not in ("reflecting", "absorbing"):
                raise ValueError(
                    'The `walls` of a grid must be "reflecting" or "absorbing". '
                    f"Got {wall!r}. For a ring give `period=`."
                )
            live[end] = wall == "reflecting"
    return Grid((x,), volume, tail, head, *rates, live, periods=(period,))


def _steps(potential: Array, period: float | None) -> Array:
    """Differences of log q* across the faces."""
    return np.diff(potential) if period is None else np.roll(potential, -1) - potential
