"""Compares the models with those of statsforecast at the same origins: `python -m forecaster.tests.compare`.

For developers only, in an environment of its own: `uv run --no-project --with statsforecast --with statsmodels python -m
forecaster.tests.compare`. Every model sees only what comes before an origin. Those of statsforecast are fitted again at each
origin, and so are ours, so that the times can be compared too. Prints a table for the documentation, losses included.
"""

import csv
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from forecaster.forecast import models_for
from forecaster.series import from_samples
from forecaster.tests.datasets import DATASETS

ORIGINS = 12
SAMPLE = Path(__file__).resolve().parents[2] / "samples" / "requests.csv"
OURS = ("holt-winters", "harmonic", "day-week", "theta", "damped-trend")
# Seasons in samples, and the leads of the table in the documentation.
CASES = {"co2": (52, (1, 4, 13)), "elnino": (12, (1, 3, 6)), "load": (48, (1, 4, 12)), "requests": (288, (3, 12))}


def samples(name: str) -> tuple[int, list[float | None]]:
    """Step and samples of a history."""
    if name != "requests":
        return DATASETS[name]()
    rows = list(csv.reader(SAMPLE.open()))[1:]
    return 300, [float(value) if value else None for _, value in rows]


def theirs(season: int) -> dict[str, Callable[[np.ndarray, int], np.ndarray]]:
    """The models of statsforecast that ours correspond to."""
    from statsforecast.models import MSTL, AutoETS, HoltWinters, OptimizedTheta

    models = {
        "HoltWinters": HoltWinters(season_length=season),
        "MSTL": MSTL(season_length=[season, 7 * season] if season in (48, 288) else season),
        "OptimizedTheta": OptimizedTheta(season_length=season),
        "AutoETS without a season": AutoETS(season_length=1, damped=True),
    }
    if season > 100:
        # Its optimiser takes minutes for each origin with a season of a day of five minutes.
        del models["HoltWinters"]
    return {
        name: lambda values, horizon, model=model: model.forecast(y=values, h=horizon)["mean"]
        for name, model in models.items()
    }


def compare(name: str) -> None:
    """Prints the rows of one history."""
    season, leads = CASES[name]
    step, values = samples(name)
    series = from_samples(values, season, hindsight=False)
    has, horizon = len(series), max(leads)
    origins = np.unique(np.linspace(has // 2, has - horizon, ORIGINS).round().astype(int))
    actual = series.values[origins[:, None] + np.arange(horizon)]
    scale = float(np.abs(series.values[season : has // 2] - series.values[: has // 2 - season]).mean())
    rows: dict[str, tuple[np.ndarray, float]] = {}

    def run(label: str, forecast: Callable[[int], np.ndarray]) -> None:
        began = time.process_time()
        try:
            found = np.array([forecast(int(origin)) for origin in origins])
        except Exception as cause:  # noqa: BLE001 - a model that fails is a row, not the end
            print(f"{label}: {cause}", file=sys.stderr)
            return
        rows[label] = np.abs(actual - found) / scale, (time.process_time() - began) / len(origins)

    for model in models_for(step, season):
        if model.name in (*OURS, "seasonal-naive"):
            run(f"`{model.name}`", lambda at, model=model: model.forecasts(series, np.array([at]), horizon)[0])
    for label, forecast in theirs(season).items():
        forecast(series.values[: int(origins[0])], horizon)  # compiled here, not while it is measured
        run(f"statsforecast {label}", lambda at, forecast=forecast: forecast(series.values[:at], horizon))
    for label, (errors, seconds) in rows.items():
        cells = [f"{errors[:, :lead].mean():.2f}" for lead in leads] + [""] * (3 - len(leads))
        print(f"| `{name}` | {label} | {' | '.join(cells)} | {seconds:.3f} s |")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print("| history | model | short | middle | long | processor time of a fit |\n|---|---|---|---|---|---|")
    for each in sys.argv[1:] or CASES:
        compare(each)
