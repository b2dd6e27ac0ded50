"""Static pictures for a README or a paper: their style, and the one of a run and its null twin.

matplotlib's object interface without pyplot: no global figure, backend or style is touched, and
text becomes paths, so a picture looks alike everywhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from foreshock.report.data import RunData, read_run
from foreshock.report.facts import ONSET, detector_name, first_alarms, milestone_name, steps
from foreshock.store import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Okabe-Ito, told apart by the colour-blind; in the order of use.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
#: For what is not a series: references, nulls, borders.
GREY = "#6F7680"
_BLUE, _VERMILION, _GREEN = PALETTE[:3]
_INK = "#1D2126"

_STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["Inter", "Helvetica Neue", "Arial", "Liberation Sans", "DejaVu Sans"],
    "font.size": 9.0,
    "axes.edgecolor": GREY,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "svg.hashsalt": "foreshock",  # the same run gives the same bytes
    "svg.fonttype": "path",
}


def paper_figure(
    rows: int, columns: int, *, size: tuple[float, float] | None = None, **shared: Any
) -> tuple[Figure, NDArray[np.object_]]:
    """An empty figure in the house's style.

    Args:
        rows: Of panels.
        columns: Of panels.
        size: Width and height in inches; 3.6 by 2.6 a panel if not given.
        shared: ``sharex``, ``sharey`` and the like, for `Figure.subplots`.

    Returns:
        The figure and its axes, ``(rows, columns)``.

    Raises:
        ImportError: If matplotlib is not installed.

    Examples:
        >>> figure, axes = paper_figure(1, 2)
        >>> axes.shape
        (1, 2)
    """
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("A picture needs matplotlib. Type `pip install matplotlib`.") from error
    with rc_context(_STYLE):
        figure = Figure(figsize=size or (3.6 * columns, 2.6 * rows), layout="constrained")
        FigureCanvasAgg(figure)
        return figure, figure.subplots(rows, columns, squeeze=False, **shared)


def save_figure(figure: Figure, out: str | Path) -> Path:
    """Write a figure; the same figure gives the same bytes.

    Args:
        figure: The figure.
        out: File to write; its suffix (``.svg``, ``.png``, ``.pdf``) chooses the format.

    Returns:
        The path of the file.

    Examples:
        >>> import tempfile
        >>> figure, axes = paper_figure(1, 1)
        >>> save_figure(figure, tempfile.mkdtemp() + "/a.svg").stat().st_size > 1000
        True
    """
    from matplotlib import rc_context

    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The hour of writing is all that differs between two files of one figure.
    dated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    metadata: dict[str, Any] = dated.get(path.suffix.lower(), {})
    with rc_context(_STYLE):
        figure.savefig(path, dpi=200, metadata=metadata)
    return path


def demo_picture(
    run: Run | str | Path,
    twin: Run | str | Path | None,
    out: str | Path,
    *,
    series: str = "readout/heldout_signal",
) -> Path:
    """Draw accuracy above and one series below, run and twin, with its alarm and the onset marked.

    Args:
        run: The run, open or its path.
        twin: Its null twin, or ``None``.
        out: File to write; its suffix (``.svg``, ``.png``, ``.pdf``) chooses the format.
        series: Series of the lower panel.

    Returns:
        The path of the file.

    Raises:
        ValueError: If the run has no such series and no accuracy either.

    Examples:
        >>> import tempfile
        >>> from foreshock.store import Run
        >>> folder = Path(tempfile.mkdtemp())
        >>> with Run.create(folder / "a") as run:
        ...     for step in range(9):
        ...         run.append(step, {"val_acc": step / 8})
        >>> demo_picture(folder / "a", None, folder / "a.svg").stat().st_size > 1000
        True
    """
    data = _read(run, "run")
    null = _read(twin, "null twin") if twin is not None else None
    panels = [
        panel
        for panel in (("train_acc", "val_acc"), (series,))
        if any(_has(data, name) for name in panel)
    ]
    if not panels:
        raise ValueError(
            f"`run` of `demo_picture` must hold `train_acc`, `val_acc` or `{series}`. "
            f"Got {', '.join(data.columns) or 'no series'}; name one with `series=`."
        )
    figure, axes = paper_figure(len(panels), 1, size=(7.4, 1.0 + 2.0 * len(panels)), sharex=True)
    rows = axes[:, 0]
    for one, names in zip(rows, panels, strict=True):
        # The names of the marks stand between the first title and its panel.
        _panel(one, names, data, null, pad=32 if one is rows[0] else 6)
    _marks(rows, data, series)
    rows[-1].set_xlabel("optimizer step")
    rows[-1].set_xlim(0, max(1, data.last_step, null.last_step if null else 0))
    return save_figure(figure, out)


def _read(run: Run | str | Path, label: str) -> RunData:
    if isinstance(run, Run):
        return read_run(run, label)
    with Run.open(Path(run)) as opened:
        return read_run(opened, label)


def _has(run: RunData | None, name: str) -> bool:
    return run is not None and name in run.columns and len(run.columns[name].step) > 0


def _panel(
    axes: Axes, names: tuple[str, ...], run: RunData, twin: RunData | None, *, pad: float
) -> None:
    alone = len(names) == 1
    for name, colour in zip(names, (_BLUE, _GREEN), strict=False):
        if _has(run, name):
            column = run.columns[name]
            axes.plot(column.step, column.value, color=colour, lw=1.6)
            low, high = (np.where(np.isfinite(e), e, np.nan) for e in (column.low, column.high))
            if np.any(low < high):
                axes.fill_between(column.step, low, high, color=colour, alpha=0.15, lw=0)
            _end_label(axes, column.step, column.value, _short(name, alone), colour)
        if twin is not None and _has(twin, name):
            column = twin.columns[name]
            shade = GREY if alone else colour
            axes.plot(column.step, column.value, color=shade, lw=1.1, ls=(0, (4, 3)))
    first = run.columns.get(names[0]) or run.columns.get(names[-1])
    if alone and first is not None:
        axes.set_title(first.title or first.name, loc="left", pad=pad, fontsize=9.5, color=_INK)
        null = np.isfinite(first.null_low) & np.isfinite(first.null_high)
        if null.any():
            axes.fill_between(
                first.step[null],
                first.null_low[null],
                first.null_high[null],
                color=GREY,
                alpha=0.15,
                lw=0,
            )
    else:
        axes.set_title("Accuracy", loc="left", pad=pad, fontsize=9.5, color=_INK)
        axes.set_ylim(-0.03, 1.03)
    if twin is not None:
        axes.set_title("dashed: the null twin", loc="right", pad=pad, fontsize=8, color=GREY)
    axes.grid(axis="y", color="#EFEDE8", lw=0.8)
    axes.set_axisbelow(True)


def _short(name: str, alone: bool) -> str:
    return "" if alone else {"train_acc": "train", "val_acc": "validation"}.get(name, name)


def _end_label(axes: Axes, x: np.ndarray, y: np.ndarray, text: str, colour: str) -> None:
    """Names a line where it first reaches half its height: no legend to look up."""
    finite = np.isfinite(y)
    if not text or not finite.any():
        return
    half = (y[finite].min() + y[finite].max()) / 2
    at = int(np.argmax(finite & (y >= half)))
    axes.annotate(
        text,
        (x[at], half),
        xytext=(6, 0),
        textcoords="offset points",
        color=colour,
        fontsize=9,
        va="center",
    )


def _marks(rows: np.ndarray, run: RunData, series: str) -> None:
    """Onset, and the first alarm on the series below (on any, if none read that one)."""
    onset, fired = run.milestone(ONSET), first_alarms(run)
    alarms = ([a for a in fired if a.series == series] or fired)[:1]
    marks = [
        (a.step, f"{detector_name(a.detector)} fired, {a.step:,}", _VERMILION, "-") for a in alarms
    ]
    if onset is not None:
        marks.append((onset.step, f"{milestone_name(ONSET)}, {onset.step:,}", GREY, "--"))
    for axes in rows:
        for step, _text, colour, style in marks:
            axes.axvline(step, color=colour, lw=1.2, ls=style, zorder=1)
    # Named above the panels, one row each, where no curve can run through the words.
    for place, (step, text, colour, _style) in enumerate(reversed(marks)):
        rows[0].annotate(
            text,
            (step, 1),
            xycoords=("data", "axes fraction"),
            xytext=(-1, 5 + 11 * place),
            textcoords="offset points",
            color=colour,
            fontsize=8.5,
        )
    last = rows[-1]
    low, high = last.get_ylim()
    if alarms and onset is not None and onset.step > alarms[0].step:
        height = low + 0.82 * (high - low)
        last.annotate(
            "",
            (alarms[0].step, height),
            (onset.step, height),
            arrowprops={"arrowstyle": "<->", "color": _INK, "lw": 0.9},
        )
        middle = (alarms[0].step + onset.step) / 2
        last.annotate(
            steps(onset.step - alarms[0].step),
            (middle, height),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=8.5,
            color=_INK,
        )
