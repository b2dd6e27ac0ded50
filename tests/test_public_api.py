"""The public API is one explicit list, all of it importable, and documented with examples."""

from __future__ import annotations

import ast
import dataclasses
import enum
import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "foreshock"


def packages() -> list[str]:
    """The root and every package right below it that offers names, by list or by re-export.

    Not the command line: that is offered to a shell, and its tests run it there.
    """
    files = sorted(set(SOURCE.glob("*/__init__.py")) - set(SOURCE.glob("cli/*")))
    return ["foreshock", *(f"foreshock.{f.parent.name}" for f in files if offered(f))]


def offered(file: Path) -> set[str]:
    """Public names that a package offers: it binds them to be seen."""
    return {name for name in top_level_names(file) if not name.startswith("_")}


def top_level_names(file: Path) -> list[str]:
    """Names that a file binds to be seen: `from a import X as X`, `def X`, `class X`, `X = ...`."""
    names: list[str] = []
    for node in ast.parse(file.read_text()).body:
        match node:
            case ast.ImportFrom():
                names += [alias.name for alias in node.names if alias.asname == alias.name]
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.append(name)
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                names.append(name)
    return names


def public_objects() -> dict[str, Any]:
    """Every public function and class by its full name, once, where it is offered first."""
    found: dict[int, tuple[str, Any]] = {}
    for package in packages():
        module = importlib.import_module(package)
        for name in sorted(offered(Path(inspect.getfile(module)))):
            value = getattr(module, name)
            if inspect.isfunction(value) or inspect.isclass(value):
                found.setdefault(id(value), (f"{package}.{name}", value))
    return dict(found.values())


def needs_no_example(value: Any) -> bool:
    """What is read rather than called: dataclasses of values, protocols, enumerations, errors."""
    return inspect.isclass(value) and (
        dataclasses.is_dataclass(value)
        or getattr(value, "_is_protocol", False)
        or issubclass(value, (enum.Enum, BaseException))
    )


def test_the_root_declares_its_list() -> None:
    import foreshock

    assert set(foreshock.__all__) == offered(SOURCE / "__init__.py")


@pytest.mark.parametrize("package", packages())
def test_star_gives_what_the_package_offers(package: str) -> None:
    module = importlib.import_module(package)
    listed = getattr(module, "__all__", None)
    names = offered(Path(inspect.getfile(module)))
    namespace: dict[str, object] = {}
    exec(f"from {package} import *", namespace)  # raises where a listed name does not exist
    assert names <= set(namespace)
    if listed is not None:
        assert sorted(listed) == sorted(names)  # neither twice, nor forgotten


@pytest.mark.parametrize("name, value", public_objects().items(), ids=public_objects())
def test_public_object_is_documented_with_an_example(name: str, value: Any) -> None:
    text = value.__doc__ or ""
    # A dataclass without a docstring is given its signature as one.
    assert text.strip() and not text.startswith(f"{value.__name__}("), f"`{name}` has no docstring."
    if not needs_no_example(value):
        assert ">>> " in text, f"The docstring of `{name}` has no example (`>>>`)."
