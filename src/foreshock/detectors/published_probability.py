"""Published numbers that are said to be probabilities, as forecasters to be scored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from foreshock.types import NAN, Estimate, Probability


@dataclass(frozen=True)
class PublishedProbability:
    """A recorded number in [0, 1], read as P(event within h) as it stands; nothing is fitted.

    ``PublishedProbability.phi`` is Φ(C, S, dρ/dt) of levy, "≈ P(generalization jump |
    observables)"; ``PublishedProbability.p`` is p = C/(1 + C) of signal, the "probability step
    helps generalization". Neither source names a horizon, so every h is as good as another, and a
    number that does not grow with h cannot be calibrated at more than one.

    The last finite reading counts, however old it is.

    Args:
        series: Name of the series.
        event: Name of the event.
        within: h, in optimizer steps.
        source: The document.

    Raises:
        ValueError: If ``within`` is not positive.

    Examples:
        >>> rule = PublishedProbability.p("onset", 100)
        >>> state, p = rule.update(rule.init(), 10, {"grad/p_published": Estimate(0.4)})
        >>> p.value, rule.at(rule.init(), 10).value
        (0.4, nan)
    """

    series: str
    event: str
    within: int
    source: str = ""

    def __post_init__(self) -> None:
        if self.within < 1:
            raise ValueError(
                f"The `within` of `PublishedProbability` must be positive. Got {self.within}."
            )

    @classmethod
    def phi(cls, event: str, within: int) -> PublishedProbability:
        """Φ of levy, which `PublishedLevy` records by its own formula.

        Args:
            event: Name of the event.
            within: h, in optimizer steps.

        Returns:
            The forecaster.
        """
        return cls("published/phi_levy", event, within, "levy")

    @classmethod
    def p(cls, event: str, within: int) -> PublishedProbability:
        """The p = C/(1 + C) of signal, which `GradientNoise` records.

        Args:
            event: Name of the event.
            within: h, in optimizer steps.

        Returns:
            The forecaster.
        """
        return cls("grad/p_published", event, within, "signal")

    @property
    def reads(self) -> tuple[str, ...]:
        """The one series."""
        return (self.series,)

    def init(self) -> float:
        """No reading."""
        return NAN

    def take(self, state: float, step: int, values: Mapping[str, Estimate]) -> float:
        """The last finite reading."""
        value = values[self.series].value if self.series in values else NAN
        return value if math.isfinite(value) else state

    def at(self, state: float, step: int) -> Probability:
        """The reading itself; nan before the first and outside [0, 1], with a sentence."""
        if math.isnan(state):
            sentence = f"{self.series} has no reading yet."
            return Probability(self.event, self.within, NAN, basis=sentence)
        if not 0 <= state <= 1:
            sentence = f"{self.series} is {state:.3g}, which is no probability."
            return Probability(self.event, self.within, NAN, basis=sentence)
        basis = f"as published ({self.source})" if self.source else "as recorded"
        return Probability(self.event, self.within, state, basis=basis)

    def update(
        self, state: float, step: int, values: Mapping[str, Estimate]
    ) -> tuple[float, Probability]:
        """Take the values of a step, and the probability at it."""
        after = self.take(state, step, values)
        return after, self.at(after, step)
