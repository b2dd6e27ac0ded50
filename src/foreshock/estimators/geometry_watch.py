"""`Geometry`: the curvature of function space, watched along a run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from foreshock.estimators.geometry import damping, squared_length, times_length
from foreshock.estimators.geometry_planes import (
    BASES,
    over_bases,
    read_curvature,
    sectional_of,
    slice_of,
)
from foreshock.estimators.lanczos import lanczos
from foreshock.estimators.model_outputs import Outputs, model_outputs
from foreshock.estimators.ntk import probe_inputs
from foreshock.estimators.probe_hessian import probe_product
from foreshock.probe.moment import Moment
from foreshock.probe.quiet import quiet
from foreshock.types import Estimate, Readings, SeriesInfo

#: Planes beside that of the gradient and the update.
PLANES = ("random", "hessian")


@dataclass(frozen=True)
class Geometry:
    """Curvature of function space in the plane of the gradient and the update, after each update.

    ``geometry/sectional_curvature`` is that of the damped metric J'J + εI, with ε frozen at the
    first record; ``geometry/slice_curvature`` that of the flat sheet of weights, another object
    (see `foreshock.estimators.geometry`); both in 1/output². ``geometry/step_curvature`` is the
    first times the squared length of the update in the metric, a pure number that can be compared
    between runs. The gradient is that of the probe's batches at the same weights, not the one the
    step used, which for plain SGD is the update itself.

    **Dear.** N outputs on the probe (examples times outputs of each) cost N backward passes and N
    float64 gradients of memory, once a record, and every plane 18 double and 4 single forward
    derivatives, all in float64. Meant for models of up to some 10^5 weights and some 10 outputs;
    beyond ``memory`` it says so and measures nothing.

    Args:
        examples: Training inputs of the probe that f is taken on; the first ones.
        planes: Other planes, written as ``name@random`` (two Gaussian directions, drawn anew at
            each step) and ``name@hessian`` (two leading Ritz vectors of ``hessian_steps`` Lanczos
            steps on the first batch of the probe; how well they converged is not followed up).
        relative: ε over the mean eigenvalue of JJ', at the first record.
        hessian_steps: Hessian products behind the Hessian plane.
        memory: GiB that the N gradients may take.
        seed: Seed of the random directions.

    Raises:
        ValueError: If a plane is unknown, or ``examples``, ``relative``, ``hessian_steps`` or
            ``memory`` is too small.

    Examples:
        >>> Geometry(planes=("fisher",))
        Traceback (most recent call last):
        ...
        ValueError: The `planes` of `Geometry` must be among ('random', 'hessian'). Got 'fisher'.
    """

    examples: int = 16
    planes: tuple[str, ...] = ()
    relative: float = 1e-3
    hessian_steps: int = 20
    memory: float = 1.0
    seed: int = 0
    name: str = "geometry"
    needs: frozenset[str] = frozenset({"probe", "inputs", "update"})
    price: float = 300.0
    stride: int = 0

    def __post_init__(self) -> None:
        for plane in self.planes:
            if plane not in PLANES:
                raise ValueError(
                    f"The `planes` of `Geometry` must be among {PLANES}. Got {plane!r}."
                )
        for field, least in (("examples", 1), ("hessian_steps", 2)):
            if getattr(self, field) < least:
                raise ValueError(
                    f"The `{field}` of `Geometry` must be at least {least}. "
                    f"Got {getattr(self, field)}."
                )
        for field in ("relative", "memory"):
            if not getattr(self, field) > 0:
                raise ValueError(
                    f"The `{field}` of `Geometry` must be positive. Got {getattr(self, field)}."
                )
        object.__setattr__(self, "planes", tuple(self.planes))

    @property
    def series(self) -> tuple[SeriesInfo, ...]:
        """What every measurement writes."""
        return _SERIES

    def init(self) -> float | None:
        """No damping yet: the first record chooses it."""
        return None

    def update(self, state: float | None, moment: Moment) -> tuple[float | None, Readings]:
        """Measure at one moment, after an update."""
        assert moment.probe is not None
        if moment.update is None:
            return state, self._missing("There was no update to span a plane with.")
        outputs, theta = model_outputs(
            moment.view, moment.probe, probe_inputs(moment.probe, self.examples)
        )
        with torch.no_grad():
            rows = outputs(theta).numel()
        needed = 8 * rows * len(theta) / 2**30
        if needed > self.memory:
            return state, self._missing(
                f"The Jacobian of {rows} outputs by {len(theta)} weights takes {needed:.1f} GiB, "
                f"more than the {self.memory:g} allowed; take fewer `examples` or more `memory`."
            )
        try:
            epsilon = damping(outputs, theta, relative=self.relative) if state is None else state
        except ValueError:
            sentence = "The outputs do not depend on the weights, or not in a finite way."
            return state, self._missing(sentence)
        except (RuntimeError, NotImplementedError) as error:
            return state, self._missing(_refused(error))
        try:
            return epsilon, self._measure(outputs, theta, epsilon, moment)
        except (RuntimeError, NotImplementedError) as error:
            return epsilon, self._missing(_refused(error))

    def _measure(self, outputs: Outputs, theta: Tensor, epsilon: float, moment: Moment) -> Readings:
        """All planes, in one transfer."""
        assert moment.update is not None
        sectional = sectional_of(outputs, theta, epsilon)
        if sectional is None:
            return self._missing("The derivative of the outputs is not finite.")
        step = torch.cat([part.reshape(-1) for part in moment.update]).to(theta)
        numbers = [squared_length(outputs, theta, step, epsilon)[None]]
        names = ("", *(f"@{plane}" for plane in self.planes))
        for plane in (None, *self.planes):
            u, v = self._directions(plane, step, moment)
            curvatures = [sectional, slice_of(epsilon)]
            numbers.append(over_bases(outputs, theta, u, v, epsilon, curvatures).reshape(-1))
        length, *rest = torch.cat(numbers).tolist()
        table = np.array(rest).reshape(len(names), 2, 3 * BASES + 1)
        scalars = {}
        for name, (of_metric, of_slice) in zip(names, table, strict=True):
            curvature = read_curvature(of_metric)
            scalars[f"geometry/sectional_curvature{name}"] = curvature
            scalars[f"geometry/slice_curvature{name}"] = read_curvature(of_slice)
            scalars[f"geometry/step_curvature{name}"] = times_length(curvature, length)
        return Readings(scalars)

    def _directions(self, plane: str | None, step: Tensor, moment: Moment) -> tuple[Tensor, Tensor]:
        """The two directions of a plane, in float64."""
        if plane == "random":
            generator = torch.Generator().manual_seed((self.seed << 32) + moment.step)
            u, v = torch.randn(2, len(step), generator=generator, dtype=step.dtype).to(step.device)
            return u, v
        if plane == "hessian":
            with quiet(self.seed):
                product = probe_product(moment, "batch")
                start = torch.randn(len(step), dtype=product.dtype).to(step.device)
                vectors = lanczos(product, start, min(self.hessian_steps, len(step))).vectors
            # One weight has one direction: parallel, and said so.
            return vectors[0].to(step), vectors[-1].to(step)
        gradient = torch.zeros_like(step)
        for batch in moment.batch_gradients:
            gradient += torch.cat([part.reshape(-1) for part in batch.gradient]).to(step)
        return gradient, step

    def _missing(self, sentence: str) -> Readings:
        """Nothing can be said, and why."""
        return Readings({info.name: Estimate.missing(sentence) for info in _SERIES})


def _refused(error: Exception) -> str:
    """What torch cannot differentiate twice forward, in a sentence."""
    return f"Torch cannot take the derivatives: {type(error).__name__}: {str(error)[:200]}"


_SERIES = (
    SeriesInfo(
        "geometry/sectional_curvature",
        "sectional curvature of function space",
        "1/output²",
        "0: flat, and its limit for ε to 0 with more weights than outputs",
        layered=True,
        formula="(f_uu'P f_vv - f_uv'P f_uv)/area², P = ε(JJ' + εI)^-1, metric J'J + εI",
        oracle="S³ in tilted planes; Riemann tensor by automatic differentiation",
        source="levy.md, prediction 4; equation of Gauss",
    ),
    SeriesInfo(
        "geometry/slice_curvature",
        "Gauss curvature of the flat slice of weights",
        "1/output²",
        "0: the sheet is not bent",
        layered=True,
        formula="(f_uu'Q f_vv - f_uv'Q f_uv)/area², Q the projection off Ju and Jv",
        oracle="z = xy and spheres in closed form",
        source="levy.md, prediction 4",
    ),
    SeriesInfo(
        "geometry/step_curvature",
        "sectional curvature times the squared length of the update",
        "1",
        "0 at lr = 0, or where function space is flat",
        layered=True,
        formula="K (|JΔθ|² + ε|Δθ|²)",
        oracle="unchanged when outputs and sqrt(ε) are multiplied by one number",
        source="signal.md 8",
    ),
)
