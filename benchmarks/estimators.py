"""What each estimator costs, in training steps of the same process, with peers beside it.

``foreshock bench estimators``. Peers are installed into a scratch folder by this script and are no
dependency of anything; ``--no-peers`` leaves them out. Goals are the project's own.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script, from anywhere

#: Without their dependencies, which are here already, so that no other torch comes along.
PEERS = (
    "curvlinops-for-pytorch", "einops", "einconv", "backpack-for-pytorch", "pyhessian",
    "gns-pytorch",
)  # fmt: skip
PARTS = Path(__file__).parent / "estimators_parts"


def parts() -> list[str]:
    """Modules with rows of our own."""
    return sorted(p.stem for p in PARTS.glob("[a-z]*.py") if p.stem != "peers")


def peer_rows() -> list[dict[str, Any]]:
    """Install the peers into a folder that is thrown away, and run them in their own process."""
    with tempfile.TemporaryDirectory(prefix="foreshock-peers-") as folder:
        install = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        done = subprocess.run(
            [*install, "--no-deps", "--target", folder, *PEERS], capture_output=True, text=True
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["pip failed"]
            return [{"what": "peers", "peer": "installation", "fails": lines[-1][:160]}]
        root = Path(__file__).parents[1]
        path = os.pathsep.join([folder, str(root), str(root / "src")])
        environment = {**os.environ, "PYTHONPATH": path}
        done = subprocess.run(
            [sys.executable, str(PARTS / "peers.py")],
            env=environment, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["the process failed"]
            return [{"what": "peers", "peer": "process", "fails": lines[-1][:160]}]
        return json.loads(done.stdout)


def line(row: dict[str, Any]) -> str:
    """One row as text: what, then every number it has."""
    name = row.get("peer") or row.get("what", "")
    rest = {k: v for k, v in row.items() if k not in ("peer", "what")}
    texts = [f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in rest.items()]
    what = f"[{row['what']}] " if "peer" in row else ""
    return f"  {what}{name:<44} {', '.join(texts)}"


def main() -> None:
    """Parse arguments, measure, print."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help=f"any of {', '.join(parts())}; all if none")
    parser.add_argument("--no-peers", action="store_true", help="only our own")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(parts())
    if unknown:
        parser.error(f"there is no {sorted(unknown)[0]!r}; the names are {', '.join(parts())}")
    torch.set_num_threads(1)
    found: dict[str, list[dict[str, Any]]] = {}
    for part in arguments.parts or parts():
        found[part] = importlib.import_module(f"benchmarks.estimators_parts.{part}").rows()
        if not arguments.json:
            print(part, *map(line, found[part]), sep="\n", flush=True)
    if not arguments.no_peers:
        found["peers"] = peer_rows()
        if not arguments.json:
            print("peers", *map(line, found["peers"]), sep="\n")
    if arguments.json:
        print(json.dumps(found, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
