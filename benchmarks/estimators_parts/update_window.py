"""Cost of one snapshot of the update window, against one read of a ring of W = 10 updates."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from foreshock.estimators import UpdateWindow
from foreshock.estimators.update_ring import (
    Parts,
    exchange,
    exchange_sketch,
    parts_of,
    sketch_parts,
)
from foreshock.estimators.update_window import AUTO_SKETCH
from foreshock.probe.view import ModelView
from foreshock.stats.window import window_spectrum
from foreshock.stats.window_turn import window_turn

PARAMETERS = 10**7
WIDTH = 10
REPEATS = 7


class Blocks(torch.nn.Module):
    """Weights in ten equal layers."""

    def __init__(self, parameters: int) -> None:
        super().__init__()
        each = parameters // 10
        self.layers = torch.nn.ModuleList(
            torch.nn.Linear(each, 1, bias=False, dtype=torch.float32) for _ in range(10)
        )


def rows() -> list[dict[str, Any]]:
    """Median time of each part over the median time of reading the full ring; alternating runs.

    The ring of the default is of sketches, 76 times shorter; one read of it has a row of its own.
    """
    model = Blocks(PARAMETERS)
    view = ModelView(model)
    ring = torch.randn(WIDTH, PARAMETERS)
    last = torch.randn(PARAMETERS)
    whole, layers = parts_of(view, None), parts_of(view, "layer")
    sketches = {
        len(parts.assign): torch.randn(WIDTH, len(parts.assign), AUTO_SKETCH, dtype=torch.float64)
        for parts in (whole, layers)
    }
    table = torch.eye(WIDTH + 1).numpy() + 0.1

    def sketched(parts: Parts) -> None:
        new = sketch_parts(view.parameters, parts, AUTO_SKETCH, 0)
        exchange_sketch(sketches[len(new)], 3, new.clone(), new)

    runs: dict[str, Callable[[], object]] = {
        "read the full ring once": lambda: ring.sum(),
        "read the sketched ring once": lambda: sketches[1].sum(),
        "one snapshot, default (sketch of 65536)": lambda: sketched(whole),
        "one snapshot, default, by layer": lambda: sketched(layers),
        "one snapshot, exact": lambda: exchange(ring, 3, last, view.parameters, whole),
        "one snapshot, exact, by layer": lambda: exchange(ring, 3, last, view.parameters, layers),
        "spectrum and null": lambda: window_spectrum(table[1:, 1:]),
        "turning and null": lambda: window_turn(table),
        "spectrum, turning and nulls of a sketch": lambda: (
            window_spectrum(table[1:, 1:], sketch=AUTO_SKETCH),
            window_turn(table, sketch=AUTO_SKETCH),
        ),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(REPEATS):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    median = {name: statistics.median(values) for name, values in times.items()}
    unit = median["read the full ring once"]
    family = UpdateWindow().name
    return [
        {
            "what": f"{family}: {name}",
            "parameters": PARAMETERS,
            "ratio": value / unit,
            "seconds": value,
        }
        for name, value in median.items()
    ]


if __name__ == "__main__":
    torch.set_num_threads(1)
    for row in rows():
        print(
            f"{row['what']:<60} {row['parameters']:>10} {row['ratio']:>8.2f} {row['seconds']:.4f}"
        )
