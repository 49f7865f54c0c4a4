"""Writes the bundled sample history: `python -m forecaster.tests.sample > samples/requests.csv`.

Twenty days of requests per second of a shop, to a Monday at seven, just before the morning's rise: a working-day
shape with a dip after lunch, quieter weekends, slow growth, noise that stays for a while and grows with the load, and
a few scrapes that were lost. Only the standard library's generator is used, whose sequence for a seed is the same in
every Python 3.
"""

import math
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

STEP = timedelta(minutes=5)
DAY = timedelta(days=1) // STEP
START = datetime(2026, 3, 3, tzinfo=UTC)  # a Tuesday
LENGTH = 20 * DAY + 7 * DAY // 24


def rows(seed: int = 20260303) -> Iterator[tuple[datetime, float | None]]:
    """Time and requests per second; None where the scrape was lost."""
    chance = random.Random(seed)
    lingering = 0.0
    lost = {4 * DAY + 131, 9 * DAY + 40, 9 * DAY + 41, 15 * DAY + 200} | set(range(12 * DAY + 30, 12 * DAY + 42))
    for at in range(LENGTH):
        hour = (at % DAY) / DAY * 24
        weekend = (START + at * STEP).weekday() >= 5
        morning, evening = bump(hour, 11, 2.6), bump(hour, 19.5, 2.8)
        shape = 0.55 * morning + 0.75 * evening if weekend else morning + 0.85 * evening
        level = (60 + 340 * shape) * (1 + 0.004 * at / DAY)
        lingering = 0.93 * lingering + chance.gauss(0, 0.014)
        load = level * (1 + lingering + chance.gauss(0, 0.025))
        yield START + at * STEP, None if at in lost else max(load, 0.0)


def bump(hour: float, top: float, width: float) -> float:
    """A hill around an hour of the day; midnight does not cut it off."""
    distance = min(abs(hour - top), 24 - abs(hour - top))
    return math.exp(-((distance / width) ** 2))


def text() -> str:
    """The sample as CSV."""
    lines = ["timestamp,value"]
    for when, load in rows():
        lines.append(f"{when:%Y-%m-%dT%H:%M:%SZ},{'' if load is None else f'{load:.1f}'}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(text(), end="")
