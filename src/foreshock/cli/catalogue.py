"""``foreshock observables``: what can be measured, from the code."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import tyro

from foreshock.cli.console import console, emit

Names = Annotated[tuple[str, ...], tyro.conf.Positional]


def observables(names: Names = (), json: bool = False) -> int:
    """List what can be measured: cost, needs, presets; of named observables every series.

    Args:
        names: Observables to show in full; all in short if none is given.
        json: Print JSON.

    Returns:
        0.

    Raises:
        ValueError: If there is no observable of a name.
    """
    from rich.table import Table

    from foreshock.monitor.presets import BY_NAME, PRESETS

    unknown = [name for name in names if name not in BY_NAME]
    if unknown:
        raise ValueError(f"There is no observable {unknown[0]!r}. The names are {sorted(BY_NAME)}.")
    shown: list[dict[str, Any]] = []
    for name in names or BY_NAME:
        kind = BY_NAME[name]
        one = kind()
        shown.append(
            {
                "name": name,
                "summary": " ".join((kind.__doc__ or "").split("\n\n")[0].split()),
                "price": one.price,
                "needs": sorted(one.needs),
                "presets": [preset for preset, members in PRESETS.items() if kind in members],
                "series": [asdict(info) for info in one.series],
            }
        )
    if json:
        emit(shown)
        return 0
    out = console()
    if not names:
        table = Table(box=None, pad_edge=False)
        for column in ("observable", "first", "series", "needs", "presets"):
            table.add_column(column, justify="right" if column in ("first", "series") else "left")
        for row in shown:
            price, needs = f"{row['price']:g}", ", ".join(row["needs"]) or "nothing"
            presets = ", ".join(row["presets"]) or "by name only"
            table.add_row(row["name"], price, str(len(row["series"])), needs, presets)
        out.print(table)
        out.print(
            "\nfirst: assumed cost of the first measurement in training steps, until it is "
            "measured; later ones are often cheaper."
        )
        return 0
    for row in shown:
        out.print(f"{row['name']}: {row['summary']}\n")
        for info in row["series"]:
            unit = "pure number" if info["unit"] in ("1", "") else info["unit"]
            name = info["name"] + (" and @part" if info["layered"] else "")
            out.print(f"{name}: {info['title']} ({unit})")
            out.print(f"    = {info['formula']}")
            out.print(f"    when nothing happens: {info['null']}")
            out.print(f"    tested against: {info['oracle']}\n")
    return 0
