"""``foreshock bench NAME``: benchmarks live in the source checkout, not in the wheel."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Annotated

import tyro


def bench(
    name: Annotated[str, tyro.conf.Positional] = "",
    arguments: Annotated[tuple[str, ...], tyro.conf.Positional] = (),
) -> int:
    """Run a benchmark; they print ratios measured in one process, and tables.

    Args:
        name: Which one; without it the names are listed.
        arguments: Passed on, after ``--``.

    Returns:
        0.

    Raises:
        ValueError: If there is no such benchmark, or no source checkout.
    """
    folder = Path(__file__).parents[3] / "benchmarks"
    names = sorted(p.stem for p in folder.glob("[a-z]*.py"))
    if not names:
        raise ValueError(
            "The benchmarks come with the source checkout, and this is an installed wheel. Clone "
            "the repository and type `make bench`."
        )
    if not name:
        print("\n".join(names))
        return 0
    if name not in names:
        raise ValueError(f"There is no benchmark {name!r}. The names are {', '.join(names)}.")
    sys.argv = [str(folder / f"{name}.py"), *arguments]
    runpy.run_path(sys.argv[0], run_name="__main__")
    return 0
