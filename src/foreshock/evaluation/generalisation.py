"""Does a measure order generalisation? Granulated Kendall tau and sign errors over a grid.

A pooled correlation mixes what the hyper-parameters do to both; here only configurations that
differ in a single hyper-parameter are compared (Jiang et al. 2020, arXiv 1912.02178; Dziugaite et
al. 2020, arXiv 2010.11924).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Ordering:
    """How well a measure orders the gap along each hyper-parameter.

    Args:
        psi: Name of the hyper-parameter to psi, the mean over all pairs of configurations that
            differ in it alone of sign(difference of the measure) times sign(difference of the
            gap), in [-1, 1].
        overall: Mean of psi over hyper-parameters.
        sign_error: Largest share of pairs that a hyper-parameter's pair of values orders wrongly,
            ties of the measure or of the gap counting half; .5 is guessing, 1 is always wrong.
        worst: That hyper-parameter and its two values.
        pairs: How many pairs were compared.
    """

    psi: Mapping[str, float]
    overall: float
    sign_error: float
    worst: str
    pairs: int


def ordering(
    configurations: Sequence[Mapping[str, Any]], measure: ArrayLike, gap: ArrayLike
) -> Ordering:
    """Compare a measure with the generalisation gap over a grid of configurations.

    Args:
        configurations: One mapping of hyper-parameters for each point of the grid, all with the
            same names, none twice.
        measure: ``(n,)``, larger where a larger gap is expected.
        gap: ``(n,)``.

    Returns:
        The orderings.

    Raises:
        ValueError: If lengths differ, a number is not finite, or no two configurations differ in a
            single hyper-parameter.

    Examples:
        >>> grid = [{"lr": lr, "width": w} for lr in (1, 2, 3) for w in (8, 16)]
        >>> found = ordering(grid, [1, 5, 2, 6, 3, 7], [1, 0, 2, 1, 3, 2])
        >>> found.psi, found.sign_error, found.worst
        ({'lr': 1.0, 'width': -1.0}, 1.0, 'width 8, 16')
    """
    x, y = np.asarray(measure, dtype=float), np.asarray(gap, dtype=float)
    if not len(configurations) == len(x) == len(y):
        raise ValueError(
            "`ordering` needs one measure and one gap for each configuration. Got "
            f"{len(configurations)} configurations, {len(x)} measures and {len(y)} gaps."
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("`ordering` needs finite numbers; leave out configurations without one.")
    found: dict[str, dict[str, list[float]]] = {}
    for name, values, i, j in pairs(configurations):
        product = np.sign(x[j] - x[i]) * np.sign(y[j] - y[i])
        found.setdefault(name, {}).setdefault(values, []).append(float(product))
    if not found:
        raise ValueError("No two configurations of `ordering` differ in a single hyper-parameter.")
    psi = {
        name: float(np.mean([p for products in found[name].values() for p in products]))
        for name in configurations[0]
        if name in found
    }
    errors = {
        f"{name} {values}": (1 - float(np.mean(products))) / 2
        for name, by_values in found.items()
        for values, products in by_values.items()
    }
    worst = max(errors, key=lambda key: errors[key])
    count = sum(len(p) for by_values in found.values() for p in by_values.values())
    return Ordering(psi, float(np.mean(list(psi.values()))), errors[worst], worst, count)


def pairs(configurations: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, int, int]]:
    """Pairs of configurations that differ in a single hyper-parameter.

    Args:
        configurations: The grid.

    Yields:
        The hyper-parameter, its two values in words, and the places of the two.
    """
    for i, j in itertools.combinations(range(len(configurations)), 2):
        a, b = configurations[i], configurations[j]
        differ = [name for name in a if a[name] != b[name]]
        if len(differ) == 1:
            low, high = sorted((i, j), key=lambda k: configurations[k][differ[0]])
            values = f"{configurations[low][differ[0]]:g}, {configurations[high][differ[0]]:g}"
            yield differ[0], values, low, high


def signed_orders(configurations: Sequence[Mapping[str, Any]], gap: ArrayLike) -> Array:
    """Overall psi of every measure that knows the hyper-parameters' values and nothing of the gap.

    Such a measure is a sum of s_k z_k, z_k any increasing function of hyper-parameter k alone and
    s_k a sign. Pairs differ in one hyper-parameter, so only the signs matter, and all 2^K are
    gone through. This is the null to read `Ordering.overall` against. Shuffling the configurations
    is none: points of a grid are not exchangeable, and a measure that merely follows the
    hyper-parameters, blind to the gap, lies far out of what shuffles give.

    Args:
        configurations: The grid.
        gap: ``(n,)``.

    Returns:
        ``(2^K,)`` in increasing order, K the hyper-parameters that any pair differs in.

    Raises:
        ValueError: If no two configurations differ in a single hyper-parameter.

    Examples:
        >>> grid = [{"a": a, "b": b} for a in range(2) for b in range(2)]
        >>> signed_orders(grid, [0, 1, 2, 3]).tolist()  # both raise the gap
        [-1.0, 0.0, 0.0, 1.0]
    """
    names = sorted({name for name, *_ in pairs(configurations)})
    if not names:
        raise ValueError(
            "No two configurations of `signed_orders` differ in a single hyper-parameter."
        )
    own = [
        ordering(configurations, [c[name] for c in configurations], gap).psi[name] for name in names
    ]
    signs = itertools.product((-1, 1), repeat=len(names))
    return np.sort([np.dot(one, own) / len(names) for one in signs])
