"""`Probe`: the data and the loss that measurements are made with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: How the batches of a probe were drawn. The finite-population corrections of the noise differ.
SAMPLINGS = ("independent", "replacement", "disjoint")


@dataclass(frozen=True)
class Probe:
    """What the expensive observables measure on: a loss, batches, and labelled held-out examples.

    Measurements call ``loss(model, batch)`` with a private copy of the model's structure that
    shares the live weights, in evaluation mode, with private random numbers. So the loss must use
    the ``model`` it is given, not one it closes over.

    Args:
        loss: ``loss(model, batch) -> scalar``, the mean over the examples of the batch.
        batches: A sequence of training batches, kept for the whole run; or ``batches(step)``,
            called at every measurement, that returns a fresh sequence (the honest choice where the
            noise of the probe must not be frozen).
        heldout: ``(inputs, labels)``, examples that are never trained on. Unlocks the held-out
            signal.
        train: ``(inputs, labels)``, training examples for the ridge readout and the memorisation
            test. Defaults to the concatenated ``batches`` if those are pairs ``(inputs, labels)``.
        forward: ``forward(model, inputs) -> outputs``. Defaults to ``model(inputs)``, or
            ``model(**inputs)`` for a mapping; ``.logits`` of the result if it has one.
        sampling: How ``batches`` were drawn: ``"independent"`` draws without replacement within a
            batch, ``"replacement"``, or ``"disjoint"`` (one epoch of a loader). Recorded with every
            series, because E[signal] and E[noise] differ between them by O(1/N).
        losses: Parts of the objective by name, each ``loss(model, batch) -> scalar``, whose
            gradients are compared with each other.

    Raises:
        ValueError: If an argument cannot be used; the sentence says what to pass instead.

    Examples:
        >>> probe = Probe(loss=lambda model, batch: model(batch).mean(), batches=[1.0, 2.0])
        >>> probe.draw(step=0)
        [1.0, 2.0]
    """

    loss: Callable[[Any, Any], Any]
    batches: Sequence[Any] | Callable[[int], Sequence[Any]]
    heldout: tuple[Any, Any] | None = None
    train: tuple[Any, Any] | None = None
    forward: Callable[[Any, Any], Any] | None = None
    sampling: str = "independent"
    losses: Mapping[str, Callable[[Any, Any], Any]] | None = None

    def __post_init__(self) -> None:
        if not callable(self.loss):
            raise ValueError(
                "The `loss` of `Probe` must be a function of (model, batch). "
                f"Got {type(self.loss).__name__}."
            )
        if not callable(self.batches):
            if isinstance(self.batches, (str, bytes, Mapping)) or not isinstance(
                self.batches, Sequence
            ):
                raise ValueError(
                    "The `batches` of `Probe` must be a list of batches or a function of the step "
                    f"that returns one. Got {type(self.batches).__name__}; for a loader pass "
                    "`list(itertools.islice(loader, 8))`."
                )
            if not self.batches:
                raise ValueError("The `batches` of `Probe` must not be empty. Got no batch.")
        for name, part in (self.losses or {}).items():
            if not callable(part) or not isinstance(name, str):
                raise ValueError(
                    "The `losses` of `Probe` must map names to functions of (model, batch). "
                    f"Got {name!r}: {type(part).__name__}."
                )
        for field in ("heldout", "train"):
            pair = getattr(self, field)
            if pair is None:
                continue
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise ValueError(f"The `{field}` of `Probe` must be a pair (inputs, labels).")
            if hasattr(pair[0], "__len__") and not isinstance(pair[0], Mapping):
                if len(pair[0]) != len(pair[1]):
                    raise ValueError(
                        f"The `{field}` of `Probe` must pair every input with a label. "
                        f"Got {len(pair[0])} inputs and {len(pair[1])} labels."
                    )
        if self.sampling not in SAMPLINGS:
            raise ValueError(
                f"The `sampling` of `Probe` must be one of {SAMPLINGS}. Got {self.sampling!r}."
            )

    def draw(self, step: int) -> list[Any]:
        """The batches to measure on at ``step``."""
        return list(self.batches(step) if callable(self.batches) else self.batches)
