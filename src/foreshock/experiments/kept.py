"""What finished trials of a sweep say of themselves: their runs hold it, and nothing else does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from foreshock.store import Run, StoreError


def settings_of(experiment: str, fields: Mapping[str, Any]) -> str:
    """What trials have in common that differ in their seed alone.

    Args:
        experiment: Its name on the command line.
        fields: All fields of the configuration.

    Returns:
        A key, equal where they agree.
    """
    others = {key: value for key, value in fields.items() if key != "seed"}
    return json.dumps([experiment, others], sort_keys=True)


class Kept(NamedTuple):
    """A finished trial, as its run tells it.

    Attributes:
        settings: What it has in common with trials that differ in their seed alone.
        fields: All fields of its configuration.
        small: Whether it was made from the small size.
        code: What made it, as `foreshock.experiments.trial.code_of` says.
        seconds: Wall seconds of its process, by the pace of its time.
    """

    settings: str
    fields: dict[str, Any]
    small: bool
    code: dict[str, str]
    seconds: float


def finished(out: Path) -> dict[str, Kept | str]:
    """Read back what a folder holds.

    Args:
        out: Folder of a sweep; need not exist.

    Returns:
        The finished trials by name; for what is no trial, why not.
    """
    if not out.is_dir():
        return {}
    folders = [path for path in sorted(out.iterdir()) if path.is_dir()]
    return {path.name: _read(path) for path in folders if not path.name.startswith(".")}


def _read(path: Path) -> Kept | str:
    try:
        with Run.open(path) as run:
            return read(run) or "no sweep made it"
    except StoreError as error:
        return str(error)


def read(run: Run) -> Kept | None:
    """What a run says of the trial that made it.

    Args:
        run: The run.

    Returns:
        The trial; ``None`` if no sweep made it.
    """
    told = [event.payload for event in run.events("trial") if event.source == "sweep"]
    timings = [event.payload for event in run.events("timing") if event.source == "sweep"]
    if not told or not timings:
        return None
    asked, took = told[-1], timings[-1]
    return Kept(
        settings=settings_of(asked["experiment"], asked["config"]),
        fields=asked["config"],
        small=asked.get("small", False),
        code=asked.get("code", {}),
        seconds=(took["seconds"] + took["startup"]) / took.get("pace", 1.0),
    )
