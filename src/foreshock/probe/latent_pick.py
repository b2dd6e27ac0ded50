"""One latent an example: of tokens and feature maps the one that a `LatentSite` picks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foreshock.probe.latent_site import LatentSite


def token_mask(batch: Any, hidden: Tensor) -> Tensor | None:
    """Which tokens the batch keeps, (N, T), if it says so."""
    parts = batch if isinstance(batch, (tuple, list)) else (batch,)
    for part in parts:
        mask = part.get("attention_mask") if isinstance(part, Mapping) else None
        if isinstance(mask, Tensor) and hidden.ndim == 3 and mask.shape == hidden.shape[:2]:
            return mask.detach().to(hidden.device) != 0
    return None


def _chosen(site: LatentSite, hidden: Tensor, mask: Tensor | None) -> Tensor:
    """Which tokens of ``(N, T, D)`` make the latent: True at those, (N, T)."""
    n, tokens, _ = hidden.shape
    kept = torch.ones(n, tokens, dtype=torch.bool, device=hidden.device) if mask is None else mask
    if site.pick in ("auto", "mean"):
        return kept
    places = torch.arange(tokens, device=hidden.device)
    if site.pick == "last":
        return places == torch.where(kept, places, -1).amax(1, keepdim=True)
    assert isinstance(site.pick, int)
    if not -tokens <= site.pick < tokens:
        raise ValueError(
            f"The `pick` of `LatentSite` asks for token {site.pick}, but {site.named} gives "
            f"{tokens} tokens."
        )
    return (places == site.pick % tokens).expand(n, tokens)


def _tokens(site: LatentSite, hidden: Tensor) -> Tensor:
    """Positions of feature maps ``(N, C, H, W)`` as tokens ``(N, HW, C)``."""
    if hidden.ndim == 3:
        return hidden
    if site.pick not in ("auto", "mean"):
        raise ValueError(
            f"The `pick` {site.pick!r} of `LatentSite` is for tokens (N, T, D), but "
            f"{site.named} gives {tuple(hidden.shape)}. Use 'mean', 'flatten' or a function."
        )
    return hidden.flatten(2).transpose(1, 2)


def pool(site: LatentSite, hidden: Tensor, mask: Tensor | None) -> Tensor:
    """One latent an example, at least float32: ``(N, D)``."""
    if callable(site.pick):
        z = site.pick(hidden)
        if not isinstance(z, Tensor) or z.ndim != 2 or not z.is_floating_point():
            shape = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
            raise ValueError(
                "The `pick` of `LatentSite` must return real numbers (N, D), one row an example. "
                f"Got {shape} from {tuple(hidden.shape)}."
            )
    else:
        z = hidden
    wide = z.to(torch.promote_types(z.dtype, torch.float32))
    if wide.ndim <= 2 or site.pick == "flatten":
        return wide.reshape(len(wide), -1)
    wide = _tokens(site, wide)
    chosen = _chosen(site, wide, mask).unsqueeze(2)
    # What padding holds may be nan: it is left out, not multiplied by 0.
    return torch.where(chosen, wide, 0).sum(1) / chosen.sum(1)


def spread(site: LatentSite, change: Tensor, hidden: Tensor, mask: Tensor | None) -> Tensor:
    """Change of the layer's tensor that changes its latents by ``(N, D)``."""
    if hidden.ndim <= 2 or site.pick == "flatten":
        return change.reshape(hidden.shape).to(hidden.dtype)
    tokens = _tokens(site, hidden)
    spread = _chosen(site, tokens, mask).unsqueeze(2) * change.unsqueeze(1)
    if hidden.ndim > 3:
        spread = spread.transpose(1, 2).reshape(hidden.shape)
    return spread.to(hidden.dtype)
