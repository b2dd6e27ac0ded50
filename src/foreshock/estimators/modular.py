"""Progress measures of modular arithmetic: a referee that knows what the network must learn."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foreshock.probe.moment import Moment
from foreshock.probe.spec import Probe
from foreshock.probe.view import ModelView, labelled
from foreshock.stats.fourier import (
    TOP,
    Loss,
    Operation,
    concentration_null,
    rows_concentration,
    table_measures,
)
from foreshock.types import Estimate, Readings, SeriesInfo

NO_PAIRS = (
    "The probe's inputs are not integer pairs (n, 2) of tokens below the number of classes. "
    "Pass `ModularProgress(modulus=p, inputs=...)`, a function from all pairs to the inputs."
)
NO_EMBEDDING = "No parameter has a row a token (p, m), or two columns a token (m, 2p) for one-hot."


@dataclass(frozen=True)
class ModularProgress:
    """Fourier concentration, restricted and excluded loss of a network that adds modulo p.

    All p² pairs go through the probe's ``forward``, and the table of logits is taken apart by
    `foreshock.stats.fourier.table_measures`, which holds the definitions. ``modular/concentration``
    is the share of its power in the directions cos, sin 2πk(a + b)/p of the ``top`` strongest
    frequencies k; ``modular/restricted_loss`` the loss over all pairs of these alone;
    ``modular/excluded_loss`` the loss on the training pairs without them (over all pairs where the
    probe has no training pairs); ``modular/loss`` that of the table as it is;
    ``modular/embedding_concentration`` the same share for the input weights: the first parameter
    with a row a token, or with two columns a token, whose halves are read as one embedding of both.

    A referee, not a warning: it uses the answer, the held-out half of the table included. The keys
    are picked anew at every measurement. All numbers are exact functions of the weights, without a
    sampling error.

    Cost: a forward pass over p² pairs and O(p³ log p) on the host.

    Args:
        modulus: p; by default the number of outputs.
        operation: ``add`` or ``subtract``.
        top: Number of key frequencies.
        loss: What the network is trained on: ``cross_entropy`` or ``squared``.
        inputs: From all pairs ``(p², 2)``, integers on the CPU, to what ``forward`` takes. By
            default the pairs themselves, moved to the device of the probe's inputs, where the
            probe's inputs are such pairs.

    Raises:
        ValueError: If an argument cannot be used.

    Examples:
        >>> [info.name for info in ModularProgress(59).series][:2]
        ['modular/concentration', 'modular/restricted_loss']
    """

    modulus: int | None = None
    operation: Operation = "add"
    top: int = TOP
    loss: Loss = "cross_entropy"
    inputs: Callable[[Tensor], Any] | None = None
    name: str = "modular"
    needs: frozenset[str] = frozenset({"probe", "train"})
    price: float = 20.0
    stride: int = 0

    def __post_init__(self) -> None:
        if self.modulus is not None and self.modulus < 3:
            raise ValueError(
                f"The `modulus` of `ModularProgress` must be at least 3. Got {self.modulus}."
            )
        if self.operation not in ("add", "subtract"):
            raise ValueError(
                "The `operation` of `ModularProgress` must be 'add' or 'subtract'. "
                f"Got {self.operation!r}."
            )
        if self.loss not in ("cross_entropy", "squared"):
            raise ValueError(
                "The `loss` of `ModularProgress` must be 'cross_entropy' or 'squared'. "
                f"Got {self.loss!r}."
            )
        if self.top < 1:
            raise ValueError(f"The `top` of `ModularProgress` must be at least 1. Got {self.top}.")

    @property
    def series(self) -> tuple[SeriesInfo, ...]:
        """What every measurement writes."""
        source = "Nanda et al. 2023, arXiv:2301.05217"
        hand_built = "hand-built table of cos(w(a+b−c)): "
        return (
            SeriesInfo(
                "modular/concentration",
                "Fourier concentration of the logits",
                "1",
                "band of Gaussian logits, by simulation",
                formula="power of the table at ±(k, k) of the key k / all but the constant",
                oracle=hand_built + "1; naive transform by loops",
                source=source,
            ),
            SeriesInfo(
                "modular/restricted_loss",
                "loss of the key frequencies alone",
                "loss",
                "constant logits: log p",
                formula="loss over all pairs of constant + components ±(k, k), key k",
                oracle=hand_built + "the loss itself; projection by least squares",
                source=source,
            ),
            SeriesInfo(
                "modular/excluded_loss",
                "training loss without the key frequencies",
                "loss",
                "the training loss: nothing rests on the keys",
                formula="loss over training pairs of the table minus components ±(k, k), key k",
                oracle=hand_built + "log p; projection by least squares",
                source=source,
            ),
            SeriesInfo(
                "modular/loss",
                "loss over the whole table",
                "loss",
                "constant logits: log p",
                formula="mean loss over all p² pairs, held-out ones included",
                oracle="torch's own loss on all pairs",
                source=source,
            ),
            SeriesInfo(
                "modular/embedding_concentration",
                "Fourier concentration of the embedding",
                "1",
                "band of a Gaussian embedding, by simulation",
                formula="power over tokens of the strongest frequencies / all but the mean",
                oracle="circles: 1; naive transform by loops",
                source=source,
            ),
        )

    def init(self) -> None:
        """No state."""

    def update(self, state: None, moment: Moment) -> tuple[None, Readings]:
        """Measure at one moment."""
        return state, Readings(self._measure(moment))

    def _measure(self, moment: Moment) -> dict[str, Estimate]:
        assert moment.probe is not None
        view, probe = moment.view, moment.probe
        names = [info.name for info in self.series]
        pairs = _training_pairs(probe)
        if pairs is None and self.inputs is None:
            return dict.fromkeys(names, Estimate.missing(NO_PAIRS))
        p = self.modulus
        if p is None:
            known = labelled(probe)
            assert known is not None or self.inputs is not None
            if known is None:
                return dict.fromkeys(names, Estimate.missing("Pass the `modulus`."))
            p = view.outputs(probe, known[0][:1]).shape[-1]
        if p // 2 < self.top:
            sentence = f"A modulus of {p} has fewer than {self.top} frequencies; lower `top`."
            return dict.fromkeys(names, Estimate.missing(sentence))
        grid = torch.cartesian_prod(torch.arange(p), torch.arange(p))
        if self.inputs is not None:
            inputs = self.inputs(grid)
        else:
            assert pairs is not None
            inputs = grid.to(pairs.device, pairs.dtype)
        outputs = view.outputs(probe, inputs)
        if outputs.shape != (p * p, p):
            sentence = f"The outputs on all pairs are {tuple(outputs.shape)}, not {(p * p, p)}."
            return dict.fromkeys(names, Estimate.missing(sentence))
        embedding = _embedding(view, p)
        parts = [outputs.double().reshape(-1)]
        if pairs is not None:
            parts.append(pairs.to(outputs.device).double().reshape(-1))
        if embedding is not None:
            parts.append(embedding.double().reshape(-1).to(outputs.device))
        host = torch.cat(parts).cpu().numpy()
        table = host[: p**3].reshape(p, p, p)
        at = p**3
        counted = None
        if pairs is not None:
            tokens = host[at : at + pairs.numel()].reshape(-1, 2).astype(int)
            at += pairs.numel()
            if tokens.size and 0 <= tokens.min() and tokens.max() < p:
                counted = np.zeros((p, p), dtype=bool)
                counted[tokens[:, 0], tokens[:, 1]] = True
            elif self.inputs is None:
                return dict.fromkeys(names, Estimate.missing(NO_PAIRS))
        if not np.isfinite(table).all():
            return dict.fromkeys(names, Estimate.missing("The logits are not finite."))
        found = table_measures(
            table, operation=self.operation, top=self.top, loss=self.loss, pairs=counted
        )
        if embedding is None:
            circles = Estimate.missing(NO_EMBEDDING)
        else:
            rows = host[at:].reshape(p, -1)
            circles = _share(
                rows_concentration(rows, self.top),
                concentration_null(p, rows.shape[1], self.top, table=False),
            )
        return {
            "modular/concentration": _share(
                found.concentration, concentration_null(p, p - 1, self.top)
            ),
            "modular/restricted_loss": Estimate.exact(found.restricted, n=p * p),
            "modular/excluded_loss": Estimate.exact(
                found.excluded, n=p * p if counted is None else int(counted.sum())
            ),
            "modular/loss": Estimate.exact(found.loss, n=p * p),
            "modular/embedding_concentration": circles,
        }


def _share(value: float, null: tuple[float, float]) -> Estimate:
    """An exact share with its null; missing where there is no power to share."""
    if math.isnan(value):
        return Estimate.missing("The table is constant, so it has no power to share.")
    return Estimate(value, value, value, n=1, null=null)


def _training_pairs(probe: Probe) -> Tensor | None:
    """Training inputs that are integer pairs ``(n, 2)``, or ``None``."""
    known = labelled(probe)
    if known is None or not isinstance(known[0], Tensor):
        return None
    inputs = known[0]
    integer = not (inputs.dtype.is_floating_point or inputs.dtype.is_complex)
    return inputs if integer and inputs.ndim == 2 and inputs.shape[1] == 2 else None


def _embedding(view: ModelView, p: int) -> Tensor | None:
    """Input weights as ``(p, m)``: rows of an embedding, or columns that read one-hot tokens.

    An embedding may have a few tokens beyond the p numbers, such as "=", at its end.

    Args:
        view: The live weights.
        p: Modulus.

    Returns:
        The weights of the first parameter that fits, ``None`` if none does.
    """
    for weight in view.parameters:
        if weight.ndim != 2:
            continue
        if p <= weight.shape[0] <= p + 2:
            return weight[:p]
        if weight.shape[1] == 2 * p:
            return torch.cat([weight[:, :p].T, weight[:, p:].T], dim=1)
    return None
