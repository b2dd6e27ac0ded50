"""Held-out signal: whether the logits of unseen examples know their labels before accuracy does."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from foreshock.probe.moment import Moment
from foreshock.probe.view import labelled
from foreshock.stats.readout import heldout_signal, ridge_readout
from foreshock.stats.sample import proportion
from foreshock.types import Estimate, Readings, SeriesInfo


def _pair(moment: Moment, which: str, most: int | None = None) -> tuple[object, Tensor]:
    """Inputs and flat labels of at most so many examples; sequences have a label a position."""
    assert moment.probe is not None
    pair = moment.probe.heldout if which == "heldout" else labelled(moment.probe)
    if pair is None:
        raise ValueError(
            f"The readout needs labelled {which} examples. Pass `Probe({which}=(inputs, labels))`."
        )
    inputs, labels = pair[0], torch.as_tensor(pair[1])
    if most is not None and isinstance(inputs, Tensor):
        inputs, labels = inputs[:most], labels[:most]
    return inputs, labels.reshape(-1)


def _kept(rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Without the positions whose label is negative, such as -100: losses ignore them as well."""
    if labels.is_cpu and bool((labels >= 0).all()):
        return rows, labels
    keep = labels >= 0
    return rows[keep.to(rows.device)], labels[keep]


@dataclass(frozen=True)
class HeldoutSignal:
    """Standardised logit of the true label on held-out examples, and accuracy on training ones.

    ``readout/heldout_signal`` z = √n · mean_i Z[i, y_i] / rms(Z), with the logits Z of the n
    held-out examples centred per row. Under labels that say nothing z ~ N(0, 1), whatever the
    network memorised; a memorised fit can make it *negative* on structured tables. Resolution is
    3/√n of a standard deviation, far finer than accuracy, which needs a shift of the order of one.
    It says "signal present", not "imminent": a stalled run can carry one for ever.
    ``readout/probe_accuracy`` is the share of training examples the model gets right: rules that
    must wait for memorisation read it.

    Cost: a forward pass on the held-out and on as many training examples.

    Examples:
        >>> HeldoutSignal().series[0].null
        'N(0, 1): labels shuffled'
    """

    name: str = "heldout_signal"
    needs: frozenset[str] = frozenset({"probe", "heldout", "train"})
    price: float = 1.0
    stride: int = 0

    @property
    def series(self) -> tuple[SeriesInfo, ...]:
        """What every measurement writes."""
        return (
            SeriesInfo(
                "readout/heldout_signal", "held-out signal z", "1", "N(0, 1): labels shuffled"
            ),
            SeriesInfo("readout/probe_accuracy", "accuracy on training examples", "1", "chance"),
        )

    def init(self) -> None:
        """No state."""

    def update(self, state: None, moment: Moment) -> tuple[None, Readings]:
        """Measure at one moment."""
        assert moment.probe is not None
        inputs, labels = _pair(moment, "heldout")
        assert moment.probe.heldout is not None
        train_inputs, train_labels = _pair(moment, "train", len(moment.probe.heldout[1]))
        logits, labels = _kept(_rows(moment.view.outputs(moment.probe, inputs)), labels)
        train_logits, train_labels = _kept(
            _rows(moment.view.outputs(moment.probe, train_inputs)), train_labels
        )
        right = (train_logits.argmax(1) == train_labels).double()
        right += 0 * train_logits.sum(1)  # the argmax of nan is a class too
        host = (
            torch.cat([logits.double().reshape(-1), labels.double().to(right.device), right])
            .cpu()
            .numpy()
        )
        n, k = logits.shape
        z = heldout_signal(host[: n * k].reshape(n, k), host[n * k : n * k + n].astype(int))
        hits = host[n * k + n :]
        if np.isfinite(hits).all():
            accuracy = replace(proportion(int(hits.sum()), len(hits)), null=(1 / k, 1 / k))
        else:
            accuracy = Estimate.missing("The outputs on training examples are not finite.")
        return state, Readings({"readout/heldout_signal": z, "readout/probe_accuracy": accuracy})


def _rows(outputs: Tensor) -> Tensor:
    """Outputs as ``(examples, classes)``; sequence models count every position."""
    return outputs.reshape(-1, outputs.shape[-1])


@dataclass(frozen=True)
class RidgeSignal:
    """Held-out signal of a fresh linear readout: what the last hidden layer knows.

    A ridge regression from the input of the readout layer to the training labels, λ by
    leave-one-out in closed form, judged on the held-out examples by the same z. It hears structure
    in the features that the trained readout does not use yet.

    Cost: two forward passes and one eigendecomposition of the smaller of n and the layer's width.

    Args:
        examples: Most training examples used; the first ones of the probe.

    Examples:
        >>> RidgeSignal().series[0].name
        'readout/ridge_signal'
    """

    examples: int = 2048
    name: str = "ridge_signal"
    needs: frozenset[str] = frozenset({"probe", "heldout", "train"})
    price: float = 6.0
    stride: int = 0

    @property
    def series(self) -> tuple[SeriesInfo, ...]:
        """What every measurement writes."""
        null = "N(0, 1): labels shuffled"
        return (
            SeriesInfo("readout/ridge_signal", "held-out signal of a ridge readout", "1", null),
        )

    def init(self) -> None:
        """No state."""

    def update(self, state: None, moment: Moment) -> tuple[None, Readings]:
        """Measure at one moment."""
        assert moment.probe is not None
        inputs, labels = _pair(moment, "heldout")
        train_inputs, train_labels = _pair(moment, "train", self.examples)
        try:
            heldout, outputs = moment.view.features(moment.probe, inputs)
            train, _ = moment.view.features(moment.probe, train_inputs)
        except ValueError as error:
            return state, Readings({"readout/ridge_signal": Estimate.missing(str(error))})
        heldout, labels = _kept(_rows(heldout), labels)
        train, train_labels = _kept(_rows(train), train_labels)
        # Labels ride along as a last column: one transfer for the whole record.
        columns = torch.cat([labels, train_labels]).double().to(heldout.device)[:, None]
        host = torch.cat([torch.cat([heldout, train]).double(), columns], dim=1).cpu().numpy()
        if not np.isfinite(host).all():
            missing = Estimate.missing("The features of the last hidden layer are not finite.")
            return state, Readings({"readout/ridge_signal": missing})
        features, wanted, n = host[:, :-1], host[:, -1].astype(int), len(heldout)
        predicted, _ = ridge_readout(features[n:], wanted[n:], features[:n], outputs.shape[-1])
        estimate = heldout_signal(predicted, wanted[:n])
        return state, Readings({"readout/ridge_signal": estimate})
