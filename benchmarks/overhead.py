"""What watching costs: two trainings in one process, in alternating blocks of 10 steps.

The time inside the hooks understates the cost (cold caches, the allocator), so the figure is the
ratio of processor time between the watched and the bare blocks, minus one. Run it as
``foreshock bench overhead`` or ``python benchmarks/overhead.py --steps 20000 --observables full``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import foreshock as fs
from foreshock.experiments import grokking

BLOCK = 10


class Loop:
    """One training of the p59 task that can be advanced by a few steps at a time."""

    def __init__(self, seed: int = 0) -> None:
        self.config = grokking.Grokking(seed=seed)
        self.data = grokking.make_data(self.config)
        self.model = grokking.make_model(self.config)
        self.optimizer = grokking.make_optimizer(self.config, self.model)
        self.generator = torch.Generator().manual_seed(seed)
        self.watch: Any = None
        self.log = True

    def advance(self, steps: int) -> tuple[float, float]:
        """Processor and wall seconds of some steps."""
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(steps):
            batch = grokking.draw_batch(self.config, self.data, self.generator)
            loss = grokking.loss_of(self.model, batch)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            if self.watch is not None and self.log:
                self.watch.log(loss=loss)
        return time.process_time() - cpu, time.perf_counter() - wall


def measure(steps: int, *, log: bool = True, **options: Any) -> dict[str, Any]:
    """Overhead of one setting of the monitor.

    Args:
        steps: Steps of each of the two trainings.
        log: Also log the loss at every step.
        **options: For `foreshock.attach`.

    Returns:
        Ratios, the schedule's own account, and what it could not afford.
    """
    bare, watched = Loop(), Loop()
    bare.advance(50), watched.advance(50)  # both warm
    watched.log = log
    with tempfile.TemporaryDirectory() as folder:
        watched.watch = fs.attach(
            watched.model,
            watched.optimizer,
            run=Path(folder) / "run",
            probe=grokking.make_probe(watched.config, watched.data),
            **options,
        )
        times: dict[str, list[tuple[float, float]]] = {"bare": [], "watched": []}
        for _ in range(steps // BLOCK):
            times["bare"].append(bare.advance(BLOCK))
            times["watched"].append(watched.advance(BLOCK))
        schedule = watched.watch.schedule.summary()
        watched.watch.close()
    cpu = {k: sum(c for c, _ in v) for k, v in times.items()}
    wall = {k: sum(w for _, w in v) for k, v in times.items()}
    return {
        "steps": steps,
        "cpu_overhead": cpu["watched"] / cpu["bare"] - 1,
        "wall_overhead": wall["watched"] / wall["bare"] - 1,
        "ms_per_step_bare": 1e3 * statistics.median(w for _, w in times["bare"]) / BLOCK,
        "hooks_say": schedule["share"],
        "observables": schedule["observables"],
    }


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--observables", default="full")
    parser.add_argument("--budget", type=float, default=0.03)
    parser.add_argument("--every", type=int, default=0)
    parser.add_argument("--no-log", action="store_true", help="do not log the loss")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    schedule = {"every": arguments.every} if arguments.every else {"budget": arguments.budget}
    result = measure(
        arguments.steps,
        log=not arguments.no_log,
        observables=arguments.observables,
        **schedule,
    )
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    print(
        f"{arguments.observables}, {schedule}, {result['steps']:,} steps of "
        f"{result['ms_per_step_bare']:.2f} ms\n"
        f"overhead: {result['cpu_overhead']:.2%} of processor time, "
        f"{result['wall_overhead']:.2%} of wall time; the hooks' own clock says "
        f"{result['hooks_say']:.2%}"
    )
    for row in result["observables"]:
        price = "–" if row["median_ms"] is None else f"{row['median_ms']:.2f} ms"
        print(f"  {row['name']:<16} {row['values']:>6} values  {price:>10}  {row['verdict']}")


if __name__ == "__main__":
    main()
