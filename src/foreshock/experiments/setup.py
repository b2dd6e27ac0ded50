"""What all experiments share: how one is described, attached to, judged and drawn.

An experiment is a module that reads top to bottom: a frozen configuration, ``run(config, path)``
with the monitor attached, the event it is about, its nulls as named variants, the numbers it is
held to, and a figure. Its ``EXPERIMENT`` says so to the command line, sweeps and docs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch

from foreshock.monitor import attach
from foreshock.probe import Probe
from foreshock.store import Run
from foreshock.types import Detector, Observable, OnAlarm

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from foreshock.monitor.watch import Watch

T = TypeVar("T")

#: What an experiment may record; ``none`` trains without a monitor's observables.
Preset = Literal["none", "free", "standard", "full", "research"]


@dataclass(frozen=True)
class Check:
    """A number an experiment is held to, beside what runs gave.

    Args:
        name: What it is.
        expected: What should be true, as a reader would say it, with its source.
        measured: What the runs gave, with how many they were.
        holds: Whether it is; ``None`` where the runs cannot say.

    Examples:
        >>> Check("grokked", "24 of 24 seeds", "24 of 24", True).holds
        True
    """

    name: str
    expected: str
    measured: str
    holds: bool | None


@dataclass(frozen=True)
class Experiment:
    """What command line, sweeps and docs know of an experiment.

    Args:
        config: Its configuration, a frozen dataclass with ``seed``; the defaults are full size.
        run: ``run(config, path, *, progress=...)`` trains, records and returns the closed run.
        label: What tells a configuration from others beside its seed; names folders.
        variants: Values of ``variant``: the phenomenon first, then its nulls and arms.
        check: From runs of any variants and seeds to the numbers it is held to.
        figure: From the same runs to the figure a paper would print.
        small: Fields of a size that shows the machinery within seconds, not the numbers.
        grid: Other fields over which a full-size sweep goes where it is not told otherwise: what
            ``check`` needs. A variant that refuses a value is left out there.
        seconds: Processor seconds of one full-size trial with the monitor as configured by default,
            by label, in a process of its own but without its start; ``foreshock bench experiments
            --time`` measures them. ``""`` is a guess for labels that are not named.
    """

    config: type
    run: Callable[..., Run]
    label: Callable[[Any], str]
    variants: tuple[str, ...]
    check: Callable[[Sequence[Run]], list[Check]]
    figure: Callable[[Sequence[Run]], Figure]
    small: Mapping[str, Any] = field(default_factory=dict)
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    def configured(self, *, small: bool = False, **fields: Any) -> Any:
        """A configuration with these fields, at full or at small size.

        Args:
            small: Whether to take the small size where a field is not named.
            fields: Fields and their values.

        Returns:
            The configuration.
        """
        return replace(self.config(), **{**(self.small if small else {}), **fields})


def one_of(config: Any, **known: Iterable[str]) -> None:
    """Refuse a configuration one of whose fields has a value that is not known.

    Args:
        config: The configuration.
        known: By field, the values it may have.

    Raises:
        ValueError: If it has another.

    Examples:
        >>> one_of(Check("grokked", "always", "never", False), name=["onset", "T90"])
        Traceback (most recent call last):
        ...
        ValueError: The `name` of `Check` must be one of ('onset', 'T90'). Got 'grokked'.
    """
    for name, values in known.items():
        got = getattr(config, name)
        if got not in (values := tuple(values)):
            raise ValueError(
                f"The `{name}` of `{type(config).__name__}` must be one of {values}. Got {got!r}."
            )


def at_least(config: Any, **least: float) -> None:
    """Refuse a configuration one of whose fields is too small, infinite or nan.

    Args:
        config: The configuration.
        least: By field, what it must be at least.

    Raises:
        ValueError: If it is not.

    Examples:
        >>> from types import SimpleNamespace
        >>> at_least(SimpleNamespace(steps=0, lr=0.1), lr=0, steps=1)
        Traceback (most recent call last):
        ...
        ValueError: The `steps` of `SimpleNamespace` must be at least 1. Got 0.
    """
    for name, low in least.items():
        got = getattr(config, name)
        if not low <= got < math.inf:
            finite = "" if math.isfinite(got) else "finite and "
            raise ValueError(
                f"The `{name}` of `{type(config).__name__}` must be {finite}at least {low}. "
                f"Got {got}."
            )


def seeded(seed: int, make: Callable[[], T]) -> T:
    """What a function makes from a seed, without moving the global generator.

    Args:
        seed: Of the numbers it draws on the processor.
        make: Makes it, such as a module with its initial weights.

    Returns:
        What it made.

    Examples:
        >>> before = torch.get_rng_state()
        >>> one, other = (seeded(3, lambda: torch.rand(2)) for _ in range(2))
        >>> bool((one == other).all()), bool((torch.get_rng_state() == before).all())
        (True, True)
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # `torch.manual_seed` moves those of GPUs too
        return make()


def watch_training(
    config: Any,
    record: Run,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    probe: Probe | None,
    *,
    observables: Iterable[str | Observable] | str | None = None,
    detectors: Iterable[str | Detector] = (),
    on_alarm: OnAlarm | None = None,
) -> Watch:
    """Attach the monitor as a configuration says.

    Args:
        config: With ``observables`` (a `Preset`), ``every`` (steps between measurements, 0 for the
            budget) and ``budget`` (share of wall time).
        record: The run, open for writing.
        model: What is trained.
        optimizer: Its optimizer.
        probe: Batches and held-out examples.
        observables: Overrides the preset of the configuration.
        detectors: Rules to run live.
        on_alarm: Called with every alarm.

    Returns:
        The watch; use it as a context manager.
    """
    asked = config.observables if observables is None else observables
    return attach(
        model,
        optimizer,
        run=record,
        probe=probe,
        observables=[] if asked == "none" else asked,
        budget=None if config.every else config.budget,
        every=config.every or None,
        detectors=detectors,
        on_alarm=on_alarm,
    )


def milestone(record: Run, name: str, rule: str, step: int | None) -> None:
    """Record that something happened, with the rule that says so; nothing if it did not.

    Args:
        record: The run, open for writing.
        name: Such as ``"onset"``.
        rule: The definition, one sentence.
        step: When, or ``None``.
    """
    if step is not None:
        record.event("milestone", record.info["kind"], {"name": name, "rule": rule}, step=step)


def conclude(record: Run, numbers: Mapping[str, float | None]) -> None:
    """Record the numbers that a finished run comes down to, once.

    Args:
        record: The run, open for writing.
        numbers: By name; ``None`` for what did not happen.
    """
    record.event("outcome", record.info["kind"], dict(numbers))


def outcome(run: Run) -> dict[str, Any]:
    """The numbers that `conclude` recorded.

    Args:
        run: A finished run.

    Returns:
        By name; empty for a run that did not finish.

    Examples:
        >>> import tempfile
        >>> with Run.create(tempfile.mkdtemp() + "/a", kind="toy") as record:
        ...     conclude(record, {"accuracy": 0.5, "T50": None})
        ...     outcome(record)
        {'accuracy': 0.5, 'T50': None}
    """
    events = run.events("outcome")
    return dict(events[-1].payload) if events else {}


def milestones_of(run: Run) -> dict[str, int]:
    """Steps of the milestones of a run, by name."""
    return {event.payload["name"]: event.step for event in run.events("milestone")}


def having(runs: Sequence[Run], **fields: Any) -> list[Run]:
    """The runs whose configuration has these values, in the order of their seeds.

    Args:
        runs: Runs of one experiment.
        fields: Field and value of the configuration.

    Returns:
        Those that agree in all.
    """
    found = [
        run
        for run in runs
        if all(run.info["config"].get(name) == value for name, value in fields.items())
    ]
    return sorted(found, key=lambda run: run.info["config"].get("seed", 0))
