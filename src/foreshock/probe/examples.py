"""`ExampleNorms`: squared gradient norms of every example of one step, without the gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foreshock.types import Flag


@dataclass(frozen=True)
class ExampleNorms:
    """Squared norms of the per-example gradients of one batch, parameter by parameter.

    An example is a row of the batch dimension (dimension 0 of the first tensor the model is given):
    one image, one sequence with all its tokens. The reduced loss is a sum L = Σ_i L_i over rows,
    whatever the reduction, and the gradient of example i is g_i = n ∂L_i: their mean is the
    gradient of the batch. Under a mean over non-ignored tokens, L_i is row i's tokens over *all*
    counted tokens.

    Args:
        names: Names of the trainable parameters.
        sizes: Their numbers of elements.
        squares: |g_i|² by parameter, ``(n, parameters)`` in float64, on the device; zeros in
            columns that are not covered. ``(0, parameters)`` when refused.
        mean_squares: |mean_i g_i|² by parameter, ``(parameters,)``, zeros where not covered.
        covered: Which parameters the numbers hold for.
        flags: Why there are none, as flags.
        reason: What is not covered and why, in a sentence; empty if everything is.
        altered: Of which parameters the optimizer uses something else than one factor times the
            gradient that was heard, ``(parameters,)`` on the device; their squares do not count.

    Examples:
        >>> norms = ExampleNorms.refused(["w"], [3], "The step made no backward pass.")
        >>> norms.n, norms.coverage, norms.reason
        (0, 0.0, 'The step made no backward pass.')
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    squares: Tensor
    mean_squares: Tensor
    covered: tuple[bool, ...]
    flags: Flag = Flag.NONE
    reason: str = ""
    altered: Tensor | None = None

    @property
    def n(self) -> int:
        """How many examples."""
        return len(self.squares)

    @property
    def coverage(self) -> float:
        """Share of the trainable weights that the numbers hold for."""
        held = sum(size for size, yes in zip(self.sizes, self.covered, strict=True) if yes)
        return held / max(1, sum(self.sizes))

    def total(self, parameters: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """Squared norms over several parameters, or all.

        Args:
            parameters: Indices into ``names``; all of them if not given.

        Returns:
            |g_i|², ``(n,)``, and |mean_i g_i|², ``()``, both float64 on the device.
        """
        if parameters is None:
            return self.squares.sum(1), self.mean_squares.sum()
        chosen = list(parameters)
        return self.squares[:, chosen].sum(1), self.mean_squares[chosen].sum()

    @classmethod
    def refused(
        cls, names: Sequence[str], sizes: Sequence[int], reason: str, flags: Flag = Flag.UNRESOLVED
    ) -> ExampleNorms:
        """No numbers at all, and the sentence that says why."""
        columns = len(names)
        return cls(
            tuple(names),
            tuple(sizes),
            torch.zeros(0, columns, dtype=torch.float64),
            torch.zeros(columns, dtype=torch.float64),
            (False,) * columns,
            flags,
            reason,
        )
