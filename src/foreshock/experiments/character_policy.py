"""A small network that writes lines of source code, character by character, and its teacher.

The teacher is the source text of the running interpreter's own standard library: nothing to
download, and what was read is told by a digest. A network over the last eight characters (Bengio
and others 2003) stands for the language model: all positions of a text are rows of one batch, so
every observable of the monitor works on it, and it has a hidden layer to look at (``second``).
"""

from __future__ import annotations

import copy
import functools
import hashlib
import re
import sysconfig
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from foreshock.experiments.setup import seeded

#: The characters; the first ends a line. Capitals are written small, all else is a space.
CHARACTERS = "\n abcdefghijklmnopqrstuvwxyz_."
#: How many characters the network sees.
CONTEXT = 8
#: Modules of the standard library that are read; one that an interpreter lacks is left out.
MODULES = (
    "argparse ast bdb calendar cmd code configparser contextlib copy csv datetime difflib doctest "
    "enum fractions functools gettext heapq imaplib inspect locale mailbox mimetypes netrc "
    "optparse os pathlib pickle platform plistlib poplib pprint random selectors shelve shlex "
    "shutil smtplib socket socketserver statistics string subprocess tarfile tempfile textwrap "
    "threading tokenize trace traceback types typing uuid warnings wave weakref zipfile"
).split()
#: Updates, rows a batch and learning rate of the pre-training: about 2 s, 1.9 nats a character.
PRETRAINING = {"steps": 600, "batch": 512, "lr": 3e-3}


class CharacterPolicy(nn.Module):
    """Embedding of eight characters, two hidden ReLU layers of 128, logits of the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(len(CHARACTERS), 16)
        self.first = nn.Linear(CONTEXT * 16, 128)
        self.second = nn.Linear(128, 128)
        self.readout = nn.Linear(128, len(CHARACTERS))

    def forward(self, contexts: Tensor) -> Tensor:
        """Contexts ``(n, 8)`` to logits ``(n, characters)``."""
        hidden = functional.relu(self.first(self.embed(contexts).flatten(1)))
        return self.readout(functional.relu(self.second(hidden)))


class Texts(NamedTuple):
    """Sampled lines.

    ``tokens`` is ``(n, 8 + length)``, eight line ends before each text and line ends after it;
    ``written`` is ``(n, length)``, 1 for characters that the policy chose, its line end included.
    """

    tokens: Tensor
    written: Tensor

    def rows(self) -> tuple[Tensor, Tensor]:
        """Contexts ``(n * length, 8)`` and the characters after them, ``(n * length,)``."""
        length = self.written.shape[1]
        contexts = self.tokens.unfold(1, CONTEXT, 1)[:, :length]
        return contexts.reshape(-1, CONTEXT), self.tokens[:, CONTEXT:].reshape(-1)

    def strings(self) -> list[str]:
        """The texts themselves, without their line ends."""
        lines = self.tokens[:, CONTEXT:].tolist()
        return ["".join(CHARACTERS[i] for i in line).partition("\n")[0] for line in lines]


@functools.lru_cache(maxsize=1)
def source_lines() -> tuple[str, ...]:
    """Lines of the standard library in the alphabet of `CHARACTERS`, of 4 to 200 characters.

    Returns:
        The lines, each with its line end.

    Raises:
        FileNotFoundError: If the interpreter comes without its sources.

    Examples:
        >>> lines = source_lines()
        >>> len(lines) > 10_000, set("".join(lines)) <= set(CHARACTERS)
        (True, True)
    """
    folder, lines = Path(sysconfig.get_path("stdlib")), []
    for path in (folder / f"{name}.py" for name in MODULES):
        if not path.exists():
            continue
        for line in path.read_text(encoding="utf-8").lower().splitlines():
            plain = re.sub(r"[^a-z_.]+", " ", line).strip()
            if len(plain) >= 4:
                lines.append(plain[:200] + "\n")
    if not lines:
        raise FileNotFoundError(
            f"The experiment reads the standard library's source text, and {folder} has none. "
            "Use an interpreter that was installed with its .py files."
        )
    return tuple(lines)


def source_digest() -> str:
    """Twelve hexadecimal digits that tell which source text was read."""
    return hashlib.sha256("".join(source_lines()).encode()).hexdigest()[:12]


def encode(text: str) -> Tensor:
    """Characters as their numbers, ``(n,)``; all must be in `CHARACTERS`."""
    place = {character: number for number, character in enumerate(CHARACTERS)}
    return torch.tensor([place[character] for character in text])


def pretrained() -> CharacterPolicy:
    """A fresh copy of the network after its pre-training, the same for all seeds of an experiment.

    The training takes about 2 s and is done once a process; the global random generator is left
    where it is.

    Returns:
        The network.

    Examples:
        >>> one, other = pretrained(), pretrained()
        >>> torch.equal(one.readout.weight, other.readout.weight), one is other
        (True, False)
    """
    return copy.deepcopy(_pretrained())


@functools.lru_cache(maxsize=1)
def _pretrained() -> CharacterPolicy:
    model = seeded(0, CharacterPolicy)
    text = "\n" * CONTEXT + "".join(source_lines())
    windows = encode(text).unfold(0, CONTEXT + 1, 1)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=PRETRAINING["lr"])
    steps = int(PRETRAINING["steps"])
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = PRETRAINING["lr"] * (1 - step / steps)
        chosen = torch.randint(len(windows), (int(PRETRAINING["batch"]),), generator=generator)
        window = windows[chosen]
        logits = model(_own_line(window[:, :-1]))
        loss = functional.cross_entropy(logits, window[:, -1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    optimizer.zero_grad()
    return model


def _own_line(contexts: Tensor) -> Tensor:
    """Contexts with line ends for everything before their own line, as a sampled text begins."""
    ended = (contexts == 0).flip(1).int().cummax(1).values.flip(1).bool()
    return contexts.masked_fill(ended, 0)


@torch.no_grad()
def sample(model: Any, count: int, length: int, generator: torch.Generator) -> Texts:
    """Draw texts from a policy, each until its line end or ``length`` characters.

    Args:
        model: Contexts to logits.
        count: How many texts.
        length: Largest number of characters.
        generator: Source of all randomness.

    Returns:
        The texts.

    Examples:
        >>> texts = sample(pretrained(), 4, 24, torch.Generator().manual_seed(0))
        >>> tuple(texts.tokens.shape), len(texts.strings())
        ((4, 32), 4)
    """
    tokens = torch.zeros(count, CONTEXT + length, dtype=torch.long)
    written = torch.zeros(count, length)
    going = torch.ones(count, dtype=torch.bool)
    # The largest of logits plus Gumbel noise is a draw from the softmax.
    noise = torch.empty(length, count, len(CHARACTERS)).exponential_(generator=generator).log()
    for place in range(length):
        drawn = (model(tokens[:, place : place + CONTEXT]) - noise[place]).argmax(1)
        tokens[:, CONTEXT + place] = torch.where(going, drawn, 0)
        written[:, place] = going.float()
        going = going & (drawn != 0)
    return Texts(tokens, written)
