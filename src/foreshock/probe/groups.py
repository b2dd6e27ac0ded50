"""Parts of a model by name: layers, blocks, attention heads, or whatever a pattern finds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from foreshock.probe.view import ModelView


@dataclass(frozen=True)
class Group:
    """A part of the weights: all parameters that a pattern finds, or one head of each.

    Args:
        name: What stands behind the ``@`` of its series; lower-case ASCII.
        pattern: Regular expression, searched for in the names of the trainable parameters.
        head: ``(i, of)``: only the i-th of ``of`` equal parts along ``dim``, counted from 0.
        dim: Dimension that the heads divide: 0 for query, key and value, 1 for the output
            projection.
        stacked: How many projections are stacked along ``dim``: 3 for a packed query-key-value
            matrix, whose heads lie within each third.

    Raises:
        ValueError: If the name is not printable lower-case ASCII, the pattern is no regular
            expression, the head does not exist, or ``dim`` or ``stacked`` is too small.

    Examples:
        >>> Group("attention", r"attn").name
        'attention'
        >>> Group("head 0", r"qkv", head=(2, 2))
        Traceback (most recent call last):
        ...
        ValueError: The `head` of `Group` must be (i, of) with 0 <= i < of. Got (2, 2).
    """

    name: str
    pattern: str
    head: tuple[int, int] | None = None
    dim: int = 0
    stacked: int = 1

    def __post_init__(self) -> None:
        name = self.name
        if not (name and name.isascii() and name.isprintable() and name == name.lower()):
            raise ValueError(
                "The `name` of `Group` must be printable lower-case ASCII, as it names series. "
                f"Got {name!r}."
            )
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(
                f"The `pattern` of `Group` {self.name!r} is no regular expression: {error}."
            ) from None
        if self.head is not None and not 0 <= self.head[0] < self.head[1]:
            raise ValueError(
                f"The `head` of `Group` must be (i, of) with 0 <= i < of. Got {self.head}."
            )
        for field, least in (("stacked", 1), ("dim", 0)):
            if getattr(self, field) < least:
                raise ValueError(
                    f"The `{field}` of `Group` must be at least {least}. "
                    f"Got {getattr(self, field)}."
                )

    def take(self, tensor: Tensor) -> Tensor:
        """This group's part of a tensor that its pattern found: a view or a copy, never written.

        Args:
            tensor: A tensor of the shape of the parameter.

        Returns:
            The part; empty where the parameter lacks the dimension.

        Raises:
            ValueError: If the heads do not divide the dimension.
        """
        if self.head is None:
            return tensor
        i, of = self.head
        if self.dim >= tensor.ndim:
            return tensor[:0]
        size = tensor.shape[self.dim]
        if size % (of * self.stacked):
            raise ValueError(
                f"The group {self.name!r} divides a dimension of {size} into {self.stacked} x {of} "
                "equal parts, which does not work out. Choose `head`, `dim` and `stacked` to match."
            )
        shape = tensor.shape
        split = tensor.reshape(
            *shape[: self.dim],
            self.stacked,
            of,
            size // (of * self.stacked),
            *shape[self.dim + 1 :],
        )
        return split.select(self.dim + 1, i)


#: How a user says which parts: nothing, by module, by numbered block, by pattern, or exactly.
Groups = None | Literal["layer", "block"] | Mapping[str, str] | Sequence[Group]
#: The same once `check_groups` has seen it: a value that can be hashed.
Checked = None | Literal["layer", "block"] | tuple[Group, ...]


def check_groups(groups: Groups, owner: str) -> Checked:
    r"""The groups as a value that can be hashed and compared; for ``__post_init__``.

    Args:
        groups: What the user passed.
        owner: Name of the observable, for the sentence.

    Returns:
        ``None``, ``"layer"``, ``"block"``, or a tuple of groups.

    Raises:
        ValueError: If it is none of these, empty, or two groups have one name.

    Examples:
        >>> check_groups({"mlp": r"\.mlp\."}, "GradientNoise")[0].name
        'mlp'
    """
    if groups is None or groups == "layer" or groups == "block":
        return groups
    if isinstance(groups, Mapping):
        groups = [Group(name, pattern) for name, pattern in groups.items()]
    if (
        isinstance(groups, str)
        or not isinstance(groups, Sequence)
        or not groups
        or not all(isinstance(g, Group) for g in groups)
    ):
        raise ValueError(
            f"The `groups` of `{owner}` must be 'layer', 'block', a dict of name to pattern, or a "
            f"list of `Group`, and not empty. Got {groups!r}."
        )
    names = [group.name for group in groups]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(
            f"The `groups` of `{owner}` must have distinct names. Got {twice!r} twice; one pattern "
            "can hold several: 'attn|mlp'."
        )
    return tuple(groups)


def resolve_groups(groups: Groups, view: ModelView) -> dict[str, list[tuple[int, Group]]]:
    """Which parameters belong to which group, as indices into ``view.parameters``.

    Args:
        groups: What an observable was given, or what `check_groups` made of it.
        view: The live weights.

    Returns:
        Group name to pairs (index, group); `Group.take` cuts the part out of a tensor of that
        parameter's shape. A group that finds nothing maps to an empty list. A tied parameter
        belongs to the first module that names it. Names of modules are made lower-case ASCII for
        their series; where that makes two of them one, the later ones get ``~2``, ``~3`` behind.

    Examples:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
        >>> found = resolve_groups("layer", ModelView(model))
        >>> {name: [i for i, _ in parts] for name, parts in found.items()}
        {'0': [0, 1], '1': [2, 3]}
    """
    checked = check_groups(groups, "resolve_groups")
    if checked is None:
        return {}
    names = view.names
    if isinstance(checked, str):
        found: dict[str, list[tuple[int, Group]]] = {}
        parts: dict[str, str] = {}
        for index, name in enumerate(names):
            owner = _owner(name, checked)
            if owner not in parts:
                plain, taken = _plain(owner), set(parts.values())
                more = (f"{plain}~{i}" for i in range(2, len(names) + 2))
                parts[owner] = next(n for n in (plain, *more) if n not in taken)
            part = parts[owner]
            whole = Group(part, re.escape(name))
            found.setdefault(part, []).append((index, whole))
        return found
    return {
        group.name: [(i, group) for i, name in enumerate(names) if re.search(group.pattern, name)]
        for group in checked
    }


def _owner(name: str, kind: str) -> str:
    """Module of a parameter, or its path up to the first number."""
    path = name.split(".")
    if kind == "block":
        number = next((i for i, word in enumerate(path) if word.isdigit()), None)
        owner = path[: number + 1] if number is not None else path[:-1]
    else:
        owner = path[:-1]
    return ".".join(owner or path)


def _plain(owner: str) -> str:
    """A module's name as part of a series' name: lower-case ASCII, other letters by number."""
    return "".join(c if c.isascii() else f"u{ord(c):04x}" for c in owner).lower()
