"""The triple alignment on numbers without units, resolved by their intervals, and its parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from foreshock.detectors.alignment import (
    MEMORY,
    aligned,
    check_threshold,
    chosen_parts,
    name_of,
    tau_of,
)
from foreshock.detectors.reading import ends, resolved_row
from foreshock.types import Alarm, Estimate


@dataclass(frozen=True)
class TripleAlignmentState:
    """Past rates, records in a row on which all held, and whether that was reported."""

    rates: tuple[float, ...] = ()
    streak: int = 0
    inside: bool = False


@dataclass(frozen=True)
class TripleAlignment:
    r"""Alarm when C ~ 1, the edge of stability and a moving kernel have come together, resolved.

    The causal form on `Triple`, whose three numbers are free of units: the whole 95 % intervals of
    C and of eta lambda/2 lie within `c_width` and `s_width` of 1, and that of r, in nat/step, lies
    beyond tau on one side, at `confirm` records in a row. Once an alignment: a record on which a
    condition fails for certain arms it again. The default tau is the .95 quantile of \|r\| over the
    last 100 records (the task's own), from the 21st on; a number is taken as it is.

    An alignment is three numbers in three bands. That something follows is for the ledger. As
    measured (``foreshock bench published_detectors``) with intervals of +-.1 of C and +-.05 of the
    edge about 1, and a kernel that does not move beyond its noise: 0 [0, .7] per 10,000 values on
    white and AR(1) noise and on decays; C and the edge alone, which are there for good, alarm once
    in each of 10 runs of 5,000 records. That 0 alone is arithmetic (a rate must leave its noise by
    3.9 standard deviations twice running); a planted alignment of 20 records with a rate of ten
    standard deviations was found in 29 of 30 runs, with no alarm elsewhere. An alarm lists the
    numbers.

    Args:
        series: C to read.
        margin: eta lambda/2 to read; 1 is the edge.
        rate: r to read.
        c_width: Half-width of the window of C.
        s_width: Half-width of the edge: the published .1, of a pure number here.
        threshold: tau, or ``None``.
        parts: Which of ``"c"``, ``"s"``, ``"r"`` must hold.
        confirm: Records in a row.
        name: Name of the detector; from the parts if not given.

    Raises:
        ValueError: If an argument is out of range.

    Examples:
        >>> rule, alarms = TripleAlignment(threshold=0.01), []
        >>> state = rule.init()
        >>> for t, (c, s, r) in enumerate([(3, 0.5, 0), (1, 1, 0.1), (1, 1, 0.1), (1, 1, 0.1)]):
        ...     row = dict(zip(rule.reads, map(Estimate.plain, (c, s, r))))
        ...     state, alarm = rule.update(state, t, row)
        ...     alarms += [alarm.step] if alarm else []
        >>> alarms
        [2]
    """

    series: str = "triple/c"
    margin: str = "triple/s"
    rate: str = "triple/rho"
    c_width: float = 0.2
    s_width: float = 0.1
    threshold: float | None = None
    parts: Sequence[str] = ("c", "s", "r")
    confirm: int = 2
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", chosen_parts(self.parts, "TripleAlignment"))
        check_threshold(self.threshold, "TripleAlignment")
        if not (self.c_width > 0 and self.s_width > 0 and self.confirm >= 1):
            raise ValueError(
                "The `c_width` and `s_width` of `TripleAlignment` must be positive and its "
                f"`confirm` at least 1. Got {self.c_width}, {self.s_width} and {self.confirm}."
            )
        if not self.name:
            object.__setattr__(self, "name", name_of("triple_alignment", self.parts))

    @property
    def reads(self) -> tuple[str, ...]:
        """The series of its parts."""
        names = {"c": self.series, "s": self.margin, "r": self.rate}
        return tuple(names[part] for part in self.parts)

    def init(self) -> TripleAlignmentState:
        """Nothing seen."""
        return TripleAlignmentState()

    def update(
        self, state: TripleAlignmentState, step: int, values: Mapping[str, Estimate]
    ) -> tuple[TripleAlignmentState, Alarm | None]:
        """Take the values of one step; without all of them nothing happens."""
        row = resolved_row(self.reads, values)
        if row is None:
            return state, None
        tau, rates = tau_of(self.threshold, state.rates), state.rates
        if self.threshold is None and "r" in self.parts:
            rate = abs(row[self.parts.index("r")].value)
            rates = (*rates, rate)[-MEMORY:]
        holds, fails = True, False
        for part, one in zip(self.parts, row, strict=True):
            low, high = ends(one)
            if part == "r":
                within, out = low > tau or high < -tau, -tau <= low and high <= tau
            else:
                width = self.c_width if part == "c" else self.s_width
                within = 1 - width <= low and high <= 1 + width
                out = high < 1 - width or low > 1 + width
            holds, fails = holds and within, fails or out
        streak = min(state.streak + 1, self.confirm) if holds else 0
        fires = streak >= self.confirm and not state.inside
        after = TripleAlignmentState(rates, streak, not fails and (state.inside or fires))
        if not fires:
            return after, None
        return after, aligned(self.name, step, self.reads, self.parts, row, tau, edge=1.0)
