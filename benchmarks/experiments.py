"""Seconds of every experiment: beside its reference, and with the monitor at a budget of 5 %.

``foreshock bench experiments`` trains each variant without observables and, in the same process and
alternately, with `standard` at ``budget=0.05``. Limits: 1.5 times `Experiment.seconds` for the
first, 1.08 for the ratio of the two. On a machine that others use, wall seconds say what the others
do, so these are processor seconds of one thread, the least of some rounds; ``--wall`` takes wall
seconds. The reference is for the full size; at the small one (``--small``) there is none.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from foreshock.experiments import NAMES, experiment

#: Limits of the ratios.
REFERENCE, WATCHED = 1.5, 1.08


def seconds(about: Any, config: Any, folder: Path, clock: Callable[[], float]) -> float:
    """Seconds of one run."""
    start = clock()
    about.run(config, folder / f"{time.perf_counter_ns()}").close()
    return clock() - start


def measure(name: str, variant: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Least seconds of one variant, without and with the monitor, taken in turns."""
    small, clock = arguments.small, time.perf_counter if arguments.wall else time.process_time
    about = experiment(name)
    plain = about.configured(small=small, variant=variant, seed=arguments.seed)
    watched = None
    if hasattr(plain, "observables"):
        plain = replace(plain, observables="none")
        if hasattr(plain, "budget"):
            watched = replace(plain, observables="standard", every=0, budget=0.05)
    bare, under = [], []
    with tempfile.TemporaryDirectory() as folder:
        # What is imported and made once a process, such as a pre-trained network, is in no round.
        warm = about.configured(small=True, variant=variant, seed=arguments.seed)
        seconds(about, warm, Path(folder), clock)
        for _ in range(arguments.rounds):
            bare.append(seconds(about, plain, Path(folder), clock))
            if watched is not None:
                under.append(seconds(about, watched, Path(folder), clock))
    told = about.seconds.get(about.label(plain), about.seconds.get(""))
    reference = None if small else told
    return {
        "experiment": name,
        "variant": variant,
        "seconds": min(bare),
        "reference": reference,
        "of_reference": min(bare) / reference if reference else None,
        "watched": min(under) / min(bare) if under else None,
    }


def told(ratio: float | None, limit: float) -> str:
    """A ratio, and whether it is above its limit."""
    return "–" if ratio is None else f"{ratio:.2f}{' !' if ratio > limit else ''}"


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=None, help="experiments; all if not given")
    parser.add_argument("--variant", default="", help="with commas; all if not given")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--wall", action="store_true", help="wall seconds")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    if not arguments.json:
        print(f"{'experiment':<18} {'variant':<14} {'seconds':>8} {'reference':>9} {'ratio':>7} "
              f"{'standard':>9}")  # fmt: skip
    for name in arguments.names or NAMES:
        wanted = [word for word in arguments.variant.split(",") if word]
        for variant in experiment(name).variants:
            if wanted and variant not in wanted:
                continue
            row = measure(name, variant, arguments)
            rows.append(row)
            if not arguments.json:
                reference = "–" if row["reference"] is None else f"{row['reference']:.2f}"
                print(
                    f"{name:<18} {variant:<14} {row['seconds']:>8.2f} {reference:>9} "
                    f"{told(row['of_reference'], REFERENCE):>7} {told(row['watched'], WATCHED):>9}",
                    flush=True,
                )
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"Limits: {REFERENCE} of the reference, {WATCHED} with the monitor; ! is above.")


if __name__ == "__main__":
    main()
