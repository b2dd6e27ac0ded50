"""`Promises`: the series that observables may write, declared with where they are taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from foreshock.monitor import door
from foreshock.monitor.presets import Choice
from foreshock.probe.spec import Probe
from foreshock.probe.view import ModelView
from foreshock.store import Run
from foreshock.types import Observable, Readings


class Promises:
    """Declares what the chosen observables promise, and holds them to it.

    Args:
        choice: The observables, and what was left out.
        probe: The data they measure on.
        view: Of the model.
        run: Where the series are declared.

    Attributes:
        observables: By name.
        names: Of all promised series.
    """

    def __init__(self, choice: Choice, probe: Probe | None, view: ModelView, run: Run) -> None:
        self.observables: dict[str, Observable] = {o.name: o for o in choice.observables}
        self.names = {s.name for o in choice.observables for s in o.series}
        self._run = run
        self._parts: set[str] = set()
        self._taken_at: dict[str, str] = {}
        described = []
        for observable in choice.observables:
            where = door.taken_at(observable, probe, view)
            self._taken_at[observable.name] = where
            for info in observable.series:
                run.declare(
                    info.name, title=info.title, unit=info.unit, taken_at=where, null=info.null
                )
            described.append(
                {
                    "name": observable.name,
                    "series": [asdict(info) for info in observable.series],
                    "needs": sorted(observable.needs),
                    "price": observable.price,
                }
            )
        left_out = [{"name": name, "reason": reason} for name, reason in choice.left_out]
        run.event("observables", "monitor", {"observables": described, "left_out": left_out})

    def only(self, name: str, readings: Readings, say: Callable[[str, str], None]) -> Readings:
        """What an observable promised; parts of the model are declared when they first appear.

        Args:
            name: Of the observable.
            readings: What it wrote.
            say: Called with a key and a sentence on what is left out.

        Returns:
            The rest.
        """
        promised = {info.name: info for info in self.observables[name].series}
        kept = {}
        for series, estimate in readings.scalars.items():
            base, _, part = series.partition("@")
            info = promised.get(base)
            if info is None or (part and not info.layered):
                sentence = f"{name} wrote {series!r}, which its `series` does not promise; skipped."
                say(series, sentence)
                continue
            if part and series not in self._parts:
                title, where = f"{info.title}, {part}", self._taken_at[name]
                self._run.declare(
                    series, title=title, unit=info.unit, taken_at=where, null=info.null
                )
                self._parts.add(series)
            kept[series] = estimate
        return Readings(kept, readings.arrays)
