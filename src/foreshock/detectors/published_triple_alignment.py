"""The published triple alignment of C, S and the rate of the log-determinant, and its parts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from foreshock.detectors.alignment import (
    CONDITIONS,
    MEMORY,
    aligned,
    check_threshold,
    chosen_parts,
    name_of,
    tau_of,
)
from foreshock.detectors.reading import resolved_row
from foreshock.stats.published import components_levy
from foreshock.types import Alarm, Estimate


@dataclass(frozen=True)
class PublishedTripleAlignment:
    r"""Alarm at every record with C in [.8, 1.2], S in [-.1, .1] and \|r\| > tau, as published.

    Source: levy, unified law and `check_criticality`. Any one or two of the conditions are rules of
    their own: ``parts=("c", "s")``. The listing has tau = .5; the text calls tau task-dependent and
    does not say how to find it: ``threshold=None`` is our reading, the .95 quantile of \|r\| over
    the last 100 records, from the 21st on.

    Kept to be tested, not to be followed: C and S have units, so those of the loss decide, and r
    jumps by 13.8 whenever an eigenvalue passes 1e-6. That three conditions seldom hold together is
    arithmetic and no precursor.

    Alarms per 10,000 values as measured (``foreshock bench published_detectors``) on C = 1, S = 0
    and r = 0 with standard deviations .2, .1 and .5, where nothing happens: 1,450 to 1,490 on white
    and AR(1) noise, with the task's tau 267 on white noise, 273 and 331 with coefficients .5 and
    .9; C or S alone 6,800, r alone 3,100, C and S 4,660, r with either 2,190 to 2,230. On decays
    that cross the bands at different times: C alone 810, S 4,000, r 1,380, any two or all three 0.
    A planted alignment of the measured quantities, 20 records at C = 1, S = 1 and r = 5, was found
    in 0 of 30 runs, as its S is to be 0. An alarm lists the numbers.

    Args:
        series: C to read.
        margin: S to read.
        rate: r = d rho/dt to read.
        threshold: tau, or ``None``.
        parts: Which of ``"c"``, ``"s"``, ``"r"`` must hold.
        name: Name of the detector; from the parts if not given.

    Raises:
        ValueError: If ``parts`` is empty or has other letters, or ``threshold`` is negative.

    Examples:
        >>> rule = PublishedTripleAlignment()
        >>> row = dict(zip(rule.reads, map(Estimate.plain, (1.0, 0.0, -0.7))))
        >>> rule.update(rule.init(), 3, row)[1].step
        3
        >>> PublishedTripleAlignment(parts=("c", "s")).name
        'published_triple_alignment(c, s)'
    """

    series: str = "published/c_levy_code"
    margin: str = "published/s_levy"
    rate: str = "published/drho_levy"
    threshold: float | None = 0.5
    parts: Sequence[str] = ("c", "s", "r")
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", chosen_parts(self.parts, "PublishedTripleAlignment"))
        check_threshold(self.threshold, "PublishedTripleAlignment")
        if not self.name:
            object.__setattr__(self, "name", name_of("published_triple_alignment", self.parts))

    @property
    def reads(self) -> tuple[str, ...]:
        """The series of its parts."""
        names = {"c": self.series, "s": self.margin, "r": self.rate}
        return tuple(names[part] for part in self.parts)

    def init(self) -> tuple[float, ...]:
        """No past rates."""
        return ()

    def update(
        self, state: tuple[float, ...], step: int, values: Mapping[str, Estimate]
    ) -> tuple[tuple[float, ...], Alarm | None]:
        """Compare the numbers of one step; without all of them nothing happens."""
        row = resolved_row(self.reads, values)
        if row is None:
            return state, None
        # A part that is not asked for is given a number that no flag depends on.
        given = dict.fromkeys(CONDITIONS, math.inf)
        given |= {part: one.value for part, one in zip(self.parts, row, strict=True)}
        after = state
        if self.threshold is None and "r" in self.parts:
            after = (*state, abs(given["r"]))[-MEMORY:]
        tau = tau_of(self.threshold, state)
        flags = components_levy(given["c"], given["s"], given["r"], tau)
        if not all(flags[CONDITIONS[part]] for part in self.parts):
            return after, None
        return after, aligned(self.name, step, self.reads, self.parts, row, tau, edge=0.0)
