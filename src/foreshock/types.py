"""The nouns every part of Foreshock speaks: small frozen values without behaviour of their own.

Nothing here imports numpy or torch, so a run copied to a laptop can be read anywhere.
A new feature that needs a new noun adds it here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntFlag, StrEnum
from typing import Any, Protocol, runtime_checkable

NAN = math.nan


class Flag(IntFlag):
    """Why a number deserves less trust than its digits suggest. A set, stored as bits."""

    NONE = 0
    #: The interval of the signal contains 0, or nothing could be computed (then ``value`` is nan).
    UNRESOLVED = 1
    #: An iterative method stopped before its residual was small enough.
    NOT_CONVERGED = 2
    #: The number is below what the arithmetic that made it can resolve.
    BELOW_PRECISION = 4
    #: A spectral gap lies inside the band that pure noise produces.
    NO_EDGE = 8
    #: A density estimate failed its own validity record.
    INVALID_DENSITY = 16
    #: Examples share statistics (BatchNorm in train mode): there is no per-example gradient.
    COUPLED_EXAMPLES = 32
    #: The quantity drifted inside the block of steps it was averaged over.
    NONSTATIONARY = 64
    #: The diffusion differs between particles where one for all is taken.
    VARYING_DIFFUSION = 128

    @property
    def names(self) -> tuple[str, ...]:
        """Lower-case names of the flags that are set.

        Examples:
            >>> (Flag.UNRESOLVED | Flag.NO_EDGE).names
            ('unresolved', 'no_edge')
        """
        return tuple(flag.name.lower() for flag in Flag if flag & self and flag.name is not None)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its uncertainty: 95 % interval, sample size, flags, and its null.

    The interval may be lopsided or unbounded. ``nan`` stands only where nothing can be computed,
    and then a flag and a sentence say why; it is never replaced by 0 and never clipped.
    An interval of ``(nan, nan)`` means that no uncertainty is claimed (a number the user logged);
    ``low == value == high`` means that the number is exact up to rounding (a norm).

    Args:
        value: The estimate, in the unit its series declares.
        low: Lower end of the 95 % interval.
        high: Upper end of the 95 % interval.
        n: How many independent samples the number rests on.
        flags: What limits the trust in it.
        reason: A sentence, required when a flag is set.
        null: What the quantity reads when nothing happens: a band ``(low, high)``, or ``None``
            where no numerical null exists.

    Raises:
        ValueError: If a flag is set without a sentence, or ``value`` is nan without a flag.

    Examples:
        >>> snr = Estimate(0.31, 0.12, 0.50, n=20, null=(-0.05, 0.05))
        >>> snr.resolved
        True
        >>> Estimate.missing("The gradient is None.").flags.names
        ('unresolved',)
    """

    value: float
    low: float = NAN
    high: float = NAN
    n: int = 0
    flags: Flag = Flag.NONE
    reason: str = ""
    null: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.flags and not self.reason:
            raise ValueError(
                f"A flagged `Estimate` must say why. Got flags {self.flags.names} and no `reason`."
            )
        if math.isnan(self.value) and not self.flags:
            raise ValueError("A nan `Estimate` must be flagged; use `Estimate.missing(reason)`.")

    @property
    def resolved(self) -> bool:
        """Whether the number can be read at face value: finite and not flagged ``unresolved``."""
        return math.isfinite(self.value) and not self.flags & Flag.UNRESOLVED

    def times(self, factor: float) -> Estimate:
        """The estimate of a multiple: interval and null go with it, turned round by a minus.

        Args:
            factor: A number without sampling error.

        Returns:
            The product, with the ``n``, the flags and the sentence of the estimate; 0 times an
            unbounded end is 0. A number that would be nan without a flag, as with a nan for a
            factor, is refused (ValueError).

        Examples:
            >>> loss = Estimate(2.0, 1.0, 4.0, n=20).times(-0.5)
            >>> loss.value, loss.low, loss.high, loss.n
            (-1.0, -2.0, -0.5, 20)
        """

        def end(bound: float) -> float:
            return 0.0 if factor == 0 and math.isinf(bound) else factor * bound

        def scaled(low: float, high: float) -> tuple[float, float]:
            return (end(high), end(low)) if factor < 0 else (end(low), end(high))

        low, high = scaled(self.low, self.high)
        null = None if self.null is None else scaled(*self.null)
        return replace(self, value=factor * self.value, low=low, high=high, null=null)

    @classmethod
    def exact(cls, value: float, *, n: int = 1) -> Estimate:
        """A number without sampling error, such as the norm of this very gradient.

        A value that is not finite is kept as it is and flagged.

        Args:
            value: The number.
            n: How many samples it describes, all of them.

        Returns:
            The estimate.
        """
        if not math.isfinite(value):
            return cls(value, n=n, flags=Flag.UNRESOLVED, reason=f"The quantity itself is {value}.")
        return cls(value, value, value, n=n)

    @classmethod
    def plain(cls, value: float) -> Estimate:
        """A number for which nobody claims an uncertainty: logged by the user, or as published.

        A value that is not finite is kept as it is and flagged.

        Args:
            value: The number.

        Returns:
            The estimate, with an interval of ``(nan, nan)``.
        """
        return cls(value) if math.isfinite(value) else cls.exact(value)

    @classmethod
    def missing(cls, reason: str, *, flags: Flag = Flag.UNRESOLVED, n: int = 0) -> Estimate:
        """Nothing can be computed, and the sentence that says why."""
        return cls(NAN, n=n, flags=flags, reason=reason)


@dataclass(frozen=True, slots=True)
class Forecast:
    """When an announced event is expected, as a 95 % interval of steps.

    Args:
        event: Name of the event, such as ``"onset"``.
        step: Median forecast.
        low: Earliest step of the 95 % prediction interval.
        high: Latest step of the 95 % prediction interval.
        basis: What the forecast rests on, in a sentence that names its status.
    """

    event: str
    step: float
    low: float
    high: float
    basis: str


@dataclass(frozen=True, slots=True)
class Probability:
    """How probable an event is within a number of steps, given that it has not happened yet.

    Args:
        event: Name of the event, such as ``"onset"``.
        within: Steps from now, h: the event counts if it comes in (t, t + h].
        value: The probability; nan if the forecaster cannot say, and then ``basis`` says why.
        low: Lower end of the 95 % interval of the probability; nan if none is claimed.
        high: Upper end.
        basis: What it rests on, in a sentence.
    """

    event: str
    within: int
    value: float
    low: float = NAN
    high: float = NAN
    basis: str = ""


@dataclass(frozen=True, slots=True)
class Alarm:
    """A detector fired: when, on what, and the numbers that caused it.

    Args:
        step: Optimizer step of the value that fired it.
        detector: Name of the detector.
        series: Series the value belongs to.
        value: The value that fired it.
        threshold: What it was compared with.
        reason: A sentence for a person.
        forecast: What the detector expects next, if it says so.
        label: The regime that the run is in from this step on, of a rule that names regimes.
    """

    step: int
    detector: str
    series: str
    value: float
    threshold: float
    reason: str
    forecast: Forecast | None = None
    label: str = ""


@dataclass(frozen=True, slots=True)
class Action:
    """What a policy wants done, or did: only ``policies.apply`` carries it out.

    Args:
        step: Optimizer step.
        policy: Name of the policy.
        kind: What to do, such as ``"reset_weights"``.
        arguments: The numbers of the action and of what caused it; a layer is named.
        reason: A sentence for a person.
        applied: Whether it was carried out: never under ``dry_run``, and not if it failed.
    """

    step: int
    policy: str
    kind: str
    arguments: Mapping[str, float | str]
    reason: str
    applied: bool = False


class Verdict(StrEnum):
    """What a pre-registered test concluded about a claim."""

    SUPPORTED = "supported"
    PARTLY = "partly"
    NO_BETTER = "no better than baseline"
    REFUTED = "refuted"
    ILL_POSED = "ill-posed"
    FALSE = "false as mathematics"
    UNTESTABLE = "untestable here"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class SeriesInfo:
    """A series that an observable promises.

    Args:
        name: ``family/quantity[@layer]``, lower case ASCII.
        title: A few words for a chart.
        unit: Unit, with ``1`` for a pure number.
        null: What it reads when nothing happens, in a few words.
        array: Whether a record is an array (a spectrum) instead of an estimate.
        layered: Whether parts of the model may be written beside it, as ``name@part``.
        formula: What is computed, in a line; letters as in the docstring of the observable.
        oracle: What the number is tested against.
        source: The paper or document the quantity comes from.
    """

    name: str
    title: str
    unit: str = "1"
    null: str = ""
    array: bool = False
    layered: bool = False
    formula: str = ""
    oracle: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Readings:
    """What one measurement of one observable produced.

    Args:
        scalars: Series name to estimate.
        arrays: Series name to a numpy array (spectra); may be empty.
    """

    scalars: Mapping[str, Estimate]
    arrays: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Observable(Protocol):
    """A quantity measured on a live run: a pure state machine over moments of training.

    ``init`` gives the state, ``update`` maps a state and a moment to a new state and the readings.
    State is a value: an observable never keeps anything in itself, so one object serves many runs.

    Attributes:
        name: Family name, such as ``"curvature"``; unique within a run.
        series: What every measurement writes, value or flag.
        needs: What of the run it uses: any of ``gradients``, ``update``, ``micro``, ``examples``
            (norms of per-example gradients), ``ranks`` (all ranks at once), ``probe``, and of the
            probe ``batch`` (one, always the same), ``heldout``, ``train``, ``inputs``.
        price: A guess of its first cost in training steps, before anything is measured.
        stride: Fixed distance between its measurements, in steps; 0 if any spacing will do.
    """

    @property
    def name(self) -> str: ...
    @property
    def series(self) -> tuple[SeriesInfo, ...]: ...
    @property
    def needs(self) -> frozenset[str]: ...
    @property
    def price(self) -> float: ...
    @property
    def stride(self) -> int: ...

    def init(self) -> Any:
        """The state before the first measurement."""
        ...

    def update(self, state: Any, moment: Any) -> tuple[Any, Readings]:
        """One measurement: the next state and what was read."""
        ...


@runtime_checkable
class Detector(Protocol):
    """A causal rule on recorded series: ``init`` and ``update`` on values.

    ``update`` receives every step at which at least one series it reads has a value, in order, so
    running it live and replaying the recorded run give the same alarms.

    Attributes:
        name: Unique within a run.
        reads: Names of the series it reads.
    """

    @property
    def name(self) -> str: ...
    @property
    def reads(self) -> tuple[str, ...]: ...

    def init(self) -> Any:
        """The state before the first value."""
        ...

    def update(
        self, state: Any, step: int, values: Mapping[str, Estimate]
    ) -> tuple[Any, Alarm | None]:
        """The next state, and an alarm if this step fires one."""
        ...


@runtime_checkable
class Policy(Protocol):
    """A pure rule from recorded values and alarms to actions; never touches the run itself."""

    @property
    def name(self) -> str: ...
    @property
    def reads(self) -> tuple[str, ...]: ...

    def init(self) -> Any:
        """The state before the first value."""
        ...

    def update(
        self, state: Any, step: int, values: Mapping[str, Estimate], alarms: Sequence[Alarm]
    ) -> tuple[Any, Sequence[Action]]:
        """The next state, and the actions wanted at this step."""
        ...


@runtime_checkable
class Sink(Protocol):
    """Where scalars and alarms are mirrored: a tracker's writer behind two methods."""

    def write(self, step: int, values: Mapping[str, Estimate]) -> None:
        """Mirror the values of one step."""
        ...

    def alarm(self, alarm: Alarm) -> None:
        """Mirror one alarm."""
        ...


OnAlarm = Callable[[Alarm], object]
