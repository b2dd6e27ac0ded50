"""Phi, the published likelihood of a jump from C, S and the rate of the log-determinant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from foreshock.detectors.reading import resolved_row
from foreshock.stats.published import phi_levy
from foreshock.types import Alarm, Estimate


@dataclass(frozen=True)
class PublishedPhi:
    """Alarm at every record with Phi > `threshold`; the value of the alarm is Phi.

    Source: levy, unified law. Phi = exp(-[(C-1)^2/2 sigma1^2 + S^2/2 sigma2^2 + (r-mu)^2/2
    sigma3^2]) with the four fitted numbers of the text. It names no level of Phi to act on, so
    `threshold`, the fifth, is ours: exp(-1/2), what one number one width off its centre gives. As
    written it uses the present only and is causal.

    Kept to be tested, not to be followed: called a probability of a jump, it is 1 at its peak at
    every step it stays there; it knows only r near +1, where the rule takes both signs; and its
    widths are in the units of the loss.

    Alarms per 10,000 values as measured (``foreshock bench published_detectors``) on C = 1, S = 0
    and r = 0 with standard deviations .2, .1 and .5, where nothing happens: 706 on white noise, 716
    and 734 on AR(1) noise with coefficient .5 and .9, 0 [0, .7] on exponential decays.

    Args:
        series: C to read.
        margin: S to read.
        rate: r = d rho/dt to read.
        sigma1: Width in C.
        sigma2: Width in S.
        sigma3: Width in r.
        mu: Centre in r.
        threshold: Phi must be more.
        name: Name of the detector.

    Raises:
        ValueError: If a width is not positive or ``threshold`` is not in [0, 1).

    Examples:
        >>> rule = PublishedPhi()
        >>> row = dict(zip(rule.reads, map(Estimate.plain, (1.0, 0.0, 1.0))))
        >>> rule.update(None, 3, row)[1].value
        1.0
    """

    series: str = "published/c_levy_code"
    margin: str = "published/s_levy"
    rate: str = "published/drho_levy"
    sigma1: float = 0.3
    sigma2: float = 0.15
    sigma3: float = 0.5
    mu: float = 1.0
    threshold: float = 0.6065
    name: str = "published_phi"

    def __post_init__(self) -> None:
        if not min(self.sigma1, self.sigma2, self.sigma3) > 0:
            raise ValueError(
                "The `sigma1`, `sigma2` and `sigma3` of `PublishedPhi` must be positive. Got "
                f"{self.sigma1}, {self.sigma2} and {self.sigma3}; as published .3, .15 and .5."
            )
        if not 0 <= self.threshold < 1:
            raise ValueError(
                "The `threshold` of `PublishedPhi` must lie in [0, 1), since Phi is at most 1. Got "
                f"{self.threshold}."
            )

    @property
    def reads(self) -> tuple[str, ...]:
        """C, S and the rate."""
        return (self.series, self.margin, self.rate)

    def init(self) -> None:
        """It has no memory."""

    def update(
        self, state: None, step: int, values: Mapping[str, Estimate]
    ) -> tuple[None, Alarm | None]:
        """Compute Phi of one step; without all three numbers nothing happens."""
        row = resolved_row(self.reads, values)
        if row is None:
            return None, None
        c, s, r = (one.value for one in row)
        phi = phi_levy(c, s, r, self.sigma1, self.sigma2, self.sigma3, self.mu)
        if not phi > self.threshold:
            return None, None
        sentence = f"The published Phi is {phi:.3g} at C = {c:.3g}, S = {s:.3g}, r = {r:.3g}."
        return None, Alarm(step, self.name, self.series, phi, self.threshold, sentence)
