"""One offline HTML file for one run, or for a run and its null twin."""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from foreshock.report import sections
from foreshock.report.actions import actions
from foreshock.report.charts import Chart, Group, family_charts, learning_charts, signal_charts
from foreshock.report.data import RunData, read_run
from foreshock.report.facts import action_name, detector_name, first_actions, first_alarms
from foreshock.report.heatmap import draw
from foreshock.report.latent import latent, latent_charts
from foreshock.report.markup import Html, join, script_json, tag
from foreshock.report.pack import ARRAY_BYTES, POINTS, Packer
from foreshock.report.panels import grid, panel, payload
from foreshock.report.plots import compared, plot
from foreshock.report.ribbons import regimes
from foreshock.store import Run

_SCRIPTS = ("uPlot.iife.min.js", "scales.js", "chart.js", "report.js")
_STYLES = ("uPlot.min.css", "report.css")


def write_report(
    runs: Run | str | Path | Sequence[Run | str | Path],
    out: str | Path,
    *,
    labels: Sequence[str] | None = None,
) -> Path:
    """Write the report of a run, or of a run and its null twin, as one self-contained file.

    The page holds its own scripts, styles and data, asks the network for nothing (its content
    policy forbids it), and shows every number also as text. A series of more than 2000 points is
    reduced to buckets of (min, mean, max) for drawing; the numbers in the text stay exact.

    Args:
        runs: A run, or a run followed by its twin: open runs or paths of run folders.
        out: File to write; its folder is created. An existing file is replaced at once.
        labels: What the page calls the runs; default ``"run"`` and ``"null twin"``.

    Returns:
        The path of the file.

    Raises:
        ValueError: If there are not one or two runs, or not as many labels as runs.

    Examples:
        >>> import tempfile
        >>> from foreshock.store import Run
        >>> folder = Path(tempfile.mkdtemp())
        >>> with Run.create(folder / "a", config={"name": "two steps"}) as run:
        ...     for step, loss in enumerate([1.0, 0.5]):
        ...         run.append(step, {"loss": loss})
        >>> page = write_report([folder / "a"], folder / "report.html")
        >>> "two steps" in page.read_text(encoding="utf-8")
        True
    """
    if isinstance(runs, (Run, str, Path)):
        runs = [runs]
    if not 1 <= len(runs) <= 2:
        raise ValueError(
            f"`runs` of `write_report` must be one run, or a run and its twin. Got {len(runs)}. "
            "Write one report for each pair."
        )
    names = list(labels) if labels is not None else ["run", "null twin"][: len(runs)]
    if len(names) != len(runs):
        raise ValueError(
            f"`labels` of `write_report` must name each of the {len(runs)} runs. Got {len(names)}."
        )
    with contextlib.ExitStack() as stack:
        data = [
            read_run(
                run if isinstance(run, Run) else stack.enter_context(Run.open(Path(run))), label
            )
            for run, label in zip(runs, names, strict=True)
        ]
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(page(data), encoding="utf-8")
    partial.replace(path)
    return path


def page(runs: Sequence[RunData]) -> str:
    """The whole document for runs that were read already.

    Args:
        runs: The run, and its twin if there is one.

    Returns:
        HTML text.
    """
    learning, signal = learning_charts(runs), signal_charts(runs)
    # Without one of its own series the section is a sentence: what is not drawn is not sent.
    drawn_signal = tuple(c for c in signal if c.lines) if _own(signal) else ()
    flow = latent_charts(runs)
    groups = family_charts(runs, (*learning, *signal, *flow))
    charts = [
        *learning,
        *drawn_signal,
        *(c for c in flow if c.lines),
        *(c for g in groups for c in g.charts if c.lines),
    ]
    data = _pack(runs, charts)
    scripts = [_static(name) for name in _SCRIPTS]
    styles = "\n".join(_static(name) for name in _STYLES)
    figures = _figures(runs)
    parts = [("figures", figures)] if figures is not None else []
    acted, latents, named = actions(runs), latent(runs, flow), regimes(runs)
    # Nothing was trained in a simulation: it has no accuracy, no gradient noise and no overhead.
    if not runs[0].simulated:
        parts += [
            ("alarms", sections.alarms(runs)),
            *([("regimes", named)] if named is not None else []),
            *([("actions", acted)] if acted is not None else []),
            ("learning", _learning(learning)),
            ("signal", _signal(signal)),
        ]
    if latents is not None:
        parts.append(("latent", latents))
    parts.append(("series", _families(groups)))
    if not runs[0].simulated:
        parts.append(("cost", sections.cost(runs)))
    parts.append(("provenance", sections.provenance(runs)))
    charts_at = "#series" if runs[0].simulated else "#learning"
    body = tag(
        "body",
        tag("a", "Skip to the charts", href=charts_at, class_="skip"),
        _bar([key for key, _ in parts]),
        tag(
            "main",
            sections.header(runs),
            [section for _, section in parts],
            tag("footer", _footer(data)),
        ),
        tag("script", script_json(data), type="application/json", id="data"),
        join(tag("script", Html(script)) for script in scripts),
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_policy(scripts)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{runs[0].name}: Foreshock report"),
        Html(f"<!-- uPlot\n{_static('uPlot.LICENSE')}-->"),
        tag("style", Html(styles)),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _pack(runs: Sequence[RunData], charts: Sequence[Chart]) -> dict[str, Any]:
    """Arrays and chart descriptions, with as many points as the size allows."""
    for points in POINTS:
        packer, series, store = Packer(points), {}, []
        described = [payload(chart, packer, series, store) for chart in charts]
        if packer.size <= ARRAY_BYTES:
            break
    return {
        "runs": [{"label": run.label, "marks": _marks(run)} for run in runs],
        "axes": packer.axes,
        "series": store,
        "charts": described,
        "last": max(0, *(run.last_step for run in runs)),
        "points": packer.points,
        "reduced": sum("x2" in item for item in store),
    }


def _marks(run: RunData) -> list[dict[str, Any]]:
    marks = [{"kind": "milestone", "step": m.step, "label": m.name} for m in run.milestones]
    marks += [
        {"kind": "alarm", "step": a.step, "label": detector_name(a.detector)}
        for a in first_alarms(run)
    ]
    marks += [
        {"kind": "action", "step": a.step, "label": action_name(a)} for a in first_actions(run)
    ]
    return marks


_LINKS = {
    "figures": "Figures",
    "alarms": "Alarms",
    "regimes": "Regimes",
    "actions": "Actions",
    "learning": "Learning",
    "signal": "Signal and noise",
    "latent": "Latent flow",
    "series": "Series",
    "cost": "Cost",
    "provenance": "Provenance",
}


def _bar(keys: Sequence[str]) -> Html:
    return tag(
        "nav",
        tag("ul", [tag("li", tag("a", _LINKS[key], href=f"#{key}")) for key in keys]),
        tag(
            "div",
            tag("button", "Show all steps", type="button", id="reset", hidden=True),
            tag("button", "Dark", type="button", id="theme", aria_pressed="false"),
            class_="tools",
        ),
        class_="bar",
        aria_label="Sections",
    )


_HELP = (
    "Drag across a chart to zoom all of them, double-click to see all steps again. With the "
    "keyboard: arrow keys move the cursor, + and − zoom around it, Escape shows all steps."
)


def _figures(runs: Sequence[RunData]) -> Html | None:
    table = compared(runs)
    drawn = [
        join([tag("p", run.label, class_="lead") if len(runs) > 1 else None, plot(figure, key)])
        for index, run in enumerate(runs)
        for place, figure in enumerate(run.figures)
        for key in [f"figure-{index}-{place}"]
    ]
    if table is None and not drawn:
        return None
    title = "Against the exact answer" if table is not None else "Figures"
    pictures = tag("div", drawn, class_="grid") if drawn else None
    return sections.section("figures", title, table, pictures)


def _learning(charts: Sequence[Chart]) -> Html:
    help_text = tag("p", _HELP, class_="help", id="keys-help")
    if charts:
        return sections.section("learning", "Accuracy and loss", help_text, grid(charts, wide=True))
    text = "The run logged none of loss, val_loss, train_acc, val_acc."
    return sections.section(
        "learning", "Accuracy and loss", tag("p", text, class_="empty"), help_text
    )


def _own(charts: Sequence[Chart]) -> bool:
    """Whether a signal chart but that of the accuracy, which is shown above too, has a line."""
    return any(chart.lines for chart in charts if chart.key != "accuracy-signal")


def _signal(charts: Sequence[Chart]) -> Html:
    title = "Gradient signal and noise"
    if not _own(charts):
        others = (chart for chart in charts if chart.key != "accuracy-signal")
        reasons = dict.fromkeys(chart.missing for chart in others)
        return sections.section("signal", title, [tag("p", r, class_="empty") for r in reasons])
    lead = (
        "The five charts that a published theory of training as signal against noise asks for. "
        "Each caption says what is as published and what is corrected."
    )
    return sections.section("signal", title, grid(charts), lead=lead)


def _families(groups: Sequence[Group]) -> Html:
    title = "Every other series"
    if not groups:
        text = "The run has no other series."
        return sections.section("series", title, tag("p", text, class_="empty"))
    count = sum(len(group.charts) + len(group.heats) for group in groups)
    find = tag(
        "label",
        "Filter ",
        tag("input", type="search", id="filter", placeholder="name or title", autocomplete="off"),
        tag("span", f"{count} of {count}", id="filter-count", role="status"),
        class_="filter",
    )
    families = [
        tag(
            "div",
            tag("h3", group.title.replace("_", " ").capitalize()),
            tag(
                "div",
                [panel(chart, "h4") for chart in group.charts],
                [draw(heat) for heat in group.heats],
                class_="grid",
            ),
            class_="family",
        )
        for group in groups
    ]
    lead = (
        "Bands: the 95 % interval (coloured), what the series reads when nothing happens (grey, "
        "dotted outline). Hollow circles and ticks at the foot mark flagged points."
    )
    return sections.section("series", title, find, families, lead=lead)


def _footer(data: dict[str, Any]) -> Html:
    text = "Written by Foreshock. This file is complete: it loads nothing from anywhere."
    if data["reduced"]:
        text += (
            f" {data['reduced']} series of more than {data['points']:,} points are drawn in "
            f"{data['points']:,} buckets: line = mean, pale band = minimum to maximum, coloured "
            "band = average of the intervals. Numbers in text and tables are exact."
        )
    return tag("p", text)


def _policy(scripts: Sequence[str]) -> str:
    """Allows exactly the scripts of this page, by hash, and no request of any kind."""
    hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    allowed = " ".join(f"'sha256-{value}'" for value in hashes)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; base-uri 'none'"


def _static(name: str) -> str:
    text = resources.files("foreshock.report").joinpath("static", name).read_text(encoding="utf-8")
    # The parser turns CRLF into LF, and the hashes of the policy are over what it sees.
    return text.replace("\r\n", "\n")
