"""Every model: sees nothing after its origin, and gets right what its shape can say."""

import numpy as np
import pytest
from statsmodels.tsa.holtwinters import ExponentialSmoothing

from forecaster.forecast import NAMES, models_for
from forecaster.models import HoltWinters, Model, SeasonalNaive, Sums
from forecaster.series import Series, from_samples
from forecaster.smooth import DayWeek, Theta, one_step_errors
from forecaster.tests.histories import SEASON, STEP_SECONDS, load

MODELS = models_for(STEP_SECONDS, SEASON)


def test_the_names_are_the_models():
    assert sorted(NAMES) == sorted(model.name for model in MODELS)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_no_model_sees_the_future(model: Model):
    past = load(seed=1, days=20)
    changed = past.copy()
    cut = 16 * SEASON
    changed[cut:] = np.random.default_rng(2).normal(5000, 900, len(past) - cut)
    origins = np.array([cut - 90, cut - 3, cut])
    before, after = (
        model.forecasts(from_samples(values.tolist(), SEASON), origins, 6) for values in (past, changed)
    )
    np.testing.assert_allclose(before, after)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_one_row_per_origin_one_column_per_lead(model: Model):
    series = from_samples(load(seed=3, days=16).tolist(), SEASON)
    # A horizon beyond a season, so that indices which wrap are tried.
    found = model.forecasts(series, np.array([500, 600, len(series)]), SEASON + 5)
    assert found.shape == (3, SEASON + 5)
    assert np.isfinite(found).all()


def test_seasonal_naive_repeats_the_last_period():
    series = from_samples([float(value) for value in range(20)], season=4)
    found = SeasonalNaive("seasonal-naive", 4).forecasts(series, np.array([10, 20]), 6)
    assert found.tolist() == [[6, 7, 8, 9, 6, 7], [16, 17, 18, 19, 16, 17]]


def test_the_states_of_holt_winters_are_those_of_statsmodels():
    values = load(seed=4)
    series = from_samples(values.tolist(), SEASON)
    ours = HoltWinters(SEASON).forecasts(series, np.array([len(values)]), 60)[0]
    theirs = ExponentialSmoothing(
        values,
        trend="add",
        damped_trend=True,
        seasonal="add",
        seasonal_periods=SEASON,
        initialization_method="heuristic",
    ).fit(use_brute=False)
    # statsmodels repeats the season before last at a lead of exactly one season; ours the last.
    rest = np.arange(60) != SEASON - 1
    np.testing.assert_allclose(ours[rest], theirs.forecast(60)[rest], rtol=1e-9)


def test_regression_finds_waves_and_fading():
    chance = np.random.default_rng(5)
    at = np.arange(4000)
    waves = np.column_stack([np.ones(4000), np.sin(2 * np.pi * at / SEASON)])
    errors = np.zeros(4000)
    for i in range(1, 4000):
        errors[i] = 0.6 * errors[i - 1] + chance.normal()
    samples = waves @ [50.0, 8.0] + errors
    series = Series(samples, np.ones(4000, dtype=bool), 0, 0)
    sums = Sums(waves, series)
    sums.regress(1000, slice(0, 2))
    coefficients, fading = sums.regress(4000, slice(0, 2))
    np.testing.assert_allclose(coefficients, [50.0, 8.0], atol=0.3)
    assert fading == pytest.approx(0.6, abs=0.05)
    # What was summed before makes no difference.
    np.testing.assert_allclose(coefficients, Sums(waves, series).regress(4000, slice(0, 2))[0], rtol=1e-9)


def test_filters_are_the_recursion_of_damped_trend_smoothing():
    values = load(seed=6, days=4)
    alpha, beta, phi = 0.4, 0.1, 0.9
    level, trend, errors = values[0], 0.0, []
    for value in values:
        expected = level + phi * trend
        errors.append(value - expected)
        level, trend = expected + alpha * errors[-1], phi * trend + beta * errors[-1]
    np.testing.assert_allclose(one_step_errors(values, alpha, beta, phi), errors, atol=1e-9)


def test_the_shape_of_a_week_is_distinguished_from_that_of_a_day():
    week = 7 * SEASON
    at = np.arange(5 * week)
    quiet = np.where(at // SEASON % 7 >= 5, 0.4, 1.0)
    values = 100 + 50 * np.sin(2 * np.pi * at / SEASON) * quiet
    series = from_samples(values.tolist(), SEASON)
    origins = np.arange(4 * week, 5 * week - 6)
    actual = values[origins[:, None] + np.arange(6)]
    error = {
        model.name: float(np.abs(model.forecasts(series, origins, 6) - actual).mean())
        for model in (DayWeek(SEASON, week), DayWeek(SEASON, None))
    }
    assert float(np.abs(DayWeek(SEASON, week).forecasts(series, origins, 6) - actual).mean()) < 0.5 * float(
        np.abs(DayWeek(SEASON, None).forecasts(series, origins, 6) - actual).mean()
    ), error


def test_theta_follows_half_of_a_slope():
    values = 10 + 0.5 * np.arange(20 * SEASON)
    found = Theta(SEASON).forecasts(from_samples(values.tolist(), SEASON), np.array([len(values)]), 10)[0]
    assert 0.2 < (found[-1] - found[0]) / 9 < 0.3
