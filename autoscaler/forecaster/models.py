"""The models: each maps a history and a list of origins to one forecast per origin.

`forecasts(series, origins, horizon)` may look only at samples before each origin. A real forecast is that of the end of
the history; what `fit` finds there and `ahead` makes of it is the same, and can be carried on over the samples that come
later. So what is scored is what is used.
"""

import warnings
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
from statsmodels.tsa.holtwinters import ExponentialSmoothing
from statsmodels.tsa.holtwinters.model import SMOOTHERS

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
            model = Parameters(
                values,
                initialization_method="heuristic",
                trend="add",
                damped_trend=True,
                seasonal="add",
                seasonal_periods=self.season,
            )
            return model.fit(use_brute=False, minimize_kwargs={"jac": slope}).params


class Parameters(ExponentialSmoothing):
    """The parameters alone: the fitted values that statsmodels computes for its tables take longer than the fit."""

    def _predict(self, **found: Any) -> SimpleNamespace:
        found["initial_seasons"] = found["initial_seasons"][: self.seasonal_periods]
        return SimpleNamespace(params=found, _results=SimpleNamespace())


# The step of the differences that L-BFGS-B makes by itself.
DIFFERENCE = 1e-8
# The upper bounds of the transformed smoothing parameters and of the damping.
HIGHEST = (1.0, 1.0, 1.0, 0.995)


def slope(at: np.ndarray, arguments: Any) -> np.ndarray:
    """The gradient of the squared one-step errors by differences, as scipy makes it, at a quarter of its time."""

    def squares(place: np.ndarray) -> float:
        errors = SMOOTHERS["add", "add"](place, arguments)
        return float(errors @ errors)

    here = squares(at)
    found = np.empty(len(at))
    for index, highest in enumerate(HIGHEST):
        moved = at.copy()
        moved[index] += DIFFERENCE if at[index] + DIFFERENCE <= highest else -DIFFERENCE
        found[index] = (squares(moved) - here) / (moved[index] - at[index])
    return found


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
    kept: list["Sums"] = field(default_factory=list, compare=False, repr=False)

    @property
    def fit_samples(self) -> int:
        return 2 * self.season

    def forecasts(self, series: Series, origins: np.ndarray, horizon: int) -> np.ndarray:
        sums = self.sums(series, int(origins[-1]) + horizon)
        waves = sums.waves
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

    def sums(self, series: Series, upto: int) -> "Sums":
        """Waves of a history until `upto` and sums over it, kept for the next question about the same one."""
        if not self.kept or self.kept[0].series is not series or len(self.kept[0].waves) < upto:
            self.kept[:] = [Sums(self.waves(np.arange(max(upto, len(series)))), series)]
        return self.kept[0]

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
        sums = self.sums(series, has)
        coefficients, fading = sums.regress(has, self.columns(has, sums.waves.shape[1]))
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
        has = len(series)
        self.series, self.waves = series, waves
        self.rows = np.column_stack([waves[:has], series.values])
        self.observed = series.observed
        # Observed samples whose neighbour before, or after, was not: the first one, and the edges of gaps.
        alone = self.observed.copy()
        alone[1:] &= ~self.observed[:-1]
        self.first = np.flatnonzero(alone)
        alone = np.zeros(has, dtype=bool)
        alone[:-1] = self.observed[:-1] & ~self.observed[1:]
        self.last = np.flatnonzero(alone)
        width = self.rows.shape[1]
        # By origin: products over observed samples, and over pairs of neighbours, with how many there are of each.
        self.known = {0: (np.zeros((width, width)), np.zeros((width, width)), 0, 0)}

    def upto(self, origin: int) -> tuple[np.ndarray, np.ndarray, int, int]:
        """The sums over the samples before `origin`."""
        if origin not in self.known:
            begin = max(known for known in self.known if known < origin)
            single, across, seen, pairs = self.known[begin]
            here = self.rows[begin:origin][self.observed[begin:origin]]
            start = max(begin, 1)
            both = np.flatnonzero(self.observed[start:origin] & self.observed[start - 1 : origin - 1]) + start
            product = self.rows[both].T @ self.rows[both - 1]
            self.known[origin] = single + here.T @ here, across + product, seen + len(here), pairs + len(both)
        return self.known[origin]

    def without(self, single: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Products over observed samples, less those at some places."""
        rows = self.rows[places]
        return single - rows.T @ rows

    def regress(self, origin: int, columns: slice) -> tuple[np.ndarray, float]:
        """Coefficients and the AR(1) factor by the samples before `origin`, after one Cochrane-Orcutt step."""
        single, across, seen, pairs = self.upto(origin)
        # Of pairs of neighbours the later ones are all samples but those without one before, the earlier ones alike.
        later = self.without(single, self.first[self.first < origin])
        last = self.last[self.last < origin - 1]
        earlier = self.without(single, np.append(last, origin - 1) if self.observed[origin - 1] else last)
        sample = self.rows.shape[1] - 1
        coefficients = least_squares(single[columns, columns], single[columns, sample], seen)
        error = np.zeros(sample + 1)
        error[columns], error[sample] = -coefficients, 1.0
        power, product = error @ earlier @ error, error @ across @ error
        # A negative factor would swing from sample to sample; one of 1 would never fade. Errors within the rounding of the
        # samples' squares say nothing.
        known = power > 1e-12 * earlier[sample, sample]
        fading = float(np.clip(product / power, 0.0, 0.98)) if known else 0.0
        changed = later - fading * (across + across.T) + fading**2 * earlier
        return least_squares(changed[columns, columns], changed[columns, sample], pairs), fading


def least_squares(gram: np.ndarray, target: np.ndarray, count: int) -> np.ndarray:
    """Normal equations with a trace of ridge: enough for sines, and ten times as fast as the general solver."""
    gram = gram.copy()
    gram[np.diag_indices_from(gram)] += 1e-9 * max(1.0, count)
    return np.linalg.solve(gram, target)
