"""Where the examples of a tensor are: followed from the model's input, operation by operation.

A length says nothing: a sequence may be as long as the batch, and a table of constants too. So the
examples are marked in dimension 0 of what the model is given, and each operation of a fixed list
says where they are afterwards. What is not on the list, or moves or mixes examples, loses them.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from foreshock.estimators import per_example_operands as ops
from foreshock.estimators.per_example_places import (
    CONSTANT,
    CONSTANTS,
    LOST,
    MERGED,
    MIXING,
    PLACES,
    Place,
    nowhere,
)


class Marks:
    """Which tensors carry examples, and where. Holds none of them alive.

    Args:
        n: How many examples.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self._table: dict[int, tuple[weakref.ref[Tensor], int, str]] = {}

    def put(self, tensor: Tensor, mark: int, why: str = "") -> None:
        """Remember where a tensor has its examples, or which operation lost them."""
        self._table[id(tensor)] = (weakref.ref(tensor), mark, why)

    def of(self, tensor: Tensor) -> int:
        """Where the examples of a tensor are, as a mark."""
        # One that nobody has seen and that has a graph came from code that cannot be listened to,
        # so its examples are lost. Without a graph it is a constant to all parameters.
        entry = self._table.get(id(tensor))
        if entry is not None and entry[0]() is tensor:
            return entry[1]
        return LOST if tensor.requires_grad else CONSTANT

    def carries(self, tensor: Tensor) -> bool:
        """Whether a tensor is made of examples in a way that matters to gradients."""
        mark = self.of(tensor)
        return mark != CONSTANT and (mark != LOST or tensor.requires_grad)

    def why(self, tensor: Tensor) -> str:
        """The operation that lost the examples, if one did."""
        entry = self._table.get(id(tensor))
        return entry[2] if entry is not None and entry[0]() is tensor else ""

    def start(self, given: Any) -> None:
        """Mark the tensors of dimension 0 as long as the batch among what the model is given."""
        if isinstance(given, Tensor):
            if given.dim() and len(given) == self.n:
                self.put(given, 0)
        elif isinstance(given, dict) or hasattr(given, "values") and hasattr(given, "keys"):
            self.start(list(given.values()))
        elif isinstance(given, (tuple, list)):
            for one in given:
                self.start(one)

    def follow(self, call: Any, read: Sequence[Tensor], made: Sequence[Tensor]) -> str:
        """Mark what an operation made.

        Args:
            call: The operation.
            read: The tensors it read.
            made: The tensors it made.

        Returns:
            Its name if it joined differently placed examples, so that they are coupled.
        """
        func = call.func
        if func in ops.INJECTIVE or (func in ops.REPEATING and func is not Tensor.__getitem__):
            read = read[:1]  # another tensor may tell it a shape or a type
        elif func in CONSTANTS:
            read = []
        where = [(t, m) for t in read if (m := self.of(t)) != CONSTANT]
        lost = ""
        if any(m == LOST for _, m in where):
            lost = next(self.why(t) for t, m in where if m == LOST)
            where = [(t, m) for t, m in where if m != LOST or t.requires_grad]
        if not where:
            for out in made:
                data = bool(lost) and not out.requires_grad
                self.put(out, LOST if data else CONSTANT, lost)
            return ""
        # What has no graph is a constant to all parameters, wherever its rows are.
        smooth = [(t, m) for t, m in where if t.requires_grad]
        place, name, coupled = PLACES.get(func, nowhere), name_of(func), ""
        for out in made:
            found = {self._after(place, t, m, call, out) for t, m in smooth or where}
            mark = found.pop() if len(found) == 1 else LOST
            self.put(out, mark, (lost or name) if mark == LOST else "")
            if mark == LOST:
                lost = lost or name
                if (found and smooth or func in MIXING) and out.requires_grad:
                    coupled = name
            if call.args and out is call.args[0] and out._is_view():
                base = out._base  # written to in part
                if base is not None and self.of(base) != mark:
                    self.put(base, LOST, name)
        return coupled

    def _after(self, place: Place, tensor: Tensor, mark: int, call: Any, out: Tensor) -> int:
        new = LOST if mark == LOST else place(tensor, mark, call, out)
        if new >= 0:
            return new if new < out.dim() and out.shape[new] == self.n else LOST
        if new != MERGED or not out.dim() or out.shape[0] % self.n:
            return LOST
        return 0 if out.shape[0] == self.n else MERGED


def name_of(func: Any) -> str:
    """What a function is called in sentences."""
    return getattr(func, "__name__", str(func))
