"""Policies on real training: each against constant, cosine and tuned rates, at one budget.

``foreshock bench policies --jobs 2`` trains a perceptron on scikit-learn's digits and a character
model on source text, every arm through `attach(policies=..., dry_run=False)`, with the same budget
in *units*: one update at the base batch is one unit, an update at another batch its share of
examples, and a measurement the nominal ``price`` of its observable in training steps (what it
costs of a large model; of these small ones it takes more time, see the column of seconds).

1. Development seeds: every arm at each of 9 rates, a log grid over two decades; each arm keeps the
   rate with the least mean validation loss. Policies take their base rate from the same grid.
2. Test seeds, never used in 1, and examples that 1 never looked at: every arm at its own rate, and
   constant and cosine at the middle of the grid, where nobody has tuned. Differences are paired by
   seed (initial weights, order of the batches), with Student's interval and Holm's p over the arms
   of a column. They speak of other seeds, not of other test examples.

A placebo measures, pays, and does nothing: the column beside it is what *acting* did. "As written"
is a rule on published numbers without flags; the same rule without these words sees the flags of
the signal and the noise and does nothing on a flagged one.

Results go to a file of JSON lines as they come, keyed by everything that makes them, the code of
arms and policies included: run it again to go on. A run that diverges has twice the loss of a
uniform guess. The table is printed as it falls out. A batch is only ever advised; here the loop
follows.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import ttest_rel
from torch import Tensor
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1]))  # the parts, where this file is run by its path

import foreshock.policies
from benchmarks.policies_parts.arms import ARMS, BATCH, PROBES, Paid, Purse, observable
from benchmarks.policies_parts.tasks import TASKS, TEST_SEEDS, data, loss_of
from foreshock import Probe, attach
from foreshock.stats.sample import mean_interval

POINTS = 9


@cache
def code() -> str:
    """Digest of what makes a result beside the numbers of its job."""
    here = Path(__file__)
    parts = [here, *here.with_name("policies_parts").glob("*.py")]
    parts += Path(foreshock.policies.__file__).parent.glob("*.py")
    return sha256(b"".join(part.read_bytes() for part in sorted(parts))).hexdigest()[:12]


@dataclass(frozen=True)
class Job:
    """One run, and everything that makes it."""

    task: str
    arm: str
    lr: float
    seed: int
    units: int
    every: int
    code: str

    @property
    def key(self) -> str:
        """The name under which its result is kept."""
        return json.dumps([*asdict(self).values()])


# ---------------------------------------------------------------- one run


def trial(job: Job) -> dict[str, Any]:
    """Train once; nothing of it depends on anything but the job."""
    torch.set_num_threads(1)
    # A run whose monitor gave up, or switched something off, is no result: the log says it.
    failed: list[str] = []
    logging.getLogger("foreshock").addFilter(lambda told: failed.append(told.getMessage()) or True)
    began = time.process_time()
    arm, task = ARMS[job.arm], data(job.task, job.seed)
    model = task.model
    optimizer = TASKS[job.task].optimizer(model.parameters(), lr=job.lr)
    draw = torch.Generator().manual_seed(1000 + job.seed)
    looks = torch.Generator().manual_seed(2000 + job.seed)

    def batch(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        rows = torch.randint(len(task.x), (size,), generator=generator)
        return task.x[rows], task.y[rows]

    purse, size, step = Purse(float(job.units)), BATCH, 0
    measured = observable(arm.measures, sum(p.numel() for p in model.parameters()))
    probe = Probe(loss=loss_of, batches=lambda _: [batch(BATCH, looks) for _ in range(PROBES)])
    with (
        tempfile.TemporaryDirectory() as folder,
        attach(
            model,
            optimizer,
            run=Path(folder) / "run",
            probe=probe,
            observables=[] if measured is None else [Paid(measured, purse)],
            every=job.every,
            policies=[] if arm.policy is None else [arm.policy(job.seed)],
            dry_run=arm.policy is None,
        ) as watch,
    ):
        while purse.left > 0 and not watch.should_stop:
            if arm.cosine:
                share = 1 - purse.left / job.units
                optimizer.param_groups[0]["lr"] = job.lr * (1 + math.cos(math.pi * share)) / 2
            optimizer.zero_grad()
            loss = loss_of(model, batch(size, draw))
            loss.backward()
            optimizer.step()
            watch.log(loss=loss)
            purse.left -= size / BATCH
            size = int(watch.advised_batch or size)
            step += 1
        with torch.no_grad():
            logits = model(task.judge[0])
        stopped = watch.should_stop
    held = float(functional.cross_entropy(logits, task.judge[1]))
    worst = 2 * math.log(task.classes)
    if any("failed" in text or "stopped watching" in text for text in failed):
        raise RuntimeError(f"{job.key}: {failed}")
    done = [action for action in watch.actions if action.applied]
    return {
        "key": job.key,
        "loss": min(held, worst) if math.isfinite(held) else worst,
        "accuracy": float((logits.argmax(1) == task.judge[1]).float().mean()),
        "steps": step,
        "spent": job.units - purse.left,
        "actions": len(done),
        "refused": len(watch.actions) - len(done),
        "batch": size,
        "stopped": stopped,
        "seconds": time.process_time() - began,
    }


# ---------------------------------------------------------------- many runs


def carry_out(jobs: Iterable[Job], kept: dict[str, Any], path: Path, workers: int) -> None:
    """Run what is not there yet; each result is written as it comes."""
    todo = [job for job in dict.fromkeys(jobs) if job.key not in kept]

    def keep(result: dict[str, Any]) -> None:
        kept[result["key"]] = result
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")

    if workers < 2 or len(todo) < 2:
        for job in todo:
            keep(trial(job))
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        for done in as_completed([pool.submit(trial, job) for job in todo]):
            keep(done.result())


def grid(middle: float, points: int) -> list[float]:
    """Rates over two decades around the middle."""
    return [middle * 10 ** (2 * k / (points - 1) - 1) for k in range(points)]


def tuned(task: str, arm: str, options: argparse.Namespace, kept: dict[str, Any]) -> float:
    """The rate of the least mean loss on the development seeds."""
    means = {
        lr: statistics.mean(
            kept[job(task, arm, lr, seed, options).key]["loss"]
            for seed in range(options.development)
        )
        for lr in grid(TASKS[task].middle, options.points)
    }
    return min(means, key=lambda lr: means[lr])


def job(task: str, arm: str, lr: float, seed: int, options: argparse.Namespace) -> Job:
    """A run at the budget of its task."""
    units = max(50, int(TASKS[task].units * options.share))
    return Job(task, arm, lr, seed, units, TASKS[task].every, code())


def holm(p: list[float]) -> list[float]:
    """Holm's adjusted p values; nan stays nan and is not counted."""
    order = [int(i) for i in np.argsort(p) if not math.isnan(p[int(i)])]
    adjusted, highest = [math.nan] * len(p), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p[i]))
        adjusted[i] = highest
    return adjusted


Rows = dict[str, tuple[float, list[dict[str, Any]]]]


def column(rows: Rows, against: dict[str, str]) -> dict[str, str]:
    """Paired differences of every row from another, with intervals and Holm's p."""
    names = [name for name in rows if against.get(name) and against[name] != name]
    pairs = {
        name: [[one["loss"] for one in rows[row][1]] for row in (name, against[name])]
        for name in names
    }
    same = {name for name, (ours, theirs) in pairs.items() if ours == theirs}
    p = holm([math.nan if n in same else float(ttest_rel(*pairs[n]).pvalue) for n in names])
    told = {}
    for name, one in zip(names, p, strict=True):
        if name in same:
            told[name] = "the same runs"
            continue
        found = mean_interval(np.subtract(*pairs[name]))
        told[name] = f"{found.value:+.4f} [{found.low:+.4f}, {found.high:+.4f}] p {one:.2g}"
    return told


def table(task: str, rows: Rows) -> None:
    """One task; negative differences are for the arm."""
    placebo = {name: ARMS[name].placebo if name in ARMS else "" for name in rows}
    columns = {
        "- tuned constant": column(rows, dict.fromkeys(rows, "constant")),
        "- tuned cosine": column(rows, dict.fromkeys(rows, "cosine")),
        "- same measurement, no action": column(rows, placebo),
    }
    print(f"\n{task}: test loss at one budget; paired differences, negative is better")
    print(f"  {'arm':28}{'rate':>8}{'at edge':>8}{'loss':>8}{'steps':>6}{'acts':>6}{'CPU s':>7}  "
          + "  ".join(f"{name:36}" for name in columns))  # fmt: skip
    for name, (lr, found) in rows.items():
        mean = {
            key: statistics.mean(one[key] for one in found)
            for key in ("loss", "steps", "actions", "seconds")
        }
        edge = "yes" if abs(math.log10(lr / TASKS[task].middle)) > 0.999 else ""
        acts = f"{mean['actions']:.1f}" if name in ARMS and ARMS[name].policy else ""
        print(f"  {name:28}{lr:8.3g}{edge:>8}{mean['loss']:8.4f}{mean['steps']:6.0f}{acts:>6}"
              f"{mean['seconds']:7.2f}  "
              + "  ".join(f"{told.get(name, ''):36}" for told in columns.values()),
              flush=True)  # fmt: skip


def main() -> None:
    """Parse arguments, train, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--share", type=float, default=1.0, help="of each task's budget")
    parser.add_argument("--points", type=int, default=POINTS, help="of the grid of rates")
    parser.add_argument("--development", type=int, default=3, help="seeds 0, 1, ...")
    parser.add_argument("--seeds", type=int, default=20, help="test seeds 100, 101, ...")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("policies.jsonl"))
    parser.add_argument("--quick", action="store_true", help="a few minutes, says nothing")
    options = parser.parse_args()
    if options.quick:
        options.share, options.points, options.development, options.seeds = 0.2, 3, 1, 2
    kept: dict[str, Any] = {}
    if options.out.exists():
        for line in options.out.read_text(encoding="utf-8").splitlines():
            result = json.loads(line)
            kept[result["key"]] = result
    basic = ["constant", "cosine", "placebo_noise", "placebo_descent"]
    arms = list(dict.fromkeys([*basic, *options.arms.split(",")]))
    tasks = options.tasks.split(",")
    develop = [
        job(task, arm, lr, seed, options)
        for task in tasks
        for arm in arms
        for lr in grid(TASKS[task].middle, options.points)
        for seed in range(options.development)
    ]
    carry_out(develop, kept, options.out, options.jobs)
    ways = {
        task: {arm: (arm, tuned(task, arm, options, kept)) for arm in arms}
        | {f"untuned {arm}": (arm, TASKS[task].middle) for arm in ("constant", "cosine")}
        for task in tasks
    }
    seeds = range(TEST_SEEDS, TEST_SEEDS + options.seeds)
    final = [job(t, *way, s, options) for t in tasks for way in ways[t].values() for s in seeds]
    carry_out(final, kept, options.out, options.jobs)
    for task in tasks:
        rows = {
            name: (way[1], [kept[job(task, *way, seed, options).key] for seed in seeds])
            for name, way in ways[task].items()
        }
        table(task, rows)


if __name__ == "__main__":
    main()
