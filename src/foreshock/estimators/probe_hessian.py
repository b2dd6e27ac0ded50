"""Which Hessian: of one batch, of the training examples, of the whole probe, of a part."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from foreshock.estimators.hvp import HessianProduct, MeanProduct, Product
from foreshock.probe.groups import Group
from foreshock.probe.moment import Moment
from foreshock.probe.view import ModelView, batch_size, labelled


def probe_product(
    moment: Moment, on: Literal["batch", "train", "probe"]
) -> HessianProduct | MeanProduct:
    """The Hessian that an observable's ``on`` asks for. Call within `quiet`.

    Args:
        moment: With a probe.
        on: See `Curvature`.

    Returns:
        The product. Always of the batches at step 0: fresh ones would be another matrix at every
        measurement, and its crossings an artefact.

    Raises:
        ValueError: If the probe has no batch at step 0.
    """
    assert moment.probe is not None
    probe, view = moment.probe, moment.view
    train = labelled(probe) if on == "train" else None
    if train is not None:
        return HessianProduct(view, probe.loss, train)
    batches = view.draw(probe, 0)
    if not batches:
        raise ValueError(
            "The `batches` of `Probe` returned no batch at step 0, of which the Hessian is taken."
        )
    if on != "probe":
        return HessianProduct(view, probe.loss, batches[0])
    weights = [float(batch_size(batch) or 1) for batch in batches]
    return MeanProduct([HessianProduct(view, probe.loss, batch) for batch in batches], weights)


def check_on(on: str, owner: str) -> None:
    """Refuse an ``on`` that does not exist.

    Args:
        on: What was passed.
        owner: Name of the observable, for the sentence.

    Raises:
        ValueError: If it is none of the three.
    """
    if on not in ("batch", "train", "probe"):
        raise ValueError(f"The `on` of `{owner}` must be 'batch', 'train' or 'probe'. Got {on!r}.")


def needs_of(on: str) -> frozenset[str]:
    """What of the run an ``on`` uses."""
    return frozenset({"probe", {"batch": "batch", "train": "train"}.get(on, "probe")})


class PartProduct:
    """The diagonal block of a matrix that belongs to some of its coordinates.

    Args:
        product: The whole matrix.
        index: Coordinates of the block, ``(k,)``.

    Examples:
        >>> import torch
        >>> view = ModelView(torch.nn.Linear(2, 1, bias=False))
        >>> x = torch.tensor([[1.0, 2.0]])
        >>> whole = HessianProduct(view, lambda m, x: m(x).pow(2).sum() / 2, x)
        >>> PartProduct(whole, torch.tensor([1]))(torch.ones(1)).item()
        4.0
    """

    def __init__(self, product: Product, index: Tensor) -> None:
        self._product, self._index = product, index
        self.dimension, self.device = len(index), product.device
        self.dtype = product.dtype

    @property
    def method(self) -> str:
        """How the whole matrix takes its products."""
        return self._product.method

    def __call__(self, v: Tensor) -> Tensor:
        """The block times a vector ``(k,)``."""
        whole = v.new_zeros(self._product.dimension)
        whole[self._index] = v
        return self._product(whole)[self._index]

    def by_differences(self) -> PartProduct | None:
        """The block of the cheaper products, where the whole matrix has them."""
        quick = self._product.by_differences()
        return None if quick is None else PartProduct(quick, self._index)


def part_index(view: ModelView, parts: list[tuple[int, Group]]) -> Tensor:
    """Flat coordinates of a group, in the order of the concatenated parameters.

    Args:
        view: The live weights.
        parts: Parameter index and group, as `resolve_groups` gives them.

    Returns:
        ``(k,)`` int64 on the device of the weights; empty for a group that finds nothing.
    """
    offset = 0
    places = []
    for parameter in view.parameters:
        count = parameter.numel()
        whole = torch.arange(offset, offset + count, device=parameter.device)
        places.append(whole.reshape(parameter.shape))
        offset += count
    found = [group.take(places[i]).reshape(-1) for i, group in parts]
    return torch.cat(found) if found else places[0].reshape(-1)[:0]
