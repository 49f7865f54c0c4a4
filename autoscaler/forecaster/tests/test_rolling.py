"""Rolling forecasts: nothing of an origin comes from after it, and what is used there is what a forecast would use."""

import dataclasses

import numpy as np
import pytest

from forecaster.errors import Refusal
from forecaster.forecast import Question, answer
from forecaster.rolling import forecasts
from forecaster.series import from_samples
from forecaster.tests.histories import SEASON, STEP_SECONDS, load

HORIZON = 4


def question(samples, **changes) -> Question:
    samples = samples.tolist() if isinstance(samples, np.ndarray) else samples
    return dataclasses.replace(Question(samples, STEP_SECONDS, SEASON, HORIZON, quantile=0.9), **changes)


def test_a_rolling_forecast_sees_nothing_after_its_origin():
    past = load(seed=70, days=10).tolist()
    changed = [*past]
    cut = 9 * SEASON
    for at in range(cut, len(past)):
        changed[at] = 9_000.0 - at
    # Gaps as well: filled by a value from after the origin they would carry it back.
    for samples in (past, changed):
        samples[cut - 8 : cut + 2] = [None] * 10
        samples[cut - 20] = None
    before, after = (forecasts(question(samples), range(8 * SEASON, cut + 1, 6)) for samples in (past, changed))
    assert before.origins == list(range(8 * SEASON, cut + 1, 6))
    assert before == after


def test_a_gap_is_filled_without_hindsight():
    samples = [float(at % 4) for at in range(12)]
    samples[5] = samples[6] = None
    found = from_samples(samples, season=4, hindsight=False)
    assert found.values.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3]
    early = from_samples([7.0, None, 9.0, 1.0, 2.0, 3.0, 4.0, 5.0], season=4, hindsight=False)
    assert early.values[1] == 7.0
    assert from_samples([7.0, None, 9.0, 1.0, 2.0, 3.0, 4.0, 5.0], season=4).values[1] == 8.0


def test_a_rolling_forecast_is_like_the_one_made_at_its_origin():
    values = load(seed=71)
    rolled = forecasts(question(values), range(len(values) - 3, len(values) + 1))
    now = answer(question(values))
    assert rolled.members[-1] == now.members and rolled.skilled[-1] == now.skilled
    np.testing.assert_allclose(rolled.mean[-1], now.mean, rtol=0.02)
    np.testing.assert_allclose(rolled.upper[-1], now.upper, rtol=0.03)


def test_a_named_model_is_used_at_every_origin():
    values = load(seed=72)
    found = forecasts(question(values, model="seasonal-naive"), range(400, 500, 10))
    assert found.members == [["seasonal-naive"]] * 10
    assert found.mean[0] == pytest.approx(values[400 - SEASON : 400 - SEASON + HORIZON].tolist())


def test_the_gate_stays_shut_at_every_origin_of_white_noise():
    values = np.random.default_rng(73).normal(100, 10, 12 * SEASON)
    assert not any(forecasts(question(values), range(6 * SEASON, 12 * SEASON, 3)).skilled)


def test_a_model_that_the_season_does_not_fit_is_refused():
    with pytest.raises(Refusal, match="model `weekly-naive` does not fit a season of 50 samples"):
        forecasts(question(load(seed=74), season=50, model="weekly-naive"), range(300, 400))
