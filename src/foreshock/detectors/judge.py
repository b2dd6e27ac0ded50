"""`Judge`: feed recorded values to detectors, live or in replay, with the same outcome."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from foreshock.types import Alarm, Detector, Estimate


class Judge:
    """Runs detectors over steps in order. The monitor and ``foreshock replay`` both use it.

    Args:
        detectors: Rules with distinct names.
        on_error: Called with a detector and its exception when it fails; it is then dropped.
            Without it the exception is raised.
        heard: Names of detectors whose alarms something is done on: they are shown no finite
            number that is flagged, so that no action rests on one, whatever they sum up. What is
            not finite they see, and its alarms lead to nothing (`foreshock.policies.Alarmed`).
            A run that was resumed may have other names in each part: pairs of its first step and
            the names, in order.

    Raises:
        ValueError: If two detectors share a name.

    Examples:
        >>> from foreshock.detectors import CUSUM
        >>> judge = Judge([CUSUM("loss", warmup=5)])
        >>> rows = [(t, {"loss": Estimate.exact(1.0 + 0.01 * (-1) ** t)}) for t in range(20)]
        >>> [alarm for step, values in rows for alarm in judge.feed(step, values)]
        []
    """

    def __init__(
        self,
        detectors: Iterable[Detector],
        on_error: Callable[[Detector, Exception], None] | None = None,
        *,
        heard: Iterable[tuple[int, Collection[str]]] = (),
    ) -> None:
        self.detectors = list(detectors)
        names = [d.name for d in self.detectors]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"Two detectors are called {name!r}; give one of them another `name`."
                )
        self._states: dict[str, Any] = {d.name: d.init() for d in self.detectors}
        self._on_error = on_error
        self._parts = list(heard)
        self._heard: Collection[str] = frozenset()

    @property
    def reads(self) -> frozenset[str]:
        """All series that some detector reads."""
        return frozenset(name for d in self.detectors for name in d.reads)

    def feed(self, step: int, values: Mapping[str, Estimate]) -> list[Alarm]:
        """All values of one step, complete; the alarms it fires."""
        while self._parts and step >= self._parts[0][0]:
            self._heard = self._parts.pop(0)[1]
        alarms: list[Alarm] = []
        for detector in list(self.detectors):
            seen = {name: values[name] for name in detector.reads if name in values}
            if detector.name in self._heard:
                seen = {n: e for n, e in seen.items() if not (e.flags and math.isfinite(e.value))}
            if not seen:
                continue
            try:
                state, alarm = detector.update(self._states[detector.name], step, seen)
            except Exception as error:
                if self._on_error is None:
                    raise
                self.detectors.remove(detector)
                self._on_error(detector, error)
                continue
            self._states[detector.name] = state
            if alarm is not None:
                alarms.append(alarm)
        return alarms
