"""Commands that read runs: ``ls``, ``report``, ``replay``, ``doctor``. None of them needs torch."""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import tyro

from foreshock.cli.console import console, emit
from foreshock.store import Run, list_runs
from foreshock.store import doctor as store_doctor
from foreshock.types import Alarm

Folder = Annotated[Path, tyro.conf.Positional]
Folders = Annotated[tuple[Path, ...], tyro.conf.Positional]


def ls(root: Folder = Path("runs"), json: bool = False) -> int:
    """List the runs in a folder, newest last.

    Args:
        root: Folder of runs.
        json: Print JSON.

    Returns:
        0.
    """
    from rich.table import Table

    summaries = list_runs(root)
    if json:
        emit([asdict(summary) for summary in summaries])
        return 0
    table = Table(box=None, pad_edge=False)
    for column in ("run", "kind", "state", "last step", "series", "alarms", "created"):
        numeric = column in ("last step", "series", "alarms")
        table.add_column(column, justify="right" if numeric else "left")
    for s in summaries:
        # Below the root, so that the column stays narrow; the root itself may be a run.
        place = s.path.relative_to(root) if s.path != root else s.path
        cells = (place, s.kind, s.state, s.last_step, s.n_series, s.n_alarms, s.created)
        table.add_row(*map(str, cells))
    console().print(table if summaries else f"There is no run in {root}.")
    return 0


def report(runs: Folders, out: Path | None = None, json: bool = False) -> int:
    """Write the offline HTML report of a run, or of a run and its null twin.

    Args:
        runs: One run folder, or a run and its twin.
        out: File to write; report.html in the first run's folder if not given.
        json: Print JSON.

    Returns:
        0.

    Raises:
        ValueError: If no run is named.
    """
    from foreshock.report import write_report

    if not runs:
        raise ValueError("`foreshock report` needs a run folder. `foreshock ls` shows them.")
    path = write_report(list(runs), out or runs[0] / "report.html")
    if json:
        emit({"report": str(path), "bytes": path.stat().st_size})
    else:
        console().print(f"Wrote {path} ({path.stat().st_size / 1e6:.1f} MB).", soft_wrap=True)
    return 0


def replay(
    run: Folder,
    detector: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    policy: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    dry_run: bool = True,
    json: bool = False,
) -> int:
    """Run detectors over a recorded run, causally, as they would have run live; or policies.

    Args:
        run: Run folder.
        detector: Name, optionally with a series (``cusum:loss``); may be repeated. Without it, the
            detectors that were attached are run again and their alarms compared with the recorded
            ones.
        policy: Name with the detector it hears (``weight_reset:turnover``); may be repeated. What
            it would have done is printed instead of alarms, on the alarms of the named detectors,
            or else on the recorded ones. Without it and without ``detector``, the policies that
            were attached are asked again and their actions compared with the recorded ones.
        dry_run: A replay is always one.
        json: Print JSON.

    Returns:
        1 if the recorded alarms or actions differ from the replayed ones, or the run lacks a series
        without which a named detector or policy is blind, else 0.

    Raises:
        ValueError: If no detector is named and none was attached, or actions are to be carried out,
            or a policy waits for a detector that is neither named nor on record.
    """
    if not dry_run:
        raise ValueError("A recorded run cannot be changed: `foreshock replay` is a dry run.")
    if policy:
        return _replay_policies(run, policy, detector, json)
    from foreshock.detectors import caveats, resolve, unread
    from foreshock.detectors.record import recorded_alarms, recorded_detectors
    from foreshock.evaluation import replay as run_replay
    from foreshock.evaluation.actions import check_actions

    with Run.open(run) as recorded:
        named = [resolve(one) for one in detector]
        chosen = named or recorded_detectors(recorded.events("detectors"))
        actions = None if detector else check_actions(recorded)
        if not chosen and actions is None:
            raise ValueError(
                f"No detector was attached to {run}. Name one: foreshock replay {run} "
                "--detector heldout_signal"
            )
        alarms = run_replay(recorded, chosen)
        before = recorded_alarms(recorded.events("alarm"))
        missing, told = unread(chosen, recorded.names()), caveats(recorded, chosen, alarms)
    # Rules of other packages cannot be built again, and rules of an earlier part of a resumed run
    # are not asked: their alarms are named, not compared.
    names = {d.name for d in chosen}
    foreign = sorted({a.detector for a in before} - names) if not detector else []
    compared = [a for a in before if a.detector in names]
    same = None if detector else _in_order(alarms) == _in_order(compared)
    if json:
        emit(
            {
                "run": str(run),
                "alarms": [asdict(a) for a in alarms],
                "identical": same,
                "not_compared": foreign,
                "actions": None if actions is None else asdict(actions),
                "unread": sorted({series for names in missing.values() for series in names}),
                "caveats": told,
            }
        )
    else:
        _print_alarms(alarms, same)
        if foreign:
            console().print(f"Not compared: {', '.join(foreign)}.")
        if actions is not None:
            console().print(actions.text, soft_wrap=True)
        _print_blind(missing, run)
        for sentence in told:
            console().print(sentence, soft_wrap=True)
    differs = same is False or (actions is not None and not actions.identical)
    return 1 if differs or (named and missing) else 0


def _replay_policies(run: Path, policy: Sequence[str], detector: Sequence[str], json: bool) -> int:
    from foreshock.detectors import caveats, unread
    from foreshock.detectors import resolve as resolve_detector
    from foreshock.evaluation import replay as run_replay
    from foreshock.evaluation import replay_actions
    from foreshock.policies import Council, resolve

    council, named = Council(map(resolve, policy)), [resolve_detector(one) for one in detector]
    with Run.open(run) as recorded:
        told = [one for e in recorded.events("detectors") for one in e.payload["detectors"]]
        known = {d.name for d in named} if named else {one["name"] for one in told}
        known |= set() if named else {e.source for e in recorded.events("alarm")}
        for name, one in council.hears.items():
            if one not in known:
                raise ValueError(
                    f"The policy {name!r} waits for alarms of {one!r}. {run} knows "
                    f"{', '.join(sorted(known)) or 'none'}; name another with --detector."
                )
        actions = replay_actions(recorded, council.policies, named or None)
        missing = unread([*council.policies, *named], recorded.names())
        said = caveats(recorded, named, run_replay(recorded, named)) if named else []
    code = 1 if missing else 0
    if json:
        blind = sorted({series for names in missing.values() for series in names})
        acted = [asdict(a) for a in actions]
        emit({"run": str(run), "actions": acted, "unread": blind, "caveats": said})
        return code
    out = console()
    _print_blind(missing, run)
    for action in actions:
        what = f"{action.policy}, {action.kind}: {action.reason}"
        out.print(f"step {action.step:>7,}  {what}", soft_wrap=True)
    out.print(f"{len(actions)} action{'' if len(actions) == 1 else 's'}, none carried out.")
    for sentence in said:
        out.print(sentence, soft_wrap=True)
    return code


def _print_blind(missing: Mapping[str, Sequence[str]], run: Path) -> None:
    for name, series in missing.items():
        sentence = f"{name} is blind: {run} has no {', '.join(series)}."
        console().print(sentence, soft_wrap=True)


def _in_order(alarms: Sequence[Alarm]) -> list[Alarm]:
    """By step and rule: a resumed run may have written them in another order."""
    return sorted(alarms, key=lambda a: (a.step, a.detector))


def _print_alarms(alarms: Sequence[Alarm], same: bool | None) -> None:
    out = console()
    for alarm in alarms:
        out.print(f"step {alarm.step:>7,}  {alarm.detector}: {alarm.reason}", soft_wrap=True)
    count = f"{len(alarms)} alarm{'' if len(alarms) == 1 else 's'}"
    verdict = {True: ", identical to the recorded ones", False: ", NOT the recorded ones", None: ""}
    out.print(f"{count}{verdict[same]}.")


def doctor(root: Folder = Path("runs"), json: bool = False) -> int:
    """Check whether runs can be written, read and measured here.

    Args:
        root: Where runs would be written.
        json: Print JSON.

    Returns:
        1 if a check failed, else 0.
    """
    checks = [asdict(check) for check in store_doctor(root)]
    checks.append({"name": "python", "ok": True, "detail": f"{platform.python_version()}"})
    torch = importlib.util.find_spec("torch") is not None
    detail = "installed" if torch else "missing: runs can be read, but not recorded"
    checks.append({"name": "torch", "ok": torch, "detail": detail})
    if json:
        emit(checks)
    else:
        for check in checks:
            console().print(
                f"{'ok  ' if check['ok'] else 'FAIL'} {check['name']}: {check['detail']}"
            )
    return 0 if all(check["ok"] for check in checks) else 1
