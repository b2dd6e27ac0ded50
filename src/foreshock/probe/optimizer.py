"""`OptimizerView`: what of an optimizer a formula needs, read and never written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foreshock.probe.view import ModelView

#: Optimizers whose step is -η m/P with the diagonal P that `OptimizerView.preconditioner` gives.
DIAGONAL = frozenset({"SGD", "Adam", "AdamW", "RMSprop", "Adagrad"})


class OptimizerView:
    """Settings and state of the live optimizer, one entry a trainable parameter of the view.

    Args:
        optimizer: The live optimizer.
        view: The live weights, which give the order of the parameters.

    Examples:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> seen = OptimizerView(optimizer, ModelView(model))
        >>> seen.name, seen.settings[0]["momentum"]
        ('SGD', 0.9)
    """

    def __init__(self, optimizer: torch.optim.Optimizer, view: ModelView) -> None:
        self._optimizer = optimizer
        self._view = view

    @property
    def name(self) -> str:
        """Class name, such as ``"AdamW"``."""
        return type(self._optimizer).__name__

    @property
    def settings(self) -> tuple[Mapping[str, Any], ...]:
        """The group's settings of each trainable parameter; empty where it is in no group."""
        found = {}
        for group in self._optimizer.param_groups:
            shared = {k: v for k, v in group.items() if k != "params"}
            found.update({id(p): shared for p in group["params"]})
        return tuple(found.get(id(p), {}) for p in self._view.live_parameters)

    @property
    def learning_rates(self) -> tuple[float, ...]:
        """One a trainable parameter; 0 for one that the optimizer does not train."""
        return tuple(float(s.get("lr", 0.0)) for s in self.settings)

    @property
    def state(self) -> tuple[Mapping[str, Any], ...]:
        """The optimizer's state of each trainable parameter, live; empty before its first step."""
        kept = self._optimizer.state
        return tuple(kept.get(p, {}) for p in self._view.live_parameters)

    @property
    def decay(self) -> tuple[tuple[float, bool], ...]:
        """Weight decay of each parameter, and whether it is decoupled from the gradient."""
        decoupled = self.name == "AdamW"
        return tuple(
            (float(s.get("weight_decay", 0.0)), bool(s.get("decoupled_weight_decay", decoupled)))
            for s in self.settings
        )

    def preconditioner(self) -> tuple[tuple[Tensor, ...] | None, str]:
        """Diagonal P of the step −η m/P, m the raw first moment (the gradient without momentum).

        SGD: 1. Adam and AdamW: (1 − β1^t)(√(v/(1 − β2^t)) + ε), bias corrections included, with the
        running maximum of v under ``amsgrad``. RMSprop: √v + ε (centred: √(v − g²) + ε). Adagrad:
        √Σg² + ε. The state is that of the optimizer's last step.

        A parameter that never had a gradient has no state, and 1.

        Returns:
            One float64 tensor of the parameter's shape a parameter and an empty sentence; or
            ``None`` and why there is none (an unknown optimizer, or no step made yet).
        """
        name = self.name
        if name not in DIAGONAL:
            known = ", ".join(sorted(DIAGONAL))
            return None, f"{name} is not one of the optimizers with a diagonal metric ({known})."
        if name != "SGD" and not any(float(s.get("step", 1)) > 0 for s in self.state if s):
            return None, f"{name} has made no step yet, so its metric does not exist."
        found = []
        for parameter, settings, state in zip(
            self._view.live_parameters, self.settings, self.state, strict=True
        ):
            ones = torch.ones_like(parameter, dtype=torch.float64)
            # One that the optimizer does not train, or that never had a gradient, does not move.
            if name == "SGD" or not settings or not state:
                found.append(ones)
                continue
            found.append(_diagonal(name, settings, state).reshape(parameter.shape))
        return tuple(found), ""


def _diagonal(name: str, settings: Mapping[str, Any], state: Mapping[str, Any]) -> Tensor:
    epsilon = float(settings["eps"])
    if name == "Adagrad":
        return state["sum"].detach().double().sqrt() + epsilon
    if name == "RMSprop":
        second = state["square_avg"].detach().double()
        if settings.get("centered"):
            second = second - state["grad_avg"].detach().double().square()
        return second.clamp_min(0).sqrt() + epsilon
    beta1, beta2 = (float(b) for b in settings["betas"])
    t = float(state["step"])
    second = state["max_exp_avg_sq" if settings.get("amsgrad") else "exp_avg_sq"].detach().double()
    correction = 1 - math.pow(beta2, t)
    return (1 - math.pow(beta1, t)) * ((second / correction).sqrt() + epsilon)
