"""Terminal output: one console, tables, progress that respects pipes and NO_COLOR."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def console() -> Console:
    """Standard output; rich itself honours NO_COLOR. A pipe has no width, so tables get room."""
    out = Console(highlight=False)
    return out if out.is_terminal else Console(highlight=False, width=120)


def emit(value: Any) -> None:
    """One JSON document on standard output, and nothing else; nan and infinities as text."""
    json.dump(_plain(value), sys.stdout, indent=2, default=str, allow_nan=False)
    sys.stdout.write("\n")


def _plain(value: Any) -> Any:
    """JSON has no nan: ``"nan"``, ``"inf"``, ``"-inf"``, which `float` reads back."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


@contextmanager
def progress(
    title: str, *, silent: bool = False, unit: str = "steps"
) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error; a line per tenth where that is no terminal.

    Yields:
        A function of (done, total).
    """
    errors = Console(stderr=True, highlight=False)
    if silent:
        yield lambda done, total: None
        return
    if not errors.is_terminal:
        told = [-1]

        def line(done: int, total: int) -> None:
            tenth = 10 * done // max(total, 1)
            if tenth > told[0]:
                told[0] = tenth
                errors.print(f"{title}: {done:,} of {total:,} {unit}")

        yield line
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors) as bar:
        task = bar.add_task(title, total=None)

        def move(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield move


def short(value: float, low: float = math.nan, high: float = math.nan) -> str:
    """A number with its interval, in few characters.

    An interval that the digits shown could not tell from the value is left out.

    Args:
        value: The number.
        low: Lower end; nan for none.
        high: Upper end; nan for none.

    Returns:
        Three digits each.

    Examples:
        >>> short(0.31, 0.12, 0.5), short(3.0, 3.0, 3.0), short(2.0, 1.9999, 2.0001)
        ('0.31 [0.12, 0.5]', '3', '2')
    """
    blurred = not high - low > 5e-3 * abs(value)
    return f"{value:.3g}" if blurred else f"{value:.3g} [{low:.3g}, {high:.3g}]"
