"""A diffusion tensor as a value, and its noise without forming a matrix per particle."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from foreshock.simulators.decoder import DecoderPotential, Linearisation


@dataclass(frozen=True, eq=False)
class DiffusionTensor:
    r"""D at one time: scalar I + matrix + fisher J'J / sigma^2.

    Args:
        scalar: Isotropic part.
        matrix: Part shared by all particles, (d, d), or None.
        factor: A root of `matrix`, factor factor' = matrix, (d, d); given with it.
        fisher: Coefficient of every particle's own Fisher information; 0 if it has no part in D.
    """

    scalar: float
    matrix: Tensor | None = None
    factor: Tensor | None = None
    fisher: float = 0.0

    @property
    def constant(self) -> bool:
        """Whether D is the same for all z, so that div D = 0 and Itô is Fickian."""
        return self.fisher == 0

    def raised(self, amount: float) -> DiffusionTensor:
        """D + amount I."""
        if amount == 0:
            return self
        if self.matrix is None:
            return DiffusionTensor(self.scalar + amount, fisher=self.fisher)
        return DiffusionTensor(self.scalar + amount, self.matrix, self.factor, self.fisher)

    def value(self, dimension: int) -> float | Tensor:
        """A number, or a matrix (d, d): what the functions of `foreshock.density` take for D.

        Args:
            dimension: d.

        Returns:
            D.

        Raises:
            ValueError: If every particle has its own D.
        """
        if not self.constant:
            raise ValueError(
                "Every particle has its own diffusion here. Use `dense(z, potential)`, "
                "which holds n matrices, or the shape `SharedFisher`."
            )
        if self.matrix is None:
            return self.scalar
        if self.scalar == 0:
            return self.matrix
        eye = torch.eye(dimension, dtype=self.matrix.dtype, device=self.matrix.device)
        return self.matrix + self.scalar * eye

    def dense(self, z: Tensor, potential: DecoderPotential) -> Tensor:
        """D of every particle, (n, d, d); holds n Jacobians for a moment.

        Args:
            z: Latent states, (n, d).
            potential: Whose Fisher information it is.

        Returns:
            Matrices.
        """
        n, d = z.shape
        eye = torch.eye(d, dtype=z.dtype, device=z.device)
        shared = self.scalar * eye if self.matrix is None else self.matrix + self.scalar * eye
        if self.constant:
            return shared.expand(n, d, d)
        return shared + self.fisher * potential.fisher(z)

    def product(self, z: Tensor, vectors: Tensor, potential: DecoderPotential | None) -> Tensor:
        """D u of every particle, (n, d), without n matrices.

        Args:
            z: Latent states, (n, d).
            vectors: u, (n, d).
            potential: Whose Fisher information it is; None if it has no part in D.

        Returns:
            Products.
        """
        if self.matrix is None:
            out = self.scalar * vectors
        elif self.scalar == 0:
            out = vectors @ self.matrix
        else:
            out = torch.addmm(self.scalar * vectors, vectors, self.matrix)
        if self.fisher:
            assert potential is not None
            out.add_(potential.fisher_product(z, vectors), alpha=self.fisher)
        return out

    def noise(
        self,
        z: Tensor,
        variance: float,
        generator: torch.Generator,
        *,
        linear: Linearisation | None = None,
        noise_scale: float = 1.0,
    ) -> Tensor:
        r"""Normal increments of mean 0 and covariance variance * D(z), (n, d).

        With variance = 2 dt they are the increments of sqrt(2 D) dW.

        Args:
            z: Latent states, (n, d), for the shape, type and device.
            variance: Factor of the covariance.
            generator: Source of the normals.
            linear: The decoder at z, if D has a Fisher part.
            noise_scale: sigma of the decoder.

        Returns:
            Increments.
        """
        out = _normal(z.shape, z, generator)
        if self.factor is None:
            out.mul_(math.sqrt(variance * self.scalar))
        else:
            root = self.factor * math.sqrt(variance)
            if self.scalar:
                loose = _normal(z.shape, z, generator).mul_(math.sqrt(variance * self.scalar))
                out = torch.addmm(loose, out, root.T)
            else:
                out = out @ root.T
        if self.fisher:
            assert linear is not None
            loads = _normal(linear.output.shape, z, generator)
            loads.mul_(math.sqrt(variance * self.fisher) / noise_scale)
            out.add_(linear.pull(loads, last=False))
        return out


def _normal(
    shape: tuple[int, ...] | torch.Size, like: Tensor, generator: torch.Generator
) -> Tensor:
    return torch.randn(shape, dtype=like.dtype, device=like.device, generator=generator)
