"""What a step of the particle engine costs, beside what the machine allows and the published code.

``foreshock bench engine``. Everything that is compared runs alternately in one process; numbers are
the best of the rounds, in milliseconds, and ratios. The decoder is d-128-128-64 with tanh, all
particles share one target, D = D_0 (I + gamma F) with the mean Fisher information (`SharedFisher`),
and the kernel part of the score is switched on, whatever the data would choose: the dear case.

The limit of a step with C and entropy production is what its arithmetic takes at the rates of this
process: (4 n^2 d + 4 n P + 4 n d^2) at the rate of matrix products, n^2 exponentials and n d
normals, P the weights of the decoder. That is one forward and one backward pass; the Fisher
information takes another backward pass, which the limit does not count and the row "watched, D
given" does not have (`SharedMatrix`): there the arithmetic is that of the limit.

A density is estimated in two ways: with the bandwidth and weight of an earlier look kept, which is
the row "watched", or chosen, which is what `fit_score(z)` does without further arguments.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script, from anywhere

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.engine_parts.literal import Decoder, cost
from foreshock.density.flow import flow
from foreshock.density.score import Selection, fit_score
from foreshock.density.score_kernel import reference_bandwidth
from foreshock.simulators.decoder import DecoderPotential
from foreshock.simulators.diffusion import Isotropic, ParticleFisher, SharedFisher, SharedMatrix
from foreshock.simulators.observing import rows_at_once
from foreshock.simulators.particles import Engine, Shape, State, motion, move, step
from foreshock.simulators.schedules import constant_schedules

SIZES = ((256, 8), (512, 32), (1024, 64), (2048, 128))
#: Largest allowed multiple of the limit, of step + C + entropy production.
LIMIT_GOALS = {(256, 8): 4.5, (512, 32): 2.5, (1024, 64): 1.7, (2048, 128): 1.35}
#: A good torch implementation, measured apart from this one on two quiet threads whose matrix
#: products ran at 190 GFLOP/s: milliseconds of step + C + entropy production.
REFERENCE = {(256, 8): 0.80, (512, 32): 1.56, (1024, 64): 5.2, (2048, 128): 23.9}
REFERENCE_RATE = 190.0
GAMMA = 0.05
#: Runs of a job in a row. The first finds its code and data out of the caches.
REPEATS = 4
LAYERS = (128, 128, 64)


def decoder(d: int) -> nn.Sequential:
    """d-128-128-64 with tanh; weights need no gradient."""
    torch.manual_seed(0)
    sizes = (d, *LAYERS)
    layers: list[nn.Module] = []
    for a, b in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [nn.Linear(a, b), nn.Tanh()]
    return nn.Sequential(*layers[:-1]).requires_grad_(False)


def engine(d: int, shape: Shape, mode: str = "gibbs") -> Engine:
    """The engine of the benchmark."""
    target = torch.randn(LAYERS[-1], generator=torch.Generator().manual_seed(1))
    potential = DecoderPotential(decoder(d), target, dimension=d, single_target=True)
    schedules = constant_schedules(rate=0.01, diffusion=0.01, entropy=0.1)
    return Engine(potential, schedules, dt=0.01, shape=shape, mode=mode)


def best(jobs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Best seconds of each job, run alternately, a few times each: a run repeats one job too."""
    seconds = dict.fromkeys(jobs, float("inf"))
    for job in jobs.values():
        job()
    for _ in range(rounds):
        for name, job in jobs.items():
            for _ in range(REPEATS):
                start = time.perf_counter()
                job()
                seconds[name] = min(seconds[name], time.perf_counter() - start)
    return seconds


def rate_jobs() -> dict[str, tuple[Callable[[], object], float]]:
    """Job and units of work: FLOP of a matrix product, exponentials, normals."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    out, small = torch.empty(1024, 1024), torch.randn(512, 512)
    cells = torch.empty(512, 512)
    source = torch.Generator().manual_seed(0)
    return {
        "gemm": (lambda: torch.mm(a, b, out=out), 2 * 1024**3),
        "exp": (lambda: torch.exp(small, out=cells), 512**2),
        "normal": (lambda: torch.randn(2**18, generator=source), 2**18),
    }


def limit(n: int, d: int, rates: dict[str, float], *, density: bool = True) -> float:
    """Seconds below which no step, with C + entropy production or without, is at these rates."""
    sizes = (d, *LAYERS)
    weights = sum(a * b for a, b in zip(sizes[:-1], sizes[1:], strict=True))
    step = (4 * n * weights + 4 * n * d * d) / rates["gemm"] + n * d / rates["normal"]
    return step + (4 * n * n * d / rates["gemm"] + n * n / rates["exp"] if density else 0.0)


def jobs(n: int, d: int) -> dict[str, Callable[[], object]]:
    """What is timed at one size."""
    source = torch.Generator().manual_seed(2)
    z = torch.randn(n, d, generator=source)
    state = State(z)
    shared = engine(d, SharedFisher(GAMMA))
    own = engine(d, ParticleFisher(GAMMA), "published")
    reversible = engine(d, ParticleFisher(GAMMA))
    plain = engine(d, Isotropic())
    given = engine(d, SharedMatrix(torch.eye(d) + 0.01))
    potential = shared.potential
    kernel = Selection(reference_bandwidth(n, d), 0.5)
    chosen = fit_score(z).selection
    moved = motion(shared, state, source)
    score = fit_score(z, selection=kernel)
    # A second graph, kept alive, for the parts that pull back through it.
    linear = moved.linear

    def watched(run: Engine, selection: Selection | None) -> State:
        now = motion(run, state, source)
        fitted = fit_score(z, selection=selection, block=rows_at_once(n))
        flow(fitted, now.drift, now.tensor.value(d), refits=0, bounds=False)
        return move(run, state, now, source)

    return {
        "watched": lambda: watched(shared, kernel),
        "watched, D given": lambda: watched(given, kernel),
        "step": lambda: step(shared, state, source),
        "watched, kernel as chosen": lambda: watched(shared, chosen),
        "watched, density chosen": lambda: watched(shared, None),
        "step, each its own Fisher noise": lambda: step(own, state, source),
        "the same with div D (gibbs)": lambda: step(reversible, state, source),
        "step, isotropic": lambda: step(plain, state, source),
        "drift": lambda: potential.gradient(z),
        "diffusion": lambda: shared.shape.tensor(z, linear, 0.01, 0.001, generator=source),
        "noise": lambda: moved.tensor.noise(z, 0.02, source),
        "score": lambda: fit_score(z, selection=kernel, block=rows_at_once(n)),
        "C and entropy production": lambda: flow(
            score, moved.drift, moved.tensor.value(d), refits=0, bounds=False
        ),
    }


def literal(n: int, d: int, quick: bool) -> dict[str, Any]:
    """Cost of the published algorithm in NumPy; columns and rows extrapolated where it is large."""
    layers = [m for m in decoder(d) if isinstance(m, nn.Linear)]
    weights = [m.weight.detach().numpy() for m in layers]
    twin = Decoder(weights, [m.bias.detach().numpy() for m in layers])
    rng = np.random.default_rng(0)
    z = rng.standard_normal((n, d), dtype=np.float32)
    target = rng.standard_normal(LAYERS[-1], dtype=np.float32)
    columns = {8: 8, 32: 32, 64: 8}.get(d, 2)
    memory = 2.6e8 if quick else 2.2e9
    found = cost(z, twin, target, 1 if quick else columns, memory)
    return {
        "step": found.step,
        "watched": found.consolidation,
        "rows": found.rows,
        "columns": found.columns,
    }


def peak_extra(n: int, d: int) -> float:
    """MB by which a watched step raises the peak of a fresh process's memory; runs in the child."""
    run = engine(d, SharedFisher(GAMMA))
    source = torch.Generator().manual_seed(2)

    def watched(z: Tensor) -> None:
        state = State(z)
        now = motion(run, state, source)
        kernel = Selection(reference_bandwidth(len(z), d), 0.5)
        fitted = fit_score(z, selection=kernel, block=rows_at_once(len(z)))
        flow(fitted, now.drift, now.tensor.value(d), refits=0, bounds=False)
        move(run, state, now, source)

    # The libraries' own buffers come with the first call, whatever its size.
    watched(torch.randn(4 * d, d, generator=source))
    z = torch.randn(n, d, generator=source)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = _memory("VmRSS")
    watched(z)
    return (_memory("VmHWM") - before) / 1024


def _memory(name: str) -> int:
    """A line of /proc/self/status, in kB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    raise ValueError(f"/proc/self/status has no {name}; memory is measured on Linux only.")


def memory(n: int, d: int, threads: int) -> float | None:
    """`peak_extra` in a process of its own; None where the system does not tell."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "src")])}
    done = subprocess.run(
        [sys.executable, __file__, "--peak", str(n), str(d), "--threads", str(threads)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def measure(n: int, d: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row of the table."""
    timed = jobs(n, d)
    rates = rate_jobs()
    timed |= {f"rate {name}": job for name, (job, _) in rates.items()}
    seconds = best(timed, arguments.rounds)
    found = {name: work / seconds.pop(f"rate {name}") for name, (_, work) in rates.items()}
    floor = limit(n, d, found)
    reference = REFERENCE[n, d] / 1e3 * REFERENCE_RATE * 1e9 / found["gemm"]
    row: dict[str, Any] = {
        "n": n,
        "d": d,
        "GFLOP/s": found["gemm"] / 1e9,
        "ns per exp": 1e9 / found["exp"],
        "ns per normal": 1e9 / found["normal"],
        "milliseconds": {name: 1e3 * value for name, value in seconds.items()},
        "limit": 1e3 * floor,
        "over limit": seconds["watched"] / floor,
        "limit goal": LIMIT_GOALS[n, d],
        "over limit, D given": seconds["watched, D given"] / floor,
        "over reference": seconds["watched"] / reference,
        "watched over step": seconds["watched"] / seconds["step"],
        "chosen over step": seconds["watched, density chosen"] / seconds["step"],
        "watched over step at the limit": floor / limit(n, d, found, density=False),
        "steps per second": 1 / seconds["step"],
        "memory MB": memory(n, d, arguments.threads),
    }
    if not arguments.no_literal:
        row["literal"] = literal(n, d, arguments.quick)
        row["literal over ours"] = {
            name: row["literal"][name] / seconds[name] for name in ("step", "watched")
        }
    return row


def show(row: dict[str, Any]) -> None:
    """Print one row."""
    verdict = {True: "met", False: "NOT met"}
    print(
        f"\nn = {row['n']}, d = {row['d']}: {row['GFLOP/s']:.0f} GFLOP/s, "
        f"{row['ns per exp']:.2f} ns per exp, {row['ns per normal']:.1f} ns per normal"
    )
    print("  watched = step + C + entropy production")
    for name, value in row["milliseconds"].items():
        print(f"  {name:<34} {value:>9.2f} ms")
    goals = [
        ("watched over the limit", row["over limit"], "<=", row["limit goal"]),
        ("watched, D given, over the limit", row["over limit, D given"], "<=", row["limit goal"]),
        ("watched over the reference", row["over reference"], "<=", 1.3),
        ("density chosen, over step without", row["chosen over step"], ">=", 3.0),
        ("density kept, over step without", row["watched over step"], ">=", 3.0),
    ]
    print(f"  {'limit':<34} {row['limit']:>9.2f} ms")
    for name, value, sign, goal in goals:
        met = value <= goal if sign == "<=" else value >= goal
        # Nothing runs faster than its own arithmetic: then a rate was measured under load.
        false = name.endswith("the limit") and value < 1
        said = "not valid, a rate was measured under load" if false else verdict[met]
        print(f"  {name:<34} {value:>9.2f}    goal {sign} {goal}: {said}")
    allowed = row["watched over step at the limit"]
    print(f"  {'the same at the limit of both':<34} {allowed:>9.2f}")
    print(f"  {'steps per second':<34} {row['steps per second']:>9.0f}")
    if row["memory MB"] is not None:
        met = verdict[row["memory MB"] < 150]
        print(f"  {'peak extra memory':<34} {row['memory MB']:>9.0f} MB  goal < 150: {met}")
    if row["jax"] is not None:
        times, ratios = row["jax"]["milliseconds"], row["jax"]["jax over torch"]
        print(
            f"  JAX, per step of a scan: step {times['jax step']:.2f} ms "
            f"({ratios['step']:.2f} times torch), watched {times['jax watched']:.2f} ms "
            f"({ratios['watched']:.2f} times torch)"
        )
        over = times["jax watched"] / row["limit"]
        met = verdict[over <= row["limit goal"]]
        # XLA takes all cores whatever torch was told, and its limit is then that of all cores.
        said = met if torch.get_num_threads() == os.cpu_count() else "the limit is of fewer threads"
        name = "JAX, watched over the limit"
        print(f"  {name:<34} {over:>9.2f}    goal <= {row['limit goal']}: {said}")
    if "literal" in row:
        found = row["literal"]
        part = f"{found['rows']} of {row['n']} rows, {found['columns']} of {row['d']} columns"
        whole = found["rows"] == row["n"] and found["columns"] == row["d"]
        print(
            f"  published algorithm in NumPy: step {1e3 * found['step']:.0f} ms "
            f"({row['literal over ours']['step']:.0f} times ours), "
            f"C {1e3 * found['watched']:.0f} ms "
            f"({row['literal over ours']['watched']:.0f} times our step + C + entropy production)"
            + ("" if whole else f"; run on {part}, the rest extrapolated")
        )


def langevin(threads: int) -> dict[str, float] | None:
    """Throughput of the Langevin stepper, where its part is."""
    name = "benchmarks.engine_parts.langevin"
    if importlib.util.find_spec(name) is None:
        return None
    found = importlib.import_module(name).langevin_throughput(threads=(threads,))
    return asdict(found[0])


def in_jax(n: int, d: int, rounds: int) -> dict[str, Any] | None:
    """The JAX engine beside this one, where JAX is."""
    if any(importlib.util.find_spec(name) is None for name in ("jax", "threadpoolctl")):
        return None
    part = importlib.import_module("benchmarks.engine_parts.jax")
    return part.measure(engine(d, SharedFisher(GAMMA)), n, rounds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="foreshock bench engine", description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--sizes", type=int, default=len(SIZES), help="how many, from the smallest")
    parser.add_argument("--no-literal", action="store_true", help="leave the published code out")
    parser.add_argument("--no-langevin", action="store_true", help="leave the SDE stepper out")
    parser.add_argument("--no-jax", action="store_true", help="leave the JAX engine out")
    parser.add_argument("--quick", action="store_true", help="a column and 260 MB of the latter")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--peak", type=int, nargs=2, metavar=("N", "D"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.peak:
        print(peak_extra(*arguments.peak))
        return
    rows = []
    for n, d in SIZES[: arguments.sizes]:
        rows.append(measure(n, d, arguments))
        rows[-1]["jax"] = None if arguments.no_jax else in_jax(n, d, arguments.rounds)
        if not arguments.json:
            show(rows[-1])
    large = memory(16384, 32, arguments.threads)
    more = None if arguments.no_langevin else langevin(arguments.threads)
    if arguments.json:
        print(json.dumps({"rows": rows, "16384 x 32, MB": large, "langevin": more}, indent=1))
        return
    if large is not None:
        print(f"\nn = 16384, d = 32, in blocks: peak extra memory {large:.0f} MB, goal < 1024 MB")
    if more is not None:
        verdict = "met" if more["ratio"] <= more["asked"] else "NOT met"
        print(
            f"\nLangevin, 10^6 particles in the double well: {more['step_ns']:.2f} ns per "
            f"particle-step, {more['ratio']:.2f} normals, goal <= {more['asked']:.2f}: {verdict}"
        )


if __name__ == "__main__":
    main()
