"""The models: each maps a history and a list of origins to one forecast per origin.

`forecasts(series, origins, horizon)` may look only at samples before each origin. A real forecast is that of the end of
the history; what `fit` finds there and `ahead` makes of it is the same, and can be carried on over the samples that come
later. So what is scored is what is used.
"""

import warnings
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from statsmodels.tsa.holtwinters import ExponentialSmoothing

from forecaster.series import Series

# Six waves a day draw a lunch break; more start to draw the noise.
HARMONICS = 6
# A quiet weekend bends the shape of the day, not just its level: that takes weekly waves in addition to the day's first three.
WEEKLY_HARMONICS = 24
# Coefficients move slowly: refitting this often in a backtest changes nothing but its cost.
REFITS = 16
SMOOTHING = ("smoothing_level", "smoothing_trend", "smoothing_seasonal", "damping_trend")


class Model(Protocol):
    """A way to forecast, and how many samples it has to see first."""

    name: str
    fit_samples: int

    def forecasts(self, series: Series, origins: np.ndarray, horizon: int) -> np.ndarray:
        """One row of `horizon` values per origin."""

    def fit(self, series: Series) -> dict:
        """What the end of a history leaves to forecast by, as JSON has it; empty where the samples themselves do."""

    def ahead(self, fit: dict, series: Series, since: int, horizon: int) -> np.ndarray:
        """The forecast from the end of a history, by a fit that was made `since` samples before that end."""


class Repeats:
    """A model without anything to fit: its samples are all there is."""

    def fit(self, series: Series) -> dict:
        return {}

    def ahead(self, fit: dict, series: Series, since: int, horizon: int) -> np.ndarray:
        return self.forecasts(series, np.array([len(series)]), horizon)[0]


@dataclass(frozen=True)
class LastValue(Repeats):
    """Everything stays as it is: what a reactive autoscaler assumes."""

    name: str = "last-value"
    fit_samples: int = 1

    def forecasts(self, series: Series, origins: np.ndarray, horizon: int) -> np.ndarray:
        return np.repeat(series.values[origins - 1][:, None], horizon, axis=1)


@dataclass(frozen=True)
class FlatMean(Repeats):
    """The mean of the season so far: what to expect of noise."""

    season: int
    name: str = "flat-mean"
    fit_samples: int = 12

    def forecasts(self, series: Series, origins: np.ndarray, horizon: int) -> np.ndarray:
        total = np.concatenate([[0.0], np.cumsum(series.values)])
        # Two whole seasons: a part of one would take the hour of the day for a level.
        start = np.maximum(origins - 2 * self.season, 0)
        means = (total[origins] - total[start]) / (origins - start)
        return np.repeat(means[:, None], horizon, axis=1)


@dataclass(frozen=True)
class SeasonalNaive(Repeats):
    """The same time one period ago: the model that every other one has to beat."""

    name: str
    period: int

    @property
    def fit_samples(self) -> int:
        return self.period

    def forecasts(self, series: Series, origins: np.ndarray, horizon: int) -> np.ndarray:
        leads = np.arange(horizon) % self.period
        return series.values[origins[:, None] - self.period + leads[None, :]]


@dataclass(frozen=True)
class HoltWinters:
    """Level, damped trend and additive season by exponential smoothing.

    The smoothing parameters and the first states come from the samples before the first origin; one pass over the
    history then gives the states at every origin.
    """

    season: int
    name: str = "holt-winters"

    @property
    def fit_samples(self) -> int:
        return 2 * self.season

    def forecasts(self, series: Series, origins: np.ndarray, horizon: int) -> np.ndarray:
        params = self.parameters(series.values[: int(origins[0])])
        levels, trends, seasons = states(params, series.values[: int(origins[-1])])
        damping = np.cumsum(params["damping_trend"] ** np.arange(1, horizon + 1))
        at = origins - 1
        season = seasons[at[:, None] + 1 + np.arange(horizon)[None, :] % self.season]
        return levels[at][:, None] + trends[at][:, None] * damping[None, :] + season

    def fit(self, series: Series) -> dict:
        params = self.parameters(series.values)
        levels, trends, seasons = states(params, series.values)
        return {
            "smoothing": [float(params[name]) for name in SMOOTHING],
            "level": float(levels[-1]),
            "trend": float(trends[-1]),
            "season": seasons[-self.season :].tolist(),
        }

    def ahead(self, fit: dict, series: Series, since: int, horizon: int) -> np.ndarray:
        alpha, beta, gamma, phi = fit["smoothing"]
        level, trend, season = fit["level"], fit["trend"], list(fit["season"])
        for value in series.values[len(series) - since :].tolist():
            # Where the last sample said that this one would be, without its season.
            expected, seasonal = level + phi * trend, season[0]
            level, before = alpha * (value - seasonal) + (1 - alpha) * expected, level
            trend = beta * (level - before) + (1 - beta) * phi * trend
            season = [*season[1:], gamma * (value - expected) + (1 - gamma) * seasonal]
        damping = np.cumsum(phi ** np.arange(1, horizon + 1))
        return level + trend * damping + np.array(season)[np.arange(horizon) % self.season]

    def parameters(self, values: np.ndarray) -> dict:
        """The smoothing parameters and the first states that fit these samples."""
        with warnings.catch_warnings():
            # "Did not converge" is the backtest's to judge: it scores what came out.
            warnings.simplefilter("ignore")
            model = ExponentialSmoothing(
                values,
                initialization_method="heuristic",
                trend="add",
                damped_trend=True,
                seasonal="add",
                seasonal_periods=self.season,
            )
            return model.fit(use_brute=False).params


def states(params: dict, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Level and trend after each sample, and the season: that of sample `at` is at `at` before it, one period on after it.

    The recursion of statsmodels without its bookkeeping, at a tenth of the time.
    """
    alpha, beta, gamma, phi = (float(params[name]) for name in SMOOTHING)
    level, trend = float(params["initial_level"]), float(params["initial_trend"])
    seasons = [float(season) for season in params["initial_seasons"]]
    levels, trends = [], []
    for at, value in enumerate(values.tolist()):
        # Where the sample before said that this one would be, without its season.
        expected, seasonal = level + phi * trend, seasons[at]
        level, before = alpha * (value - seasonal) + (1 - alpha) * expected, level
        trend = beta * (level - before) + (1 - beta) * phi * trend
        seasons.append(gamma * (value - expected) + (1 - gamma) * seasonal)
        levels.append(level)
        trends.append(trend)
    return np.array(levels), np.array(trends), np.array(seasons)


@dataclass(frozen=True)
class Harmonic:
    """Waves of the day (and of the week, once two were seen) with a trend, and errors that fade as an AR(1).

    Fitted by least squares on the observed samples only, then once more on the differences that the AR(1) leaves.
    """

    season: int
    week: int | None
    name: str = "harmonic"

    @property
    def fit_samples(self) -> int:
        return 2 * self.season

    def forecasts(self, series: Series, origins: np.ndarray, horizon: int) -> np.ndarray:
        waves = self.waves(np.arange(int(origins[-1]) + horizon))
        sums = Sums(waves, series)
        rows = np.empty((len(origins), horizon))
        ahead = np.arange(horizon)
        for first, last in self.fitted_together(origins, len(series)):
            at = origins[first:last]
            columns = self.columns(int(at[0]), waves.shape[1])
            coefficients, fading = sums.regress(int(at[0]), columns)
            begin = int(at[0]) - 1
            line = waves[begin : int(at[-1]) + horizon, columns] @ coefficients
            here = at - begin
            error = series.values[at - 1] - line[here - 1]
            rows[first:last] = line[here[:, None] + ahead] + error[:, None] * fading ** (ahead + 1)
        return rows

    def fitted_together(self, origins: np.ndarray, has: int) -> list[tuple[int, int]]:
        """Half-open ranges of origins that share the coefficients of the first of them."""
        pace = max(1, (int(origins[-1]) - int(origins[0])) // REFITS)
        starts = [0]
        for row, origin in enumerate(origins.tolist()):
            if origin - int(origins[starts[-1]]) >= pace or (origin == has and row > 0):
                starts.append(row)
        return list(zip(starts, [*starts[1:], len(origins)], strict=True))

    def fit(self, series: Series) -> dict:
        has = len(series)
        waves = self.waves(np.arange(has))
        columns = self.columns(has, waves.shape[1])
        coefficients, fading = Sums(waves, series).regress(has, columns)
        return {"coefficients": coefficients.tolist(), "fading": fading, "samples": has}

    def ahead(self, fit: dict, series: Series, since: int, horizon: int) -> np.ndarray:
        # Times count from the first sample that the fit saw, which the history may have lost by now.
        end = fit["samples"] + since
        coefficients = np.array(fit["coefficients"])
        lines = self.waves(np.arange(end - 1, end + horizon))[:, : len(coefficients)] @ coefficients
        last = series.values[-1] - lines[0]
        return lines[1:] + last * fit["fading"] ** np.arange(1, horizon + 1)

    def waves(self, at: np.ndarray) -> np.ndarray:
        """Columns at these times: one, trend, the waves of the day, the waves of the week."""
        columns = [np.ones(len(at)), at / (7 * self.season)]
        periods = [self.season / k for k in range(1, min(HARMONICS, (self.season - 1) // 2) + 1)]
        if self.week is not None:
            ratio = self.week / self.season
            # A wave of the day too would be the same column twice.
            periods += [self.week / k for k in range(1, WEEKLY_HARMONICS + 1) if k % ratio != 0]
        for period in periods:
            angle = 2 * np.pi * at / period
            columns += [np.sin(angle), np.cos(angle)]
        return np.column_stack(columns)

    def columns(self, seen: int, width: int) -> slice:
        """The columns that `seen` samples can tell apart."""
        daily = 2 + 2 * min(HARMONICS, (self.season - 1) // 2)
        return slice(0, width if self.week is not None and seen >= 2 * self.week else daily)


class Sums:
    """Products of the columns and the samples, summed up to an origin: a later origin only adds what came in between.

    A regression needs nothing else, so that many of them over one history cost little more than the last one.
    """

    def __init__(self, waves: np.ndarray, series: Series):
        has = min(len(waves), len(series))
        self.rows = np.column_stack([waves[:has], series.values[:has]])
        self.observed = series.observed
        width = self.rows.shape[1]
        self.upto = self.seen = self.pairs = 0
        # Over observed samples, and over pairs of neighbours: both at the later one, one at each, both at the earlier one.
        self.single, self.later, self.across, self.earlier = (np.zeros((width, width)) for _ in range(4))

    def add(self, origin: int) -> None:
        """Adds the samples before `origin`."""
        here = self.rows[self.upto : origin][self.observed[self.upto : origin]]
        self.single += here.T @ here
        self.seen += len(here)
        start = max(self.upto, 1)
        both = np.flatnonzero(self.observed[start:origin] & self.observed[start - 1 : origin - 1]) + start
        later, earlier = self.rows[both], self.rows[both - 1]
        self.later += later.T @ later
        self.across += later.T @ earlier
        self.earlier += earlier.T @ earlier
        self.pairs += len(both)
        self.upto = origin

    def regress(self, origin: int, columns: slice) -> tuple[np.ndarray, float]:
        """Coefficients and the AR(1) factor by the samples before `origin`, after one Cochrane-Orcutt step."""
        self.add(origin)
        sample = self.rows.shape[1] - 1
        coefficients = least_squares(self.single[columns, columns], self.single[columns, sample], self.seen)
        error = np.zeros(sample + 1)
        error[columns], error[sample] = -coefficients, 1.0
        power, product = error @ self.earlier @ error, error @ self.across @ error
        # A negative factor would swing from sample to sample; one of 1 would never fade. Errors within the rounding of the
        # samples' squares say nothing.
        known = power > 1e-12 * self.earlier[sample, sample]
        fading = float(np.clip(product / power, 0.0, 0.98)) if known else 0.0
        changed = self.later - fading * (self.across + self.across.T) + fading**2 * self.earlier
        return least_squares(changed[columns, columns], changed[columns, sample], self.pairs), fading


def least_squares(gram: np.ndarray, target: np.ndarray, count: int) -> np.ndarray:
    """Normal equations with a trace of ridge: enough for sines, and ten times as fast as the general solver."""
    gram = gram.copy()
    gram[np.diag_indices_from(gram)] += 1e-9 * max(1.0, count)
    return np.linalg.solve(gram, target)
