"""Forecasts as they would have been made in the past: at every origin, all that is chosen, fitted and measured comes
from before it.

A backtest inside a backtest: the models that are used at an origin, and the width of their band, come from errors that
were known there. What is walked through is `forecast.judge`, the same that makes a real forecast.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from forecaster import backtest
from forecaster.backtest import MAX_ORIGINS, MIN_ORIGINS, Band, Outcome
from forecaster.errors import Refusal
from forecaster.forecast import CANDIDATES, Question, Verdict, judge, models_for, replay
from forecaster.models import Model
from forecaster.series import Series, from_samples

T = TypeVar("T")

# Parameters are never older than this part of the run; a real forecast fits them again each time, and gains little.
FITS = 8
# Number of judgements in a run; in between, the last verdict holds.
JUDGEMENTS = 100
# Number of origins before a run that set the width of its first forecasts.
WARM_UP = 3 * MAX_ORIGINS


@dataclass
class Rolled:
    """One forecast per origin. An origin is the number of samples before it."""

    origins: list[int]
    mean: list[list[float]]
    upper: list[list[float]]
    skilled: list[bool]
    members: list[list[str]]
    missing: list[dict] = field(default_factory=list)
    peaks: dict[str, list[float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Walk:
    """What every model said at every origin, and how far off it was."""

    series: Series
    at: np.ndarray
    outcomes: dict[str, Outcome]
    notes: list[str]

    def judged(
        self,
        asked: np.ndarray,
        horizon: int,
        judge: Callable[[dict[str, Outcome], np.ndarray], T],
        pause: Callable[[], None],
    ) -> Iterator[tuple[int, T]]:
        """Row and judgement for each origin in `asked` where enough is known, by errors that are known there."""
        pace = max(1, int(asked[-1] - asked[0]) // JUDGEMENTS)
        judgement, judged_at = None, 0
        for origin in asked.tolist():
            if judgement is None or origin - judged_at >= pace:
                pause()
                # An error is known once the horizon after its origin is over.
                known = np.flatnonzero(self.at + horizon <= origin)
                if len(known) < MIN_ORIGINS:
                    continue
                spread = backtest.spread(self.at[known[0]], self.at[known[-1]], MAX_ORIGINS)
                rows = np.unique(np.searchsorted(self.at, spread))
                outcomes = {name: outcome.part(rows, horizon) for name, outcome in self.outcomes.items()}
                if not all(np.isfinite(outcome.errors).any(axis=0).all() for outcome in outcomes.values()):
                    continue
                judgement, judged_at = judge(outcomes, self.at[rows]), origin
            yield int(np.searchsorted(self.at, origin)), judgement

    def lines(self, row: int, members: list[str], band: Band) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean, lower and upper line of the forecast of `members`, as far as the band goes."""
        mean = np.mean([self.outcomes[name].forecasts[row, : len(band.above)] for name in members], axis=0)
        return band.lines(mean, lowest=self.series.values[: self.at[row]].min())


def walk(series: Series, models: Sequence[Model], at: np.ndarray, horizon: int, pause: Callable[[], None]) -> Walk:
    """Lets every model forecast from every origin in `at`."""
    outcomes, notes = {}, []
    # Errors beyond the end are not known: to the backtest they are samples that were missed.
    beyond = np.full(horizon, np.nan)
    padded = Series(
        np.concatenate([series.values, beyond]),
        np.concatenate([series.observed, np.zeros(horizon, dtype=bool)]),
        series.interpolated,
        series.borrowed,
    )
    for model in models:
        try:
            parts = []
            for part in np.array_split(at, min(FITS, len(at))):
                pause()
                parts.append(model.forecasts(series, part, horizon))
            forecasts = np.concatenate(parts)
            if not np.isfinite(forecasts).all():
                raise ValueError("its forecast is not finite")
            outcomes[model.name] = backtest.compare(forecasts, padded, at, horizon)
        except (ValueError, FloatingPointError, np.linalg.LinAlgError) as error:
            notes.append(f"model `{model.name}` cannot be fitted and was left out: {error}")
    if not outcomes:
        raise Refusal("model-failed", "no model can be fitted")
    return Walk(padded, at, outcomes, notes)


def affordable(question: Question, before: int) -> tuple[list[Model], list[dict]]:
    """The models that `before` samples are enough for, and what the others miss."""
    enough, missing = [], []
    for model in models_for(question.step_seconds, question.season):
        needs = backtest.needs(model, question.season, question.horizon)
        if needs <= before:
            enough.append(model)
        else:
            missing.append({"model": model.name, "needs": needs, "has": before})
    names = [model.name for model in enough]
    if not enough or question.model not in ("auto", *names):
        wanted = [entry for entry in missing if question.model in ("auto", entry["model"])]
        if not wanted:
            raise Refusal("bad-request", f"model `{question.model}` does not fit a season of {question.season} samples")
        least = min(wanted, key=lambda entry: entry["needs"])
        raise Refusal(
            "not-enough-history",
            f"a rolling forecast needs {least['needs']} samples before its first origin, has {before}",
            "give a longer history, or begin later",
        )
    return enough, missing


def forecasts(question: Question, asked: range, pause: Callable[[], None] = lambda: None) -> Rolled:
    """A forecast from each origin in `asked`, as it would have been made there."""
    series = from_samples(question.samples, question.season, hindsight=False)
    horizon = question.horizon
    enough, missing = affordable(question, asked[0])
    first = max(model.fit_samples for model in enough)
    warm_up = backtest.spread(first, asked[0], WARM_UP)
    at = np.unique(np.concatenate([warm_up, np.array(asked)]))
    walked = walk(series, enough, at, horizon, pause)
    rolled = Rolled([], [], [], [], [], missing, notes=walked.notes)
    if question.lead is not None and question.replay > 0:
        rolled.peaks = peaks(series, question, len(series), pause)
    def verdict(outcomes: dict[str, Outcome], at: np.ndarray) -> Verdict:
        return judge(outcomes, walked.series, at, question.quantile, question.model)

    for row, found in walked.judged(np.array(asked), horizon, verdict, pause):
        mean, _, upper = walked.lines(row, found.members, found.band)
        rolled.origins.append(int(at[row]))
        rolled.mean.append(short(mean))
        rolled.upper.append(short(upper))
        rolled.skilled.append(found.skilled)
        rolled.members.append(found.members)
    return rolled


def peaks(series: Series, question: Question, last: int, pause: Callable[[], None]) -> dict[str, list[float]]:
    """The highest value until the lead time of each candidate at the last origins, fitted again every few days."""
    models = [model for model in models_for(question.step_seconds, question.season) if model.name in CANDIDATES]
    first = max(max(model.fit_samples for model in models), last + 1 - question.replay)
    if first > last:
        return {}
    parts = np.array_split(np.arange(first, last + 1), min(FITS, last + 1 - first))
    found = [replay(series, models, part, question.lead, pause) for part in parts]
    names = set.intersection(*(set(each) for each in found))
    return {name: [value for each in found for value in each[name]] for name in sorted(names)}


def short(values: np.ndarray) -> list[float]:
    """As many digits as a demand is ever measured with: half the line."""
    return [float(f"{value:.9g}") for value in values.tolist()]
