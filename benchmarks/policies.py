"""Policies on real training: each against constant, cosine and tuned rates, at one budget.

``foreshock bench policies --jobs 2`` trains a perceptron on scikit-learn's digits and a character
model on source text. Every arm has the same budget in *units*: one update at the base batch is one
unit, an update at another batch its share of examples, and a measurement the ``price`` of its
observables, so that what a policy measures is taken from what it may train.

1. Development seeds: every arm at each of 9 rates, a log grid over two decades; each arm keeps the
   rate with the least mean held-out loss. Policies take their base rate from the same grid.
2. Test seeds, never used in 1, and examples that 1 never looked at: every arm at its own rate, and
   constant and cosine at the middle of the grid, where nobody has tuned. Differences are paired by
   seed (initial weights, order of the batches), with Student's interval.

Results go to a file of JSON lines as they come, keyed by everything that makes them: run it again
to go on. A run that diverges has twice the loss of a uniform guess. The table is printed as
it falls out. A batch is only ever advised; here the loop follows.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import statistics
import tempfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from foreshock import Probe, attach
from foreshock.estimators import Descent, GradientNoise
from foreshock.policies import (
    Council,
    DescentMargin,
    Guarded,
    LangevinRate,
    LangevinReduce,
    NoiseScaleBatch,
    PhaseRate,
    PoissonRate,
    PublishedEarlyStop,
    TargetBatch,
    TurnsUp,
    WeightReset,
)
from foreshock.policies.apply import Applier
from foreshock.policies.apply_rate import Rates, scale_lr, set_lr
from foreshock.stats.published import c_langevin, c_signal, i_signal, p_signal
from foreshock.stats.sample import mean_interval
from foreshock.types import Alarm, Estimate, Observable, Policy

BATCH = 64
PROBES = 8
POINTS = 9
TASKS = ("digits", "characters")
#: Optimizer and the middle of the grid of each task.
SETTINGS = {"digits": ("sgd", 0.5), "characters": ("adamw", 3e-3)}
#: What a policy reads by name, and from which observable it is made.
NOISE, MARGIN = "noise", "descent"
VERSION = 2
#: Seeds below it choose rates by the validation examples; from it on the test examples judge.
TEST_SEEDS = 100


@dataclass(frozen=True)
class Arm:
    """A way to train: a schedule, or a policy on a constant rate, and what it has to measure."""

    name: str
    policy: Callable[[], Policy] | None = None
    measures: tuple[str, ...] = ()
    cosine: bool = False


ARMS = {
    arm.name: arm
    for arm in (
        Arm("constant"),
        Arm("cosine", cosine=True),
        Arm("phase_rate", PhaseRate, (NOISE,)),
        Arm("langevin_rate", LangevinRate, (NOISE,)),
        Arm("langevin_reduce", LangevinReduce, (NOISE,)),
        Arm("descent_margin", DescentMargin, (MARGIN,)),
        Arm("published_early_stop", PublishedEarlyStop, (NOISE,)),
        Arm(
            "reset_when_c_turns",
            lambda: Guarded(WeightReset(on=TurnsUp("published/c_signal", 0.5)), most=5),
            (NOISE,),
        ),
        Arm("reset_poisson", lambda: Guarded(WeightReset(on=PoissonRate(0.003)), most=5)),
        Arm("target_batch", lambda: TargetBatch(BATCH, most=1024), (NOISE,)),
        Arm("noise_scale_batch", lambda: NoiseScaleBatch(BATCH, most=1024), (NOISE,)),
    )
}


@dataclass(frozen=True)
class Job:
    """One run, and everything that makes it."""

    task: str
    arm: str
    lr: float
    seed: int
    units: int
    every: int

    @property
    def key(self) -> str:
        """The name under which its result is kept."""
        return json.dumps([VERSION, *asdict(self).values()])


class Tap:
    """A sink that keeps the values of the last complete steps until they are fetched."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, dict[str, Estimate]]] = []

    def write(self, step: int, values: Mapping[str, Estimate]) -> None:
        """Keep a step."""
        self._rows.append((step, dict(values)))

    def alarm(self, alarm: Alarm) -> None:
        """No detector is attached."""

    def take(self) -> list[tuple[int, dict[str, Estimate]]]:
        """What has come since."""
        rows, self._rows = self._rows, []
        return rows


# ---------------------------------------------------------------- tasks


@dataclass(frozen=True)
class Data:
    """Training and judging examples, a fresh model, and the number of classes."""

    x: Tensor
    y: Tensor
    judge: tuple[Tensor, Tensor]
    model: nn.Module
    classes: int


def data(task: str, seed: int) -> Data:
    """A task at a seed: the split in three is fixed, the weights are the seed's."""
    last = seed >= TEST_SEEDS
    if task == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        x = torch.tensor(digits.data / 16.0, dtype=torch.float32)
        y = torch.tensor(digits.target)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        x, y = x[order], y[order]
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        held = slice(1500, None) if last else slice(1200, 1500)
        return Data(x[:1200], y[:1200], (x[held], y[held]), model, 10)
    from foreshock.experiments.character_policy import (
        CHARACTERS,
        CONTEXT,
        CharacterPolicy,
        encode,
        source_lines,
    )

    windows = encode("\n" * CONTEXT + "".join(source_lines()[:4000])).unfold(0, CONTEXT + 1, 1)
    # Whole stretches of text: a window of one part shares no character with another part.
    cut = int(0.9 * len(windows))
    held = windows[cut + CONTEXT :][4000 + CONTEXT if last else 0 :][:4000]
    torch.manual_seed(seed)
    return Data(
        windows[:cut, :-1],
        windows[:cut, -1],
        (held[:, :-1], held[:, -1]),
        CharacterPolicy(),
        len(CHARACTERS),
    )


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy of a batch."""
    return functional.cross_entropy(model(batch[0]), batch[1])


# ---------------------------------------------------------------- one run


def published(values: dict[str, Estimate], dimension: int) -> dict[str, Estimate]:
    """What the documents compute, from the unbiased signal and the noise of the same gradients.

    |m|^2 = U + V/n is their plug-in signal; D of "langevin" is V/(2 d).
    """
    signal, noise = values.get("grad/signal"), values.get("grad/noise")
    if signal is None or noise is None or not math.isfinite(signal.value + noise.value):
        return values
    square, v = signal.value + noise.value / PROBES, noise.value
    # Two gradients in one dimension with this mean and variance, for the listing itself.
    pair = [[math.sqrt(square) - math.sqrt(v / 2)], [math.sqrt(square) + math.sqrt(v / 2)]]
    c = c_signal(np.array(pair))
    found = {
        "published/c_signal": c,
        "published/p_signal": p_signal(c),
        "published/i_placeholder_signal": i_signal(p_signal(c)),
        "published/c_langevin": c_langevin(square, v / 2 / dimension, dimension),
    }
    return values | {name: Estimate.plain(x) for name, x in found.items()}


def trial(job: Job) -> dict[str, Any]:
    """Train once; nothing of it depends on anything but the job."""
    torch.set_num_threads(1)
    arm, task = ARMS[job.arm], data(job.task, job.seed)
    model, kind = task.model, SETTINGS[job.task][0]
    make = torch.optim.SGD if kind == "sgd" else torch.optim.AdamW
    optimizer = make(model.parameters(), lr=job.lr)
    rates, applier = Rates(optimizer, alone=True), Applier(model, optimizer, job.seed)
    council = Council([] if arm.policy is None else [arm.policy()])
    draw = torch.Generator().manual_seed(1000 + job.seed)
    looks = torch.Generator().manual_seed(2000 + job.seed)

    def batch(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        rows = torch.randint(len(task.x), (size,), generator=generator)
        return task.x[rows], task.y[rows]

    chosen: list[Observable] = []
    chosen += [GradientNoise()] if NOISE in arm.measures else []
    chosen += [Descent(window=16)] if MARGIN in arm.measures else []
    prices = sum(one.price for one in chosen)
    tap, watch = Tap(), None
    probe = Probe(loss=loss_of, batches=lambda _: [batch(BATCH, looks) for _ in range(PROBES)])
    dimension = sum(p.numel() for p in model.parameters())
    size, spent, step, acted, stopped = BATCH, 0.0, 0, 0, False
    with tempfile.TemporaryDirectory() as folder:
        if chosen:
            watch = attach(model, optimizer, run=Path(folder) / "r", probe=probe,
                           observables=chosen, every=job.every, sinks=[tap])  # fmt: skip
        while spent < job.units and not stopped:
            if arm.cosine:
                share = spent / job.units
                optimizer.param_groups[0]["lr"] = job.lr * (1 + math.cos(math.pi * share)) / 2
            price = prices if watch is not None and step % job.every == 0 else 0.0
            if watch is not None and spent + price + size / BATCH > job.units:
                watch.close()  # what is left of the budget pays no measurement
                watch, price = None, 0.0
            optimizer.zero_grad()
            value = loss_of(model, batch(size, draw))
            value.backward()
            optimizer.step()
            spent += size / BATCH + price
            rows = tap.take() if chosen else [(step, {})]
            for at, values in rows:
                for action in council.feed(at, published(values, dimension), []):
                    acted += 1
                    if action.kind == "scale_lr":
                        scale_lr(rates, action)
                    elif action.kind == "set_lr":
                        set_lr(rates, action)
                    elif action.kind == "advise_batch":
                        size = int(float(action.arguments["batch"]))
                    elif action.kind == "stop":
                        stopped = True
                    elif not applier.apply(action).applied:
                        raise RuntimeError(f"{job.key}: {action}")
            step += 1
        if watch is not None:
            watch.close()
    with torch.no_grad():
        logits = model.eval()(task.judge[0])
    held = float(functional.cross_entropy(logits, task.judge[1]))
    worst = 2 * math.log(task.classes)
    return {
        "key": job.key,
        "loss": min(held, worst) if math.isfinite(held) else worst,
        "accuracy": float((logits.argmax(1) == task.judge[1]).float().mean()),
        "steps": step,
        "spent": spent,
        "actions": acted,
        "factor": rates.factor,
        "batch": size,
        "stopped": stopped,
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
            kept[Job(task, arm, lr, seed, options.units, options.every).key]["loss"]
            for seed in range(options.development)
        )
        for lr in grid(SETTINGS[task][1], options.points)
    }
    return min(means, key=lambda lr: means[lr])


def paired(ours: list[float], theirs: list[float]) -> str:
    """Mean difference by seed with its interval."""
    found = mean_interval([a - b for a, b in zip(ours, theirs, strict=True)])
    return f"{found.value:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"


def table(task: str, rows: dict[str, tuple[float, list[dict[str, Any]]]]) -> None:
    """One task; negative differences are for the arm."""
    print(f"\n{task}: held-out loss at one budget, and paired differences (negative is better)")
    names = ("tuned constant", "tuned cosine", "untuned cosine")
    print(f"  {'arm':24}{'rate':>9}{'loss':>8}{'steps':>7}{'spent':>7}{'acts':>6}{'at edge':>9}  "
          + "  ".join(f"- {name:26}" for name in names))  # fmt: skip
    against = {
        "tuned constant": rows["constant"][1],
        "tuned cosine": rows["cosine"][1],
        "untuned cosine": rows["untuned cosine"][1],
    }
    middle = SETTINGS[task][1]
    for name, (lr, found) in rows.items():
        losses = [one["loss"] for one in found]
        mean = {
            key: statistics.mean(one[key] for one in found) for key in ("steps", "spent", "actions")
        }
        edge = "yes" if abs(math.log10(lr / middle)) > 0.999 else ""
        text = "  ".join(
            f"{paired(losses, [one['loss'] for one in other]):28}" for other in against.values()
        )
        numbers = f"{mean['steps']:7.0f}{mean['spent']:7.0f}{mean['actions']:6.1f}{edge:>9}"
        print(f"  {name:24}{lr:9.3g}{statistics.mean(losses):8.4f}{numbers}  {text}", flush=True)


def main() -> None:
    """Parse arguments, train, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--units", type=int, default=1500, help="budget of a run")
    parser.add_argument("--every", type=int, default=50, help="steps between measurements")
    parser.add_argument("--points", type=int, default=POINTS, help="of the grid of rates")
    parser.add_argument("--development", type=int, default=3, help="seeds 0, 1, ...")
    parser.add_argument("--seeds", type=int, default=10, help="test seeds 100, 101, ...")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("policies.jsonl"))
    parser.add_argument("--quick", action="store_true", help="a few minutes, says nothing")
    options = parser.parse_args()
    if options.quick:
        options.units, options.points, options.development, options.seeds = 300, 3, 1, 2
    kept: dict[str, Any] = {}
    if options.out.exists():
        for line in options.out.read_text(encoding="utf-8").splitlines():
            result = json.loads(line)
            kept[result["key"]] = result
    arms = list(dict.fromkeys(["constant", "cosine", *options.arms.split(",")]))
    tasks = options.tasks.split(",")

    def job(task: str, arm: str, lr: float, seed: int) -> Job:
        return Job(task, arm, lr, seed, options.units, options.every)

    develop = [
        job(task, arm, lr, seed)
        for task in tasks
        for arm in arms
        for lr in grid(SETTINGS[task][1], options.points)
        for seed in range(options.development)
    ]
    carry_out(develop, kept, options.out, options.jobs)
    ways = {
        task: {arm: (arm, tuned(task, arm, options, kept)) for arm in arms}
        | {f"untuned {arm}": (arm, SETTINGS[task][1]) for arm in ("constant", "cosine")}
        for task in tasks
    }
    seeds = range(TEST_SEEDS, TEST_SEEDS + options.seeds)
    final = [job(t, *way, s) for t in tasks for way in ways[t].values() for s in seeds]
    carry_out(final, kept, options.out, options.jobs)
    for task in tasks:
        rows = {
            name: (way[1], [kept[job(task, *way, seed).key] for seed in seeds])
            for name, way in ways[task].items()
        }
        table(task, rows)


if __name__ == "__main__":
    main()
