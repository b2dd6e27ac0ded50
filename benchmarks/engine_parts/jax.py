"""The JAX engine beside the torch engine: a step, and a step watched, within one `lax.scan`.

Both run the process of the benchmark, `SharedFisher` with an active kernel residual, alternately in
one process; JAX takes as many threads as the machine has unless it was started with fewer
(``taskset``). What a run does besides, such as its checks of dt, which torch's `step` never makes,
is the same for a short run and for one twice as long (both end before a look on the way, after
20 d steps): the time of a step is what the longer takes more, a step. Compilation is apart.

JAX factors matrices by SciPy's OpenBLAS, whose threads go on spinning beside XLA's and take half of
the cores: it runs here on one, as ``OPENBLAS_NUM_THREADS=1`` makes it for a whole process.
"""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import nn

from foreshock.density import Selection, fit_score, flow
from foreshock.density.score_kernel import reference_bandwidth
from foreshock.simulators import jax_engine
from foreshock.simulators.decoder import DecoderPotential
from foreshock.simulators.diffusion import SharedFisher
from foreshock.simulators.particles import Engine, State, motion, move, step

#: Particles times steps of the short run, and how many times as long the other is.
WORK, LONGER = 2**14, 2


def twin(engine: Engine, n: int) -> jax_engine.Engine:
    """The same engine in JAX, the weights of its tanh decoder handed over."""
    potential = engine.potential
    assert isinstance(potential, DecoderPotential) and isinstance(potential.decode, nn.Sequential)
    layers = [m for m in potential.decode if isinstance(m, nn.Linear)]
    weights = [(jnp.asarray(m.weight.T.numpy()), jnp.asarray(m.bias.numpy())) for m in layers]

    def decode(z: jax.Array) -> jax.Array:
        for weight, bias in weights[:-1]:
            z = jnp.tanh(z @ weight + bias)
        return z @ weights[-1][0] + weights[-1][1]

    targets = jnp.tile(jnp.asarray(potential.targets.numpy()), (n, 1))
    decoder = jax_engine.Decoder(decode, targets, potential.noise_scale)
    assert isinstance(engine.shape, SharedFisher)
    return jax_engine.Engine(decoder, engine.schedules, engine.dt, engine.shape, engine.mode)


@threadpool_limits.wrap(limits=1, user_api="blas")
def measure(engine: Engine, n: int, rounds: int) -> dict[str, Any]:
    """Milliseconds per step, best of the rounds, and JAX over torch."""
    d = engine.potential.dimension
    start = np.random.default_rng(0).standard_normal((n, d), dtype=np.float32)
    state, source = State(torch.from_numpy(start)), torch.Generator().manual_seed(2)
    ours, key = twin(engine, n), jax.random.key(0)
    there = jax_engine.State(jnp.asarray(start))
    steps = max(1, WORK // n)
    kernel = Selection(reference_bandwidth(n, d), 0.5)

    def watched() -> None:
        now = motion(engine, state, source)
        fitted = fit_score(state.z, selection=kernel)
        flow(fitted, now.drift, now.tensor.value(d), refits=0, bounds=False)
        move(engine, state, now, source)

    def scan(count: int, selection: Selection | None) -> None:
        every = count if selection is None else 1
        jax_engine.run(ours, there, key, steps=count, every=every, selection=selection)

    longer = LONGER * steps
    jobs = {
        "torch step": (lambda: step(engine, state, source), 1),
        "jax step": (lambda: scan(longer, None), longer),
        "jax short": (lambda: scan(steps, None), steps),
        "torch watched": (watched, 1),
        "jax watched": (lambda: scan(longer, kernel), longer),
        "jax short watched": (lambda: scan(steps, kernel), steps),
    }
    first, best = {}, dict.fromkeys(jobs, float("inf"))
    for name, (job, _) in jobs.items():
        began = time.perf_counter()
        job()
        first[name] = time.perf_counter() - began
    for _ in range(rounds):
        for name, (job, count) in jobs.items():
            for _ in range(max(1, min(8, steps // count))):
                began = time.perf_counter()
                job()
                best[name] = min(best[name], time.perf_counter() - began)
    for name, short in (("jax step", "jax short"), ("jax watched", "jax short watched")):
        best[name] = (best[name] - best.pop(short)) / (longer - steps)
    return {
        "milliseconds": {name: 1e3 * value for name, value in best.items()},
        "compile seconds": {name: first[name] for name in jobs if name.startswith("jax")},
        "jax over torch": {
            name: best[f"jax {name}"] / best[f"torch {name}"] for name in ("step", "watched")
        },
    }
