"""Which charts the page has and which lines are in each; captions say what is published.

A chart is described here as a value; drawing it is the browser's job, its numbers and its caption
are written by ``sections``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from foreshock.report.data import UNDRAWN, Column, RunData
from foreshock.report.heatmap import HeatMap, heat_maps
from foreshock.stats.published_signal import PLACEHOLDER_D_H, PLACEHOLDER_S


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart.

    Args:
        run: 0 for the run, 1 for its twin.
        label: Key of the legend.
        column: The series.
        colour: Index into the palette; 9 is the neutral colour of a twin that is alone.
        dashed: Twins are dashed.
        one_sided: The series is a lower bound: its band ends at the line, not at infinity.
    """

    run: int
    label: str
    column: Column
    colour: int
    dashed: bool
    one_sided: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart: what it shows, in which unit, against what.

    Args:
        key: Identifier in the page.
        title: A few words.
        unit: Unit of the vertical axis.
        lines: What is drawn; may be empty, then ``missing`` says why.
        caption: Sentences under the chart.
        references: Horizontal lines as ``(value, label)``.
        log: Whether the vertical axis starts logarithmic.
        bounds: Fixed vertical range, for shares and accuracies.
        tall: Whether it belongs to the main charts, which name their marks.
        missing: Why there is nothing to draw.
    """

    key: str
    title: str
    unit: str
    lines: tuple[Line, ...]
    caption: str = ""
    references: tuple[tuple[float, str], ...] = ()
    log: bool = False
    bounds: tuple[float, float] | None = None
    tall: bool = False
    missing: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Charts under one heading."""

    title: str
    charts: tuple[Chart, ...] = field(default=())
    heats: tuple[HeatMap, ...] = field(default=())


def learning_charts(runs: Sequence[RunData]) -> tuple[Chart, ...]:
    """Accuracy and loss of training and validation; only what was recorded."""
    charts = (
        _accuracy(runs, "accuracy"),
        Chart(
            "loss",
            "Loss",
            _unit(runs, ("loss", "val_loss"), "nats"),
            _lines(runs, (("loss", "train"), ("val_loss", "validation"))),
            tall=True,
            log=_positive(runs, ("loss", "val_loss")),
        ),
    )
    return tuple(chart for chart in charts if chart.lines)


def signal_charts(runs: Sequence[RunData]) -> tuple[Chart, ...]:
    """The five charts that the gradient-signal document asks for, published and corrected."""
    snr = Chart(
        "c",
        "Consolidation ratio C",
        "1",
        _lines(runs, (("grad/snr", "C"),)),
        "Corrected: C = U / V, where the bias that sampling adds to the squared mean gradient is "
        "removed, so C may be negative. The published ratio keeps that bias (+1/n). C = 1 means "
        "that the batch size equals the gradient noise scale; it moves with the batch size.",
        references=((1.0, "C = 1: batch size = noise scale"),),
        missing=_missing(runs, "grad/snr"),
    )
    probability = Chart(
        "p",
        "Probability p",
        "1",
        _lines(runs, (("grad/p_published", "published C/(1+C)"), ("grad/p_align", "measured"))),
        "Published: p = C / (1 + C), C on another scale, which crosses ½ exactly where C crosses "
        "1. Measured: the share of batch gradients that point along the mean of the others.",
        references=((0.5, "p = ½"),),
        missing=_missing(runs, "grad/p_published"),
    )
    accuracy = replace(
        _accuracy(runs, "accuracy-signal"),
        title="Train and test accuracy",
        caption="As recorded; here to be read against C and p. Test is the validation set.",
        tall=False,
        missing=_missing(runs, "val_acc"),
    )
    factor = PLACEHOLDER_S / PLACEHOLDER_D_H
    published = Chart(
        "i",
        "Intelligence coefficient I",
        "1",
        _derived(runs, "grad/p_published", factor, "published/i"),
        "Published: I = p · S / d_H with the published placeholders S = 0.1 and d_H = 1.5. That "
        "is p / 15 and carries nothing more than p does.",
        missing=_missing(runs, "grad/p_published"),
    )
    power = Chart(
        "power",
        "Gradient signal and noise",
        _unit(runs, ("grad/signal", "grad/noise"), "loss² / parameter²"),
        _lines(runs, (("grad/signal", "signal U"), ("grad/noise", "noise V"))),
        "Corrected: U is the unbiased squared norm of the mean gradient and V the total variance "
        "of a batch gradient. Where U ≤ 0 it is not resolved and a log axis cannot show it.",
        log=True,
        missing=_missing(runs, "grad/signal"),
    )
    return snr, probability, accuracy, published, power


def family_charts(runs: Sequence[RunData], shown: Sequence[Chart]) -> tuple[Group, ...]:
    """One chart for every series not shown yet, grouped by the observable that promised it."""
    done = {line.column.name for chart in shown for line in chart.lines}
    maps = heat_maps(runs)
    mapped = {f"{heat.name}@{part}" for heat in maps for part in heat.parts}
    groups: dict[str, list[Chart]] = {}
    for name in _names(runs):
        if name in done or name in mapped or name in UNDRAWN:
            continue
        column = _first(runs, name)
        assert column is not None
        bundle = next((run.bundles[name] for run in runs if name in run.bundles), ())
        groups.setdefault(_family(runs, name), []).append(
            Chart(
                f"series-{len(done)}-{sum(map(len, groups.values()))}",
                column.title or name,
                column.unit or "1",
                _lines(runs, ((name, name),)) or _bundle_lines(bundle),
                caption=_caption(column, shared=bool(bundle) and len(runs) > 1),
                log=bool(bundle),
                missing="No number was recorded, or arrays that this page does not draw.",
            )
        )
    heats: dict[str, list[HeatMap]] = {}
    for heat in maps:
        title = _family(runs, heat.name)
        groups.setdefault(title, [])
        heats.setdefault(title, []).append(heat)
    return tuple(
        Group(title, tuple(charts), tuple(heats.get(title, ()))) for title, charts in groups.items()
    )


def _accuracy(runs: Sequence[RunData], key: str) -> Chart:
    names = ("train_acc", "val_acc")
    values = [_first(runs, name) for name in names]
    # Accuracies logged in percent keep their own range.
    share = all(c is None or not (c.value[c.value == c.value] > 1).any() for c in values)
    return Chart(
        key,
        "Accuracy",
        "share correct" if share else "as logged",
        _lines(runs, (("train_acc", "train"), ("val_acc", "validation"))),
        bounds=(0.0, 1.0) if share else None,
        tall=True,
    )


def _lines(runs: Sequence[RunData], wanted: Sequence[tuple[str, str]]) -> tuple[Line, ...]:
    """Lines of the wanted series in every run that has rows of them, twins dashed."""
    present = [(n, label) for n, label in wanted if _first(runs, n) is not None]
    return tuple(
        Line(
            run=index,
            label=_label(runs, index, label, alone=len(wanted) == 1),
            column=run.columns[name],
            colour=9 if index and len(wanted) == 1 else place,
            dashed=index > 0,
        )
        for index, run in enumerate(runs)
        for place, (name, label) in enumerate(present)
        if name in run.columns and len(run.columns[name].step)
    )


def _caption(column: Column, *, shared: bool) -> str:
    null = f"When nothing happens: {column.null}." if column.null else ""
    return f"{null} Of the run itself; its twin has a report of its own." if shared else null


def _bundle_lines(bundle: Sequence[Column]) -> tuple[Line, ...]:
    """The elements of a spectrum, largest first as recorded, of the run itself only."""
    return tuple(
        Line(0, str(place + 1), column, colour=0, dashed=False)
        for place, column in enumerate(bundle)
    )


def _derived(runs: Sequence[RunData], source: str, factor: float, name: str) -> tuple[Line, ...]:
    return tuple(
        replace(line, column=line.column.scaled(factor, name=name, title=name))
        for line in _lines(runs, ((source, name),))
    )


def _label(runs: Sequence[RunData], index: int, label: str, *, alone: bool) -> str:
    if alone:
        return runs[index].label
    return label if index == 0 else f"{label}, {runs[index].label}"


def _names(runs: Sequence[RunData]) -> list[str]:
    return list(dict.fromkeys(name for run in runs for name in run.columns))


def _first(runs: Sequence[RunData], name: str) -> Column | None:
    return next((run.columns[name] for run in runs if name in run.columns), None)


def _family(runs: Sequence[RunData], name: str) -> str:
    for run in runs:
        if run.family.get(name):
            return run.family[name]
    return name.split("/", 1)[0] if "/" in name else "logged"


def _unit(runs: Sequence[RunData], names: Sequence[str], default: str) -> str:
    units = (column.unit for name in names if (column := _first(runs, name)) is not None)
    return next((unit for unit in units if unit and unit != "1"), default)


def _positive(runs: Sequence[RunData], names: Sequence[str]) -> bool:
    columns = [run.columns[name] for run in runs for name in names if name in run.columns]
    return bool(columns) and not any((column.value <= 0).any() for column in columns)


def _missing(runs: Sequence[RunData], name: str) -> str:
    """Why a series is absent, if the run said so."""
    for run in runs:
        for left, reason in run.left_out:
            if left == "gradient_noise" and name.startswith("grad/"):
                return f"{name} was not recorded: {reason}"
    return f"{name} was not recorded in this run."
