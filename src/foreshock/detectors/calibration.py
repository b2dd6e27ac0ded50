"""`Calibration`: what known-safe runs look like at each step, and how far is too far."""

from __future__ import annotations

import hashlib
import json
import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

Side = Literal["above", "below", "both"]

_FORMAT = "foreshock-calibration"
_VERSION = 3


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
        alpha: Probability that a safe run exceeds it, at most, on average over sets of safe runs.
        located: Identities of the runs that gave location and scale.
        calibrated: Identities of the runs that gave the threshold.
        units: Of the series, as the runs declared them.
        setup: `setup_digest` of the runs' common configuration.
        versions: Of Foreshock, Python and libraries in the first run, as text.
        notes: What weakens it, in sentences: steps without a spread, a step that sets the threshold
            alone.

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
    units: tuple[str, ...] = ()
    setup: str = ""
    versions: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = [side for side in self.sides if side not in get_args(Side)]
        if unknown:
            raise ValueError(
                f"A side of a `Calibration` must be 'above', 'below' or 'both'. Got {unknown[0]!r}."
            )
        if len(set(self.series)) < len(self.series):
            raise ValueError(f"A `Calibration` names a series twice: {', '.join(self.series)}.")
        if not 0 < self.alpha < 1:
            raise ValueError(
                f"The `alpha` of a `Calibration` must lie in (0, 1). Got {self.alpha:g}."
            )
        if set(self.located) & set(self.calibrated):
            raise ValueError(
                "A run of a `Calibration` gave both location and threshold: split the runs."
            )
        if len(self.units) not in (0, len(self.series)):
            raise ValueError(
                f"A `Calibration` needs one unit for each of {len(self.series)} series, or none. "
                f"Got {len(self.units)}."
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

        Only steps of the grid are compared: the threshold is for the largest of just these looks.

        Args:
            name: One of the series.
            step: Optimizer step.
            value: What the run shows.

        Returns:
            The distance in scales, infinite for an infinite value; nan at other steps than those of
            the grid, and for nan.
        """
        at = bisect_left(self.grid, step)
        if at == len(self.grid) or self.grid[at] != step or math.isnan(value):
            return math.nan
        row = self.series.index(name)
        z = (value - self.location[row][at]) / self.scale[row][at]
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


def setup_digest(config: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that tell a configuration apart, whatever its seed.

    Args:
        config: Of a run, as its ``info["config"]`` holds it.

    Returns:
        The digits.

    Examples:
        >>> setup_digest({"lr": 0.1, "seed": 1}) == setup_digest({"seed": 2, "lr": 0.1})
        True
        >>> setup_digest({"lr": 0.1}) == setup_digest({"lr": 0.2})
        False
    """
    kept = {name: value for name, value in config.items() if name != "seed"}
    text = json.dumps(kept, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
