"""What the whole is for: skill where there is some, none where there is none, bands that hold."""

import dataclasses

import numpy as np
import pytest

from forecaster import backtest
from forecaster.errors import Refusal
from forecaster.forecast import Answer, Question, answer, choose, judge
from forecaster.series import from_samples
from forecaster.tests.histories import SEASON, STEP_SECONDS, load

HORIZON = 4


def ask(samples, **changes) -> Answer:
    samples = samples.tolist() if isinstance(samples, np.ndarray) else samples
    question = Question(samples, STEP_SECONDS, SEASON, HORIZON, quantile=0.9)
    return answer(dataclasses.replace(question, **changes))


def test_a_daily_load_is_forecast_with_skill():
    found = ask(load(seed=10))
    assert found.skilled
    assert found.skill > 0.2 and found.skill_flat > 0.2
    assert {"holt-winters", "harmonic"} & set(found.members)


def test_the_skill_is_real_on_samples_never_seen():
    ours, naive = [], []
    for seed in range(20, 32):
        values = load(seed)
        future = values[-HORIZON:]
        ours.append(np.abs(ask(values[:-HORIZON]).mean - future).mean())
        naive.append(np.abs(values[-HORIZON - SEASON : -SEASON] - future).mean())
    assert np.mean(ours) < 0.8 * np.mean(naive)


@pytest.mark.parametrize("level_noise", [False, True], ids=["even noise", "noise that grows with the level"])
def test_nine_of_ten_samples_lie_below_the_upper_line(level_noise: bool):
    below, above, bands = [], [], set()
    for seed in range(100, 140):
        values = load(seed)
        if level_noise:
            chance = np.random.default_rng(seed + 1000)
            values = (values - 60) * chance.normal(1, 0.06, len(values))
        found = ask(values[:-HORIZON])
        bands.add(found.band)
        below += (values[-HORIZON:] <= found.upper).tolist()
        above += (values[-HORIZON:] >= found.lower).tolist()
    assert 0.85 <= np.mean(below) <= 0.95
    assert 0.85 <= np.mean(above) <= 0.95
    assert ("proportional" in bands) == level_noise


@pytest.mark.parametrize("seed", range(6))
def test_white_noise_is_not_skilled(seed: int):
    found = ask(np.random.default_rng(seed).normal(100, 10, 12 * SEASON))
    assert not found.skilled
    assert found.model == "flat-mean"
    assert any("do not scale" in note for note in found.notes)


def test_a_short_history_of_noise_is_hardly_ever_skilled():
    # Few backtests, long horizon: here luck looks most like skill.
    found = [
        ask(np.random.default_rng(seed).normal(100, 10, 3 * SEASON), horizon=24).skilled for seed in range(60)
    ]
    assert sum(found) <= 1


@pytest.mark.parametrize("seed", range(6))
def test_a_random_walk_is_not_skilled(seed: int):
    found = ask(1000 + np.cumsum(np.random.default_rng(seed).normal(0, 1, 12 * SEASON)))
    assert not found.skilled
    assert found.model == "last-value"


def test_a_constant_history_stays_what_it_is():
    found = ask([7.0] * (8 * SEASON))
    assert found.mean == found.lower == found.upper == [7.0] * HORIZON
    assert not found.skilled
    assert "the history is constant: there is nothing to forecast" in found.notes


def test_a_perfect_repetition_is_naive_and_nothing_beats_it():
    day = 100 + 50 * np.sin(2 * np.pi * np.arange(SEASON) / SEASON) + np.arange(SEASON) % 5
    found = ask(np.tile(day, 8))
    assert found.model == "seasonal-naive" and not found.skilled
    np.testing.assert_allclose(found.mean, day[:HORIZON])


def test_a_short_history_says_what_each_model_needs():
    found = ask(load(seed=40, days=1))
    assert found.model in ("last-value", "flat-mean")
    assert found.skill is None and not found.skilled
    assert {"model": "seasonal-naive", "needs": 2 * SEASON, "has": SEASON} in found.missing
    assert {"model": "holt-winters", "needs": 3 * SEASON, "has": SEASON} in found.missing


def test_what_is_missing_becomes_enough_at_exactly_that_length():
    short, enough = (ask(load(seed=41)[: 3 * SEASON - less]) for less in (1, 0))
    assert "holt-winters" in {entry["model"] for entry in short.missing}
    assert "holt-winters" not in {entry["model"] for entry in enough.missing}


def test_a_wanted_model_without_history_is_refused():
    with pytest.raises(Refusal, match="model `holt-winters` needs 144 samples, has 60") as refused:
        ask(load(seed=42)[:60], model="holt-winters")
    assert refused.value.code == "not-enough-history"


def test_almost_no_history_is_refused():
    with pytest.raises(Refusal, match="a forecast needs 29 samples, has 5"):
        ask([1.0, 2.0, 3.0, 4.0, 5.0])


def test_a_wanted_model_is_used_skilled_or_not():
    found = ask(load(seed=43), model="weekly-naive")
    assert found.model == "weekly-naive" and found.members == ["weekly-naive"]


def test_missing_samples_do_not_pull_the_forecast_down():
    values = load(seed=44)
    holes = values.tolist()
    for at in [*range(100, 112), 200, 201, 333, *range(len(holes) - 30, len(holes) - 20)]:
        holes[at] = None
    whole, holed = ask(values), ask(holes)
    assert (holed.interpolated, holed.borrowed) == (3, 22)
    np.testing.assert_allclose(holed.mean, whole.mean, rtol=0.05)


def test_demand_that_never_was_negative_stays_so():
    values = np.maximum(load(seed=45) - 200, 0)
    found = ask(values)
    assert min(found.lower) >= 0


def test_a_higher_quantile_is_a_higher_line():
    lines = [np.array(ask(load(seed=46), quantile=quantile).upper) for quantile in (0.6, 0.9, 0.99)]
    assert (lines[0] < lines[1]).all() and (lines[1] < lines[2]).all()


def test_a_quantile_beyond_the_backtests_says_so():
    assert any("largest error seen" in note for note in ask(load(seed=47), quantile=0.9999).notes)


def test_an_impatient_caller_is_obeyed():
    class Enough(Exception):
        pass

    def pause():
        raise Enough

    with pytest.raises(Enough):
        answer(Question(load(seed=48).tolist(), STEP_SECONDS, SEASON, HORIZON, 0.9), pause)


@pytest.mark.parametrize(("spread", "sharp"), [(9.0, False), (0.2, True)])
def test_a_closer_forecast_with_a_worse_upper_line_is_not_skilled(spread: float, sharp: bool):
    random = np.random.default_rng(49)
    series, at = from_samples(random.normal(100, 30, 200).tolist(), SEASON), np.arange(100, 160)

    def outcome(errors: np.ndarray) -> backtest.Outcome:
        return backtest.compare(series.values[at][:, None] - errors[:, None], series, at, 1)

    # The naive is always off by the same, which its own band mends; the model is less off, either way.
    outcomes = {
        "seasonal-naive": outcome(random.normal(10, 0.5, 60)),
        "last-value": outcome(random.normal(0, 40, 60)),
        "harmonic": outcome(random.choice([-spread, spread], 60)),
    }
    found = judge(outcomes, series, at, 0.9)
    assert found.members == ["harmonic"] and found.skill > 0.05
    assert (found.sharp, found.skilled) == (sharp, sharp)


def test_only_models_that_beat_both_references_are_chosen():
    def entry(model, mae, skill, skill_flat, sure=True):
        return {"model": model, "mae": mae, "skill": skill, "skill_flat": skill_flat, "sure": sure}

    references = [entry("seasonal-naive", 2.0, 0.0, -0.1), entry("last-value", 1.8, 0.1, 0.0)]
    beats_naive_only = entry("harmonic", 1.79, 0.105, 0.005)
    beats_both = entry("holt-winters", 1.5, 0.25, 0.17)
    lucky = entry("harmonic", 1.4, 0.3, 0.22, sure=False)
    assert choose([*references, beats_naive_only]) == ["last-value"]
    assert choose([*references, lucky]) == ["last-value"]
    assert choose([*references, beats_naive_only, beats_both]) == ["holt-winters"]
