"""The digits: nothing is in both parts, and the seed decides what is held out."""

from __future__ import annotations

import sys

import pytest
import torch

from foreshock.experiments.digits import load_digits


def test_no_digit_is_in_both_parts() -> None:
    train, heldout = load_digits(3)
    rows = [{tuple(x.tolist()) for x in part[0]} for part in (train, heldout)]
    assert not rows[0] & rows[1]
    assert len(rows[0]) + len(rows[1]) == 1797  # scikit-learn's digits are all different
    assert 0 <= float(train[0].min()) and float(train[0].max()) == 1
    assert not torch.equal(load_digits(4)[1][1], heldout[1])


def test_as_many_are_held_out_as_asked() -> None:
    train, heldout = load_digits(3, heldout=597)
    assert (len(train[1]), len(heldout[1])) == (1200, 597)
    assert torch.equal(train[0], load_digits(3)[0][0][:1200])  # one order of the digits a seed


def test_without_scikit_learn_it_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        load_digits(0)
