"""``foreshock forecast fit`` and ``score``: the probability of an event, and what it is worth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from foreshock.cli.calibrate import folders, writable
from foreshock.cli.console import console, emit, progress, short
from foreshock.detectors import PublishedProbability, load_forecasters, save_forecasters
from foreshock.detectors.hazard import FORECAST
from foreshock.evaluation import (
    Landmarks,
    compare_forecasts,
    fit_baselines,
    fit_hazard,
    landmarks,
    reliability,
    score_forecasts,
)
from foreshock.evaluation import forecast as forecast_rows
from foreshock.evaluation.forecasting import EVERYDAY
from foreshock.store import Run

Folders = Annotated[tuple[Path, ...], tyro.conf.Positional]
Names = tyro.conf.UseAppendAction[tuple[str, ...]]

#: Runs, of those with the event and of those without, below which no number is to be trusted.
FEW = 10

#: Published numbers that are said to be probabilities, by what a table calls them.
PUBLISHED = {"phi as published": PublishedProbability.phi, "p as published": PublishedProbability.p}


def forecast(words: Sequence[str]) -> int:
    """Run ``fit`` or ``score``.

    Args:
        words: What stands behind ``foreshock forecast``.

    Returns:
        The exit code.
    """
    commands = {"fit": fit, "score": score}
    return tyro.extras.subcommand_cli_from_dict(commands, prog="foreshock forecast", args=words)


def fit(
    runs: Folders,
    event: str = "onset",
    within: int = 200,
    series: Names = (),
    baselines: Names = (),
    every: int = 0,
    horizon: int = 0,
    out: Path = Path("forecast.json"),
    overwrite: bool = False,
    json: bool = False,
) -> int:
    """Fit P(event within h steps) and its baselines, for `attach(detectors=["forecast:FILE"])`.

    Args:
        runs: Folders of recorded runs, or of a folder that holds them.
        event: Name of the milestone.
        within: Horizon h, in steps.
        series: Series to forecast from; log:NAME takes logarithms. May be repeated.
        baselines: Everyday series to fit beside it, may be repeated; validation accuracy and loss
            and the log of the training loss if none is named. The clock needs no name.
        every: Distance of landmarks; a tenth of the horizon if 0.
        horizon: Planned end of the runs, if those with an event stop at it.
        out: File to write.
        overwrite: Replace a file that exists.
        json: Print JSON.

    Returns:
        0.

    Raises:
        ValueError: If no run or no series is named, or the file cannot be written or exists.
    """
    if not runs:
        raise ValueError(
            "`foreshock forecast fit` needs the folders of recorded runs. Type: foreshock forecast "
            "fit runs/all --event onset --series val_loss"
        )
    if not series:
        raise ValueError(
            "`foreshock forecast fit` needs the series to forecast from. Add: --series NAME"
        )
    writable(out, overwrite=overwrite)
    baselines = baselines or EVERYDAY
    reads = [name.removeprefix("log:") for name in (*series, *baselines)]
    rows = _landmarks(runs, event, within, reads, every, horizon, silent=json)
    found = {FORECAST: fit_hazard(rows, series), **fit_baselines(rows, baselines)}
    save_forecasters(out, found)
    one = found[FORECAST]
    titles = ("intercept", *(t.title for t in one.terms))
    # No standard errors: the penalty biases, and a covariance over runs does not know.
    table = [
        {"term": title, "coefficient": b} for title, b in zip(titles, one.coefficients, strict=True)
    ]
    few = _few(rows)
    if json:
        emit(
            {
                "forecast": str(out),
                "detector": f"forecast:{out}",
                "event": event,
                "within": within,
                "runs": len(rows.ids),
                "landmarks": len(rows),
                "landmarks_with_event": int(rows.outcome.sum()),
                "terms": table,
                "baselines": [name for name in found if name != FORECAST],
                "caveats": few,
            }
        )
        return 0
    show = console()
    text = (
        f"Wrote {out}: P({event} within {within:,} steps) from {len(rows.ids)} runs, "
        f"{len(rows):,} landmarks, {int(rows.outcome.sum()):,} of them with the event. Beside it: "
        f"{', '.join(name for name in found if name != FORECAST)}."
    )
    show.print(text, soft_wrap=True)
    for item in table:
        show.print(f"  {item['coefficient']:>8.3g}  {item['term']}")
    for sentence in few:
        show.print(sentence, soft_wrap=True)
    show.print(f"foreshock forecast score OTHER_RUNS... --file {out}", soft_wrap=True)
    return 0


def score(
    runs: Folders,
    file: Path = Path("forecast.json"),
    every: int = 0,
    horizon: int = 0,
    json: bool = False,
) -> int:
    """Score a fitted forecaster on other runs, beside its baselines and published numbers.

    Args:
        runs: Folders of runs that it was not fitted on, or of a folder that holds them.
        file: File of ``foreshock forecast fit``.
        every: Distance of landmarks; a tenth of the horizon if 0.
        horizon: Planned end of the runs, if those with an event stop at it.
        json: Print JSON.

    Returns:
        0.

    Raises:
        ValueError: If no run is named.
    """
    if not runs:
        raise ValueError(
            "`foreshock forecast score` needs the folders of recorded runs that the forecaster was "
            f"not fitted on. Type: foreshock forecast score runs/others --file {file}"
        )
    fitted = load_forecasters(file)
    one = fitted[FORECAST]
    published = {name: make(one.event, one.within) for name, make in PUBLISHED.items()}
    everyone = {**fitted, **published}
    reads = [name for forecaster in everyone.values() for name in forecaster.reads]
    rows = _landmarks(runs, one.event, one.within, reads, every, horizon, silent=json)
    found = {name: forecast_rows(rows, forecaster) for name, forecaster in everyone.items()}
    # A fitted forecaster that never says anything here is left out, or no landmark would be left. A
    # published number is judged on the landmarks it has, and not at all where none has the event.
    silent = {n for n in fitted if n != FORECAST and np.isnan(found[n]).all()}
    spoken = [~np.isnan(found[name]) for name in fitted if name not in silent]
    common = np.logical_and.reduce(spoken) & rows.outcome
    silent |= {n for n in published if not (common & ~np.isnan(found[n])).any()}
    found = {name: p for name, p in found.items() if name not in silent}
    reference = "clock" if "clock" in found else FORECAST
    scores = score_forecasts(rows, found, reference=reference, pairwise=published)
    gains = compare_forecasts(rows, found, pairwise=published)
    few = _few(rows)
    curve = reliability(rows, found[FORECAST])
    if json:
        emit(
            {
                "event": one.event,
                "within": one.within,
                "reference": reference,
                "landmarks": len(rows),
                "landmarks_with_event": int(rows.outcome.sum()),
                "caveats": few,
                "scores": [asdict(item) for item in scores],
                "gain_of_forecast_over": {name: asdict(gain) for name, gain in gains.items()},
                "reliability": [asdict(item) for item in curve],
            }
        )
        return 0
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    heads = (
        "forecaster", "rows", "Brier", "log score", f"skill vs {reference}", "slope", "gain over it"
    )  # fmt: skip
    for head in heads:
        table.add_column(head, justify="left" if head == "forecaster" else "right")
    for item in scores:
        gain = [gains[item.name]] if item.name in gains else []
        plain = (f"{item.rows:,}", f"{item.brier.value:.4f}", f"{item.log_score.value:.4f}")
        cells = (item.skill, item.slope, *gain)
        table.add_row(item.name, *plain, *(short(e.value, e.low, e.high) for e in cells))
    show = console()
    show.print(table)
    show.print(
        f"{scores[0].rows:,} of {len(rows):,} landmarks, {scores[0].events:,} of them with the "
        f"event, of {scores[0].runs} runs. Gain over it: log score of {FORECAST} minus its own, "
        "nats a landmark; an interval that holds 0 is no gain.",
        soft_wrap=True,
    )
    for sentence in few:
        show.print(sentence, soft_wrap=True)
    return 0


def _few(rows: Landmarks) -> list[str]:
    """A sentence, if so few runs have the event, or have it not, that no interval holds."""
    events = len(np.unique(rows.run[rows.outcome]))
    if min(events, len(rows.ids)) >= FEW:
        return []
    return [
        f"{len(rows.ids)} runs, {events} of them with the event: below {FEW} of either trust no "
        "number here, its interval included."
    ]


def _landmarks(
    paths: Sequence[Path],
    event: str,
    within: int,
    reads: Iterable[str],
    every: int,
    horizon: int,
    *,
    silent: bool,
) -> Landmarks:
    """Landmarks of the runs, read one after the other."""
    found = folders(paths)
    with ExitStack() as stack, progress("read", silent=silent, unit="runs") as move:
        opened = [stack.enter_context(Run.open(path)) for path in found]
        return landmarks(
            opened, event, within, reads=reads, every=every, horizon=horizon, progress=move
        )
