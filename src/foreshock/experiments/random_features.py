"""Double descent where the answer is known: least squares on random features, without a ridge.

A linear target in d = 30 dimensions, n = 200 noisy examples, N random ReLU features, the solution
of least norm. Its test error falls with N, rises without bound towards N = n, where the training
error reaches 0 by the one solution there is, and falls again below the first valley.

``relu``: the phenomenon. ``isotropic``: an oracle beside it; the features are the Gaussian inputs
themselves, and the expected risk is known for every n and N (`isotropic_risk`). The nulls of
``relu`` change one thing each. ``ridge``: the ridge is the best of a grid on inputs that are not
the test inputs; there is no peak. ``noiseless``: labels without noise; what is left of the peak is
the part of the target that N features cannot express, which acts as noise does.

A run is one seed over a grid of N, and its steps are the values of N: nothing is trained and no
monitor is attached. It shows where the peak is and that noise and the smallest singular value make
it. It cannot show anything about gradient noise or training time.

Belkin, Hsu, Ma and Mandal, PNAS 116 (2019) 15849; Hastie, Montanari, Rosset and Tibshirani, Ann.
Stat. 50 (2022) 949; Nakkiran, Venkat, Kakade and Ma (2021, arXiv:2003.01897) for the ridge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from foreshock.experiments.random_feature_curves import PROMINENCE, check, figure, peak
from foreshock.experiments.ridge_solution import fit, isotropic_risk
from foreshock.experiments.setup import Experiment, at_least, conclude, milestone, one_of
from foreshock.store import Run
from foreshock.types import Detector, Estimate, Observable, OnAlarm

Array = NDArray[np.float64]
Variant = Literal["relu", "isotropic", "ridge", "noiseless"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)

#: N/n of the grid. It holds 1 exactly and is dense there: the peak is a fiftieth of n wide.
RATIOS = (
    *(0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99, 1.0, 1.01, 1.025, 1.05, 1.1),
    *(1.25, 1.5, 2.0, 3.0, 5.0, 10.0),
)
#: Ridges that are tried, in units of the mean squared feature.
RIDGES = np.geomspace(1e-4, 1e4, 41)
PEAK = (
    f"The N of the interior maximum of the test error that stands out most, {PROMINENCE:g} times "
    "or more from the valleys on both sides."
)


@dataclass(frozen=True)
class RandomFeatures:
    """Configuration of one seed over the grid of N.

    Args:
        variant: ``relu``; the oracle ``isotropic``; the nulls ``ridge`` and ``noiseless``.
        seed: Seed of target, examples and features.
        examples: n.
        dimension: d, of the inputs; ``isotropic`` has N of them instead.
        noise: Standard deviation of the labels' noise; 0 in ``noiseless`` whatever is said here.
            The target has norm 1.
        tests: Test inputs, and as many others that the ridge is chosen on.
    """

    variant: Variant = "relu"
    seed: int = 0
    examples: int = 200
    dimension: int = 30
    noise: float = 0.3
    tests: int = 2000

    def __post_init__(self) -> None:
        one_of(self, variant=VARIANTS)
        at_least(self, examples=20, dimension=1, noise=0, tests=1)

    @property
    def sigma(self) -> float:
        """Noise of the labels, as the variant has it."""
        return 0.0 if self.variant == "noiseless" else self.noise

    @property
    def grid(self) -> tuple[int, ...]:
        """Values of N, ascending; n is one of them."""
        return tuple(sorted({round(ratio * self.examples) for ratio in RATIOS}))


class Data(NamedTuple):
    """Noisy training examples; test and validation inputs with the target's own values.

    ``inputs`` are ``(n, d)``, ``labels`` ``(n,)``; ``weights`` are the features' ``(N max, d)``.
    """

    inputs: Array
    labels: Array
    test: tuple[Array, Array]
    validation: tuple[Array, Array]
    weights: Array


def make_data(config: RandomFeatures) -> Data:
    """Gaussian inputs, a linear target of norm 1, Gaussian features; one generator per part.

    Args:
        config: Sizes, noise and seed.

    Returns:
        The data. Variants of a seed share everything but the noise's scale.
    """
    streams = np.random.SeedSequence(config.seed).spawn(6)
    target, train, noise, test, other, features = (np.random.default_rng(s) for s in streams)
    n, d = config.examples, config.dimension
    beta = target.standard_normal(d)
    beta /= np.linalg.norm(beta)
    inputs = train.standard_normal((n, d))
    labels = inputs @ beta + config.sigma * noise.standard_normal(n)
    tests, others = (g.standard_normal((config.tests, d)) for g in (test, other))
    return Data(
        inputs,
        labels,
        (tests, tests @ beta),
        (others, others @ beta),
        features.standard_normal((config.grid[-1], d)),
    )


def features(inputs: Array, weights: Array) -> Array:
    """ReLU features ``(m, N)`` of inputs ``(m, d)``, scaled so that their norm does not grow."""
    return np.maximum(inputs @ weights.T, 0.0) / np.sqrt(len(weights))


def isotropic_seed(config: RandomFeatures, features: int) -> dict[str, float]:
    """One draw of the oracle's problem with N features: its risk is a norm, no test input needed.

    Args:
        config: Sizes, noise and seed.
        features: N.

    Returns:
        Test and training error, and the norm of the solution.
    """
    generator = np.random.default_rng([config.seed, features])
    beta = generator.standard_normal(features)
    beta /= np.linalg.norm(beta)
    inputs = generator.standard_normal((config.examples, features))
    labels = inputs @ beta + config.sigma * generator.standard_normal(config.examples)
    found = fit(inputs, labels).coefficients(0.0)
    return {
        "test_mse": float(np.sum((found - beta) ** 2)),
        "train_mse": float(np.mean((inputs @ found - labels) ** 2)),
        "coefficient_norm": float(np.linalg.norm(found)),
    }


def relu_seed(config: RandomFeatures, data: Data, count: int) -> dict[str, float]:
    """Fit N = ``count`` features and measure the distance to the target on fresh inputs.

    Args:
        config: The variant decides on the ridge.
        data: Examples and features, of which the first N are taken.
        count: N.

    Returns:
        Test and training error, the norm of the solution, the ridge and the smallest singular value
        of the design.
    """
    weights = data.weights[:count]
    design = features(data.inputs, weights)
    found = fit(design, data.labels)
    ridge = 0.0
    if config.variant == "ridge":
        inputs, truth = data.validation
        seen, unit = features(inputs, weights), float(np.mean(design**2)) * count
        tried = [(np.mean((seen @ found.coefficients(r * unit) - truth) ** 2), r) for r in RIDGES]
        ridge = min(tried)[1] * unit
    solution = found.coefficients(ridge)
    inputs, truth = data.test
    return {
        "test_mse": float(np.mean((features(inputs, weights) @ solution - truth) ** 2)),
        "train_mse": float(np.mean((design @ solution - data.labels) ** 2)),
        "coefficient_norm": float(np.linalg.norm(solution)),
        "ridge": ridge,
        "smallest_singular": float(found.values[-1]),
    }


#: What the series are, for the record. The step is N.
TITLES = {
    "test_mse": "Mean squared distance to the target on fresh inputs; the step is N",
    "train_mse": "Mean squared error on the training labels; the step is N",
    "coefficient_norm": "Norm of the solution; the step is N",
    "ridge": "Ridge; the step is N",
    "smallest_singular": "Smallest singular value of the design; the step is N",
    "exact_mse": "Expected test error, closed form; the step is N",
}


def run(
    config: RandomFeatures,
    path: str | Path,
    *,
    observables: Iterable[str | Observable] | str | None = None,
    detectors: Iterable[str | Detector] = (),
    on_alarm: OnAlarm | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Run:
    """Fit every N of the grid at one seed and record where the test error is largest.

    Args:
        config: What to fit.
        path: Folder of the run.
        observables: Not used: nothing is trained, so there is nothing to observe.
        detectors: Not used.
        on_alarm: Not used.
        progress: Called with the values of N done and their number.

    Returns:
        The run, closed and opened again for reading.

    Examples:
        >>> import tempfile
        >>> config = RandomFeatures(examples=40, dimension=6, tests=200)
        >>> recorded = run(config, tempfile.mkdtemp() + "/rf")
        >>> [event.payload["name"] for event in recorded.events("milestone")]
        ['peak']
    """
    data = None if config.variant == "isotropic" else make_data(config)
    with Run.create(path, kind="random_features", config=asdict(config), seed=config.seed) as run:
        errors = []
        for index, count in enumerate(config.grid):
            if data is None:
                told: dict[str, Any] = isotropic_seed(config, count)
                exact = isotropic_risk(config.examples, count, config.sigma)
                if np.isfinite(exact):
                    told["exact_mse"] = Estimate.exact(exact)
            else:
                told = relu_seed(config, data, count)
            for name in told:
                run.declare(name, title=TITLES[name], taken_at="one fit with N features")
            run.append(count, told)
            errors.append(told["test_mse"])
            progress(index + 1, len(config.grid))
        at = peak(np.array(errors))
        place = None if at is None else config.grid[at]
        milestone(run, "peak", PEAK, place)
        conclude(run, {"peak": place, "largest": max(errors), "last": errors[-1]})
    return Run.open(path)


EXPERIMENT = Experiment(
    config=RandomFeatures,
    run=run,
    label=lambda config: config.variant,
    variants=VARIANTS,
    check=check,
    figure=figure,
    small={"examples": 40, "dimension": 8, "tests": 200},
    seconds={"small": 0.45, "relu": 0.71, "isotropic": 0.56, "ridge": 0.91, "noiseless": 0.64},
)
