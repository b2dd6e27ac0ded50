r"""Stochastic resets of particles in place: every row of the cloud stays the same particle.

Two kinds:

- `PointReset`: each particle on its own clock jumps to a point (Evans and Majumdar). With diffusion
  D and rate r the stationary law around the point is Laplace, (a/2) exp(-a \|x\|) with
  a = sqrt(r/D), of variance 2D/r and kurtosis 6; the mean first passage to a target at distance L
  is (e^{aL} - 1)/r, least at aL = 1.5936. Resets help a search only if the standard deviation of
  its passage time exceeds the mean (Pal and Reuveni).
- `CloudReset`: one clock for the cloud; a fraction alpha of the particles is redrawn from
  N(mean, stretch Cov). The covariance grows by the factor 1 + (stretch - 1) alpha: 1.1 at
  alpha = .2 and stretch 1.5, so the radius grows by 1.05 and not by 1.5.

References:
    Evans, Majumdar, PRL 106, 160601 (2011); Pal, Reuveni, PRL 118, 030603 (2017); the document
    "fokker_planck" (cloud resets).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

#: Cells of the grid of uniform draws from which on a probability needs no fraction of one.
_ENOUGH = 2.0**14


@dataclass(frozen=True, eq=False)
class PointReset:
    """Every particle jumps to a point at the events of its own Poisson process.

    A particle jumps at the end of a step of length dt with probability 1 - exp(-rate dt), which
    leaves an error of first order in rate dt: the stationary variance of free diffusion reads
    (2D/rate)(1 - rate dt/2 + ...).

    Args:
        point: Where to, (d,).
        rate: Events per unit time, at least 0.
        times: Planned events besides, at which all particles jump, rising. An event takes place at
            the end of the step nearest to it; one at 0 at the end of the first.

    Raises:
        ValueError: If rate, point or times are unfit.
    """

    point: Tensor
    rate: float
    times: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.point.ndim != 1 or not torch.isfinite(self.point).all():
            raise ValueError(
                "The `point` of `PointReset` must be finite, of shape (d,). "
                f"Got shape {tuple(self.point.shape)}."
            )
        _clock("PointReset", self.rate, self.times)
        if not self.rate and not self.times:
            raise ValueError(
                "`PointReset` never fires: give it a `rate`, planned `times`, or leave resets out."
            )

    def check(self, dimension: int) -> None:
        """Refuse particles that the point does not fit.

        Args:
            dimension: d of the particles.

        Raises:
            ValueError: If the point has another dimension.
        """
        if len(self.point) != dimension:
            raise ValueError(
                f"The `point` of `PointReset` has {len(self.point)} coordinates and the particles "
                f"have {dimension}."
            )


@dataclass(frozen=True)
class CloudReset:
    """At an event, a fraction of the particles is redrawn from the stretched Gaussian of the cloud.

    Without rate and times it waits for `reset_now`, on the word of a detector.

    Args:
        fraction: alpha in (0, 1]: share of the particles, at least one of them.
        stretch: Factor on the covariance of the cloud, positive.
        rate: Events of the whole cloud per unit time (Poisson).
        times: Planned events, rising.
        boost: Added to the diffusion, times I, after an event.
        boost_time: How long the boost lasts.
        refractory: Time after an event in which no other takes place.

    Raises:
        ValueError: If one of them is out of range.

    Examples:
        >>> CloudReset(fraction=0.2, times=(1.0,)).covariance_factor
        1.1
    """

    fraction: float = 0.2
    stretch: float = 1.5
    rate: float = 0.0
    times: tuple[float, ...] = ()
    boost: float = 0.0
    boost_time: float = 0.0
    refractory: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError(
                f"The `fraction` of `CloudReset` must be in (0, 1]. Got {self.fraction}."
            )
        if not (math.isfinite(self.stretch) and self.stretch > 0):
            raise ValueError(f"The `stretch` of `CloudReset` must be positive. Got {self.stretch}.")
        for name in ("boost", "boost_time", "refractory"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(
                    f"The `{name}` of `CloudReset` must be finite and at least 0. Got {value}."
                )
        if self.boost and not self.boost_time:
            raise ValueError(
                f"The `boost` of `CloudReset` is {self.boost} but lasts 0. Set `boost_time`."
            )
        _clock("CloudReset", self.rate, self.times)

    @property
    def covariance_factor(self) -> float:
        """Expected covariance after an event over that before, 1 + (stretch - 1) fraction."""
        return 1 + (self.stretch - 1) * self.fraction


Resets = PointReset | CloudReset


def redraw(reset: CloudReset, z: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The cloud after one event, and which rows were redrawn.

    Rows that are kept are bitwise as before, in their places. A row is drawn as
    mean + sqrt(stretch / (n - 1)) * X' normal(n) with the centred cloud X, whose covariance is the
    stretched sample covariance; for n > 2d through the factor R of X = QR, the same law for d
    normals a row. No covariance is formed, so any n will do and a cloud in a subspace stays there
    up to the rounding of its coordinates.

    Args:
        reset: What to do.
        z: Particles, (n, d), n >= 2.
        generator: Source of the choice and of the draws.

    Returns:
        New particles (n, d) and a mask (n,).

    Raises:
        ValueError: If there are fewer than two particles.

    Examples:
        >>> generator = torch.Generator().manual_seed(0)
        >>> z = torch.randn(100, 2, generator=generator)
        >>> after, redrawn = redraw(CloudReset(0.2), z, generator)
        >>> int(redrawn.sum()), bool((after[~redrawn] == z[~redrawn]).all())
        (20, True)
    """
    n, d = z.shape
    if n < 2:
        raise ValueError(f"A cloud reset needs at least two particles. Got {n}.")
    count = max(1, round(reset.fraction * n))
    rows = torch.randperm(n, generator=generator, device=z.device)[:count]
    mean = z.mean(0)
    centred = z - mean
    if n <= 2 * d:
        loads = torch.randn(count, n, dtype=z.dtype, device=z.device, generator=generator)
        spread = (loads @ centred).div_(math.sqrt(n - 1))
    else:
        # R'R = X'X without squaring X: the root of a covariance would lift zeros to sqrt(eps).
        factor = torch.linalg.qr(centred, mode="r").R / math.sqrt(n - 1)
        loads = torch.randn(count, d, dtype=z.dtype, device=z.device, generator=generator)
        spread = loads @ factor
    out = z.clone()
    out[rows] = mean + math.sqrt(reset.stretch) * spread
    mask = torch.zeros(n, dtype=torch.bool, device=z.device)
    mask[rows] = True
    return out, mask


def jumped(
    reset: PointReset, z: Tensor, elapsed: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The particles after their clocks ran for `elapsed`, and which of them jumped.

    Args:
        reset: What to do.
        z: Particles, (n, d).
        elapsed: Length of the step.
        generator: Source of the clocks.

    Returns:
        New particles (n, d) and a mask (n,).

    Examples:
        >>> reset = PointReset(torch.zeros(1), rate=1.0)
        >>> z = torch.ones(1000, 1)
        >>> after, mask = jumped(reset, z, 0.1, torch.Generator().manual_seed(0))
        >>> bool((after[mask] == 0).all()), 60 < int(mask.sum()) < 130
        (True, True)
    """
    reset.check(z.shape[1])
    draws = torch.rand(len(z), dtype=z.dtype, device=z.device, generator=generator)
    mask = below(draws, -math.expm1(-reset.rate * elapsed), generator)
    point = reset.point.to(z)
    return torch.where(mask[:, None], point, z), mask


def below(draws: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Which uniform draws lie below a probability, however small that is.

    Draws of float32 are multiples of 2^-24, so that none lies between 0 and 6e-8: for a probability
    of 1e-8 the comparison alone comes true six times too often. A draw in the cell of the grid that
    holds the probability is therefore decided by a second one, which leaves an error of 2^-48. That
    happens to a share of 6e-8 of them (1e-16 in float64); all others are decided, and drawn, as by
    the comparison. From a probability of 1e-3 on the comparison is enough: it is 6e-5 of itself too
    large at most, a tenth of what a step of that length leaves out.

    Args:
        draws: Uniform on [0, 1), of any shape.
        probability: In [0, 1].
        generator: That of the draws, used for those in the cell only.

    Returns:
        A mask in the shape of the draws.

    Examples:
        >>> generator = torch.Generator().manual_seed(0)
        >>> zeros = torch.zeros(10_000)  # the cell that holds 2^-26, a quarter of the way up
        >>> 0.23 < below(zeros, 2.0**-26, generator).double().mean().item() < 0.27
        True
    """
    cells = 2.0 ** (53 if draws.dtype == torch.float64 else 24)
    if probability * cells >= _ENOUGH:
        return draws < probability
    cell = math.floor(probability * cells)
    mask = draws < (cell + 1) / cells
    if not bool(mask.any()):  # mostly: two operations a step
        return mask
    edge = mask & (draws >= cell / cells)
    if bool(edge.any()):
        like = {"dtype": draws.dtype, "device": draws.device, "generator": generator}
        mask[edge] = torch.rand(int(edge.sum()), **like) < probability * cells - cell
    return mask


def planned(times: tuple[float, ...], start: float, end: float) -> bool:
    """Whether one of the planned times lies in [start, end)."""
    return any(start <= time < end for time in times)


def _clock(owner: str, rate: float, times: tuple[float, ...]) -> None:
    """Refuse a rate or a plan that no clock can follow."""
    if not (math.isfinite(rate) and rate >= 0):
        raise ValueError(f"The `rate` of `{owner}` must be finite and at least 0. Got {rate}.")
    if list(times) != sorted(times) or not all(math.isfinite(t) and t >= 0 for t in times):
        raise ValueError(f"The `times` of `{owner}` must rise and be at least 0. Got {times}.")
