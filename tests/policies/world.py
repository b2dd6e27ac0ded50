"""A small training run for tests of policies that are carried out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from foreshock.policies import (
    DiffusionBoost,
    Every,
    LatentReset,
    PublishedWeightReset,
    WeightReset,
)
from foreshock.policies.apply import Applier
from foreshock.types import Action, Policy
from tests.cases import CASES, loss

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "foreach": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True, amsgrad=True),
    "fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=2),
}


def action_of(policy: Policy, step: int = 7) -> Action:
    """What the policy does when its clock says so."""
    return policy.update(policy.init(), step, {}, [])[1][0]


ACTIONS = {
    "weight_reset": action_of(WeightReset(on=Every(1))),
    "published_weight_reset": action_of(PublishedWeightReset(on=Every(1))),
    "diffusion_boost": action_of(DiffusionBoost(on=Every(1), steps=3)),
    "latent_reset": action_of(LatentReset("drop", on=Every(1), steps=3)),
}


class World:
    """A model with buffers and random draws, an optimizer, and steps of training."""

    def __init__(self, case: str = "cnn", optimizer: str = "sgd") -> None:
        torch.manual_seed(1)
        self.case = CASES[case]
        self.model = self.case.model().train()
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        self.applier = Applier(self.model, self.optimizer, seed=3)

    def step(self, n: int = 1, seed: int = 0) -> list[str]:
        said: list[str] = []
        for i in range(n):
            batch = self.case.batch(16, seed + i)

            def closure(batch: Any = batch) -> Tensor:
                self.optimizer.zero_grad()
                value = loss(self.model, batch)
                value.backward()
                return value

            torch.manual_seed(seed + i)  # the same dropout in every world at this step
            self.applier.before_update()
            self.optimizer.step(closure)
            said += [ended.why for ended in self.applier.after_update()]
        return said

    def state(self) -> Any:
        """Everything of the run, copied."""
        return copy.deepcopy((self.model.state_dict(), self.optimizer.state_dict()))


def bits(value: Any) -> Any:
    """A nested state as something that compares to the bit."""
    if isinstance(value, Tensor):
        return value.dtype, tuple(value.shape), value.detach().numpy().tobytes()
    if isinstance(value, dict):
        return {k: bits(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [bits(v) for v in value]
    return value


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])
