"""Writes histories that everybody can have: `python -m forecaster.tests.datasets co2 > co2.csv`.

`co2` and `elnino` come with statsmodels and are read from there; nothing of them is kept here. `load` and `noise` are
made up from a seed.
"""

import sys
from collections.abc import Sequence

import numpy as np

from forecaster.tests.histories import STEP_SECONDS, load

DAY = 24 * 3600
WEEK = 7 * DAY
# A grid needs steps of one length, so every month is one of thirty days and a year one of 360.
MONTH = 30 * DAY


def co2() -> tuple[int, list[float | None]]:
    """Carbon dioxide over Mauna Loa, weekly from 1958 to 2001; a season is 364 days."""
    from statsmodels.datasets import co2 as dataset

    values = dataset.load_pandas().data["co2"].tolist()
    return WEEK, [None if np.isnan(value) else value for value in values]


def elnino() -> tuple[int, list[float | None]]:
    """Sea surface temperatures off Peru, monthly from 1950 to 2010; a season is 360 of our days."""
    from statsmodels.datasets import elnino as dataset

    return MONTH, dataset.load_pandas().data.iloc[:, 1:].to_numpy().ravel().tolist()


def synthetic() -> tuple[int, list[float | None]]:
    """Forty days of a seeded load, every half hour."""
    return STEP_SECONDS, load(seed=7, days=40).round(3).tolist()


def noise() -> tuple[int, list[float | None]]:
    """Forty days of seeded white noise, every half hour: there is nothing to forecast."""
    return STEP_SECONDS, np.random.default_rng(7).normal(100, 10, 40 * 48).round(3).tolist()


DATASETS = {"co2": co2, "elnino": elnino, "load": synthetic, "noise": noise}


def text(step: int, samples: Sequence[float | None]) -> str:
    """The samples as CSV, from the beginning of Unix time on."""
    rows = (f"{at * step},{'' if sample is None else sample}" for at, sample in enumerate(samples))
    return "timestamp,value\n" + "\n".join(rows) + "\n"


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in DATASETS:
        sys.exit(f"name one of {', '.join(DATASETS)}")
    print(text(*DATASETS[sys.argv[1]]()), end="")
