"""Worlds with a known answer: each a configuration that simulates, measures and compares.

A world records a `Run`: series of what was measured along the way, figures, and every number
beside the exact one. ``foreshock simulate WORLD`` runs it and writes its report.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Protocol

from foreshock.simulators.worlds.decoder import DecoderWorld as DecoderWorld
from foreshock.simulators.worlds.double_well import DoubleWellWorld as DoubleWellWorld
from foreshock.simulators.worlds.k_wells import KWellsWorld as KWellsWorld
from foreshock.simulators.worlds.levy import LevyWorld as LevyWorld
from foreshock.simulators.worlds.muller_brown import MullerBrownWorld as MullerBrownWorld
from foreshock.simulators.worlds.ornstein_uhlenbeck import OrnsteinUhlenbeck as OrnsteinUhlenbeck
from foreshock.simulators.worlds.recorded import Progress as Progress
from foreshock.simulators.worlds.ring import RingWorld as RingWorld
from foreshock.store import Run


class World(Protocol):
    """A frozen dataclass of numbers that can be run."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def seed(self) -> int:
        """Seed of all noise."""
        ...

    def run(self, path: str | Path, *, progress: Progress | None = None) -> Run:
        """Simulate, measure and compare; the run is open for writing."""
        ...


#: Name on the command line, and the configuration.
WORLDS: dict[str, type[World]] = {
    "double-well": DoubleWellWorld,
    "muller-brown": MullerBrownWorld,
    "ou": OrnsteinUhlenbeck,
    "levy": LevyWorld,
    "k-wells": KWellsWorld,
    "decoder": DecoderWorld,
    "ring": RingWorld,
}

__all__ = [
    "WORLDS",
    "DecoderWorld",
    "DoubleWellWorld",
    "KWellsWorld",
    "LevyWorld",
    "MullerBrownWorld",
    "OrnsteinUhlenbeck",
    "Progress",
    "RingWorld",
    "World",
]
