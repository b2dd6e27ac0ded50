"""Tail index of the gradient norm: Hill, with the interval and the null that it deserves."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from foreshock.estimators.norms import NO_GRADIENT
from foreshock.probe.moment import Moment
from foreshock.stats.tails import hill, hill_null
from foreshock.types import Estimate, Flag, Readings, SeriesInfo

#: Roundings between a gradient and its clipped norm: coefficient, product, norm, and one to spare.
ROUNDINGS = 4
#: Norms below .01 could spread by more after clipping; then it is not told from chance. Ad hoc.
LARGEST_CLIP_SPREAD = 1e-4


@dataclass(frozen=True)
class HillNorms:
    """Hill's tail index of the last ``window`` gradient norms, unclipped.

    α̂ = 1/mean log(X_(i)/X_(k+1)) over the k largest. Its standard deviation is α/√k, so k = 10 of
    100 leaves ±30 %. A drift of the norm inside the window reads as a tail too; norms of different
    steps are taken as independent.

    **Null.** Norms of Gaussian gradients of *any* covariance: from 2.9, where all noise lies along
    one direction (k = 10 of 100), to the top of isotropic noise in as many dimensions as there are
    weights (328 in 3,202, 5,700 in a million). Real noise has few effective dimensions, so real
    readings lie near the bottom of the band, and only a reading *below* it says anything: heavier
    than any Gaussian, or a drift.

    **Clipping.** Clipped norms differ by rounding only. The reading is missing where the k+1
    largest norms, or the 3 largest, are equal up to rounding in the type of the gradients; take the
    norms that ``clip_grad_norm_`` returns and pass them to `foreshock.stats.tails.hill`. In
    bfloat16 rounding is 3 %, so readings above about 100 are missing with or without clipping.

    Cost: the gradient norm.

    Args:
        window: Norms kept.
        k: Size of the tail; a tenth of the window if not given.

    Raises:
        ValueError: If ``window`` is no whole number or below 20, or ``k`` is none or does not
            leave a threshold inside the window.

    Examples:
        >>> HillNorms(window=100).tail
        10
    """

    window: int = 100
    k: int | None = None
    name: str = "tails"
    needs: frozenset[str] = frozenset({"gradients"})
    price: float = 0.1
    stride: int = 0

    def __post_init__(self) -> None:
        for field in ("window", "k"):
            value = getattr(self, field)
            given = field == "window" or value is not None
            if given and (isinstance(value, bool) or not isinstance(value, int)):
                raise ValueError(
                    f"The `{field}` of `HillNorms` must be a whole number. Got {value!r}."
                )
        if self.window < 20:
            raise ValueError(f"The `window` of `HillNorms` must be at least 20. Got {self.window}.")
        if self.k is not None and not 2 <= self.k < self.window:
            raise ValueError(
                f"The `k` of `HillNorms` must lie between 2 and window - 1. Got {self.k}."
            )

    @property
    def tail(self) -> int:
        """Number of order statistics in the tail."""
        return self.k or self.window // 10

    @property
    def series(self) -> tuple[SeriesInfo, ...]:
        """What every measurement writes."""
        null = "Gaussian gradients of any covariance: only a reading below the band means anything"
        return (
            SeriesInfo(
                "tails/hill",
                "Hill index of gradient norms",
                "1",
                null,
                formula="k / Σ_{i≤k} log(X_(i)/X_(k+1)), X the last norms in descending order",
                oracle="the textbook loop; exact Pareto samples; the law of Gaussian norms",
                source="Hill, Ann. Stat. 3 (1975) 1163; levy.md 1, signal.md 11.5 without the clip",
            ),
        )

    def init(self) -> tuple[float, ...]:
        """No norms yet."""
        return ()

    def update(
        self, state: tuple[float, ...], moment: Moment
    ) -> tuple[tuple[float, ...], Readings]:
        """Add one norm, and read the index once the window is full."""
        if all(g is None for g in moment.gradients):
            return state, Readings({"tails/hill": Estimate.missing(NO_GRADIENT)})
        norms = (*state, moment.gradient_norm)[-self.window :]
        if len(norms) < self.window:
            sentence = f"The window of {self.window} gradient norms is not full yet."
            return norms, Readings({"tails/hill": Estimate.missing(sentence, n=len(norms))})
        equal = self._equal_up_to_rounding(norms, moment)
        if equal:
            missing = Estimate.missing(equal, flags=Flag.BELOW_PRECISION, n=len(norms))
            return norms, Readings({"tails/hill": missing})
        dimension = sum(p.numel() for p in moment.view.parameters)
        heaviest = hill_null(self.window, self.tail, 1)[0]
        lightest = hill_null(self.window, self.tail, dimension)[1]
        estimate = hill(norms, self.tail, null=(heaviest, lightest))
        return norms, Readings({"tails/hill": estimate})

    def _equal_up_to_rounding(self, norms: tuple[float, ...], moment: Moment) -> str:
        """A sentence if the largest norms differ by no more than the arithmetic that made them."""
        top = sorted(norms, reverse=True)[: self.tail + 1]
        if not (0 < top[-1] and top[0] < math.inf):  # also False for nan
            return ""
        eps = max(torch.finfo(g.dtype).eps for g in moment.gradients if g is not None)
        # Torch clips to c N/(N + 1e-6): a spread of up to 1e-6/c. Capped, for norms that small.
        rounding = ROUNDINGS * eps + min(1e-6 / top[0], LARGEST_CLIP_SPREAD)
        few = min(ROUNDINGS * eps, LARGEST_CLIP_SPREAD) + min(1e-6 / top[0], LARGEST_CLIP_SPREAD)
        if math.log(top[0] / top[-1]) <= rounding:
            count = len(top)
        elif math.log(top[0] / top[2]) <= few:
            count = 3
        else:
            return ""
        return (
            f"The {count} largest gradient norms are equal up to rounding, as after clipping: "
            "their tail was cut off. Pass the norms that `clip_grad_norm_` returns to "
            "`foreshock.stats.tails.hill`."
        )
