"""Latent flow through attach on the models people train: nothing is touched, numbers come out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import foreshock as fs
from foreshock.estimators import LatentFlow, PublishedFokkerPlanck
from foreshock.probe import Probe
from tests.cases import CASES, Transformer, loss


class Answers(nn.Module):
    """As model libraries have it: keyword inputs, a padding mask, a mapping as answer."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Transformer()
        self.head = nn.Linear(4, 4)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        logits = self.head(self.encoder(input_ids * attention_mask))
        return {"loss": functional.cross_entropy(logits, labels), "logits": logits}


class Encoder(nn.Module):
    """`nn.TransformerEncoderLayer`, whose fused path skips hooks in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(tokens)).mean(1))


def dict_batch(n: int, seed: int) -> dict[str, Tensor]:
    tokens, labels = CASES["transformer"].batch(n, seed)
    mask = torch.ones_like(tokens)
    mask[: n // 2, -2:] = 0
    return {"input_ids": tokens, "attention_mask": mask, "labels": labels}


def dict_loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
    return model(**batch)["loss"]


@dataclass(frozen=True)
class Setting:
    """A model, what it is trained on, and the layer that is followed."""

    make: Callable[[], nn.Module]
    batch: Callable[[int, int], Any]
    loss: Callable[[Any, Any], Tensor]
    layer: str
    pick: Any = "auto"


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


mlp, cnn, transformer = CASES["mlp"], CASES["cnn"], CASES["transformer"]
SETTINGS = {
    "mlp": Setting(mlp.model, mlp.batch, loss, "body.2"),
    "cnn with batch norm and dropout": Setting(cnn.model, cnn.batch, loss, "norm"),
    "transformer with SDPA": Setting(
        transformer.model, transformer.batch, loss, r"blocks\.0\.down"
    ),
    "its last token": Setting(
        transformer.model, transformer.batch, loss, r"blocks\.0\.down", "last"
    ),
    "compiled": Setting(
        lambda: torch.compile(mlp.model(), backend="eager"), mlp.batch, loss, "body.2"
    ),
    "compiled transformer": Setting(
        lambda: torch.compile(transformer.model(), backend="aot_eager"),
        transformer.batch,
        loss,
        r"blocks\.1\.out",
    ),
    "dict in, dict out": Setting(
        lambda: seeded(Answers), dict_batch, dict_loss, r"encoder\.blocks\.0\.down"
    ),
    "encoder layer": Setting(lambda: seeded(Encoder), transformer.batch, loss, "layer"),
    "penultimate": Setting(transformer.model, transformer.batch, loss, "penultimate"),
}


def trained(setting: Setting, folder: Path | None) -> list[Tensor]:
    """Twelve steps of AdamW, watched or not: the weights and buffers afterwards."""
    model = setting.make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    batches = [setting.batch(48, 500 + i) for i in range(10)]
    watch = None
    if folder is not None:
        watch = fs.attach(
            model,
            optimizer,
            run=folder,
            probe=Probe(setting.loss, batches),
            observables=[
                LatentFlow(setting.layer, pick=setting.pick, classes=True, clusters=2),
                PublishedFokkerPlanck(setting.layer, pick=setting.pick),
            ],
            every=5,
        )
    torch.manual_seed(1)  # dropout
    for step in range(12):
        optimizer.zero_grad()
        setting.loss(model, setting.batch(16, step)).backward()
        optimizer.step()
    if watch is not None:
        watch.close()
    return [t.detach().clone() for t in model.state_dict().values()]


@pytest.mark.parametrize("name", SETTINGS)
def test_numbers_come_out_and_nothing_is_touched(name: str, tmp_path: Path) -> None:
    """Oracle: the same training without the monitor, bitwise."""
    setting = SETTINGS[name]
    bare, watched = trained(setting, None), trained(setting, tmp_path / "run")
    assert all(torch.equal(a, b) for a, b in zip(bare, watched, strict=True))
    with fs.Run.open(tmp_path / "run") as run:
        assert not run.events("observable_off")
        for series in ("drift", "diffusion", "drift_power", "common_noise", "pca_share", "stein"):
            found = run.series(f"latent/{series}")
            assert found.step.tolist() == [0, 5, 10]
            # AdamW has no metric before its first step: the first record says so.
            for i in (1, 2):
                estimate = found.estimate(i)
                assert math.isfinite(estimate.value), (series, estimate)
        # Scores of clouds this small may be refused, with a sentence; the loss has a slope.
        for series in ("published/c_fp", "published/drift_cosine_fp", "published/max_div_j_fp"):
            assert math.isfinite(run.series(series).estimate(2).value), series
        assert len(run.arrays("latent/z")) == 2 and len(run.arrays("latent/basis")) == 1


def test_a_layer_that_is_not_there_is_refused_at_the_door(tmp_path: Path) -> None:
    model = mlp.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probe = Probe(loss, [mlp.batch(16, i) for i in range(8)])
    with pytest.raises(ValueError, match="layer 'bdy' is not in the model. Its layers are: 'body'"):
        fs.attach(
            model, optimizer, run=tmp_path / "run", probe=probe, observables=[LatentFlow("bdy")]
        )
    assert not (tmp_path / "run").exists()
