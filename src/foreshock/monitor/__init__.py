"""Attach to a live training run: `attach` is the whole interface; torch is imported inside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foreshock.types import Action, Detector, Observable, OnAlarm, Policy, Sink

if TYPE_CHECKING:
    import torch

    from foreshock.monitor.watch import Watch
    from foreshock.probe import Probe
    from foreshock.store import Run

__all__ = ["attach"]


def attach(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    run: str | Path | Run,
    probe: Probe | None = None,
    observables: str | Iterable[str | Observable] = "standard",
    budget: float | None = None,
    every: int | Mapping[str, int] | None = None,
    detectors: Iterable[str | Detector] = (),
    policies: str | Policy | Iterable[str | Policy] = (),
    dry_run: bool = True,
    sinks: Sequence[Sink] = (),
    on_alarm: OnAlarm | None = None,
    on_pause: Callable[[Action], object] | None = None,
) -> Watch:
    """Watch a training run: measure, record, raise alarms, and leave the run bitwise as it is.

    Only ``dry_run=False`` lets ``policies`` change it. Hooks on ``optimizer.step`` do the work.
    They measure on a copy of the model's structure with private random numbers, never raise into
    the loop, and switch an observable off after it fails once. Everything that can be wrong with
    the arguments is said here, before training starts: a ``ValueError`` says what to pass instead,
    a ``StoreError`` what is wrong with the run folder.

    Args:
        model: The module being trained; compiled and data-parallel wrappers are looked through.
        optimizer: Its optimizer; anything with ``register_step_pre_hook``.
        run: Folder for a new run, or a `Run` opened for writing (``Run.open(path, "a")`` continues
            one after its last step).
        probe: Loss, batches and held-out examples for what needs more than gradients.
        observables: ``"free"``, ``"standard"``, ``"full"``, ``"research"`` (everything that is
            ours, dear ones included), or a list of names and objects.
        budget: Share of wall time that watching may take; 0.03 if ``every`` is not given either.
        every: Instead of a budget, a fixed period in steps, for all or by name: reproducible.
        detectors: Names or objects; they say which series they read.
        policies: Names or objects, or one of them; rules that want something done. They see a step
            once it is complete, and what they want is recorded with its numbers and reason.
        dry_run: Whether that is all. If False, actions are carried out as well, after the update of
            the following step: the one way in which the run is changed. Refused with several ranks.
        sinks: Where values and alarms are mirrored.
        on_alarm: Called with every `Alarm`, at the start of the step after the one that fired it.
        on_pause: Called with the action of a `Pause` policy, between two updates; training waits.

    Returns:
        The `Watch`: ``log`` values, look at its ``alarms`` and ``actions``, ``close`` it, or use it
        as a context manager.

    Examples:
        >>> import tempfile, torch, foreshock as fs
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> folder = tempfile.mkdtemp() + "/run"
        >>> with fs.attach(model, optimizer, run=folder, observables="free", every=1) as watch:
        ...     for _ in range(3):
        ...         loss = model(torch.ones(4, 3)).pow(2).mean()
        ...         optimizer.zero_grad()
        ...         loss.backward()
        ...         optimizer.step()
        ...         watch.log(loss=loss)
        >>> fs.Run.open(folder).series("loss").step.tolist()
        [0, 1, 2]
    """
    from foreshock.monitor.watch import Watch

    options: dict[str, Any] = {
        "run": run,
        "probe": probe,
        "observables": observables,
        "budget": budget,
        "every": every,
        "detectors": detectors,
        "policies": policies,
        "dry_run": dry_run,
        "sinks": sinks,
        "on_alarm": on_alarm,
        "on_pause": on_pause,
    }
    return Watch(model, optimizer, **options)
