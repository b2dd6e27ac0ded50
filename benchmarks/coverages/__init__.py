"""How often each 95 % interval holds the truth, family by family.

A module here has ``cells(cases, seed) -> list[Cell]``; ``foreshock bench coverage`` finds it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """Coverage of one interval in one simulated setting.

    Args:
        series: Name of the series, or of the function.
        setting: What was simulated, in a few words.
        cases: Simulated cases.
        coverage: Share of intervals that held the truth.
        low: Least coverage that is asked for.
        high: Largest coverage that is asked for; 1 where conservative is fine.
        why: Why ``low`` and ``high`` are not .92 and .98, where they are not.
    """

    series: str
    setting: str
    cases: int
    coverage: float
    low: float = 0.92
    high: float = 0.98
    why: str = ""

    @property
    def holds(self) -> bool:
        """Whether the coverage lies where it is asked to."""
        return self.low <= self.coverage <= self.high
