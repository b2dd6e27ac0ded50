"""Two trainings on real data, each split in three: to train, to choose a rate, to judge."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

#: Seeds below it choose rates by the validation examples; from it on the test examples judge.
TEST_SEEDS = 100


@dataclass(frozen=True)
class Task:
    """How a task is trained.

    Args:
        optimizer: ``sgd`` or ``adamw``.
        middle: Of the grid of rates.
        units: Budget; about where a constant rate still gains from more of it.
        every: Steps between measurements.
    """

    optimizer: type[torch.optim.Optimizer]
    middle: float
    units: int
    every: int


TASKS = {
    "digits": Task(torch.optim.SGD, 0.5, 600, 25),
    "characters": Task(torch.optim.AdamW, 3e-3, 1500, 50),
}


@dataclass(frozen=True)
class Data:
    """Training and judging examples, a fresh model, and the number of classes."""

    x: Tensor
    y: Tensor
    judge: tuple[Tensor, Tensor]
    model: nn.Module
    classes: int


def data(task: str, seed: int) -> Data:
    """A task at a seed: the split in three is fixed, the weights are the seed's."""
    last = seed >= TEST_SEEDS
    if task == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        x = torch.tensor(digits.data / 16.0, dtype=torch.float32)
        y = torch.tensor(digits.target)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        x, y = x[order], y[order]
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        held = slice(1500, None) if last else slice(1200, 1500)
        return Data(x[:1200], y[:1200], (x[held], y[held]), model, 10)
    from foreshock.experiments.character_policy import (
        CHARACTERS,
        CONTEXT,
        CharacterPolicy,
        encode,
        source_lines,
    )

    windows = encode("\n" * CONTEXT + "".join(source_lines()[:4000])).unfold(0, CONTEXT + 1, 1)
    # Whole stretches of text: a window of one part shares no character with another part.
    cut = int(0.9 * len(windows))
    held = windows[cut + CONTEXT :][4000 + CONTEXT if last else 0 :][:4000]
    torch.manual_seed(seed)
    return Data(
        windows[:cut, :-1],
        windows[:cut, -1],
        (held[:, :-1], held[:, -1]),
        CharacterPolicy(),
        len(CHARACTERS),
    )


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy of a batch."""
    return functional.cross_entropy(model(batch[0]), batch[1])
