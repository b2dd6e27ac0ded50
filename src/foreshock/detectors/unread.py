"""Which series a detector or a policy reads that nothing has logged: it waits for ever."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Protocol


class _Rule(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def reads(self) -> tuple[str, ...]: ...


def unread(rules: Iterable[_Rule], names: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Detectors or policies that wait for a series which never came.

    A rule without its series is silent, and silence looks like safety. What a rule names in
    ``optional`` it can do without.

    Args:
        rules: Detectors or policies.
        names: Series that a run has, or that came so far.

    Returns:
        Name of the rule to the series it misses; rules that miss none are left out.

    Examples:
        >>> from foreshock.detectors import KlThreshold, OverOptimisation
        >>> unread([KlThreshold(), OverOptimisation()], {"reward/kl", "reward/proxy"})
        {'over_optimisation': ('reward/gold',)}
    """
    missing = {
        d.name: tuple(n for n in d.reads if n not in names and n not in getattr(d, "optional", ()))
        for d in rules
    }
    return {name: series for name, series in missing.items() if series}
