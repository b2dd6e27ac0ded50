r"""Landscapes in the plane, with many wells, and on a circle; conventions as in `potentials`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from foreshock.simulators.door import finite, positive
from foreshock.simulators.potentials import Points

# Müller & Brown, Theor. Chim. Acta 53 (1979) 75: amplitude, a, b, c, centre.
_MULLER_BROWN = (
    (-200.0, -1.0, 0.0, -10.0, 1.0, 0.0),
    (-100.0, -1.0, 0.0, -10.0, 0.0, 0.5),
    (-170.0, -6.5, 11.0, -6.5, -0.5, 1.5),
    (15.0, 0.7, 0.6, 0.7, -1.0, 1.0),
)

#: Mean shifts after which the wells of `KWells` are taken as found; most need ten.
_SHIFTS = 10_000


@dataclass(frozen=True)
class MullerBrown:
    r"""The surface of Müller and Brown: three wells joined by a bent path over two saddles.

    U(x, y) = s sum_k A_k exp(a_k u^2 + b_k u v + c_k v^2), u = x - x_k, v = y - y_k. At scale 1 the
    wells lie at -146.70, -108.17 and -80.77, the saddles at -40.66 and -72.25.

    Args:
        scale: s, factor on the energy.

    Raises:
        ValueError: If `scale` is not positive.

    References:
        Müller & Brown, Theor. Chim. Acta 53 (1979) 75.

    Examples:
        >>> surface = MullerBrown()
        >>> x = torch.tensor(surface.minima, dtype=torch.float64)
        >>> [round(u, 2) for u in surface.energy(x).tolist()]
        [-146.7, -108.17, -80.77]
    """

    scale: float = 1.0
    dimension: int = 2

    def __post_init__(self) -> None:
        positive("MullerBrown", scale=self.scale)
        if self.dimension != 2:
            raise ValueError(f"`MullerBrown` lives in 2 dimensions. Got {self.dimension}.")

    @property
    def minima(self) -> Points:
        """The three wells, deepest first: Newton's method in float64."""
        return (
            (-0.5582236346330243, 1.4417258418046686),
            (0.6234994049308765, 0.028037758528685664),
            (-0.050010822998206104, 0.4666941048719721),
        )

    @property
    def saddles(self) -> Points:
        """The two saddles: between the deepest and the third well, the third and the second."""
        return (
            (-0.8220015587327322, 0.6243128028148714),
            (0.21248658200066203, 0.2929883251073678),
        )

    def _terms(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """(..., 4) terms, their log-slopes in x and y, and the constants (4, 6)."""
        k = x.new_tensor(_MULLER_BROWN)
        u, v = x[..., :1] - k[:, 4], x[..., 1:] - k[:, 5]
        term = self.scale * k[:, 0] * torch.exp(k[:, 1] * u * u + k[:, 2] * u * v + k[:, 3] * v * v)
        return term, 2 * k[:, 1] * u + k[:, 2] * v, k[:, 2] * u + 2 * k[:, 3] * v, k, u

    def energy(self, x: Tensor) -> Tensor:
        """Energy of every point."""
        return self._terms(x)[0].sum(-1)

    def gradient(self, x: Tensor) -> Tensor:
        """Each term times the slope of its exponent."""
        term, along_x, along_y, _, _ = self._terms(x)
        return torch.stack([(term * along_x).sum(-1), (term * along_y).sum(-1)], -1)

    def hessian(self, x: Tensor) -> Tensor:
        """Each term times (slope slope' + the Hessian of its exponent)."""
        term, along_x, along_y, k, _ = self._terms(x)
        xx = (term * (along_x * along_x + 2 * k[:, 1])).sum(-1)
        xy = (term * (along_x * along_y + k[:, 2])).sum(-1)
        yy = (term * (along_y * along_y + 2 * k[:, 3])).sum(-1)
        return torch.stack([torch.stack([xx, xy], -1), torch.stack([xy, yy], -1)], -2)


@dataclass(frozen=True, eq=False)
class KWells:
    r"""The smooth minimum of K bowls: U(x) = -s log sum_k exp(-(|x - c_k|^2 / (2 w^2) - e_k) / s).

    Its Gibbs law at the temperature T = s is exactly a mixture of Gaussians N(c_k, s w^2 I) with
    weights proportional to exp(e_k / s): a world of many wells with everything known. At other
    temperatures the law is only close to that, where the wells are far apart.

    Args:
        centres: (K, d) c_k. Arrays and lists become tensors of float64.
        depths: (K,) e_k, energy by which each well is lowered; zeros by default.
        width: w: at this distance from its centre a bowl has risen by 1/2.
        smoothing: s, energy over which neighbouring bowls merge.

    Raises:
        ValueError: If shapes disagree, a value is not finite, or a scale not positive.

    Examples:
        >>> wells = KWells(torch.tensor([[0.0, 0.0], [4.0, 0.0]]))
        >>> wells.dimension, round(wells.energy(torch.zeros(1, 2)).item(), 3)
        (2, -0.0)
    """

    centres: Tensor
    depths: Tensor | None = None
    width: float = 1.0
    smoothing: float = 1.0

    def __post_init__(self) -> None:
        positive("KWells", width=self.width, smoothing=self.smoothing)
        for name in ("centres", "depths"):
            given = getattr(self, name)
            if given is not None and not isinstance(given, Tensor):  # an array, a list
                object.__setattr__(self, name, torch.as_tensor(given, dtype=torch.float64))
        if self.centres.ndim != 2 or not torch.isfinite(self.centres).all():
            raise ValueError(
                "The `centres` of `KWells` must be a finite (K, d) tensor. "
                f"Got shape {tuple(self.centres.shape)}."
            )
        if self.depths is None:
            object.__setattr__(self, "depths", self.centres.new_zeros(len(self.centres)))
        if self._depths().shape != self.centres.shape[:1] or not self._depths().isfinite().all():
            raise ValueError(
                f"The `depths` of `KWells` must be {len(self.centres)} finite numbers, one a well. "
                f"Got shape {tuple(self._depths().shape)}."
            )

    def _depths(self) -> Tensor:
        assert self.depths is not None  # set at birth
        return self.depths

    @property
    def dimension(self) -> int:
        """Number of coordinates."""
        return self.centres.shape[1]

    @cached_property
    def minima(self) -> Points:
        """The wells, in the order of the centres; fewer than K where bowls have merged.

        A stationary point is the mean of the centres with its own shares, x = sum_k p_k(x) c_k;
        taken again and again from each centre that goes downhill until it rests, in float64.
        """
        centres = self.centres.double()
        depths = self._depths().double()
        size = float((centres - centres.mean(0)).norm(dim=1).max()) + self.width
        # Far from 0 the difference of close numbers is what rounds, so around the middle.
        middle = centres.mean(0)
        away = centres - middle
        x = away
        for _ in range(_SHIFTS):
            square = torch.cdist(x, away, compute_mode="donot_use_mm_for_euclid_dist").square()
            shares = ((depths - square / (2 * self.width**2)) / self.smoothing).softmax(-1)
            x, before = shares @ away, x
            if float((x - before).abs().max()) <= 1e-14 * size:
                break
        else:  # Bowls about to merge: shifts crawl there, and Newton's method does not.
            for _ in range(_SHIFTS // 100):
                at = x + middle
                bend, slope = self.hessian(at), self.gradient(at)
                x = x - torch.linalg.lstsq(bend, slope[..., None]).solution[..., 0]
        wells: list[Tensor] = []
        for point in x:
            if all(float((point - other).norm()) > 1e-6 * size for other in wells) and (
                self._curves_up(point, away, depths)
            ):
                wells.append(point)
        return tuple(tuple((point + middle).tolist()) for point in wells)

    def _curves_up(self, x: Tensor, away: Tensor, depths: Tensor) -> bool:
        """Whether the Hessian is positive: the wells by K numbers, not by d."""
        apart = away - x
        p = ((depths - apart.square().sum(1) / (2 * self.width**2)) / self.smoothing).softmax(0)
        spread = p.sqrt()[:, None] * (apart - p @ apart) / self.width**2
        # The covariance of the slopes has the eigenvalues of this (K, K) matrix, besides zeros.
        top = torch.linalg.eigvalsh(spread @ spread.T)[-1]
        return bool(float(top) / self.smoothing < 1 / self.width**2)

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(..., K) -bowl/s, and (..., K, d) the bowls' gradients."""
        away = x[..., None, :] - self.centres.to(x)
        bowl = (away * away).sum(-1) / (2 * self.width**2) - self._depths().to(x)
        return -bowl / self.smoothing, away / self.width**2

    def weights(self, x: Tensor) -> Tensor:
        """(..., K) Share of each well: the softmax of its bowl; the posterior of the mixture."""
        return self._parts(x)[0].softmax(-1)

    def energy(self, x: Tensor) -> Tensor:
        """Energy of every point."""
        return -self.smoothing * self._parts(x)[0].logsumexp(-1)

    def gradient(self, x: Tensor) -> Tensor:
        """Mean of the bowls' gradients with the wells' shares."""
        logits, slopes = self._parts(x)
        return (logits.softmax(-1)[..., None] * slopes).sum(-2)

    def hessian(self, x: Tensor) -> Tensor:
        """I/w^2 minus the covariance of the bowls' gradients over s."""
        logits, slopes = self._parts(x)
        p = logits.softmax(-1)[..., None]
        apart = slopes - (p * slopes).sum(-2, keepdim=True)
        covariance = (p * apart).transpose(-1, -2) @ apart
        eye = torch.eye(self.dimension, dtype=x.dtype, device=x.device)
        return eye / self.width**2 - covariance / self.smoothing


@dataclass(frozen=True)
class Ring:
    r"""A circular valley in the plane: U(x) = b (|x|^2 / r^2 - 1)^2, with a hill of height b at 0.

    Under its Gibbs law q = |x|^2 / r^2 is a Gaussian N(1, T / 2b) cut at 0, and the angle uniform.

    Args:
        barrier: b, height of the hill.
        radius: r.

    Raises:
        ValueError: If an argument is not positive.

    Examples:
        >>> Ring(radius=2.0).gradient(torch.tensor([[0.0, 2.0], [1.0, 0.0]])).tolist()
        [[0.0, 0.0], [-0.75, -0.0]]
    """

    barrier: float = 1.0
    radius: float = 1.0
    dimension: int = 2

    def __post_init__(self) -> None:
        positive("Ring", barrier=self.barrier, radius=self.radius)
        if self.dimension != 2:
            raise ValueError(f"`Ring` lives in 2 dimensions. Got {self.dimension}.")

    @property
    def minima(self) -> Points:
        """One point of the valley; all others at the distance r are minima too."""
        return ((self.radius, 0.0),)

    def energy(self, x: Tensor) -> Tensor:
        """Energy of every point."""
        return self.barrier * ((x * x).sum(-1) / self.radius**2 - 1) ** 2

    def gradient(self, x: Tensor) -> Tensor:
        """4b/r^2 (|x|^2/r^2 - 1) x."""
        q = (x * x).sum(-1, keepdim=True) / self.radius**2
        return 4 * self.barrier / self.radius**2 * (q - 1) * x

    def hessian(self, x: Tensor) -> Tensor:
        """4b/r^2 ((|x|^2/r^2 - 1) I + 2 x x' / r^2)."""
        q = (x * x).sum(-1)[..., None, None] / self.radius**2
        eye = torch.eye(2, dtype=x.dtype, device=x.device)
        outer = x[..., :, None] * x[..., None, :] / self.radius**2
        return 4 * self.barrier / self.radius**2 * ((q - 1) * eye + 2 * outer)


@dataclass(frozen=True)
class TiltedRing:
    r"""An angle driven around a circle: U(x) = a cos x - f x, drift M (f + a sin x), period 2 pi.

    The energy is not periodic, so for f != 0 no Gibbs law exists and a current flows. Without
    corrugation the stationary law is uniform, the mean angular velocity M f, and the entropy
    production M f^2 / T (f^2 / D at M = 1).

    Args:
        force: f, energy per radian.
        corrugation: a, amplitude of the periodic part.

    Raises:
        ValueError: If an argument is not finite.

    References:
        Risken, The Fokker-Planck Equation, 2nd ed. (1989), chapter 11.

    Examples:
        >>> TiltedRing(force=0.5).gradient(torch.zeros(1, 1)).item()
        -0.5
    """

    force: float
    corrugation: float = 0.0
    dimension: int = 1

    def __post_init__(self) -> None:
        finite("TiltedRing", force=self.force, corrugation=self.corrugation)
        if self.dimension != 1:
            raise ValueError(f"`TiltedRing` is one angle. Got dimension {self.dimension}.")

    @property
    def period(self) -> float:
        """2 pi."""
        return 2 * math.pi

    def energy(self, x: Tensor) -> Tensor:
        """Energy along the unrolled angle."""
        return self.corrugation * torch.cos(x[..., 0]) - self.force * x[..., 0]

    def gradient(self, x: Tensor) -> Tensor:
        """-a sin x - f."""
        return -self.corrugation * torch.sin(x) - self.force

    def hessian(self, x: Tensor) -> Tensor:
        """-a cos x."""
        return -self.corrugation * torch.cos(x)[..., None]
