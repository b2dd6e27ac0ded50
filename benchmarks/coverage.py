"""Coverage of every 95 % interval, by simulation. ``foreshock bench coverage``.

Exit status 1 if a cell lies outside what is asked of it: 92 to 98 %, or what its line says and why.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script, from anywhere

from benchmarks.coverages import Cell


def families() -> list[str]:
    """Names of the modules that measure coverage."""
    return sorted(p.stem for p in (Path(__file__).parent / "coverages").glob("[a-z]*.py"))


def line(cell: Cell) -> str:
    """One cell as text."""
    asked = f"{cell.low:.2f}-{cell.high:.2f}"
    mark = "" if cell.holds else "  MISSES"
    why = f"  ({cell.why})" if cell.why else ""
    return (
        f"  {cell.series:<28} {cell.setting:<46} {cell.cases:>6} {cell.coverage:>7.3f}"
        f"  asked {asked}{mark}{why}"
    )


def main() -> int:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", help=f"any of {', '.join(families())}; all if none")
    parser.add_argument("--cases", type=int, default=1000, help="simulated cases a cell")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print cells as JSON")
    arguments = parser.parse_args()
    unknown = set(arguments.families) - set(families())
    if unknown:
        parser.error(f"there is no {sorted(unknown)[0]!r}; the names are {', '.join(families())}")
    found: dict[str, list[Cell]] = {}
    for family in arguments.families or families():
        start = time.perf_counter()
        module = importlib.import_module(f"benchmarks.coverages.{family}")
        found[family] = module.cells(arguments.cases, arguments.seed)
        if not arguments.json:
            print(f"{family}: {time.perf_counter() - start:.0f} s")
            print("\n".join(map(line, found[family])), flush=True)
    everything = [cell for cells in found.values() for cell in cells]
    if arguments.json:
        print(json.dumps({f: [asdict(c) for c in cells] for f, cells in found.items()}, indent=2))
    else:
        print(f"{sum(not c.holds for c in everything)} of {len(everything)} cells miss.")
    return int(any(not cell.holds for cell in everything))


if __name__ == "__main__":
    raise SystemExit(main())
