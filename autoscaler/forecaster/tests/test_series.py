"""Gaps: which are filled, how, and which are refused."""

import numpy as np
import pytest

from forecaster.errors import Refusal
from forecaster.series import from_samples, gaps


def test_a_short_gap_is_a_straight_line():
    series = from_samples([*[10.0] * 10, None, None, 40.0, *[40.0] * 10], season=8)
    assert series.values[10:12].tolist() == [20.0, 30.0]
    assert (series.interpolated, series.borrowed) == (2, 0)
    assert not series.observed[10] and series.observed[12]


def test_a_long_gap_is_borrowed_from_other_seasons():
    day = list(range(20))
    second = [value + 100 for value in day]
    second[5:10] = [None] * 5
    third = [value + 200 for value in day]
    series = from_samples([*day, *second, *third], season=20)
    # The mean of 5 and 205, not the line between 104 and 110.
    assert series.values[25:30].tolist() == [105, 106, 107, 108, 109]
    assert (series.interpolated, series.borrowed) == (0, 5)


def test_a_missing_sample_is_never_zero():
    samples = [100.0] * 60
    for at in (7, 20, 21, 22, 23, 24):
        samples[at] = None
    assert from_samples(samples, season=12).values.min() == 100.0


def test_too_many_missing_samples_are_refused():
    samples = [1.0, None, 1.0, 1.0] * 20 + [1.0]
    with pytest.raises(Refusal, match="20 of 81 samples are missing") as refused:
        from_samples(samples, season=8)
    assert refused.value.code == "too-many-gaps"


def test_a_gap_longer_than_a_season_is_refused():
    with pytest.raises(Refusal, match="a gap of 9 samples is longer than a season of 8"):
        from_samples([*[1.0] * 50, *[None] * 9, *[1.0] * 50], season=8)


def test_gaps_are_half_open_ranges():
    observed = np.array([True, False, True, False, False, True])
    assert gaps(observed) == [(1, 2), (3, 5)]
