"""The sections of the page that are words and tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from foreshock.report import facts
from foreshock.report.data import RunData
from foreshock.report.markup import Html, interval, join, number, tag
from foreshock.report.panels import unit_text
from foreshock.types import Alarm

#: A detector that fires at every step must not make the page; the rest is counted.
MAX_ALARMS = 100


def section(key: str, title: str, *children: Any, lead: str = "") -> Html:
    """A section with a heading and an optional sentence under it."""
    intro = tag("p", lead, class_="lead") if lead else None
    return tag(
        "section",
        tag("h2", title, id=f"{key}-title"),
        intro,
        *children,
        id=key,
        aria_labelledby=f"{key}-title",
    )


def header(runs: Sequence[RunData]) -> Html:
    """Name, identity and the headline."""
    run, twin = runs[0], runs[1] if len(runs) > 1 else None
    items: list[tuple[str, Any]] = [
        ("run", tag("code", str(run.info.get("id", "")))),
        ("seed", _plain(run.info.get("seed"))),
        ("created", _time(run.info.get("created"))),
        ("last step", _span(run)),
        ("state", run.state),
    ]
    if twin is not None:
        items.append((twin.label, f"{_span(twin)} · {twin.state}"))
    return tag(
        "header",
        tag("p", _MARK, "Foreshock report", class_="brand"),
        tag("h1", run.name),
        tag("dl", [tag("div", tag("dt", k), tag("dd", v)) for k, v in items], class_="meta"),
        tag("p", str(run.config["about"]), class_="lead") if run.config.get("about") else None,
        tag("p", facts.headline(run, twin), class_="headline", id="headline"),
        None if run.simulated else _timeline(runs),
        class_="masthead",
    )


#: A quiet trace, a small shock, a large one: drawn with the text colour, hidden from readers.
_MARK = Html(
    '<svg viewBox="0 0 44 16" width="44" height="16" aria-hidden="true"><path d="M0 8h10l2-3 2 '
    '5 2-2h8l2-7 3 14 3-11 2 6 1-2h9" fill="none" stroke="currentColor" stroke-width="1.5" '
    'stroke-linejoin="round" stroke-linecap="round"/></svg>'
)


def _timeline(runs: Sequence[RunData]) -> Html | None:
    """A strip per run: its length, its milestones, its alarms and its actions, to scale."""
    end = max(run.last_step for run in runs)
    if end < 1:
        return None
    strips = [tag("div", *_strip(run, end), class_="strip-row") for run in runs]
    scale = tag(
        "p",
        tag("span", "step 0"),
        tag("span", f"{end:,}"),
        class_="strip-scale",
        aria_hidden="true",
    )
    return tag("div", strips, scale, class_="timeline")


def _strip(run: RunData, end: int) -> tuple[Html, Html]:
    marks = [("milestone", m.step, m.name) for m in run.milestones]
    marks += [("alarm", a.step, facts.detector_name(a.detector)) for a in facts.first_alarms(run)]
    marks += [("action", a.step, facts.action_name(a)) for a in facts.first_actions(run)]
    marks = sorted(marks, key=lambda mark: mark[1])
    texts = [(step / end, f"{name} {step:,}") for _kind, step, name in marks]
    flips = [at + _PHONE * len(text) > 1 for at, text in texts]
    desk, phone = _rows(texts, flips, _DESK), _rows(texts, flips, _PHONE)
    listed = [
        tag(
            "li",
            tag("span", f"{name} ", tag("b", f"{step:,}"), class_="tag"),
            class_=f"{kind} flip" if flip else kind,
            style=f"--at:{100 * step / end:.3f}%;--desk:{wide};--phone:{narrow}",
        )
        for (kind, step, name), flip, wide, narrow in zip(marks, flips, desk, phone, strict=True)
    ]
    depths = f"--depth-desk:{max(desk, default=0) + 1};--depth-phone:{max(phone, default=0) + 1}"
    strip = tag(
        "ol",
        listed or tag("li", "no alarm, no milestone", class_="none"),
        class_="strip",
        style=f"--length:{100 * max(run.last_step, 0) / end:.3f}%;{depths}",
        aria_label=f"Milestones, first alarms and first actions of the {run.label}",
    )
    return tag("span", run.label, class_="strip-name"), strip


#: Width of a character (~7 pixels) as a share of the strip, on a desk and on a phone.
_DESK, _PHONE = 7 / 800, 7 / 350


def _rows(
    labels: Sequence[tuple[float, str]], flips: Sequence[bool], character: float
) -> list[int]:
    """Row of each label under the strip; a flipped one stands left of its mark.

    A later mark hangs higher, so that the stem of no mark crosses the label of another.

    Args:
        labels: Place on the strip from 0 to 1 and text, by place.
        flips: Whether each label is flipped.
        character: Width of a character as a share of the strip.

    Returns:
        A row from 0 for each label.
    """
    widths = [character * len(text) for _at, text in labels]
    rows = [0] * len(labels)
    for i in range(len(labels)):
        if flips[i]:
            start = labels[i][0] - widths[i]
            below = [rows[j] + 1 for j in range(i) if flips[j] and labels[j][0] >= start]
            rows[i] = max(below, default=0)
    for i in reversed(range(len(labels))):
        if not flips[i]:
            stop = labels[i][0] + widths[i]
            later = range(i + 1, len(labels))
            edges = {j: labels[j][0] - widths[j] * flips[j] for j in later}
            rows[i] = max((rows[j] + 1 for j in later if edges[j] <= stop), default=0)
    return rows


def alarms(runs: Sequence[RunData]) -> Html:
    """Every alarm with what caused it, how early it was, and whether the twin raised it too."""
    twin = runs[1] if len(runs) > 1 else None
    # Regimes have a section of their own.
    raised = [[alarm for alarm in run.alarms if not alarm.label] for run in runs]
    if not any(raised):
        watched = " and ".join(f"the {run.label} to step {max(run.last_step, 0):,}" for run in runs)
        return section("alarms", "Alarms", tag("p", f"None was raised: {watched}.", class_="empty"))
    names = ("detector", "step", "series", "value / threshold", "why", "lead to onset", "forecast")
    columns = [*names, "twin"] if twin else list(names)
    bodies = []
    for index, (run, found) in enumerate(zip(runs, raised, strict=True)):
        rows = [_alarm_row(a, run, twin if index == 0 else None, runs) for a in found[:MAX_ALARMS]]
        if twin is not None:
            head = f"{run.label}: {len(found):,} alarm{'' if len(found) == 1 else 's'}"
            span = tag("th", head, colspan=len(columns), scope="rowgroup", class_="group")
            rows.insert(0, tag("tr", span))
        if len(found) > MAX_ALARMS:
            more = f"{len(found) - MAX_ALARMS:,} later alarms are in the run, not shown here."
            rows.append(tag("tr", tag("td", more, colspan=len(columns))))
        if rows:
            bodies.append(tag("tbody", rows))
    return section(
        "alarms",
        "Alarms",
        table("Alarms", columns, bodies, "alarm-table"),
        lead="A lead is counted to the recorded onset: steps, and step of onset divided by step "
        "of alarm. One run shows what happened once, not how often a detector is right.",
    )


def _alarm_row(alarm: Alarm, run: RunData, twin: RunData | None, runs: Sequence[RunData]) -> Html:
    early, ratio = facts.lead(alarm, run)
    forecast: Any = "none made"
    if alarm.series.startswith("P("):  # of a `ForecastAlarm`: how probable, not when
        forecast = f"{alarm.series} = {number(alarm.value)}"
    if alarm.forecast is not None:
        when = alarm.forecast
        ends = interval(when.low, when.high)
        forecast = join(
            [
                f"{when.event} at {number(when.step)} {ends}".rstrip(),
                tag("small", facts.forecast_outcome(alarm, run.milestones)),
                tag("small", when.basis) if when.basis else None,
            ]
        )
    cells = [
        tag("th", tag("code", alarm.detector), scope="row"),
        tag("td", f"{alarm.step:,}", data_label="step", class_="number"),
        tag("td", tag("code", alarm.series), data_label="series"),
        tag(
            "td",
            f"{number(alarm.value)} / {number(alarm.threshold)}",
            data_label="value / threshold",
            class_="number",
        ),
        tag("td", alarm.reason, data_label="why"),
        tag(
            "td",
            early,
            tag("small", f"× {ratio}") if ratio != "–" else None,
            data_label="lead to onset",
            class_="number",
        ),
        tag("td", forecast, data_label="forecast"),
    ]
    if len(runs) > 1:
        text = facts.twin_outcome(alarm, twin) if twin is not None else ""
        cells.append(tag("td", text, data_label="twin"))
    return tag("tr", cells, data_detector=alarm.detector, data_step=alarm.step)


def cost(runs: Sequence[RunData]) -> Html:
    """What watching cost, measured."""
    parts = []
    for run in runs:
        plan = run.schedule
        if not plan:
            text = f"The {run.label} recorded no schedule: not closed, or nothing was attached."
            parts.append(tag("p", text, class_="empty"))
            continue
        share, budget = _number(plan.get("share")), _number(plan.get("budget"))
        watched, trained = _number(plan.get("watch_seconds")), _number(plan.get("train_seconds"))
        total = f"{run.label}: watching took {_percent(share)} of wall time"
        if watched is not None and trained is not None:
            total += f" ({watched:,.1f} s beside {trained:,.1f} s of training)"
        total += f", mode “{plan.get('mode', 'unknown')}”"
        total += f" with a budget of {_percent(budget)}." if budget is not None else "."
        rows = [
            tag(
                "tr",
                tag("th", tag("code", str(item.get("name", ""))), scope="row"),
                tag("td", _count(item.get("values")), class_="number", data_label="values"),
                tag("td", _count(item.get("due")), class_="number", data_label="due"),
                tag("td", _every(plan, item), class_="number", data_label="every"),
                tag("td", _ms(item.get("median_ms")), class_="number", data_label="median ms"),
                tag(
                    "td", _percent(_number(item.get("share"))), class_="number", data_label="share"
                ),
                tag("td", str(item.get("verdict") or "ran as planned"), data_label="verdict"),
            )
            for item in plan.get("observables", [])
        ]
        columns = (
            "observable",
            "values",
            "due",
            "every",
            "median ms",
            "share of wall time",
            "verdict",
        )
        parts += [
            tag("p", total, class_="total"),
            table(f"Cost, {run.label}", columns, [tag("tbody", rows)], "cost-table"),
        ]
    return section("cost", "Cost of watching", parts)


def provenance(runs: Sequence[RunData]) -> Html:
    """Where every number comes from and what is not in the run; of a twin, what differs."""
    parts = []
    before: list[dict[str, str]] | None = None
    for run in runs:
        versions = {str(k): _plain(v) for k, v in (run.info.get("versions") or {}).items()}
        off = {name: f"{why} (step {s:,})" if s >= 0 else why for name, why, s in run.switched_off}
        # The page says at its top what is simulated.
        said = runs[0].config.get("about")
        config = {k: v for k, v in run.config.items() if k != "about" or v != said}
        tables = [versions, _flatten(config), dict(run.left_out), off]
        titles = ("Versions", "Configuration", "Left out: not measured", "Switched off on the way")
        shown = (
            tables
            if before is None
            else [
                {k: new.get(k, "absent") for k in {**new, **old} if new.get(k) != old.get(k)}
                for old, new in zip(before, tables, strict=True)
            ]
        )
        parts.append(tag("h3", run.label) if len(runs) > 1 else None)
        if before is not None:
            alike = "Only what differs from the run." if any(shown) else "As in the run."
            parts.append(tag("p", alike, class_="lead"))
        parts += [_pairs(title, pairs) for title, pairs in zip(titles, shown, strict=True)]
        notes = [tag("li", f"step {s:,}: {text}" if s >= 0 else text) for s, text in run.notes]
        parts.append(join([tag("h4", "Notes"), tag("ul", notes)]) if notes else None)
        before = tables
    return section("provenance", "Provenance", _taken_at(runs), parts)


def _taken_at(runs: Sequence[RunData]) -> Html | None:
    rows = []
    for run in runs:
        for column in run.columns.values():
            if run is not runs[0] and column.name in runs[0].columns:
                continue
            rows.append(
                tag(
                    "tr",
                    tag("th", tag("code", column.name), scope="row"),
                    tag("td", unit_text(column.unit), data_label="unit"),
                    tag("td", column.taken_at or "not stated", data_label="taken at"),
                    tag("td", column.null or "not stated", data_label="null"),
                    tag("td", f"{len(column.step):,}", data_label="points", class_="number"),
                )
            )
    if not rows:
        return tag("p", "The run has no series.", class_="empty")
    columns = ("series", "unit", "taken at", "what it reads when nothing happens", "points")
    listed = table("Series", columns, [tag("tbody", rows)], "series-table")
    summary = tag("summary", f"Where each of the {len(rows)} series was taken, and its null")
    return tag("details", summary, listed, open=len(rows) <= 12)


def table(label: str, columns: Sequence[str], bodies: Sequence[Html], class_: str) -> Html:
    """A table with column heads that scrolls inside its own box on a narrow screen."""
    head = tag("thead", tag("tr", [tag("th", column, scope="col") for column in columns]))
    # Focusable so that a keyboard can scroll it.
    return tag(
        "div",
        tag("table", head, *bodies, class_=class_),
        class_="scroll",
        tabindex="0",
        role="region",
        aria_label=f"Table: {label}",
    )


def _pairs(title: str, pairs: Mapping[str, str]) -> Html | None:
    if not pairs:
        return None
    items = [tag("div", tag("dt", k), tag("dd", v)) for k, v in pairs.items()]
    return join([tag("h4", title), tag("dl", items, class_="pairs")])


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = _plain(value)
    return flat


def _plain(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, float):
        return number(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _time(value: Any) -> Html | str:
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        return str(value or "unknown")
    zone = " UTC" if moment.utcoffset() is not None and not moment.utcoffset() else ""
    return tag("time", f"{moment:%-d %B %Y, %H:%M}{zone}", datetime=str(value))


def _span(run: RunData) -> str:
    return "none" if run.last_step < 0 else f"{run.last_step:,}"


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "–"


def _ms(value: Any) -> str:
    return number(_number(value))


def _percent(share: float | None) -> str:
    return "an unknown share" if share is None else f"{100 * share:.2g} %"


def _every(plan: Mapping[str, Any], item: Mapping[str, Any]) -> str:
    every = plan.get("every")
    value = every.get(item.get("name")) if isinstance(every, Mapping) else every
    return f"{value:,} steps" if isinstance(value, int) else "by budget"
