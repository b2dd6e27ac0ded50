"""What policies did to the run, or would have done."""

from __future__ import annotations

from collections.abc import Sequence

from foreshock.report.data import RunData
from foreshock.report.markup import Html, number, tag
from foreshock.report.sections import section, table
from foreshock.types import Action

#: A policy that acts at every step must not make the page; the rest is counted.
MAX_ACTIONS = 100


def actions(runs: Sequence[RunData]) -> Html | None:
    """Every action with its numbers, its reason, and whether it was carried out.

    Args:
        runs: The run, and its twin if there is one.

    Returns:
        A section, or ``None`` where no policy wanted anything.
    """
    if not any(run.actions for run in runs):
        return None
    columns = ("policy", "step", "action", "arguments", "carried out", "why")
    bodies = []
    for run in runs:
        rows = [_row(action) for action in run.actions[:MAX_ACTIONS]]
        if len(runs) > 1:
            head = f"{run.label}: {_counts(run.actions)}"
            span = tag("th", head, colspan=len(columns), scope="rowgroup", class_="group")
            rows.insert(0, tag("tr", span))
        if len(run.actions) > MAX_ACTIONS:
            more = f"{len(run.actions) - MAX_ACTIONS:,} later actions are in the run, not shown."
            rows.append(tag("tr", tag("td", more, colspan=len(columns))))
        if rows:
            bodies.append(tag("tbody", rows))
    said = (
        "What was not carried out is only recorded and changed nothing: a dry run, or an action "
        "that failed, and then the reason is why."
    )
    lead = said if len(runs) > 1 else f"{_counts(runs[0].actions)}. {said}"
    listed = table("Actions", columns, bodies, "action-table")
    return section("actions", "Actions", listed, lead=lead)


def _counts(found: Sequence[Action]) -> str:
    applied = sum(action.applied for action in found)
    total = f"{len(found):,} action{'' if len(found) == 1 else 's'}"
    return f"{total}, {applied:,} carried out" if found else "no action"


def _row(action: Action) -> Html:
    given = ", ".join(
        f"{name} = {value if isinstance(value, str) else number(value)}"
        for name, value in action.arguments.items()
    )
    return tag(
        "tr",
        tag("th", tag("code", action.policy), scope="row"),
        tag("td", f"{action.step:,}", data_label="step", class_="number"),
        tag("td", tag("code", action.kind), data_label="action"),
        tag("td", given or "none", data_label="arguments"),
        tag("td", "yes" if action.applied else "no", data_label="carried out"),
        tag("td", action.reason, data_label="why"),
        data_policy=action.policy,
        data_step=action.step,
        data_applied="true" if action.applied else "false",
    )
