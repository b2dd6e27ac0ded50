"""Hessian-vector products of a loss at the live weights, and what to do where they fail."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from foreshock.estimators.gradient_differences import GradientDifferences, vector_type
from foreshock.probe.quiet import private_random
from foreshock.probe.view import ModelView, norm

#: Said wherever a number rests on differences of gradients.
DIFFERENCES = (
    "The model has no second derivative by automatic differentiation, so products are differences "
    "of gradients: about 4 digits on a smooth network, meaningless across the kinks of a ReLU."
)


def hessian(
    view: ModelView, loss: Callable, batch: object
) -> tuple[HessianProduct, int, torch.device]:
    """Hessian of the probe's loss as a product v ↦ Hv.

    Call it, and use what it returns, within `foreshock.probe.quiet.quiet`.

    Args:
        view: The live weights.
        loss: ``loss(model, batch) -> scalar``.
        batch: One batch.

    Returns:
        The product on flat vectors ``(d,)`` of any float type, which is also that of the result;
        the dimension d; and the device.

    Examples:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> x = torch.tensor([[1.0, 2.0]])
        >>> product, d, _ = hessian(ModelView(model), lambda m, x: m(x).pow(2).sum() / 2, x)
        >>> product(torch.tensor([1.0, 0.0])).tolist(), product.method  # xx'v
        ([1.0, 2.0], 'reverse')
    """
    product = HessianProduct(view, loss, batch)
    return product, product.dimension, product.device


class Product(Protocol):
    """A symmetric matrix known by its products."""

    @property
    def dimension(self) -> int:
        """Number of weights d."""
        ...

    @property
    def device(self) -> torch.device:
        """Where vectors live."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Type of the vectors that lose nothing."""
        ...

    @property
    def method(self) -> str:
        """How products are taken; see `HessianProduct`."""
        ...

    def __call__(self, v: Tensor) -> Tensor:
        """Hv for a flat vector."""
        ...

    def by_differences(self) -> Product | None:
        """The same matrix by cheaper products with an error, or ``None``."""
        ...


class HessianProduct:
    """v ↦ Hv of one loss on one batch, by the first method that the model allows.

    1. ``"reverse"`` over reverse, on one shared graph of the gradient, kept until the object is
       dropped. On one thread 1.2 training steps a product on an MLP whose first layer holds most of
       the weights, 2.1 on a transformer; the graph costs about one step, once.
    2. ``"forward"`` over reverse, where an operation has no double backward: twice the price (3.3
       and 3.6 steps there), and it takes the graph anew each time.
    3. ``"differences"`` of gradients, (g(θ + hv) − g(θ − hv))/2h with h|v| = ε^(1/3)|θ|, where
       neither works. They cannot see a kink that they step over: whoever uses the product must say
       so (`DIFFERENCES`).

    A custom operation that torch can differentiate only once may not raise but read as linear: its
    curvature is then missing without a word. Where the first product is exactly 0, differences are
    asked once and preferred if they disagree; where such an operation is one of many, nothing here
    can notice.

    Args:
        view: The live weights.
        loss: ``loss(model, batch) -> scalar``.
        batch: One batch.
        method: The first method to try.

    Examples:
        >>> import torch
        >>> view = ModelView(torch.nn.Linear(1, 1, bias=False))
        >>> product = HessianProduct(view, lambda m, x: m(x).pow(2).sum(), torch.ones(1, 1))
        >>> product(torch.ones(1)).item()
        2.0
    """

    def __init__(
        self, view: ModelView, loss: Callable, batch: object, *, method: str = "reverse"
    ) -> None:
        self._view, self._loss, self._batch = view, loss, batch
        self._leaves = view.leaves()
        self._sizes = [leaf.numel() for leaf in self._leaves]
        self.dimension = sum(self._sizes)
        self.device = self._leaves[0].device
        self.method = method
        self._gradient: Sequence[Tensor] | None = None
        self._trusted = False
        self._differing: GradientDifferences | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Type of the vectors that lose nothing: float64 for float64 weights, float32 else."""
        return vector_type(self._leaves)

    def __call__(self, v: Tensor) -> Tensor:
        """Hv for a flat vector, in the vector's type."""
        parts = [
            part.view_as(leaf).to(leaf.dtype)
            for part, leaf in zip(v.split(self._sizes), self._leaves, strict=True)
        ]
        methods = {"reverse": self._reverse, "forward": self._forward}
        while self.method in methods:
            try:
                found = self._flat(methods[self.method](parts), v)
                if self._trusted or self._believed(found, parts, v):
                    self._trusted = True
                    return found
                self.method = "differences"
            except (RuntimeError, NotImplementedError) as error:
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                self.method = "forward" if self.method == "reverse" else "differences"
        return self._flat(self._differences(parts, v.norm()), v)

    def by_differences(self) -> GradientDifferences:
        """Products by one gradient each; the gradient at the weights is taken once."""
        if self._differing is None:
            self._differing = GradientDifferences(self._view, self._loss, self._batch)
        return self._differing

    def rows(self, vectors: Tensor) -> Tensor:
        """Products with several vectors ``(k, d)``: batched by vmap where the model allows it.

        Args:
            vectors: The vectors, as rows. Memory: k times that of one product.

        Returns:
            ``(k, d)``, row i the product with vector i.
        """
        first = self(vectors[0])
        if self.method == "reverse" and self._gradient is not None and len(vectors) > 1:
            live = [(g, i) for i, g in enumerate(self._gradient) if g.requires_grad]
            parts = [
                part.reshape(-1, *leaf.shape).to(leaf.dtype)
                for part, leaf in zip(vectors.split(self._sizes, 1), self._leaves, strict=True)
            ]
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # vmap says where it loops
                    found = torch.autograd.grad(
                        [g for g, _ in live],
                        self._leaves,
                        grad_outputs=[parts[i] for _, i in live],
                        retain_graph=True,
                        materialize_grads=True,
                        allow_unused=True,
                        is_grads_batched=True,
                    )
                flat = [row.reshape(len(vectors), -1) for row in found]
                return torch.cat(flat, 1).to(vectors.dtype)
            except (RuntimeError, NotImplementedError):
                pass  # control flow on data, in-place operations: one after the other
        return torch.stack([first, *(self(v) for v in vectors[1:])])

    def _believed(self, found: Tensor, parts: Sequence[Tensor], v: Tensor) -> bool:
        """Whether a product that is exactly 0 is 0 by differences, too; one transfer, once."""
        if bool(found.any()) or not bool(v.any()):
            return True
        rows = self._flat(self._differences(parts, v.norm()), v)
        gradient = self._view.gradient(self._loss, self._batch)[1]
        size, steep = norm([leaf.detach() for leaf in self._leaves]), norm(gradient)
        # Differences of a constant gradient are rounding: ε^(2/3) of this, 2e-5 in float32.
        return not bool(rows.norm().double() * size > 1e-2 * steep * v.norm().double())

    def _flat(self, rows: Sequence[Tensor], v: Tensor) -> Tensor:
        return torch.cat([row.reshape(-1) for row in rows]).to(v.dtype)

    def _loss_at(self, *leaves: Tensor) -> Tensor:
        # A loss that draws random numbers is one loss only if it draws the same ones each time.
        with private_random(self._view.seed):
            return self._view.loss(leaves, self._loss, self._batch)

    def _reverse(self, parts: Sequence[Tensor]) -> Sequence[Tensor]:
        leaves = self._leaves
        if self._gradient is None:
            self._gradient = torch.autograd.grad(
                self._loss_at(*leaves),
                leaves,
                create_graph=True,
                materialize_grads=True,
                allow_unused=True,
            )
        return reverse_product(self._gradient, leaves, parts)

    def _forward(self, parts: Sequence[Tensor]) -> Sequence[Tensor]:
        gradient = torch.func.grad(self._loss_at, argnums=tuple(range(len(parts))))
        weights = tuple(leaf.detach() for leaf in self._leaves)
        with warnings.catch_warnings():
            # The first forward derivative of a process compiles rules with what torch deprecates.
            warnings.simplefilter("ignore")
            rows = torch.func.jvp(gradient, weights, tuple(parts))[1]
        return [row.detach() for row in rows]

    def _differences(self, parts: Sequence[Tensor], length: Tensor) -> Sequence[Tensor]:
        # ε^(1/3) balances truncation against rounding of a central difference.
        kind = self._leaves[0].dtype
        size = torch.stack([leaf.detach().double().norm() for leaf in self._leaves]).norm()
        h = torch.finfo(kind).eps ** (1 / 3) * size.clamp_min(1e-6) / length.clamp_min(1e-30)
        ends = []
        for sign in (1.0, -1.0):
            moved = [
                (leaf.detach() + sign * h.to(leaf.dtype) * part).requires_grad_()
                for leaf, part in zip(self._leaves, parts, strict=True)
            ]
            ends.append(
                torch.autograd.grad(
                    self._loss_at(*moved), moved, materialize_grads=True, allow_unused=True
                )
            )
        return [(up - down) / (2 * h).to(up.dtype) for up, down in zip(*ends, strict=True)]


def reverse_product(
    gradient: Sequence[Tensor], leaves: Sequence[Tensor], parts: Sequence[Tensor]
) -> Sequence[Tensor]:
    """Hv on the graph of a gradient, which is kept.

    Args:
        gradient: The gradient by `leaves`, with its graph.
        leaves: The weights.
        parts: v, one tensor a weight.

    Returns:
        Hv, one tensor a weight.

    Examples:
        >>> import torch
        >>> w = torch.ones(2, requires_grad=True)
        >>> slope = torch.autograd.grad(w.pow(3).sum(), w, create_graph=True)
        >>> reverse_product(slope, [w], [torch.tensor([1.0, 2.0])])[0].tolist()  # 6 w v
        [6.0, 12.0]
    """
    live = [(g, p) for g, p in zip(gradient, parts, strict=True) if g.requires_grad]
    if not live:  # a loss linear in the weights
        return [torch.zeros_like(leaf) for leaf in leaves]
    return torch.autograd.grad(
        [g for g, _ in live],
        leaves,
        grad_outputs=[p for _, p in live],
        retain_graph=True,
        materialize_grads=True,
        allow_unused=True,
    )


class MeanProduct:
    """Weighted mean of the Hessians of several batches; all graphs are kept at the same time.

    Args:
        products: One a batch.
        weights: Weights of the batches, scaled to sum 1.

    Examples:
        >>> import torch
        >>> view = ModelView(torch.nn.Linear(1, 1, bias=False))
        >>> square = lambda m, x: m(x).pow(2).sum() / 2
        >>> each = [HessianProduct(view, square, torch.full((1, 1), x)) for x in (1.0, 3.0)]
        >>> MeanProduct(each, [1.0, 1.0])(torch.ones(1)).item()  # (1 + 9)/2
        5.0
    """

    def __init__(
        self, products: Sequence[HessianProduct | GradientDifferences], weights: Sequence[float]
    ) -> None:
        self._products = products
        self._weights = [w / sum(weights) for w in weights]
        self.dimension, self.device = products[0].dimension, products[0].device
        self.dtype = products[0].dtype

    @property
    def method(self) -> str:
        """The last resort that any of the products took."""
        order = ("reverse", "gradients", "forward", "differences")
        return max((p.method for p in self._products), key=order.index)

    def __call__(self, v: Tensor) -> Tensor:
        """Hv for a flat vector, in the vector's type."""
        total = torch.zeros_like(v)
        for product, weight in zip(self._products, self._weights, strict=True):
            total += weight * product(v)
        return total

    def by_differences(self) -> MeanProduct:
        """The mean of products by one gradient each."""
        return MeanProduct([p.by_differences() for p in self._products], self._weights)
