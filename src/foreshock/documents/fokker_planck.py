r"""What a reader of the document "fokker_planck" looks for in section 12.1: its JAX class in torch.

The names of 5.3, 11.1 and 12.2 are in `foreshock.documents.fokker_planck_monitor`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from foreshock.probe.quiet import quiet
from foreshock.probe.view import ModelView
from foreshock.simulators.published_fokker_planck import FokkerPlanckDynamics as Published


class FPEMetrics(NamedTuple):
    """The record of one step that the document declares, and that nothing in it fills.

    **What the published form gets wrong**: see `FokkerPlanckDynamics` on C and S_dot, which carry
    no interval here. **Ours instead**: `foreshock.simulators.corrected_fokker_planck.Epoch`.

    Args:
        C: Consolidation ratio.
        S_dot: Entropy production.
        rho_mean: Mean of the density.
        step: Number of the step.
        transition: Whether a reset was made.

    References:
        The document "fokker_planck", section 12.1.

    Examples:
        >>> FPEMetrics(C=0.5, S_dot=1.0, rho_mean=0.1, step=3, transition=False)._fields
        ('C', 'S_dot', 'rho_mean', 'step', 'transition')
    """

    C: float
    S_dot: float
    rho_mean: float
    step: int
    transition: bool


class FokkerPlanckDynamics:
    r"""Latent particles under a decoder, with fixed-bandwidth kernels and resets, as published.

    A simulation: it moves its own particles. The decoder is seen through a copy of its structure in
    evaluation mode and is not trained, and random numbers are private. Set `target_x` first. In
    torch, since no current JAX can define the listing; the algorithm is that of
    `foreshock.simulators.published_fokker_planck`, whose table has every defect with its number.

    **What the published form gets wrong**, the worst of it: the density gradient shifts all
    particles at once, so it is rounding noise, and C depends on the float type; even done right C
    is a volume; S_dot is minus the rate of the entropy, with the density twice; the entropy term
    climbs or descends the density by the choice of unit; all particles share one target. The
    density is 0/0 where h^d underflows, in float32 at h = .1 from 68 dimensions on: all that
    follows is then nan, as by the formula, without an exception. Nothing is printed.

    **Ours instead**: `foreshock.simulators.corrected_engine` and `train_epoch`; on a live run the
    observable `LatentFlow`.

    Args:
        model: The decoder: a module with ``decode`` (or called itself), or a function, on rows
            (n, d) to (n, x). The listing wants a Flax module and a single row.
        eta_0: Learning rate at t = 0.
        tau_eta: Its time scale.
        lambda_reg: Weight of the entropy gradient.
        D_0: Diffusion at t = 0.
        tau_D: Its time scale.
        gamma: Fisher coupling; "must be < 1/lambda_max" is not needed.
        C_threshold: A reset at every step > 10 with C below it.
        alpha_reset: Share of the particles replaced.
        beta_reset: Without effect, as published: it is stored and never used.
        kde_bandwidth: h, in the unit of z.

    Attributes:
        target_x: (x,) or (m, x) The data; None at first, as published.

    Raises:
        ValueError: If the bandwidth is not positive, or a module has no weight that trains (pass
            its decode function).

    References:
        The document "fokker_planck", section 12.1.

    Examples:
        >>> fpe = FokkerPlanckDynamics(torch.nn.Linear(2, 3))
        >>> fpe.target_x = torch.zeros(3)
        >>> z, history = fpe.train_epoch(torch.eye(2).repeat(5, 1), None, n_steps=3)
        >>> tuple(z.shape), sorted(history)
        ((10, 2), ['C', 'S_dot', 'loss', 'transitions'])
    """

    def __init__(
        self,
        model: nn.Module | Callable[[Tensor], Tensor],
        eta_0: float = 0.01,
        tau_eta: float = 1000.0,
        lambda_reg: float = 0.001,
        D_0: float = 1.0,
        tau_D: float = 500.0,
        gamma: float = 0.05,
        C_threshold: float = 0.5,
        alpha_reset: float = 0.2,
        beta_reset: float = 3.0,
        kde_bandwidth: float = 0.1,
    ) -> None:
        if not kde_bandwidth > 0:
            raise ValueError(
                "The `kde_bandwidth` of `FokkerPlanckDynamics` must be positive. "
                f"Got {kde_bandwidth}."
            )
        self.model = model
        self.eta_0 = eta_0
        self.tau_eta = tau_eta
        self.lambda_reg = lambda_reg
        self.D_0 = D_0
        self.tau_D = tau_D
        self.gamma = gamma
        self.C_threshold = C_threshold
        self.alpha_reset = alpha_reset
        self.beta_reset = beta_reset
        self.kde_bandwidth = kde_bandwidth
        self.target_x: Tensor | None = None
        self._view: ModelView | None = None
        weights = list(model.parameters()) if isinstance(model, nn.Module) else []
        if isinstance(model, nn.Module) and weights:
            if not any(p.requires_grad for p in weights):
                raise ValueError(
                    "The `model` of `FokkerPlanckDynamics` has no weight that trains. Pass its "
                    "decode function instead: lambda z: model.decode(z)."
                )
            self._view = ModelView(model)
            self._view.prepare()

    def learning_rate(self, t: float) -> float:
        """eta(t) = eta_0/(1 + t/tau).

        Args:
            t: Time.

        Returns:
            eta.
        """
        return self._system(None, torch.zeros(1)).learning_rate(t)

    def consolidation_ratio(
        self, z: Tensor, params: Mapping[str, Tensor] | None, t: float
    ) -> float:
        r"""C = \|mu\|/\|D grad rho\| at particles.

        **Wrong with it**: the gradient is rounding noise, so C is some thousand times what its
        formula gives and always reads "exploitation"; see `foreshock.density.published.c_fp`. Use
        `foreshock.density.flow`.

        Args:
            z: (n, d) Particles.
            params: Weights of the decoder by name; None for those it has. A function has none, and
                they are ignored.
            t: Time.

        Returns:
            C.
        """
        with quiet(0):
            return self._system(params).consolidation_ratio(self._rows(z), t)

    def _compute_flux(self, z: Tensor, params: Mapping[str, Tensor] | None, t: float) -> Tensor:
        r"""J = mu rho - D grad rho, (n, d): what `entropy_production` asks for, as published.

        **Wrong with it**: with that gradient it is mu rho, whatever D.

        Args:
            z: (n, d) Particles.
            params: As in `consolidation_ratio`.
            t: Time.

        Returns:
            (n, d) J.
        """
        with quiet(0):
            return self._system(params).flux(self._rows(z), t)

    def entropy_production(self, z: Tensor, J: Tensor) -> float:
        r"""S_dot, the mean over particles of J . grad log rho.

        **Wrong with it**: it is minus the rate of the entropy, with the density twice and a pole at
        rho = 1/e; see `foreshock.density.published.s_dot_fp`. Use `foreshock.density.flow`.

        Args:
            z: (n, d) Particles.
            J: (n, d) Flux.

        Returns:
            S_dot.
        """
        rows = self._rows(z)
        return self._system(None, rows[:1]).entropy_production(rows, J.to(rows))

    def apply_reset(self, z: Tensor, t: float, key: int | torch.Generator) -> Tensor:
        r"""Replace a share alpha_reset of the rows by draws from N(mean, 1.5 Cov).

        **Wrong with it**: rows change places, so none is the same particle afterwards; the
        covariance grows by 1 + alpha/2. Use `foreshock.simulators.CloudReset`.

        Args:
            z: (n, d) Particles, n >= 2.
            t: Without effect, as published.
            key: A generator, or the seed of one.

        Returns:
            (n, d) New particles.

        Raises:
            ValueError: If there are fewer than 2 particles.
        """
        rows = self._rows(z)
        if len(rows) < 2:
            raise ValueError("`apply_reset` needs at least 2 particles for a covariance. Got 1.")
        generator = key if isinstance(key, torch.Generator) else _seeded(key, rows)
        return self._system(None, rows[:1]).apply_reset(rows, generator)

    def train_epoch(
        self,
        z_init: Tensor,
        params: Mapping[str, Tensor] | None,
        n_steps: int = 100,
        dt: float = 0.01,
        seed: int = 0,
    ) -> tuple[Tensor, dict[str, list[float]]]:
        r"""Steps of the particles, with observables after each and a reset where C is low.

        **Wrong with it**: the published history has no ``loss``, which the published
        `detect_phase_transition` reads; here it has, the one key more. Resets have no pause between
        them. The name promises training, and no weight is trained.

        Args:
            z_init: (n, d) Particles, left as they are.
            params: As in `consolidation_ratio`.
            n_steps: How many steps.
            dt: Time step.
            seed: Of all randomness.

        Returns:
            Particles, and ``C``, ``S_dot``, ``loss`` a step and ``transitions`` (steps of resets).
        """
        rows = self._rows(z_init)
        with quiet(0):
            return self._system(params).train_epoch(
                rows, n_steps, dt, generator=_seeded(seed, rows)
            )

    def _rows(self, z: Any) -> Tensor:
        """The particles as a matrix, in the type of the target."""
        rows = torch.as_tensor(z).detach()
        if rows.ndim != 2:
            raise ValueError(
                "The particles of `FokkerPlanckDynamics` must have the shape (n, d). "
                f"Got {tuple(rows.shape)}."
            )
        if self.target_x is not None:
            return rows.to(self.target_x)
        return rows if rows.is_floating_point() else rows.to(torch.get_default_dtype())

    def _system(
        self, params: Mapping[str, Tensor] | None, target: Tensor | None = None
    ) -> Published:
        """The published system as it stands; `target` where no decoder is asked."""
        target = self.target_x if target is None else target
        if target is None:
            raise ValueError(
                "Set `target_x` of `FokkerPlanckDynamics` first: the data that decoded particles "
                "are compared with, of shape (x,) or (m, x)."
            )
        return Published(
            self._decode(params),
            target,
            self.eta_0,
            self.tau_eta,
            self.lambda_reg,
            self.D_0,
            self.tau_D,
            self.gamma,
            self.C_threshold,
            self.alpha_reset,
            self.beta_reset,
            self.kde_bandwidth,
        )

    def _decode(self, params: Mapping[str, Tensor] | None) -> Callable[[Tensor], Tensor]:
        view = self._view
        if view is None:
            return lambda z: _call(self.model, z)
        weights = dict(zip(view.names, view.parameters, strict=True))
        if params is not None:
            lacking = set(view.names) - set(params)
            if lacking:
                raise ValueError(
                    "The `params` must hold every weight of the decoder that trains, as "
                    f"`dict(model.named_parameters())` does. There is no {sorted(lacking)}."
                )
            weights = {name: params[name].detach() for name in view.names}
        return lambda z: view.call(list(weights.values()), _call, z)


def _call(model: Any, z: Tensor) -> Tensor:
    return model.decode(z) if hasattr(model, "decode") else model(z)


def _seeded(seed: int, like: Tensor) -> torch.Generator:
    return torch.Generator(like.device).manual_seed(seed)
