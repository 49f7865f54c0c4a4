"""A fit carried on: the same as a new fit where nothing came since, and as statsmodels continues where something did."""

import json
import sys
from collections.abc import Callable

import numpy as np
import pytest
from statsmodels.tsa.holtwinters import ExponentialSmoothing

from forecaster import protocol
from forecaster.errors import Refusal
from forecaster.forecast import CANDIDATES, Question, answer, models_for
from forecaster.models import SMOOTHING, HoltWinters, Model
from forecaster.series import from_samples
from forecaster.tests.histories import SEASON, STEP_SECONDS, load

MODELS = models_for(STEP_SECONDS, SEASON)


def question(samples: np.ndarray, **more) -> Question:
    return Question(samples.tolist(), STEP_SECONDS, SEASON, 4, 0.9, **more)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_a_fit_of_now_is_the_forecast(model: Model):
    series = from_samples(load(seed=1, days=20).tolist(), SEASON)
    expected = model.forecasts(series, np.array([len(series)]), SEASON + 5)[0]
    np.testing.assert_allclose(model.ahead(model.fit(series), series, 0, SEASON + 5), expected)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_a_fit_goes_on_over_what_came_since_whatever_the_window(model: Model):
    values = load(seed=2, days=24)
    fit = model.fit(from_samples(values[:-30].tolist(), SEASON))
    whole = from_samples(values.tolist(), SEASON)
    window = from_samples(values[200:].tolist(), SEASON)
    rows = [model.ahead(fit, series, 30, 6) for series in (whole, window)]
    np.testing.assert_allclose(rows[0], rows[1])


def test_holt_winters_goes_on_as_statsmodels_does():
    model, values = HoltWinters(SEASON), load(seed=3, days=20)
    whole = from_samples(values.tolist(), SEASON)
    past = from_samples(values[:-40].tolist(), SEASON)
    params = model.parameters(past.values)
    states = ExponentialSmoothing(
        whole.values,
        initialization_method="known",
        initial_level=params["initial_level"],
        initial_trend=params["initial_trend"],
        initial_seasonal=params["initial_seasons"],
        trend="add",
        damped_trend=True,
        seasonal="add",
        seasonal_periods=SEASON,
    ).fit(**{name: params[name] for name in SMOOTHING}, optimized=False)
    damping = np.cumsum(params["damping_trend"] ** np.arange(1, 7))
    expected = states.level[-1] + states.trend[-1] * damping + states.season[-SEASON : -SEASON + 6]
    np.testing.assert_allclose(model.ahead(model.fit(past), whole, 40, 6), expected)


def test_a_renewed_answer_keeps_the_verdict_and_follows_the_demand():
    values = load(seed=4, days=20)
    first = answer(question(values[:-12]))
    # As it travels.
    fit = json.loads(json.dumps(first.fit))
    renewed = answer(question(values, fit=fit, since=12))
    again = answer(question(values))
    assert (renewed.members, renewed.skilled, renewed.skill) == (first.members, first.skilled, first.skill)
    assert renewed.backtests == first.backtests and renewed.fit is None
    spread = np.mean(np.array(again.upper) - np.array(again.lower))
    assert np.abs(np.array(renewed.mean) - np.array(again.mean)).max() < 0.2 * spread
    assert np.abs(np.array(first.mean) - np.array(renewed.mean)).max() > 0


def calls(work: Callable[[], object]) -> int:
    """How many functions a piece of work calls, those in C among them: a fit calls some for each sample, and one for each step of its search."""
    count = 0

    def counts(_frame: object, event: str, _of: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(counts)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


def test_a_renewed_answer_costs_a_part_of_a_whole_one():
    values = load(seed=5, days=60)
    past = question(values[:-1])
    first = answer(past)
    whole = calls(lambda: answer(past))
    # It calls a hundredth. With a backtest, or a fit of Holt-Winters, theta or the damped trend, it would be more than a fiftieth.
    assert calls(lambda: answer(question(values, fit=first.fit, since=1))) < whole / 50


@pytest.mark.parametrize(
    "change",
    [
        {"version": 3},
        {"shape": [1, 2, 3, 0.9]},
        {"models": {"oracle": {}}},
        {"band": None},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_fit_of_something_else_is_done_again(change: dict):
    values = load(seed=6, days=20)
    fit = {**answer(question(values)).fit, **change}
    assert answer(question(values, fit=fit, since=0)).fit is not None


def test_a_fit_that_is_broken_within_is_refused():
    values = load(seed=7, days=20)
    fit = answer(question(values, model="holt-winters")).fit
    fit["models"]["holt-winters"] = {"smoothing": "much"}
    with pytest.raises(Refusal) as refused:
        answer(question(values, fit=fit, since=1))
    assert refused.value.code == "bad-fit"


def test_since_is_checked():
    message = {
        "samples": [1.0, 2.0], "step_seconds": 300, "season": 2, "horizon": 1, "quantile": 0.9, "fit": {}, "since": -1,
    }
    with pytest.raises(Refusal, match="`since` is not a whole number"):
        protocol.question(message)


def test_peaks_are_those_of_the_lines_at_their_origins_and_a_renewal_has_the_lines():
    values = load(seed=9, days=20)
    found = answer(question(values, lead=3, replay=100))
    assert set(found.peaks) == {*CANDIDATES, "mean"}
    assert all(len(peaks) == 100 for peaks in found.peaks.values())
    renewed = answer(question(values, lead=3, replay=100, fit=json.loads(json.dumps(found.fit)), since=0))
    assert renewed.peaks == {} and set(renewed.lines) == set(found.lines)
    for name, line in found.lines.items():
        np.testing.assert_allclose(renewed.lines[name], line)
        # Parameters of the replay are older than those of the forecast.
        np.testing.assert_allclose(found.peaks[name][-1], max(line[:3]), rtol=0.15)


def test_a_seasonal_naive_does_not_beat_itself():
    found = answer(question(load(seed=10, days=20), model="seasonal-naive"))
    assert found.members == ["seasonal-naive"] and not found.skilled
