"""Baselines that look inside: alignment of the features with labels, entropy of attention."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from foreshock.probe.moment import Moment
from foreshock.probe.spec import Probe
from foreshock.probe.view import ModelView, labelled
from foreshock.stats.kernels import kernel_alignment
from foreshock.stats.sample import mean_interval
from foreshock.types import Estimate, Readings, SeriesInfo

#: The jackknife of the alignment deletes 8 blocks of at least 2 examples.
LEAST_EXAMPLES = 16
ALIGNMENTS = ("features/alignment", "features/alignment_train")


@dataclass(frozen=True)
class FeatureAlignment:
    """Kernel-target alignment of the last hidden layer, on held-out and on training examples.

    Centred alignment of K = FF', F the inputs of the readout layer, with Y_ij = 1 if the labels of
    i and j are equal: ``features/alignment`` on held-out examples, ``features/alignment_train`` on
    training ones. 1 if the features are one point a class, far apart evenly. Never 0: the null is
    the band of 99 relabellings at random, and its value belongs to this number of examples. Memory
    shows on training examples alone.

    Cost: two forward passes and 99 products of n × n numbers on the host, each.

    Args:
        examples: Most examples of each kind, at least 16; the first ones of the probe.

    Raises:
        ValueError: If ``examples`` is below 16.

    Examples:
        >>> [info.name for info in FeatureAlignment().series]
        ['features/alignment', 'features/alignment_train']
    """

    examples: int = 128
    name: str = "feature_alignment"
    needs: frozenset[str] = frozenset({"probe", "heldout", "train"})
    price: float = 4.0
    stride: int = 0

    def __post_init__(self) -> None:
        if self.examples < LEAST_EXAMPLES:
            raise ValueError(
                f"The `examples` of `FeatureAlignment` must be at least {LEAST_EXAMPLES}. "
                f"Got {self.examples}."
            )

    @property
    def series(self) -> tuple[SeriesInfo, ...]:
        """What every measurement writes."""
        return tuple(
            SeriesInfo(
                name,
                f"alignment of the features with {which} labels",
                "1",
                "band of relabellings at random",
                formula="<HKH, HYH> / (|HKH| |HYH|), K = FF', Y_ij = [y_i = y_j]",
                oracle="1 for one-hot features; the definition written out by loops",
                source="Cristianini et al. 2001; Cortes et al. 2012",
            )
            for name, which in zip(ALIGNMENTS, ("held-out", "training"), strict=True)
        )

    def init(self) -> None:
        """No state."""

    def update(self, state: None, moment: Moment) -> tuple[None, Readings]:
        """Measure at one moment."""
        assert moment.probe is not None
        sets = [moment.probe.heldout, labelled(moment.probe)]
        found = []
        for pair in sets:
            assert pair is not None  # `needs` says so
            inputs, labels = pair[0], torch.as_tensor(pair[1]).reshape(-1)
            if isinstance(inputs, Tensor):
                inputs, labels = inputs[: self.examples], labels[: self.examples]
            try:
                features, _ = moment.view.features(moment.probe, inputs)
            except ValueError:
                sentence = (
                    "The model does not end in a torch.nn.Linear onto its outputs, "
                    "so it has no last hidden layer."
                )
                return state, Readings(dict.fromkeys(ALIGNMENTS, Estimate.missing(sentence)))
            rows = features.reshape(-1, features.shape[-1]).double()
            column = labels[: len(rows), None].to(rows.device, torch.float64)
            found.append(torch.cat([rows[: self.examples], column[: self.examples]], dim=1))
        host = torch.cat(found).cpu().numpy()
        cut = len(found[0])
        return state, Readings(
            {
                name: _alignment(part[:, :-1], part[:, -1])
                for name, part in zip(ALIGNMENTS, (host[:cut], host[cut:]), strict=True)
            }
        )


def _alignment(features: np.ndarray, labels: np.ndarray) -> Estimate:
    kept = labels >= 0  # positions that the loss ignores
    features, labels = features[kept], labels[kept]
    n = len(labels)
    if n < LEAST_EXAMPLES:
        return Estimate.missing(f"{LEAST_EXAMPLES} examples are needed. Got {n}.", n=n)
    scale = float(np.abs(features).max())
    if math.isfinite(scale) and scale > 0:
        features = features / scale  # fourth powers neither overflow nor vanish
    return kernel_alignment(features @ features.T, labels, draws=99)


class _Listener(TorchFunctionMode):
    """Works out attention entropies while a forward pass runs; results pass through unchanged."""

    def __init__(self) -> None:
        super().__init__()
        self.entropies: list[Tensor] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        # The mode is off in here, so that what an attention calls inside is not heard twice.
        named = dict(kwargs or {})
        if func is functional.scaled_dot_product_attention:
            self._hear(_logits(*args, **named))
        elif func is functional.multi_head_attention_forward:
            asked = inspect.signature(func).bind(*args, **named)
            asked.arguments |= {"need_weights": True, "average_attn_weights": False}
            weights = func(*asked.args, **asked.kwargs)[1]
            # A weight of exactly 0 is taken for a masked key: the mask itself is not seen here.
            self._hear((weights if weights.ndim == 4 else weights[None]).log())
        elif func in (functional.softmax, torch.softmax, Tensor.softmax):
            scores, dim = args[0], named.get("dim", args[1] if len(args) > 1 else None)
            if scores.ndim == 4 and dim in (-1, 3):
                self._hear(scores)
        return func(*args, **named)

    def _hear(self, logits: Tensor) -> None:
        """Entropy of softmax(logits) over the keys / log(visible keys), mean over queries."""
        logits = logits.detach()
        if logits.ndim == 3:
            logits = logits[:, None]
        if logits.ndim != 4:
            return
        visible = logits > torch.finfo(logits.dtype).min / 2  # masks write -inf or the least number
        visible |= logits.isnan()
        logits = logits.double().masked_fill(~visible, -math.inf)
        keys = visible.sum(-1)
        log_p = logits.log_softmax(-1)
        entropy = -(log_p.exp() * log_p.masked_fill(~visible, 0.0)).sum(-1)  # (B, H, L)
        counted = keys > 1  # a single key has no entropy, and its logarithm is 0
        share = torch.where(counted, entropy / keys.clamp_min(2).log(), 0.0)
        self.entropies.append(share.sum(-1) / counted.sum(-1))  # 0/0 = nan where nothing counts


def _logits(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """What scaled dot-product attention takes the softmax of, ``(..., L, S)``."""
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    kind = torch.promote_types(query.dtype, torch.float32)
    logits = query.to(kind) @ key.to(kind).transpose(-2, -1)
    logits = logits * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        allowed = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()
        logits = logits.masked_fill(~allowed, -math.inf)
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            return logits.masked_fill(~attn_mask, -math.inf)
        return logits + attn_mask
    return logits


def attention_entropies(view: ModelView, probe: Probe, inputs: Any) -> list[Tensor]:
    """Entropy of every attention head on every input, as a share of the largest possible.

    −Σ_j p_j log p_j / log S over the S keys a query may see, averaged over the queries that see at
    least two. Fused attention hides its p: they are worked out anew from its query and key. Heard
    are `scaled_dot_product_attention`, `torch.nn.MultiheadAttention`, and every softmax over the
    last axis of a tensor (batch, head, query, key); attention written otherwise is not. Padding
    counts as the model treats it.

    Args:
        view: The live weights.
        probe: For its ``forward``.
        inputs: n inputs.

    Returns:
        One tensor ``(batch, heads)`` a call of attention, in the order of the forward pass,
        float64, on the device.

    Examples:
        >>> import torch
        >>> view = ModelView(torch.nn.MultiheadAttention(4, 2, batch_first=True))
        >>> probe = Probe(lambda m, x: 0.0, [0], forward=lambda m, x: m(x, x, x)[0])
        >>> [tuple(e.shape) for e in attention_entropies(view, probe, torch.zeros(3, 5, 4))]
        [(3, 2)]
    """
    listener = _Listener()
    with listener:
        view.outputs(probe, inputs)
    return listener.entropies


@dataclass(frozen=True)
class AttentionEntropy:
    """Softmax entropy of every attention head, 1 where it looks everywhere, 0 where at one key.

    ``attention/entropy`` is the mean over heads, ``attention/entropy@block.head`` one head of one
    call of attention, both counted from 0 in the order of the forward pass. Divided by the
    logarithm of the number of keys a query may see, so that sequences of several lengths compare.
    The interval is Student's t over examples: what other examples would read.

    Cost: one forward pass; attention is worked out twice.

    Args:
        examples: Most training inputs used; the first ones of the probe.

    Raises:
        ValueError: If ``examples`` is below 2.

    Examples:
        >>> AttentionEntropy().series[0].null
        '1: uniform attention'
    """

    examples: int = 32
    name: str = "attention_entropy"
    needs: frozenset[str] = frozenset({"probe", "inputs"})
    price: float = 2.0
    stride: int = 0

    def __post_init__(self) -> None:
        if self.examples < 2:
            raise ValueError(
                f"The `examples` of `AttentionEntropy` must be at least 2. Got {self.examples}."
            )

    @property
    def series(self) -> tuple[SeriesInfo, ...]:
        """What every measurement writes."""
        return (
            SeriesInfo(
                "attention/entropy",
                "entropy of attention",
                "1",
                "1: uniform attention",
                layered=True,
                formula="mean over queries of −Σ p log p / log(visible keys)",
                oracle="1 for equal keys; p of nn.MultiheadAttention and of eager attention",
                source="Zhai et al. 2023, arXiv:2303.06296",
            ),
        )

    def init(self) -> None:
        """No state."""

    def update(self, state: None, moment: Moment) -> tuple[None, Readings]:
        """Measure at one moment."""
        assert moment.probe is not None
        known = labelled(moment.probe)
        assert known is not None  # `needs` says so
        inputs = known[0][: self.examples]
        n = len(inputs)
        heard = attention_entropies(moment.view, moment.probe, inputs)
        # Windows of one image lie beside each other in the batch.
        fitting = [e for e in heard if len(e) and len(e) % n == 0]
        if not fitting:
            sentence = (
                "The forward pass calls no attention that can be heard."
                if not heard
                else f"No attention has a batch of the {n} examples."
            )
            return state, Readings({"attention/entropy": Estimate.missing(sentence)})
        blocks = [e.reshape(n, -1, e.shape[1]).mean(1) for e in fitting]
        host = torch.cat(blocks, dim=1).cpu().numpy()
        scalars = {"attention/entropy": _entropy(host.mean(1))}
        at = 0
        for block, entropies in enumerate(blocks):
            for head in range(entropies.shape[1]):
                scalars[f"attention/entropy@{block}.{head}"] = _entropy(host[:, at])
                at += 1
        return state, Readings(scalars)


def _entropy(values: np.ndarray) -> Estimate:
    """Mean over examples, with uniform attention as its null."""
    estimate = mean_interval(values)
    return replace(estimate, null=(1.0, 1.0)) if math.isfinite(estimate.value) else estimate
