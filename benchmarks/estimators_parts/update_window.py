"""Cost of one snapshot of the update window, against one read of its ring."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from foreshock.estimators import UpdateWindow
from foreshock.estimators.update_ring import exchange, exchange_sketch, parts_of, sketch_parts
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
    """Median time of each part over the median time of reading the ring once; alternating runs."""
    view = ModelView(Blocks(PARAMETERS))
    ring = torch.randn(WIDTH, PARAMETERS)
    last = torch.randn(PARAMETERS)
    whole, layers = parts_of(view, None), parts_of(view, "layer")
    dimensions = 1 << 16
    sketch = sketch_parts(view, None, dimensions, 0)
    sketches = torch.randn(WIDTH, 1, dimensions, dtype=torch.float64)
    table = torch.eye(WIDTH + 1).numpy() + 0.1

    def sketched() -> None:
        exchange_sketch(sketches, 3, sketch, sketch_parts(view, None, dimensions, 0))

    runs: dict[str, Callable[[], object]] = {
        "read the ring once": lambda: ring.sum(),
        "one snapshot": lambda: exchange(ring, 3, last, view.parameters, whole),
        "one snapshot, by layer": lambda: exchange(ring, 3, last, view.parameters, layers),
        "one snapshot, sketch of 65536": sketched,
        "spectrum and null": lambda: window_spectrum(table[1:, 1:]),
        "turning and null": lambda: window_turn(table),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(REPEATS):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    median = {name: statistics.median(values) for name, values in times.items()}
    unit = median["read the ring once"]
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
            f"{row['what']:<50} {row['parameters']:>10} {row['ratio']:>8.2f} {row['seconds']:.4f}"
        )
