"""The cost grid: what one measurement of each observable costs, in training steps.

Each observable is timed alternately with training steps of the same process; medians and ratios are
printed, because the machine is shared. ``foreshock bench cost``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from foreshock.estimators import catalogue, published_catalogue
from foreshock.experiments import grokking
from foreshock.probe import Probe
from foreshock.probe.moment import Moment
from foreshock.probe.optimizer import OptimizerView
from foreshock.probe.view import ModelView


def seconds(function: Callable[[], Any]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


#: Seconds after which a dear observable is not measured again.
PATIENCE = 8.0

Setting = tuple[torch.nn.Module, torch.optim.Optimizer, Callable[[], None], Probe]


def grid(setting: Setting, rounds: int) -> list[dict]:
    """Cost of every observable on one model."""
    model, optimizer, step, probe = setting
    rows = []
    view = ModelView(model)
    for observable in (*catalogue(), *published_catalogue()):
        state: Any = observable.init()
        own, plain, first = [], [], 0.0
        started = time.perf_counter()
        for index in range(rounds):
            if len(own) > 2 and time.perf_counter() - started > PATIENCE:
                break
            plain.append(seconds(step))
            update = None
            if "update" in observable.needs:
                old = [p.clone() for p in view.parameters]
                plain.append(seconds(step))
                update = tuple(p - o for p, o in zip(view.parameters, old, strict=True))
            moment = Moment(
                step=10 * index,
                view=view,
                gradients=tuple(p.grad for p in view.live_parameters),
                learning_rates=(0.005,),
                optimizer=OptimizerView(optimizer, view),
                probe=probe,
                update=update,
            )

            start = time.perf_counter()
            state, readings = observable.update(state, moment)
            took = time.perf_counter() - start
            useful = any(e.value == e.value for e in readings.scalars.values())
            if index == 0:
                first = took
            else:
                own.append(took)
        base = statistics.median(plain)
        own = own or [first]
        rows.append(
            {
                "observable": observable.name,
                "ms": 1e3 * statistics.median(own),
                "steps": statistics.median(own) / base,
                "first_steps": first / base,
                "step_ms": 1e3 * base,
                "refuses": not useful,
            }
        )
    return rows


def settings() -> dict[str, Setting]:
    """The models of the grid: the p59 network, and a wider MLP on random data."""
    config = grokking.Grokking()
    data = grokking.make_data(config)
    model = grokking.make_model(config)
    optimizer = grokking.make_optimizer(config, model)
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        loss = grokking.loss_of(model, grokking.draw_batch(config, data, generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    torch.manual_seed(0)
    wide = torch.nn.Sequential(
        torch.nn.Linear(784, 256), torch.nn.GELU(), torch.nn.Linear(256, 128), torch.nn.GELU(),
        torch.nn.Linear(128, 10),
    )  # fmt: skip
    wide_optimizer = torch.optim.SGD(wide.parameters(), lr=0.01)
    x, y = torch.randn(2048, 784), torch.randint(10, (2048,))

    def cross_entropy(m: Any, batch: Any) -> torch.Tensor:
        return functional.cross_entropy(m(batch[0]), batch[1])

    def wide_step() -> None:
        loss = cross_entropy(wide, (x[:256], y[:256]))
        wide_optimizer.zero_grad()
        loss.backward()
        wide_optimizer.step()

    batches = [(x[i : i + 256], y[i : i + 256]) for i in range(0, 2048, 256)]
    held = (torch.randn(1024, 784), torch.randint(10, (1024,)))

    def size(m: Any, batch: Any) -> torch.Tensor:
        return m(batch[0]).square().mean()

    losses = {"label": cross_entropy, "size": size}
    wide_probe = Probe(loss=cross_entropy, batches=batches, heldout=held, losses=losses)
    return {
        "p59 (44 k weights, batch 512)": (
            model,
            optimizer,
            step,
            grokking.make_probe(config, data),
        ),
        "MLP (235 k weights, batch 256)": (wide, wide_optimizer, wide_step, wide_probe),
    }


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result = {name: grid(setting, arguments.rounds) for name, setting in settings().items()}
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    for name, rows in result.items():
        print(f"{name}: one step {rows[0]['step_ms']:.2f} ms")
        for row in rows:
            print(
                f"  {row['observable']:<16} {row['ms']:>8.2f} ms = {row['steps']:>6.2f} steps"
                f"   (first: {row['first_steps']:.1f})"
                + ("   says that it cannot be measured here" if row["refuses"] else "")
            )


if __name__ == "__main__":
    main()
