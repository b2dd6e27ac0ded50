"""Nodes along one dimension of a grid, checked, and the widths of their faces and cells."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from foreshock.simulators.door import Array, finite


def node_axis(function: str, name: str, nodes: ArrayLike, period: float | None) -> Array:
    """Node positions, checked.

    Args:
        function: Who asks.
        name: Name of the argument.
        nodes: The positions.
        period: Circumference, or ``None``.

    Returns:
        (n,) The positions.

    Raises:
        ValueError: If they are not increasing, or do not fit into the period.

    Examples:
        >>> node_axis("drift_grid", "nodes", [0, 1, 2], None)
        array([0., 1., 2.])
    """
    finite(function, **{name: nodes})
    x = np.asarray(nodes, np.float64)
    if x.ndim != 1 or x.size < 3 or not np.all(np.diff(x) > 0):
        raise ValueError(
            f"The `{name}` of `{function}` must be at least 3 increasing numbers. "
            f"Got shape {x.shape}. Use np.linspace."
        )
    if period is not None and not period > x[-1] - x[0]:
        raise ValueError(
            f"The period of `{name}` in `{function}` must exceed the span {x[-1] - x[0]:.6g} of "
            f"the nodes: the first node is not repeated at the end. Got {period}."
        )
    return x


def at_nodes(function: str, name: str, value: ArrayLike, shape: tuple[int, ...]) -> Array:
    """A number or one value for each node, as the latter.

    Args:
        function: Who asks.
        name: Name of the argument.
        value: The number or the values.
        shape: Shape of the nodes.

    Returns:
        The values at the nodes.

    Raises:
        ValueError: If the shape is another.

    Examples:
        >>> at_nodes("drift_grid", "drift", 2.0, (3,))
        array([2., 2., 2.])
    """
    finite(function, **{name: value})
    array = np.asarray(value, np.float64)
    if array.ndim and array.shape != shape:
        raise ValueError(
            f"The `{name}` of `{function}` must be a number or one value for each node, shape "
            f"{shape}. Got {array.shape}."
        )
    return np.broadcast_to(array, shape)


def face_widths(x: Array, period: float | None) -> Array:
    """Distances between neighbours, the closing one included on a ring.

    Args:
        x: (n,) Node positions.
        period: Circumference of a ring, or ``None``.

    Returns:
        (n - 1,) The distances; (n,) on a ring.

    Examples:
        >>> face_widths(np.array([0.0, 1.0, 3.0]), 4.0)
        array([1., 2., 1.])
    """
    inside = np.diff(x)
    return inside if period is None else np.append(inside, x[0] + period - x[-1])


def cell_widths(x: Array, period: float | None) -> Array:
    """Widths of the cells around nodes: half of the distance to each neighbour.

    Args:
        x: (n,) Node positions.
        period: Circumference of a ring.

    Returns:
        (n,) The widths.

    Examples:
        >>> cell_widths(np.array([0.0, 1.0, 3.0]), None)
        array([0.5, 1.5, 1. ])
    """
    widths = face_widths(x, period)
    if period is not None:
        return (widths + np.roll(widths, 1)) / 2
    return (np.append(widths, 0.0) + np.append(0.0, widths)) / 2
