"""Sentences built only from what a run recorded: the headline, leads, forecasts against outcomes.

Pure functions. A lead is arithmetic on two recorded steps; whether a warning has skill is decided
over many runs by the ledger, so no sentence here claims it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from foreshock.report.data import Milestone, RunData
from foreshock.report.markup import number
from foreshock.types import Action, Alarm

#: Milestone that leads are counted to.
ONSET = "onset"

_NAMES = {
    "onset": "onset of generalisation",
    "memorised": "memorisation",
    "T50": "half of the final rise (T50)",
    "T90": "90 % of the final rise (T90)",
}

_DETECTORS = {
    "heldout_signal": "held-out signal",
    "ridge_signal": "ridge signal",
}


def steps(count: int) -> str:
    """A count of steps in words.

    Args:
        count: How many.

    Returns:
        A text such as ``"2 steps"``.

    Examples:
        >>> steps(1), steps(20000)
        ('1 step', '20,000 steps')
    """
    return f"{count:,} step{'' if count == 1 else 's'}"


def milestone_name(name: str) -> str:
    """What a milestone is called in a sentence."""
    return _NAMES.get(name, name)


def detector_name(name: str) -> str:
    """What a detector is called in a sentence."""
    return _DETECTORS.get(name, name)


def first_alarms(run: RunData) -> list[Alarm]:
    """The first alarm of every detector, in order of step; a regime's name is no alarm."""
    seen: dict[str, Alarm] = {}
    for alarm in run.alarms:
        if not alarm.label:
            seen.setdefault(alarm.detector, alarm)
    return list(seen.values())


def first_actions(run: RunData) -> list[Action]:
    """The first action of every policy and kind, carried out and only recorded apart."""
    seen: dict[tuple[str, str, bool], Action] = {}
    for action in run.actions:
        seen.setdefault((action.policy, action.kind, action.applied), action)
    return list(seen.values())


def action_name(action: Action) -> str:
    """What an action is called beside a mark."""
    return f"{action.policy}{'' if action.applied else ', not applied'}"


def relation(step: int, event: int) -> str:
    """Where an event lies relative to a step, in words.

    Args:
        step: The step.
        event: Step of the event.

    Returns:
        A text such as ``"3 steps later"``.

    Examples:
        >>> relation(210, 600), relation(600, 600), relation(700, 600)
        ('390 steps later', 'the same step', '100 steps earlier')
    """
    if step == event:
        return "the same step"
    return f"{steps(abs(event - step))} {'later' if event > step else 'earlier'}"


def headline(run: RunData, twin: RunData | None) -> str:
    """One to three sentences on what happened, from recorded events only.

    Args:
        run: The run.
        twin: Its null twin, if there is one.

    Returns:
        Plain text, not escaped.
    """
    if run.last_step < 0:
        return "No step was recorded."
    parts = [_agreement(run) if run.simulated else _opening(run)]
    if twin is not None:
        parts.append(_twin(run, twin))
    if run.state == "crashed":
        parts.append(f"The run crashed; its last recorded step is {run.last_step:,}.")
    return " ".join(parts)


def _agreement(run: RunData) -> str:
    judged = [item for item in run.comparisons if item.agrees is not None]
    ours = [item for item in judged if not item.published]
    if not ours:
        return "A simulation; none of its numbers was compared with an exact one."
    off = [item.name for item in ours if not item.agrees]
    if off:
        more = " and more" if len(off) > 3 else ""
        text = f"{len(ours) - len(off)} of {len(ours)} measured numbers agree with the exact ones; "
        text += f"{_listing(off[:3])}{more} {'differs' if len(off) == 1 else 'differ'}. "
        text += f"Of {len(ours)} intervals of 95 %, {0.05 * len(ours):.1f} miss by chance."
    else:
        text = f"All {len(ours)} measured numbers agree with the exact ones"
        wide = sum(not c.measured.low <= c.exact <= c.measured.high for c in ours)
        text += f", {wide} of them only within the method's own error." if wide else "."
    if published := [item for item in judged if item.published]:
        wrong = sum(not item.agrees for item in published)
        text += f" Of {len(published)} published forms beside them {wrong or 'none'} "
        text += "differs." if wrong < 2 else "differ."
    return text


def _opening(run: RunData) -> str:
    onset, alarms = run.milestone(ONSET), first_alarms(run)
    if not alarms:
        ending = f"up to step {run.last_step:,}"
        if onset is not None:
            return f"No detector fired {ending}; onset of generalisation at {onset.step:,}."
        if run.milestones:
            mark = run.milestones[-1]
            return f"No detector fired {ending}; {milestone_name(mark.name)} at {mark.step:,}."
        return f"No detector fired {ending}, and no milestone was recorded."
    first = alarms[0]
    text = f"{_upper(detector_name(first.detector))} fired at step {first.step:,}"
    if onset is not None:
        where = relation(first.step, onset.step)
        text += f"; onset of generalisation at {onset.step:,} ({where})."
    elif run.milestones:
        mark = run.milestones[-1]
        text += f"; no onset was recorded up to step {run.last_step:,}"
        text += f", {milestone_name(mark.name)} came at {mark.step:,}."
    else:
        text += f"; no onset was recorded up to step {run.last_step:,}."
    if len(alarms) > 1:
        others = _listing([f"{detector_name(a.detector)} at {a.step:,}" for a in alarms[1:4]])
        text += f" Then {others}" + (f", and {len(alarms) - 4} more." if len(alarms) > 4 else ".")
    return text


def _twin(run: RunData, twin: RunData) -> str:
    name = f"In the {twin.label}"
    if twin.last_step < 0:
        return f"{name} no step was recorded."
    fired = {alarm.detector: alarm for alarm in first_alarms(twin)}
    alarms = first_alarms(run)
    short = twin.last_step < run.last_step
    watched = f" (watched up to step {twin.last_step:,})" if short else ""
    if not fired:
        return f"{name} {'it did not fire' if len(alarms) == 1 else 'no detector fired'}{watched}."
    if not alarms:
        listed = [f"{detector_name(d)} fired at step {a.step:,}" for d, a in fired.items()]
        return f"{name}, however, {_listing(listed)}."
    first = alarms[0]
    if first.detector in fired:
        return f"{name} the same detector fired too, at step {fired[first.detector].step:,}."
    other = next(iter(fired.values()))
    article = "the " if first.detector in _DETECTORS else ""
    subject = "it" if len(alarms) == 1 else article + detector_name(first.detector)
    return (
        f"{name} {subject} did not fire{watched}, but {detector_name(other.detector)} did, "
        f"at step {other.step:,}."
    )


def lead(alarm: Alarm, run: RunData) -> tuple[str, str]:
    """Steps from an alarm to the onset, and the ratio of onset to alarm step.

    Args:
        alarm: The alarm.
        run: The run it belongs to.

    Returns:
        Two short texts; a dash where there is no onset or no ratio.
    """
    onset = run.milestone(ONSET)
    if onset is None:
        return "no onset", "–"
    difference = onset.step - alarm.step
    ratio = number(onset.step / alarm.step) if alarm.step > 0 else "–"
    if difference < 0:
        return f"{steps(-difference)} late", ratio
    return (steps(difference) if difference else "0 steps"), ratio


def forecast_outcome(alarm: Alarm, milestones: Sequence[Milestone]) -> str:
    """How far a forecast was off, in words; empty if the alarm made none."""
    forecast = alarm.forecast
    if forecast is None:
        return ""
    event = next((mark for mark in milestones if mark.name == forecast.event), None)
    if event is None:
        return f"{forecast.event or 'the event'} was not recorded"
    if math.isnan(forecast.step):
        return f"{event.name} came at {event.step:,}"
    error = round(forecast.step - event.step)
    off = "on the step" if error == 0 else f"{steps(abs(error))} {'late' if error > 0 else 'early'}"
    if math.isnan(forecast.low) or math.isnan(forecast.high):
        return f"{event.name} came at {event.step:,}: {off}"
    inside = forecast.low <= event.step <= forecast.high
    where = "inside" if inside else "outside"
    return f"{event.name} came at {event.step:,}: {off}, {where} the interval"


def twin_outcome(alarm: Alarm, twin: RunData | None) -> str:
    """Whether the twin raised the same alarm, and when."""
    if twin is None:
        return "no twin"
    same = [a for a in twin.alarms if a.detector == alarm.detector and a.series == alarm.series]
    if same:
        return f"fired at {same[0].step:,}"
    if twin.last_step < alarm.step:
        return f"silent, but watched only to {max(twin.last_step, 0):,}"
    return f"silent to {twin.last_step:,}"


def _listing(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:] if " " in text else text
