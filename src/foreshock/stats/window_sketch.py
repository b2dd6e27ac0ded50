"""What a sketch adds to the error of a window of updates: in words, and as tables that it could be.

Products of CountSketches of m dimensions err like a Wishart matrix of m degrees of freedom: that of
x and y with variance (|x|²|y|² + ⟨x, y⟩²)/m. A sketch is linear, so that it acts on the span of the
window alone: the table of products becomes R (I + E) R' with R R' the exact one and E the same
whatever R is. Singular values err by a share of themselves, the smallest like the largest.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from foreshock.stats.intervals import Z95

Array = NDArray[np.float64]

#: Tables that an error is measured from: its standard deviation is good to 10 %.
ERRORS = 49


def sketch_sentence(sketch: int | None) -> str:
    """That a window was sketched, and how well; empty if it was not.

    Args:
        sketch: Dimensions of the sketch.

    Returns:
        A sentence, or nothing.

    Examples:
        >>> sketch_sentence(65_536)
        'Updates were sketched to 65,536 dimensions: each σ errs by up to 0.54 % of itself (95 %).'
    """
    if sketch is None:
        return ""
    share = 100 * Z95 / math.sqrt(2 * sketch)
    return (
        f"Updates were sketched to {sketch:,} dimensions: each σ errs by up to {share:.2g} % of "
        "itself (95 %)."
    )


def sketch_errors(table: Array, sketch: int | None, seed: int, draws: int = ERRORS) -> Array:
    """Tables that another sketch could have given: R (I + E) R', E to first order in 1/sqrt(m).

    Args:
        table: (n, n) Products of updates.
        sketch: Dimensions m of the sketch.
        seed: Seed of the private generator.
        draws: How many.

    Returns:
        (draws, n, n) The tables; none at all where there is no sketch.

    Examples:
        >>> len(sketch_errors(np.eye(3), 4096, 0)), len(sketch_errors(np.eye(3), None, 0))
        (49, 0)
    """
    if sketch is None:
        return np.empty((0, *table.shape))
    values, vectors = np.linalg.eigh(table)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    drawn = np.random.default_rng([seed, sketch]).standard_normal((draws, *table.shape))
    # Off the diagonal of variance 1/m, on it 2/m.
    error = (drawn + drawn.swapaxes(1, 2)) / math.sqrt(2 * sketch)
    return root @ (np.eye(len(table)) + error) @ root.T
