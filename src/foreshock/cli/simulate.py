"""``foreshock simulate WORLD``: a world with a known answer, recorded as a run, with its report."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import tyro
from rich.table import Table
from rich.text import Text

from foreshock.cli.console import console, emit, progress, short
from foreshock.report import write_report
from foreshock.simulators.worlds import WORLDS, World
from foreshock.store import Comparison, comparisons
from foreshock.types import Estimate

if TYPE_CHECKING:
    AnyWorld = World
else:
    AnyWorld = tyro.extras.subcommand_type_from_defaults(
        {name: kind() for name, kind in WORLDS.items()},
        {
            name: inspect.cleandoc(kind.__doc__ or "").split("\n\nArgs:")[0]
            for name, kind in WORLDS.items()
        },
        prefix_names=False,
    )


def simulate(
    world: tyro.conf.OmitArgPrefixes[AnyWorld], out: Path | None = None, json: bool = False
) -> int:
    """Simulate a world whose answer is known, measure it, compare, and write a report.

    Of the intervals, which hold 95 %, about one in twenty does not contain the truth: a single
    number that differs is no alarm, the same one under two seeds is.

    Args:
        world: Which world, and its numbers.
        out: Folder of the run; runs/simulate-WORLD-SEED if not given. Its report is report.html.
        json: Print JSON.

    Returns:
        0.

    Raises:
        ValueError: If the seed is out of range.
    """
    if not 0 <= world.seed < 2**63:
        raise ValueError(f"The `seed` must be 0 to 2^63 - 1. Got {world.seed}.")
    torch.set_num_threads(1)
    name = next(key for key, kind in WORLDS.items() if isinstance(world, kind))
    path = out or Path("runs") / f"simulate-{name}-{world.seed}"
    start = time.perf_counter()
    with progress(name, silent=json) as move, world.run(path, progress=move) as run:
        found = comparisons(run)
    page = write_report(path, path / "report.html", labels=[name])
    seconds = time.perf_counter() - start
    if json:
        emit(
            {
                "run": str(path),
                "world": name,
                "config": asdict(world),
                "comparisons": [_plain(item) for item in found],
                "seconds": seconds,
                "report": str(page),
            }
        )
    else:
        _show(name, found)
        console().print(f"\n{seconds:.0f} s in all.\nReport: {page}", soft_wrap=True)
    return 0


def _plain(item: Comparison) -> dict[str, Any]:
    told = item.measured
    return {
        "name": item.name,
        "measured": told.value,
        "low": told.low,
        "high": told.high,
        "reason": told.reason,
        "exact": item.exact,
        "bias": item.bias,
        "agrees": item.agrees,
        "published": item.published,
        "source": item.source,
    }


def _show(name: str, found: Sequence[Comparison]) -> None:
    table = Table(title=name, box=None, pad_edge=False, title_justify="left")
    for column in ("", "measured [95 %]", "exact", ""):
        table.add_column(column, justify="right" if column == "exact" else "left")
    for item in found:
        told = item.measured
        words = {None: "", True: "agrees", False: "differs"}[item.agrees]
        if item.published:
            words = f"as published: {words}" if words else "as published"
        elif item.agrees and not told.low <= item.exact <= told.high:
            words = "agrees within the method's own error"
        # A name may hold brackets, which are no markup.
        table.add_row(Text(item.name), _measured(told), f"{item.exact:.4g}", words)
    console().print(table)


def _measured(told: Estimate) -> Text:
    if math.isnan(told.value):
        return Text("not computed")
    if told.low == told.value == told.high:
        return Text(f"{told.value:.3g}, without noise")
    return Text(short(told.value, told.low, told.high))
