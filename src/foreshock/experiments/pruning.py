"""Pruning: masks of a perceptron's weight matrices, and what a weight is worth.

A mask is part of the network: it multiplies the weights in the forward pass, so that every gradient
and curvature is that of the ticket, whoever measures it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

#: Share of a layer's remaining weights that goes in each round.
SHARE = 0.2
#: One mask for each weight matrix, in the order of the layers; biases are kept.
Masks = list[Tensor]


class MaskedLinear(nn.Linear):
    """A linear layer whose weights count where its mask is 1; a buffer, all 1 at first.

    Weights are normal with variance 2/inputs (He et al. 2015), biases 0. torch's default has a
    sixth of that variance, by which a network with a twentieth of its weights passes nothing on,
    and a random ticket stays at a guess whatever it is worth.

    Args:
        inputs: Width of what comes in.
        outputs: Width of what goes out.

    Examples:
        >>> layer = MaskedLinear(2, 1)
        >>> _ = layer.mask.fill_(0)
        >>> bool((layer(torch.ones(3, 2)) == layer.bias).all())
        True
    """

    mask: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.register_buffer("mask", torch.ones(outputs, inputs))

    def reset_parameters(self) -> None:
        """Draw the weights again, from torch's global generator."""
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """The layer with what is masked at 0.

        Args:
            input: ``(n, inputs)``.

        Returns:
            ``(n, outputs)``.
        """
        return functional.linear(input, self.weight * self.mask, self.bias)


def matrices(model: nn.Module) -> list[nn.Parameter]:
    """What is pruned: the weight matrices."""
    return [p for p in model.parameters() if p.dim() == 2]


def whole(model: nn.Module) -> Masks:
    """Masks that keep everything."""
    return [torch.ones_like(p) for p in matrices(model)]


def pruned(masks: Masks, scores: Sequence[Tensor], share: float = SHARE) -> Masks:
    """Take the lowest scores of each layer's remaining weights away.

    Args:
        masks: What remains.
        scores: One a weight.
        share: Of those that remain.

    Returns:
        The new masks; ties fall by position.

    Examples:
        >>> pruned([torch.tensor([1.0, 1, 0, 1, 1, 1])], [torch.tensor([5.0, 1, 0, 4, 3, 2])])
        [tensor([1., 0., 0., 1., 1., 1.])]
    """
    told = []
    for mask, score in zip(masks, scores, strict=True):
        kept = mask.flatten().clone()
        alive = kept.nonzero()[:, 0]
        order = alive[score.flatten()[alive].argsort(stable=True)]
        kept[order[: round(share * len(alive))]] = 0
        told.append(kept.reshape(mask.shape))
    return told


def apply(model: nn.Module, masks: Masks) -> None:
    """Mask the layers of a network; the weights that are gone are 0, and their gradients too.

    Args:
        model: With a `MaskedLinear` for each mask.
        masks: In the order of the layers.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, MaskedLinear)]
    with torch.no_grad():
        for layer, mask in zip(layers, masks, strict=True):
            layer.mask.copy_(mask)
            layer.weight.mul_(mask)


def magnitude(model: nn.Module) -> list[Tensor]:
    """Absolute values of the weights."""
    return [p.detach().abs() for p in matrices(model)]


def random_scores(model: nn.Module, generator: torch.Generator) -> list[Tensor]:
    """A number in [0, 1) for each weight."""
    return [torch.rand(p.shape, generator=generator) for p in matrices(model)]


def gradient_snr(
    model: nn.Module, loss: Callable[..., Tensor], batches: Sequence[object]
) -> list[Tensor]:
    """Squared mean over the variance of each weight's batch gradients; biased up by 1/n.

    Args:
        model: The network.
        loss: ``loss(model, batch)``.
        batches: n of them.

    Returns:
        One tensor for each weight matrix; 0 where a weight never has a gradient.
    """
    taken = [torch.autograd.grad(loss(model, batch), matrices(model)) for batch in batches]
    stacks = [torch.stack(one) for one in zip(*taken, strict=True)]
    # An input pixel that is always 0 has neither signal nor noise.
    return [s.mean(0).square() / s.var(0).clamp_min(1e-30) for s in stacks]


def saliency(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The saliency h w^2/2: what taking a weight away costs to second order, h Gauss-Newton."""
    diagonal = gauss_newton_diagonal(model, x)
    return [h * p.detach().square() / 2 for h, p in zip(diagonal, matrices(model), strict=True)]


def gauss_newton_diagonal(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Exact diagonal of the Gauss-Newton matrix of the cross-entropy, mean over examples.

    J' (diag p - p p') J on each weight, as the variance of the logits' gradients under the model's
    own probabilities: sum_k p_k g_k^2 - (sum_k p_k g_k)^2.

    Args:
        model: The perceptron.
        x: Inputs ``(n, d)``.

    Returns:
        One tensor for each weight matrix.
    """
    layers = [layer for layer in model if isinstance(layer, nn.Linear)]  # type: ignore[union-attr]
    inputs: list[Tensor] = []
    hidden = x
    for layer in layers:
        inputs.append(hidden.detach())
        out = layer(hidden)
        hidden = functional.relu(out) if layer is not layers[-1] else out
    p = hidden.detach().softmax(1)
    # back[k] = gradient of logit k by the outputs of a layer, (classes, n, width)
    back = torch.eye(p.shape[1])[:, None, :].expand(-1, len(x), -1)
    told: list[Tensor] = []
    for i in reversed(range(len(layers))):
        mean = torch.einsum("nk,knj->nj", p, back)
        spread = torch.einsum("nk,knj->nj", p, back.square()) - mean.square()
        told.append((spread.T @ inputs[i].square()).detach() / len(x))
        if i:
            back = (back @ layers[i].weight.detach()) * (inputs[i] > 0)
    return told[::-1]
