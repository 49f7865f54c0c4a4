"""Rolling origins: what each model would have said in the past, and how far off that was.

Errors at samples that were missing are left out (NaN), never counted as hits.
"""

from dataclasses import dataclass

import numpy as np

from forecaster.models import Model
from forecaster.series import Series

# Fewer origins cannot tell skill from luck.
MIN_ORIGINS = 24
# More origins cost time and overlap too much to say anything new.
MAX_ORIGINS = 160


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

    @property
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
    # A reference without error leaves nothing to improve; the scale's rounding noise is no skill either.
    return 0.0 if reference <= 1e-12 else 1.0 - mae / reference


def pinball(beyond: np.ndarray, quantile: float) -> float:
    """The mean pinball loss of a quantile line that samples lie so far beyond."""
    return float(np.nanmean(np.maximum(quantile * beyond, (quantile - 1) * beyond)))


def beyond_luck(better: Outcome, than: Outcome, at: np.ndarray) -> bool:
    """Whether the gain in error is at least twice its standard error.

    Forecasts from neighbouring origins share most of their horizon and so their luck: only as many count as fit
    beside each other.
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
        # Past errors can all lie on one side of zero; a band beside its own mean would only confuse.
        return mean, np.minimum(lower, mean), np.maximum(upper, mean)

    def loss(self, outcome: Outcome, quantile: float) -> float:
        """The mean pinball loss of the upper line at the origins of an outcome."""
        scale = outcome.forecasts if self.proportional else 1.0
        return pinball(outcome.errors - np.maximum(self.above * scale, 0.0), quantile)


def band(outcome: Outcome, quantile: float) -> Band:
    """The band between the lower and the upper error quantile.

    Each lead time pools the errors of its two neighbours. The rank is the conformal one, (n + 1) q: the share of the
    next errors below it is at least q when they are like the past ones, whatever their distribution.
    """
    errors, proportional = outcome.errors, grows_with_level(outcome)
    if proportional:
        errors = errors / outcome.forecasts
    horizon = errors.shape[1]
    below, above = np.empty(horizon), np.empty(horizon)
    for lead in range(horizon):
        pool = errors[:, max(0, lead - 1) : lead + 2]
        pool = np.sort(pool[~np.isnan(pool)])
        rank = min(len(pool), int(np.ceil((len(pool) + 1) * quantile)))
        above[lead], below[lead] = pool[rank - 1], pool[len(pool) - rank]
    return Band(below, above, proportional)


def grows_with_level(outcome: Outcome) -> bool:
    """Whether busy hours have the larger errors: one width for all would then fail at the peak, where it matters."""
    seen = ~np.isnan(outcome.errors)
    level, size = outcome.forecasts[seen], np.abs(outcome.errors[seen])
    # Shares of a level near zero mean nothing.
    if len(level) < MIN_ORIGINS or level.min() <= 0.05 * level.max() or level.max() <= 0:
        return False
    ranks = [np.argsort(np.argsort(each)) for each in (level, size)]
    return bool(np.corrcoef(*ranks)[0, 1] > 0.2)
