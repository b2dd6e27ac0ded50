"""What imports with torch out of reach, what `import foreshock` loads; and tests of these tests.

The static half, who may import whom, is the import-linter contracts in pyproject.toml; this is the
half that runs: a copied run is read, replayed, judged and reported on a machine without torch.
matplotlib and pandas are out of reach as well: they may be used, but only once they are needed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "foreshock"

# Parts that promise to do without torch, in layers from below. A part that does not exist yet is
# left out, and the promise holds from the day it does.
LIGHT = ("types", "stats", "store", "detectors", "evaluation", "report", "policies")
# These import torch once `attach` is called or a network is trained, not before: the module itself,
# not what is below it. `cli.runs` holds the commands that read a run.
LIGHT_ITSELF = ("monitor", "cli", "cli.runs")
HEAVY = ("probe", "estimators")
# Slow or optional: 0.3 to 2 s each, which a user pays who wants none of it.
NOT_AT_IMPORT = ("torch", "scipy.stats", "matplotlib", "pandas")

BLOCK = "import sys; sys.modules.update(dict.fromkeys(['torch', 'matplotlib', 'pandas']))\n"


def modules(part: str) -> list[str]:
    """Dotted names of a part and everything in it, from the files: nothing is imported here."""
    if (SOURCE / f"{part}.py").exists():
        return [f"foreshock.{part}"]
    files = sorted((SOURCE / part).rglob("*.py"))
    dotted = [".".join(file.relative_to(SOURCE.parent).with_suffix("").parts) for file in files]
    # What carries actions out changes tensors: `policies.apply` and what is beside it.
    light = [name for name in dotted if not name.startswith("foreshock.policies.apply")]
    return [name.removesuffix(".__init__") for name in light]


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a fresh interpreter, on the source of this very checkout."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE.parent)}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )


@pytest.mark.parametrize("part", [part for part in LIGHT if modules(part)])
def test_part_and_all_its_modules_import_light(part: str) -> None:
    imports = "\n".join(f"import {name}" for name in modules(part))
    result = python(BLOCK + imports)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", ["foreshock", *(f"foreshock.{part}" for part in LIGHT_ITSELF)])
def test_module_itself_imports_light(name: str) -> None:
    result = python(BLOCK + f"import {name}")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("part", [part for part in HEAVY if modules(part)])
def test_the_block_would_be_noticed(part: str) -> None:
    # Meta-test: were the block without effect, the two tests above would prove nothing.
    result = python(BLOCK + "\n".join(f"import {name}" for name in modules(part)))
    assert result.returncode != 0
    assert "import of torch halted" in result.stderr


def test_importing_foreshock_loads_nothing_heavy() -> None:
    probe = f"import sys, foreshock; print([m for m in {NOT_AT_IMPORT!r} if m in sys.modules])"
    result = python(probe)
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.parametrize("name", [n for n in NOT_AT_IMPORT if find_spec(n.split(".")[0])])
def test_a_heavy_import_would_be_noticed(name: str) -> None:
    # Meta-test of the one above: a loaded module does appear under exactly this name.
    result = python(f"import sys, {name}; print({name!r} in sys.modules)")
    assert result.stdout.strip() == "True", result.stderr


def contract(name: str) -> set[str]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    return set(next(c for c in settings["contracts"] if c["id"] == name)["source_modules"])


def test_every_light_part_is_in_the_contract() -> None:
    # The contract must name parts that exist, so a new part has to be added there by hand.
    judged = ("types", "stats", "store", "detectors", "evaluation", "report")
    assert contract("light") == {f"foreshock.{p}" for p in judged if modules(p)}


def test_every_policy_that_only_decides_is_in_the_contract() -> None:
    # One by one, since `policies.apply` is below the same package and needs torch.
    assert contract("decide") == set(modules("policies"))
