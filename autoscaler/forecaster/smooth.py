"""Smoothing models whose states at all origins come from one pass of linear filters over the history.

Their parameters are chosen from a small grid by the errors one step ahead, so that a fit takes milliseconds. Every state at a
sample follows from that sample and those before it.
"""

from dataclasses import dataclass

import numpy as np
from scipy.signal import lfilter

from forecaster.series import Series

# Weight of the newest period in the shape of a day and of a week; the first periods have equal weights.
NEWEST_DAY = 0.2
NEWEST_WEEK = 0.4
# A shape of the week has few repetitions: it is smoothed over this part of a season.
WEEK_SMOOTHED = 24
LEVELS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9, 0.99)
TRENDS = (0.0, 0.05, 0.2)
DAMPINGS = (0.8, 0.95)


def shape(values: np.ndarray, period: int, newest: float) -> np.ndarray:
    """The mean of the samples so far at each time of a period, newer periods weighing more, after each sample."""
    count = -(-len(values) // period)
    rows = np.concatenate([values, np.full(count * period - len(values), np.nan)]).reshape(count, period)
    for row in range(1, count):
        before = rows[row - 1]
        moved = before + max(newest, 1 / (row + 1)) * (rows[row] - before)
        rows[row] = np.where(np.isnan(moved), before, moved)
    return rows.ravel()[: len(values)]


def level(values: np.ndarray, period: int) -> np.ndarray:
    """The mean of the last period, after each sample."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - period, 0)
    return (total[ends] - total[starts]) / (ends - starts)


def before(values: np.ndarray, period: int) -> np.ndarray:
    """The same a period earlier; zero where that is before the first sample."""
    return np.concatenate([np.zeros(min(period, len(values))), values[: max(0, len(values) - period)]])


def ahead(values: np.ndarray, period: int, origins: np.ndarray, horizon: int) -> np.ndarray:
    """What a shape says from each origin on."""
    leads = np.arange(horizon) % period
    return values[origins[:, None] - period + leads[None, :]]


def centred(values: np.ndarray, width: int) -> np.ndarray:
    """The mean of `width` neighbours on each side, fewer at the ends."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    starts, ends = np.maximum(at - width, 0), np.minimum(at + width + 1, len(values))
    return (total[ends] - total[starts]) / (ends - starts)


def fading(errors: np.ndarray) -> float:
    """The AR(1) factor of errors: how much of one is left a sample later."""
    power = float(errors[:-1] @ errors[:-1])
    return float(np.clip(errors[:-1] @ errors[1:] / power, 0.0, 0.98)) if power > 1e-12 else 0.0


class Smooth:
    """A model with a few parameters that are found before the first origin.

    Its fit is the state at the end of a history. It can be carried on in a history that has lost the samples before it.
    """

    def parameters(self, values: np.ndarray) -> list[float]:
        raise NotImplementedError

    def lines(self, values: np.ndarray, parameters: list[float], origins: np.ndarray, horizon: int) -> np.ndarray:
        raise NotImplementedError

    def forecasts(self, series: Series, origins: np.ndarray, horizon: int) -> np.ndarray:
        parameters = self.parameters(series.values[: int(origins[0])])
        return self.lines(series.values[: int(origins[-1])], parameters, origins, horizon)


@dataclass(frozen=True)
class DayWeek(Smooth):
    """Level, the shape of a day and what the days of a week add to it, with errors that fade as an AR(1)."""

    season: int
    week: int | None
    name: str = "day-week"

    @property
    def fit_samples(self) -> int:
        return 2 * self.season

    def parts(self, values: np.ndarray, horizon: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        mean = level(values, self.season)
        day = shape(values - mean, self.season, NEWEST_DAY)
        if self.week is None or len(values) < 2 * self.week:
            return mean, day, None
        rest = values - mean - before(day, self.season)
        rest[: self.season] = 0.0
        # Neighbours after an origin are not read before their own time has come round.
        width = min(self.season // WEEK_SMOOTHED, max(0, self.week - horizon))
        return mean, day, shape(centred(rest, width), self.week, NEWEST_WEEK)

    def errors(self, values: np.ndarray, mean: np.ndarray, day: np.ndarray, week: np.ndarray | None) -> np.ndarray:
        known = mean + before(day, self.season)
        return values - known if week is None else values - known - before(week, self.week)

    def parameters(self, values: np.ndarray) -> list[float]:
        errors = self.errors(values, *self.parts(values, 1))
        return [fading(errors[self.season :])]

    def lines(self, values: np.ndarray, parameters: list[float], origins: np.ndarray, horizon: int) -> np.ndarray:
        mean, day, week = self.parts(values, horizon)
        # A shape of the week that is known only later in the history must not change a forecast before that.
        early = np.zeros(len(origins), dtype=bool) if week is None else origins < 2 * self.week
        error = self.errors(values, mean, day, week)[origins - 1]
        plain = self.errors(values, mean, day, None)[origins - 1]
        last = np.where(early, plain, error)
        rows = mean[origins - 1][:, None] + ahead(day, self.season, origins, horizon)
        if week is not None:
            later = np.maximum(origins, self.week)
            rows += np.where(early[:, None], 0.0, ahead(week, self.week, later, horizon))
        return rows + last[:, None] * parameters[0] ** np.arange(1, horizon + 1)


    def fit(self, series: Series) -> dict:
        values = series.values
        mean, day, week = self.parts(values, 1)
        return {
            "fading": self.parameters(values)[0],
            "samples": len(values),
            "day": day[-self.season :].tolist(),
            "week": None if week is None else week[-self.week :].tolist(),
            "error": float(self.errors(values, mean, day, week)[-1]),
        }

    def ahead(self, fit: dict, series: Series, since: int, horizon: int) -> np.ndarray:
        day, week, error = np.array(fit["day"]), fit["week"], fit["error"]
        mean = level(series.values[-(self.season + since) :], self.season)
        for step, value in enumerate(series.values[len(series) - since :].tolist()):
            rest = value - float(mean[len(mean) - since + step])
            error = rest - moved(day, step, rest, fit["samples"])
            error -= 0.0 if week is None else week[step % self.week]
        at = since + np.arange(horizon)
        line = mean[-1] + day[at % self.season] + (0.0 if week is None else np.array(week)[at % self.week])
        return line + error * fit["fading"] ** np.arange(1, horizon + 1)


def moved(day: np.ndarray, step: int, rest: float, samples: int) -> float:
    """Moves the shape of a day by a new sample, `step` after the fit of `samples`; returns what it said before."""
    slot, row = step % len(day), (samples + step) // len(day)
    said = float(day[slot])
    day[slot] = said + max(NEWEST_DAY, 1 / (row + 1)) * (rest - said)
    return said


@dataclass(frozen=True)
class Theta(Smooth):
    """Simple exponential smoothing of what is left without the shape of the day, with half the slope of the whole history."""

    season: int
    name: str = "theta"

    @property
    def fit_samples(self) -> int:
        return 2 * self.season

    def parts(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        day = shape(values - level(values, self.season), self.season, NEWEST_DAY)
        return day, values - before(day, self.season)

    def parameters(self, values: np.ndarray) -> list[float]:
        _, rest = self.parts(values)
        rest = rest[self.season :]
        errors = [float(np.mean((rest[1:] - smoothed(rest, alpha)[:-1]) ** 2)) for alpha in LEVELS]
        return [LEVELS[int(np.argmin(errors))]]

    def lines(self, values: np.ndarray, parameters: list[float], origins: np.ndarray, horizon: int) -> np.ndarray:
        day, rest = self.parts(values)
        alpha = parameters[0]
        adjusted = rest[self.season :]
        smooth, slope = smoothed(adjusted, alpha), slopes(adjusted)
        at = origins - 1 - self.season
        drift = (slope[at] / 2)[:, None] * (np.arange(horizon) + 1 / alpha)[None, :]
        return smooth[at][:, None] + drift + ahead(day, self.season, origins, horizon)


    def fit(self, series: Series) -> dict:
        values = series.values
        day, rest = self.parts(values)
        adjusted, at = rest[self.season :], np.arange(len(values) - self.season)
        alpha = self.parameters(values)[0]
        return {
            "alpha": alpha,
            "samples": len(values),
            "day": day[-self.season :].tolist(),
            "smooth": float(smoothed(adjusted, alpha)[-1]),
            # What a straight line through all samples follows from: the first one, and two sums of those beyond it.
            "first": float(adjusted[0]),
            "sum": float((adjusted - adjusted[0]).sum()),
            "product": float((at * (adjusted - adjusted[0])).sum()),
        }

    def ahead(self, fit: dict, series: Series, since: int, horizon: int) -> np.ndarray:
        day, alpha, smooth = np.array(fit["day"]), fit["alpha"], fit["smooth"]
        total, product, count = fit["sum"], fit["product"], fit["samples"] - self.season
        mean = level(series.values[-(self.season + since) :], self.season)
        for step, value in enumerate(series.values[len(series) - since :].tolist()):
            adjusted = value - moved(day, step, value - float(mean[len(mean) - since + step]), fit["samples"])
            smooth += alpha * (adjusted - smooth)
            total += adjusted - fit["first"]
            product += count * (adjusted - fit["first"])
            count += 1
        slope = (product / count - (count - 1) / 2 * total / count) / ((count**2 - 1) / 12) if count > 1 else 0.0
        line = smooth + day[(since + np.arange(horizon)) % self.season]
        return line + slope / 2 * (np.arange(horizon) + 1 / alpha)


@dataclass(frozen=True)
class DampedTrend(Smooth):
    """Level and damped trend without a season, for the next few samples."""

    name: str = "damped-trend"
    fit_samples: int = 24

    def parameters(self, values: np.ndarray) -> list[float]:
        grid = [(alpha, beta * alpha, phi) for alpha in LEVELS for beta in TRENDS for phi in DAMPINGS]
        errors = [float(np.mean(one_step_errors(values, *each)[12:] ** 2)) for each in grid]
        return list(grid[int(np.nanargmin(errors))])

    def lines(self, values: np.ndarray, parameters: list[float], origins: np.ndarray, horizon: int) -> np.ndarray:
        alpha, beta, phi = parameters
        errors = one_step_errors(values, alpha, beta, phi)
        trend = lfilter([beta], [1.0, -phi], errors)
        # The level is where the sample was, less the part of the error that is noise.
        smooth = values - (1 - alpha) * errors
        at = origins - 1
        damping = np.cumsum(phi ** np.arange(1, horizon + 1))
        return smooth[at][:, None] + trend[at][:, None] * damping[None, :]


    def fit(self, series: Series) -> dict:
        alpha, beta, phi = parameters = self.parameters(series.values)
        errors = one_step_errors(series.values, alpha, beta, phi)
        return {
            "parameters": parameters,
            "level": float(series.values[-1] - (1 - alpha) * errors[-1]),
            "trend": float(lfilter([beta], [1.0, -phi], errors)[-1]),
        }

    def ahead(self, fit: dict, series: Series, since: int, horizon: int) -> np.ndarray:
        (alpha, beta, phi), smooth, trend = fit["parameters"], fit["level"], fit["trend"]
        for value in series.values[len(series) - since :].tolist():
            error = value - smooth - phi * trend
            smooth, trend = smooth + phi * trend + alpha * error, phi * trend + beta * error
        return smooth + trend * np.cumsum(phi ** np.arange(1, horizon + 1))


def one_step_errors(values: np.ndarray, alpha: float, beta: float, phi: float) -> np.ndarray:
    """Errors of damped-trend smoothing that begins at the first sample without a trend: an ARIMA(1, 1, 2) as a filter."""
    moved = np.diff(values, prepend=values[:1])
    return lfilter([1.0, -phi], [1.0, alpha + beta * phi - 1 - phi, (1 - alpha) * phi], moved)


def smoothed(values: np.ndarray, alpha: float) -> np.ndarray:
    """Simple exponential smoothing that begins at the first sample."""
    found, _ = lfilter([alpha], [1.0, alpha - 1.0], values, zi=[(1 - alpha) * values[0]])
    return found


def slopes(values: np.ndarray) -> np.ndarray:
    """The slope of a straight line through the samples so far, after each; zero after the first."""
    at = np.arange(len(values), dtype=float)
    count = at + 1
    # Of the times 0 to n - 1 mean and variance are known.
    mean, variance = at / 2, (count**2 - 1) / 12
    products = np.cumsum(at * (values - values[0])) / count - mean * np.cumsum(values - values[0]) / count
    return np.divide(products, variance, out=np.zeros(len(values)), where=variance > 0)
