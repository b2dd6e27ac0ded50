"""Three-digit addition: an ability that emerges, by one measure of it and not by another.

A small decoder reads ``123+456=`` and writes the four digits of the sum, units first, so that each
digit needs only what is already there (Lee and others 2023). Training pairs are fresh at every
step; 500 pairs and their mirror images never occur. Every evaluation takes three measures of the
same answers: exact match, the share of right digits, and the loss a digit. Exact match rises
abruptly where the share of right digits climbs, for it needs four of them at once, and were digits
right independently it would be at most the fourth power of their share: how suddenly an ability
emerges depends on the measure (Schaeffer and others 2023).

``reversed`` is the phenomenon, ``plain`` writes the digits in the usual order, which is slower. The
nulls change one thing each. ``labels``: sums are dealt out to the pairs at random, once, so that
their frequencies stay and there is nothing to learn but those. ``frozen``: learning rate 0.
``size`` is the model.

A run shows how three measures of one thing rise. It does not show whether anything inside the
network is sudden, and emergence with model size is a matter of sizes that were trained alike, for
which `size` is here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from foreshock.evaluation.events import milestones
from foreshock.experiments.addition_results import ANSWER, MEASURES, check, figure
from foreshock.experiments.decoder import Decoder, cross_entropy, parameters, token_loss
from foreshock.experiments.seeds import reached
from foreshock.experiments.setup import (
    Experiment,
    Preset,
    at_least,
    conclude,
    milestone,
    one_of,
    seeded,
    watch_training,
)
from foreshock.probe import Probe
from foreshock.store import Run
from foreshock.types import Detector, Observable, OnAlarm

Variant = Literal["reversed", "plain", "labels", "frozen"]
Size = Literal["large", "medium", "small"]


class Scale(NamedTuple):
    """What a size stands for; heads are many and narrow, since few stall at one carry too long."""

    layers: int
    width: int
    heads: int
    lr: float
    updates: int


#: Of 101,952, 13,792 and 3,824 parameters.
SIZES = {
    "large": Scale(2, 64, 8, 5e-3, 540),
    "medium": Scale(1, 32, 8, 1e-2, 900),
    "small": Scale(1, 16, 8, 1.5e-2, 1400),
}
#: Updates of the plain order, which is slower.
PLAIN = 1000
#: Updates over which the learning rate rises to its value, and share over which it falls at last.
WARM, COOL = 30, 0.25
#: Digits, the plus and the equals sign.
PLUS, EQUALS, TOKENS = 10, 11, 12
#: Numbers are below it; tokens before the answer.
LIMIT, QUESTION = 1000, 8
RULES = {
    "onset": (
        "first of 3 consecutive evaluations whose 3-point median of the held-out exact match is at "
        "least 0.1"
    ),
    "T50": "first evaluation whose 3-point median of the held-out exact match is at least 0.5",
    "T90": "first evaluation whose 3-point median of the held-out exact match is at least 0.9",
    "exact98": "first evaluation whose 3-point median of the held-out exact match is at least 0.98",
}


@dataclass(frozen=True)
class Addition:
    """Configuration of one run.

    Args:
        variant: ``reversed`` digits, ``plain`` order, or a null: ``labels``, ``frozen``.
        size: Of the model, a name in `SIZES`.
        seed: Seed of initial weights, held-out pairs, training pairs, and of the null's sums.
        steps: Updates; 0 for the horizon of size and variant.
        batch: Fresh pairs an update.
        heldout: Pairs that are never trained on, nor their mirror images.
        evaluate_every: Steps between evaluations.
        observables: Preset of the monitor, or ``none`` to train without it.
        every: Measure every so many steps; 0 for the budget instead.
        budget: Share of wall time, where ``every`` is 0.
    """

    variant: Variant = "reversed"
    size: Size = "large"
    seed: int = 0
    steps: int = 0
    batch: int = 160
    heldout: int = 500
    evaluate_every: int = 5
    observables: Preset = "standard"
    every: int = 0
    budget: float = 0.05

    def __post_init__(self) -> None:
        one_of(self, variant=get_args(Variant), size=get_args(Size))
        at_least(self, steps=0, batch=1, heldout=1, evaluate_every=1, every=0)
        if self.heldout > LIMIT**2 // 4:
            raise ValueError(
                f"The `heldout` of `Addition` must leave most of the {LIMIT**2:,} pairs to train "
                f"on, so be at most {LIMIT**2 // 4:,}. Got {self.heldout:,}."
            )

    @property
    def horizon(self) -> int:
        """Updates to make."""
        slow = PLAIN if self.variant == "plain" else 0
        return self.steps or max(SIZES[self.size].updates, slow)


class Data(NamedTuple):
    """Pairs as numbers 1000 a + b: held out, trained on; and the sum that each pair has."""

    heldout: Tensor
    train: Tensor
    sums: Tensor


def make_data(config: Addition) -> Data:
    """Split the million pairs; no held-out pair is trained on, whichever number comes first.

    Args:
        config: Variant, seed and number of held-out pairs.

    Returns:
        The split and the sums; in the ``labels`` null these are permuted over all pairs.
    """
    generator = torch.Generator().manual_seed(config.seed)
    pairs = torch.arange(LIMIT**2)
    sums = pairs // LIMIT + pairs % LIMIT
    heldout = torch.randperm(LIMIT**2, generator=generator)[: config.heldout]
    free = torch.ones(LIMIT**2, dtype=torch.bool)
    free[heldout] = free[heldout % LIMIT * LIMIT + heldout // LIMIT] = False
    if config.variant == "labels":
        sums = sums[torch.randperm(LIMIT**2, generator=generator)]
    return Data(heldout, free.nonzero()[:, 0], sums)


def digits(numbers: Tensor, count: int) -> Tensor:
    """Numbers ``(n,)`` as their digits ``(n, count)``, the highest first."""
    places = 10 ** torch.arange(count - 1, -1, -1)
    return numbers[:, None] // places % 10


def write(config: Addition, pairs: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs as what the network reads, and what it should say.

    Args:
        config: For the order of the digits.
        pairs: ``(n,)``, 1000 a + b.
        sums: ``(n,)``, of these pairs.

    Returns:
        Tokens ``(n, 11)`` and labels ``(n, 11)``, which are -100 before the answer.

    Examples:
        >>> tokens, labels = write(Addition(), torch.tensor([123_456]), torch.tensor([579]))
        >>> tokens[0].tolist()
        [1, 2, 3, 10, 4, 5, 6, 11, 9, 7, 5]
        >>> labels[0, 7:].tolist()
        [9, 7, 5, 0]
    """
    answer = digits(sums, ANSWER)
    if config.variant != "plain":
        answer = answer.flip(1)
    sign = torch.ones(len(pairs), 1, dtype=torch.long)
    parts = (digits(pairs // LIMIT, 3), PLUS * sign, digits(pairs % LIMIT, 3), EQUALS * sign)
    whole = torch.cat([*parts, answer], dim=1)
    labels = whole[:, 1:].clone()
    labels[:, : QUESTION - 1] = -100
    return whole[:, :-1], labels


def draw_batch(config: Addition, data: Data, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Fresh training pairs, drawn with replacement."""
    chosen = torch.randint(len(data.train), (config.batch,), generator=generator)
    pairs = data.train[chosen]
    return write(config, pairs, data.sums[pairs])


def make_model(config: Addition) -> Decoder:
    """The decoder of this size, initialised from the seed without moving the global generator."""
    of = SIZES[config.size]
    length = QUESTION + ANSWER - 1
    return seeded(
        config.seed,
        lambda: Decoder(TOKENS, length, width=of.width, heads=of.heads, layers=of.layers),
    )


def make_optimizer(config: Addition, model: Decoder) -> torch.optim.Optimizer:
    """AdamW at the learning rate of the size, and at 0 in the ``frozen`` null."""
    rate = 0.0 if config.variant == "frozen" else SIZES[config.size].lr
    # Memory of 50 updates: with torch's 1,000 two of fourteen medium networks stay on a plateau.
    return torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98))


def rate_factor(step: int, horizon: int) -> float:
    """Share of the learning rate at a step: a ramp up, the whole, a ramp down to 2 %.

    Args:
        step: From 0.
        horizon: Updates to make.

    Returns:
        The share.

    Examples:
        >>> [round(rate_factor(step, 400), 2) for step in (0, 29, 300, 350, 399)]
        [0.03, 1.0, 1.0, 0.5, 0.02]
    """
    return min((step + 1) / WARM, 1.0, max((horizon - step) / (COOL * horizon), 0.02))


def make_probe(config: Addition, data: Data, *, batches: int = 8) -> Probe:
    """Fresh batches at every measurement, drawn as training draws them."""

    def draw(step: int) -> list[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed((config.seed + 2) * 1_000_003 + step)
        return [draw_batch(config, data, generator) for _ in range(batches)]

    return Probe(
        loss=token_loss,
        batches=draw,
        heldout=write(config, data.heldout, data.sums[data.heldout]),
        train=draw_batch(config, data, torch.Generator().manual_seed(config.seed + 1_000_003)),
        sampling="replacement",
    )


@torch.no_grad()
def evaluate(model: Decoder, batch: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Three measures of the same answers.

    The network is shown the right digits before each. For exact match that is no help: an answer
    written digit by digit, the likeliest first, is right exactly when every digit is the likeliest
    after the right ones, because the two only part after the first mistake.

    Args:
        model: The decoder.
        batch: Tokens and labels, ``(n, 11)`` each.

    Returns:
        ``exact_match``, ``token_accuracy`` (share of right digits) and ``val_loss`` (nats a digit).
    """
    tokens, labels = batch
    logits = model(tokens)
    right = (logits.argmax(2) == labels)[:, QUESTION - 1 :]
    return {
        "exact_match": right.all(1).float().mean().item(),
        "token_accuracy": right.float().mean().item(),
        "val_loss": cross_entropy(logits, labels).item(),
    }


def run(
    config: Addition,
    path: str | Path,
    *,
    observables: Iterable[str | Observable] | str | None = None,
    detectors: Iterable[str | Detector] = (),
    on_alarm: OnAlarm | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Run:
    """Train one decoder on fresh pairs with the monitor attached, and record its milestones.

    Args:
        config: What to train.
        path: Folder of the run.
        observables: Overrides the preset of the configuration.
        detectors: Rules to run live.
        on_alarm: Called with every alarm.
        progress: Called with the steps done and their number.

    Returns:
        The run, closed and opened again for reading.

    Examples:
        >>> import tempfile
        >>> from foreshock.experiments.setup import outcome
        >>> config = Addition(size="small", steps=2, batch=8, heldout=8, evaluate_every=1)
        >>> recorded = run(config, tempfile.mkdtemp() + "/a", observables="none")
        >>> outcome(recorded)["parameters"]
        3824.0
    """
    data, model = make_data(config), make_model(config)
    optimizer = make_optimizer(config, model)
    schedule = LambdaLR(optimizer, lambda step: rate_factor(step, config.horizon))
    generator = torch.Generator().manual_seed(config.seed + 1)
    probe = make_probe(config, data)
    heldout = write(config, data.heldout, data.sums[data.heldout])
    record = Run.create(path, kind="addition", config=asdict(config), seed=config.seed)
    record.declare("exact_match", title="Held-out answers with all four digits right")
    record.declare("token_accuracy", title="Held-out digits that are right")
    record.declare("val_loss", title="Held-out loss a digit", unit="nat")
    watch = watch_training(
        config,
        record,
        model,
        optimizer,
        probe,
        observables=observables,
        detectors=detectors,
        on_alarm=on_alarm,
    )
    with watch:
        for step in range(config.horizon):
            loss = token_loss(model, draw_batch(config, data, generator))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            watch.log(loss=loss)
            if step % config.evaluate_every == config.evaluate_every - 1:
                watch.log(evaluate(model, heldout))
            progress(step + 1, config.horizon)
        watch.flush()
        record_outcome(record, model)
    return Run.open(path)


def record_outcome(record: Run, model: Decoder) -> None:
    """Write milestones and closing numbers of a recorded run into it."""
    exact = record.series("exact_match")
    if not len(exact.step):  # too short for an evaluation
        return
    for name, step in milestones(exact.step, exact.value * 0, exact.value).items():
        milestone(record, name, RULES[name], step)
    there = reached(record, "exact_match", 0.98)
    milestone(record, "exact98", RULES["exact98"], there)
    numbers = {name: float(record.series(name).value[-10:].mean()) for name in MEASURES}
    conclude(
        record,
        {
            **numbers,
            "best_exact_match": float(exact.value.max()),
            "steps_to_98": there,
            "parameters": float(parameters(model)),
            "exact_match_rise": rise(record, "exact_match", 0.0),
            # Where nothing is known a digit is right about as often as the likeliest one occurs.
            "token_accuracy_rise": rise(record, "token_accuracy", CHANCE),
        },
    )


#: Share of digits that the likeliest digit at each place gets right: three tenths and a half, in 4.
CHANCE = 0.2


def rise(record: Run, name: str, low: float) -> float | None:
    """How abruptly a measure rises: from a tenth to nine tenths of the way, over the steps to half.

    Below 1 is abrupt by the rule that all phenomena here are held to.

    Args:
        record: A run.
        name: A measure that rises to 1.
        low: Where it starts.

    Returns:
        The ratio, or ``None`` where nine tenths were not reached.
    """
    tenth, half, most = (reached(record, name, low + f * (1 - low)) for f in (0.1, 0.5, 0.9))
    if tenth is None or half is None or most is None:
        return None
    return (most - tenth) / max(half, 1)


EXPERIMENT = Experiment(
    config=Addition,
    run=run,
    label=lambda config: f"{config.variant}-{config.size}",
    variants=get_args(Variant),
    check=check,
    figure=figure,
    grid={"size": tuple(SIZES)},
    small={"size": "small", "steps": 60, "batch": 64, "heldout": 100},
    # Nulls of the two smaller sizes: what their updates cost in the phenomenon.
    seconds={"small": 1.3, "plain-large": 29.0, "plain-medium": 11.0}
    | {f"{v}-large": 18.0 for v in ("reversed", "labels", "frozen")}
    | {f"{v}-medium": 10.0 for v in ("reversed", "labels", "frozen")}
    | {f"{v}-small": 12.0 for v in get_args(Variant)},
)
