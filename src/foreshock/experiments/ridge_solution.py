"""Least squares with and without a ridge by one decomposition, and the risk that has a closed form.

Hastie, Montanari, Rosset and Tibshirani, Ann. Stat. 50 (2022) 949.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Fit(NamedTuple):
    """Singular value decomposition of a design and the labels in its basis."""

    values: Array
    right: Array
    labels: Array

    def coefficients(self, ridge: float) -> Array:
        """Ridge solution, ``(N,)``; that of least norm for a ridge of 0."""
        # Singular values at rounding level span no direction (the rule of `numpy.linalg.lstsq`).
        least = self.values[0] * np.finfo(float).eps * max(self.right.shape)
        kept = self.values > least
        shrunk = np.where(kept, self.values, 1.0) / (np.where(kept, self.values**2, 1.0) + ridge)
        return self.right.T @ (np.where(kept, shrunk, 0.0) * self.labels)


def fit(design: Array, labels: Array) -> Fit:
    """Decompose a design ``(n, N)`` once, for every ridge.

    Args:
        design: Features of the training examples.
        labels: Their labels.

    Returns:
        The decomposition.

    Examples:
        >>> design = np.array([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
        >>> fit(design, np.array([3.0, 4.0])).coefficients(0.0)
        array([3., 2., 0.])
    """
    left, values, right = np.linalg.svd(design, full_matrices=False)
    return Fit(values, right, left.T @ labels)


def isotropic_risk(n: int, features: int, noise: float) -> float:
    r"""Expected excess risk of least squares without a ridge on N isotropic Gaussian features.

    With a target of norm 1 and noise s, exactly, by the mean of an inverse Wishart matrix:
    ``s^2 N/(n - N - 1)`` for N < n - 1 and ``(1 - n/N) + s^2 n/(N - n - 1)`` for N > n + 1; without
    bound between. As n grows with g = N/n these are the textbook's s^2 g/(1 - g) and
    (1 - 1/g) + s^2/(g - 1).

    Args:
        n: Examples.
        features: N.
        noise: s.

    Returns:
        The risk, infinite for N within 1 of n.

    Examples:
        >>> round(isotropic_risk(200, 180, 0.5), 3), round(isotropic_risk(200, 400, 0.5), 3)
        (2.368, 0.751)
    """
    if abs(features - n) <= 1:
        return float("inf")
    if features < n:
        return noise**2 * features / (n - features - 1)
    return 1 - n / features + noise**2 * n / (features - n - 1)
