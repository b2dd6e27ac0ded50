r"""What the document "spectral_edge" defines: it names symbols, no functions.

So the two names are ours, and the forms its own. Both take numbers.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from foreshock.stats import published as pub


def k_star(singular_values: ArrayLike) -> int:
    r"""Position of the largest ratio sigma_j/sigma_(j+1), counted from 1.

    The singular values are those of the matrix whose W rows are consecutive updates of all
    parameters, in descending order. A ratio to 0 is infinite and wins.

    **What the published form gets wrong**: it exists for noise too, where it is 1 or W - 1 in over
    40 % of windows of 10; see `foreshock.stats.published.k_star_raw`. Nothing shows that its
    collapse comes before a jump: with weight decay the updates of a control shrink as well.

    **Ours instead**: the observable `UpdateWindow`, whose gap is tested against the noise of the
    same window, and which says so when there is none.

    Args:
        singular_values: (W,) W of at least 2.

    Returns:
        k*.

    Raises:
        ValueError: If there are fewer than 2, or they do not descend.

    References:
        The document "spectral_edge".

    Examples:
        >>> k_star([4.0, 3.0, 1.0])
        2
    """
    sigma = np.asarray(singular_values, dtype=np.float64)
    if sigma.ndim != 1 or sigma.size < 2:
        raise ValueError(
            "The `singular_values` of `k_star` must be a list of at least 2. "
            f"Got shape {sigma.shape}."
        )
    if (np.diff(sigma) > 0).any():
        raise ValueError("The `singular_values` of `k_star` must descend. Sort them first.")
    with np.errstate(divide="ignore", invalid="ignore"):
        return pub.k_star_raw(sigma)


def adiabatic_parameter(gram_change: float, eta: float, gap: float) -> float:
    r"""The adiabatic parameter \|Delta G\|_F/(eta g^2).

    **What the published form gets wrong**: it has units, and g has three meanings in its sources;
    see `foreshock.stats.published.a_adiabatic`. Under half the learning rate it doubles or grows
    eightfold, so "about 1" means nothing across runs. Infinite where the gap closes, nan where
    nothing changes either.

    **Ours instead**: `UpdateWindow` gives the overlap of the leading subspaces of two windows,
    which has no unit, with its null.

    Args:
        gram_change: Frobenius norm of the change of the Gram matrix.
        eta: Learning rate.
        gap: g, in one of its meanings (`g_singular`, `g_eigenvalue` and `g_23` of
            `foreshock.stats.published`).

    Returns:
        The parameter.

    References:
        The document "spectral_edge".

    Examples:
        >>> adiabatic_parameter(1.0, 0.25, 2.0), adiabatic_parameter(1.0, 0.25, 0.0)
        (1.0, inf)
    """
    try:
        return pub.a_adiabatic(float(gram_change), float(eta), float(gap))
    except ZeroDivisionError:
        return math.nan if gram_change == 0 else math.inf
