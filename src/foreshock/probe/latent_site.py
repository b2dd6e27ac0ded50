"""`LatentSite`: which latents of a model are meant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

PICKS = ("auto", "mean", "last", "flatten")


@dataclass(frozen=True)
class LatentSite:
    """Where the latents z of a model are, and how one vector an example is made of them.

    Args:
        layer: Name of a module of the model, or a regular expression: an exact name wins, then
            one whole name, then the one name in which the pattern is found. Or a function
            ``(model, batch) -> (N, D)``, which then is called instead of the loss.
        pick: What becomes of more than two axes. ``"auto"`` and ``"mean"``: the mean over tokens
            of (N, T, D), over positions of (N, C, H, W). ``"last"`` or an index: that token of
            (N, T, D). ``"flatten"``: all of it. Or a function of the layer's first tensor that
            returns (N, D). Where the batch holds an ``attention_mask`` (N, T), the mean and the
            last are those of the tokens it keeps. (N, D) is taken as it is.
        side: The layer's ``"output"``, or its first ``"input"``: a ReLU is often a function, and
            then the activations are the input of the next layer.

    Of a tuple, list, mapping or dataclass the first tensor of real numbers with N rows is taken. A
    module called several times in one evaluation of the loss counts at its last call. For 1-D
    convolutions, (N, C, L), the mean would be over channels: pass ``"flatten"`` or a function.

    Raises:
        ValueError: If an argument is none of these.

    Examples:
        >>> LatentSite("hidden").pick
        'auto'
        >>> LatentSite("hidden", pick="first")
        Traceback (most recent call last):
        ...
        ValueError: The `pick` of `LatentSite` must be one of ('auto', 'mean', 'last', 'flatten'),
        the index of a token, or a function of the layer's tensor. Got 'first'.
    """

    layer: str | Callable[[Any, Any], Any]
    pick: str | int | Callable[[Any], Any] = "auto"
    side: str = "output"

    def __post_init__(self) -> None:
        if not isinstance(self.layer, str) and not callable(self.layer):
            raise ValueError(
                "The `layer` of `LatentSite` must be the name of a module, a regular expression, "
                f"or a function of (model, batch). Got {type(self.layer).__name__}."
            )
        pick = self.pick
        index = isinstance(pick, int) and not isinstance(pick, bool)
        if pick not in PICKS and not index and not callable(pick):
            raise ValueError(
                f"The `pick` of `LatentSite` must be one of {PICKS}, the index of a token, or a "
                f"function of the layer's tensor. Got {pick!r}."
            )
        if self.side not in ("output", "input"):
            raise ValueError(
                f"The `side` of `LatentSite` must be 'output' or 'input'. Got {self.side!r}."
            )

    @property
    def named(self) -> str:
        """The layer as a sentence names it."""
        return f"the layer {self.layer!r}" if isinstance(self.layer, str) else "`layer`"
