"""The section on the cloud of latents: how it flows, what was refused, and what is a model's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from foreshock.report.charts import Chart, Line
from foreshock.report.data import Column, RunData, summarise
from foreshock.report.latent_pictures import clouds, flux_pictures, planes
from foreshock.report.markup import Html, interval, number, tag
from foreshock.report.panels import grid, last_text, unit_text
from foreshock.report.sections import section, table
from foreshock.types import Flag

ENTROPY = ("latent/entropy_production", "latent/entropy_production_bound")
#: What the numbers of the cloud rest on.
VALIDITY = (
    "latent/kernel_ess",
    "latent/score_gap",
    "latent/stein",
    "latent/pca_share",
    "latent/common_noise",
    "latent/diffusion_spread",
)
#: fokker_planck.md's forms, computed with the document's own drift and diffusion.
PUBLISHED = (
    "published/c_fp",
    "published/c_fp_code",
    "published/regime_fp",
    "published/s_dot_fp",
    "published/s_dot_fp_text",
    "published/j_fp",
    "published/max_div_j_fp",
    "published/t_eff_fp",
    "published/alert_fp",
    "published/c_wrapper_fp",
    "published/drift_cosine_fp",
)
W2_FINAL = "published/w2_final"
LAST = "latent-w2-final"


def latent_charts(runs: Sequence[RunData]) -> tuple[Chart, ...]:
    """Entropy production against the null, C, and the distance to the last cloud.

    Args:
        runs: The run, and its twin if there is one.

    Returns:
        Charts; none if the run has no `latent/*` series.
    """
    if not _recorded(runs[0]):
        return ()
    production = Chart(
        "latent-entropy",
        "Entropy production",
        _unit(runs[0], ENTROPY[0], "nats / step"),
        _lines(runs, tuple(zip(ENTROPY, ("estimate", "lower bound"), strict=True))),
        "0 at equilibrium; what the flow of the cloud dissipates. The lower bound holds for any "
        "score, and its band is one-sided.",
        missing=_missing(runs[0], ENTROPY[0]),
    )
    consolidation = Chart(
        "latent-c",
        "Consolidation ratio of the latents, C",
        "1",
        _lines(runs, (("latent/c", "C"),)),
        "C² = E[μ·D⁻¹μ] / E[s·Ds]: measured drift against diffusive pull. C = 1 with no velocity "
        "is equilibrium, not criticality.",
        references=((1.0, "C = 1"),),
        missing=_missing(runs[0], "latent/c"),
    )
    charts = [production, consolidation]
    lines = tuple(_w2_line(runs, index) for index, run in enumerate(runs) if run.w2_final)
    if lines:
        charts.append(
            Chart(
                LAST,
                "W2 to the last cloud (uses the future)",
                "unit of the latents",
                lines,
                "As published, with a Gaussian on either side: known only when the run is over, 0 "
                "at the end by construction, and no series of the run. No alarm reads it.",
            )
        )
    return tuple(charts)


def latent(runs: Sequence[RunData], charts: Sequence[Chart]) -> Html | None:
    """The section, where the run has `latent/*` series.

    Args:
        runs: The run, and its twin if there is one.
        charts: What `latent_charts` gave.

    Returns:
        A section, or ``None``.
    """
    run = runs[0]
    if not _recorded(run):
        return None
    found, refused = planes(run)
    pictures = flux_pictures(run)
    note = (
        f"{refused:,} of {refused + len(found):,} recorded planes have no density and are not "
        "among the pictures."
    )
    return section(
        "latent",
        "Latent flow",
        tag("p", _refusals(run), class_="total", id="latent-flagged"),
        _null(runs),
        grid([chart for chart in charts if chart.key != LAST]),
        tag("div", pictures, class_="grid") if pictures else None,
        tag("p", note, class_="help") if refused else None,
        clouds(run),
        _parts(run),
        _trust(run),
        _published(run, [chart for chart in charts if chart.key == LAST]),
        lead=_lead(run),
    )


def _recorded(run: RunData) -> bool:
    return any(name.startswith("latent/") for name in (*run.columns, *run.clouds))


def _lead(run: RunData) -> str:
    taken = next(
        (run.columns[n].taken_at for n in ENTROPY if n in run.columns and run.columns[n].taken_at),
        "",
    )
    where = f" Taken at: {taken}." if taken else ""
    return (
        "How the outputs of a layer move between two optimizer steps, as a cloud of particles: "
        "drift μ and diffusion D are measured, no constant is chosen but the batch, and time is "
        f"counted in optimizer steps.{where}"
    )


def _trust(run: RunData) -> Html:
    """The record of what the numbers rest on, and what their intervals do not hold."""
    limits = [
        "All particles share the noise of the weights, so the equation of one particle is an "
        "approximation for the cloud; the share of that noise is ",
        tag("code", "latent/common_noise"),
        ". Intervals hold for a diffusion that is constant over the cloud.",
    ]
    rows = [
        tag(
            "tr",
            tag("th", tag("code", name), scope="row"),
            tag("td", column.title or "–", data_label="what"),
            tag("td", last_text(summary), class_="number", data_label="last"),
            tag("td", f"{summary.last_step:,}", class_="number", data_label="step"),
            tag("td", f"{summary.flagged:,} of {summary.rows:,}", data_label="flagged"),
            data_validity=name,
            data_value=repr(summary.last),
        )
        for name in VALIDITY
        for column in [run.columns.get(name)]
        for summary in [summarise(column) if column is not None else None]
        if column is not None and summary is not None
    ]
    columns = ("series", "what", "last [95 %]", "step", "flagged")
    listed = table("What the numbers rest on", columns, [tag("tbody", rows)], "latent-table")
    return tag(
        "div",
        tag("h3", "What the numbers rest on"),
        tag("p", limits, class_="help"),
        listed if rows else None,
    )


def _refusals(run: RunData) -> str:
    """Share of the records of the entropy production (or of all series) that are flagged."""
    column = next((run.columns[n] for n in (*ENTROPY, "latent/c") if n in run.columns), None)
    summary = summarise(column) if column is not None else None
    if column is None or summary is None:
        return "Neither entropy production nor C was recorded."
    text = f"{summary.flagged:,} of {summary.rows:,} records of {column.name} are flagged"
    if not summary.flagged:
        return f"{text}."
    names = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in summary.flags)
    most = f" Most often: “{summary.reasons[0][0]}”" if summary.reasons else ""
    return f"{text} ({names}).{most}"


def _null(runs: Sequence[RunData]) -> Html | None:
    """Of a twin without one resolved value the page says so."""
    said = []
    for twin in runs[1:]:
        columns = [twin.columns[name] for name in ENTROPY if name in twin.columns]
        rows = sum(len(column.step) for column in columns)
        if not rows:
            said.append(f"The {twin.label} has no record of the entropy production.")
        elif not any(_resolved(column).any() for column in columns):
            count = max(len(column.step) for column in columns)
            reasons = Counter(reason for column in columns for reason in column.reason if reason)
            most = f" Most often: “{reasons.most_common(1)[0][0]}”" if reasons else ""
            said.append(
                f"In the {twin.label} nothing moves that could be told from 0: none of its "
                f"{count:,} records of the entropy production is resolved.{most}"
            )
    return tag("div", [tag("p", text, class_="total") for text in said]) if said else None


def _parts(run: RunData) -> Html | None:
    """The last resolved value of every quantity by class and cluster."""
    parts: dict[str, dict[str, Column]] = {}
    for name, column in run.columns.items():
        base, _, part = name.partition("@")
        if part and base.startswith("latent/") and len(column.step):
            parts.setdefault(part, {})[base] = column
    bases = list(dict.fromkeys(base for found in parts.values() for base in found))
    if not parts:
        return None
    rows = [
        tag(
            "tr",
            tag("th", tag("code", part), scope="row"),
            [_part(found.get(base), base) for base in bases],
        )
        for part, found in parts.items()
    ]
    heads = ("part", *(base.removeprefix("latent/").replace("_", " ") for base in bases))
    listed = table("By class and cluster", heads, [tag("tbody", rows)], "latent-table")
    title = tag("h3", "By class and cluster: last resolved value [95 %]")
    if len(rows) <= 12:
        return tag("div", title, listed)
    return tag("div", title, tag("details", tag("summary", f"{len(rows)} parts"), listed))


def _part(column: Column | None, base: str) -> Html:
    label = base.removeprefix("latent/").replace("_", " ")
    if column is None:
        return tag("td", "not recorded", data_label=label)
    good = np.flatnonzero(_resolved(column))
    if not good.size:
        return tag(
            "td", "never resolved", title=column.reason[-1] or None, data_label=label,
            data_part=column.name, data_value="nan",
        )  # fmt: skip
    at = int(good[-1])
    value, step = float(column.value[at]), int(column.step[at])
    ends = interval(float(column.low[at]), float(column.high[at]))
    return tag(
        "td",
        f"{number(value)} {ends}".strip(),
        tag("small", f"step {step:,}"),
        class_="number",
        data_label=label,
        data_part=column.name,
        data_value=repr(value),
        data_step=step,
    )


def _published(run: RunData, charts: Sequence[Chart]) -> Html | None:
    """The document's own forms, apart from what was measured."""
    rows = []
    for name in PUBLISHED:
        column = run.columns.get(name)
        summary = summarise(column) if column is not None else None
        if column is None or summary is None:
            continue
        value = number(summary.last) if summary.last == summary.last else summary.last_reason
        rows.append(
            tag(
                "tr",
                tag("th", tag("code", name), scope="row"),
                tag("td", column.title or "–", data_label="what"),
                tag("td", value, class_="number", data_label="last"),
                tag("td", unit_text(column.unit), data_label="unit"),
                tag("td", f"{summary.rows:,}", class_="number", data_label="records"),
                data_published=name,
                data_value=repr(summary.last),
            )
        )
    if not rows and not charts:
        return None
    said = (
        "These take drift and diffusion from the model of fokker_planck.md, with constants that "
        "are chosen and not measured; another constant gives another number here and none above. "
        "No interval was published, so none is shown."
    )
    columns = ("series", "what", "last", "unit", "records")
    return tag(
        "div",
        tag("h3", "As published, shown for the claims only"),
        [
            tag("p", said, class_="help"),
            table("As published", columns, [tag("tbody", rows)], "latent-table"),
        ]
        if rows
        else None,
        tag("div", grid(charts), class_="apart") if charts else None,
        class_="aside",
    )


def _lines(runs: Sequence[RunData], wanted: Sequence[tuple[str, str]]) -> tuple[Line, ...]:
    """A line of every wanted series with a finite value; a twin's are dashed."""
    return tuple(
        Line(
            run=index,
            label=label if index == 0 else f"{label}, {run.label}",
            column=run.columns[name],
            colour=9 if index and len(wanted) == 1 else place,
            dashed=index > 0,
            one_sided=name.endswith("_bound"),
        )
        for index, run in enumerate(runs)
        for place, (name, label) in enumerate(wanted)
        if name in run.columns and np.isfinite(run.columns[name].value).any()
    )


def _w2_line(runs: Sequence[RunData], index: int) -> Line:
    steps, values = zip(*runs[index].w2_final, strict=True)
    rows = len(steps)
    blank = np.full(rows, np.nan)
    broken = ~np.isfinite(np.array(values))
    column = Column(
        W2_FINAL,
        "W2 to the last cloud",
        "unit of the latents",
        "computed for this page from latent/z",
        "0 at the end by construction",
        np.array(steps, dtype=np.int64),
        np.array(values, dtype=np.float64),
        blank,
        blank,
        blank,
        blank,
        np.zeros(rows, dtype=np.int64),
        np.where(broken, int(Flag.UNRESOLVED), 0),
        ["The cloud is not finite." if bad else "" for bad in broken],
    )
    return Line(index, runs[index].label, column, 9 if index else 0, dashed=index > 0)


def _resolved(column: Column) -> np.ndarray:
    return np.isfinite(column.value) & ((column.flags & int(Flag.UNRESOLVED)) == 0)


def _missing(run: RunData, name: str) -> str:
    column = run.columns.get(name)
    summary = summarise(column) if column is not None else None
    if summary is None:
        return f"{name} was not recorded in this run."
    most = f" Most often: “{summary.reasons[0][0]}”" if summary.reasons else ""
    return f"{name} could not be computed at any of {summary.rows:,} records.{most}"


def _unit(run: RunData, name: str, default: str) -> str:
    column = run.columns.get(name)
    return column.unit if column is not None and column.unit not in {"", "1"} else default
