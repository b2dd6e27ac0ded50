"""Held-out signal: whether the logits of unseen examples know their labels before accuracy does."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from foreshock.probe.moment import Moment
from foreshock.probe.view import labelled
from foreshock.stats.permutation import true_label_rank_p
from foreshock.stats.readout import heldout_signal, ridge_readout
from foreshock.stats.sample import mean_interval, proportion
from foreshock.types import Estimate, Readings, SeriesInfo

#: The permutation p-value is taken on so many examples and draws at most: a few milliseconds.
RANKED, DRAWS = 512, 199
#: Halves of the held-out examples smaller than the least n of a z-score cannot be probed.
LEAST_HALF = 8
OURS = "Foreshock"


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
    held-out examples centred per row. Under labels that say nothing, with balanced classes,
    z ~ N(0, 1), whatever the network memorised; a memorised fit can make it *negative* on
    structured tables. With unbalanced classes a bias of the logits towards the frequent ones is
    enough for a large z: the null is the band over permutations of the labels, and a z inside a
    band that such a bias has moved is flagged. Resolution is
    3/√n of a standard deviation, far finer than accuracy, which needs a shift of the order of one.
    It says "signal present", not "imminent": a stalled run can carry one for ever.
    ``readout/rank_p`` is the permutation p-value of the mean rank of the true label on the first
    512 held-out examples, from 199 permutations: exact where z is not, at small n, with unbalanced
    classes, on structured tables. It is never below 1/200.
    ``readout/heldout_accuracy`` and ``readout/heldout_loss`` (mean cross-entropy, in nats) of the
    same examples are the baselines that the signal must beat.
    ``readout/probe_accuracy`` is the share of training examples the model gets right: rules that
    must wait for memorisation read it.

    Cost: a forward pass on the held-out and on as many training examples, and the permutations.

    Examples:
        >>> HeldoutSignal().series[0].null
        'N(0, 1): labels shuffled'
    """

    name: str = "heldout_signal"
    needs: frozenset[str] = frozenset({"probe", "heldout", "train"})
    price: float = 3.0
    stride: int = 0

    @property
    def series(self) -> tuple[SeriesInfo, ...]:
        """What every measurement writes."""
        return (
            SeriesInfo(
                "readout/heldout_signal",
                "held-out signal z",
                "1",
                "N(0, 1): labels shuffled",
                formula="sqrt(n) mean_i Z[i, y_i] / rms(Z), logits Z centred per row",
                oracle="naive twin to 1e-12; mean 0 and variance 1 over shuffled labels",
                source=OURS,
            ),
            SeriesInfo(
                "readout/rank_p",
                "permutation p-value of the true label's rank",
                "1",
                "uniform on (0, 1): labels shuffled",
                formula="(1 + #{permuted mean rank <= observed}) / (1 + permutations)",
                oracle="all permutations listed at n = 6; uniform over shuffled labels",
                source="Phipson & Smyth 2010",
            ),
            SeriesInfo(
                "readout/heldout_accuracy",
                "accuracy on held-out examples",
                "1",
                "chance",
                formula="share of held-out examples whose largest logit is the label's",
                oracle="counted by hand; Clopper-Pearson interval",
                source="baseline",
            ),
            SeriesInfo(
                "readout/heldout_loss",
                "cross-entropy on held-out examples",
                "nat",
                "log of the number of classes",
                formula="mean of log Σ_k exp z_ik − z_i,y_i",
                oracle="torch.nn.functional.cross_entropy",
                source="baseline",
            ),
            SeriesInfo(
                "readout/probe_accuracy",
                "accuracy on training examples",
                "1",
                "chance",
                formula="share of training examples whose largest logit is the label's",
                oracle="1 on a network that copies its input; Clopper-Pearson interval",
                source="baseline",
            ),
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
        scores, wanted = host[: n * k].reshape(n, k), host[n * k : n * k + n].astype(int)
        z = heldout_signal(scores, wanted)
        p = true_label_rank_p(scores[:RANKED], wanted[:RANKED], draws=DRAWS)
        hits = host[n * k + n :]
        if np.isfinite(hits).all():
            accuracy = replace(proportion(int(hits.sum()), len(hits)), null=(1 / k, 1 / k))
        else:
            accuracy = Estimate.missing("The outputs on training examples are not finite.")
        held, loss = _baselines(scores, wanted)
        return state, Readings(
            {
                "readout/heldout_signal": z,
                "readout/rank_p": p,
                "readout/heldout_accuracy": held,
                "readout/heldout_loss": loss,
                "readout/probe_accuracy": accuracy,
            }
        )


def _baselines(scores: np.ndarray, labels: np.ndarray) -> tuple[Estimate, Estimate]:
    """Accuracy and cross-entropy of logits ``(n, k)``."""
    if not len(scores) or not np.isfinite(scores).all():
        missing = Estimate.missing("The logits of the held-out examples are not finite, or none.")
        return missing, missing
    k = scores.shape[1]
    hits = int((scores.argmax(1) == labels).sum())
    accuracy = replace(proportion(hits, len(scores)), null=(1 / k, 1 / k))
    centred = scores - scores.max(1, keepdims=True)  # so that the exponential does not overflow
    losses = np.log(np.exp(centred).sum(1)) - centred[np.arange(len(scores)), labels]
    return accuracy, replace(mean_interval(losses), null=(math.log(k), math.log(k)))


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
    price: float = 8.0
    stride: int = 0

    @property
    def series(self) -> tuple[SeriesInfo, ...]:
        """What every measurement writes."""
        null = "N(0, 1): labels shuffled"
        return (
            SeriesInfo(
                "readout/ridge_signal",
                "held-out signal of a ridge readout",
                "1",
                null,
                formula="held-out z of the ridge fit of training labels on last-layer features",
                oracle="leave-one-out by refits; variance 1 over shuffled labels",
                source=OURS,
            ),
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


@dataclass(frozen=True)
class ProbeSignal:
    """Held-out signal of a probe: what the last hidden layer knows that a linear map can read.

    The held-out examples are cut once, at random, into halves. A ridge regression from the features
    (input of the readout layer) to the labels is fitted on one half, λ by leave-one-out; its
    predictions on the other half, with the mean of every class taken away, are judged as in
    `HeldoutSignal`, but standardised over permutations of the labels. Training labels play no part:
    a memorised fit, or leakage between the training and the held-out set, cannot show. Over
    shuffled labels z has mean 0 and variance 1 exactly, whatever the imbalance of the classes.
    Random features are not without knowledge:
    labels that are smooth in the inputs give z > 0 before training, and on a group table each
    label is excluded where its row or column has been fitted: −3.5 at the start of a p = 23 run,
    .8 on its random-label twin. Read its rise.

    Needs many held-out examples: half of them fit. Cost: a forward pass and one eigendecomposition
    of the smaller of n/2 and the layer's width.

    Args:
        examples: Most held-out examples used, at least 16; the first ones of the probe.

    Raises:
        ValueError: If ``examples`` is below 16.

    Examples:
        >>> ProbeSignal().series[0].null
        'N(0, 1): labels shuffled'
    """

    examples: int = 2048
    name: str = "probe_signal"
    needs: frozenset[str] = frozenset({"probe", "heldout"})
    price: float = 6.0
    stride: int = 0

    def __post_init__(self) -> None:
        if self.examples < 2 * LEAST_HALF:
            raise ValueError(
                f"The `examples` of `ProbeSignal` must be at least {2 * LEAST_HALF}. "
                f"Got {self.examples}."
            )

    @property
    def series(self) -> tuple[SeriesInfo, ...]:
        """What every measurement writes."""
        return (
            SeriesInfo(
                "readout/probe_signal",
                "held-out signal of a probe",
                "1",
                "N(0, 1): labels shuffled",
                formula="z on half the held-out set of a ridge fitted on the other, means removed",
                oracle="mean 0 and variance 1 over shuffled labels, unbalanced classes included",
                source=OURS,
            ),
        )

    def init(self) -> None:
        """No state."""

    def update(self, state: None, moment: Moment) -> tuple[None, Readings]:
        """Measure at one moment."""
        return state, Readings({"readout/probe_signal": self._measure(moment)})

    def _measure(self, moment: Moment) -> Estimate:
        assert moment.probe is not None
        inputs, labels = _pair(moment, "heldout", self.examples)
        try:
            features, outputs = moment.view.features(moment.probe, inputs)
        except ValueError:
            return Estimate.missing(
                "The probe needs a model whose last layer is a torch.nn.Linear onto the outputs."
            )
        features, labels = _kept(_rows(features), labels)
        columns = labels.double().to(features.device)[:, None]
        host = torch.cat([features.double(), columns], dim=1).cpu().numpy()
        if not np.isfinite(host).all():
            return Estimate.missing("The features of the last hidden layer are not finite.")
        n = len(host)
        if n < 2 * LEAST_HALF:
            return Estimate.missing(
                f"Two halves of {LEAST_HALF} held-out examples are needed. Got {n} in all.", n=n
            )
        # The same cut at every measurement: the series then moves with the network alone.
        order = np.random.default_rng(0).permutation(n)
        fit, test = host[order[: n // 2]], host[order[n // 2 :]]
        wanted = test[:, -1].astype(int)
        predicted, _ = ridge_readout(
            fit[:, :-1], fit[:, -1].astype(int), test[:, :-1], outputs.shape[-1]
        )
        return heldout_signal(predicted - predicted.mean(0), wanted, standardise=True)
