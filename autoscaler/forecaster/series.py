"""A demand history on an even grid, with its gaps filled and remembered.

A missing sample is never a zero: an outage of the metrics is not an outage of the demand. Filled samples feed the
models that cannot skip, but are never scored and never become a residual.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forecaster.errors import Refusal

# Three scrapes lost to a restart: the line between the neighbours is as good as any guess.
SHORT_GAP = 3
# Beyond a fifth, the forecast would mostly repeat our own filling.
MAX_MISSING = 0.2
# More than this says nothing new about the next hours, and costs time on every request.
MAX_SAMPLES = 50_000


@dataclass(frozen=True)
class Series:
    """Samples with every gap filled; `observed` is false where a value is ours."""

    values: np.ndarray
    observed: np.ndarray
    interpolated: int
    borrowed: int

    def __len__(self) -> int:
        return len(self.values)


def from_samples(samples: Sequence[float | None], season: int, hindsight: bool = True) -> Series:
    """Fills gaps of up to `SHORT_GAP` samples by a straight line, longer ones from the same time of other seasons.

    Without `hindsight` only by what came before them, so that a backtest's models never see what they are asked for:
    the same time of the season before, or the last value where there is none.
    """
    values = np.array([np.nan if sample is None else sample for sample in samples], dtype=float)[-MAX_SAMPLES:]
    # Cutting to the newest samples can land inside a gap.
    seen = np.flatnonzero(~np.isnan(values))
    if len(seen) == 0:
        raise Refusal("not-enough-history", "the history has no sample with a value")
    values = values[seen[0] : seen[-1] + 1]
    observed = ~np.isnan(values)

    missing = int((~observed).sum())
    if missing > MAX_MISSING * len(values):
        raise Refusal(
            "too-many-gaps",
            f"{missing} of {len(values)} samples are missing, more than {MAX_MISSING:.0%}",
            "give a history with fewer gaps, or a coarser step",
        )

    interpolated = borrowed = 0
    filled = values.copy()
    for start, stop in gaps(observed):
        length = stop - start
        if length > max(season, SHORT_GAP):
            raise Refusal(
                "too-many-gaps",
                f"a gap of {length} samples is longer than a season of {season}",
                "give a history that starts after the gap",
            )
        if not hindsight:
            for at in range(start, stop):
                filled[at] = filled[at - season] if at >= season else filled[start - 1]
            borrowed += length
            continue
        line = np.interp(np.arange(start, stop), [start - 1, stop], [values[start - 1], values[stop]])
        if length <= SHORT_GAP:
            filled[start:stop] = line
            interpolated += length
            continue
        for at in range(start, stop):
            # Earlier seasons are filled already, later ones count only where they were observed.
            others = [filled[at - season]] if at >= season else []
            if at + season < len(values) and observed[at + season]:
                others.append(values[at + season])
            filled[at] = np.mean(others) if others else line[at - start]
            borrowed += 1
    return Series(filled, observed, interpolated, borrowed)


def gaps(observed: np.ndarray) -> list[tuple[int, int]]:
    """The half-open ranges of missing samples. The first and the last sample are observed."""
    edges = np.diff(observed.astype(np.int8))
    # Plain ints: these are counted, and the counts go out as JSON.
    starts, stops = ((np.flatnonzero(edges == edge) + 1).tolist() for edge in (-1, 1))
    return list(zip(starts, stops, strict=True))


def digits(values: np.ndarray, count: int) -> np.ndarray:
    """Values rounded to this number of significant digits."""
    size = np.abs(values)
    known = np.isfinite(size) & (size > 1e-100)
    places = count - 1 - np.floor(np.log10(size, out=np.zeros_like(size), where=known)).astype(int)
    # Divided by a whole power of ten the result is the float nearest to the decimal, and so the shortest in JSON.
    scale = 10.0 ** np.abs(places)
    rounded = np.where(places >= 0, np.rint(values * scale) / scale, np.rint(values / scale) * scale)
    return np.where(known, rounded, values)
