"""Checks at the door, and what is said about where a number was taken."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from foreshock.detectors.judge import Judge
from foreshock.estimators.latent_flow import LatentFlow
from foreshock.estimators.latent_particles import rehearse
from foreshock.estimators.published_fokker_planck import PublishedFokkerPlanck
from foreshock.policies import Council, resolve
from foreshock.probe.groups import resolve_groups
from foreshock.probe.spec import Probe
from foreshock.probe.view import ModelView, batch_size
from foreshock.types import Detector, Observable, Policy, Sink


def check_schedule(budget: float | None, every: object) -> None:
    """Refuse contradictory schedules."""
    if budget is not None and every is not None:
        raise ValueError(
            "`attach` takes either `budget` (a share of wall time) or `every` (a fixed period in "
            "steps), not both."
        )


def check_ranks(observables: Sequence[Observable], every: object) -> None:
    """Refuse what all ranks do together where each has a schedule of its own."""
    for observable in observables:
        if "ranks" in observable.needs and not isinstance(every, (int, Mapping)):
            raise ValueError(
                f"The observable {observable.name!r} with source='ranks' waits for all ranks, so "
                "they must measure at the same steps: pass a fixed every=..., on every rank."
            )


def check_optimizer(view: ModelView, optimizer: Any) -> None:
    """Refuse what has no step hooks, or trains another model."""
    if not hasattr(optimizer, "register_step_pre_hook") or not hasattr(optimizer, "param_groups"):
        raise ValueError(
            "The `optimizer` must be a torch.optim.Optimizer with step hooks. "
            f"Got {type(optimizer).__name__}; pass the optimizer that it wraps."
        )
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not trained & {id(p) for p in view.live_parameters}:
        raise ValueError(
            "The `optimizer` trains none of the parameters of the `model`. Pass the optimizer that "
            "was built from model.parameters(), and the model as it is after moving it."
        )


def check_names(rules: list[Detector]) -> list[Detector]:
    """Refuse two detectors of one name before a run folder exists."""
    Judge(rules)
    return rules


def check_policies(
    policies: str | Policy | Iterable[str | Policy], rules: Sequence[Detector], dry_run: bool
) -> list[Policy]:
    """Refuse policies of one name, alarms that nobody raises, and actions that would split ranks.

    Args:
        policies: Names or objects, or one of them.
        rules: The detectors of the run.
        dry_run: Whether actions are only recorded.

    Returns:
        The policies.

    Raises:
        ValueError: If one of these is so.
    """
    given = policies if isinstance(policies, Iterable) else [policies]
    given = [policies] if isinstance(policies, str) else given
    council = Council([resolve(policy) for policy in given])
    chosen = council.policies
    names = [rule.name for rule in rules]
    for policy, detector in council.hears.items():
        if detector not in names:
            raise ValueError(
                f"The policy {policy!r} waits for alarms of {detector!r}, which is not "
                f"among the `detectors` of `attach`. They are {', '.join(names) or 'none'}."
            )
    if not dry_run and not chosen:
        raise ValueError("`dry_run=False` has nothing to carry out. Pass `policies` as well.")
    if not dry_run and several_ranks():
        raise ValueError(
            "`dry_run=False` is refused where several ranks train one model: each would decide on "
            "numbers of its own, and their weights would part. Leave it True and act together."
        )
    return chosen


def several_ranks() -> bool:
    """Whether several processes train together now."""
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    return several and torch.distributed.get_world_size() > 1


def check_listeners(sinks: Sequence[Any], on_alarm: Any) -> None:
    """Refuse what cannot be called later, when it would be too late to say so."""
    for sink in sinks:
        if isinstance(sink, type) or not isinstance(sink, Sink):
            raise ValueError(f"The `sinks` of `attach` need write and alarm. Got {sink!r}.")
    if on_alarm is not None and not callable(on_alarm):
        raise ValueError(f"The `on_alarm` of `attach` must be a function. Got {on_alarm!r}.")


def gradients(view: ModelView, optimizer: Any) -> tuple[Tensor | None, ...]:
    """Gradients as the optimizer will use them; all ``None`` on a step that a scaler will skip.

    A fused optimizer under a gradient scaler holds gradients still multiplied by the scale.

    Args:
        view: The live weights.
        optimizer: The optimizer, about to step.

    Returns:
        One a trainable parameter, detached; sparse ones dense.
    """
    found_inf, scale = getattr(optimizer, "found_inf", None), getattr(optimizer, "grad_scale", None)
    taken: list[Tensor | None] = []
    for parameter in view.live_parameters:
        gradient = parameter.grad
        if gradient is not None:
            gradient = gradient.detach()
            if gradient.is_sparse:
                gradient = gradient.coalesce().to_dense()
            if scale is not None:
                gradient = gradient / scale
        taken.append(gradient)
    if found_inf is not None and bool(found_inf):
        return tuple(None for _ in taken)
    return tuple(taken)


def check_parts(observables: Sequence[Observable], view: ModelView) -> None:
    """Refuse heads that do not divide what their pattern finds, before anything is measured."""
    for observable in observables:
        for parts in resolve_groups(getattr(observable, "groups", None), view).values():
            for index, group in parts:
                group.take(view.parameters[index])


def check_latents(observables: Sequence[Observable], view: ModelView, probe: Probe | None) -> None:
    """Refuse a layer that is not there, before anything is measured."""
    for observable in observables:
        if probe is not None and isinstance(observable, (LatentFlow, PublishedFokkerPlanck)):
            rehearse(view, probe, observable)


def taken_at(observable: Observable, probe: Probe | None, view: ModelView) -> str:
    """Where the numbers of an observable come from, for the record."""
    kind = str(view.dtype).removeprefix("torch.")
    needs = observable.needs
    if "update" in needs:
        return f"after the update, weights {kind}"
    if "examples" in needs:
        return f"each example of the step's own backward passes, before the update, {kind}"
    if "ranks" in needs:
        return f"each rank's own gradient of the step, before the average over ranks, {kind}"
    if "micro" in needs:
        return f"each backward pass of the step, scaled to the gradient the optimizer uses, {kind}"
    if "probe" not in needs or probe is None:
        source = "gradient accumulated and clipped, " if "gradients" in needs else "weights, "
        return f"before the update, {source}{kind}"
    if "heldout" in needs:
        return f"before the update, evaluation mode, held-out and training examples, {kind}"
    if "batch" in needs:
        size = batch_size(view.draw(probe, 0)[0]) or "?"
        return f"before the update, evaluation mode, always the same one batch of {size}, {kind}"
    if needs & {"train", "inputs"}:
        return f"before the update, evaluation mode, always the same training examples, {kind}"
    if callable(probe.batches):
        drawn = "batches drawn afresh"
    else:
        drawn = f"{len(probe.batches)} fixed batches of {batch_size(probe.batches[0]) or '?'}"
    return f"before the update, evaluation mode, {drawn} ({probe.sampling}), {kind}"


def describe(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    observables: Iterable[Observable],
    budget: float | None,
    every: object,
) -> dict[str, Any]:
    """Configuration written into a run that the user did not create."""
    group = optimizer.param_groups[0]
    settings = {k: v for k, v in group.items() if isinstance(v, (int, float, str, bool, tuple))}
    return {
        "model": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "optimizer": type(optimizer).__name__,
        "settings": settings,
        "observables": sorted(observable.name for observable in observables),
        "budget": budget,
        "every": dict(every) if isinstance(every, Mapping) else every,
    }
