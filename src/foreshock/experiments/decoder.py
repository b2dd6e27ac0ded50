"""A small causal transformer: pre-norm, learned positions, with or without its MLPs.

Attention is written out in matrix products: curvature needs its second derivative, which the fused
kernels do not have on a CPU, and an experiment may look at the weights.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional


class Attention(nn.Module):
    """Causal self-attention of several heads; queries, keys and values without a bias.

    Args:
        width: Of the residual stream; a multiple of ``heads``.
        heads: How many.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.queries_keys_values = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)

    def weights(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Where each position looks, and the values there.

        Args:
            x: ``(n, t, width)``.

        Returns:
            Weights ``(n, heads, t, t)``, rows sum to 1 and are 0 after their own position; values
            ``(n, heads, t, width / heads)``.
        """
        n, t, width = x.shape
        parts = self.queries_keys_values(x).view(n, t, 3, self.heads, width // self.heads)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)
        # Keys by queries: on a CPU a softmax over few keys is four times as fast along columns.
        scores = keys @ queries.transpose(-1, -2) / math.sqrt(width // self.heads)
        later = scores.new_full((t, t), -math.inf).tril(-1)
        return (scores + later).softmax(-2).transpose(-1, -2), values

    def forward(self, x: Tensor) -> Tensor:
        """``(n, t, width)`` to the same."""
        weights, values = self.weights(x)
        return self.out((weights @ values).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention, then an MLP of four times the width, each after a LayerNorm and added back.

    Args:
        width: Of the residual stream.
        heads: Of the attention.
        mlp: Whether there is an MLP.
    """

    def __init__(self, width: int, heads: int, *, mlp: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = (
            nn.Sequential(
                nn.LayerNorm(width),
                nn.Linear(width, 4 * width),
                nn.GELU(),
                nn.Linear(4 * width, width),
            )
            if mlp
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(n, t, width)`` to the same."""
        x = x + self.attention(self.norm(x))
        return x if self.mlp is None else x + self.mlp(x)


class Decoder(nn.Module):
    """Tokens to the logits of the next one at every position.

    Args:
        tokens: How many different ones there are.
        length: Most positions.
        width: Of the residual stream; a multiple of ``heads``.
        heads: Of each attention.
        layers: How many blocks.
        mlp: Whether blocks have MLPs; without, the network is attention only.

    Raises:
        ValueError: If the width is no multiple of the number of heads.

    Examples:
        >>> import torch
        >>> model = Decoder(12, 11, width=16, heads=4, layers=1)
        >>> tuple(model(torch.zeros(2, 11, dtype=torch.long)).shape), parameters(model)
        ((2, 11, 12), 3824)
    """

    def __init__(
        self, tokens: int, length: int, *, width: int, heads: int, layers: int, mlp: bool = True
    ) -> None:
        if width % heads:
            raise ValueError(
                f"The `width` of `Decoder` must be a multiple of its {heads} `heads`. Got {width}."
            )
        super().__init__()
        self.embed = nn.Embedding(tokens, width)
        self.place = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads, mlp=mlp) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.readout = nn.Linear(width, tokens, bias=False)

    def stream(self, tokens: Tensor) -> Tensor:
        """Tokens ``(n, t)`` to the residual stream before the first block, ``(n, t, width)``."""
        return self.embed(tokens) + self.place.weight[: tokens.shape[1]]

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens ``(n, t)`` to logits ``(n, t, tokens)``."""
        x = self.stream(tokens)
        for block in self.blocks:
            x = block(x)
        return self.readout(self.norm(x))

    def attention(self, tokens: Tensor) -> list[Tensor]:
        """Attention weights ``(n, heads, t, t)`` of every layer."""
        x, seen = self.stream(tokens), []
        for block in self.blocks:
            assert isinstance(block, Block)
            seen.append(block.attention.weights(block.norm(x))[0])
            x = block(x)
        return seen


def parameters(model: nn.Module) -> int:
    """Number of trained numbers."""
    return sum(parameter.numel() for parameter in model.parameters())


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy, nats a token, over the positions whose label is not negative.

    Args:
        logits: ``(n, t, tokens)``.
        labels: ``(n, t)``, -100 where nothing is asked.

    Returns:
        A scalar.
    """
    return functional.cross_entropy(logits.flatten(0, 1), labels.flatten())


def token_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """`cross_entropy` of a network on a batch of tokens and labels, both ``(n, t)``."""
    tokens, labels = batch
    return cross_entropy(model(tokens), labels)
