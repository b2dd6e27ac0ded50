"""What was fixed before the seeds were drawn: the code of the rules, and their parameters."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from foreshock.detectors import baseline, reading
from foreshock.types import Detector

FROZEN = Path(__file__).parent / "frozen.json"


def code_of(sources: Iterable[str]) -> str:
    """Hash of programs without their docstrings, comments and layout, which may change later."""
    found = hashlib.sha256()
    for source in sources:
        tree = ast.parse(source)
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (
                ast.get_docstring(node, clean=False) is not None
            ):
                node.body = node.body[1:]
        found.update(ast.dump(tree).encode())
    return found.hexdigest()


def current(rules: Mapping[str, Detector]) -> dict[str, Any]:
    """Hashes of the modules that rules are made in, and their arguments."""
    modules = {inspect.getmodule(type(rule)) for rule in rules.values()} | {baseline, reading}
    named = {module.__name__.rpartition(".")[2]: module for module in modules if module}
    return {
        "sources": {name: code_of([inspect.getsource(m)]) for name, m in sorted(named.items())},
        "parameters": {
            name: {k: v for k, v in asdict(rule).items() if k != "name"}  # type: ignore[call-overload]
            for name, rule in rules.items()
        },
    }


def check(table: str, rules: Mapping[str, Detector], first: int) -> None:
    """Refuse to measure rules that were changed after their seeds were seen."""
    frozen = json.loads(FROZEN.read_text())[table]
    here = json.loads(json.dumps({**current(rules), "first": first}))
    for part in ("first", "sources", "parameters"):
        if here[part] != frozen[part]:
            then, now = frozen[part], here[part]
            changed = (
                [name for name in {*then, *now} if then.get(name) != now.get(name)]
                if isinstance(now, dict)
                else [now]
            )
            raise SystemExit(
                f"The {part} of the rules differ from what {FROZEN.name} holds for the table "
                f"{table!r}: {changed}. New rules need new seeds: set FIRST beyond all that were "
                "used, and freeze them again before the first run."
            )
