"""The grokking experiment over seeds and nulls: milestones, alarms, and the onset/alarm ratio.

``foreshock bench grokking --seeds 30`` trains every variant of a task on development seeds 0, 1,
... with the held-out signal watched, and prints when each memorised, generalised and alarmed. The
constants of `foreshock.detectors.forecasters.OnsetRatio` come from it.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from foreshock.evaluation import lead
from foreshock.experiments import grokking
from foreshock.stats.sample import proportion


def trial(config: grokking.Grokking, folder: Path) -> dict[str, Any]:
    """Train once; the first alarm of each rule, judged."""
    path = folder / f"{config.task}-{config.variant}-{config.seed}"
    rules = ("heldout_signal", "turnover")
    with grokking.run(config, path, observables=["heldout_signal"], detectors=rules) as run:
        reached = {e.payload["name"]: e.step for e in run.events("milestone")}
        fired = {e.source: e.step for e in reversed(run.events("alarm"))}
    judged = {
        rule: lead(step, reached.get("onset"), reached.get("T50"), every=config.evaluate_every).kind
        for rule, step in fired.items()
    }
    return {"seed": config.seed, "milestones": reached, "alarms": fired, "judged": judged}


def median(values: list[int]) -> str:
    """Median and range, or a dash."""
    if not values:
        return "–"
    return f"{statistics.median(values):.0f} ({min(values)}-{max(values)})"


def main() -> None:
    """Parse arguments, train, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="p59", choices=sorted(grokking.TASKS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--variants", default="grok,labels,latin,decay,data")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for variant in arguments.variants.split(","):
            seeds = range(arguments.first, arguments.first + arguments.seeds)
            result[variant] = [
                trial(grokking.Grokking(arguments.task, variant, seed), Path(folder))
                for seed in seeds
            ]
            if not arguments.json:
                show(variant, result[variant])
    if arguments.json:
        print(json.dumps(result, indent=2))


def show(variant: str, trials: list[dict[str, Any]]) -> None:
    """One block of the table."""
    reached = {
        name: [t["milestones"][name] for t in trials if name in t["milestones"]]
        for name in ("memorised", "onset", "T50", "T90")
    }
    print(f"{variant}: {len(trials)} runs, {len(reached['onset'])} with an onset", flush=True)
    print("  " + "   ".join(f"{name} {median(steps)}" for name, steps in reached.items()))
    for rule in ("heldout_signal", "turnover"):
        fired = [t for t in trials if rule in t["alarms"]]
        share = proportion(len(fired), len(trials))
        kinds = {k: sum(t["judged"][rule] == k for t in fired) for k in
                 ("warning", "early", "detection", "late", "false")}  # fmt: skip
        ratios = [
            math.log(t["milestones"]["onset"] / t["alarms"][rule])
            for t in fired
            if "onset" in t["milestones"]
        ]
        spread = (
            f"; log(onset/alarm) {statistics.mean(ratios):.3f} ± {statistics.stdev(ratios):.3f}"
            if len(ratios) > 1
            else ""
        )
        listed = ", ".join(f"{n} {k}" for k, n in kinds.items() if n) or "none"
        print(
            f"  {rule}: fired in {len(fired)}/{len(trials)} "
            f"[{share.low:.2f}, {share.high:.2f}]: {listed}{spread}",
            flush=True,
        )


if __name__ == "__main__":
    main()
