r"""The cloud of a linear decoder in closed form: moments, and what follows from them.

U(y) = y' H y/2, H = A'A/sigma^2, y = z - z*. The drift -K y and a constant D keep a Gaussian
Gaussian; Euler's chain has the same with 1 - K dt for exp(-K dt), so its own error is known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import expm, solve_continuous_lyapunov

from foreshock.simulators.door import Array


@dataclass(frozen=True, eq=False)
class Cloud:
    """A Gaussian that drifts by -K y and spreads by D.

    Args:
        mean: (d,) m.
        covariance: (d, d) S.
        drift: (d, d) K.
        diffusion: (d, d) D, positive definite.
        stiffness: (d, d) H, of the energy.
    """

    mean: Array
    covariance: Array
    drift: Array
    diffusion: Array
    stiffness: Array

    def after(self, time: float) -> Cloud:
        """The diffusion after a time.

        Args:
            time: t.

        Returns:
            The cloud.
        """
        rest = solve_continuous_lyapunov(self.drift, 2 * self.diffusion)
        kept = expm(-self.drift * time)
        covariance = rest + kept @ (self.covariance - rest) @ kept.T
        return self._with(kept @ self.mean, covariance)

    def after_steps(self, steps: int, dt: float) -> Cloud:
        """Euler's chain after some steps.

        Args:
            steps: How many.
            dt: Length of one.

        Returns:
            The cloud.
        """
        kept = np.eye(len(self.mean)) - self.drift * dt
        mean, covariance = self.mean, self.covariance
        for _ in range(steps):
            mean = kept @ mean
            covariance = kept @ covariance @ kept.T + 2 * self.diffusion * dt
        return self._with(mean, covariance)

    def _with(self, mean: Array, covariance: Array) -> Cloud:
        return Cloud(mean, covariance, self.drift, self.diffusion, self.stiffness)

    def moment(self, i: int, j: int) -> float:
        """E y_i y_j."""
        return float(self.covariance[i, j] + self.mean[i] * self.mean[j])

    @property
    def energy(self) -> float:
        """E U."""
        second = self.covariance + np.outer(self.mean, self.mean)
        return float(np.trace(self.stiffness @ second)) / 2

    @property
    def consolidation(self) -> float:
        """C, C^2 = E[mu.D^-1 mu]/E[s.D s]."""
        second = self.covariance + np.outer(self.mean, self.mean)
        drive = np.trace(self.drift.T @ np.linalg.solve(self.diffusion, self.drift @ second))
        pull = np.trace(self.diffusion @ np.linalg.inv(self.covariance))
        return float(np.sqrt(drive / pull))

    @property
    def entropy_production(self) -> float:
        """E[v.D^-1 v], v = -K y + D S^-1 (y - m)."""
        push = self.drift @ self.mean
        turn = self.diffusion @ np.linalg.inv(self.covariance) - self.drift
        still = float(push @ np.linalg.solve(self.diffusion, push))
        inverse = np.linalg.solve(self.diffusion, turn @ self.covariance)
        return still + float(np.trace(turn.T @ inverse))
