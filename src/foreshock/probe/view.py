"""`ModelView`: pure functions of a live model's weights that leave the model alone."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from foreshock.probe.quiet import quiet
from foreshock.probe.spec import Probe


def unwrap(model: nn.Module) -> nn.Module:
    """The module behind `torch.compile` and (distributed) data parallel wrappers."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(
            model, (nn.DataParallel, nn.parallel.DistributedDataParallel)
        ):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


class _Call(nn.Module):
    """Lets `functional_call` run any function of the model, not only its ``forward``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(self.model, *args)


class ModelView:
    """The model seen safely: loss, gradients, logits and features as functions of the live weights.

    Holds a copy of the module *structure* that shares every parameter and buffer with the live
    model, so it costs no memory and always sees the current weights, while train/eval flags and
    buffers updated by a forward pass belong to the copy. The user's hooks are not on it
    (``dropped_hooks``): they would write into the user's own state. Each call swaps in detached
    leaves (the live ``.grad`` stays as it is) and clones of the buffers, in evaluation mode, within
    `quiet`. The copy is made when a call first needs it, or by `prepare`.

    Python attributes of the modules (a temperature that is annealed by hand) are those of the
    moment the copy was made: at attach, and whenever parameters are replaced, frozen or unfrozen.

    Args:
        model: The live model; wrappers of `torch.compile` and data parallelism are looked through.
        seed: Seed of the private random numbers of every call.

    Raises:
        ValueError: If the model has no trainable parameter; and, once the copy is made, if its
            structure cannot be copied.

    Examples:
        >>> import torch
        >>> model = torch.nn.Linear(3, 2)
        >>> view = ModelView(model)
        >>> loss, gradient = view.gradient(lambda m, x: m(x).sum(), torch.ones(4, 3))
        >>> [tuple(g.shape) for g in gradient], model.weight.grad
        ([(2, 3), (2,)], None)
    """

    def __init__(self, model: nn.Module, *, seed: int = 0) -> None:
        if not isinstance(model, nn.Module):
            raise ValueError(f"The `model` must be a torch.nn.Module. Got {type(model).__name__}.")
        self._live = unwrap(model)
        self.seed = seed
        self.dropped_hooks: list[str] = []
        self._call: _Call | None = None
        self._refresh()
        if not self._trainable:
            raise ValueError(
                "The `model` has no parameter that requires a gradient, so there is nothing to "
                "watch. Pass the module that the optimizer trains."
            )

    def _refresh(self) -> None:
        """List the parameters anew; the copy of the structure is made when it is next needed."""
        # `named_parameters` lists a tied parameter once, under its first name.
        named = list(self._live.named_parameters())
        self._trainable = [(n, p) for n, p in named if p.requires_grad]
        self._fixed = [(n, p) for n, p in named if not p.requires_grad]
        self._modules = list(self._live.modules())
        self._signature = self._identity()
        self._call = None

    def prepare(self) -> None:
        """Make the copy of the structure now, where its failure can still be refused."""
        self._structure()

    def _structure(self) -> _Call:
        """The copy; parameters and buffers are put in the memo, so they are shared."""
        if self._call is not None:
            return self._call
        live = self._live
        memo = {id(t): t for t in (*live.parameters(), *live.buffers())}
        try:
            shadow = copy.deepcopy(live, memo)
        except Exception as error:
            raise ValueError(
                "The structure of the `model` could not be copied, so it cannot be measured "
                f"without touching it ({type(error).__name__}: {error}). Detach tensors and drop "
                "handles that are kept as plain attributes, or use observables='free' and no probe."
            ) from error
        self.dropped_hooks = []
        for name, module in shadow.named_modules():
            self.dropped_hooks += _drop_hooks(name, module)
            # The flag itself, not `eval()`, which a model may override with side effects.
            module.training = False
            if getattr(module, "_compiled_call_impl", None) is not None:
                module._compiled_call_impl = None
        self._call = _Call(shadow)
        self._call.training = False
        return self._call

    @property
    def shadow(self) -> nn.Module:
        """The copy of the model that calls run on: for hooks, which whoever puts them takes off."""
        return self._structure().model

    @property
    def trouble(self) -> str:
        """Why nothing can be measured right now: nothing is trainable. Empty otherwise."""
        frozen = not self.live_parameters
        return "No parameter of the model requires a gradient at this step." if frozen else ""

    def _identity(self) -> tuple[list[int], list[bool]]:
        """What has to stay for the list to hold; asked several times a step, so without a walk."""
        there = [
            id(entry)
            for module in self._modules
            for table in (module._parameters, module._modules)
            for entry in table.values()
        ]
        known = [p.requires_grad for _, p in self._trainable]
        return there, known + [p.requires_grad for _, p in self._fixed]

    @property
    def names(self) -> list[str]:
        """Names of the trainable parameters, tied ones once."""
        return [name for name, _ in self._trainable]

    @property
    def sizes(self) -> list[int]:
        """Numbers of elements of the trainable parameters, in the order of ``names``."""
        return [parameter.numel() for _, parameter in self._trainable]

    @property
    def modules(self) -> list[nn.Module]:
        """Modules of the live model, as of the last look at ``live_parameters``."""
        return self._modules

    @property
    def parameters(self) -> list[Tensor]:
        """The trainable parameters, detached but sharing the live memory. Do not write to them."""
        return [parameter.detach() for parameter in self.live_parameters]

    @property
    def live_parameters(self) -> list[nn.Parameter]:
        """The trainable parameters themselves, in the order of ``names``; for their ``.grad``."""
        if self._signature != self._identity():
            self._refresh()
        return [parameter for _, parameter in self._trainable]

    @property
    def dtype(self) -> torch.dtype:
        """Type of the first trainable parameter."""
        return self._trainable[0][1].dtype

    def leaves(self) -> list[Tensor]:
        """Fresh leaves that require a gradient and share the live memory."""
        return [p.requires_grad_() for p in self.parameters]

    def call(self, leaves: Sequence[Tensor], function: Callable[..., Any], *args: Any) -> Any:
        """``function(model, *args)`` at the weights ``leaves``. Use within `quiet`."""
        weights = {f"model.{n}": leaf for (n, _), leaf in zip(self._trainable, leaves, strict=True)}
        weights |= {f"model.{n}": p.detach() for n, p in self._fixed}
        weights |= {f"model.{n}": b.detach().clone() for n, b in self._live.named_buffers()}
        return torch.func.functional_call(self._structure(), weights, (function, *args))

    def draw(self, probe: Probe, step: int) -> list[Any]:
        """The batches of a probe at ``step``, drawn with random numbers of that step's own."""
        with quiet((self.seed * 1_000_003 + step) % 2**63):
            return probe.draw(step)

    def loss(self, leaves: Sequence[Tensor], loss: Callable[..., Any], batch: Any) -> Tensor:
        """The loss at ``leaves``, checked to be one number. Use within `quiet`."""
        value = self.call(leaves, loss, batch)
        if not isinstance(value, Tensor) or value.numel() != 1:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                "The `loss` of `Probe` must return one number (a scalar tensor). "
                f"Got {shape}; take its mean over the batch."
            )
        return value.reshape(())

    def gradient(self, loss: Callable[..., Any], batch: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Loss and gradient of one batch, on the device: ``()`` and one tensor a parameter."""
        with quiet(self.seed):
            leaves = self.leaves()
            value = self.loss(leaves, loss, batch)
            gradient = torch.autograd.grad(value, leaves, materialize_grads=True, allow_unused=True)
        return value.detach(), gradient

    def outputs(self, probe: Probe, inputs: Any) -> Tensor:
        """Outputs of the model without a graph, shape ``(n, ..., k)``."""
        with quiet(self.seed), torch.no_grad():
            return self.call(self.parameters, forward_of(probe), inputs)

    def features(self, probe: Probe, inputs: Any) -> tuple[Tensor, Tensor]:
        """Input of the readout layer and the outputs: ``(n, m)`` and ``(n, k)``.

        The readout layer is the last `torch.nn.Linear` that the forward pass calls.

        Args:
            probe: For its ``forward``.
            inputs: n inputs.

        Returns:
            Features and outputs, detached, on the device.

        Raises:
            ValueError: If the forward pass calls no linear layer whose width is that of the
                outputs.
        """
        seen: list[tuple[nn.Linear, Tensor]] = []

        def remember(module: nn.Module, args: tuple[Any, ...]) -> None:
            assert isinstance(module, nn.Linear)
            seen[:] = [(module, args[0])]

        linears = [m for m in self._structure().modules() if isinstance(m, nn.Linear)]
        handles = [m.register_forward_pre_hook(remember) for m in linears]
        try:
            outputs = self.outputs(probe, inputs)
        finally:
            for handle in handles:
                handle.remove()
        if not seen or seen[0][0].out_features != outputs.shape[-1]:
            raise ValueError(
                "The ridge readout needs a model whose last layer is a torch.nn.Linear onto the "
                "outputs; the forward pass of this one ends otherwise. Leave out `ridge_signal`."
            )
        return seen[0][1].detach(), outputs


def forward_of(probe: Probe) -> Callable[[Any, Any], Tensor]:
    """The function (model, inputs) -> outputs of a probe, its default written out."""

    def forward(model: Any, inputs: Any) -> Tensor:
        if probe.forward is not None:
            result = probe.forward(model, inputs)
        else:
            result = model(**inputs) if isinstance(inputs, Mapping) else model(inputs)
        if isinstance(result, Mapping) and "logits" in result:
            result = result["logits"]
        result = getattr(result, "logits", result)
        if not isinstance(result, Tensor):
            got = type(result).__name__
            if isinstance(result, Mapping):
                got += f" with the keys {sorted(map(str, result))}"
            fix = "m(x)[0]" if isinstance(result, (tuple, list)) else "..."
            raise ValueError(
                "The model must return a tensor, or something with `.logits` or ['logits']. "
                f"Got {got}; pass `Probe(forward=lambda m, x: {fix})`."
            )
        return result

    return forward


def _drop_hooks(name: str, module: nn.Module) -> list[str]:
    """Take the user's hooks off a copied module, and say which.

    Functions are not copied with a module, so a hook that writes would write into the user's own
    state. Those of torch itself (weight and spectral norm) belong to the forward pass and stay.

    Args:
        name: Name of the module.
        module: A module of the copy.

    Returns:
        Where hooks were taken off.
    """
    dropped = []
    for kind in ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks"):
        hooks = getattr(module, kind)
        for key, hook in list(hooks.items()):
            origin = getattr(hook, "__module__", None) or type(hook).__module__
            if not origin.partition(".")[0] == "torch":
                del hooks[key]
                if origin.partition(".")[0] != "foreshock":  # a latent reset's own
                    dropped.append(f"{name or type(module).__name__}{kind}")
    return dropped


def batch_size(batch: Any) -> int | None:
    """Length of the first tensor found in a batch: its number of examples, or ``None``.

    Args:
        batch: A tensor, or a mapping or sequence that holds one.

    Returns:
        The length, ``None`` if there is no tensor.

    Examples:
        >>> import torch
        >>> batch_size({"x": torch.zeros(8, 3)}), batch_size("?")
        (8, None)
    """
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else None
    parts = batch.values() if isinstance(batch, Mapping) else batch
    if isinstance(parts, (str, bytes)) or not hasattr(parts, "__iter__"):
        return None
    return next((size for part in parts if (size := batch_size(part)) is not None), None)


def labelled(probe: Probe) -> tuple[Any, Tensor] | None:
    """The training examples of a probe: ``train``, or its batches of pairs concatenated."""
    if probe.train is not None:
        return probe.train
    if callable(probe.batches):
        return None
    pairs = [b for b in probe.batches if isinstance(b, (tuple, list)) and len(b) == 2]
    if len(pairs) != len(probe.batches) or not all(isinstance(t, Tensor) for b in pairs for t in b):
        return None
    inputs, labels = (torch.cat([b[i] for b in pairs]) for i in (0, 1))
    return inputs, labels


def check_probe(view: ModelView, probe: Probe, live: nn.Module) -> None:
    """Try the probe once at the door, and put back whatever a wrong loss moved.

    Raises:
        ValueError: If the loss fails, is not one number, ignores the model it is given, or does
            not depend on the parameters.
    """
    batches = view.draw(probe, 0)
    if not batches:
        raise ValueError("The `batches` of `Probe` returned no batch at step 0.")
    called: list[str] = []

    def notice(module: nn.Module, args: Any) -> None:
        called.append(type(module).__name__)

    view.prepare()  # before the live modules get a hook that the copy would inherit
    notices = [m.register_forward_pre_hook(notice) for m in unwrap(live).modules()]
    kept = [(buffer, buffer.detach().clone()) for buffer in unwrap(live).buffers()]
    grads = [(p, p.grad) for p in unwrap(live).parameters()]
    try:
        with quiet(view.seed):
            leaves = view.leaves()
            value = view.loss(leaves, probe.loss, batches[0])
            gradient = (
                torch.autograd.grad(value, leaves, allow_unused=True, create_graph=True)
                if value.requires_grad
                else [None]
            )
            _rehearse(gradient, leaves)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(
            f"The `loss` of `Probe` failed on the first batch: {type(error).__name__}: {error}. "
            "It is called as loss(model, batch)."
        ) from error
    finally:
        for handle in notices:
            handle.remove()
        for buffer, old in kept:
            # A write, even of the same numbers, would spoil a graph that waits for its backward.
            if not torch.equal(buffer, old):
                with torch.no_grad():
                    buffer.copy_(old)
        for parameter, grad in grads:
            parameter.grad = grad
    if called or all(g is None for g in gradient):
        raise ValueError(
            "The `loss` of `Probe` does not depend on the parameters of the model it is given, or "
            "it closes over the live model, which would move its buffers and gradients. Write "
            "loss(model, batch) so that it calls its first argument and nothing else of the run."
        )


def _rehearse(gradient: Sequence[Tensor | None], leaves: Sequence[Tensor]) -> None:
    """A second derivative and a small eigenproblem at the door.

    What they load on first use (some 0.2 s) would otherwise be charged to the training loop.
    """
    live = [g for g in gradient if g is not None and g.requires_grad]
    with contextlib.suppress(RuntimeError, NotImplementedError):  # said by who needs it
        if live:
            torch.autograd.grad(live, leaves, [torch.ones_like(g) for g in live], allow_unused=True)
        torch.linalg.eigh(torch.eye(2, dtype=torch.float64))


def norm(tensors: Sequence[Tensor | None]) -> Tensor:
    """Euclidean norm over several tensors, on their device; nan where there is none."""
    present = [t for t in tensors if t is not None]
    if not present:
        return torch.tensor(math.nan, dtype=torch.float64)
    # In 16 bits a norm overflows at 65,504, or keeps three digits.
    present = [t.float() if t.dtype in (torch.float16, torch.bfloat16) else t for t in present]
    norms = torch._foreach_norm(present)
    return torch.stack([n.double() for n in norms]).norm()
