"""`replay`: run detectors over a recorded run, as they would have run live."""

from __future__ import annotations

from collections.abc import Iterable

from foreshock.detectors import resolve
from foreshock.detectors.judge import Judge
from foreshock.detectors.record import heard_parts
from foreshock.store import Run
from foreshock.types import Alarm, Detector


def replay(run: Run, detectors: Iterable[str | Detector]) -> list[Alarm]:
    """Alarms that detectors raise on the values of a recorded run.

    The live monitor hands a step to its detectors once the step is complete; so does this, from
    the store, which keeps every bit of a value. The alarms are therefore the same. A detector that
    a policy of the run waited for was shown no flagged estimate, and is shown none here, in the
    parts of a resumed run in which it was so.

    Args:
        run: A recorded run.
        detectors: Names or objects.

    Returns:
        The alarms in order.

    Examples:
        >>> import tempfile
        >>> run = Run.create(tempfile.mkdtemp() + "/run")
        >>> for t, p in enumerate([0.2, 0.4, 0.7]):
        ...     run.append(t, {"grad/p_published": p})
        >>> run.flush()
        >>> [alarm.step for alarm in replay(run, ["p_crosses_half"])]
        [2]
        >>> run.close()
    """
    heard = heard_parts(run.events("detectors"))
    judge = Judge([resolve(d) for d in detectors], heard=heard)
    present = [name for name in run.names() if name in judge.reads]
    if not present:
        return []
    rows = run.rows(names=present)
    return [alarm for step, values in rows for alarm in judge.feed(step, values)]
