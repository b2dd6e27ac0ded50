"""Every finding of the audit has a row, and every test that a row names exists."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("audit", Path(__file__).with_name("audit.py"))
assert _spec is not None and _spec.loader is not None
audit = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(audit)

NUMBERS = [
    f"{letter}{i}" for letter, last in (("A", 21), ("B", 8), ("C", 10)) for i in range(1, last + 1)
]


def names_in(path: Path) -> set[str]:
    """Names of the tests of a module, without importing it."""
    body = ast.parse(path.read_text()).body
    return {n.name for n in body if isinstance(n, ast.FunctionDef) and n.name.startswith("test_")}


def test_every_number_has_one_row_in_order() -> None:
    assert [row.number for row in audit.ROWS] == NUMBERS


@pytest.mark.parametrize("row", audit.ROWS, ids=lambda row: row.number)
def test_every_row_says_what_is_wrong_and_names_tests_that_exist(row) -> None:
    assert row.what
    assert row.tests or row.untested.endswith(".")
    assert len(set(row.tests)) == len(row.tests)
    for name in row.tests:
        path, _, test = name.partition("::")
        assert test in names_in(ROOT / path), name


def test_every_test_named_after_a_finding_is_in_its_row() -> None:
    rows = {
        row.number.lower(): {name.partition("::")[2] for name in row.tests} for row in audit.ROWS
    }
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for test in names_in(path):
            number = test.split("_")[1]
            if number in rows:
                assert test in rows[number], f"{path.name}::{test} is missing from {number}"
