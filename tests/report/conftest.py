"""Fixtures of the tests of the report: a realistic pair, and a maker of small runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from foreshock.store import Run
from tests.report.runs import write_pair


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The grokking run and its twin, 201 measurements each."""
    return write_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Run]:
    """Creates small runs by name, ready to be appended to."""

    def make(name: str = "run", **arguments: object) -> Run:
        return Run.create(tmp_path / name, **arguments)  # type: ignore[arg-type]

    return make
