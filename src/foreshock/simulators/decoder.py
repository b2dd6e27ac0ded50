r"""The loss of a decoder as a potential on its latent space, for any callable torch can follow.

The energy of a latent state z with target x is the negative log-likelihood of a Gaussian decoder,
U(z) = \|x - dec(z)\|^2 / (2 sigma^2), and its Fisher information is F(z) = J'J / sigma^2 with
J = d dec/dz. Everything goes through vector-Jacobian products; J itself is only formed on request.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from foreshock.simulators.decoder_checks import refuse_coupled, refused, suspects
from foreshock.simulators.linearisation import Linearisation, tanh_stack

Decode = Callable[[Tensor], Tensor]
#: Particles whose Jacobians are held at once.
BLOCK = 256


@dataclass(frozen=True, eq=False)
class DecoderPotential:
    r"""Energy of latent particles under a decoder, each with its own target.

    | `loss` | energy of a particle | |
    |---|---|---|
    | `gaussian` | \|x - dec(z)\|^2 / (2 sigma^2) | negative log-likelihood, up to a constant |
    | `mean-square` | mean over the outputs of (x - dec(z))^2 | as "fokker_planck" writes it |

    The decoder must be a function of one particle's z, so dropout and batch normalisation in train
    mode are refused: the first draws from torch's own generator, which nothing here may move, the
    second makes the particles one another's environment. Looked for among the modules of a
    `torch.nn.Module` or of a bound method of one; into a plain function nobody looks.

    **Cost.** Energy: one forward pass. Gradient: one forward and one backward pass. Hessian: d more
    backward passes.

    Args:
        decode: Maps (n, d) to (n, x); a `torch.nn.Module` or any function torch differentiates.
        targets: One row per particle, (n, x); or (x,) together with `single_target`.
        dimension: d.
        noise_scale: sigma, the standard deviation of the decoder's noise, positive.
        loss: Which energy.
        single_target: Whether all particles are meant to share one target. Then every particle is
            pulled to the same states, and the particles are no picture of the data.

    Raises:
        ValueError: If targets, scale or dimension are unfit, or the decoder is random or couples
            the particles.

    Examples:
        >>> decode = torch.nn.Linear(2, 3, bias=False)
        >>> _ = torch.nn.init.ones_(decode.weight)
        >>> potential = DecoderPotential(decode, torch.zeros(1, 3), dimension=2)
        >>> z = torch.tensor([[1.0, 1.0]])
        >>> potential.energy(z).item(), potential.gradient(z).tolist()
        (6.0, [[6.0, 6.0]])
    """

    decode: Decode
    targets: Tensor
    dimension: int
    noise_scale: float = 1.0
    loss: Literal["gaussian", "mean-square"] = "gaussian"
    single_target: bool = False
    # What may be random or couple particles; its mode may change after this is made.
    _suspects: tuple[nn.Module, ...] = field(init=False, repr=False, default=())

    def __post_init__(self) -> None:
        object.__setattr__(self, "_suspects", suspects(self.decode, self.dimension))
        refuse_coupled(self._suspects)
        wanted = 1 if self.single_target else 2
        if self.targets.ndim != wanted:
            remedy = (
                "Pass one row, or drop `single_target=True`."
                if self.single_target
                else "Pass one row per particle, or `single_target=True` if all particles are "
                "meant to be pulled to the same output."
            )
            raise ValueError(
                f"The `targets` of `DecoderPotential` have shape {tuple(self.targets.shape)}, "
                f"which does not fit single_target={self.single_target}. {remedy}"
            )
        if not torch.isfinite(self.targets).all():
            raise ValueError("The `targets` of `DecoderPotential` contain nan or inf.")
        if not (math.isfinite(self.noise_scale) and self.noise_scale > 0):
            raise ValueError(
                "The `noise_scale` of `DecoderPotential` must be positive and finite. "
                f"Got {self.noise_scale}."
            )
        if self.dimension < 1:
            raise ValueError(
                f"The `dimension` of `DecoderPotential` must be at least 1. Got {self.dimension}."
            )
        if self.loss not in ("gaussian", "mean-square"):
            raise ValueError(
                "The `loss` of `DecoderPotential` must be 'gaussian' or 'mean-square'. "
                f"Got {self.loss!r}."
            )

    def rows(self, index: slice) -> DecoderPotential:
        """The same potential for some of the particles."""
        if self.single_target:
            return self
        return replace(self, targets=self.targets[index])

    def linearise(self, z: Tensor, *, graph: bool = True) -> Linearisation:
        """The decoder at z; without `graph` only its output.

        Args:
            z: Latent states, (n, d).
            graph: Whether cotangents will be pulled back.

        Returns:
            Points and output.

        Raises:
            ValueError: If z or the output has the wrong shape, or the decoder does not take z.
            RuntimeError: If the decoder fails for another reason.
        """
        self._check_points(z)
        with torch.set_grad_enabled(graph):
            points = z.detach().requires_grad_(graph)
            try:
                output = self.decode(points)
            except RuntimeError as error:
                if why := refused(self.decode, points, error):
                    raise ValueError(why) from error
                raise
        self._check_output(z, output)
        return Linearisation(points, output)

    def pullback(self, z: Tensor) -> Linearisation:
        """The decoder at z, for cotangents alone: plain stacks of tanh layers need no graph.

        Args:
            z: Latent states, (n, d).

        Returns:
            Points and output, which may be detached.
        """
        self._check_points(z)
        try:
            stack = tanh_stack(self.decode, z)
        except RuntimeError:
            stack = None  # the modules themselves say what is wrong
        if stack is None:
            return self.linearise(z)
        self._check_output(z, stack.output)
        return stack

    def _check_points(self, z: Tensor) -> None:
        if self._suspects:
            refuse_coupled(self._suspects)
        if z.ndim != 2 or z.shape[1] != self.dimension:
            raise ValueError(
                f"Latent states must have shape (n, {self.dimension}). Got {tuple(z.shape)}."
            )
        n = z.shape[0]
        if not self.single_target and len(self.targets) != n:
            raise ValueError(
                f"There are {n} particles and {len(self.targets)} targets. Give every particle its "
                "own row of `targets`, or use `potential.rows(slice)` for some of the particles."
            )

    def _check_output(self, z: Tensor, output: Tensor) -> None:
        wanted = (len(z), self.targets.shape[-1])
        if output.shape != wanted:
            raise ValueError(
                f"The decoder maps {tuple(z.shape)} to {tuple(output.shape)}, but the targets need "
                f"{wanted}. It must map (n, d) to (n, x), one row per particle."
            )

    def cotangent(self, output: Tensor) -> Tensor:
        """dU/d output, (n, x): pulled back it is the gradient."""
        residual = output.detach() - self.targets
        if self.loss == "gaussian":
            return residual.mul_(1 / self.noise_scale**2)
        return residual.mul_(2 / output.shape[1])

    def energy(self, x: Tensor) -> Tensor:
        """U of every particle, (n,).

        Args:
            x: Latent states, (n, d).

        Returns:
            Energies.
        """
        square = (self.linearise(x, graph=False).output - self.targets).square_()
        if self.loss == "gaussian":
            return square.sum(1) / (2 * self.noise_scale**2)
        return square.mean(1)

    def gradient(self, x: Tensor) -> Tensor:
        """dU/dz of every particle, (n, d).

        Args:
            x: Latent states, (n, d).

        Returns:
            Gradients.
        """
        linear = self.pullback(x)
        return linear.pull(self.cotangent(linear.output))

    def hessian(self, x: Tensor) -> Tensor:
        """Second derivatives of U, (n, d, d), by d backward passes.

        Args:
            x: Latent states, (n, d).

        Returns:
            Hessians.
        """
        gradient, points = self._tied_gradient(x)
        return _rows_of_jacobian(gradient, points)

    def _tied_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient that still hangs on its points, and these."""
        linear = self.linearise(x)
        # Curvature is what a step is judged by before a run: there nan still has a name.
        if not torch.isfinite(linear.output.detach()).all() and torch.isfinite(x).all():
            raise ValueError(_not_finite(linear.output))
        with torch.enable_grad():
            square = (linear.output - self.targets).square()
            if self.loss == "gaussian":
                energy = square.sum() / (2 * self.noise_scale**2)
            else:
                energy = square.mean(1).sum()
            gradient = torch.autograd.grad(energy, linear.points, create_graph=True)[0]
        return gradient, linear.points

    def hessian_product(self, x: Tensor, vectors: Tensor) -> Tensor:
        """Hessian times u of every particle, (n, d), by one more backward pass.

        Args:
            x: Latent states, (n, d).
            vectors: u, (n, d).

        Returns:
            Products.
        """
        gradient, points = self._tied_gradient(x)
        return torch.autograd.grad(gradient, points, vectors)[0]

    def jacobian(self, z: Tensor) -> Tensor:
        """J = d dec/dz, (n, x, d), by x backward passes. For references and small problems.

        Args:
            z: Latent states, (n, d).

        Returns:
            Jacobians.
        """
        linear = self.linearise(z)
        return _rows_of_jacobian(linear.output, linear.points)

    def fisher(self, z: Tensor) -> Tensor:
        """F = J'J / sigma^2 of every particle, (n, d, d), in blocks of particles.

        Args:
            z: Latent states, (n, d).

        Returns:
            Fisher information matrices.
        """
        parts = []
        for start in range(0, len(z), BLOCK):
            index = slice(start, start + BLOCK)
            jacobian = self.rows(index).jacobian(z[index]) / self.noise_scale
            parts.append(jacobian.mT @ jacobian)
        return torch.cat(parts)

    def push(self, z: Tensor, tangents: Tensor) -> Tensor:
        """J u of every particle, (n, x), as the transpose of the backward pass.

        Args:
            z: Latent states, (n, d).
            tangents: u, (n, d).

        Returns:
            Directional derivatives of the output.
        """
        linear = self.linearise(z)
        dummy = torch.zeros_like(linear.output, requires_grad=True)
        with torch.enable_grad():
            pulled = torch.autograd.grad(linear.output, linear.points, dummy, create_graph=True)[0]
        return torch.autograd.grad(pulled, dummy, tangents)[0]

    def fisher_product(self, z: Tensor, vectors: Tensor) -> Tensor:
        """F u = J'(J u) / sigma^2 of every particle, (n, d), without a matrix.

        Args:
            z: Latent states, (n, d).
            vectors: u, (n, d).

        Returns:
            Products.
        """
        pushed = self.push(z, vectors) / self.noise_scale**2
        return self.pullback(z).pull(pushed)

    def fisher_divergence(self, z: Tensor, probes: Tensor) -> Tensor:
        r"""(div F)_i = sum_j d F_ij / d z_j of every particle, estimated with one probe each.

        Hutchinson: E[d/dh F(z + h e) e] at h = 0 over random signs e. With J_e = J e the derivative
        is (grad of \|J_e\|^2/2 + J' d_e J_e) / sigma^2, exact by automatic differentiation. The
        decoder must have a continuous derivative: where F jumps, as at the kinks of a ReLU, div F
        lies on the jumps, no derivative sees it, and what is returned is the rest (0 for a decoder
        that is linear in pieces).

        Args:
            z: Latent states, (n, d).
            probes: e, (n, d): independent entries of mean 0 and variance 1.

        Returns:
            Unbiased estimates, (n, d).
        """
        linear = self.linearise(z)
        first = torch.zeros_like(linear.output, requires_grad=True)
        with torch.enable_grad():
            pulled = torch.autograd.grad(linear.output, linear.points, first, create_graph=True)[0]
            pushed = torch.autograd.grad(pulled, first, probes, create_graph=True)[0]
            if not pushed.requires_grad:  # A linear decoder: J does not depend on z.
                return torch.zeros_like(z)
            second = pushed.detach().clone().requires_grad_()
            one = torch.autograd.grad(
                pushed, linear.points, second, create_graph=True, allow_unused=True
            )[0]
        if one is None or not one.requires_grad:
            return torch.zeros_like(z)
        # Unused where the decoder is linear in pieces: then it is 0.
        (twice,) = torch.autograd.grad(
            one, second, probes, retain_graph=True, materialize_grads=True
        )
        other = torch.autograd.grad(linear.output, linear.points, twice)[0]
        return (one.detach() + other) / self.noise_scale**2


def _not_finite(output: Tensor) -> str:
    broken = int((~torch.isfinite(output.detach())).any(1).sum())
    return (
        f"The decoder returns nan or inf for {broken} of {len(output)} particles whose latent "
        "states are finite. Check its weights, or start where it is defined."
    )


def _rows_of_jacobian(values: Tensor, points: Tensor) -> Tensor:
    """Derivatives of values by points per particle, (n, k, d), a backward pass per column."""
    columns = values.shape[1]
    rows = []
    for k in range(columns):
        row = torch.autograd.grad(
            values[:, k].sum(), points, retain_graph=k + 1 < columns, allow_unused=True
        )[0]
        rows.append(torch.zeros_like(points) if row is None else row)
    return torch.stack(rows, dim=1)
