"""The backtest's numbers: against other ways to reckon them, on data that others know, and where nothing can be won."""

import numpy as np
import pytest

from forecaster import rolling
from forecaster.errors import Refusal
from forecaster.forecast import Question
from forecaster.report import Lead, Report, report
from forecaster.tests import datasets
from forecaster.tests.histories import SEASON, STEP_SECONDS, load


@pytest.fixture(autouse=True)
def judged_seldom(monkeypatch: pytest.MonkeyPatch):
    """Models are chosen again less often than in a real backtest, whose time goes there."""
    monkeypatch.setattr(rolling, "JUDGEMENTS", 25)


def of(samples, leads: list[int], step=STEP_SECONDS, season=SEASON, quantile=0.9) -> Report:
    samples = samples.tolist() if isinstance(samples, np.ndarray) else samples
    return report(Question(samples, step, season, max(leads), quantile), leads)


def row(lead: Lead, model: str):
    return next(each for each in lead.rows if each.model == model)


def test_the_naive_row_is_what_anyone_would_reckon():
    values = load(seed=80, days=10)
    (lead,) = of(values, [3]).leads
    taught = len(values) // 2
    # Five days are fewer samples than would be thinned out: every origin of the second half is scored.
    assert lead.origins == len(values) - 3 - taught + 1
    when = np.arange(taught, len(values) - 2) + 2
    errors = np.abs(values[when] - values[when - SEASON])
    scale = np.abs(values[SEASON:taught] - values[: taught - SEASON]).mean()
    naive = row(lead, "seasonal-naive")
    assert naive.mae == pytest.approx(errors.mean())
    assert naive.mase == pytest.approx(errors.mean() / scale)
    assert naive.skill == 0


def test_pinball_and_coverage_are_those_of_the_upper_line():
    # Whole numbers that repeat: the naive line is exact, all errors are zero, and nothing is above the line.
    day = np.arange(SEASON, dtype=float)
    (lead,) = of(np.tile(day, 10), [1]).leads
    naive = row(lead, "seasonal-naive")
    assert (naive.mae, naive.pinball, naive.coverage, naive.mase) == (0.0, 0.0, 1.0, None)


@pytest.mark.parametrize("name", ["co2", "elnino"])
def test_known_series_are_forecast_better_than_by_the_naive(name: str):
    step, samples = datasets.DATASETS[name]()
    season, leads = {"co2": (52, [1, 4, 13]), "elnino": (12, [1, 3, 6])}[name]
    for lead in of(samples, leads, step, season).leads:
        chosen, naive = row(lead, "forecast"), row(lead, "seasonal-naive")
        assert chosen.mae < naive.mae and chosen.mase < naive.mase, lead
        # A floor follows the upper line: carbon dioxide rises ever faster, and a quarter of a year ahead the naive's is closer.
        assert lead.skilled_now == (chosen.pinball < naive.pinball), lead


def test_nine_of_ten_samples_lie_below_the_line_of_a_seeded_load():
    found = of(load(seed=7, days=40), [1, 4, 12])
    for lead in found.leads:
        chosen = row(lead, "forecast")
        assert 0.85 <= chosen.coverage <= 0.95, lead
        assert chosen.skill > 0.1 and lead.skilled > 0.9, lead
        assert chosen.pinball < row(lead, "seasonal-naive").pinball


def test_a_95_percent_band_is_a_prediction_interval():
    found = of(load(seed=81, days=30), [4], quantile=0.95).leads[0]
    chosen = row(found, "forecast")
    assert 0.92 <= chosen.coverage <= 0.98
    # A band around the mean, from the error's standard error, says where the mean is, and holds far fewer samples.
    values = load(seed=81, days=30)
    days = values.reshape(-1, SEASON)
    before, after = days[:15], days[15:]
    of_the_mean = before.mean(axis=0) + 1.645 * before.std(axis=0, ddof=1) / np.sqrt(len(before))
    assert (after <= of_the_mean).mean() < 0.85 < chosen.coverage


def test_the_gate_refuses_white_noise():
    for lead in of(np.random.default_rng(82).normal(100, 10, 20 * SEASON), [1, 4]).leads:
        assert lead.skilled == 0.0 and not lead.skilled_now
        assert row(lead, "flat-mean").used > 0.9


def test_missing_samples_are_never_scored():
    values = load(seed=83, days=10)
    holes = values.tolist()
    for at in range(300, 310):
        holes[at] = None
    whole, holed = (of(samples, [2]).leads[0] for samples in (values, holes))
    assert whole.origins - holed.origins == 10
    assert row(holed, "forecast").mae == pytest.approx(row(whole, "forecast").mae, rel=0.1)


def test_models_that_half_the_history_is_too_short_for_are_named():
    found = of(load(seed=84, days=5), [2])
    assert {"model": "holt-winters", "needs": 6 * SEASON, "has": 5 * SEASON} in found.missing
    assert "holt-winters" not in {each.model for each in found.leads[0].rows}


def test_too_little_history_is_refused():
    with pytest.raises(Refusal, match="needs 26 samples before its first origin, has 20"):
        of([1.0] * 40, [1])


def test_a_constant_history_is_no_skill_and_no_error():
    (lead,) = of([5.0] * (6 * SEASON), [2]).leads
    assert not lead.skilled_now
    assert row(lead, "forecast").mae == 0.0 and row(lead, "forecast").mase is None


def test_datasets_are_histories():
    step, samples = datasets.DATASETS["load"]()
    lines = datasets.text(step, samples).splitlines()
    assert lines[:2] == ["timestamp,value", f"0,{samples[0]}"] and len(lines) == len(samples) + 1
