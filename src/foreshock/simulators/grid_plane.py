r"""Finite volumes in the plane: the same `Grid`, from values on a rectangle of nodes.

dx = mu dt + sqrt(2 D) dW, Ito, with **diagonal** D = diag(D_x, D_y), which may depend on position:
each face carries a one-dimensional Scharfetter-Gummel flux. A tensor with off-diagonal entries is
refused: on five points it cannot have positive rates in general. A constant one can be rotated
away first; a varying one needs a wider stencil (J. Fehrenbach and J.-M. Mirebeau, J. Math. Imaging
Vis. 49, 123 (2014)), which is not here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreshock.simulators.door import Array, finite, positive
from foreshock.simulators.grid import Correction
from foreshock.simulators.grid_axes import cell_widths, node_axis
from foreshock.simulators.grid_cells import Grid, face_rates


def energy_plane(
    x: ArrayLike,
    y: ArrayLike,
    energy: ArrayLike,
    temperature: float,
    mobility: ArrayLike = 1.0,
    *,
    correction: Correction = "gibbs",
    periods: tuple[float | None, float | None] = (None, None),
) -> Grid:
    r"""A plane on which a potential pulls: D = T M. Walls reflect.

    As `energy_grid`: with ``"gibbs"`` the drift contains T div M and exp(-U/T) is stationary for
    any M, exactly at the nodes; with ``"ito"`` it does not.

    Args:
        x: (nx,) Increasing node positions.
        y: (ny,) Increasing node positions.
        energy: (nx, ny) U at the nodes.
        temperature: T.
        mobility: M: a number, (nx, ny), or (2, nx, ny) with one M for each axis.
        correction: Whether the drift contains T div M.
        periods: Circumference along each axis; ``None``: walls.

    Returns:
        The grid; absorb with `with_target`.

    Raises:
        ValueError: If the energies have another shape, or the correction has no such name.

    Examples:
        >>> x = np.linspace(-2, 2, 5)
        >>> energy_plane(x, x, x[:, None] ** 2 + x**2, temperature=1.0).shape
        (5, 5)
    """
    positive("energy_plane", temperature=temperature, mobility=mobility)
    finite("energy_plane", energy=energy)
    if correction not in ("gibbs", "ito"):
        raise ValueError(
            f'The `correction` of `energy_plane` must be "gibbs" or "ito". Got {correction!r}.'
        )
    axes = _axes("energy_plane", x, y, periods)
    shape = (axes[0].size, axes[1].size)
    u = np.asarray(energy, np.float64)
    if u.shape != shape:
        raise ValueError(
            f"The `energy` of `energy_plane` must have one value for each node, shape {shape}, "
            f'the first axis along x (np.meshgrid(..., indexing="ij")). Got {u.shape}.'
        )
    d = temperature * _two_fields("energy_plane", "mobility", mobility, shape)
    steps = []
    for axis in (0, 1):
        potential = -u / temperature + (np.log(d[axis]) if correction == "gibbs" else 0.0)
        steps.append(_following(potential, axis, periods[axis]) - _own(potential, axis, periods))
    return _plane(axes, steps, d, periods)


def drift_plane(
    x: ArrayLike,
    y: ArrayLike,
    drift: ArrayLike,
    diffusion: ArrayLike,
    *,
    periods: tuple[float | None, float | None] = (None, None),
) -> Grid:
    r"""A plane with any Ito drift and a diagonal D, both given at the nodes. Walls reflect.

    Args:
        x: (nx,) Increasing node positions.
        y: (ny,) Increasing node positions.
        drift: (2, nx, ny) mu.
        diffusion: D > 0: a number, (nx, ny), (2, nx, ny), or a constant diagonal (2, 2) matrix.
        periods: Circumference along each axis; ``None``: walls.

    Returns:
        The grid; absorb with `with_target`.

    Raises:
        ValueError: If shapes do not fit, or D has off-diagonal entries.

    Examples:
        >>> x = np.linspace(-2, 2, 5)
        >>> drift_plane(x, x, np.zeros((2, 5, 5)), [[1.0, 0.5], [0.5, 1.0]])
        Traceback (most recent call last):
        ...
        ValueError: The `diffusion` of `drift_plane` must be diagonal: with off-diagonal ...
    """
    finite("drift_plane", drift=drift, diffusion=diffusion)
    axes = _axes("drift_plane", x, y, periods)
    shape = (axes[0].size, axes[1].size)
    mu = np.asarray(drift, np.float64)
    if mu.shape != (2, *shape):
        raise ValueError(
            f"The `drift` of `drift_plane` must have shape {(2, *shape)}: one field for each "
            f"axis. Got {mu.shape}."
        )
    given = np.asarray(diffusion, np.float64)
    if given.shape == (2, 2) and shape != (2, 2):
        if given[0, 1] or given[1, 0]:
            raise ValueError(
                "The `diffusion` of `drift_plane` must be diagonal: with off-diagonal entries five "
                "points cannot have positive rates. Rotate the coordinates to the eigenvectors of "
                "a constant D."
            )
        given = np.broadcast_to(np.diag(given)[:, None, None], (2, *shape))
    positive("drift_plane", diffusion=given)
    d = _two_fields("drift_plane", "diffusion", given, shape)
    steps = []
    for axis in (0, 1):
        slope = mu[axis] / d[axis]
        mean = (_following(slope, axis, periods[axis]) + _own(slope, axis, periods)) / 2
        steps.append(mean * _gaps(axes[axis], axis, periods[axis]))
    return _plane(axes, steps, d, periods)


def _plane(
    axes: tuple[Array, Array],
    steps: list[Array],
    d: Array,
    periods: tuple[float | None, float | None],
) -> Grid:
    """Cells and faces of a rectangle from the face integrals along both axes."""
    widths = [cell_widths(axis, period) for axis, period in zip(axes, periods, strict=True)]
    volume = np.multiply.outer(*widths)
    index = np.arange(volume.size).reshape(volume.shape)
    tails, heads, forwards, backwards = [], [], [], []
    for axis in (0, 1):
        period = periods[axis]
        across = np.expand_dims(widths[1 - axis], axis)  # length of a face
        forward, backward = face_rates(
            steps[axis],
            _own(d[axis], axis, periods),
            _following(d[axis], axis, period),
            across / _gaps(axes[axis], axis, period),
            _own(volume, axis, periods),
            _following(volume, axis, period),
        )
        tails.append(_own(index, axis, periods).ravel())
        heads.append(_following(index, axis, period).ravel())
        forwards.append(forward.ravel())
        backwards.append(backward.ravel())
    return Grid(
        axes,
        volume,
        np.concatenate(tails),
        np.concatenate(heads),
        np.concatenate(forwards),
        np.concatenate(backwards),
        np.ones(volume.shape, bool),
        periods=periods,
    )


def _own(
    field: NDArray[Any], axis: int, periods: tuple[float | None, float | None]
) -> NDArray[Any]:
    """The field at the tails of the faces along an axis."""
    if periods[axis] is not None:
        return field
    return field[:-1] if axis == 0 else field[:, :-1]


def _following(field: NDArray[Any], axis: int, period: float | None) -> NDArray[Any]:
    """The field at the heads of the faces along an axis."""
    if period is not None:
        return np.roll(field, -1, axis)
    return field[1:] if axis == 0 else field[:, 1:]


def _gaps(nodes: Array, axis: int, period: float | None) -> Array:
    """Distances across the faces along an axis, broadcastable against them."""
    gaps = np.diff(nodes)
    if period is not None:
        gaps = np.append(gaps, nodes[0] + period - nodes[-1])
    return np.expand_dims(gaps, 1 - axis)


def _axes(
    function: str, x: ArrayLike, y: ArrayLike, periods: tuple[float | None, float | None]
) -> tuple[Array, Array]:
    """Checked node positions of both axes."""
    return (
        node_axis(function, "x", x, periods[0]),
        node_axis(function, "y", y, periods[1]),
    )


def _two_fields(function: str, name: str, value: ArrayLike, shape: tuple[int, int]) -> Array:
    """One positive field for each axis, from a number, one field or two."""
    array = np.asarray(value, np.float64)
    if array.shape not in ((), shape, (2, *shape)):
        raise ValueError(
            f"The `{name}` of `{function}` must be a number, {shape}, or {(2, *shape)} with one "
            f"field for each axis. Got shape {array.shape}."
        )
    return np.broadcast_to(array, (2, *shape))
