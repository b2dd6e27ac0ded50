r"""The system of the document "fokker_planck" as written.

The listing (12.1) is JAX that no current JAX can define; this is the same algorithm in torch, on
`foreshock.density.published`. It is here to be compared with, not to be used: `corrected_engine`
of `foreshock.simulators.corrected_fokker_planck` takes the same system and gives the engine of
`foreshock.simulators.particles`, and `train_epoch` runs that as the method of the same name runs
the published one.

What is wrong, with its number in the table of tests `tests/published/audit.py`:

| part | published | number | corrected |
|---|---|---|---|
| target | one for all particles | A4 | each particle its own |
| entropy in the drift | climbs the density, unit dependent | A5 | + eta lambda in D, no density |
| Fisher | empirical, mean over the cloud, scale n_x | A3 | J'J/sigma^2 of every particle |
| drift for this D | -eta grad L: a current for ever | A10 | -(D/T) grad L + div D |
| D(t) | freezes at a finite time integral | A11 | T = c/log(e + int eta) |
| grad rho | all particles shifted: rounding noise | B1 | a fitted score, with validity record |
| C | a volume; depends on the float type | A13 | dimensionless, frame invariant |
| S_dot | -dH/dt with rho twice | A14 | E[v.D^-1 v] |
| reset | every step below theta, rows permuted | A19 | rows kept, refractory time |
| beta_reset | stored and never used | A19 | added to D for a while |
| noise | n equal Cholesky factors | B5 | one product, or none |
| history | no loss, so its detector fails | B4 | the loss is kept |
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from foreshock.density import published as pub
from foreshock.simulators.decoder import Decode
from foreshock.simulators.schedules import Exponential, InverseTime


@dataclass(frozen=True, eq=False)
class FokkerPlanckDynamics:
    r"""The published class: latent particles under a decoder, fixed-bandwidth kernels and resets.

    Every step holds (n, n) kernels; C and the flux hold d + 1 of them one after the other, twice.
    Itô as coded: no div D, which its D does not need, being the same at all particles.

    Args:
        decode: Maps latents (n, d) to (n, x), row by row.
        target_x: The data, (x,) or (m, x). **Wrong** (A4): every particle is compared with all of
            it, so all are pulled to the mean of the data.
        eta_0: Learning rate at t = 0.
        tau_eta: Its time scale.
        lambda_reg: Weight of the entropy gradient.
        D_0: Diffusion at t = 0. **Wrong** (A11): with these defaults T = D/eta = 100, Brownian
            motion; and int D dt = D_0 tau_D is finite.
        tau_D: Its time scale.
        gamma: Fisher coupling. **Wrong** (A8): "must be < 1/lambda_max" is not needed.
        C_threshold: A reset is made at every step with C below it.
        alpha_reset: Share of the particles replaced.
        beta_reset: Stored and never used, as published.
        kde_bandwidth: h, in the units of z. **Wrong** (B2): at .1 the self term is all of the
            density from d = 8 on.

    Raises:
        ValueError: If the target is not (x,) or (m, x), or h is not positive.

    Examples:
        >>> decode = torch.nn.Linear(2, 3, bias=False)
        >>> system = FokkerPlanckDynamics(decode, torch.zeros(3))
        >>> generator = torch.Generator().manual_seed(0)
        >>> z = torch.randn(20, 2, generator=generator)
        >>> z, history = system.train_epoch(z, n_steps=3, generator=generator)
        >>> sorted(history), len(history["C"]), tuple(z.shape)
        (['C', 'S_dot', 'loss', 'transitions'], 3, (20, 2))
    """

    decode: Decode
    target_x: Tensor
    eta_0: float = 0.01
    tau_eta: float = 1000.0
    lambda_reg: float = 0.001
    D_0: float = 1.0
    tau_D: float = 500.0
    gamma: float = 0.05
    C_threshold: float = 0.5
    alpha_reset: float = 0.2
    beta_reset: float = 3.0
    kde_bandwidth: float = 0.1

    def __post_init__(self) -> None:
        if self.target_x.ndim not in (1, 2):
            raise ValueError(
                "The `target_x` of `FokkerPlanckDynamics` must have shape (x,) or (m, x). "
                f"Got {tuple(self.target_x.shape)}."
            )
        if not self.kde_bandwidth > 0:
            raise ValueError(
                "The `kde_bandwidth` of `FokkerPlanckDynamics` must be positive. "
                f"Got {self.kde_bandwidth}."
            )

    def learning_rate(self, t: float) -> float:
        """eta(t) = eta_0/(1 + t/tau)."""
        return InverseTime(self.eta_0, self.tau_eta)(t)

    def losses(self, z: Tensor) -> Tensor:
        """(n,) Mean over all data and outputs of (decode(z) - target_x)^2, as in `_drift`."""
        return self._squares(z).mean((1, 2))

    def _squares(self, z: Tensor) -> Tensor:
        """(n, m, x) Squared differences of every particle to all of the data."""
        targets = self.target_x if self.target_x.ndim == 2 else self.target_x[None]
        return (self.decode(z)[:, None] - targets[None]).square()

    def _slope(self, z: Tensor, *, mean: bool) -> Tensor:
        """(n, d) Gradient of every particle's mean, or sum, of squares."""
        with torch.enable_grad():
            points = z.detach().requires_grad_()
            squares = self._squares(points)
            energy = squares.mean((1, 2)) if mean else squares.sum((1, 2))
            return torch.autograd.grad(energy.sum(), points)[0]

    def drift(self, z: Tensor, t: float) -> Tensor:
        r"""Drift mu = -eta (grad L + lambda g) with g = -grad rho (1 + log rho) by kernels.

        **Wrong** (A5): where rho > 1/e the second term climbs the density, where rho < 1/e it goes
        down, and which of the two depends on the unit of z.

        Args:
            z: (n, d) Particles.
            t: Time.

        Returns:
            (n, d) Drift.
        """
        entropy = pub.entropy_gradient_code_fp(z, self.kde_bandwidth)
        slope = self._slope(z, mean=True)
        return -self.learning_rate(t) * (slope + self.lambda_reg * entropy)

    def diffusion(self, z: Tensor, t: float) -> Tensor:
        r"""D = D_0 exp(-t/tau_D) (I + gamma F), F = mean s s', s = -grad of the SUM of squares.

        **Wrong** (A3): scores at the data, not at the model's own draws, so F vanishes at a perfect
        fit; a mean over the cloud, so D(z, t) does not depend on z; sigma^2 = 1/2 and a factor m
        that the drift does not have.

        Args:
            z: (n, d) Particles.
            t: Time.

        Returns:
            (n, d, d) The same matrix n times, as a view; published it is tiled.
        """
        n, d = z.shape
        scores = -self._slope(z, mean=False)
        fisher = scores.T @ scores / n
        eye = torch.eye(d, dtype=z.dtype, device=z.device)
        matrix = Exponential(self.D_0, self.tau_D)(t) * (eye + self.gamma * fisher)
        return matrix.expand(n, d, d)

    def step(self, z: Tensor, t: float, dt: float, generator: torch.Generator) -> Tensor:
        r"""To z + mu dt + sqrt(2 dt) L xi with L L' = D + 1e-6 I (Euler-Maruyama, Itô).

        **Wrong** (B5): published with n Cholesky factors of n equal matrices; here one, which has
        the same law. (A10): the drift is not multiplied by I + gamma F, so a current flows.

        Args:
            z: (n, d) Particles.
            t: Time.
            dt: Time step.
            generator: Source of the noise.

        Returns:
            (n, d) New particles.
        """
        d = z.shape[1]
        like = {"dtype": z.dtype, "device": z.device}
        tensor = self.diffusion(z, t)[0] + 1e-6 * torch.eye(d, **like)
        noise = torch.randn(z.shape, generator=generator, **like)
        root = _root(tensor)
        return z + self.drift(z, t) * dt + math.sqrt(2 * dt) * noise @ root.T

    def consolidation_ratio(self, z: Tensor, t: float) -> float:
        r"""C = \|mu\|/\|D grad rho\| with grad rho by shifting all particles.

        **Wrong** (B1, A13): the denominator is rounding noise, so C depends on the float type; with
        the true gradient it would be a volume.

        Args:
            z: (n, d) Particles.
            t: Time.

        Returns:
            C.
        """
        slope = pub.grad_rho_code_fp(z, self.kde_bandwidth)
        return pub.c_fp(self.drift(z, t), self.diffusion(z, t), slope)

    def flux(self, z: Tensor, t: float) -> Tensor:
        r"""J = mu rho - D grad rho at the particles, with the same grad rho.

        **Wrong** (B1): it is mu rho, whatever D.

        Args:
            z: (n, d) Particles.
            t: Time.

        Returns:
            (n, d) J.
        """
        h = self.kde_bandwidth
        slope = pub.grad_rho_code_fp(z, h)
        return pub.j_fp(self.drift(z, t), self.diffusion(z, t), pub.rho_fp(z, h), slope)

    def entropy_production(self, z: Tensor, flux: Tensor) -> float:
        r"""S_dot = mean J . (-g/(1 + log rho)).

        **Wrong** (A14): the integral it stands for is -dH/dt and not entropy production; as coded
        it has rho twice and a pole at rho = 1/e.

        Args:
            z: (n, d) Particles.
            flux: (n, d) J.

        Returns:
            S_dot.
        """
        h = self.kde_bandwidth
        return pub.s_dot_fp(pub.rho_fp(z, h), pub.entropy_gradient_code_fp(z, h), flux)

    def apply_reset(self, z: Tensor, generator: torch.Generator) -> Tensor:
        r"""Keep a random 1 - alpha of the rows, put draws from N(mean, 1.5 Cov + 1e-6 I) behind.

        **Wrong** (A19): row i is another particle afterwards; the covariance grows by 1 + alpha/2
        and not by 1.5; beta_reset is not used.

        Args:
            z: (n, d) Particles.
            generator: Source of the choice and of the draws.

        Returns:
            (n, d) New particles.
        """
        n, d = z.shape
        redrawn = max(1, int(self.alpha_reset * n))
        like = {"dtype": z.dtype, "device": z.device}
        covariance = torch.cov(z.T).reshape(d, d) if d > 1 else z.var(correction=0).reshape(1, 1)
        root = _root(1.5 * covariance + 1e-6 * torch.eye(d, **like))
        fresh = z.mean(0) + torch.randn(redrawn, d, generator=generator, **like) @ root.T
        kept = torch.randperm(n, generator=generator, device=z.device)[: n - redrawn]
        return torch.cat([z[kept], fresh])

    def train_epoch(
        self,
        z_init: Tensor,
        n_steps: int = 100,
        dt: float = 0.01,
        *,
        generator: torch.Generator,
    ) -> tuple[Tensor, dict[str, list[float]]]:
        r"""Steps, observables after each, and a reset at every step > 10 with C < C_threshold.

        **Wrong** (B4): the published dictionary has no 'loss', so the published detector raises
        KeyError on it. Here it is kept (mean of `losses`), the one addition. Nothing is printed.
        As published, the observables of step k are taken at the particles after it and the time
        before it.

        Args:
            z_init: (n, d) Particles.
            n_steps: How many steps.
            dt: Time step.
            generator: Source of all randomness.

        Returns:
            Particles, and 'C', 'S_dot', 'loss' per step, 'transitions' (steps with a reset).
        """
        z = z_init
        history: dict[str, list[float]] = {"C": [], "S_dot": [], "loss": [], "transitions": []}
        for k in range(n_steps):
            t = k * dt
            z = self.step(z, t, dt, generator)
            c = self.consolidation_ratio(z, t)
            history["C"].append(c)
            history["S_dot"].append(self.entropy_production(z, self.flux(z, t)))
            with torch.no_grad():
                history["loss"].append(float(self.losses(z).mean()))
            if c < self.C_threshold and k > 10:
                z = self.apply_reset(z, generator)
                history["transitions"].append(k)
        return z, history


def _root(matrix: Tensor) -> Tensor:
    """Cholesky factor; nan where there is none, as the published JAX has it, and no exception."""
    root, failed = torch.linalg.cholesky_ex(matrix)
    return root if not int(failed) else torch.full_like(root, math.nan)
