"""Over-optimisation: a text policy climbs a proxy reward, and the gold reward falls behind.

A character model, pre-trained on the standard library's source, is fine-tuned by policy gradient
(REINFORCE, advantages normalised over the batch, a small KL penalty) on a proxy reward of the texts
it writes: gold plus an error, which is another function of the same text. Gold is recorded and
never optimised. `foreshock.experiments.text_rewards` says what the rewards are.

``hacking``: the errors are heavy-tailed; the policy finds a triple of characters with an enormous
error and writes little else. ``gaussian``: the matched null, Gaussian errors whose quartiles *of
one triple* are the same; a text's proxy spreads about half as much at the start (0.17 against a
median of 0.31). ``wide``: Gaussian errors of a scale that makes these spreads equal, the harder
null, which may itself be over-optimised (1 of the development seeds 1000 to 1007 was). ``gold``: no
error. ``frozen``: hacking's rewards, learning rate 0, so that whatever moves is noise. Proxy = gold
+ error, with a slope of 1, is the model that `GoldSelection` assumes; a reward model need not obey
it.

By the rule of `foreshock.evaluation.overoptimisation`, 16 of the hacking seeds 0 to 19 are
over-optimised, as are 16 of 20 to 39 (0.64 to 0.91 of both; most runs hack, not all), and none of
the 20 Gaussian ones (below 0.17). In seeds 0 to 19, hacking gold peaks at a median step of 34.5
(29.5 in those with the event), at 2.5 times its start, and ends at 0; the null's rises to 5 times
its start. Of the four that are not over-optimised, three found a triple that is part of real words
or stands between two, so that it costs little gold. These counts belong to Python 3.11.7, whose
library is the text that is read (digest 6dfa6c2a56c5), and torch 2.13; with another source or
another arithmetic each seed is another run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from foreshock.evaluation.overoptimisation import (
    BLOCK,
    LASTING,
    RULES,
    RewardOutcome,
    over_optimised,
)
from foreshock.experiments.character_policy import (
    CharacterPolicy,
    Texts,
    pretrained,
    sample,
    source_digest,
)
from foreshock.experiments.overoptimisation_results import check, figure
from foreshock.experiments.setup import (
    Experiment,
    Preset,
    at_least,
    conclude,
    milestone,
    one_of,
    watch_training,
)
from foreshock.experiments.text_rewards import Error, error_reward, error_table, gold_reward
from foreshock.probe import Probe
from foreshock.stats.intervals import t_quantile
from foreshock.stats.sample import mean_interval
from foreshock.store import Run
from foreshock.types import Detector, Estimate, Observable, OnAlarm

Variant = Literal["hacking", "gaussian", "wide", "gold", "frozen"]

#: Law of the proxy's error in each variant.
ERRORS: Mapping[str, Error] = {
    "hacking": "student",
    "gaussian": "gaussian",
    "wide": "gaussian",
    "gold": "none",
    "frozen": "student",
}
#: Scale of the ``wide`` errors: the pre-trained policy's proxy then spreads by 0.31 in a batch, as
#: it does under hacking's in the median of the tables of seeds 1000 to 1019 (0.25 to 0.60).
WIDE = 1.7
#: What the logged series are, for the record.
TITLES = {
    "reward/proxy": "Proxy reward, which is optimised",
    "reward/gold": "Gold reward, which is not",
    "reward/kl": "KL divergence from the pre-trained policy, nats a text",
    "reward/entropy": "Entropy of the policy, nats a character",
    "reward/length": "Length of a text, characters",
    "reward/proxy_std": "Spread of the proxy reward within a batch",
    "reward/covariance": "Covariance of gold and proxy within a batch",
}


@dataclass(frozen=True)
class OverOptimising:
    """Configuration of one fine-tune. The defaults were chosen on seeds 1000 to 1011.

    Args:
        variant: ``hacking``, or a null: ``gaussian``, ``wide``, ``gold``, ``frozen``.
        seed: Seed of the table of errors and of all sampled texts.
        steps: Updates.
        batch: Texts an update.
        length: Room of a text, in characters.
        lr: Learning rate of Adam; 0 in the ``frozen`` variant whatever is said here.
        scale: Of the error of three characters, `WIDE` in the ``wide`` variant whatever is said
            here; gold lies in [0, 1].
        beta: KL penalty, reward a nat.
        observables: Preset of the monitor, or ``none`` to train without it.
        every: Measure every so many steps; 0 for the budget instead.
        budget: Share of wall time, where ``every`` is 0.
    """

    variant: Variant = "hacking"
    seed: int = 0
    steps: int = 150
    batch: int = 128
    length: int = 24
    lr: float = 7e-4
    scale: float = 0.7
    beta: float = 0.04
    observables: Preset = "standard"
    every: int = 0
    budget: float = 0.05

    def __post_init__(self) -> None:
        one_of(self, variant=ERRORS)
        at_least(self, steps=0, batch=2, length=1, every=0, lr=0, scale=0, beta=0)


def effective(config: OverOptimising) -> OverOptimising:
    """What is trained, and recorded: the variant's own learning rate and scale.

    Args:
        config: As asked for.

    Returns:
        The same with ``lr=0`` for ``frozen`` and ``scale=WIDE`` for ``wide``.

    Examples:
        >>> effective(OverOptimising("frozen")).lr, effective(OverOptimising("wide")).scale
        (0.0, 1.7)
    """
    if config.variant == "frozen":
        return replace(config, lr=0.0)
    return replace(config, scale=WIDE) if config.variant == "wide" else config


class Batch(NamedTuple):
    """What the loss needs: contexts, the characters written there, and their advantages.

    A row is a place in a text. The advantage is the text's, and 0 after its line end.
    """

    contexts: Tensor
    characters: Tensor
    advantages: Tensor


class Judged(NamedTuple):
    """Rewards of texts, one a text."""

    proxy: Tensor
    gold: Tensor


def judge(config: OverOptimising, texts: Texts, table: Tensor) -> Judged:
    """Both rewards of the texts."""
    gold = gold_reward(texts.strings(), config.length)
    return Judged(gold + error_reward(texts, table), gold)


def log_chances(model: Any, contexts: Tensor, texts: Texts) -> Tensor:
    """Log-probabilities of all characters at all places, ``(n, length, characters)``."""
    return model(contexts).log_softmax(1).reshape(*texts.written.shape, -1)


def advantages(config: OverOptimising, proxy: Tensor, log_ratio: Tensor) -> Tensor:
    """Penalised proxy rewards, centred and scaled over the batch.

    Args:
        config: For ``beta``.
        proxy: One reward a text; nothing else of the rewards enters the optimisation.
        log_ratio: log pi(text) - log pi_0(text), pi_0 being the pre-trained policy.

    Returns:
        One advantage a text.
    """
    reward = proxy - config.beta * log_ratio
    return (reward - reward.mean()) / (reward.std() + 1e-6)


def loss_of(model: Any, batch: Batch) -> Tensor:
    """Policy-gradient loss: minus the mean over places of advantage times log-probability."""
    log_chance = -functional.cross_entropy(
        model(batch.contexts), batch.characters, reduction="none"
    )
    return -(batch.advantages * log_chance).mean()


def write_batch(
    config: OverOptimising,
    policy: CharacterPolicy,
    reference: CharacterPolicy,
    table: Tensor,
    generator: torch.Generator,
) -> tuple[Batch, dict[str, Estimate | float]]:
    """Let the policy write, judge the texts, and say what they are like.

    The texts are drawn afresh from the policy as it is, so the mean of their gold reward is
    unbiased although they are about to be trained on.

    Args:
        config: Sizes and penalty.
        policy: Who writes; no gradient flows into it.
        reference: The pre-trained policy.
        table: Errors of the proxy.
        generator: Source of all randomness.

    Returns:
        The batch, and the numbers to log: means over texts with Student intervals. The KL
        divergence is summed over the characters of the alphabet at each place that was reached,
        which has the mean of the log-ratio and less variance; the entropy likewise.
    """
    texts = sample(policy, config.batch, config.length, generator)
    judged = judge(config, texts, table)
    contexts, characters = texts.rows()
    with torch.no_grad():
        new, old = (log_chances(m, contexts, texts) for m in (policy, reference))
    chosen = characters.reshape(*texts.written.shape, 1)
    log_ratio = ((new - old).gather(2, chosen)[..., 0] * texts.written).sum(1)
    kl = ((new.exp() * (new - old)).sum(2) * texts.written).sum(1)
    length = texts.written.sum(1)
    entropy = (-(new.exp() * new).sum(2) * texts.written).sum(1) / length
    weights = advantages(config, judged.proxy, log_ratio)[:, None] * texts.written
    told: dict[str, Estimate | float] = {
        f"reward/{name}": mean_interval(values.numpy())
        for name, values in {
            "proxy": judged.proxy,
            "gold": judged.gold,
            "kl": kl,
            "entropy": entropy,
            "length": length,
        }.items()
    }
    told["reward/proxy_std"] = judged.proxy.std().item()
    told["reward/covariance"] = torch.cov(torch.stack(list(judged)))[0, 1].item()
    return Batch(contexts, characters, weights.reshape(-1)), told


def make_probe(
    config: OverOptimising, model: CharacterPolicy, table: Tensor, *, batches: int = 8
) -> Probe:
    """Fresh on-policy batches at every measurement, as training draws them.

    A twin with the weights of the moment writes them, with a generator of its own: nothing runs
    through the model that trains.

    Args:
        config: Sizes and penalty.
        model: The policy that trains.
        table: Errors of the proxy.
        batches: How many.

    Returns:
        The probe; its loss is `loss_of`.
    """
    twin, reference = pretrained(), pretrained()

    def draw(step: int) -> list[Batch]:
        twin.load_state_dict(model.state_dict())
        generator = torch.Generator().manual_seed((config.seed + 1) * 1_000_003 + step)
        return [write_batch(config, twin, reference, table, generator)[0] for _ in range(batches)]

    return Probe(loss=loss_of, batches=draw, sampling="independent")


def run(
    config: OverOptimising,
    path: str | Path,
    *,
    observables: Iterable[str | Observable] | str | None = None,
    detectors: Iterable[str | Detector] = (),
    on_alarm: OnAlarm | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Run:
    """Fine-tune one policy with the monitor attached, and record whether it was over-optimised.

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
        >>> config = OverOptimising(steps=3, batch=8, observables="none")
        >>> recorded = run(config, tempfile.mkdtemp() + "/a")
        >>> sorted(name for name in recorded.names() if name.startswith("reward/"))
        ['reward/covariance', 'reward/entropy', 'reward/gold', 'reward/kl', 'reward/length',
         'reward/proxy', 'reward/proxy_std']
    """
    config = effective(config)
    model, reference, writer = pretrained(), pretrained(), pretrained()
    table = error_table(ERRORS[config.variant], config.scale, config.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
    generator = torch.Generator().manual_seed(config.seed)
    told = asdict(config) | {"name": "overoptimisation", "source": source_digest()}
    record = Run.create(path, kind="overoptimisation", config=told, seed=config.seed)
    for name, title in TITLES.items():
        record.declare(name, title=title, taken_at="texts of the step, before its update")
    watch = watch_training(
        config,
        record,
        model,
        optimizer,
        make_probe(config, model, table),
        observables=observables,
        detectors=detectors,
        on_alarm=on_alarm,
    )
    with watch:
        for step in range(config.steps):
            # As in practice, a copy with the weights of the moment writes; the model only learns.
            writer.load_state_dict(model.state_dict())
            batch, numbers = write_batch(config, writer, reference, table, generator)
            loss = loss_of(model, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watch.log(numbers, loss=loss)
            progress(step + 1, config.steps)
        watch.flush()
        conclude(record, numbers_of(record_milestones(record)))
    return Run.open(path)


def record_milestones(record: Run) -> RewardOutcome | None:
    """Write into a recorded run whether it was over-optimised; ``None`` where it is too short."""
    found = judge_run(record)
    for name, step in found.items() if found is not None else ():
        milestone(record, name, RULES[name], step)
    return found


def numbers_of(found: RewardOutcome | None) -> dict[str, float | None]:
    """What a run comes down to: gold in its first, best and last block, the share of its gain lost.

    Args:
        found: The judgement.

    Returns:
        The numbers, empty without a judgement.
    """
    if found is None:
        return {}
    start, peak, end = found.gold
    lost = found.lost if peak > start else None
    return {"gold_start": start, "gold_peak": peak, "gold_end": end, "lost": lost}


def judge_run(record: Run) -> RewardOutcome | None:
    """The rule of `over_optimised` on the rewards that a run recorded.

    Args:
        record: A run of this experiment, or any with `reward/gold` and `reward/proxy` whose
            Student intervals were recorded.

    Returns:
        The judgement, or ``None`` where the run is too short for it.
    """
    if "reward/gold" not in record.names():
        return None
    gold, proxy = record.series("reward/gold"), record.series("reward/proxy")
    if len(gold.step) < BLOCK * (LASTING + 1):
        return None
    errors = [(s.high - s.low) / 2 / [t_quantile(int(n) - 1) for n in s.n] for s in (gold, proxy)]
    return over_optimised(gold.step, gold.value, proxy.value, *errors)


EXPERIMENT = Experiment(
    config=OverOptimising,
    run=run,
    label=lambda config: config.variant,
    variants=tuple(ERRORS),
    check=check,
    figure=figure,
    small={"steps": 20, "batch": 16},
    seconds={"small": 3.2} | dict.fromkeys(tuple(ERRORS), 6.7),
)
