r"""What a reader of "fokker_planck" looks for in 5.3, 11.1 and 12.2: detector, monitor, wrapper."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from foreshock.density.published import c_wrapper_fp, div_j_fp
from foreshock.documents.fokker_planck import FokkerPlanckDynamics
from foreshock.documents.live import gradient_norm, recordable
from foreshock.policies.apply import Applier
from foreshock.stats import published as pub
from foreshock.types import Action


def detect_phase_transition(
    metrics_history: Mapping[str, Sequence[float]],
    window: int = 10,
    drop_threshold: float = 0.5,
    entropy_sigma: float = 2.0,
    loss_plateau_tol: float = 1e-4,
) -> NDArray[np.intp]:
    r"""Indices at which C drops, S_dot spikes and the loss stands, by the published criteria.

    **What the published form gets wrong**: means and deviations are those of the whole run, so what
    it finds at a step depends on what comes later; its "plateau" is a tenth difference, which finds
    a falling loss flat and a noisy flat one not; see `foreshock.stats.published.transitions_fp`.

    **Ours instead**: the detector ``phase_transition`` (`foreshock.detectors.PhaseTransition`),
    which looks back only.

    Args:
        metrics_history: ``C``, ``S_dot`` and ``loss``, one number a step.
        window: Order of the difference, called a window.
        drop_threshold: In standard deviations of the differences of C.
        entropy_sigma: In standard deviations of S_dot.
        loss_plateau_tol: In the unit of the loss.

    Returns:
        Indices; none where there are fewer than 2 records.

    Raises:
        ValueError: If a series is missing (the published KeyError), or lengths differ.

    References:
        The document "fokker_planck", section 5.3.

    Examples:
        >>> history = {"C": [5.0] * 15 + [1.0] * 15, "loss": [1.0] * 30}
        >>> history["S_dot"] = [0.0] * 14 + [9.0] + [0.0] * 15
        >>> detect_phase_transition(history).tolist()
        [14]
    """
    lacking = sorted({"C", "S_dot", "loss"} - set(metrics_history))
    if lacking:
        raise ValueError(
            "The `metrics_history` of `detect_phase_transition` must have `C`, `S_dot` and `loss`. "
            f"There is no {', '.join(lacking)}."
        )
    c, production, loss = (metrics_history[name] for name in ("C", "S_dot", "loss"))
    if not len(c) == len(production) == len(loss) or window < 1:
        raise ValueError(
            "The series of `detect_phase_transition` must have one length, and `window` must be at "
            f"least 1. Got {len(c)}, {len(production)}, {len(loss)}; {window}."
        )
    if len(c) < 2:
        return np.empty(0, dtype=np.intp)
    with np.errstate(all="ignore"):
        return pub.transitions_fp(
            c, production, loss, window, drop_threshold, entropy_sigma, loss_plateau_tol
        )


class Risk(TypedDict):
    """What `RLHFMonitor` returns."""

    alert: str | None
    C: float
    max_divergence: float
    recommendation: str


class RLHFMonitor:
    r"""The published alert on latents of responses: C < .3 and then max \|div J\| > 1.

    It reads numbers and touches nothing.

    **What the published form gets wrong**: no reward enters, so it cannot speak of reward hacking;
    both thresholds have units; its C is rounding or the 1e-8 of the quotient, so it comes or not by
    chance: with the defaults for 11 of 20 clouds of 60 particles N(0, .04 I) at the target in six
    dimensions (float32), for 6 in eight. It reads ``fpe.model.params``, which does not exist
    (here: the `params` of the call), and evaluates the flux at t = 0 for ever (kept). The
    divergence is only looked at where C is low, and reads 0 elsewhere.

    **Ours instead**: the detectors ``over_optimisation``, ``gold_turnover`` and ``kl_threshold`` on
    the rewards themselves, calibrated by `ConformalAlarm` on runs known to be safe.

    Args:
        base_model: Without effect, as published.
        fpe: A `FokkerPlanckDynamics` with its `target_x`.
        C_alert_threshold: Below it the divergence is looked at.
        div_J_threshold: Above it, the alert.

    References:
        The document "fokker_planck", section 11.1.

    Examples:
        >>> fpe = FokkerPlanckDynamics(torch.nn.Linear(2, 3))
        >>> fpe.target_x = torch.zeros(3)
        >>> monitor = RLHFMonitor(None, fpe)
        >>> monitor.detect_misalignment_risk(torch.eye(2), None, t=0.0)["alert"] is None
        True
    """

    def __init__(
        self,
        base_model: Any,
        fpe: FokkerPlanckDynamics,
        C_alert_threshold: float = 0.3,
        div_J_threshold: float = 1.0,
    ) -> None:
        self.base_model = base_model
        self.fpe = fpe
        self.C_alert_threshold = C_alert_threshold
        self.div_J_threshold = div_J_threshold

    def detect_misalignment_risk(
        self, z_responses: Tensor, params: Mapping[str, Tensor] | None, t: float
    ) -> Risk:
        r"""The alert for one batch of responses.

        **Wrong with it**: see the class.

        Args:
            z_responses: (n, d) Latents.
            params: Weights of the decoder, as in `FokkerPlanckDynamics`.
            t: Time.

        Returns:
            ``alert`` (``"POTENTIAL_REWARD_HACKING"`` or None), ``C``, ``max_divergence`` (0 where
            it was not looked at) and ``recommendation``.
        """
        c, largest = self.fpe.consolidation_ratio(z_responses, params, t), 0.0
        if c < self.C_alert_threshold:
            flux = div_j_fp(
                self.fpe._rows(z_responses),
                lambda z: self.fpe._compute_flux(z, params, 0.0),
            )
            largest = float(flux.abs().max())
        alert = pub.alert_fp(c, largest, self.C_alert_threshold, self.div_J_threshold)
        if alert is not None:
            advice = "Look at the responses and their rewards before training on."
        elif c == c and largest == largest:
            advice = "No alert by this rule, which says nothing about the rewards."
        else:
            advice = "The numbers are nan, so the rule says nothing."
        return {"alert": alert, "C": c, "max_divergence": largest, "recommendation": advice}


class FPETorchWrapper:
    r"""C(t) of the wrapper for torch: parameter gradient over density gradient of latents.

    `consolidation_ratio` reads gradients as they stand and writes nothing: call it after
    ``scaler.unscale_()`` where a `torch.amp.GradScaler` scales the loss, and after the last
    ``backward()`` where several add up. `apply_reset` is what it says: it changes weights, and it
    alone.

    **What the published form gets wrong**: a norm in parameter space over one in latent space, so C
    scales with the loss and the width of the network; a learning rate stands for a diffusion; 1.0
    where there is no gradient hides missing data (here with a warning).

    **Ours instead**: the observable `LatentFlow`; for resets the policies `WeightReset` (relative
    to each tensor's size) or `PublishedWeightReset`, which are recorded, guarded and can be undone.

    Args:
        model: The model that is trained.
        latent_extractor: Without effect, as published: it is stored and never called.
        eta_0: Learning rate, used as D_0.
        lambda_reg: Without effect, as published.
        C_threshold: Without effect, as published.
        kde_bandwidth: h, in the unit of the latents.

    Raises:
        ValueError: If the bandwidth is not positive.

    References:
        The document "fokker_planck", section 12.2.

    Examples:
        >>> model = torch.nn.Linear(2, 2)
        >>> wrapper = FPETorchWrapper(model, model)
        >>> z = model(torch.eye(2))
        >>> z.square().sum().backward()
        >>> wrapper.consolidation_ratio(z, t=0) > 0
        True
    """

    def __init__(
        self,
        model: nn.Module,
        latent_extractor: Callable[..., Any],
        eta_0: float = 0.01,
        lambda_reg: float = 0.001,
        C_threshold: float = 0.5,
        kde_bandwidth: float = 0.1,
    ) -> None:
        if not kde_bandwidth > 0:
            raise ValueError(
                f"The `kde_bandwidth` of `FPETorchWrapper` must be positive. Got {kde_bandwidth}."
            )
        self.model = model
        self.latent_extractor = latent_extractor
        self.eta_0 = eta_0
        self.lambda_reg = lambda_reg
        self.C_threshold = C_threshold
        self.kde_bandwidth = kde_bandwidth
        self._resets = 0

    def consolidation_ratio(self, z_batch: Tensor, t: int) -> float:
        r"""C = \|parameter gradient\|/(eta_0 e^(-t/500) \|grad rho\| + 1e-8).

        **Wrong with it**: see the class and `foreshock.density.published.c_wrapper_fp`.

        Args:
            z_batch: (n, d) Latents.
            t: Training step.

        Returns:
            C; 1.0 without a gradient, nan where the density over- or underflows.

        Raises:
            ValueError: If the latents are no matrix.
        """
        z = recordable(z_batch)
        if z.ndim != 2:
            raise ValueError(
                "The `z_batch` of `consolidation_ratio` must have the shape (n, d). "
                f"Got {tuple(z.shape)}; flatten or average the rest."
            )
        # Its norm is all that is asked of the gradient, so no copy of it is made.
        size = gradient_norm(self.model)
        if size is None:
            warnings.warn(
                "No parameter has a gradient, so `consolidation_ratio` of `FPETorchWrapper` is the "
                "published 1.0, which stands for nothing. Call it before `zero_grad`.",
                stacklevel=2,
            )
            return 1.0
        try:
            z = z if z.dtype == torch.float64 else z.float()
            return c_wrapper_fp(z, size, t, self.kde_bandwidth, self.eta_0)
        except OverflowError:  # the normaliser of a wide kernel in many dimensions
            return float("nan")

    def apply_reset(
        self, model: nn.Module, alpha: float = 0.15, noise_scale: float = 0.01, *, seed: int = 0
    ) -> None:
        r"""Add N(0, noise_scale^2) to a random share alpha of the weights, **in place**.

        Carried out by `foreshock.policies.apply`, whose generator is its own: the global one does
        not move. Frozen weights and padding rows are left alone, which the listing would perturb.
        If it fails half-way nothing is changed, with a warning.

        **Wrong with it**: one scale for every tensor is nothing to some and everything to others.
        It is no reset of latents, and nothing shows that it helps.

        Args:
            model: The model to perturb.
            alpha: Share of the weights.
            noise_scale: Standard deviation of the noise.
            seed: Of the draws; each call of one wrapper draws others, and a new wrapper begins
                again with the same.

        Raises:
            ValueError: If the model has no weight that trains, or a number is out of range.
        """
        trained = [p for p in model.parameters() if p.requires_grad]
        if not trained or not 0 <= alpha <= 1 or not 0 <= noise_scale < float("inf"):
            raise ValueError(
                "`apply_reset` needs a model that trains, alpha in [0, 1] and a finite noise_scale "
                f">= 0. Got {len(trained)} trained tensors, {alpha} and {noise_scale}."
            )
        self._resets += 1
        # An optimizer says which weights are trained; none of its steps is made.
        applier = Applier(model, torch.optim.SGD(trained, lr=0.0), seed)
        numbers = {"fraction": alpha, "scale": noise_scale, "relative": 0.0}
        wanted = Action(self._resets, "apply_reset", "reset_weights", numbers, "As asked.")
        done = applier.apply(wanted)
        applier.close()
        if not done.applied:
            warnings.warn(f"`apply_reset`: {done.reason}", stacklevel=2)
