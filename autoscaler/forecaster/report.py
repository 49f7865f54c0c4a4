"""How good forecasts would have been: MASE, pinball loss and coverage at a lead time, every model at the same origins.

The first half of a history only teaches, the second is scored. `forecast` is the row that counts: what would have been
used at each origin, with all its choosing. Bad rows are reported like good ones.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from forecaster import backtest
from forecaster.backtest import Band, Outcome
from forecaster.errors import Refusal
from forecaster.forecast import NAIVE, Question, Verdict, judge
from forecaster.rolling import Walk, affordable, walk
from forecaster.series import from_samples

CHOSEN = "forecast"
# More origins would cost time, and overlap.
MAX_SCORED = 400
MAX_WALKED = 2_000


@dataclass
class Row:
    """A model at a lead time. None where there is nothing to divide by."""

    model: str
    mae: float
    mase: float | None
    skill: float | None
    pinball: float
    coverage: float
    used: float


@dataclass
class Lead:
    """One lead time: its rows, and how often the gate was open."""

    lead: int
    origins: int
    skilled: float
    skilled_now: bool
    rows: list[Row]


@dataclass
class Report:
    """A backtest."""

    samples: int
    taught: int
    borrowed: int
    leads: list[Lead]
    missing: list[dict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def report(question: Question, leads: list[int], pause: Callable[[], None] = lambda: None) -> Report:
    """Backtests a history at each of the lead times."""
    series = from_samples(question.samples, question.season, hindsight=False)
    has, horizon = len(series), question.horizon
    taught = has // 2
    if taught + horizon > has:
        raise Refusal(
            "not-enough-history",
            f"a backtest of {horizon} steps needs {2 * horizon} samples, has {has}",
            "give a longer history, or a shorter lead",
        )
    enough, missing = affordable(question, taught)
    first = max(model.fit_samples for model in enough)
    scored = backtest.spread(taught, has - horizon, MAX_SCORED)
    at = np.unique(np.concatenate([backtest.spread(first, has - horizon, MAX_WALKED), scored]))
    walked = walk(series, enough, at, horizon, pause)

    season = question.season
    both = series.observed[season:taught] & series.observed[: taught - season]
    steps = np.abs(series.values[season:taught] - series.values[: taught - season])[both]
    scale = float(steps.mean()) if len(steps) and steps.mean() > 0 else None

    found = [score(walked, scored, lead, question, scale, pause) for lead in leads]
    for entry in missing:
        # Only half of the history teaches.
        entry.update(needs=2 * entry["needs"], has=has)
    return Report(has, taught, series.borrowed, found, missing, walked.notes)


def score(
    walked: Walk, scored: np.ndarray, lead: int, question: Question, scale: float | None, pause: Callable[[], None]
) -> Lead:
    """Every model at one lead time."""

    def judgement(outcomes: dict[str, Outcome], at: np.ndarray) -> tuple[Verdict, dict[str, Band]]:
        verdict = judge(outcomes, walked.series, at, question.quantile)
        bands = {name: backtest.band(outcome, question.quantile) for name, outcome in outcomes.items()}
        return verdict, {CHOSEN: verdict.band, **bands}

    names = [CHOSEN, *walked.outcomes]
    members: list[list[str]] = []
    skilled: list[bool] = []
    # One column per sample that came: what it was, and what each model had said.
    actual: list[float] = []
    said: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for row, (verdict, bands) in walked.judged(scored, lead, judgement, pause):
        members.append(verdict.members)
        skilled.append(verdict.skilled)
        when = int(walked.at[row]) + lead - 1
        if not walked.series.observed[when]:
            continue
        actual.append(walked.series.values[when])
        for name in names:
            mean, _, upper = walked.lines(row, verdict.members if name == CHOSEN else [name], bands[name])
            said[name].append((mean[-1], upper[-1]))
    if not actual:
        raise Refusal("not-enough-history", "no origin of the backtest has a past and a sample to compare with")

    came = np.array(actual)
    mae = {name: float(np.abs(came - np.array(said[name])[:, 0]).mean()) for name in names}
    rows = []
    for name in names:
        beyond = came - np.array(said[name])[:, 1]
        rows.append(
            Row(
                model=name,
                mae=mae[name],
                mase=None if scale is None else mae[name] / scale,
                skill=backtest.skill(mae[name], mae[NAIVE]) if NAIVE in mae else None,
                pinball=backtest.pinball(beyond, question.quantile),
                coverage=float((beyond <= 0).mean()),
                used=float(np.mean([name == CHOSEN or name in each for each in members])),
            )
        )
    return Lead(lead, len(actual), float(np.mean(skilled)), bool(skilled[-1]), rows)
