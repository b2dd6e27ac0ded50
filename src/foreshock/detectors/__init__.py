"""Detectors: causal rules on recorded series, one file per rule, torch-free.

Each is a frozen dataclass with ``init`` and ``update`` on values, so the monitor and
``foreshock replay`` run the same code and raise the same alarms.
"""

from __future__ import annotations

from foreshock.detectors.cusum import CUSUM as CUSUM
from foreshock.detectors.heldout_signal import HeldoutSignalRule as HeldoutSignalRule
from foreshock.detectors.judge import Judge as Judge
from foreshock.detectors.p_crosses_half import PCrossesHalf as PCrossesHalf
from foreshock.detectors.phase_transition import PhaseTransition as PhaseTransition
from foreshock.detectors.turnover import Turnover as Turnover
from foreshock.types import Detector

__all__ = [
    "BY_NAME",
    "CUSUM",
    "HeldoutSignalRule",
    "Judge",
    "PCrossesHalf",
    "PhaseTransition",
    "Turnover",
    "resolve",
]

#: What `attach(detectors=["..."])` and ``foreshock replay --detector`` understand.
BY_NAME = {
    "cusum": CUSUM,
    "heldout_signal": HeldoutSignalRule,
    "p_crosses_half": PCrossesHalf,
    "phase_transition": PhaseTransition,
    "turnover": Turnover,
}


def resolve(one: str | Detector) -> Detector:
    """A detector from its name, or the object itself.

    Args:
        one: A name in `BY_NAME`, optionally with the series it reads after a colon, or an object.

    Returns:
        The detector.

    Raises:
        ValueError: If there is no such detector.

    Examples:
        >>> resolve("cusum:val_loss").reads
        ('val_loss',)
        >>> resolve("oracle")
        Traceback (most recent call last):
        ...
        ValueError: There is no detector 'oracle'. The names are cusum, heldout_signal, \
p_crosses_half, phase_transition, turnover.
    """
    if isinstance(one, str):
        name, _, series = one.partition(":")
        if name not in BY_NAME:
            raise ValueError(
                f"There is no detector {name!r}. The names are {', '.join(sorted(BY_NAME))}."
            )
        return BY_NAME[name](series=series) if series else BY_NAME[name]()
    if isinstance(one, type) or not isinstance(one, Detector):
        raise ValueError(
            "The `detectors` of `attach` must be names or objects such as "
            f"`fs.detectors.CUSUM('loss')`. Got {one!r}."
        )
    return one
