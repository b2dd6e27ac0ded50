r"""What a reader of the document "signal" looks for: section 11 without its part 11.6."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foreshock.documents.live import check_loss, undisturbed
from foreshock.documents.loaders import borrow, check_loader, lent
from foreshock.estimators.published import consolidation_ratio
from foreshock.probe.spec import Probe
from foreshock.probe.view import ModelView, forward_of
from foreshock.stats import published as pub

Loader = Iterable[Any]


def compute_loss(model: nn.Module, batch: Any) -> Tensor:
    """The loss that the listings call and do not define, for batches (inputs, labels).

    Cross-entropy of integer labels, with the classes in the last dimension of the outputs; mean
    squared error of others. Shapes that do not match are refused.

    Args:
        model: A model.
        batch: A pair.

    Returns:
        The mean over the batch.

    Examples:
        >>> import torch
        >>> linear = torch.nn.Linear(1, 2)
        >>> compute_loss(linear, (torch.ones(3, 1), torch.zeros(3, 2))).ndim
        0
    """
    outputs, labels = _answers(model, batch)
    if labels.is_floating_point():
        return nn.functional.mse_loss(outputs, labels)
    return nn.functional.cross_entropy(outputs.reshape(-1, outputs.shape[-1]), labels.reshape(-1))


def evaluate(model: nn.Module, dataloader: Loader, *, seed: int = 0) -> float:
    """The accuracy that the listings call and do not define, for batches (inputs, labels).

    In evaluation mode, on a copy of the structure: the model is not touched.

    Args:
        model: A classifier, with the classes in the last dimension of its outputs.
        dataloader: All of it is read, one batch at a time; not an iterator.
        seed: Of the order of the examples, which does not matter to the result.

    Returns:
        Share of examples whose largest output is that of the label.

    Raises:
        ValueError: If a label is not an integer, or a shape does not match.

    Examples:
        >>> import torch
        >>> identity = torch.nn.Linear(2, 2, bias=False)
        >>> _ = torch.nn.init.eye_(identity.weight)
        >>> evaluate(identity, [(torch.eye(2), torch.tensor([0, 0]))])
        0.5
    """
    view, right, total = ModelView(model), 0, 0
    check_loader(dataloader)
    with lent(dataloader, seed=seed) as batches, torch.no_grad():
        for batch in batches:
            outputs, labels = view.call(view.parameters, _answers, batch)
            if labels.is_floating_point():
                raise ValueError(
                    "`evaluate` counts right answers and needs integer labels. Pass your own "
                    "`evaluate(model, dataloader)`."
                )
            right += int((outputs.argmax(-1) == labels).sum())
            total += labels.numel()
    return right / total if total else float("nan")


#: So that the loop below knows it where its own argument has the name.
_accuracy = evaluate


def compute_consolidation_ratio(
    model: nn.Module,
    dataloader: Loader,
    n_samples: int = 20,
    *,
    compute_loss: Callable[[nn.Module, Any], Tensor] = compute_loss,
    seed: int = 0,
) -> dict[str, float]:
    r"""C = \|mean\|^2/(sum of variances + 1e-10) of batch gradients, p = C/(1 + C), I = .1 p/1.5.

    The training run does not notice: no gradient is written, the model is seen in evaluation mode
    (published as it stands, so that dropout draws and batch norm learns from the measurement), and
    random numbers are private, those of the loader's shuffling among them. A generator that a
    dataset keeps to itself is not seen: pass a list of batches there.

    **What the published form gets wrong**: pure noise reads C = 1/n_samples; C is proportional to
    the batch size, so p says as much about the batch as about the model, and is the probability of
    nothing; I with its placeholders is p/15, "stagnation" whatever happens.

    **Ours instead**: the observable `GradientNoise`: ``grad/snr`` and ``grad/noise_scale`` without
    the bias, with intervals; ``grad/descent_factor`` of `Descent` for how far a step helps.

    Args:
        model: The model that is trained.
        dataloader: Batches; not an iterator, whose batches would be missing in training.
        n_samples: Batches to take, at least 2. One gradient each is held.
        compute_loss: ``compute_loss(model, batch) -> scalar``, of the model it is given and nothing
            else of the run; the listing does not define it.
        seed: Of the order of the examples. The same seed takes the same ones.

    Returns:
        ``C_alpha``, ``p``, ``signal``, ``noise`` and ``I``.

    Raises:
        ValueError: If there are fewer than 2 batches, the model has nothing to train, or the loss
            is no function of it.

    References:
        The document "signal", section 11.1.

    Examples:
        >>> import torch
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> one = torch.ones(1, 1)
        >>> found = compute_consolidation_ratio(
        ...     model, [1.0, 3.0], compute_loss=lambda m, b: b * m(one).sum()
        ... )
        >>> found["signal"], found["noise"], round(found["p"], 4), round(found["I"], 4)
        (4.0, 2.0, 0.6667, 0.0444)
    """
    batches = borrow(dataloader, n_samples, seed=seed)
    if len(batches) < 2:
        raise ValueError(
            "`compute_consolidation_ratio` needs at least 2 batches for a variance. "
            f"Got {len(batches)}."
        )
    view = ModelView(model, seed=seed)
    check_loss(
        "The `compute_loss` of `compute_consolidation_ratio`", view, compute_loss, batches[0], model
    )
    found = consolidation_ratio([view.gradient(compute_loss, batch)[1] for batch in batches])
    p = pub.p_signal(found.c)
    return {
        "C_alpha": found.c,
        "p": p,
        "signal": found.signal,
        "noise": found.noise,
        "I": pub.i_signal(p),
    }


def track_learning_dynamics(
    model: nn.Module,
    train_loader: Loader,
    test_loader: Loader,
    epochs: int = 100,
    *,
    train_epoch: Callable[[nn.Module, Loader], object] | None = None,
    compute_loss: Callable[[nn.Module, Any], Tensor] = compute_loss,
    evaluate: Callable[[nn.Module, Loader], float] = evaluate,
    report: Callable[[str], object] = print,
) -> list[dict[str, float]]:
    r"""Train, and after each epoch measure; says when p rises through 1/2.

    It is ``train_epoch`` that trains; the model ends with the weights that `epochs` calls of it
    give without the rest.

    **What the published form gets wrong**: nothing happens at p = 1/2, where C = 1: another batch
    size moves the epoch of the crossing or takes it away. The numbers are those of
    `compute_consolidation_ratio`, and one number an epoch has no interval.

    **Ours instead**: `foreshock.attach` with ``detectors=["turnover"]``, and a twin run with random
    labels as its null.

    Args:
        model: The model to train.
        train_loader: Batches to train on, and to measure.
        test_loader: Batches to evaluate on.
        epochs: How many.
        train_epoch: ``train_epoch(model, train_loader)``, your epoch, with your optimizer. The
            listing calls one and does not define it; there is none that could be assumed.
        compute_loss: As in `compute_consolidation_ratio`.
        evaluate: ``evaluate(model, loader) -> accuracy``. Yours gets the live model, and a loader
            like yours: random numbers are private, and modes and buffers are put back.
        report: Called with a sentence at every crossing.

    Returns:
        One dictionary an epoch: the keys of `compute_consolidation_ratio`, ``epoch``,
        ``train_acc`` and ``test_acc``.

    Raises:
        ValueError: Before the first epoch, if there is no ``train_epoch``, or a loader cannot be
            measured.

    References:
        The document "signal", section 11.2.

    Examples:
        >>> import torch
        >>> model = torch.nn.Linear(2, 2)
        >>> data = [(torch.eye(2), torch.tensor([0, 1]))] * 3
        >>> history = track_learning_dynamics(model, data, data, 2, train_epoch=lambda m, d: None)
        >>> [row["epoch"] for row in history], len(history[0])
        ([0, 1], 8)
    """
    if train_epoch is None:
        raise ValueError(
            "`track_learning_dynamics` needs your own `train_epoch(model, train_loader)`, which "
            "holds the optimizer: the document calls one and does not define it."
        )
    compute_consolidation_ratio(model, train_loader, 2, compute_loss=compute_loss)
    if evaluate is _accuracy:
        for loader in (train_loader, test_loader):
            evaluate(model, borrow(loader, 1, seed=0))
    history: list[dict[str, float]] = []
    for epoch in range(epochs):
        train_epoch(model, train_loader)
        found = compute_consolidation_ratio(
            model, train_loader, compute_loss=compute_loss, seed=epoch
        )
        found["epoch"] = epoch
        for key, loader in (("train_acc", train_loader), ("test_acc", test_loader)):
            with undisturbed(model), lent(loader, seed=epoch) as rows:
                found[key] = evaluate(model, rows)
        history.append(found)
        if epoch and history[-2]["p"] <= 0.5 < found["p"]:
            report(
                f"Epoch {epoch}: p rose through 1/2, from {history[-2]['p']:.3g} to "
                f"{found['p']:.3g}. The document calls this a phase transition."
            )
    return history


def get_adaptive_lr(base_lr: float, p: float) -> float:
    r"""The rate times .1, .5, 1, 1.5 or 2, with edges p = .40, .50, .60 and .75.

    **What the published form gets wrong**: p follows the batch size, so a smaller batch alone cuts
    the rate to a tenth; it jumps by 5 at p = .40; nan reads as the strongest phase.

    **Ours instead**: `foreshock.policies.suggest_lr` for the scales there are, with intervals.

    Args:
        base_lr: Base learning rate.
        p: p.

    Returns:
        The scaled rate.

    References:
        The document "signal", section 11.3.

    Examples:
        >>> get_adaptive_lr(0.25, 0.8), round(get_adaptive_lr(0.25, 0.39), 3)
        (0.5, 0.025)
    """
    return pub.adaptive_lr_signal(base_lr, p)


_STOPS = {
    "short": "Fewer than {window} records: no rule applies yet.",
    "p": "p was below .45 at each of the last {window} records.",
    "c": "C never rose and fell over the last {window} records.",
    "i": "I is negative, which the document calls divergence.",
    "none": "None of the three rules applies.",
}


def should_stop_early(history: Sequence[dict[str, float]], window: int = 10) -> tuple[bool, str]:
    r"""Whether p < .45 throughout the window, or C never rose in it, or I < 0; and which.

    It decides nothing by itself: the loop is yours.

    **What the published form gets wrong**: small batches keep p < .45 in runs that learn, so it
    stops them after `window` records; I with its placeholders is never negative.

    **Ours instead**: the policy ``Stop(on=...)`` with a detector whose false alarms on its null are
    known, such as ``turnover``.

    Args:
        history: Records with ``p``, ``C_alpha`` and ``I``, as of `track_learning_dynamics`.
        window: How many of the last are looked at.

    Returns:
        Whether to stop, and a sentence.

    Raises:
        ValueError: If the window is below 1, or a record lacks one of the three.

    References:
        The document "signal", section 11.4.

    Examples:
        >>> low = {"p": 0.3, "C_alpha": 0.43, "I": 0.02}
        >>> should_stop_early([low] * 10)
        (True, 'p was below .45 at each of the last 10 records.')
        >>> should_stop_early([low] * 9)[0]
        False
    """
    if window < 1:
        raise ValueError(f"The `window` of `should_stop_early` must be at least 1. Got {window}.")
    recent = list(history[-window:])
    lacking = sorted({"p", "C_alpha", "I"} - set.intersection(*map(set, recent))) if recent else []
    if lacking:
        raise ValueError(
            "The `history` of `should_stop_early` must have `p`, `C_alpha` and `I` in every "
            f"record. There is no {', '.join(lacking)}."
        )
    p, c, i = ([row[key] for row in recent] for key in ("p", "C_alpha", "I"))
    stop, rule = pub.early_stop_signal(p, c, i, window)
    return stop, _STOPS[rule].format(window=window)


def estimate_tail_index(gradients_flat: Any, n_tail: int = 100) -> float:
    r"""Hill's estimator on the largest `n_tail` magnitudes, clipped to [1, 2].

    **What the published form gets wrong**: the clip prints a plausible index for every input: light
    tails read 2, numbers below 1e-10 read 1. k is not chosen by the data.

    **Ours instead**: `foreshock.stats.tails.hill`, with an interval and a null, at a k that
    `min_ks_k` finds.

    Args:
        gradients_flat: (n,) Coordinates or norms, an array or a tensor, n > `n_tail`.
        n_tail: Number of tail samples, at least 1.

    Returns:
        alpha in [1, 2]; nan if a number is.

    Raises:
        ValueError: If `n_tail` is below 1, or there are not more numbers than that.

    References:
        The document "signal", section 11.5.

    Examples:
        >>> pareto = np.random.default_rng(0).pareto(1.5, 10_000) + 1
        >>> round(estimate_tail_index(pareto), 1)
        1.5
    """
    if n_tail < 1:
        raise ValueError(f"The `n_tail` of `estimate_tail_index` must be at least 1. Got {n_tail}.")
    if isinstance(gradients_flat, Tensor):
        gradients_flat = gradients_flat.detach().cpu().double().numpy()
    with np.errstate(invalid="ignore"):
        return pub.hill_signal(np.asarray(gradients_flat).reshape(-1), n_tail)


def _pair(batch: Any) -> tuple[Any, Tensor]:
    """A batch (inputs, labels)."""
    if not isinstance(batch, (tuple, list)) or len(batch) != 2 or not isinstance(batch[1], Tensor):
        raise ValueError(
            "A batch must be a pair (inputs, labels) with a tensor of labels. Got "
            f"{type(batch).__name__}; for others pass your own `compute_loss` and `evaluate`."
        )
    return batch[0], batch[1]


def _answers(model: Any, batch: Any) -> tuple[Tensor, Tensor]:
    """Outputs and labels of a batch, the classes of integer labels in the last dimension."""
    inputs, labels = _pair(batch)
    outputs = forward_of(Probe(loss=compute_loss, batches=[batch]))(model, inputs)
    shape = outputs.shape if labels.is_floating_point() else outputs.shape[:-1]
    if shape != labels.shape or not outputs.ndim:
        raise ValueError(
            "The outputs must have the shape of the labels, and for integer labels the classes in "
            f"the last dimension besides. Got {tuple(outputs.shape)} and {tuple(labels.shape)}; "
            "for others pass your own `compute_loss` and `evaluate`."
        )
    return outputs, labels
