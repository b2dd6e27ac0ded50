"""A published table of regimes as a detector: an alarm with a label at every change of regime."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from foreshock.detectors.reading import resolved_row
from foreshock.detectors.regime_tables import TABLES
from foreshock.types import NAN, Alarm, Estimate


@dataclass(frozen=True)
class RegimeState:
    """Regime in force and its last first number; what may follow, and for how many records."""

    label: str = ""
    last: float = NAN
    next: str = ""
    streak: int = 0


@dataclass(frozen=True)
class RegimeRibbon:
    """The regime by one of the published tables: an alarm with its `label` at every change.

    The first regime is raised too, so that the labels cover the run from its first record on; the
    report draws them as a ribbon. The tables are ``signal_p`` and ``signal_c`` (12.1, five states
    with actions), ``signal_phase`` (5), ``signal_i`` (6.3), ``langevin`` (3), ``fokker_planck``
    (7.1), ``levy`` (three partial regimes and the alignment), ``levy_s`` and ``spectral_edge`` (A).
    As published a single record changes the regime (`persist` = 1); with `persist` > 1 the new
    regime must stand for so many records, and starts at the last of them. An alarm names as its
    threshold the first edge that its first number crossed, the nearest one of a first regime and
    where "about" decided, and nan where another number did.

    Kept to be tested, not to be followed. The numbers of all tables but ``signal_i`` follow the
    batch size or the unit of loss, weights or latents, so these choose the regime: the two columns
    of one table (``signal_p``, ``signal_c``) even disagree between C = 2/3 and .67. Changes per
    10,000 values as measured (``foreshock bench published_detectors``) where nothing happens, the
    numbers on an edge with the noise stated there: ``signal_p`` 7,200 on white noise, 6,000 and
    3,200 on AR(1) noise with coefficient .5 and .9, 450 on an exponential decay (40, 120, 476 and
    11 with `persist` = 5); the other tables 3,300 to 6,700 on white and AR(1) .5 noise, but
    ``spectral_edge`` 5 to 11 within its factor of 3.

    Args:
        table: Which table.
        series: Its first number; default the published series of the table.
        width: What "about" and "large" mean, where the document does not say; default .05 of p
            (``signal_phase``), .2 of C (``langevin``), a factor of 3 of A (``spectral_edge``); the
            published .5 of the rate (``levy``).
        persist: Records in a row that make a change.
        name: Name of the detector; from the table if not given.

    Raises:
        ValueError: If there is no such table, or an argument is out of range.

    Examples:
        >>> rule, labels = RegimeRibbon("langevin"), []
        >>> state = rule.init()
        >>> for t, c in enumerate([20.0, 15.0, 5.0, 1.1, 0.3]):
        ...     state, alarm = rule.update(state, t, {"published/c_langevin": Estimate.plain(c)})
        ...     labels += [(alarm.step, alarm.label)] if alarm else []
        >>> labels
        [(0, 'deterministic'), (2, 'transitional'), (3, 'critical'), (4, 'diffusive')]
    """

    table: str = "signal_p"
    series: str = ""
    width: float = 0.0
    persist: int = 1
    name: str = ""

    def __post_init__(self) -> None:
        if self.table not in TABLES:
            raise ValueError(
                f"The `table` of `RegimeRibbon` must be one of {', '.join(TABLES)}. Got "
                f"{self.table!r}."
            )
        if self.persist < 1 or not self.width >= 0:
            raise ValueError(
                "The `persist` of `RegimeRibbon` must be at least 1 and its `width` positive, or 0 "
                f"for the table's own. Got {self.persist} and {self.width}."
            )
        table = TABLES[self.table]
        if self.table == "spectral_edge" and 0 < self.width < 1:
            raise ValueError(
                "The `width` of `RegimeRibbon('spectral_edge')` is a factor of at least 1. Got "
                f"{self.width}."
            )
        object.__setattr__(self, "series", self.series or table.reads[0])
        object.__setattr__(self, "width", self.width or table.width)
        object.__setattr__(self, "name", self.name or f"regime({self.table})")

    @property
    def reads(self) -> tuple[str, ...]:
        """The numbers of its table."""
        return (self.series, *TABLES[self.table].reads[1:])

    def init(self) -> RegimeState:
        """No regime."""
        return RegimeState()

    def update(
        self, state: RegimeState, step: int, values: Mapping[str, Estimate]
    ) -> tuple[RegimeState, Alarm | None]:
        """Name the regime of one step; without all its numbers nothing happens."""
        row = resolved_row(self.reads, values)
        if row is None:
            return state, None
        table = TABLES[self.table]
        x = row[0].value
        label = table.label([one.value for one in row], self.width)
        if label == state.label:
            return RegimeState(label, x), None
        streak = state.streak + 1 if label == state.next else 1
        # There is nothing that a first regime would have to stand against.
        if state.label and streak < self.persist:
            return replace(state, next=label, streak=streak), None
        change = f"went from {state.label} to {label}" if state.label else f"begins as {label}"
        advice = table.advice.get(label, "the document has no word for it")
        numbers = ", ".join(
            f"{name} = {one.value:.3g}" for name, one in zip(self.reads, row, strict=True)
        )
        sentence = f"The regime {change} at {numbers}. {table.source}: {advice}."
        edge = _crossed(table.edges, state.last, x)
        if math.isnan(edge) and (not state.label or len(row) == 1):
            edge = min(table.edges, key=lambda one: abs(one - x))
        alarm = Alarm(step, self.name, self.series, x, edge, sentence, label=label)
        return RegimeState(label, x), alarm


def _crossed(edges: Sequence[float], old: float, new: float) -> float:
    """The first edge on the way; ``NAN`` where there is none and another number decided."""
    between = [edge for edge in edges if min(old, new) <= edge <= max(old, new)]
    return min(between, key=lambda edge: abs(edge - old)) if between else NAN
