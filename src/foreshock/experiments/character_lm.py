"""A small language model of source code, character by character, against counts of neighbours.

The text is the standard library's own source (`foreshock.experiments.character_policy` says how it
is read), cut into a training, a validation and a test stretch. A decoder of two layers learns to
predict the next character. The measure of what it has learnt is how its loss stands to the entropy
of n-grams: counted on the training stretch, judged on the held-out one. Below that of single
characters it knows which are frequent; below that of pairs (bigrams) it uses more than the
character before.

``text`` is the phenomenon. The nulls change one thing each. ``shuffled``: the characters of the
text in a random order, cut into the same stretches; there is nothing to know but frequencies.
``frozen``: learning rate 0.

A run shows when a loss passes entropies that are known beforehand: an honest scale, not a sudden
event. Source repeats itself, so lines of the held-out stretch occur in the training one as well;
the counted n-grams have the same advantage. The stretches come from different modules, and their
difference is part of every loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from foreshock.experiments.character_policy import CHARACTERS, encode, source_digest, source_lines
from foreshock.experiments.decoder import Decoder, parameters, token_loss
from foreshock.experiments.ngrams import ngram_entropy, window_entropies
from foreshock.experiments.seeds import all_of, draw_spread, full_size, reached, spread
from foreshock.experiments.setup import (
    Check,
    Experiment,
    Preset,
    at_least,
    conclude,
    having,
    milestone,
    milestones_of,
    one_of,
    outcome,
    seeded,
    watch_training,
)
from foreshock.probe import Probe
from foreshock.store import Run
from foreshock.types import Detector, Observable, OnAlarm

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Variant = Literal["text", "shuffled", "frozen"]

#: Shares of the text: training, validation, and the rest for the test.
SHARES = (0.8, 0.1)
#: Orders of the n-grams and what passing them is called.
ORDERS = {"unigram": 1, "bigram": 2, "trigram": 3}
RULE = (
    "first evaluation whose 3-point median of the validation loss is below the lowest entropy, on "
    "the windows evaluated, of n-grams up to "
)
#: What must be as at full size for a run to say anything.
SIZE = ("steps", "batch", "context", "width", "layers", "heldout", "evaluate_every")


@dataclass(frozen=True)
class CharacterLM:
    """Configuration of one run.

    Args:
        variant: ``text``, or a null: ``shuffled``, ``frozen``.
        seed: Seed of initial weights, of the windows drawn, and of the null's order.
        steps: Updates.
        batch: Windows an update.
        context: Characters that a window shows.
        width: Of the residual stream.
        layers: Of the decoder.
        heldout: Windows of the validation stretch that an evaluation reads.
        evaluate_every: Steps between evaluations.
        observables: Preset of the monitor, or ``none`` to train without it.
        every: Measure every so many steps; 0 for the budget instead.
        budget: Share of wall time, where ``every`` is 0.
    """

    variant: Variant = "text"
    seed: int = 0
    steps: int = 500
    batch: int = 32
    context: int = 48
    width: int = 64
    layers: int = 2
    heldout: int = 256
    evaluate_every: int = 10
    observables: Preset = "standard"
    every: int = 0
    budget: float = 0.05

    def __post_init__(self) -> None:
        one_of(self, variant=get_args(Variant))
        at_least(self, steps=0, every=0, batch=1, context=1, width=1, layers=1)
        at_least(self, heldout=1, evaluate_every=1)


class Stretches(NamedTuple):
    """Three disjoint pieces of one text, as numbers of characters."""

    train: Tensor
    validation: Tensor
    test: Tensor


def make_text(config: CharacterLM) -> Stretches:
    """The standard library's source, cut twice; in ``shuffled`` its characters are dealt anew.

    Args:
        config: Variant and seed.

    Returns:
        The stretches, in the order of the text.
    """
    text = encode("".join(source_lines()))
    if config.variant == "shuffled":
        text = text[torch.randperm(len(text), generator=torch.Generator().manual_seed(config.seed))]
    ends = [int(SHARES[0] * len(text)), int(sum(SHARES) * len(text))]
    return Stretches(*torch.tensor_split(text, ends))


def windows(config: CharacterLM, text: Tensor) -> tuple[Tensor, Tensor]:
    """A stretch cut into windows that do not overlap: tokens and the characters after them.

    Args:
        config: For the length of a window.
        text: ``(n,)``.

    Returns:
        Tokens and labels, ``(windows, context)`` each; what does not fill a window is left out.
    """
    cut = text.unfold(0, config.context + 1, config.context)
    return cut[:, :-1], cut[:, 1:]


def draw_batch(
    config: CharacterLM, text: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Windows of a stretch from anywhere in it, drawn with replacement."""
    starts = torch.randint(len(text) - config.context, (config.batch,), generator=generator)
    rows = text[starts[:, None] + torch.arange(config.context + 1)]
    return rows[:, :-1], rows[:, 1:]


def make_model(config: CharacterLM) -> Decoder:
    """The decoder, initialised from the seed without moving the global generator."""
    return seeded(
        config.seed,
        lambda: Decoder(
            len(CHARACTERS), config.context, width=config.width, heads=4, layers=config.layers
        ),
    )


def make_optimizer(config: CharacterLM, model: Decoder) -> torch.optim.Optimizer:
    """AdamW at 0.003, and 0 in the ``frozen`` null."""
    return torch.optim.AdamW(model.parameters(), lr=0.0 if config.variant == "frozen" else 3e-3)


def make_probe(config: CharacterLM, text: Stretches, *, batches: int = 8) -> Probe:
    """Fresh batches at every measurement, drawn as training draws them."""

    def draw(step: int) -> list[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed((config.seed + 2) * 1_000_003 + step)
        return [draw_batch(config, text.train, generator) for _ in range(batches)]

    return Probe(
        loss=token_loss,
        batches=draw,
        heldout=some_windows(config, text.validation),
        train=some_windows(config, text.train),
        sampling="replacement",
    )


def some_windows(config: CharacterLM, text: Tensor) -> tuple[Tensor, Tensor]:
    """As many windows as an evaluation reads, spread evenly over a stretch."""
    tokens, labels = windows(config, text)
    chosen = torch.linspace(0, len(tokens) - 1, config.heldout).long()
    return tokens[chosen], labels[chosen]


@torch.no_grad()
def stretch_loss(config: CharacterLM, model: Decoder, text: Tensor) -> float:
    """Loss on all windows of a stretch, nats a character."""
    tokens, labels = windows(config, text)
    parts = zip(tokens.split(256), labels.split(256), strict=True)
    return sum(token_loss(model, part).item() * len(part[0]) for part in parts) / len(tokens)


def run(
    config: CharacterLM,
    path: str | Path,
    *,
    observables: Iterable[str | Observable] | str | None = None,
    detectors: Iterable[str | Detector] = (),
    on_alarm: OnAlarm | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Run:
    """Train one language model with the monitor attached, and record which entropies it passed.

    Args:
        config: What to train.
        path: Folder of the run.
        observables: Overrides the preset of the configuration.
        detectors: Rules to run live.
        on_alarm: Called with every alarm.
        progress: Called with the steps done and their number.

    Returns:
        The run, closed and opened again for reading. The test stretch is read once, at the end.

    Examples:
        >>> import tempfile
        >>> config = CharacterLM(steps=2, batch=2, width=8, layers=1, observables="none")
        >>> recorded = run(config, tempfile.mkdtemp() + "/a")
        >>> entropies = outcome(recorded)
        >>> entropies["trigram"] < entropies["bigram"] < entropies["unigram"]
        True
    """
    text, model = make_text(config), make_model(config)
    optimizer = make_optimizer(config, model)
    generator = torch.Generator().manual_seed(config.seed + 1)
    told = asdict(config) | {"source": source_digest()}
    record = Run.create(path, kind="character_lm", config=told, seed=config.seed)
    record.declare("val_loss", title="Validation loss a character", unit="nat")
    watch = watch_training(
        config,
        record,
        model,
        optimizer,
        make_probe(config, text),
        observables=observables,
        detectors=detectors,
        on_alarm=on_alarm,
    )
    validation = some_windows(config, text.validation)
    with watch:
        for step in range(config.steps):
            loss = token_loss(model, draw_batch(config, text.train, generator))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watch.log(loss=loss)
            if step % config.evaluate_every == config.evaluate_every - 1:
                with torch.no_grad():
                    watch.log(val_loss=token_loss(model, validation))
            progress(step + 1, config.steps)
        watch.flush()
        record_outcome(record, config, model, text)
    return Run.open(path)


def record_outcome(record: Run, config: CharacterLM, model: Decoder, text: Stretches) -> None:
    """Write into a run which entropies its validation loss passed, and the test loss.

    An n-gram that fits the training stretch too closely costs more than a shorter one; passing it
    says nothing, so what must be passed is the lowest entropy up to its order.

    Args:
        record: The run, open for writing.
        config: Of the run.
        model: As trained.
        text: Its stretches.
    """
    numbers: dict[str, float | None] = {}
    validation = some_windows(config, text.validation)
    entropies = window_entropies(text.train, *validation, max(ORDERS.values()))
    for name, order in ORDERS.items():
        lowest = min(entropies[:order])
        step = reached(record, "val_loss", lowest, below=True)
        milestone(record, name, f"{RULE}{name}s, {lowest:.4f} nat", step)
        counted = ngram_entropy(text.train, text.test, order)
        numbers |= {name: counted, f"val_{name}": entropies[order - 1]}
    numbers["test_loss"] = stretch_loss(config, model, text.test)
    conclude(record, {**numbers, "parameters": float(parameters(model))})


def check(runs: Sequence[Run]) -> list[Check]:
    """The numbers that the language model is held to.

    Args:
        runs: Finished runs of any variants and seeds.

    Returns:
        Whether the test loss is below the bigram entropy, and the nulls' not below the unigram one
        and their events none. Runs that are unfinished or of another size are left out.
    """
    given = {v: having(runs, variant=v) for v in get_args(Variant)}
    kept = {v: full_size(some, CharacterLM(), SIZE) for v, some in given.items()}
    without = {v: len(given[v]) - len(kept[v]) for v in given}
    found = {v: [outcome(run) for run in some] for v, some in kept.items()}
    checks = [
        all_of(
            "below the bigram entropy",
            "test loss below that of bigrams counted on the training stretch, in every run",
            [numbers["test_loss"] < numbers["bigram"] for numbers in found["text"]],
            left_out=without["text"],
        )
    ]
    for variant in ("shuffled", "frozen"):
        # The shuffled text has the entropy of its frequencies, which both sides must estimate.
        there = [numbers["test_loss"] > numbers["unigram"] for numbers in found[variant]]
        expected = "test loss above the unigram entropy of the same text, in every run"
        checks.append(all_of(f"null {variant}", expected, there, left_out=without[variant]))
        silent = [not milestones_of(run) for run in kept[variant]]
        name, expected = f"null {variant} passes nothing", "no event in any run"
        checks.append(all_of(name, expected, silent, left_out=without[variant]))
    for name in ("test_loss", *ORDERS):
        values = [numbers[name] for numbers in found["text"]]
        told = "no reference" if name == "test_loss" else "counted, the same in all runs"
        checks.append(Check(f"{name}, nat a character", told, spread(values, 3), None))
    return checks


def figure(runs: Sequence[Run]) -> Figure:
    """Validation loss on its way through the entropies, beside the nulls; and the test losses.

    Args:
        runs: Finished runs of any variants and seeds.

    Returns:
        The figure: medians over seeds in the band from lowest to highest.
    """
    from foreshock.report.figures import GREY, PALETTE, paper_figure

    drawing, axes = paper_figure(1, 2, size=(7.6, 3.0), width_ratios=[2, 1])
    left, right = axes[0].tolist()
    looks = {"text": (PALETTE[0], "-"), "shuffled": (PALETTE[1], "--"), "frozen": (GREY, ":")}
    for variant, (colour, style) in looks.items():
        some = having(runs, variant=variant)
        label = f"{variant} (n = {len(some)})"
        draw_spread(left, some, "val_loss", colour, ls=style, label=label)
    left.set(xlabel="optimizer step", ylabel="validation loss, nat a character")
    left.set_title("Validation loss", loc="left", fontsize=9.5)
    if left.lines:
        left.legend(frameon=False, fontsize=7.5, loc="best")
    done = [outcome(run) for run in having(runs, variant="text")]
    done = [numbers for numbers in done if numbers]
    for place, variant in enumerate(("text", "shuffled")):
        some = [outcome(run) for run in having(runs, variant=variant)]
        losses = [numbers["test_loss"] for numbers in some if numbers]
        right.plot([place] * len(losses), losses, ".", ms=5, alpha=0.7, color=looks[variant][0])
    right.set(xticks=[0, 1], xticklabels=["text", "shuffled"], xlim=(-0.5, 2.2))
    right.set(ylabel="test loss, nat a character")
    right.set_title("Test loss", loc="left", fontsize=9.5)
    for name in ORDERS:
        for one, key in ((left, f"val_{name}"), (right, name)):
            counted = [numbers[key] for numbers in done if key in numbers]
            if counted:
                one.axhline(counted[0], color=GREY, lw=0.8, zorder=0)
                at = (1.0, counted[0])
                one.annotate(
                    name,
                    at,
                    xycoords=("axes fraction", "data"),
                    ha="right",
                    va="bottom",
                    color=GREY,
                    fontsize=7.5,
                )
    for one in (left, right):
        if not done:
            one.text(0.5, 0.5, "no run", ha="center", transform=one.transAxes, color=GREY)
    return drawing


EXPERIMENT = Experiment(
    config=CharacterLM,
    run=run,
    label=lambda config: config.variant,
    variants=get_args(Variant),
    check=check,
    figure=figure,
    small={"steps": 20, "batch": 8, "context": 16, "width": 16, "layers": 1, "heldout": 16},
    seconds={"small": 1.7} | dict.fromkeys(get_args(Variant), 17.0),
)
