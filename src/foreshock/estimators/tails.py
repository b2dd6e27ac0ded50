"""Tail index of the gradient norm: Hill, with the interval and the null that it deserves."""

from __future__ import annotations

from dataclasses import dataclass

from foreshock.estimators.norms import NO_GRADIENT
from foreshock.probe.moment import Moment
from foreshock.stats.tails import hill, hill_null
from foreshock.types import Estimate, Readings, SeriesInfo


@dataclass(frozen=True)
class HillNorms:
    """Hill's tail index of the last ``window`` gradient norms, unclipped.

    α̂ = 1/mean log(X_(i)/X_(k+1)) over the k largest. Its standard deviation is α/√k, so k = 10 of
    100 leaves ±30 %. On norms of a light-tailed gradient in d dimensions it reads 12 to 184, not 2:
    that band is the null, drawn for the number of parameters at hand (an isotropic Gaussian; a
    spiky covariance reads lower). A drift of the norm inside the window reads as a tail too.

    Cost: the gradient norm.

    Args:
        window: Norms kept.
        k: Size of the tail; a tenth of the window if not given.

    Raises:
        ValueError: If ``window`` is below 20 or ``k`` does not leave a threshold inside it.

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
        null = "Gaussian gradients in as many dimensions"
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
        """Add one norm, and read the index once the window is half full."""
        if all(g is None for g in moment.gradients):
            return state, Readings({"tails/hill": Estimate.missing(NO_GRADIENT)})
        norms = (*state, moment.gradient_norm)[-self.window :]
        if len(norms) < self.window:
            sentence = f"The window of {self.window} gradient norms is not full yet."
            return norms, Readings({"tails/hill": Estimate.missing(sentence, n=len(norms))})
        dimension = sum(p.numel() for p in moment.view.parameters)
        estimate = hill(norms, self.tail, null=hill_null(self.window, self.tail, dimension))
        return norms, Readings({"tails/hill": estimate})
