"""``foreshock bench NAME``: benchmarks live in the source checkout, not in the wheel."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path


def bench(words: Sequence[str]) -> int:
    """Run a benchmark; they print ratios measured in one process, and tables.

    Args:
        words: Name of the benchmark and its own options, passed on as they are; nothing to list
            the names.

    Returns:
        0.

    Raises:
        ValueError: If there is no such benchmark, or no source checkout.
    """
    folder = Path(__file__).parents[3] / "benchmarks"
    names = sorted(p.stem for p in folder.glob("[a-z]*.py"))
    if words and words[0] in ("-h", "--help"):
        print("usage: foreshock bench [NAME [OPTIONS]]\n\nRun a benchmark of the source checkout:")
        print("\n".join(f"  {name}" for name in names))
        print("\n`foreshock bench NAME --help` lists its options.")
        return 0
    if not names:
        raise ValueError(
            "The benchmarks come with the source checkout, and this is an installed wheel. Clone "
            "the repository and type `make bench`."
        )
    if not words:
        print("\n".join(names))
        return 0
    if words[0] not in names:
        raise ValueError(f"There is no benchmark {words[0]!r}. The names are {', '.join(names)}.")
    sys.argv = [str(folder / f"{words[0]}.py"), *words[1:]]
    runpy.run_path(sys.argv[0], run_name="__main__")
    return 0
