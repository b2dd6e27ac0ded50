"""Detectors and alarms as they are written into a run, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass
from typing import Any, Protocol

from foreshock.detectors.c_falling import CFalling, PublishedCFalling
from foreshock.detectors.c_window import CWindow, PublishedCWindow
from foreshock.detectors.calibration import Calibration
from foreshock.detectors.change_point import ChangePoint
from foreshock.detectors.conformal_alarm import ConformalAlarm
from foreshock.detectors.critical_slowing import CriticalSlowing
from foreshock.detectors.cusum import CUSUM
from foreshock.detectors.divergence import Divergence
from foreshock.detectors.ewma import EWMA
from foreshock.detectors.forecast_alarm import ForecastAlarm
from foreshock.detectors.forecasters import OnsetRatio
from foreshock.detectors.gap_events import GapCollapse, GapOpening
from foreshock.detectors.gold_selection import GoldSelection
from foreshock.detectors.gold_turnover import GoldTurnover
from foreshock.detectors.hazard import Hazard
from foreshock.detectors.heldout_signal import HeldoutSignalRule
from foreshock.detectors.kl_threshold import KlThreshold
from foreshock.detectors.loss_spike import LossSpike
from foreshock.detectors.over_optimisation import OverOptimisation
from foreshock.detectors.p_crosses_half import PCrossesHalf
from foreshock.detectors.page_hinkley import PageHinkley
from foreshock.detectors.phase_transition import PhaseTransition
from foreshock.detectors.proxy_spread import ProxySpread
from foreshock.detectors.published_early_stop import PublishedEarlyStop
from foreshock.detectors.published_phi import PublishedPhi
from foreshock.detectors.published_rlhf_alert import PublishedRlhfAlert
from foreshock.detectors.published_transitions import PublishedTransitions
from foreshock.detectors.published_triple_alignment import PublishedTripleAlignment
from foreshock.detectors.regime_ribbon import RegimeRibbon
from foreshock.detectors.reset_time import PublishedReset, ResetTime
from foreshock.detectors.triple_alignment import TripleAlignment
from foreshock.detectors.turnover import Turnover
from foreshock.types import Alarm, Detector, Forecast

_KINDS = {
    cls.__name__: cls
    for cls in (
        CFalling,
        CUSUM,
        CWindow,
        ChangePoint,
        ConformalAlarm,
        CriticalSlowing,
        Divergence,
        EWMA,
        ForecastAlarm,
        GapCollapse,
        GapOpening,
        GoldSelection,
        GoldTurnover,
        HeldoutSignalRule,
        KlThreshold,
        LossSpike,
        OverOptimisation,
        PCrossesHalf,
        PageHinkley,
        PhaseTransition,
        ProxySpread,
        PublishedCFalling,
        PublishedCWindow,
        PublishedEarlyStop,
        PublishedPhi,
        PublishedReset,
        PublishedRlhfAlert,
        PublishedTransitions,
        PublishedTripleAlignment,
        RegimeRibbon,
        ResetTime,
        TripleAlignment,
        Turnover,
    )
}


class _Event(Protocol):
    @property
    def step(self) -> int: ...
    @property
    def source(self) -> str: ...
    @property
    def payload(self) -> Mapping[str, Any]: ...


def detector_record(detector: Detector) -> dict[str, Any]:
    """What to write about a detector so that a replay can build it again.

    Args:
        detector: Any detector; only those of this package can be built again.

    Returns:
        Class, name, series, and arguments.

    Examples:
        >>> detector_record(CUSUM("loss"))["kind"]
        'CUSUM'
    """
    ours = type(detector).__name__ in _KINDS and is_dataclass(detector)
    return {
        "kind": type(detector).__name__,
        "name": detector.name,
        "reads": list(detector.reads),
        "arguments": asdict(detector) if ours else None,  # type: ignore[call-overload]
    }


def recorded_detectors(events: Iterable[_Event]) -> list[Detector]:
    """Detectors of the last ``detectors`` event that can be built again: those of this package."""
    last: list[Mapping[str, Any]] = []
    for event in events:
        last = event.payload["detectors"]
    found: list[Detector] = []
    for record in last:
        cls, arguments = _KINDS.get(record["kind"]), record["arguments"]
        if cls is None or arguments is None:
            continue
        if arguments.get("forecast") is not None:
            arguments = {**arguments, "forecast": OnsetRatio(**arguments["forecast"])}
        if "calibration" in arguments:
            calibration = Calibration.from_record(arguments["calibration"])
            arguments = {**arguments, "calibration": calibration}
        if "hazard" in arguments:
            arguments = {**arguments, "hazard": Hazard.from_record(arguments["hazard"])}
        found.append(cls(**arguments))
    return found


def heard_parts(events: Iterable[_Event]) -> list[tuple[int, frozenset[str]]]:
    """First step of each part of a run, and the detectors whose alarms a policy waited for there.

    Args:
        events: The ``detectors`` events of a run, one for each time it was opened.

    Returns:
        What `Judge` takes as ``heard``.
    """
    return [(e.payload.get("resumed_at", 0), frozenset(e.payload.get("heard", ()))) for e in events]


def alarm_record(alarm: Alarm) -> dict[str, Any]:
    """The payload of an ``alarm`` event; a label only where there is one."""
    payload = {k: v for k, v in asdict(alarm).items() if k not in ("step", "detector")}
    if not payload["label"]:
        del payload["label"]
    return payload


def recorded_alarms(events: Iterable[_Event]) -> list[Alarm]:
    """Alarms from ``alarm`` events.

    Args:
        events: Events of a run.

    Returns:
        The alarms, in the order of the events.

    Examples:
        >>> from types import SimpleNamespace
        >>> alarm = Alarm(7, "cusum", "loss", 11.0, 10.0, "It rose.")
        >>> event = SimpleNamespace(step=7, source="cusum", payload=alarm_record(alarm))
        >>> recorded_alarms([event]) == [alarm]
        True
    """
    found = []
    for event in events:
        payload = dict(event.payload)
        forecast = payload.pop("forecast", None)
        found.append(
            Alarm(
                step=event.step,
                detector=event.source,
                forecast=Forecast(**forecast) if forecast else None,
                **payload,
            )
        )
    return found
