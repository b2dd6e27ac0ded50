"""Training losses of real runs: modular arithmetic, handwritten digits, source text.

Mini-batch losses of every step, healthy by construction: settings that are known to train, none
picked after a look at its curve. ``characters`` took no part in tuning.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import median_filter
from torch import nn
from torch.nn import functional

from foreshock.experiments import character_policy, grokking

Array = NDArray[np.float64]


def grokked(task: grokking.Task, variant: grokking.Variant, seed: int) -> Array:
    """The training loss of one run of the grokking experiment."""
    config = grokking.Grokking(task, variant, seed, observables="none")
    with (
        tempfile.TemporaryDirectory() as folder,
        grokking.run(config, Path(folder) / "run", detectors=[]) as run,
    ):
        return np.asarray(run.series("loss").value, dtype=np.float64)


def digits_data() -> tuple[torch.Tensor, torch.Tensor]:
    """Scikit-learn's 1,797 digits of 8 by 8, (n, 1, 8, 8) and labels."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels / 16.0, dtype=torch.float32).reshape(-1, 1, 8, 8)
    return images, torch.tensor(labels)


def digits(kind: str, seed: int, steps: int = 1500) -> Array:
    """A small network on the digits, batches of 64, and a learning rate that drops twice by 3."""
    torch.manual_seed(seed)
    images, labels = digits_data()
    model: nn.Module
    if kind == "mlp":
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    else:
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10),
        )  # fmt: skip
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(seed)
    losses = np.empty(steps)
    for step in range(steps):
        if step in (steps // 2, 3 * steps // 4):
            optimizer.param_groups[0]["lr"] /= 3
        chosen = torch.randint(len(images), (64,), generator=generator)
        loss = functional.cross_entropy(model(images[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses[step] = loss.item()
    return losses


def small_batches(batch: int, rate: float, seed: int, steps: int = 5000) -> Array:
    """The MLP of `digits` on one digit or a few at a time, far into what it knows by heart."""
    torch.manual_seed(seed)
    images, labels = digits_data()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    generator = torch.Generator().manual_seed(seed)
    losses = np.empty(steps)
    for step in range(steps):
        chosen = torch.randint(len(images), (batch,), generator=generator)
        loss = functional.cross_entropy(model(images[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses[step] = loss.item()
    return losses


def characters(seed: int, steps: int = 1500) -> Array:
    """The character model of `foreshock.experiments.character_policy`, trained anew."""
    torch.manual_seed(seed)
    model = character_policy.CharacterPolicy()
    text = "\n" * character_policy.CONTEXT + "".join(character_policy.source_lines())
    windows = character_policy.encode(text).unfold(0, character_policy.CONTEXT + 1, 1)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = np.empty(steps)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / steps)
        window = windows[torch.randint(len(windows), (128,), generator=generator)]
        loss = functional.cross_entropy(model(window[:, :-1]), window[:, -1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses[step] = loss.item()
    return losses


#: Families of real runs: a loss from a seed, and how many of them three minutes allow.
REAL: dict[str, tuple[Callable[[int], Array], int]] = {
    "p23 grok": (lambda seed: grokked("p23", "grok", seed), 10),
    "p23 null:labels": (lambda seed: grokked("p23", "labels", seed), 10),
    "p59 grok": (lambda seed: grokked("p59", "grok", seed), 5),
    "p59 null:labels": (lambda seed: grokked("p59", "labels", seed), 5),
    "p59 null:decay": (lambda seed: grokked("p59", "decay", seed), 4),
    "digits MLP": (lambda seed: digits("mlp", seed), 8),
    "digits CNN": (lambda seed: digits("cnn", seed), 5),
    "digits MLP, batch 16": (lambda seed: small_batches(16, 5e-3, seed), 8),
    "digits MLP, batch 1": (lambda seed: small_batches(1, 1e-3, seed), 8),
    "characters": (characters, 8),
}
UNSEEN = ("characters",)


def real_runs(most: int, first: int) -> Iterator[tuple[str, Array]]:
    """At most ``most`` runs of every family."""
    torch.set_num_threads(1)
    for family, (draw, count) in REAL.items():
        for seed in range(first, first + min(most, count)):
            yield family, draw(seed)


def planted_in(losses: Array) -> dict[str, tuple[Array, int]]:
    """A real loss with something planted after 60 % of it, and where.

    A jump x3 for 30 steps; or growth from the level reached there on, with the loss's own noise
    about its running median of 21 values.
    """
    at = 6 * len(losses) // 10
    since = np.arange(len(losses)) - at
    held = (since >= 0) & (since < 30)
    logs = np.log(np.maximum(losses, 1e-12))  # one digit that is known may cost nothing at all
    level = median_filter(logs, 21)
    grown = logs - level + level[at] + since / 100
    return {
        "spike x3": (losses * np.where(held, 3.0, 1.0), at),
        "divergence, e-fold 100": (np.exp(np.where(since < 0, logs, grown)), at),
    }
