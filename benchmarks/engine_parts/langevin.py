"""Throughput of Langevin particles in the double well, against drawing their normals alone.

Half of a step or more is the generation of its normal number, so the yardstick is the rate of
`Tensor.normal_` in the same process, on a buffer as large as a chunk, alternating with the steps.
Wall time on a busy machine counts the waiting for others; the processor time of the main thread,
which does all of the work here, does not.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch

from foreshock.simulators.dynamics import Langevin
from foreshock.simulators.potentials import DoubleWell
from foreshock.simulators.sde import EulerMaruyama, integrate

#: What is asked: 4.3 ns a particle-step where a normal took 3.3 ns.
ASKED = 4.3 / 3.3
BUFFER = 32_768


@dataclass(frozen=True)
class Throughput:
    """Medians over rounds.

    Args:
        threads: Threads of torch.
        normal_ns: Wall time of a standard normal.
        step_ns: Wall time of a particle-step.
        ratio: Median of the rounds' own ratios, of wall times.
        cpu_ratio: The same of processor times of the main thread.
        asked: Largest ratio asked for.
    """

    threads: int
    normal_ns: float
    step_ns: float
    ratio: float
    cpu_ratio: float
    asked: float = ASKED


def _clock() -> tuple[float, float]:
    """Wall time, and processor time of this thread."""
    return time.perf_counter(), time.thread_time()


def langevin_throughput(
    particles: int = 1_000_000,
    steps: int = 1_000,
    rounds: int = 5,
    threads: tuple[int, ...] = (1, 2),
) -> list[Throughput]:
    """Euler-Maruyama in U = (x^2 - 1)^2 at T = 1/4, dt = .005, float32, `steps` in all rounds."""
    before = torch.get_num_threads()
    generator = torch.Generator().manual_seed(0)
    stepper = EulerMaruyama(Langevin(DoubleWell(), temperature=0.25), dt=0.005)
    start, buffer = torch.full((particles, 1), -1.0), torch.empty(BUFFER)
    each = max(1, steps // rounds)
    out = []
    try:
        for count in threads:
            torch.set_num_threads(count)
            draws = max(1, particles * each // BUFFER)
            normal, step, ratios = [], [], []
            for _ in range(rounds):
                began = _clock()
                for _ in range(draws):
                    buffer.normal_(generator=generator)
                middle = _clock()
                integrate(stepper, start, each, generator=generator, every=each)
                ended = _clock()
                drawing = [(b - a) / (draws * BUFFER) for a, b in zip(began, middle, strict=True)]
                stepping = [
                    (b - a) / (particles * each) for a, b in zip(middle, ended, strict=True)
                ]
                normal.append(drawing[0] * 1e9)
                step.append(stepping[0] * 1e9)
                ratios.append([s / d for s, d in zip(stepping, drawing, strict=True)])
            wall, cpu = (statistics.median(r) for r in zip(*ratios, strict=True))
            medians = statistics.median(normal), statistics.median(step)
            out.append(Throughput(count, *medians, wall, cpu))
    finally:
        torch.set_num_threads(before)
    return out
