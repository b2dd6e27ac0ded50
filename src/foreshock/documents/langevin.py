r"""What a reader of the document "langevin" looks for: `StochasticHarmonicLearning`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreshock.simulators.harmonic import StochasticHarmonic
from foreshock.stats import published as pub

Vector = NDArray[np.float64]


class StochasticHarmonicLearning:
    r"""Gradient descent with Gaussian noise on a landscape of numpy functions, and its ratio C.

    A simulation: it trains its own theta and knows no network. Random numbers are those of a
    generator of its own, where the listing draws from numpy's global one.

    **What the published form gets wrong.** The temperature is D dt/lr and not D, since the drift
    has no dt: with lr = .01 and D = .001 a unit bowl has the variance .1005, not .001. The
    adaptive noise compares a step with the intervention it has just written down, so D is
    multiplied by 5 again and again and never restored; and C falls by each boost itself, so one
    leads to the next, up to nan. C rests at tr(H)/d, so its thresholds depend on the unit of theta;
    the barrier is a difference of two losses, 0 between equal wells; the escape time has no unit.

    **Ours instead**: `foreshock.simulators.StochasticHarmonic` and `train`, with `AdaptiveNoise`,
    for any number of replicas; the ratio E\|grad L\|^2/(T E[lap L]), 1 at rest in any landscape;
    `string_method` and `mean_first_passage_time` for barriers and times.

    Args:
        loss_fn: theta (dim,) to a number.
        grad_fn: theta (dim,) to (dim,).
        dim: d.
        lr: Learning rate, positive.
        noise_scale: D, not negative.
        seed: Of the noise.

    Attributes:
        loss_fn: As given.
        grad_fn: As given.
        dim: As given.
        lr: As given.
        D: The diffusion coefficient as it stands: `train` changes it for good, as published.

    Raises:
        ValueError: If a number is out of range.

    References:
        The document "langevin", Implementation.

    Examples:
        >>> bowl = StochasticHarmonicLearning(
        ...     lambda x: 0.5 * float(x @ x), lambda x: x, dim=3, lr=0.1, noise_scale=0.01
        ... )
        >>> results = bowl.train(np.ones(3), n_steps=40)
        >>> results["trajectory"].shape, len(results["losses"]), results["interventions"]
        ((41, 3), 40, [])
    """

    def __init__(
        self,
        loss_fn: Callable[[Vector], Any],
        grad_fn: Callable[[Vector], Any],
        dim: int,
        lr: float = 0.01,
        noise_scale: float = 0.01,
        *,
        seed: int = 0,
    ) -> None:
        if dim < 1 or not (math.isfinite(lr) and lr > 0) or not 0 <= noise_scale < math.inf:
            raise ValueError(
                "`StochasticHarmonicLearning` needs dim >= 1, a positive lr and a finite "
                f"noise_scale >= 0. Got {dim}, {lr} and {noise_scale}."
            )
        self.loss_fn = loss_fn
        self.grad_fn = grad_fn
        self.dim = dim
        self.lr = lr
        self.D = noise_scale
        self._generator = torch.Generator().manual_seed(seed)

    def step(self, theta: Vector, dt: float = 1.0) -> Vector:
        r"""One step: theta - lr grad L + sqrt(2 D dt) xi.

        **Wrong with it**: dt scales the noise and not the drift; see the class.

        Args:
            theta: (dim,) Parameters, left as they are.
            dt: Time of one step, not negative.

        Returns:
            (dim,) New parameters; nan where D has become infinite.

        Raises:
            ValueError: If theta has another shape, dt is negative, or `lr` was set to 0 or below.
        """
        if not self.lr > 0:
            raise ValueError(
                "The `lr` of `StochasticHarmonicLearning` must be positive: the temperature is "
                f"D dt/lr. Got {self.lr}."
            )
        if not 0 <= dt < math.inf:
            raise ValueError(f"The `dt` of `step` must be finite and not negative. Got {dt}.")
        point = self._point(theta)
        if not math.isfinite(self.D * dt / self.lr):
            return np.full(self.dim, math.nan)
        landscape = _Landscape(self.dim, self._loss, self._gradient)
        chain = StochasticHarmonic.published(landscape, lr=self.lr, noise_scale=self.D, dt=dt)
        start = torch.from_numpy(point)[None]
        return chain.step(start, 0, generator=self._generator)[0].numpy()

    def consolidation_ratio(self, theta: Vector) -> float:
        r"""C = \|grad L\|^2/(D d).

        **Wrong with it**: it has a unit and rests at tr(H)/d, not 1; see
        `foreshock.stats.published.c_langevin`. Infinite without noise, nan without a gradient
        either.

        Args:
            theta: (dim,) Parameters.

        Returns:
            C.
        """
        with np.errstate(all="ignore"):
            squared = float(np.sum(self._gradient(self._point(theta)) ** 2))
        if self.D == 0:
            return math.inf if squared > 0 else math.nan
        return pub.c_langevin(squared, self.D, self.dim)

    def estimate_barrier_height(self, theta_current: Vector, theta_target: Vector) -> float:
        r"""The larger of L(target) - L(current) and 0.

        **Wrong with it**: a barrier is the highest point of the lowest path, which is not looked
        at: equal wells read 0. Use `foreshock.simulators.string_method`.

        Args:
            theta_current: (dim,) Where it is.
            theta_target: (dim,) Where it would go.

        Returns:
            The difference.
        """
        rise = self._loss(self._point(theta_target)) - self._loss(self._point(theta_current))
        return max(rise, 0.0)

    def escape_time(self, barrier_height: float) -> float:
        r"""exp(dE/D), and 0 below dE = 1e-10.

        **Wrong with it**: without a prefactor it has no unit of time; see
        `foreshock.stats.published.escape_time_langevin`. Infinite where it overflows and at D = 0.
        Use `foreshock.simulators.mean_first_passage_time`.

        Args:
            barrier_height: dE.

        Returns:
            The time.
        """
        try:
            return pub.escape_time_langevin(barrier_height, self.D)
        except (OverflowError, ZeroDivisionError):
            return math.inf

    def train(
        self,
        theta_init: Vector,
        n_steps: int = 1000,
        dt: float = 1.0,
        adaptive_noise: bool = True,
        C_threshold: float = 0.5,
    ) -> dict[str, Any]:
        r"""Steps, with D multiplied by 5 at every step > 50 at which C < C_threshold.

        **Wrong with it**: D is never restored (called a brief boost), here or after the call; see
        the class. Where that makes theta infinite or nan it is returned so, with a warning.

        Args:
            theta_init: (dim,) Start, left as it is.
            n_steps: How many, at least 1.
            dt: As in `step`.
            adaptive_noise: Whether D is changed.
            C_threshold: The threshold.

        Returns:
            ``trajectory`` (n_steps + 1, dim), ``losses`` and ``consolidations`` (after each step),
            ``interventions`` (steps), ``final_theta`` and ``final_loss``.

        Raises:
            ValueError: If there is no step, or theta has another shape.
        """
        if n_steps < 1:
            raise ValueError(f"The `n_steps` of `train` must be at least 1. Got {n_steps}.")
        theta = self._point(theta_init)
        trajectory, interventions = [theta], []
        losses: list[float] = []
        consolidations: list[float] = []
        with np.errstate(all="ignore"):
            for step in range(n_steps):
                theta = self.step(theta, dt)
                losses.append(self._loss(theta))
                consolidations.append(self.consolidation_ratio(theta))
                trajectory.append(theta)
                if adaptive_noise and consolidations[-1] < C_threshold and step > 50:
                    self.D *= 5.0
                    interventions.append(step)
        if not np.isfinite(theta).all():
            warnings.warn(
                f"`train` of `StochasticHarmonicLearning` ended at a theta that is not finite, "
                f"with D = {self.D:.3g} after {len(interventions)} interventions, none taken back.",
                stacklevel=2,
            )
        return {
            "trajectory": np.array(trajectory),
            "losses": losses,
            "consolidations": consolidations,
            "interventions": interventions,
            "final_theta": theta.copy(),
            "final_loss": losses[-1],
        }

    def _point(self, theta: Any) -> Vector:
        """A copy, so that a function that writes into its argument does not write into theta."""
        point = np.array(theta, dtype=np.float64)
        if point.shape != (self.dim,):
            raise ValueError(
                "A theta of `StochasticHarmonicLearning` must have the shape of its `dim`, "
                f"({self.dim},). Got {point.shape}."
            )
        return point

    def _loss(self, theta: Vector) -> float:
        return float(self.loss_fn(theta.copy()))

    def _gradient(self, theta: Vector) -> Vector:
        return np.array(self.grad_fn(theta.copy()), dtype=np.float64)


@dataclass(frozen=True)
class _Landscape:
    """Two numpy functions as the `Potential` that the chain steps on."""

    dimension: int
    loss: Callable[[Vector], float]
    slope: Callable[[Vector], Vector]

    def energy(self, x: Tensor) -> Tensor:
        """(n, d) to (n,)."""
        return torch.tensor([self.loss(row.numpy()) for row in x], dtype=x.dtype)

    def gradient(self, x: Tensor) -> Tensor:
        """(n, d) to (n, d)."""
        return torch.stack([torch.from_numpy(self.slope(row.numpy())) for row in x])

    def hessian(self, x: Tensor) -> Tensor:
        """The document passes none, and its chain does not ask for one."""
        raise NotImplementedError
