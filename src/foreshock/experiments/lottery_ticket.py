"""Lottery tickets: 4 % of the weights train as well as all, if they are the right ones.

A perceptron 64-300-100-10 on scikit-learn's digits, SGD at 0.1, batches of 32, 600 updates.
Training and pruning alternate: after each round the fifth of each layer's remaining weights that
scores least goes, and the others return to where they began (iterative magnitude pruning, Frankle
and Carbin 2019, arXiv 1803.03635). After 14 rounds 4.4 % are left, and are trained once more,
watched.

``winning``: scored by magnitude, from their own initial weights. Its nulls: ``reinitialised``, the
same mask from other initial weights; ``random``, a random mask of the same size in each layer, from
the original ones. ``dense``: nothing pruned. Two other scores in place of the magnitude: ``snr``,
the squared mean over the variance of a weight's batch gradients at the end of a round, which is how
"signal" explains tickets; ``hessian``, h w^2/2 with h the diagonal of the Gauss-Newton matrix, the
loss that taking a weight away costs to second order (optimal brain damage, LeCun et al. 1990): one
number a weight, no directions of the Hessian.

The mask is in the forward pass: gradients and curvatures that the monitor takes are the ticket's.
The event: the first evaluation at 90 % held-out accuracy.

What it cannot show: large networks, where the weights have to return to an early step instead of
the first; nor why the winning ones win.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from foreshock.experiments.digits import load_digits
from foreshock.experiments.pruning import (
    MaskedLinear,
    Masks,
    apply,
    gradient_snr,
    magnitude,
    matrices,
    pruned,
    random_scores,
    saliency,
    whole,
)
from foreshock.experiments.seeds import LEAST, all_of, draw_spread, reached
from foreshock.experiments.setup import (
    Check,
    Experiment,
    Preset,
    at_least,
    conclude,
    having,
    milestone,
    one_of,
    outcome,
    seeded,
    watch_training,
)
from foreshock.probe import Probe
from foreshock.stats.sample import mean_interval
from foreshock.store import Run
from foreshock.types import Detector, Observable, OnAlarm

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Variant = Literal["winning", "reinitialised", "random", "dense", "snr", "hessian"]
VARIANTS: tuple[str, ...] = get_args(Variant)
BATCH, PROBES = 32, 8
LEARNED = "first evaluation whose 3-point median of held-out accuracy is 0.9 or more"
#: Lowest and highest held-out accuracy of the reference's seeds.
REFERENCE = {
    "winning": (0.940, 0.952),
    "reinitialised": (0.27, 0.41),
    "random": (0.16, 0.28),
    "dense": (0.965, 0.972),
}


@dataclass(frozen=True)
class LotteryTicket:
    """Configuration of one run.

    Args:
        variant: How the ticket is drawn; see the module.
        seed: Of split, initial weights, batches and random masks.
        rounds: Of pruning.
        steps: Updates of each training.
        lr: Learning rate.
        observables: Preset of the monitor on the last training, or ``none``.
        every: Steps between measurements, 0 for the budget.
        budget: Share of wall time, where ``every`` is 0.
    """

    variant: Variant = "winning"
    seed: int = 0
    rounds: int = 14
    steps: int = 600
    lr: float = 0.1
    observables: Preset = "standard"
    every: int = 0
    budget: float = 0.05

    def __post_init__(self) -> None:
        one_of(self, variant=VARIANTS)
        at_least(self, rounds=0, steps=1, every=0, lr=0)


@dataclass(frozen=True)
class Data:
    """Training and held-out digits: pixels ``(n, 64)`` in [0, 1] and labels ``(n,)``."""

    train: tuple[Tensor, Tensor]
    heldout: tuple[Tensor, Tensor]


def make_model(seed: int) -> nn.Sequential:
    """A perceptron 64-300-100-10, initialised without moving the global generator."""
    return seeded(
        seed,
        lambda: nn.Sequential(
            MaskedLinear(64, 300),
            nn.ReLU(),
            MaskedLinear(300, 100),
            nn.ReLU(),
            MaskedLinear(100, 10),
        ),
    )


def loss_of(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy."""
    return functional.cross_entropy(model(batch[0]), batch[1])


def batches_of(config: LotteryTicket, data: Data, stream: int) -> Iterable[tuple[Tensor, Tensor]]:
    """Batches drawn with replacement, without end; ``stream`` tells one training from another."""
    generator = torch.Generator().manual_seed(1_000 * config.seed + stream)
    while True:
        rows = torch.randint(len(data.train[0]), (BATCH,), generator=generator)
        yield data.train[0][rows], data.train[1][rows]


def descend(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[tuple[Tensor, Tensor]],
    steps: int,
) -> Iterable[float]:
    """The updates of one training; the loss of each is yielded after it.

    Args:
        model: The network.
        optimizer: Of it.
        batches: Of training.
        steps: Updates.

    Yields:
        The loss before each update.
    """
    for batch in itertools.islice(batches, steps):
        loss = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


def scores_of(config: LotteryTicket, model: nn.Module, data: Data, stream: int) -> list[Tensor]:
    """What each weight is worth at the end of a round, one tensor for each weight matrix."""
    if config.variant == "random":
        generator = torch.Generator().manual_seed(1_000 * config.seed + 500 + stream)
        return random_scores(model, generator)
    if config.variant == "snr":
        drawn = itertools.islice(batches_of(config, data, 500 + stream), 32)
        return gradient_snr(model, loss_of, list(drawn))
    if config.variant == "hessian":
        return saliency(model, data.train[0][:512])
    return magnitude(model)


def draw_ticket(
    config: LotteryTicket, data: Data, progress: Callable[[int], object] = lambda done: None
) -> Masks:
    """The masks of a variant, after all rounds.

    Args:
        config: Variant, rounds and seed.
        data: To train on between prunings.
        progress: Called with the updates done.

    Returns:
        One mask for each weight matrix.
    """
    model = make_model(config.seed)
    masks = whole(model)
    if config.variant == "dense":
        return masks
    for number in range(config.rounds):
        if config.variant != "random":  # a random mask needs no training
            model = make_model(config.seed)
            apply(model, masks)
            optimizer = torch.optim.SGD(model.parameters(), lr=config.lr)
            batches = batches_of(config, data, number)
            for done, _ in enumerate(descend(model, optimizer, batches, config.steps)):
                progress(number * config.steps + done + 1)
        masks = pruned(masks, scores_of(config, model, data, number))
    return masks


def run(
    config: LotteryTicket,
    path: str | Path,
    *,
    observables: Iterable[str | Observable] | str | None = None,
    detectors: Iterable[str | Detector] = (),
    on_alarm: OnAlarm | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Run:
    """Draw a ticket, train it with the monitor attached, and record how well it does.

    Args:
        config: What to train.
        path: Folder of the run.
        observables: Overrides the preset of the configuration.
        detectors: Rules to run live.
        on_alarm: Called with every alarm.
        progress: Called with the updates done and their number.

    Returns:
        The run, closed and opened again for reading.

    Examples:
        >>> import tempfile
        >>> config = LotteryTicket("random", steps=20, observables="none")
        >>> round(outcome(run(config, tempfile.mkdtemp() + "/a"))["kept"], 3)
        0.044
    """
    data = Data(*load_digits(config.seed))
    rounds = 0 if config.variant in ("dense", "random") else config.rounds
    total = (rounds + 1) * config.steps
    masks = draw_ticket(config, data, lambda done: progress(done, total))
    again = 10_000 if config.variant == "reinitialised" else 0
    model = make_model(config.seed + again)
    apply(model, masks)
    optimizer = torch.optim.SGD(model.parameters(), lr=config.lr)
    fresh = batches_of(config, data, 900)

    def draw(step: int) -> list[tuple[Tensor, Tensor]]:
        return list(itertools.islice(batches_of(config, data, 1_000_003 * (step + 1)), PROBES))

    record = Run.create(path, kind="lottery_ticket", config=asdict(config), seed=config.seed)
    watch = watch_training(
        config,
        record,
        model,
        optimizer,
        Probe(loss=loss_of, batches=draw, heldout=data.heldout, train=data.train,
              sampling="replacement"),
        observables=observables,
        detectors=detectors,
        on_alarm=on_alarm,
    )  # fmt: skip
    with watch:
        for step, loss in enumerate(descend(model, optimizer, fresh, config.steps)):
            watch.log(loss=loss)
            if step % 20 == 19 or step == config.steps - 1:
                watch.log(val_acc=accuracy(model, data.heldout))
            progress(rounds * config.steps + step + 1, total)
        watch.flush()
        milestone(record, "learned", LEARNED, reached(record, "val_acc", 0.9))
        kept = sum(int(m.sum()) for m in masks) / sum(m.numel() for m in masks)
        alive = all(bool(((p == 0) | (m == 1)).all())
                    for p, m in zip(matrices(model), masks, strict=True))  # fmt: skip
        numbers = {"kept": kept, "masked_stay_zero": float(alive)}
        numbers |= {f"{name}_acc": accuracy(model, half) for name, half in vars(data).items()}
        conclude(record, numbers)
    return Run.open(path)


def accuracy(model: nn.Module, half: tuple[Tensor, Tensor]) -> float:
    """Share of examples that are classified right."""
    with torch.no_grad():
        return (model(half[0]).argmax(1) == half[1]).float().mean().item()


def check(runs: Sequence[Run]) -> list[Check]:
    """The order of the tickets seed by seed, and every accuracy beside the reference's range.

    Args:
        runs: Runs of this experiment; those of a smaller size than the default are left out.

    Returns:
        The two halves of the order, and the accuracy of every variant.
    """
    full = LotteryTicket()
    chosen = [run for run in runs if outcome(run)]
    chosen = having(chosen, rounds=full.rounds, steps=full.steps, lr=full.lr)
    found: dict[str, dict[int, float]] = {}
    for run in chosen:
        config = run.info["config"]
        by_seed = found.setdefault(config["variant"], {})
        by_seed[config["seed"]] = outcome(run)["heldout_acc"]
    told = []
    for better, worse in (("winning", "reinitialised"), ("reinitialised", "random")):
        seeds = sorted(set(found.get(better, {})) & set(found.get(worse, {})))
        if seeds:
            told.append(
                all_of(
                    f"{better} above {worse}",
                    f"{better} > {worse} in every seed",
                    [found[better][seed] > found[worse][seed] for seed in seeds],
                )
            )
    return told + [_accuracy_of(name, found[name]) for name in VARIANTS if name in found]


def _accuracy_of(variant: str, by_seed: dict[int, float]) -> Check:
    """Mean held-out accuracy beside the range of the reference's seeds, if there is one."""
    values, few = list(by_seed.values()), len(by_seed) < LEAST
    mean = mean_interval(values)
    measured = (
        f"mean {mean.value:.3f} (95 %: {mean.low:.3f} to {mean.high:.3f}), {min(values):.3f} to "
        f"{max(values):.3f} in {len(values)} seeds{f'; {LEAST} are needed' if few else ''}"
    )
    if variant not in REFERENCE:
        return Check(variant, "shown: held-out accuracy", measured, None)
    low, high = REFERENCE[variant]
    return Check(
        variant,
        f"mean held-out accuracy within the reference's seeds, {low:g} to {high:g}",
        measured,
        None if few else low <= mean.value <= high,
    )


def figure(runs: Sequence[Run]) -> Figure:
    """Held-out accuracy along the last training, median and range over seeds, for every variant.

    Args:
        runs: Runs of this experiment.

    Returns:
        One panel.
    """
    from foreshock.report.figures import GREY, PALETTE, paper_figure

    drawn, axes = paper_figure(1, 1, size=(5.4, 3.2))
    one = axes[0, 0]
    shades = dict(zip(VARIANTS, (PALETTE[0], PALETTE[1], GREY, "black", PALETTE[2], PALETTE[4]),
                      strict=True))  # fmt: skip
    there = [
        draw_spread(one, having(runs, variant=variant), "val_acc", shades[variant], label=variant)
        for variant in VARIANTS
    ]
    one.axhline(0.1, color=GREY, lw=0.8, ls=":")
    one.set_xlabel("optimizer step of the last training")
    one.set_ylabel("held-out accuracy")
    one.set_ylim(0, 1.02)
    if any(there):
        one.legend(frameon=False, fontsize=7.5, bbox_to_anchor=(1, 1))
    else:
        one.set_title("no run yet", fontsize=8)
    return drawn


EXPERIMENT = Experiment(
    config=LotteryTicket,
    run=run,
    label=lambda config: config.variant,
    variants=VARIANTS,
    check=check,
    figure=figure,
    small={"rounds": 2, "steps": 120},
    seconds={
        "small": 1.9,
        "winning": 5.1,
        "reinitialised": 5.0,
        "random": 1.7,
        "dense": 2.2,
        "snr": 5.0,
        "hessian": 5.2,
    },
)
