"""Layers of a copied model: found by name, listened to, and given other tensors than their own."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

Path = tuple[Any, ...]


def find_layer(model: nn.Module, pattern: str) -> nn.Module:
    r"""The one module that a name or regular expression finds.

    An exact name wins, then a pattern that matches the whole of one name, then one that is found
    somewhere within a name; parts of a module that is found do not count beside it. Names are
    those of ``model.named_modules()``; what `torch.compile` puts around a part adds nothing.

    Args:
        model: The module whose parts are searched.
        pattern: Name, or regular expression. The empty string is the model itself.

    Returns:
        The module.

    Raises:
        ValueError: If the pattern is no regular expression, or finds no module, or several.

    Examples:
        >>> model = nn.Sequential(nn.Linear(1, 2), nn.Sequential(nn.ReLU(), nn.Linear(2, 1)))
        >>> find_layer(model, r"1\.0"), find_layer(model, "0").out_features
        (ReLU(), 2)
        >>> find_layer(model, "2")
        Traceback (most recent call last):
        ...
        ValueError: The layer '2' is not in the model. Its layers are: '0', '1', '1.0', '1.1'.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"The layer {pattern!r} is no regular expression: {error}.") from None
    # A shared module has several names. Of a compiled part the inner module comes last, and stays.
    named: dict[str, nn.Module] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        parts = [part for part in name.split(".") if part != "_orig_mod"]
        named[".".join(parts)] = module
    if pattern in named:
        return named[pattern]
    found = [name for name in named if name and expression.fullmatch(name)]
    if not found:
        hits = [name for name in named if name and expression.search(name)]
        found = [n for n in hits if not any(n.startswith(f"{other}.") for other in hits)]
    modules = {id(named[name]): named[name] for name in found}
    if len(modules) == 1:
        return next(iter(modules.values()))
    if found:
        raise ValueError(
            f"The layer {pattern!r} finds {len(found)} layers: {_listed(found)}. Name one of them."
        )
    names = [name for name in named if name]
    close = difflib.get_close_matches(pattern, names, n=5, cutoff=0.4)
    raise ValueError(
        f"The layer {pattern!r} is not in the model. Its layers are: "
        f"{_listed(close + [name for name in names if name not in close])}."
    )


def _listed(names: list[str]) -> str:
    """Names for a sentence, the first twenty of them."""
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(map(repr, names[:20])) + more


def first_tensor(tree: Any, examples: int | None) -> tuple[Path, Tensor]:
    """The first tensor of real numbers within what a layer takes or returns, and where it is.

    Args:
        tree: A tensor, or tuples, lists, mappings and dataclasses that hold one.
        examples: Length that the first axis must have; ``None`` for any.

    Returns:
        Path into the tree, for `replaced`, and the tensor.

    Raises:
        ValueError: If there is none.

    Examples:
        >>> import torch
        >>> tree = ({"loss": torch.tensor(1.0), "hidden": torch.ones(4, 3)}, None)
        >>> first_tensor(tree, 4)[0]
        (0, 'hidden')
    """
    seen = list(_tensors(tree))
    for path, tensor in seen:
        if tensor.is_floating_point() and tensor.ndim and examples in (None, len(tensor)):
            return path, tensor
    kinds = ", ".join(
        f"{tuple(t.shape)} of {str(t.dtype).removeprefix('torch.')}" for _, t in seen[:8]
    )
    wanted = "" if examples is None else f" whose first axis is that of the {examples} examples"
    raise ValueError(
        f"The layer gives no tensor of real numbers{wanted}. Got {kinds or type(tree).__name__}. "
        "Choose another layer or `side`; or pass a function as `pick` that makes (N, D) of the "
        "first tensor, as for (time, batch, features): pick=lambda h: h[-1]."
    )


def _tensors(tree: Any) -> Iterator[tuple[Path, Tensor]]:
    """Every tensor of a tree with its path, in order."""
    if isinstance(tree, Tensor):
        yield (), tree
        return
    if isinstance(tree, Mapping):
        parts = list(tree.items())
    elif isinstance(tree, (tuple, list)):
        parts = list(enumerate(tree))
    elif dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        parts = [(field.name, getattr(tree, field.name)) for field in dataclasses.fields(tree)]
    else:
        return
    for key, part in parts:
        for path, tensor in _tensors(part):
            yield (key, *path), tensor


def replaced(tree: Any, path: Path, tensor: Tensor) -> Any:
    """A copy of a tree with another tensor at a path that `first_tensor` gave.

    Args:
        tree: Left as it is.
        path: Where.
        tensor: What.

    Returns:
        The copy, of the same types.

    Examples:
        >>> replaced((1, [2, 3]), (1, 0), 7)
        (1, [7, 3])
    """
    if not path:
        return tensor
    key, *rest = path
    if isinstance(tree, Mapping):
        fresh = copy.copy(tree)
        fresh[key] = replaced(tree[key], tuple(rest), tensor)  # pyrefly: ignore
        return fresh
    if isinstance(tree, (tuple, list)):
        parts = list(tree)
        parts[key] = replaced(tree[key], tuple(rest), tensor)
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    fresh = copy.copy(tree)
    object.__setattr__(fresh, key, replaced(getattr(tree, key), tuple(rest), tensor))
    return fresh


@contextlib.contextmanager
def hooked(module: nn.Module, side: str, look: Callable[[Any], Any]) -> Iterator[None]:
    """Calls ``look`` with what a module takes or returns, at every call within.

    Args:
        module: A module of the copy, never of the live model.
        side: ``"input"`` or ``"output"``.
        look: Given ``(args, kwargs)`` or the result; what it returns takes its place unless it is
            ``None``.

    Yields:
        Nothing.

    Examples:
        >>> import torch
        >>> layer, seen = nn.Linear(2, 1), []
        >>> with hooked(layer, "output", lambda result: seen.append(result)):
        ...     _ = layer(torch.ones(3, 2))
        >>> [tuple(t.shape) for t in seen], len(layer._forward_hooks)
        ([(3, 1)], 0)
    """
    if side == "input":
        handle = module.register_forward_pre_hook(
            lambda _, args, kwargs: look((args, kwargs)), with_kwargs=True
        )
    else:
        handle = module.register_forward_hook(lambda _, args, result: look(result))
    try:
        yield
    finally:
        handle.remove()
