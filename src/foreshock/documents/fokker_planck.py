r"""What a reader of the document "fokker_planck" looks for in section 12.1: its JAX class in torch.

The names of 5.3, 11.1 and 12.2 are in `foreshock.documents.fokker_planck_monitor`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from foreshock.documents.live import recordable
from foreshock.probe.quiet import quiet
from foreshock.probe.view import ModelView, unwrap
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
    density is infinite where n (2 pi h^2)^(d/2) is below 3e-39 in float32, at h = .1 from d = 66
    (n = 8) or 70 (n = 2048) on: all that follows is then nan, without an exception. Nothing is
    printed.

    **Ours instead**: `foreshock.simulators.corrected_engine` and `train_epoch`; on a live run the
    observable `LatentFlow`.

    Args:
        model: The decoder: a module with ``decode`` (or called itself), or a function, on rows
            (n, d) to (n, x). The listing wants a Flax module and a single row. Pass the module and
            no function that calls it, which would run the live one, in training mode.
        eta_0: Learning rate at t = 0.
        tau_eta: Its time scale.
        lambda_reg: Weight of the entropy gradient.
        D_0: Diffusion at t = 0.
        tau_D: Its time scale.
        gamma: Fisher coupling; "must be < 1/lambda_max" is not needed.
        C_threshold: A reset at every step > 10 with C below it.
        alpha_reset: Share of the particles replaced, in [0, 1].
        beta_reset: Without effect, as published: it is stored and never used.
        kde_bandwidth: h, in the unit of z.

    Attributes:
        target_x: (x,) or (m, x) The data, a tensor or an array; None at first, as published. All
            is computed in the float type of the decoder, or of the data where it is a function.

    Raises:
        ValueError: If the bandwidth is not positive, or `alpha_reset` is no share.

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
        if not 0 <= alpha_reset <= 1:
            raise ValueError(
                f"The `alpha_reset` of `FokkerPlanckDynamics` must be in [0, 1]. Got {alpha_reset}."
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
        self.target_x: Any = None
        self._view: ModelView | None = None
        if isinstance(model, nn.Module):
            self._view = ModelView(_Decoder(unwrap(model)))
            self._view.prepare()

    def learning_rate(self, t: float) -> float:
        """eta(t) = eta_0/(1 + t/tau).

        Args:
            t: Time.

        Returns:
            eta.
        """
        return self._published(_undecoded, torch.zeros(1)).learning_rate(t)

    def consolidation_ratio(
        self, z: Tensor, params: Mapping[str, Tensor] | None, t: float
    ) -> float:
        r"""C = \|mu\|/\|D grad rho\| at particles.

        **Wrong with it**: the gradient is rounding noise, or so small that the 1e-8 of the quotient
        decides: from some 5,000 (d = 1) to 1e15 times (d = 16) what its formula gives in float32,
        and any regime by chance; see `foreshock.density.published.c_fp`. Use
        `foreshock.density.flow`.

        Args:
            z: (n, d) Particles.
            params: Weights of the decoder by name, as of ``named_parameters()``; None for those it
                has. A function has none, and they are ignored.
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
        flux = recordable(J).to(rows)
        return self._published(_undecoded, rows[:1]).entropy_production(rows, flux)

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
        return self._published(_undecoded, rows[:1]).apply_reset(rows, generator)

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
        """The particles as a matrix, in the type that all is computed in."""
        rows = recordable(z)
        if rows.ndim != 2:
            raise ValueError(
                "The particles of `FokkerPlanckDynamics` must have the shape (n, d). "
                f"Got {tuple(rows.shape)}."
            )
        target = rows if self.target_x is None else torch.as_tensor(self.target_x)
        return rows.to(target.device, self._dtype(target))

    def _dtype(self, like: Tensor) -> torch.dtype:
        """The float type of the decoder; of `like` where it has none."""
        inner = self._decoder if self._view is not None else nn.Identity()
        tensors = (*inner.parameters(), *inner.buffers(), like)
        types = [t.dtype for t in tensors if t.is_floating_point()]
        return types[0] if types else torch.get_default_dtype()

    @property
    def _decoder(self) -> nn.Module:
        assert isinstance(self.model, nn.Module)
        return unwrap(self.model)

    def _system(self, params: Mapping[str, Tensor] | None) -> Published:
        """The published system as it stands."""
        if self.target_x is None:
            raise ValueError(
                "Set `target_x` of `FokkerPlanckDynamics` first: the data that decoded particles "
                "are compared with, of shape (x,) or (m, x)."
            )
        target = recordable(self.target_x)
        return self._published(self._decode(params), target.to(self._dtype(target)))

    def _published(self, decode: Callable[[Tensor], Tensor], target: Tensor) -> Published:
        return Published(
            decode,
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
        if self._view is None:
            return _decoding(self.model)
        assert isinstance(self.model, nn.Module)
        weights = dict(self._decoder.named_parameters())
        if params is not None:
            # A wrapper puts a prefix before the names of the weights that it shares.
            inner = {id(p): name for name, p in weights.items()}
            names = {name: inner[id(p)] for name, p in self.model.named_parameters()}
            given = {names.get(name, name): p for name, p in params.items()}
            lacking = sorted(set(weights) - set(given))
            if lacking:
                raise ValueError(
                    "The `params` must hold every weight of the decoder, as "
                    f"`dict(model.named_parameters())` does. There is no {lacking}."
                )
            weights = {name: given[name] for name in weights}
        buffers = {name: b.clone() for name, b in self._decoder.named_buffers()}
        state = {f"inner.{name}": t.detach() for name, t in (weights | buffers).items()}
        shadow = self._shadow
        return lambda z: torch.func.functional_call(shadow, state, z)

    @property
    def _shadow(self) -> nn.Module:
        """The copy of the decoder, taken anew where its parts have been replaced."""
        assert self._view is not None
        assert self._view.live_parameters  # looks
        return self._view.shadow


class _Decoder(nn.Module):
    """A decoder that can be viewed whether or not it has a weight that trains."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.trains = nn.Parameter(torch.zeros(()))

    def forward(self, z: Tensor) -> Tensor:
        return _decoding(self.inner)(z)


def _decoding(model: Any) -> Callable[[Tensor], Tensor]:
    return getattr(model, "decode", model)


def _undecoded(_: Tensor) -> Tensor:
    """The decoder where none is asked."""
    raise AssertionError


def _seeded(seed: int, like: Tensor) -> torch.Generator:
    return torch.Generator(like.device).manual_seed(seed)
