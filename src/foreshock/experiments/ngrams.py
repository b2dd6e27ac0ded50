"""Smoothed n-gram models of characters: the entropies that `character_lm` holds a network to."""

from __future__ import annotations

import torch
from torch import Tensor

from foreshock.experiments.character_policy import CHARACTERS


def ngram_entropy(train: Tensor, heldout: Tensor, order: int) -> float:
    """Cross-entropy of an n-gram model, nats a character: counted on one text, judged on another.

    Smoothed after Witten and Bell (1991): with c(h x) counts of history h and character x, and
    t(h) the number of different characters seen after h,
    p(x | h) = (c(h x) + t(h) p(x | h')) / (c(h) + t(h)), where h' is h without its first character
    and the shortest, of no character, backs off to the uniform law. A history never seen gives
    p(x | h').

    Args:
        train: ``(n,)`` characters that are counted.
        heldout: ``(m,)`` characters that are predicted, from the `order`-th on.
        order: 1 for single characters, 2 for pairs, ...

    Returns:
        The mean of -log p over the predicted characters.

    Examples:
        A text that alternates has next to no bigram entropy, and that of a coin as unigram.

        >>> text = torch.tensor([0, 1] * 500)
        >>> round(ngram_entropy(text, text, 1), 2), round(ngram_entropy(text, text, 2), 2)
        (0.7, 0.0)
    """
    law = ngram_laws(train, order)[-1]
    return -law.flatten()[codes(heldout, order)].log().mean().item()


def ngram_laws(train: Tensor, order: int) -> list[Tensor]:
    """The smoothed n-gram models of `ngram_entropy`, of all orders up to one.

    Args:
        train: ``(n,)`` characters that are counted.
        order: The highest.

    Returns:
        For each order p(x | h), ``(histories, characters)``.
    """
    size = len(CHARACTERS)
    law = torch.full((1, size), 1 / size, dtype=torch.float64)
    laws = []
    for n in range(1, order + 1):
        counts = torch.bincount(codes(train, n), minlength=size**n).double().view(-1, size)
        total, kinds = counts.sum(1, keepdim=True), (counts > 0).sum(1, keepdim=True)
        shorter = law.repeat(len(counts) // len(law), 1)
        seen = (counts + kinds * shorter) / (total + kinds).clamp_min(1)
        law = torch.where(total > 0, seen, shorter)
        laws.append(law)
    return laws


def window_entropies(train: Tensor, tokens: Tensor, labels: Tensor, order: int) -> list[float]:
    """What n-grams cost on the very characters that a network is asked for, nats a character.

    At the start of a window an n-gram sees no more than the network does: where fewer than n - 1
    characters are shown, the model of the order that they allow takes its place.

    Args:
        train: ``(n,)`` characters that are counted.
        tokens: ``(windows, context)`` characters shown.
        labels: The character after each.
        order: The highest order.

    Returns:
        The mean of -log p over all labels, for each order from 1.
    """
    whole = torch.cat([tokens, labels[:, -1:]], dim=1)
    costs: list[Tensor] = []  # (windows, context) each
    for n, law in enumerate(ngram_laws(train, order), start=1):
        powers = len(CHARACTERS) ** torch.arange(n - 1, -1, -1)
        cost = -law.flatten()[(whole.unfold(1, n, 1) * powers).sum(2)].log()
        cost = cost[:, -labels.shape[1] :]  # single characters: the first is shown, not asked for
        missing = labels.shape[1] - cost.shape[1]
        costs.append(torch.cat([costs[-1][:, :missing], cost], dim=1) if missing else cost)
    return [cost.mean().item() for cost in costs]


def codes(text: Tensor, order: int) -> Tensor:
    """Each run of `order` characters as one number, the last character its lowest digit."""
    powers = len(CHARACTERS) ** torch.arange(order - 1, -1, -1)
    return (text.unfold(0, order, 1) * powers).sum(1)
