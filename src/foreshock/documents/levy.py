r"""What a reader of the document "levy" looks for: `CriticalityTracker`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules import module as modules

from foreshock.documents.live import check_loss, gradient_norm, recordable
from foreshock.estimators.hvp import reverse_product
from foreshock.estimators.published import lambda_power, metric_log_det, power_iteration
from foreshock.probe.quiet import quiet
from foreshock.probe.spec import Probe
from foreshock.probe.view import ModelView, unwrap
from foreshock.stats import published as pub

Result = TypeVar("Result")

#: Five iterations and the product of the Rayleigh quotient.
PRODUCTS = 6
#: The listing looks at no more inputs than this.
INPUTS = 32


class CriticalityTracker:
    r"""The three observables of the document, and whether all lie in their bands.

    Call `check_criticality` between ``backward()`` and ``step()``: after ``scaler.unscale_()``
    where a `torch.amp.GradScaler` scales the loss, and after the last ``backward()`` where several
    add up, since gradients are read as they stand. The training run ends with the weights it would
    have without it: gradients are never written, the model is seen through a copy of its structure
    in evaluation mode, and random numbers are private.

    **What the published form gets wrong.** Its `compute_rho` calls ``zero_grad`` and ``backward``,
    so the optimizer then steps on the gradient of one output of one example; its loop calls
    ``backward`` first, which frees the graph that its `compute_S` needs, and fails; the power
    iteration draws from the global generator. As quantities: C has the unit of a squared gradient,
    S that of a curvature, so fixed bands select nothing; alpha is a stop of a clip in most draws;
    rho jumps by 13.8 when an eigenvalue crosses 1e-6. No lead of the joint event over anything has
    been shown. Numbers carry no interval.

    **Ours instead**: the observable `Triple` and the detector ``triple_alignment`` together;
    singly `GradientNoise` (``grad/snr``), `Stability` (``hessian/stability``, edge at 1), `Ntk` and
    `foreshock.stats.tails`.

    Args:
        model: The model that is trained.
        window: Gradient norms that C and alpha are taken from, at least 10.

    Attributes:
        model: As given.
        window: As given.
        grad_norms: Gradient norm of every call so far.
        rho_history: rho of every call so far.

    Raises:
        ValueError: If the window is below 10, or the model has nothing to train or cannot be seen.

    References:
        The document "levy", Implementation.

    Examples:
        >>> model = torch.nn.Linear(3, 1)
        >>> x = torch.eye(3)
        >>> tracker = CriticalityTracker(model, window=10)
        >>> for _ in range(10):
        ...     model.zero_grad()
        ...     model(x).square().mean().backward()
        ...     found = tracker.check_criticality(lambda m: m(x).square().mean(), x, lr=0.1)
        >>> list(found)
        ['C_alpha', 'alpha', 'S', 'lambda_max', 'rho', 'drho_dt', 'is_critical', 'components']
        >>> found["is_critical"]
        False
    """

    def __init__(self, model: nn.Module, window: int = 100) -> None:
        if window < 10:
            raise ValueError(
                f"The `window` of `CriticalityTracker` must be at least 10. Got {window}."
            )
        self.model = model
        self.window = window
        self.grad_norms: list[float] = []
        self.rho_history: list[float] = []
        self._view = ModelView(model)
        self._view.prepare()
        self._seed = 0
        self._worked: set[str] = set()

    def compute_C_alpha(self) -> tuple[float, float] | None:
        r"""C = g^2/(2 D W) with D = (std/g)^alpha over the last W norms, and alpha.

        **Wrong with it**: see `foreshock.stats.published.c_levy_code` and `hill_levy`. Where a norm
        or their scatter is 0 the limit is returned: 0 at g = 0, infinite without scatter, nan where
        neither is there.

        Returns:
            C and alpha, or None before the window is full.
        """
        if len(self.grad_norms) < self.window:
            return None
        recent = np.asarray(self.grad_norms[-self.window :])
        with np.errstate(all="ignore"):
            return _ratio(recent), pub.hill_levy(recent)

    def compute_S(
        self, loss: Tensor | Callable[[nn.Module], Tensor], lr: float
    ) -> tuple[float, float]:
        r"""S = 2/lr - lambda_max, lambda_max by five power iterations.

        **Wrong with it**: 2/lr swamps lambda at small rates, and five iterations have not
        converged; see `foreshock.stats.published.s_levy` and `lambda_power`. At lr = 0 it is
        infinite. Use `Curvature` and `Stability`, whose numbers have intervals.

        Args:
            loss: As published the loss tensor, with the graph it came with: keep it alive by
                ``backward(retain_graph=True)``. Or, simpler, a function of the model: it is called
                on the weights as they stand, in evaluation mode, and must call its argument and
                nothing else of the run. With a tensor whose graph is freed or changed or holds
                activation checkpoints (which would run the model again), or whose model or
                parameters have backward hooks (which would be called), both numbers are nan and a
                warning says why. Hooks on other tensors of the graph are not seen; a function
                never calls any.
            lr: Learning rate.

        Returns:
            S and lambda_max.
        """
        self._seed += 1
        if isinstance(loss, Tensor):
            top = self._of_graph(loss)
        else:
            top = self._measured("compute_S", lambda: self._of_function(loss), math.nan)
        return (pub.s_levy(lr, top) if lr else math.inf - top), top

    def compute_rho(self, X: Tensor) -> tuple[float, float]:
        r"""The log-determinant rho of the metric of at most 32 inputs, and its last difference.

        **Wrong with it**: see `foreshock.stats.published.rho_levy` and `drho_levy_code`: the first
        rate is 0, which stands for "not known". From the n x n Gram in float64; published from the
        d x d matrix in float32. `Ntk` gives a regularised log-determinant and its rate.

        Args:
            X: (n, ...) Inputs.

        Returns:
            rho and the difference to the rho before; nan where a gradient is not finite.
        """
        inputs = recordable(X[:INPUTS]) if isinstance(X, Tensor) else X[:INPUTS]
        probe = Probe(loss=_unused, batches=[inputs])
        rho = self._measured(
            "compute_rho", lambda: metric_log_det(self._view, probe, inputs), math.nan
        )
        self.rho_history.append(rho)
        return rho, pub.drho_levy_code(self.rho_history[-2:])

    def check_criticality(
        self, loss: Tensor | Callable[[nn.Module], Tensor], X: Tensor, lr: float
    ) -> dict[str, Any] | None:
        r"""Take the gradient norm of this step, and all observables once the window is full.

        **Wrong with it**: see the class. S is left out until the window is full, since it would be
        thrown away; a function is tried once at the first call, so that one that fails does not
        stop the run at the call that fills the window.

        Args:
            loss: As in `compute_S`.
            X: As in `compute_rho`.
            lr: Learning rate.

        Returns:
            None until there are `window` norms; then ``C_alpha``, ``alpha``, ``S``, ``lambda_max``,
            ``rho``, ``drho_dt``, ``is_critical``, and ``components`` with ``stochastic``,
            ``spectral`` and ``geometric``.

        Raises:
            ValueError: At the first call, if there is no gradient yet, or the model cannot be run
                on `X` or `loss`. What fails later is nan, with a warning.
        """
        size = self._measured("check_criticality", lambda: gradient_norm(self.model), None)
        if size is None and not self.grad_norms:
            raise ValueError(
                "`check_criticality` reads the gradients of this step, and there are none. Call it "
                "between `loss.backward()` and `optimizer.step()`."
            )
        if not isinstance(loss, Tensor) and "compute_S" not in self._worked:
            self._measured("compute_S", lambda: self._of_function(loss), math.nan)
        self.grad_norms.append(math.nan if size is None else size.item())
        found = self.compute_C_alpha()
        rho, rate = self.compute_rho(X)
        self._worked.update({"compute_S", "compute_rho"})  # from now on what fails is missing
        if found is None:
            return None
        s, top = self.compute_S(loss, lr)
        return {
            "C_alpha": found[0],
            "alpha": found[1],
            "S": s,
            "lambda_max": top,
            "rho": rho,
            "drho_dt": rate,
            "is_critical": pub.is_critical_levy(found[0], s, rate),
            "components": pub.components_levy(found[0], s, rate),
        }

    def _of_function(self, loss: Callable[[nn.Module], Tensor]) -> float:
        def of(model: nn.Module, _: Any) -> Tensor:
            return loss(model)

        if "loss" not in self._worked:
            check_loss("The `loss`", self._view, of, None, self.model)
            self._worked.add("loss")
        return lambda_power(self._view, of, [None], products=PRODUCTS, seed=self._seed)

    def _of_graph(self, loss: Tensor) -> float:
        """The same from the graph that the user's own forward pass left."""
        live, parameters = unwrap(self.model), self._view.live_parameters
        hooked = any(m._backward_hooks or m._backward_pre_hooks for m in live.modules())
        hooked |= bool(modules._global_backward_hooks or modules._global_backward_pre_hooks)
        if hooked or any(p._backward_hooks for p in parameters):
            _warn("compute_S", "the model has backward hooks, which would be called")
            return math.nan
        if _reentrant(loss):
            _warn("compute_S", "the graph ends at a reentrant checkpoint, which hides weights")
            return math.nan
        try:
            with quiet(self._seed):
                handle = modules.register_module_forward_pre_hook(_refuse)
                try:
                    start = torch.cat(
                        [torch.randn_like(p.detach()).reshape(-1) for p in parameters]
                    )
                    return power_iteration(_product(loss, parameters), start, PRODUCTS)
                finally:
                    handle.remove()
        except (
            RuntimeError
        ) as error:  # freed, changed, checkpointed, or without a second derivative
            _warn("compute_S", f"{str(error).splitlines()[0][:90]}")
            return math.nan

    def _measured(self, what: str, measure: Callable[[], Result], instead: Result) -> Result:
        """The measurement; what fails at its first call is refused, later it is missing."""
        try:
            result = measure()
        except Exception as error:
            if what not in self._worked:
                raise ValueError(
                    f"`{what}` of `CriticalityTracker` failed at its first call: "
                    f"{type(error).__name__}: {error}"
                ) from error
            _warn(what, f"{type(error).__name__}: {error}")
            return instead
        self._worked.add(what)
        return result


def _warn(what: str, why: str) -> None:
    warnings.warn(
        f"`{what}` of `CriticalityTracker` is nan at this step: {why}. Where it is the loss, pass "
        "a function of the model, such as lambda m: criterion(m(X), y).",
        stacklevel=4,
    )


def _unused(*_: Any) -> Tensor:
    """A probe has a loss; the metric does not ask for it."""
    raise AssertionError


def _ratio(recent: NDArray[np.float64]) -> float:
    """C of the listing, with the limits that it divides by zero at."""
    last, spread = float(recent[-1]), float(recent.std())
    if last == 0:
        return 0.0 if spread > 0 else math.nan
    if spread == 0:
        return math.inf
    try:
        return pub.c_levy_code(recent, recent.size)
    except (OverflowError, ZeroDivisionError):
        return math.nan


def _product(loss: Tensor, parameters: list[nn.Parameter]) -> Callable[[Tensor], Tensor]:
    """The product v to Hv on the graph of a loss, which is kept."""
    slopes = torch.autograd.grad(
        loss, parameters, create_graph=True, materialize_grads=True, allow_unused=True
    )
    sizes = [p.numel() for p in parameters]

    def product(v: Tensor) -> Tensor:
        parts = [
            part.reshape(p.shape).to(p) for part, p in zip(v.split(sizes), parameters, strict=True)
        ]
        images = reverse_product(slopes, parameters, parts)
        return torch.cat([image.reshape(-1) for image in images]).to(v)

    return product


def _reentrant(loss: Tensor) -> bool:
    """Whether a reentrant checkpoint stands in the graph: no weight is reached through it."""
    waiting: list[Any] = [loss.grad_fn]
    seen: set[Any] = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if node.name() == "CheckpointFunctionBackward":
            return True
        seen.add(node)
        waiting += [parent for parent, _ in node.next_functions]
    return False


def _refuse(*_: Any) -> None:
    """A hook on all modules, for a backward pass that must not call any."""
    raise RuntimeError("an activation checkpoint would run the model again")
