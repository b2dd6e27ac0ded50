"""`Calibration`: what known-safe runs look like at each step, and how far is too far."""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

Side = Literal["above", "below", "both"]

_FORMAT = "foreshock-calibration"
_VERSION = 1


@dataclass(frozen=True)
class Calibration:
    """Location and scale of each series at each step of a grid, and the threshold of their maximum.

    Made by `foreshock.evaluation.calibrate` from known-safe runs; read by `ConformalAlarm`.

    Args:
        series: Names, s of them.
        sides: Which side of the location is too far, one for each series.
        grid: Steps, g of them, increasing.
        location: s rows of g numbers.
        scale: s rows of g positive numbers.
        threshold: Largest z over series and steps that a safe run may show.
        alpha: Probability that a safe run exceeds it, at most.
        located: Identities of the runs that gave location and scale.
        calibrated: Identities of the runs that gave the threshold.

    Raises:
        ValueError: If the parts do not fit together.
    """

    series: tuple[str, ...]
    sides: tuple[Side, ...]
    grid: tuple[int, ...]
    location: tuple[tuple[float, ...], ...]
    scale: tuple[tuple[float, ...], ...]
    threshold: float
    alpha: float
    located: tuple[str, ...] = ()
    calibrated: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = [side for side in self.sides if side not in get_args(Side)]
        if unknown:
            raise ValueError(
                f"A side of a `Calibration` must be 'above', 'below' or 'both'. Got {unknown[0]!r}."
            )
        s, g = len(self.series), len(self.grid)
        shapes = {(len(t), *{len(row) for row in t}) for t in (self.location, self.scale)}
        if not s or not g or len(self.sides) != s or shapes != {(s, g)}:
            raise ValueError(
                f"A `Calibration` of {s} series on {g} steps needs {s} sides, and {s} rows of {g} "
                f"locations and scales. Got {len(self.sides)} sides, and rows of "
                f"{sorted(shapes)}."
            )
        if any(b <= a for a, b in zip(self.grid, self.grid[1:], strict=False)):
            raise ValueError("The `grid` of a `Calibration` must increase.")
        numbers = [self.threshold, *(x for row in self.location for x in row)]
        scales = [x for row in self.scale for x in row]
        if not (all(map(math.isfinite, numbers + scales)) and min(scales) > 0):
            raise ValueError(
                "The threshold and locations of a `Calibration` must be finite, its scales finite "
                "and positive."
            )

    def z(self, name: str, step: int, value: float) -> float:
        """How far a value is from the safe runs, on the side that counts.

        Location and scale are interpolated linearly between steps of the grid.

        Args:
            name: One of the series.
            step: Optimizer step.
            value: What the run shows.

        Returns:
            The distance in scales; nan outside the calibrated range of steps, and for nan.
        """
        if not self.grid[0] <= step <= self.grid[-1] or math.isnan(value):
            return math.nan
        row = self.series.index(name)
        at, weight = _between(self.grid, step)
        location, scale = (
            table[row][at] + (weight * (table[row][at + 1] - table[row][at]) if weight else 0.0)
            for table in (self.location, self.scale)
        )
        z = (value - location) / scale
        return {"above": z, "below": -z, "both": abs(z)}[self.sides[row]]

    def save(self, path: str | Path) -> None:
        """Write it as JSON that a person can read; `load` reads it back bit by bit.

        Args:
            path: File to write.
        """
        text = json.dumps({"format": _FORMAT, "version": _VERSION, **asdict(self)}, indent=1)
        Path(path).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read what `save` wrote.

        Args:
            path: File written by `save` or ``foreshock calibrate``.

        Returns:
            The calibration.

        Raises:
            ValueError: If there is no such file, or it holds something else.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(
                f"The calibration {str(path)!r} cannot be read ({error.strerror}). Type: foreshock "
                f"calibrate RUNS... --series reward/kl --out {path}"
            ) from error
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{str(path)!r} is no calibration: it is not JSON.") from error
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ValueError(
                f"{str(path)!r} is no calibration: `foreshock calibrate` writes a file whose "
                f"`format` is {_FORMAT!r}."
            )
        if content.get("version") != _VERSION:
            raise ValueError(
                f"{str(path)!r} has version {content.get('version')!r} of the format, and this "
                f"Foreshock reads version {_VERSION}. Calibrate again, or update Foreshock."
            )
        return cls.from_record(content)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Calibration:
        """From the parts of a record, whose lists become tuples.

        Args:
            record: Names of the fields to their content; other names are passed over.

        Returns:
            The calibration.

        Raises:
            ValueError: If a field is missing or of another kind.
        """
        try:
            content = {f.name: _frozen(record[f.name]) for f in fields(cls)}
            return cls(**content)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"The record of a calibration is damaged: {error}.") from error


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, (list, tuple)) else value


def _between(grid: tuple[int, ...], step: int) -> tuple[int, float]:
    """The place before a step, and how far it is towards the next; 0 on the grid."""
    at = bisect_right(grid, step) - 1
    if grid[at] == step:
        return at, 0.0
    return at, (step - grid[at]) / (grid[at + 1] - grid[at])
