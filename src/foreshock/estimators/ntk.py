"""Neural tangent kernel on a fixed probe: log-determinant, its rate, effective rank."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from foreshock.estimators.gradient_noise import add_gram
from foreshock.probe.moment import Moment
from foreshock.probe.quiet import quiet
from foreshock.probe.spec import Probe
from foreshock.probe.view import ModelView, forward_of, labelled
from foreshock.stats.ntk import SERIES, NtkState, ntk_summary
from foreshock.types import Estimate, Readings, SeriesInfo


def ntk_gram(view: ModelView, probe: Probe, inputs: Tensor) -> Tensor:
    """Empirical tangent kernel K = JJ'/n of the summed outputs, on the device.

    Row i of J is the gradient of Σ_k f_k(x_i). The reduction ``sum`` is the published one; it drops
    what cancels between outputs. J is taken in the weights' own type, K accumulated in float64.

    Args:
        view: The live weights.
        probe: For its ``forward``.
        inputs: n inputs, ``(n, ...)``.

    Returns:
        ``(n, n)`` float64. Memory: n gradients. Cost: n backward passes, batched by `torch.vmap`
        where the model allows it, one after the other elsewhere.

    Examples:
        >>> import torch
        >>> view = ModelView(torch.nn.Linear(2, 1, bias=False))
        >>> probe = Probe(loss=lambda m, x: m(x).sum(), batches=[torch.eye(2)])
        >>> ntk_gram(view, probe, torch.eye(2)).tolist()
        [[0.5, 0.0], [0.0, 0.5]]
    """
    forward = forward_of(probe)

    def summed(leaves: list[Tensor], x: Tensor) -> Tensor:
        return view.call(leaves, forward, x.unsqueeze(0)).sum()

    with quiet(view.seed), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # vmap says where it loops instead of batching
        try:
            leaves = view.parameters
            rows = torch.func.vmap(torch.func.grad(summed), in_dims=(None, 0))(leaves, inputs)
        except (RuntimeError, NotImplementedError):  # control flow on data, in-place operations
            leaves = view.leaves()
            each = [
                torch.autograd.grad(
                    summed(leaves, x), leaves, materialize_grads=True, allow_unused=True
                )
                for x in inputs
            ]
            rows = [torch.stack(column) for column in zip(*each, strict=True)]
    n = len(inputs)
    gram = torch.zeros(n, n, dtype=torch.float64, device=rows[0].device)
    for row in rows:
        add_gram(gram, row.detach().reshape(n, -1))
    return gram / n


@dataclass(frozen=True)
class Ntk:
    """Log-determinant of the tangent kernel on a fixed probe, its rate, and its effective rank.

    ``ntk/log_det`` = log det(K/(tr K/n) + εI), free of the output scale, which goes to
    ``ntk/log_scale`` = log(tr K/n); ``ntk/log_det_rate`` per step, positive when the kernel expands
    towards isotropy; ``ntk/effective_rank`` = exp of the entropy of the eigenvalues;
    ``ntk/stable_rank`` = tr K/λ_1. Intervals are grouped jackknives over probe examples. The null
    of the rate is what redrawing the probe at frozen weights would read; with the fixed probe used
    here, lr = 0 reads exactly 0.

    Args:
        examples: How many training inputs make the probe; the first ones are taken and kept.
        epsilon: Ridge relative to the mean eigenvalue.

    Raises:
        ValueError: If ``examples`` is below 16 or ``epsilon`` is not positive.

    Examples:
        >>> Ntk(examples=32).examples
        32
    """

    examples: int = 64
    epsilon: float = 1e-4
    name: str = "ntk"
    needs: frozenset[str] = frozenset({"probe", "inputs"})
    price: float = 20.0
    stride: int = 0

    def __post_init__(self) -> None:
        if self.examples < 16:
            raise ValueError(f"The `examples` of `Ntk` must be at least 16. Got {self.examples}.")
        if not self.epsilon > 0:
            raise ValueError(f"The `epsilon` of `Ntk` must be positive. Got {self.epsilon}.")

    @property
    def series(self) -> tuple[SeriesInfo, ...]:
        """What every measurement writes."""
        return (
            SeriesInfo("ntk/log_det", "log-determinant of the scaled kernel", "nat", "lr = 0"),
            SeriesInfo("ntk/log_scale", "log of the kernel's mean eigenvalue", "nat", "lr = 0"),
            SeriesInfo("ntk/log_det_rate", "rate of the log-determinant", "nat/step", "0"),
            SeriesInfo("ntk/effective_rank", "effective rank of the kernel", "1", "lr = 0"),
            SeriesInfo("ntk/stable_rank", "stable rank of the kernel", "1", "lr = 0"),
        )

    def init(self) -> tuple[NtkState | None, int]:
        """No earlier record to take a rate from."""
        return None, 0

    def update(
        self, state: tuple[NtkState | None, int], moment: Moment
    ) -> tuple[tuple[NtkState | None, int], Readings]:
        """Measure at one moment."""
        assert moment.probe is not None
        inputs = probe_inputs(moment.probe, self.examples)
        if len(inputs) < 16:
            sentence = "The probe has fewer than 16 training inputs, too few for an interval."
            missing = Estimate.missing(sentence, n=len(inputs))
            return state, Readings({name: missing for name in SERIES})
        gram = ntk_gram(moment.view, moment.probe, inputs).cpu().numpy()
        previous, then = state
        scalars, record = ntk_summary(
            gram,
            epsilon=self.epsilon,
            previous=previous,
            dt=None if previous is None else moment.step - then,
        )
        return (record, moment.step), Readings(scalars)


def probe_inputs(probe: Probe, examples: int) -> Tensor:
    """The first training inputs of the probe.

    Args:
        probe: The probe.
        examples: How many.

    Returns:
        ``(examples, ...)``, fewer if there are fewer.

    Raises:
        ValueError: If the probe has no tensor of training inputs.
    """
    pair = labelled(probe)
    if pair is None or not isinstance(pair[0], Tensor):
        raise ValueError(
            "The tangent kernel needs a tensor of training inputs. Pass "
            "`Probe(train=(inputs, labels))`, or batches that are pairs (inputs, labels)."
        )
    return pair[0][:examples]
