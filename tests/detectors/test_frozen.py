"""The rules are those whose code and parameters were fixed before the benchmarks' seeds."""

from __future__ import annotations

import pytest

from benchmarks import detectors, published_detectors
from benchmarks.detectors_parts import freeze
from foreshock.detectors import LossSpike

LOSSES = {**detectors.FAST, **detectors.OTHERS, **detectors.SLOW, **detectors.SIGNALS}


def test_the_rules_are_those_that_were_frozen() -> None:
    # It fails when the code of a rule changes: choose new seeds, freeze, commit, measure again.
    freeze.check("losses", LOSSES, detectors.FIRST)
    published = {rule.name: rule for rule, _, _ in published_detectors.RULES}
    freeze.check("published", published, published_detectors.FIRST)


def test_other_parameters_rules_or_seeds_are_refused() -> None:
    other = {**LOSSES, "LossSpike": LossSpike(factor=1.4)}
    with pytest.raises(SystemExit, match="parameters .*LossSpike"):
        freeze.check("losses", other, detectors.FIRST)
    with pytest.raises(SystemExit, match="parameters"):
        freeze.check("losses", {**LOSSES, "more": LossSpike()}, detectors.FIRST)
    with pytest.raises(SystemExit, match="first"):
        freeze.check("losses", LOSSES, detectors.FIRST + 1)


def test_code_counts_and_docstrings_and_comments_do_not() -> None:
    base = "A = 1\n\n\ndef f(x):\n    return x + A\n"
    told = '"""What."""\nA = 1  # one\n\ndef f(x):\n    """How."""\n    return x + A\n'
    assert freeze.code_of([base]) == freeze.code_of([told])
    assert freeze.code_of([base]) != freeze.code_of([base.replace("A = 1", "A = 2")])
