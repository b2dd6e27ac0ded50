"""Gold and proxy rewards of short texts: what is wanted, and what is measured instead.

**Gold** is the share of a text's room that is filled by real words of three letters or more, a word
that comes again counting once. Real is what the standard library's source says at least 20 times.
It is bounded, it rises under optimisation, and saying one good word for ever does not satisfy it.

**The error** is a table with a random number for each three characters in a row, averaged over the
text: a function of the text like a reward model's blind spots, not noise. Heavy-tailed (Student
with two degrees of freedom) it has a few triples of enormous reward, each an exploit that a policy
may find; Gaussian errors whose quartiles of one triple are the same have none, and make a text's
error spread about half as much.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from foreshock.experiments.character_policy import CHARACTERS, CONTEXT, Texts, source_lines
from foreshock.experiments.tilted_softmax import QUARTILES

Error = Literal["student", "gaussian", "none"]
WORD = re.compile("[a-z]{3,}")
#: How often a word must be said to be real.
SAID = 20


@functools.lru_cache(maxsize=1)
def real_words() -> frozenset[str]:
    """Words of three letters or more that the source text says at least `SAID` times.

    Returns:
        The words.

    Examples:
        >>> {"self", "return", "the"} <= real_words(), "xzq" in real_words()
        (True, False)
    """
    said = Counter(word for line in source_lines() for word in WORD.findall(line))
    return frozenset(word for word, count in said.items() if count >= SAID)


def gold_reward(texts: Iterable[str], length: int) -> Tensor:
    """Letters in distinct real words over the room of a text, in [0, 1].

    Args:
        texts: The texts.
        length: Room of a text, in characters.

    Returns:
        One reward a text.

    Examples:
        >>> gold_reward(["return self", "self self", "xzq"], length=20)
        tensor([0.5000, 0.2000, 0.0000])
    """
    real = real_words()
    found = [sum(map(len, real & set(WORD.findall(text)))) for text in texts]
    return torch.tensor(found) / length


def error_table(error: Error, scale: float, seed: int) -> Tensor:
    """Errors of all triples of characters, with the quartiles of N(0, scale^2).

    Triples with a line end have none: with one, to stop after the first word may be the exploit,
    and a policy that does so stops exploring.

    Args:
        error: ``student`` (two degrees of freedom), ``gaussian``, or ``none`` for zeros.
        scale: Of one triple.
        seed: Seed of the table.

    Returns:
        ``(characters, characters, characters)``.

    Examples:
        >>> hacks, null = (error_table(e, 1.0, 0)[1:, 1:, 1:] for e in ("student", "gaussian"))
        >>> [round(t.abs().median().item(), 1) for t in (hacks, null)]
        [0.7, 0.7]
        >>> bool(hacks.max() > 20 * null.max())
        True
    """
    generator, shape = np.random.default_rng(seed), (len(CHARACTERS),) * 3
    if error == "none":
        return torch.zeros(shape)
    student = error == "student"
    drawn = generator.standard_t(2, shape) if student else generator.standard_normal(shape)
    drawn[0], drawn[:, 0], drawn[:, :, 0] = 0.0, 0.0, 0.0
    unit = scale * QUARTILES["gaussian"] / QUARTILES[error]
    return torch.from_numpy(unit * drawn).float()


def error_reward(texts: Texts, table: Tensor) -> Tensor:
    """Sum of the errors of a text's triples over its room.

    Only triples inside the text count, as those with a line end are 0 in the table.

    Args:
        texts: The texts.
        table: From `error_table`.

    Returns:
        One error a text.

    Examples:
        >>> from foreshock.experiments.character_policy import encode
        >>> table = torch.zeros(30, 30, 30)
        >>> table[2, 3, 2] = 6.0  # "aba"
        >>> tokens = torch.cat([torch.zeros(8, dtype=torch.long), encode("ababab")])
        >>> error_reward(Texts(tokens[None], torch.ones(1, 6)), table)
        tensor([2.])
    """
    tokens, length = texts.tokens, texts.written.shape[1]
    second, first, last = tokens[:, CONTEXT - 2 : -2], tokens[:, CONTEXT - 1 : -1], tokens
    return (table[second, first, last[:, CONTEXT:]] * texts.written).sum(1) / length
