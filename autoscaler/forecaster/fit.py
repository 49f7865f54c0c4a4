"""Fit that a whole forecast leaves for the next ones: its verdict, its band, and the states of its models.

A backtest costs half a second; carrying its models on over the samples that came since costs a hundredth of that. What is
carried on is what was judged: the members, their parameters, the width of the band. How old a fit may grow is the
caller's to say.
"""

from typing import Any

import numpy as np

from forecaster.backtest import Band
from forecaster.errors import Refusal
from forecaster.models import Model
from forecaster.series import Series

VERSION = 2


def remembered(
    shape: list[float],
    verdict: dict[str, Any],
    band: Band,
    members: list[Model],
    candidates: list[Model],
    series: Series,
) -> dict:
    """The fit of the members of a forecast and of other candidates, for questions of this shape."""
    models = {model.name: model for model in (*members, *candidates)}
    return {
        "version": VERSION,
        "shape": shape,
        "verdict": verdict,
        "band": {"below": short(band.below), "above": short(band.above), "proportional": band.proportional},
        "members": [model.name for model in members],
        "candidates": [model.name for model in candidates],
        "models": {name: rounded(model.fit(series)) for name, model in models.items()},
    }


def lines(
    fit: dict[str, Any], models: dict[str, Model], series: Series, since: int, horizon: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, lower and upper line, `since` samples after the fit was made."""
    band = Band(np.array(fit["band"]["below"]), np.array(fit["band"]["above"]), fit["band"]["proportional"])
    rows = [models[name].ahead(fit["models"][name], series, since, horizon) for name in fit["members"]]
    return band.lines(np.mean(rows, axis=0), lowest=series.values.min())


def own_lines(
    fit: dict[str, Any], models: dict[str, Model], series: Series, since: int, horizon: int
) -> dict[str, list[float]]:
    """The line of each candidate by itself, and the mean of all of them."""
    rows = {name: models[name].ahead(fit["models"][name], series, since, horizon) for name in fit["candidates"]}
    rows = {name: np.maximum(row, 0.0) for name, row in rows.items() if np.isfinite(row).all()}
    if len(rows) > 1:
        rows["mean"] = np.mean(list(rows.values()), axis=0)
    return {name: short(row) for name, row in rows.items()}


def fits(fit: Any, shape: list[float], since: int, models: dict[str, Model], series: Series) -> bool:
    """Whether a fit has this version, for questions of this shape, and its end is in this history."""
    try:
        return (
            fit["version"] == VERSION
            and fit["shape"] == shape
            and since < len(series)
            and set(fit["models"]) <= set(models)
            and {*fit["members"], *fit["candidates"]} <= set(fit["models"])
            and len(fit["band"]["above"]) == len(fit["band"]["below"])
        )
    except (KeyError, TypeError):
        return False


def rounded(value: Any) -> Any:
    """The same with as many digits as a demand is ever measured with."""
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, list):
        return [rounded(each) for each in value]
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    return value


def short(values: np.ndarray) -> list[float]:
    """An array as JSON."""
    return rounded(values.tolist())


def refused(cause: Exception) -> Refusal:
    """A fit that looked like one and was not."""
    return Refusal("bad-fit", f"the fit cannot be carried on: {cause}", "ask without one")
