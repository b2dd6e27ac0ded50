"""What an optimizer would do with each of several gradients, without asking it to.

At once (`responses`) or in the long run (`settled_responses`). The update is computed from copies
of the optimizer's state by its published formula, so that no step is made and nothing of the run is
written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from foreshock.probe.optimizer import OptimizerView
from foreshock.probe.view import ModelView

#: Optimizers whose step `responses` knows; the others are unknown to it.
KNOWN = ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad")


def responses(
    optimizer: OptimizerView, view: ModelView, gradients: Sequence[Sequence[Tensor]]
) -> tuple[Tensor | None, str]:
    """Update θ_{t+1} − θ_t that each gradient would cause, from the present state of the optimizer.

    SGD (momentum, dampening, Nesterov, weight decay), Adam and AdamW (bias corrections, amsgrad,
    decay coupled or not), RMSprop (centred, momentum) and Adagrad, with the learning rates of now.
    The gradients are taken as they are: what the training loop does to its own between the backward
    pass and the step (clipping, accumulation) is not done to these.

    **Rounding.** θ_{t+1} is rounded to the type of the weights, as the optimizer's is: a step below
    it does not happen, and θ_{t+1} − θ_t is what does. Optimizers round on the way, too, unless
    fused: in bfloat16 up to 1 % of the weights end on the next number, and the trace of the
    covariance was right to 6 %, less well where a handful of weights move at all. In float16 second
    moments underflow on that way, so there only SGD is known.

    Cost: n copies of the weights, and one pass over them.

    Args:
        optimizer: The optimizer, seen.
        view: The live weights, which decay and give the order.
        gradients: n gradients, each one tensor a parameter.

    Returns:
        ``(n, d)`` updates, at least float32, flat in the order of the view, and an empty sentence;
        or ``None`` and why. A parameter that the optimizer does not train does not move.

    Examples:
        >>> import torch
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> view = ModelView(model)
        >>> seen = OptimizerView(torch.optim.SGD(model.parameters(), lr=0.5), view)
        >>> responses(seen, view, [[torch.tensor([[2.0]])]])[0].tolist()
        [[-1.0]]
    """
    name = optimizer.name
    if sentence := _unknown(optimizer, view):
        return None, sentence
    columns = []
    for index, (weight, settings, state, decay) in enumerate(
        zip(view.parameters, optimizer.settings, optimizer.state, optimizer.decay, strict=True)
    ):
        kind = torch.promote_types(weight.dtype, torch.float32)
        rows = torch.stack([gradient[index] for gradient in gradients]).to(kind)  # (n, ...)
        update = torch.zeros_like(rows)
        if settings:
            old = weight.to(kind)
            new = _decayed(weight, settings, decay).to(kind)
            new = _update(name, rows, old, settings, state, decay).add_(new).to(weight.dtype)
            update = new.to(kind).sub_(old)
        columns.append(update.reshape(len(rows), -1))
    return torch.cat(columns, dim=1), ""


def settled_responses(
    optimizer: OptimizerView, view: ModelView, gradients: Sequence[Sequence[Tensor]]
) -> tuple[Tensor | None, str]:
    """What each gradient does to the weights in the long run: the sum of its later displacements.

    One gradient acts at once and, through momentum, on later steps. With the learning rate, the
    preconditioner and the weights held as they are, the displacements it causes add up to

        −η_eff P⁻¹ (±g + λθ),   or, where the decay is decoupled,   −η_eff P⁻¹ (±g) − ηλθ,

    − under ``maximize``; so this is also the drift per step under gradients of that mean, and half
    its covariance over gradients is the diffusion of the weights on times longer than the memory of
    the momentum. Momentum that is there already is left out: it is the work of earlier gradients.

    | optimizer | η_eff | P |
    |---|---|---|
    | SGD | η (1 − dampening)/(1 − momentum), Nesterov the same | 1 |
    | Adam, AdamW | η | √v̂ + ε, v̂ bias-corrected, its running maximum under amsgrad |
    | RMSprop | η/(1 − momentum) | √v + ε, centred: √(v − ḡ²) + ε |
    | Adagrad | η/(1 + t·lr_decay) | √Σg² + ε |

    P is that of the optimizer's last step. Two things are left out: what g does to v, which summed
    over the memory of v is of the relative size E[g]²/v, small where noise dominates; and the bias
    correction of Adam's first moment, which multiplies the response in the first 1/(1 − β₁) steps
    (by 1.2 at step 10 with β₁ = 0.9).

    Cost: one pass over n gradients.

    Args:
        optimizer: The optimizer, seen.
        view: The live weights, which decay and give the order.
        gradients: n gradients, each one tensor a parameter.

    Returns:
        ``(n, P)``, at least float32, flat in the order of the view, not rounded to the type of the
        weights, and an empty sentence; or ``None`` and why. A parameter that the optimizer does
        not train does not move.

    Examples:
        >>> import torch
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> view = ModelView(model)
        >>> sgd = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.75)
        >>> settled_responses(OptimizerView(sgd, view), view, [[torch.tensor([[2.0]])]])[0].tolist()
        [[-4.0]]
    """
    if sentence := _unknown(optimizer, view):
        return None, sentence
    metric, sentence = optimizer.preconditioner()
    if metric is None:
        return None, sentence
    columns = []
    for index, (weight, settings, state, decay) in enumerate(
        zip(view.parameters, optimizer.settings, optimizer.state, optimizer.decay, strict=True)
    ):
        rows = torch.stack([gradient[index] for gradient in gradients])
        rows = rows.to(torch.promote_types(weight.dtype, torch.float32))
        if not settings:
            columns.append(torch.zeros_like(rows).reshape(len(rows), -1))
            continue
        if optimizer.name != "SGD" and not state:
            if rows.any():
                return None, (
                    f"{optimizer.name} has made no step yet with the parameter "
                    f"{view.names[index]!r}, so its response to a gradient is not known."
                )
            columns.append(rows.reshape(len(rows), -1))
            continue
        rate, scale = _settled(optimizer.name, settings, state)
        strength, decoupled = decay
        push = -rows if settings.get("maximize") else rows
        if strength and not decoupled:
            push = push + strength * weight
        moved = push.div_(metric[index].to(push)).mul_(-rate * scale)
        if strength and decoupled:
            moved = moved - float(settings["lr"]) * strength * weight
        columns.append(moved.reshape(len(rows), -1))
    return torch.cat(columns, dim=1), ""


def _settled(
    name: str, settings: Mapping[str, Any], state: Mapping[str, Any]
) -> tuple[float, float]:
    """Learning rate, and what the memory of a gradient multiplies it by."""
    rate = float(settings["lr"])
    if name in ("SGD", "RMSprop"):
        momentum = float(settings["momentum"])
        damping = float(settings["dampening"]) if name == "SGD" and momentum else 0.0
        return rate, (1 - damping) / (1 - momentum)
    if name == "Adagrad":
        return rate / (1 + float(state["step"]) * float(settings["lr_decay"])), 1.0
    # The view's P belongs to the raw first moment, so it holds that one's bias correction.
    return rate, 1 - float(settings["betas"][0]) ** float(state["step"])


def _unknown(optimizer: OptimizerView, view: ModelView) -> str:
    """Why the response to a gradient is not known here; empty if it is."""
    name = optimizer.name
    if name not in KNOWN:
        return (
            f"The response of {name} to a gradient is not known here, only that of "
            f"{', '.join(KNOWN)}."
        )
    if name != "SGD" and any(w.dtype == torch.float16 for w in view.parameters):
        return (
            f"The response of {name} is not known with float16 weights, where its second moments "
            "underflow. Keep float32 or bfloat16 weights."
        )
    return ""


def _decayed(weight: Tensor, settings: Mapping[str, Any], decay: tuple[float, bool]) -> Tensor:
    """The weight after decay that is decoupled from the gradient: a step of its own, rounded."""
    strength, decoupled = decay
    if not strength or not decoupled:
        return weight
    # One kernel for the whole step rounds once.
    wide = torch.promote_types(weight.dtype, torch.float32)
    exact = weight.to(wide if settings.get("fused") else weight.dtype)
    return exact * (1 - float(settings["lr"]) * strength)


def _update(
    name: str,
    gradients: Tensor,
    weight: Tensor,
    settings: Mapping[str, Any],
    state: Mapping[str, Any],
    decay: tuple[float, bool],
) -> Tensor:
    """Updates ``(n, ...)`` of one parameter for n gradients, but for decoupled decay."""
    rate = float(settings["lr"])
    strength, decoupled = decay
    if settings.get("maximize"):
        gradients = -gradients
    if strength and not decoupled:
        gradients = gradients + strength * weight
    if name == "SGD":
        return -rate * _sgd(gradients, settings, state)
    if name == "RMSprop":
        return -rate * _rmsprop(gradients, settings, state)
    if name == "Adagrad":
        # Counts the step to come, and decays the rate by those before it.
        before = float(state["step"])
        total = _kept(state, "sum", gradients) + gradients.square()
        rate = rate / (1 + before * float(settings["lr_decay"]))
        return -rate * gradients / (total.sqrt() + float(settings["eps"]))
    return _adam(gradients, settings, state).mul_(-rate)


def _kept(state: Mapping[str, Any], key: str, gradients: Tensor) -> Tensor:
    """A running mean of the state, 0 before the first step."""
    found = state.get(key)
    return torch.zeros_like(gradients[0]) if found is None else found.detach().to(gradients.dtype)


def _sgd(gradients: Tensor, settings: Mapping[str, Any], state: Mapping[str, Any]) -> Tensor:
    momentum = float(settings["momentum"])
    if not momentum:
        return gradients
    if state.get("momentum_buffer") is None:  # the first step takes the gradient undamped
        buffer = gradients
    else:
        damping = float(settings["dampening"])
        buffer = momentum * _kept(state, "momentum_buffer", gradients) + (1 - damping) * gradients
    return gradients + momentum * buffer if settings["nesterov"] else buffer


def _rmsprop(gradients: Tensor, settings: Mapping[str, Any], state: Mapping[str, Any]) -> Tensor:
    alpha = float(settings["alpha"])
    second = alpha * _kept(state, "square_avg", gradients) + (1 - alpha) * gradients.square()
    if settings["centered"]:
        mean = alpha * _kept(state, "grad_avg", gradients) + (1 - alpha) * gradients
        second = (second - mean.square()).clamp_min(0)
    scaled = gradients / (second.sqrt() + float(settings["eps"]))
    momentum = float(settings["momentum"])
    return momentum * _kept(state, "momentum_buffer", gradients) + scaled if momentum else scaled


def _adam(gradients: Tensor, settings: Mapping[str, Any], state: Mapping[str, Any]) -> Tensor:
    beta1, beta2 = (float(b) for b in settings["betas"])
    step = float(state["step"]) + 1 if "step" in state else 1.0
    first = _kept(state, "exp_avg", gradients).lerp(gradients, 1 - beta1)
    before = beta2 * _kept(state, "exp_avg_sq", gradients)
    second = torch.addcmul(before, gradients, gradients, value=1 - beta2)
    if settings.get("amsgrad"):
        second = torch.maximum(second, _kept(state, "max_exp_avg_sq", gradients))
    # In place: n copies of the weights are what this costs.
    scale = second.div_(1 - beta2**step).sqrt_().add_(float(settings["eps"]))
    return first.div_(scale).div_(1 - beta1**step)
