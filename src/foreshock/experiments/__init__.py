"""Set-ups that make runs: each a frozen configuration and a function that reads top to bottom.

`NAMES` lists them; `experiment` loads one.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foreshock.experiments.setup import Experiment

#: Name on the command line. With underscores it is the module, and the ``kind`` of its runs.
NAMES: tuple[str, ...] = (
    "grokking",
    "random-features",
    "widths",
    "edge-of-stability",
    "catapult",
    "lottery-ticket",
    "minima",
    "induction",
    "addition",
    "superposition",
    "double-well",
    "quadratic",
    "learning-rate",
    "overoptimisation",
    "tilted-softmax",
    "task-switch",
    "architecture",
    "character-lm",
)


def experiment(name: str) -> Experiment:
    """An experiment by its name on the command line.

    Args:
        name: One of `NAMES`.

    Returns:
        Its description.

    Raises:
        ValueError: If there is none of this name.

    Examples:
        >>> experiment("grokking").variants[0]
        'grok'
    """
    if name not in NAMES:
        raise ValueError(f"There is no experiment {name!r}. The names are {', '.join(NAMES)}.")
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}").EXPERIMENT


__all__ = ["NAMES", "experiment"]
