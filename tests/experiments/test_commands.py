"""The sweeps that the pages name can be planned, and their seeds and settings are what they say."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from foreshock.experiments import experiment
from foreshock.experiments.planning import plan

PAGES = Path(__file__).parents[2] / "docs" / "experiments"
NAMES = (
    "grokking", "catapult", "edge_of_stability", "double_well", "quadratic", "random_features",
    "widths", "learning_rate",
)  # fmt: skip


def value(text: str) -> Any:
    """A number where it is one."""
    try:
        return json.loads(text)
    except ValueError:
        return text


@pytest.mark.parametrize("page", NAMES)
def test_every_sweep_of_a_page_can_be_planned(page: str) -> None:
    lines = (PAGES / f"{page}.md").read_text(encoding="utf-8").splitlines()
    commands = [shlex.split(line) for line in lines if line.startswith("foreshock sweep ")]
    assert commands
    for _, _, name, *rest in commands:
        options = list(zip(rest[::2], rest[1::2], strict=True))
        told = dict(options)
        first, last = map(int, told["--seed"].split(".."))
        grid = {
            field: [value(one) for one in values.split(",")]
            for option, setting in options
            if option == "--set"
            for field, values in (setting.split("=", 1),)
        }
        variants = [v for v in told.get("--variant", "").split(",") if v]
        trials = plan({name: experiment(name)}, range(first, last + 1), variants, grid)
        assert {trial.config.seed for trial in trials} == set(range(first, last + 1))
        for field, values in grid.items():
            assert {getattr(trial.config, field) for trial in trials} == set(values)
