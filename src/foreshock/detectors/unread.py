"""Which series a detector reads that nothing has logged: a rule that waits for ever."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from foreshock.types import Detector


def unread(detectors: Iterable[Detector], names: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Detectors that wait for a series which never came.

    A rule without its series is silent, and silence looks like safety.

    Args:
        detectors: Rules.
        names: Series that a run has, or that came so far.

    Returns:
        Name of the rule to the series it misses; rules that miss none are left out.

    Examples:
        >>> from foreshock.detectors import KlThreshold, OverOptimisation
        >>> unread([KlThreshold(), OverOptimisation()], {"reward/kl", "reward/proxy"})
        {'over_optimisation': ('reward/gold',)}
    """
    missing = {d.name: tuple(n for n in d.reads if n not in names) for d in detectors}
    return {name: series for name, series in missing.items() if series}
