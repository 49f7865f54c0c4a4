"""Rolling origins: what each model would have said in the past, and how far off that was.

Errors at samples that were missing are left out (NaN), never counted as hits.
"""

from bisect import insort
from dataclasses import dataclass
from functools import cached_property
from math import ceil

import numpy as np

from forecaster.models import Model
from forecaster.series import Series

# Fewer origins cannot tell skill from luck.
MIN_ORIGINS = 24
# More origins cost time and overlap too much to say anything new.
MAX_ORIGINS = 160
# The share that the level of an adaptive band is followed for.
FOLLOWED = 0.9
# How far one error beyond the line moves the level of an adaptive band.
PACE = 0.05
# Levels stay between these: below the one asked for by this much while it is followed, and above one for errors that no past
# error reaches.
MAX_LOWERED = 0.05
MAX_LEVEL = 2.0
FOLLOWED_LEADS = 4


def needs(model: Model, season: int, horizon: int) -> int:
    """Samples for a fit and a backtest over one season, so that every time of day has been an origin."""
    return model.fit_samples + max(season if model.fit_samples >= season else 0, horizon + MIN_ORIGINS)


def origins(length: int, first: int, horizon: int) -> np.ndarray:
    """Up to `MAX_ORIGINS` origins from `first` on, evenly spread, each with a whole horizon of samples after it."""
    return spread(first, length - horizon, MAX_ORIGINS)


def spread(first: int, last: int, most: int) -> np.ndarray:
    """Up to `most` whole numbers from `first` to `last`, evenly spread."""
    return np.unique(np.linspace(first, last, min(most, last - first + 1)).round().astype(int))


@dataclass(frozen=True)
class Outcome:
    """One model's forecasts at every origin, and their errors (actual minus forecast)."""

    forecasts: np.ndarray
    errors: np.ndarray

    def part(self, rows: np.ndarray, horizon: int) -> "Outcome":
        """The same at some of the origins, and not as far."""
        return Outcome(self.forecasts[rows, :horizon], self.errors[rows, :horizon])

    @cached_property
    def mae(self) -> float:
        """Mean absolute error over all origins and lead times."""
        return float(np.nanmean(np.abs(self.errors)))


def run(model: Model, series: Series, at: np.ndarray, horizon: int) -> Outcome:
    """Forecasts from every origin in `at`, compared with what came."""
    return compare(model.forecasts(series, at, horizon), series, at, horizon)


def compare(forecasts: np.ndarray, series: Series, at: np.ndarray, horizon: int) -> Outcome:
    """The errors of forecasts made at the origins `at`."""
    when = at[:, None] + np.arange(horizon)[None, :]
    actual = np.where(series.observed, series.values, np.nan)[when]
    return Outcome(forecasts, actual - forecasts)


def skill(mae: float, reference: float) -> float:
    """The part of the reference's error that is gone: 1 is perfect, 0 no better, below 0 worse."""
    # A reference without error leaves nothing to improve; the scale's rounding noise is not skill either.
    return 0.0 if reference <= 1e-12 else 1.0 - mae / reference


def pinball(beyond: np.ndarray, quantile: float) -> float:
    """The mean pinball loss of a quantile line that samples lie so far beyond."""
    return float(np.nanmean(np.maximum(quantile * beyond, (quantile - 1) * beyond)))


def beyond_luck(better: Outcome, than: Outcome, at: np.ndarray) -> bool:
    """Whether the gain in error is at least twice its standard error.

    Forecasts from neighbouring origins share most of their horizon and so their luck: only as many count as fit
    next to each other.
    """
    seen = np.isfinite(better.errors).any(axis=1)
    gain = np.nanmean(np.abs(than.errors[seen]), axis=1) - np.nanmean(np.abs(better.errors[seen]), axis=1)
    independent = min(len(gain), int(at[-1] - at[0]) // better.errors.shape[1] + 1)
    if independent < 2:
        return False
    return bool(gain.mean() > 2 * gain.std(ddof=1) / np.sqrt(independent))


@dataclass(frozen=True)
class Band:
    """How far below and above a forecast its samples lie, per lead time; shares of the forecast where `proportional`."""

    below: np.ndarray
    above: np.ndarray
    proportional: bool

    def lines(self, mean: np.ndarray, lowest: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean, lower and upper line of a forecast, for a history whose lowest value is `lowest`."""
        scale = mean if self.proportional else 1.0
        lower, upper = mean + self.below * scale, mean + self.above * scale
        if lowest >= 0:
            # Demand that never was negative will not become so.
            mean, lower, upper = (np.maximum(each, 0.0) for each in (mean, lower, upper))
        # Past errors can all lie on one side of zero; a band that excludes its own mean would only confuse.
        return mean, np.minimum(lower, mean), np.maximum(upper, mean)

    def loss(self, outcome: Outcome, quantile: float) -> float:
        """The mean pinball loss of the upper line at the origins of an outcome."""
        scale = outcome.forecasts if self.proportional else 1.0
        return pinball(outcome.errors - np.maximum(self.above * scale, 0.0), quantile)


def band(outcome: Outcome, quantile: float) -> Band:
    """The band between the lower and the upper error quantile.

    Each lead time pools the errors of its two neighbours. The rank is the conformal one, (n + 1) q: the share of the
    next errors below it is at least q when they are like the past ones, whatever their distribution. Where they were not,
    because errors grow or drift, q is raised to the level that would have kept the share lately.
    """
    errors, proportional = outcome.errors, grows_with_level(outcome)
    if proportional:
        errors = errors / outcome.forecasts
    horizon = errors.shape[1]
    pools = [pooled(errors, lead) for lead in range(horizon)]
    # The levels change slowly from lead to lead: a few leads are followed, and those in between are interpolated.
    followed = spread(0, horizon - 1, FOLLOWED_LEADS)
    drifts = [[drift(side * pools[lead]) for lead in followed] for side in (1.0, -1.0)]
    levels = [quantile + np.interp(np.arange(horizon), followed, each) for each in drifts]
    above = np.array([rank(pool, level) for pool, level in zip(pools, levels[0], strict=True)])
    below = -np.array([rank(-pool, level) for pool, level in zip(pools, levels[1], strict=True)])
    return Band(below, above, proportional)


def pooled(errors: np.ndarray, lead: int) -> np.ndarray:
    """The errors at a lead time and its two neighbours, the oldest first."""
    pool = errors[:, max(0, lead - 1) : lead + 2].ravel()
    return pool[~np.isnan(pool)]


def rank(pool: np.ndarray, level: float) -> float:
    """The error at a level of a pool by the conformal rank; beyond the largest one in proportion to their spread."""
    ordered = np.sort(pool)
    place = (len(ordered) + 1) * level
    if place <= len(ordered):
        return float(ordered[max(1, int(np.ceil(place))) - 1])
    return float(ordered[-1] + max(0.0, level - 1.0) * (ordered[-1] - ordered[len(ordered) // 2]))


def drift(pool: np.ndarray) -> float:
    """How much higher a level has to be than asked for, so that a pool's last errors keep it: 0 where past errors suffice.

    An adaptive conformal line is led through the pool: each error is compared with the line by those before it; one beyond
    raises the level, one within lowers it, so that in the long run the share within is the one asked for, whatever trend the
    errors have. The first half only teaches. One drift serves all quantiles, so that a higher one is a higher line.
    """
    begin = max(MIN_ORIGINS, len(pool) // 2)
    if len(pool) - begin < MIN_ORIGINS:
        return 0.0
    lowest, fall, rise = FOLLOWED - MAX_LOWERED, PACE * (FOLLOWED - 1.0), PACE * FOLLOWED
    ordered, count, level = sorted(pool[:begin].tolist()), begin, FOLLOWED
    # Backtests are here most of their time: no calls but those that are needed.
    for value in pool[begin:].tolist():
        place = (count + 1) * level
        if place <= count:
            line = ordered[ceil(place) - 1]
        else:
            line = ordered[-1] + max(0.0, level - 1.0) * (ordered[-1] - ordered[count // 2])
        if value <= line:
            level += fall
            if level < lowest:
                level = lowest
        else:
            level += rise
            if level > MAX_LEVEL:
                level = MAX_LEVEL
        insort(ordered, value)
        count += 1
    return max(level - FOLLOWED, 0.0)


def grows_with_level(outcome: Outcome) -> bool:
    """Whether busy hours have the larger errors: one width for all would then fail at the peak, where it matters."""
    seen = ~np.isnan(outcome.errors)
    level, size = outcome.forecasts[seen], np.abs(outcome.errors[seen])
    # Shares of a level near zero mean nothing.
    if len(level) < MIN_ORIGINS or level.min() <= 0.05 * level.max() or level.max() <= 0:
        return False
    count = len(level)
    first, second = (np.argsort(np.argsort(each)) for each in (level, size))
    # Spearman's correlation of ranks that are all different.
    return bool(1.0 - 6.0 * ((first - second) ** 2).sum() / (count * (count**2 - 1.0)) > 0.2)
