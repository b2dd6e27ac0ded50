r"""Diffusion tensors of the particle engine, and their noise without forming matrices.

Convention, here and everywhere: dz = mu dt + sqrt(2 D(z, t)) dW in the sense of Itô, so the density
obeys d_t rho = -div(mu rho) + sum_ij d_i d_j (D_ij rho). The Fickian form div(D grad rho) needs the
drift mu + div D; the two agree only where D does not depend on z.

| shape M, D = D_0 M | noise | cost per step |
|---|---|---|
| `Isotropic`: I | xi | n d normals |
| `SharedMatrix`: one given matrix | xi times its root, made once | + 2 n d^2 |
| `SharedFisher`: I + gamma mean F(z_i) | xi times one Cholesky factor | + one backward, 4 n d^2 |
| `ParticleFisher`: I + gamma F(z_i) | xi + sqrt(gamma)/sigma J'e | + n x normals, one backward |

with F = J'J / sigma^2, the Fisher information of a Gaussian decoder. The last line is exact:
Cov(xi + sqrt(gamma)/sigma J'e) = I + gamma J'J/sigma^2 for independent standard normal xi (n, d)
and e (n, x). No matrix is formed and nothing is factored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from foreshock.simulators.decoder import DecoderPotential, Linearisation
from foreshock.simulators.diffusion_tensor import DiffusionTensor

#: The signs that the bits of a byte stand for: eight draws for the price of one.
SIGNS = (torch.arange(256)[:, None] >> torch.arange(8) & 1).float().mul_(2).sub_(1)


@dataclass(frozen=True)
class Isotropic:
    """M = I: the same noise in every direction.

    Examples:
        >>> Isotropic().tensor(torch.zeros(4, 2), None, 0.5).scalar
        0.5
    """

    def tensor(
        self,
        z: Tensor,
        linear: Linearisation | None,
        base: float,
        extra: float = 0.0,
        *,
        generator: torch.Generator | None = None,
        noise_scale: float = 1.0,
    ) -> DiffusionTensor:
        """D = base I + extra I."""
        return DiffusionTensor(base + extra)


@dataclass(frozen=True, eq=False)
class SharedMatrix:
    """M = one given symmetric matrix, the same for all particles and times.

    Args:
        matrix: (d, d), positive semi-definite: no eigenvalue below -1e-6 times the largest.

    Raises:
        ValueError: If it is not square, symmetric, finite and positive semi-definite.

    Examples:
        >>> shape = SharedMatrix(torch.tensor([[2.0, 0.0], [0.0, 0.5]]))
        >>> shape.tensor(torch.zeros(4, 2), None, 0.5).matrix.diagonal().tolist()
        [1.0, 0.25]
    """

    matrix: Tensor

    def __post_init__(self) -> None:
        shape = tuple(self.matrix.shape)
        if self.matrix.ndim != 2 or shape[0] != shape[1]:
            raise ValueError(f"The `matrix` of `SharedMatrix` must be (d, d). Got {shape}.")
        if not torch.isfinite(self.matrix).all():
            raise ValueError("The `matrix` of `SharedMatrix` contains nan or inf.")
        largest = self.matrix.abs().max()
        if not torch.allclose(self.matrix, self.matrix.T, rtol=0, atol=float(1e-5 * largest)):
            raise ValueError(
                "The `matrix` of `SharedMatrix` must be symmetric. Pass (A + A') / 2 if only "
                "rounding makes it differ from its transpose."
            )
        spectrum = self._eigen[0]
        if spectrum[0] < -1e-6 * spectrum[-1].abs() or spectrum[-1] < 0:
            raise ValueError(
                "The `matrix` of `SharedMatrix` must be positive semi-definite: noise has no "
                f"negative variance. Its smallest eigenvalue is {float(spectrum[0]):.3g}. Add a "
                "multiple of the identity, or use `Isotropic()`."
            )

    @cached_property
    def _eigen(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues, rising, and eigenvectors, in double precision."""
        return torch.linalg.eigh(self.matrix.double())

    @classmethod
    def of(cls, particles: Tensor) -> SharedMatrix:
        """The covariance of particles, scaled to mean eigenvalue 1.

        Args:
            particles: (n, d) with n > d: with fewer, the estimate has directions without noise.

        Returns:
            The shape; too few particles are refused.
        """
        n, d = particles.shape
        _enough("SharedMatrix.of", n, d)
        covariance = torch.atleast_2d(torch.cov(particles.T))
        return cls(covariance * (d / covariance.trace()))

    def tensor(
        self,
        z: Tensor,
        linear: Linearisation | None,
        base: float,
        extra: float = 0.0,
        *,
        generator: torch.Generator | None = None,
        noise_scale: float = 1.0,
    ) -> DiffusionTensor:
        """D = base M + extra I, from one eigendecomposition for the life of the value.

        Args:
            z: Particles, (n, d).
            linear: Unused.
            base: Factor of M.
            extra: Factor of I.
            generator: Unused.
            noise_scale: Unused.

        Returns:
            D.

        Raises:
            ValueError: If M has another dimension than the particles.
        """
        d = z.shape[1]
        if self.matrix.shape[0] != d:
            raise ValueError(
                f"The particles have {d} dimensions and the `matrix` of `SharedMatrix` has shape "
                f"{tuple(self.matrix.shape)}. It must be ({d}, {d})."
            )
        values, vectors = self._eigen
        total = (base * values.clamp(min=0) + extra).to(device=z.device)
        vectors = vectors.to(z.device)
        root = (vectors * total.sqrt()).to(z.dtype)
        matrix = ((vectors * total) @ vectors.T).to(z.dtype)
        return DiffusionTensor(0.0, matrix, root)


@dataclass(frozen=True)
class SharedFisher:
    """M = I + gamma F, F the mean Fisher information of the particles, estimated at each step.

    One score per particle and step, s_i = J'e_i/sigma with random signs e_i, has E[s s'] = F(z_i)
    exactly: it needs E[e e'] = I and no more. F is the mean of s_i s_i' over the particles:
    unbiased for their mean, relative error in a direction at most about sqrt(2/n). Normal e_i,
    the scores of targets drawn from the decoder itself, have that error in full and take four to
    five times as long to draw.
    Scores taken at the data instead (the "empirical Fisher") vanish at a perfect fit.

    Args:
        gamma: Coupling, in units of z^2. Any gamma >= 0 keeps D positive definite; gamma < 0 needs
            gamma > -(D_0 + eta lambda) / (D_0 times the largest eigenvalue of F), which is checked
            at every step.

    Raises:
        ValueError: If gamma is not finite.

    References:
        Kunstner, Hennig, Balles, NeurIPS 2019 (what the empirical Fisher is not).
    """

    gamma: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.gamma):
            raise ValueError(f"The `gamma` of `SharedFisher` must be finite. Got {self.gamma}.")

    def tensor(
        self,
        z: Tensor,
        linear: Linearisation | None,
        base: float,
        extra: float = 0.0,
        *,
        generator: torch.Generator | None = None,
        noise_scale: float = 1.0,
    ) -> DiffusionTensor:
        """D = base (I + gamma F) + extra I, with its Cholesky factor.

        Args:
            z: Particles, (n, d), n > d.
            linear: The decoder at z.
            base: Factor of M.
            extra: Factor of I.
            generator: Source of the signs.
            noise_scale: sigma of the decoder.

        Returns:
            D.

        Raises:
            ValueError: If there are too few particles, or D is not positive definite.
        """
        n, d = z.shape
        _enough("SharedFisher", n, d)
        if base == 0:
            return DiffusionTensor(extra)
        assert linear is not None and generator is not None
        scores = linear.pull(_signs(linear.output.shape, z, generator), last=False)
        matrix = scores.T @ scores
        matrix.mul_(base * self.gamma / (n * noise_scale**2))
        matrix.diagonal().add_(base + extra)
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if failed:
            lowest = float(torch.linalg.eigvalsh(matrix.double())[0])
            top = (lowest - base - extra) / (base * self.gamma) if self.gamma else math.nan
            raise ValueError(
                "The diffusion D_0 (I + gamma F) + eta lambda I is not positive definite: its "
                f"smallest eigenvalue is {lowest:.3g}. With gamma < 0 it needs "
                "gamma > -(D_0 + eta lambda) / (D_0 lambda_max(F)), here "
                f"{-(base + extra) / (base * top):.3g}; gamma >= 0 never fails. "
                f"Got gamma = {self.gamma}."
            )
        return DiffusionTensor(0.0, matrix, factor)


@dataclass(frozen=True)
class ParticleFisher:
    """M(z) = I + gamma F(z): every particle has its own Fisher information.

    Mode `gibbs` adds div D to the drift, so the decoder must have a continuous derivative there:
    for ReLUs div F lies on the kinks, and `run_engine` refuses. Mode `published` takes any decoder.

    Args:
        gamma: Coupling, in units of z^2, at least 0: then M is positive definite for any F.

    Raises:
        ValueError: If gamma is negative or not finite.
    """

    gamma: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.gamma) and self.gamma >= 0):
            raise ValueError(
                "The `gamma` of `ParticleFisher` must be at least 0; then I + gamma F is positive "
                "definite for every F. A negative one needs gamma > -1 / lambda_max(F) and a "
                f"factored matrix: use `SharedFisher`. Got {self.gamma}."
            )

    def tensor(
        self,
        z: Tensor,
        linear: Linearisation | None,
        base: float,
        extra: float = 0.0,
        *,
        generator: torch.Generator | None = None,
        noise_scale: float = 1.0,
    ) -> DiffusionTensor:
        """D = (base + extra) I + base gamma F(z)."""
        return DiffusionTensor(base + extra, fisher=base * self.gamma)


Shape = Isotropic | SharedMatrix | SharedFisher | ParticleFisher


def fisher_divergence(potential: DecoderPotential, z: Tensor, generator: torch.Generator) -> Tensor:
    """(div F)_i = sum_j d_j F_ij of every particle with random signs, (n, d); unbiased.

    As part of a step the variance of the estimate enters the particles at order dt^2 only, so the
    scheme keeps its weak order 1.

    Args:
        potential: Whose Fisher information it is.
        z: Latent states, (n, d).
        generator: Source of the signs.

    Returns:
        Estimates.
    """
    signs = torch.randint(0, 2, z.shape, generator=generator, device=z.device)
    return potential.fisher_divergence(z, signs.to(z.dtype).mul_(2).sub_(1))


def _signs(shape: torch.Size, like: Tensor, generator: torch.Generator) -> Tensor:
    """Independent entries 1 or -1, each with probability 1/2."""
    n = shape.numel()
    bytes_ = torch.randint(0, 256, (-(-n // 8),), device=like.device, generator=generator)
    table = SIGNS.to(like)
    return table.index_select(0, bytes_).view(-1)[:n].view(shape)


def _enough(owner: str, n: int, d: int) -> None:
    """Refuse a full covariance from too few particles."""
    if n <= d:
        raise ValueError(
            f"`{owner}` estimates a {d} x {d} matrix and needs more than {d} particles; there are "
            f"{n}, so some directions would get no noise. Add particles, or use `Isotropic()` or "
            "`ParticleFisher(gamma)`."
        )
