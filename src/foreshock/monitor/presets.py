"""Presets of observables by cost, and what of them a run can offer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from foreshock.estimators import (
    Curvature,
    GradientNoise,
    HeldoutSignal,
    HillNorms,
    Norms,
    Ntk,
    ProbeSignal,
    RidgeSignal,
    Stability,
    StepNorm,
    UpdateWindow,
    catalogue,
    published_catalogue,
)
from foreshock.probe.spec import Probe
from foreshock.probe.view import labelled
from foreshock.types import Observable

FREE = (Norms, StepNorm, HillNorms)
STANDARD = (*FREE, GradientNoise, HeldoutSignal, Curvature)
FULL = (*STANDARD, Stability, RidgeSignal, ProbeSignal, Ntk, UpdateWindow)
#: Everything that is ours; what only restates a document is asked for by name.
RESEARCH = tuple(type(one) for one in catalogue())
PRESETS = {"free": FREE, "standard": STANDARD, "full": FULL, "research": RESEARCH}
BY_NAME = {one.name: type(one) for one in (*catalogue(), *published_catalogue())}

#: What to pass so that an observable can run, by what it needs.
REMEDY = {
    "probe": "pass probe=fs.Probe(loss=..., batches=...)",
    "heldout": "pass fs.Probe(..., heldout=(inputs, labels)) with class indices as labels",
    "train": "pass fs.Probe(..., train=(inputs, labels)) with class indices as labels",
    "inputs": "pass fs.Probe(..., train=(inputs, labels)) with a tensor of inputs",
    "losses": "pass fs.Probe(..., losses={name: loss, ...}) with at least two of them",
}


@dataclass(frozen=True)
class Choice:
    """What runs, and what was left out and why."""

    observables: tuple[Observable, ...]
    left_out: tuple[tuple[str, str], ...]


def choose(asked: str | Iterable[str | Observable], probe: Probe | None) -> Choice:
    """Resolve a preset or a list into observables that this run can feed.

    Members of a preset that lack something are left out with a sentence; what a user names
    explicitly must be possible.

    Args:
        asked: ``"free"``, ``"standard"``, ``"full"``, ``"research"``, or names and objects.
        probe: The probe, if any.

    Returns:
        The observables and what was left out.

    Raises:
        ValueError: If a name is unknown, two members write the same series, or a named member
            lacks what it needs.

    Examples:
        >>> [o.name for o in choose("free", None).observables]
        ['norms', 'step_norm', 'tails', 'gradient_noise']
    """
    offered = _offered(probe)
    preset = isinstance(asked, str)
    members: list[Observable] = []
    if isinstance(asked, str):
        if asked not in PRESETS:
            raise ValueError(
                f"The `observables` of `attach` must be one of {sorted(PRESETS)} or a list. "
                f"Got {asked!r}; for one observable write observables=[{asked!r}]."
            )
        members = [cls() for cls in PRESETS[asked]]
        if "probe" not in offered:
            # Without a probe the micro-batches of accumulation are the one source of noise.
            members = [m for m in members if m.name != "gradient_noise"]
            members.append(GradientNoise("accumulation"))
    else:
        members = [_member(one) for one in asked]
    chosen: list[Observable] = []
    left_out: list[tuple[str, str]] = []
    for member in members:
        missing = sorted((member.needs - offered) & REMEDY.keys())
        if not missing:
            chosen.append(member)
            continue
        sentence = f"needs {' and '.join(missing)}: {'; '.join(REMEDY[m] for m in missing)}"
        if not preset:
            raise ValueError(f"The observable {member.name!r} {sentence}.")
        left_out.append((member.name, sentence))
    _check_unique(chosen)
    return Choice(tuple(chosen), tuple(left_out))


def _member(one: str | Observable) -> Observable:
    if isinstance(one, str):
        if one not in BY_NAME:
            raise ValueError(f"There is no observable {one!r}. The names are {sorted(BY_NAME)}.")
        return BY_NAME[one]()
    if isinstance(one, type) or not isinstance(one, Observable):
        raise ValueError(
            "The `observables` of `attach` must be names or objects such as "
            f"`Curvature(cold_every=5)`. Got {one!r}."
        )
    return one


def _offered(probe: Probe | None) -> frozenset[str]:
    offered = {"gradients", "update", "micro", "examples"}
    if probe is not None:
        offered.add("probe")
        if probe.losses is not None and len(probe.losses) > 1:
            offered.add("losses")
        if probe.heldout is not None and _are_classes(probe.heldout[1]):
            offered.add("heldout")
        pair = labelled(probe)
        if pair is not None and _are_classes(pair[1]):
            offered.add("train")
        if pair is not None and isinstance(pair[0], Tensor):
            offered.add("inputs")
    return frozenset(offered)


def _are_classes(labels: Any) -> bool:
    """Whether labels are class indices; a regression target is none."""
    kind = labels.dtype if isinstance(labels, Tensor) else torch.as_tensor(labels).dtype
    return not kind.is_floating_point and not kind.is_complex


def _check_unique(members: list[Observable]) -> None:
    seen: dict[str, str] = {}
    for member in members:
        for info in member.series:
            if info.name in seen:
                raise ValueError(
                    f"The observables {seen[info.name]!r} and {member.name!r} both write "
                    f"{info.name!r}. Keep one of them."
                )
            seen[info.name] = member.name
