"""Ranks of scores: the threshold, and the bound for one file."""

from __future__ import annotations

import math

import numpy as np
import pytest

from foreshock.evaluation import conformal_threshold, false_alarm_bound


def test_the_threshold_of_scores() -> None:
    # ceil(.95 * 41) = 39; and .95 * 20 is 19.000000000000004 in floating point.
    assert conformal_threshold(range(1, 41), 0.05) == 39
    assert conformal_threshold(range(1, 20), 0.05) == 19
    assert conformal_threshold([-math.inf] * 19 + [3.0], 0.05) == 3.0
    for scores, alpha, sentence in (
        (range(5), 0.05, "5 calibration scores .* at least 19 are needed"),
        ([math.nan] * 30, 0.05, "score is nan"),
        (range(30), 1.0, "must lie in .0, 1.. Got 1"),
    ):
        with pytest.raises(ValueError, match=sentence):
            conformal_threshold(scores, alpha)


def test_the_bound_for_one_file_covers_as_often_as_it_says() -> None:
    # Uniform scores: the false-alarm rate of a threshold h is 1 - h. 4,000 sets, 4 standard errors.
    rng = np.random.default_rng(9)
    for count, alpha, confidence in ((20, 0.05, 0.95), (40, 0.05, 0.95), (50, 0.1, 0.8)):
        bound = false_alarm_bound(count, alpha, confidence)
        sets = rng.random((4000, count))
        rates = np.array([1 - conformal_threshold(one, alpha) for one in sets])
        slack = 4 * math.sqrt(confidence * (1 - confidence) / 4000)
        assert abs((rates < bound).mean() - confidence) < slack
    assert false_alarm_bound(20, 0.05) == pytest.approx(1 - 0.05 ** (1 / 20), rel=1e-9)
    with pytest.raises(ValueError, match="at least 19 are needed"):
        false_alarm_bound(18, 0.05)
