"""
Double descent, and p beside it
===============================

Least squares on N random ReLU features and 100 noisy examples. The error of the least-norm solution
peaks at N = n. The document *signal* explains the peak by the alignment of gradients: p = C/(1 + C)
should be 0.5 at the peak and above it for wider models, C being the squared mean gradient of a
batch over its variance. This script trains the same models by gradient descent in batches, measures
C on the way, and draws both against N/n.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

import foreshock as fs
from foreshock.estimators import GradientNoise
from foreshock.experiments import random_features
from foreshock.experiments.random_feature_curves import curves
from foreshock.experiments.random_features import RandomFeatures
from foreshock.stats.sample import mean_interval

torch.set_num_threads(1)
EXAMPLES, BATCH, PROBES = 100, 10, 100
LOOKS, SEEDS = (0, 200), range(4)
COUNTS = (25, 50, 75, 90, 100, 110, 125, 200, 400)
folder = Path(tempfile.mkdtemp())

# %%
# The curve
# ---------
# Ten seeds over the grid of N, in closed form: the solution of least norm. Full-batch
# gradient descent from 0 ends there after infinite time; SGD does too where N >= n and not below.

runs = [
    random_features.run(RandomFeatures(seed=seed, examples=EXAMPLES, tests=500), folder / f"{seed}")
    for seed in range(10)
]
points, errors = curves(runs)
median = np.median(errors, axis=0)
at_peak = points[errors.argmax(1)]
print(f"largest error at N = n in {(at_peak == EXAMPLES).sum()} of {len(runs)} seeds")
assert points[median.argmax()] == EXAMPLES
assert median[points == EXAMPLES] > 5 * median[points == 200]

# %%
# C on the way
# ------------
# The data and features of four seeds, a linear readout trained by SGD from 0 with batches of 10.
# The monitor measures C on 100 fresh batches, before the first step and at step 200. Intervals are
# Student's over the seeds.


def loss_of(model, batch):
    """Half the mean squared error."""
    return 0.5 * (model(batch[0]) - batch[1]).square().mean()


def c_per_example(seed: int, count: int) -> list[float]:
    """C of one example, C/B, at the steps of `LOOKS`, for N = ``count``."""
    data = random_features.make_data(RandomFeatures(seed=seed, examples=EXAMPLES, tests=500))
    labels = torch.tensor(data.labels)[:, None]
    inputs = torch.tensor(random_features.features(data.inputs, data.weights[:count]))
    model = torch.nn.Linear(count, 1, bias=False, dtype=torch.float64)
    torch.nn.init.zeros_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(1000 * seed + count)

    def draw(step: int):
        own = torch.Generator().manual_seed(1000 * seed + step)
        rows = torch.randint(EXAMPLES, (PROBES, BATCH), generator=own)
        return [(inputs[row], labels[row]) for row in rows]

    probe = fs.Probe(loss=loss_of, batches=draw, sampling="replacement")
    path, noise = folder / f"sgd-{seed}-{count}", [GradientNoise()]
    with fs.attach(
        model, optimizer, run=path, probe=probe, observables=noise, every=LOOKS[1]
    ) as watch:
        for _ in range(LOOKS[-1] + 1):
            rows = torch.randint(EXAMPLES, (BATCH,), generator=generator)
            loss = loss_of(model, (inputs[rows], labels[rows]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watch.log(loss=loss)
    with fs.Run.open(path) as recorded:
        series = recorded.series("grad/snr_per_example")
        steps = series.step.tolist()
        return [float(series.value[steps.index(step)]) for step in LOOKS]


measured = np.array([[c_per_example(seed, count) for count in COUNTS] for seed in SEEDS])


def p_of(look: int, batch: int) -> np.ndarray:
    """p = C/(1 + C) as published, C = B C_1, ``(seeds, N)``; an estimate below 0 counts as 0."""
    c = np.maximum(measured[:, :, look], 0.0) * batch
    return c / (1 + c)


def table(look: int, batch: int) -> np.ndarray:
    """Mean of p over seeds and both ends of its 95 % interval, ``(N, 3)``."""
    told = [mean_interval(column) for column in p_of(look, batch).T]
    return np.array([[one.value, one.low, one.high] for one in told])


# %%
# What it shows: p at N = n is what batch size and time make it. C of a batch is B times C of one
# example, so averaging over more examples raises p; as the loss falls it becomes smaller. So there
# is a batch size and a time at which p is 0.5 at N = n, the number the document names: with batches
# of 100 it falls from 0.7 to 0.4 by step 200, and that interval holds 0.5. What singles N = n out
# is the other question: the difference between p there and its mean at the neighbours 90 and 110,
# seed by seed. No interval excludes 0. At the start they are narrow; at step 200 four seeds cannot
# tell a tenth or two.

peak = COUNTS.index(EXAMPLES)
for look, step in enumerate(LOOKS):
    for batch in (BATCH, 100):
        p, low, high = table(look, batch)[peak]
        own = p_of(look, batch)
        paired = mean_interval(own[:, peak] - (own[:, peak - 1] + own[:, peak + 1]) / 2)
        assert paired.low < 0 < paired.high
        assert look or paired.high - paired.low < 0.05
        print(
            f"N = n, step {step:>3}, batches of {batch:>3}: p = {p:.2f} [{low:.2f}, {high:.2f}], "
            f"minus the neighbours' {paired.value:+.3f} [{paired.low:+.3f}, {paired.high:+.3f}]"
        )
small, large, late = table(0, BATCH), table(0, 100), table(1, 100)
assert late[peak, 1] < 0.5 < late[peak, 2]
assert small[peak, 2] < 0.5 < large[peak, 1]  # the two intervals lie on either side
for batch in (BATCH, 100):  # and later it is smaller, at either batch size
    assert (p_of(1, batch)[:, peak] < p_of(0, batch)[:, peak]).all()
# At the start p is nearly the same at every N, where the error has a peak of a hundred times.
assert np.ptp(small[:, 0]) < 0.1

# %%
# What it does not show: gradient descent ends at the least-norm solution only in the limit, and
# near N = n, with its tiny smallest singular value, that limit is far away. So p was not measured
# at the solution whose error is drawn. There the mean gradient is 0, so C is 0 for N < n, and for
# N >= n every gradient is 0 and C is 0/0: the number the document gives has no meaning at that
# point.

import matplotlib.pyplot as plt  # noqa: E402

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
low, high = np.quantile(errors, [0.25, 0.75], axis=0)
left.loglog(points / EXAMPLES, median, color="#0072B2", label="median, quartiles")
left.fill_between(points / EXAMPLES, low, high, color="#0072B2", alpha=0.2, lw=0)
left.set(xlabel="features per example, N/n", ylabel="excess test error", title="Double descent")
left.legend(frameon=False)
ratios = np.array(COUNTS) / EXAMPLES
looks = [(0, BATCH, "#0072B2"), (1, BATCH, "#56B4E9"), (0, 100, "#D55E00"), (1, 100, "#E69F00")]
for place, (look, batch, colour) in enumerate(looks):
    values, bottom, top = table(look, batch).T
    right.errorbar(
        ratios * 1.02 ** (place - 1.5),  # side by side
        values,
        [values - bottom, top - values],
        fmt="o",
        ms=3,
        lw=1,
        color=colour,
        label=f"step {LOOKS[look]}, B = {batch}",
    )
right.axhline(0.5, color="#6F7680", lw=1, ls=":")
right.set(xscale="log", xlabel="features per example, N/n", ylabel="p = C/(1 + C)", ylim=(0, 1.15))
right.set_xticks([0.25, 0.5, 1, 2, 4], labels=["0.25", "0.5", "1", "2", "4"])
right.minorticks_off()
right.set_title(f"p in training, {len(SEEDS)} seeds, 95 %")
right.legend(frameon=False, fontsize=7, ncols=2, loc="upper center")
for one in (left, right):
    one.axvline(1, color="#6F7680", lw=0.8, ls=(0, (2, 2)), zorder=0)
