"""`Landmarks`: where a forecast of an event is asked for, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from foreshock.detectors.calibration import setup_digest
from foreshock.store import Run
from foreshock.types import Estimate, Probability

#: What a run recorded, step by step.
History = Sequence[tuple[int, Mapping[str, Estimate]]]


class Forecaster(Protocol):
    """What gives a probability online: `Hazard`, `PublishedProbability`, or yours.

    Attributes:
        event: Name of the event.
        within: Horizon, in steps.
        reads: Names of the series it reads.
    """

    @property
    def event(self) -> str: ...  # noqa: D102
    @property
    def within(self) -> int: ...  # noqa: D102
    @property
    def reads(self) -> tuple[str, ...]: ...  # noqa: D102

    def init(self) -> Any:
        """The state before the first value."""
        ...

    def take(self, state: Any, step: int, values: Mapping[str, Estimate]) -> Any:
        """The state after the values of one step."""
        ...

    def at(self, state: Any, step: int) -> Probability:
        """The probability at a step, from the values up to it."""
        ...


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Rows (run, step): the run is at risk, and whether the event comes within h is known.

    Args:
        event: Name of the event.
        within: h, in steps.
        ids: Identities of R runs.
        histories: What each of them recorded.
        run: ``(N,)`` index of the run.
        step: ``(N,)`` step t.
        outcome: ``(N,)`` whether the event came in (t, t + h].
        units: Of series by name, where the runs declared any.
        setups: `setup_digest` of the configuration of each run; empty if none is known.
        versions: Of Foreshock, Python and libraries in the first run, as text.
    """

    event: str
    within: int
    ids: tuple[str, ...]
    histories: tuple[History, ...]
    run: NDArray[np.intp]
    step: NDArray[np.int64]
    outcome: NDArray[np.bool_]
    units: Mapping[str, str] = field(default_factory=dict)
    setups: tuple[str, ...] = ()
    versions: str = ""

    def __len__(self) -> int:
        """Number of rows, N."""
        return len(self.step)

    def only(self, ids: Iterable[str]) -> Landmarks:
        """The rows of some of the runs.

        Args:
            ids: Identities of the runs to keep.

        Returns:
            Their landmarks.
        """
        asked = set(ids)
        kept = [i for i, one in enumerate(self.ids) if one in asked]
        place = np.full(len(self.ids), -1, dtype=np.intp)
        place[kept] = np.arange(len(kept))
        rows = place[self.run] >= 0
        return replace(
            self,
            ids=tuple(self.ids[i] for i in kept),
            histories=tuple(self.histories[i] for i in kept),
            run=place[self.run][rows],
            step=self.step[rows],
            outcome=self.outcome[rows],
            setups=tuple(self.setups[i] for i in kept) if self.setups else (),
        )

    def halves(self) -> tuple[Landmarks, Landmarks]:
        """Every other run with an event and every other run without, as given: two halves."""
        first, second = self.folds(2)
        return self.only(first), self.only(second)

    def folds(self, count: int) -> list[tuple[str, ...]]:
        """Runs dealt into folds, those with an event and those without one in turn.

        Args:
            count: Number of folds.

        Returns:
            The identities in each.

        Raises:
            ValueError: If there are not so many runs, or fewer than two folds.
        """
        if not 2 <= count <= len(self.ids):
            raise ValueError(
                f"The folds must be at least 2 and at most the {len(self.ids)} runs. Got {count}."
            )
        ranks = self._ranks()
        return [
            tuple(one for one, rank in zip(self.ids, ranks, strict=True) if rank % count == fold)
            for fold in range(count)
        ]

    def _ranks(self) -> list[int]:
        """Place of each run after those with an event are put before those without."""
        happened = np.zeros(len(self.ids), dtype=bool)
        happened[self.run[self.outcome]] = True
        order = np.argsort(~happened, kind="stable")
        return np.argsort(order, kind="stable").tolist()


def landmarks(
    runs: Sequence[Run],
    event: str,
    within: int,
    *,
    reads: Iterable[str] | None = None,
    every: int = 0,
    horizon: int = 0,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Landmarks:
    """Landmarks of recorded runs, whose events are the ``milestone`` of that name.

    Args:
        runs: Recorded runs.
        event: Name of the milestone, such as ``"onset"``.
        within: h, in steps.
        reads: Series to keep; all if not given.
        every: Distance of landmarks; a tenth of ``within`` if 0.
        horizon: Step at which every run was to end whatever happened; its own last step if 0.
        progress: Called with the runs read and their number.

    Returns:
        The landmarks; see `landmarks_of`.

    Raises:
        ValueError: If no run is given, one is given twice, two logged a series in different units,
            or no run has the event though some have others.

    Examples:
        >>> import tempfile
        >>> run = Run.create(tempfile.mkdtemp() + "/run")
        >>> for t in range(100):
        ...     run.append(t, {"loss": 1.0})
        >>> run.event("milestone", "user", {"name": "onset"}, step=70)
        >>> run.flush()
        >>> rows = landmarks([run], "onset", within=20, every=10)
        >>> rows.step.tolist(), rows.outcome.tolist()
        ([10, 20, 30, 40, 50, 60], [False, False, False, False, True, True])
        >>> run.close()
    """
    names = None if reads is None else set(reads)
    if not runs:
        raise ValueError("`landmarks` needs recorded runs. Got none.")
    if len({run.id for run in runs}) < len(runs):
        raise ValueError("A run is given twice; one run is one draw, however often it is read.")
    histories, events, ends = {}, {}, {}
    units: dict[str, tuple[str, Run]] = {}
    others: set[str] = set()
    for run in runs:
        kept = [name for name in run.names() if names is None or name in names]
        histories[run.id] = list(run.rows(names=kept)) if kept else []
        for name in kept:
            unit, first = units.setdefault(name, (run.describe(name).unit, run))
            if run.describe(name).unit != unit:
                raise ValueError(
                    f"The runs {first.path} and {run.path} logged {name} in the units {unit} and "
                    f"{run.describe(name).unit}. Take runs of one unit."
                )
        reached = run.events("milestone")
        others.update(str(e.payload.get("name")) for e in reached)
        found = [e.step for e in reached if e.payload.get("name") == event]
        events[run.id] = found[0] if found else None
        ends[run.id] = run.last_step
        progress(len(ends), len(runs))
    if event not in others:
        raise ValueError(
            f"None of the {len(runs)} runs has the milestone {event!r}. They have "
            f"{', '.join(sorted(others)) or 'none'}."
        )
    rows = landmarks_of(
        histories, events, ends, event=event, within=within, every=every, horizon=horizon
    )
    return replace(
        rows,
        units={name: unit for name, (unit, _) in units.items()},
        setups=tuple(setup_digest(run.info["config"]) for run in runs),
        versions=json.dumps(runs[0].info.get("versions", {}), sort_keys=True),
    )


def landmarks_of(
    histories: Mapping[str, History],
    events: Mapping[str, int | None],
    ends: Mapping[str, int],
    *,
    event: str = "event",
    within: int,
    every: int = 0,
    horizon: int = 0,
) -> Landmarks:
    """Rows at risk, every so many steps, whose outcome the end of the run does not hide.

    A row (run, t) is kept if the event has not come by t and t + h is not after the end. The end of
    a run *with* an event must be that of one without (the planned one), or its last rows would be
    kept only because the event came, or none of them would be: give ``horizon`` if runs stop at
    their event. A run that ends within h of it, and before the longest run, is refused without. A
    run without an event that broke off earlier is censored where it did; that this has nothing to
    do with the event is assumed.

    Args:
        histories: By run: steps in order, with the estimates recorded at them.
        events: By run: step of the event; ``None`` if it did not come.
        ends: By run: last step.
        event: Name of the event.
        within: h, in steps.
        every: Distance of landmarks; a tenth of ``within`` if 0.
        horizon: Planned end of every run; its own last step if 0.

    Returns:
        The landmarks.

    Raises:
        ValueError: If ``within`` is not positive, runs stop at their event and there is no
            ``horizon``, or no row is left.

    Examples:
        >>> rows = landmarks_of({"a": []}, {"a": None}, {"a": 50}, within=20, every=10)
        >>> rows.step.tolist()
        [10, 20, 30]
    """
    if within < 1 or every < 0:
        raise ValueError(
            f"`within` must be positive and `every` not negative. Got {within} and {every}."
        )
    longest = max(ends.values(), default=0)
    stopped = [
        one
        for one, came in events.items()
        if not horizon and came is not None and ends[one] - came < within and ends[one] < longest
    ]
    if stopped:
        raise ValueError(
            f"{len(stopped)} runs with the event end less than {within} steps after it and before "
            f"the longest run ({', '.join(stopped[:3])}): of them only landmarks before the event "
            "would count. If they stop at it, give the planned end of the runs as `horizon` "
            "(--horizon); if they broke off, leave them out."
        )
    spacing = every or max(1, within // 10)
    run, step, outcome = [], [], []
    for i, one in enumerate(histories):
        came = events[one]
        end = min(ends[one], horizon) if horizon and came is None else horizon or ends[one]
        last = end - within if came is None else min(end - within, came - 1)
        at = np.arange(spacing, last + 1, spacing)
        run += [i] * len(at)
        step += at.tolist()
        outcome += [came is not None and came <= t + within for t in at.tolist()]
    if not step:
        raise ValueError(
            f"No run is at risk for {within} steps before it ends. Take a smaller `within`, or "
            "give the planned end of the runs as `horizon`."
        )
    return Landmarks(
        event,
        within,
        tuple(histories),
        tuple(histories.values()),
        np.array(run, dtype=np.intp),
        np.array(step, dtype=np.int64),
        np.array(outcome, dtype=bool),
    )


def states(rows: Landmarks, forecaster: Forecaster) -> list[Any]:
    """State of a forecaster at each row, from the values at steps up to it and no later ones.

    Args:
        rows: N landmarks.
        forecaster: Anything with ``init`` and ``take``.

    Returns:
        N states.

    Examples:
        >>> from foreshock.detectors import PublishedProbability
        >>> history = [(5, {"x": Estimate(0.2)}), (15, {"x": Estimate(0.9)})]
        >>> rows = landmarks_of({"a": history}, {"a": None}, {"a": 30}, within=10, every=10)
        >>> states(rows, PublishedProbability("x", "event", 10))
        [0.2, 0.9]
    """
    found: list[Any] = []
    for i, history in enumerate(rows.histories):
        state, values = forecaster.init(), iter(history)
        ahead = next(values, None)
        for t in rows.step[rows.run == i].tolist():  # rows of a run are together and in order
            while ahead is not None and ahead[0] <= t:
                seen = {name: ahead[1][name] for name in forecaster.reads if name in ahead[1]}
                state = forecaster.take(state, ahead[0], seen) if seen else state
                ahead = next(values, None)
            found.append(state)
    return found
