"""Regimes by the published tables, as ribbons: which label held from which step on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from foreshock.report.data import RunData
from foreshock.report.markup import Html, join, number, tag
from foreshock.report.sections import section, table
from foreshock.types import Alarm

#: A number that hovers at an edge must not make the page: rows of the table, pieces of a ribbon.
MAX_CHANGES, MAX_PIECES = 100, 4000
#: Width of a character as a share of the ribbon on a desk, and how many colours there are.
_CHARACTER, _COLOURS = 7 / 900, 6


def regimes(runs: Sequence[RunData]) -> Html | None:
    """A ribbon for every rule that names regimes, with the share of each label and every change.

    Args:
        runs: The run, and its twin if there is one.

    Returns:
        A section, or ``None`` where no rule named a regime.
    """
    names = dict.fromkeys(a.detector for run in runs for a in run.alarms if a.label)
    if not names:
        return None
    lead = (
        "What published tables call the state of the run, as published. Most of their numbers "
        "follow the batch size or a unit, and so do the labels: a regime is no warning."
    )
    return section("regimes", "Regimes", [_ribbons(runs, name) for name in names], lead=lead)


def pieces(run: RunData, detector: str) -> list[tuple[int, int, str]]:
    """First step, end and label of every regime that a detector named, where there were numbers.

    A regime lasts from one number to the next row of its series; a row without a number ends the
    piece, and so does the end of the series. What was not measured is not painted.

    Args:
        run: The run.
        detector: Name of the detector.

    Returns:
        Half-open pieces [start, end), in order.
    """
    named = [alarm for alarm in run.alarms if alarm.detector == detector and alarm.label]
    end = max(run.last_step, 0) + 1
    stops = [*(alarm.step for alarm in named[1:]), end]
    found = []
    for alarm, stop in zip(named, stops, strict=True):
        whole = (alarm.step, stop)
        measured = [
            (max(start, whole[0]), min(until, stop))
            for start, until in _measured(run, alarm.series, end)
            if start < stop and until > whole[0]
        ]
        # A foreign run may carry the alarm and not the series.
        found += [(*piece, alarm.label) for piece in (measured or [whole])]
    return found


def _measured(run: RunData, series: str, end: int) -> list[tuple[int, int]]:
    """Half-open stretches of steps that a series has a finite number for, in order."""
    column = run.columns.get(series)
    if column is None or not len(column.step):
        return []
    steps = column.step
    # The last number holds as long as one usually does.
    last = int(steps[-1] + (np.median(np.diff(steps)) if len(steps) > 1 else 1))
    ends = np.append(steps[1:], min(last, end))
    finite = np.isfinite(column.value)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], finite, [False]]).astype(int)))
    return [
        (int(steps[first]), int(ends[after - 1]))
        for first, after in list(pairwise(edges.tolist()))[::2]
    ]


def _ribbons(runs: Sequence[RunData], name: str) -> Html:
    found = [pieces(run, name) for run in runs]
    end = max(max(run.last_step, 0) for run in runs) + 1
    colours = {
        label: place % _COLOURS
        for place, label in enumerate(dict.fromkeys(p[2] for one in found for p in one))
    }
    rows = [_row(run, one, end, colours, name) for run, one in zip(runs, found, strict=True) if one]
    return tag("div", tag("h3", tag("code", name)), rows, _changes(runs, name), class_="regime")


def _row(
    run: RunData,
    found: Sequence[tuple[int, int, str]],
    end: int,
    colours: dict[str, int],
    name: str,
) -> Html:
    drawn = found[:MAX_PIECES]
    paths = [
        tag(
            "path",
            d="".join(
                f"M{1000 * start / end:.4g} 0h{1000 * (stop - start) / end:.4g}v10"
                f"h-{1000 * (stop - start) / end:.4g}z"
                for start, stop, label in drawn
                if label == one
            ),
            class_=f"regime-{place}",
        )
        for one, place in colours.items()
    ]
    shares = _shares(found)
    said = ", ".join(f"{label} {share}" for label, share in shares.items())
    picture = tag(
        "svg",
        paths,
        viewBox="0 0 1000 10",
        preserveAspectRatio="none",
        role="img",
        aria_label=f"{name} of the {run.label}: {said}",
    )
    # A name only where it fits; the key and the table below have all of them.
    texts = [
        tag(
            "span",
            label,
            style=f"left:{100 * start / end:.3f}%;width:{100 * (stop - start) / end:.3f}%",
        )
        for start, stop, label in drawn
        if (stop - start) / end >= _CHARACTER * len(label)
    ]
    key = [
        tag("li", tag("i", class_=f"regime-{colours[label]}"), f"{label} {share}")
        for label, share in shares.items()
    ]
    left = len(found) - len(drawn)
    return tag(
        "div",
        tag("p", run.label, class_="ribbon-name"),
        tag("div", picture, class_="ribbon"),
        tag("div", texts, class_="ribbon-text", aria_hidden="true"),
        tag("ul", key, class_="ribbon-key"),
        tag("p", f"{left:,} later regimes are not drawn.", class_="empty") if left else None,
    )


def _shares(found: Sequence[tuple[int, int, str]]) -> dict[str, str]:
    """How many of the steps since the first label each label held, in per cent."""
    held: dict[str, int] = {}
    for start, stop, label in found:
        held[label] = held.get(label, 0) + stop - start
    total = max(sum(held.values()), 1)
    return {label: f"{100 * steps / total:.3g} %" for label, steps in held.items()}


def _changes(runs: Sequence[RunData], name: str) -> Html:
    bodies, count = [], 0
    for run in runs:
        named = [alarm for alarm in run.alarms if alarm.detector == name and alarm.label]
        count += max(len(named) - 1, 0)
        rows = [_change(alarm) for alarm in named[:MAX_CHANGES]]
        if len(runs) > 1 and rows:
            rows.insert(0, tag("tr", tag("th", run.label, colspan=4, class_="group")))
        if len(named) > MAX_CHANGES:
            more = f"{len(named) - MAX_CHANGES:,} later changes are in the run, not shown here."
            rows.append(tag("tr", tag("td", more, colspan=4)))
        if rows:
            bodies.append(tag("tbody", rows))
    listed = table(f"Regimes of {name}", ("regime", "step", "value", "why"), bodies, "regime-table")
    summary = f"{count:,} change{'' if count == 1 else 's'}, with the document's advice"
    return tag("details", tag("summary", summary), listed)


def _change(alarm: Alarm) -> Html:
    return tag(
        "tr",
        tag("th", alarm.label, scope="row"),
        tag("td", f"{alarm.step:,}", data_label="step", class_="number"),
        tag("td", join([tag("code", alarm.series), f" = {number(alarm.value)}"])),
        tag("td", alarm.reason, data_label="why"),
        data_regime=alarm.label,
        data_step=alarm.step,
    )
