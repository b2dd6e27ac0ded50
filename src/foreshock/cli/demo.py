"""``foreshock demo``: a network that groks, watched live, beside its random-label twin."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from foreshock.cli.console import console, emit, progress, short
from foreshock.evaluation import lead
from foreshock.experiments import grokking
from foreshock.report import demo_picture, write_report
from foreshock.store import Run, Series
from foreshock.types import Flag

#: Not a development seed (0 to 29), so the forecast of the onset was not fitted on this run.
SEED = 1000


def demo(
    out: Path | None = None,
    seed: int = SEED,
    steps: int = 0,
    every: int = 10,
    picture: Path | None = None,
    json: bool = False,
) -> int:
    """Train a network that groks, and its random-label twin as the null; print and report.

    Everything is measured every so many steps (reproducible); the overhead that this costs is
    shown. ``foreshock run grokking --every 0 --budget 0.05`` holds a budget instead.

    Args:
        out: Folder for the two runs and report.html; runs/demo-DATE-TIME if not given.
        seed: Seed of both runs.
        steps: Updates; the task's own horizon if 0.
        every: Measure every so many steps.
        picture: Also draw one picture of both runs into this file (needs matplotlib).
        json: Print JSON.

    Returns:
        0.
    """
    torch.set_num_threads(1)  # two threads fight over a network this small
    folder = out or Path("runs") / f"demo-{datetime.now():%Y%m%d-%H%M%S}"
    start = time.perf_counter()
    config = grokking.Grokking(seed=seed, steps=steps, observables="full", every=every)
    paths = []
    for variant, title in (("grok", "modular addition"), ("labels", "random-label twin")):
        path = folder / variant
        with progress(title, silent=json) as move:
            grokking.run(replace(config, variant=variant), path, progress=move).close()
        paths.append(path)
    page = write_report(paths, folder / "report.html", labels=["run", "random-label twin"])
    with Run.open(paths[0]) as run, Run.open(paths[1]) as twin:
        if picture is not None:
            demo_picture(run, twin, picture)
        result = summary(run, twin, every=config.evaluate_every)
    result |= {"seconds": time.perf_counter() - start, "report": str(page)}
    if json:
        emit(result)
    else:
        show(result)
    return 0


def summary(run: Run, twin: Run, *, every: int) -> dict[str, Any]:
    """What happened in a run and in its twin, as plain values.

    Args:
        run: The run.
        twin: Its null.
        every: Distance of evaluations, for judging leads.

    Returns:
        Milestones, what every observable read at them and in the twin, alarms with their leads, and
        what watching cost.
    """
    reached = {e.payload["name"]: e.step for e in run.events("milestone")}
    onset, half = reached.get("onset"), reached.get("T50")
    columns = {"memorised": reached.get("memorised"), "onset": onset}
    readings = []
    for name in run.names():
        if "/" not in name or name.startswith("clock/") or not len(run.series(name)):
            continue  # logged numbers, the clock, spectra
        series, null = run.series(name), twin.series(name) if name in twin.names() else None
        readings.append(
            {
                "series": name,
                **{key: at(series, step) for key, step in columns.items()},
                "twin": at(null, onset) if null is not None else None,
            }
        )
    fired = {e.source: e.step for e in reversed(twin.events("alarm"))}
    alarms = []
    for event in run.events("alarm"):
        if any(a["detector"] == event.source for a in alarms):
            continue  # the first alarm of each rule
        judged = lead(event.step, onset, half, every=every)
        alarms.append(
            {
                "detector": event.source,
                "step": event.step,
                "reason": event.payload["reason"],
                **asdict(judged),
                "forecast": event.payload["forecast"],
                "twin": fired.get(event.source),
            }
        )
    schedule = run.events("schedule")[-1].payload
    return {
        "milestones": reached,
        "twin_milestones": {e.payload["name"]: e.step for e in twin.events("milestone")},
        "readings": readings,
        "alarms": alarms,
        "twin_only": sorted(set(fired) - {a["detector"] for a in alarms}),
        "overhead": schedule["watch_seconds"] / max(schedule["train_seconds"], 1e-9),
    }


def at(series: Series, step: int | None) -> dict[str, Any] | None:
    """The last estimate at or before a step."""
    if step is None or not len(series) or series.step[0] > step:
        return None
    estimate = series.estimate(int(series.step.searchsorted(step, side="right")) - 1)
    return {
        "value": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "null": estimate.null,
        "flags": Flag(estimate.flags).names,
    }


def show(result: dict[str, Any]) -> None:
    """Print the result for a person."""
    out = console()
    reached, twin = result["milestones"], result["twin_milestones"]
    table = Table(title="What happened", box=None, pad_edge=False, title_justify="left")
    for column in ("", "memorised", "onset", "T50", "T90"):
        table.add_column(column, justify="right" if column else "left")
    for title, row in (("modular addition", reached), ("random-label twin", twin)):
        table.add_row(title, *(str(row.get(c, "–")) for c in ("memorised", "onset", "T50", "T90")))
    out.print(table)
    table = Table(
        title="\nWhat was read [95 % interval] (what noise reads)",
        box=None,
        pad_edge=False,
        title_justify="left",
    )
    for column in ("", "at memorisation", "at onset", "twin, same step"):
        table.add_column(column, no_wrap=True)
    for row in result["readings"]:
        table.add_row(row["series"], *(_cell(row[c]) for c in ("memorised", "onset", "twin")))
    out.print(table)
    out.print("~ flagged: unresolved, not converged or inside the noise; the report says why.")
    table = Table(
        title="\nFirst alarm of each rule", box=None, pad_edge=False, title_justify="left"
    )
    for column in ("rule", "step", "before onset", "judged", "in the twin"):
        table.add_column(column)
    for alarm in result["alarms"]:
        steps = "–" if alarm["steps"] is None else f"{alarm['steps']:+,} steps"
        same = "silent" if alarm["twin"] is None else f"fired at {alarm['twin']:,}"
        table.add_row(alarm["detector"], f"{alarm['step']:,}", steps, alarm["kind"], same)
    out.print(table if result["alarms"] else "\nNo rule fired.")
    for alarm in result["alarms"]:
        if alarm["forecast"] is not None:
            out.print(_forecast(alarm, reached.get("onset")), soft_wrap=True)
    if result["twin_only"]:
        out.print(f"In the twin alone: {', '.join(result['twin_only'])}.")
    out.print(
        f"\nWatching took {result['overhead']:.0%} on top of training, by the clock in its hooks; "
        f"{result['seconds']:.0f} s in all.\nReport: {result['report']}",
        soft_wrap=True,
    )


def _cell(reading: dict[str, Any] | None) -> str:
    if reading is None:
        return "–"
    text = short(reading["value"], reading["low"], reading["high"])
    if reading["low"] == reading["high"] and reading["null"] is not None:
        # Exact for this window: what chance makes of it is the null, not an interval.
        low, high = reading["null"]
        text = f"{text} (noise {low:.3g} to {high:.3g})"
    return f"{text} ~" if reading["flags"] else text


def _forecast(alarm: dict[str, Any], onset: int | None) -> str:
    forecast = alarm["forecast"]
    text = (
        f"At step {alarm['step']:,} {alarm['detector']} put the onset at {forecast['step']:,.0f} "
        f"[{forecast['low']:,.0f}, {forecast['high']:,.0f}] ({forecast['basis']})"
    )
    if onset is None:
        return f"{text}; no onset within this run."
    off = math.expm1(math.log(forecast["step"] / onset))
    inside = "inside" if forecast["low"] <= onset <= forecast["high"] else "outside"
    return f"{text}; it came at {onset:,}: off by {off:+.0%}, {inside} the interval."
