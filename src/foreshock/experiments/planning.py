"""What a sweep consists of: every experiment, variant, seed and setting as a trial with a name."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from foreshock.experiments.kept import settings_of
from foreshock.experiments.setup import Experiment


@dataclass(frozen=True)
class Trial:
    """One configuration of one experiment.

    Args:
        experiment: Its name on the command line.
        about: The experiment.
        config: Its configuration.
        small: Whether it was made from the small size.
    """

    experiment: str
    about: Experiment = field(repr=False)
    config: Any
    small: bool = False

    @property
    def fields(self) -> dict[str, Any]:
        """All fields of the configuration, as JSON holds them."""
        return json.loads(json.dumps(asdict(self.config)))

    @property
    def name(self) -> str:
        """Name of its folder: experiment, label, seed, and eight digits of all fields."""
        label = re.sub(r"[^\w.=+-]+", "-", self.about.label(self.config))
        text = json.dumps(self.fields, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        return "-".join(filter(None, (self.experiment, label, str(self.config.seed), digest)))

    @property
    def settings(self) -> str:
        """What it has in common with trials that differ in their seed alone."""
        return settings_of(self.experiment, self.fields)


def plan(
    experiments: Mapping[str, Experiment],
    seeds: Sequence[int] = (0,),
    variants: Sequence[str] = (),
    grid: Mapping[str, Sequence[Any]] | None = None,
    *,
    small: bool = False,
) -> list[Trial]:
    """List the trials: every experiment, variant, seed and combination of other fields, once.

    Args:
        experiments: By name.
        seeds: Seeds.
        variants: Those of them that an experiment has; all that it has if empty.
        grid: Other fields and their values; where it does not name one that the experiment itself
            has a grid of, and the size is full, that grid is taken. A variant that refuses what the
            caller or that grid says is left out, unless it is named in ``variants``.
        small: Whether to take the size that shows the machinery within seconds.

    Returns:
        The trials, seed by seed.

    Raises:
        ValueError: If an experiment has none of the variants, or not a field, or refuses a value
            in all variants or in a named one.

    Examples:
        >>> from foreshock.experiments import experiment
        >>> toys = {"grokking": experiment("grokking")}
        >>> trials = plan(toys, range(2), ["grok", "labels"], {"task": ["p23"]})
        >>> [trial.name.rpartition("-")[0] for trial in trials]
        ['grokking-p23-grok-0', 'grokking-p23-labels-0', 'grokking-p23-grok-1',
         'grokking-p23-labels-1']
    """
    grid = dict(grid or {})
    unknown = set(variants).difference(*(about.variants for about in experiments.values()))
    if unknown:
        has = "; ".join(f"{name}: {', '.join(e.variants)}" for name, e in experiments.items())
        raise ValueError(f"There is no variant {', '.join(sorted(unknown))}. There are {has}.")
    found: dict[str, Trial] = {}
    for name, about in experiments.items():
        chosen = [v for v in about.variants if v in variants] if variants else about.variants
        if not chosen:
            raise ValueError(
                f"{name} has none of the variants {', '.join(variants)}. It has "
                f"{', '.join(about.variants)}."
            )
        own = {} if small else {k: v for k, v in about.grid.items() if k not in grid}
        fields = {**grid, **own}
        refused: dict[tuple[Any, ...], ValueError] = {}
        accepted: set[tuple[Any, ...]] = set()
        for seed, variant, *values in itertools.product(seeds, chosen, *fields.values()):
            asked = (seed, variant if variants else None, *values[: len(grid)])
            others = _typed(about.config, dict(zip(fields, values, strict=True)))
            try:
                config = about.configured(small=small, variant=variant, seed=seed, **others)
            except TypeError as error:
                known = ", ".join(asdict(about.config()))
                raise ValueError(f"{name}: {error}. Its fields are {known}.") from error
            except ValueError as error:  # this variant does not have such a value; another may
                refused.setdefault(asked, error)
                continue
            accepted.add(asked)
            one = Trial(name, about, config, small)
            found.setdefault(one.name, one)
        for asked, error in refused.items():
            if asked not in accepted:
                raise error
    return list(found.values())


def left_out(
    experiments: Mapping[str, Experiment], grid: Mapping[str, Sequence[Any]], *, small: bool = False
) -> list[str]:
    """What of all variants `plan` leaves out, because they refuse a value that the caller set.

    Args:
        experiments: By name.
        grid: Other fields and their values, as for `plan`.
        small: As for `plan`.

    Returns:
        Sentences.

    Examples:
        >>> from foreshock.experiments import experiment
        >>> left_out({"grokking": experiment("grokking")}, {"task": ["p23", "parity"]})
        ['latin of grokking refuses task=parity']
    """
    told = []
    for name, about in experiments.items():
        for values in itertools.product(*grid.values()):
            fields = dict(zip(grid, values, strict=True))
            others = _typed(about.config, fields)
            for variant in about.variants:
                try:
                    about.configured(small=small, variant=variant, **others)
                except ValueError:
                    asked = ", ".join(f"{field}={value}" for field, value in fields.items())
                    told.append(f"{variant} of {name} refuses {asked}")
    return told


def _typed(config: type, values: dict[str, Any]) -> dict[str, Any]:
    """An integer for a field of real numbers is one: 1 and 1.0 are the same trial."""
    hints = typing.get_type_hints(config)
    return {
        name: float(value) if hints.get(name) is float and isinstance(value, int) else value
        for name, value in values.items()
    }
