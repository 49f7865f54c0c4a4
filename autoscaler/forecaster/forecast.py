"""From a history to a forecast: backtest what the history allows, keep what has skill, say what is missing.

Skill decides, not taste. A model takes part when its backtest beats the seasonal naive *and* both flat lines on this
very history, by more than luck; the forecast is the mean of those that do. When none does, the best plain reference is used and the
answer says that it is not skilled; so it does where the upper line, which a floor follows, is no closer than the naive's. The choice and
the reported skill come from the same backtest: with three candidates and thresholds, the optimism in that is small.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from forecaster import backtest
from forecaster import fit as carried
from forecaster.backtest import Band, Outcome
from forecaster.errors import Refusal
from forecaster.models import FlatMean, Harmonic, HoltWinters, LastValue, Model, SeasonalNaive
from forecaster.series import Series, digits, from_samples
from forecaster.smooth import DampedTrend, DayWeek, Theta

NAIVE = "seasonal-naive"
FLAT = ("last-value", "flat-mean")
NAMES = (NAIVE, "weekly-naive", "holt-winters", "harmonic", "day-week", "theta", "damped-trend", *FLAT)
# Models whose lines a floor may follow by themselves; the references are rules that the caller knows.
CANDIDATES = ("holt-winters", "harmonic", "day-week", "theta", "damped-trend")
MEAN = "mean"
WEEK_SECONDS = 7 * 24 * 3600

# Less than this is within the luck of a few dozen origins.
MIN_SKILL = 0.02
MIN_SKILL_FLAT = 0.05
# A model with a larger error than this many times the least one only makes the mean worse.
MAX_ERROR = 1.3


@dataclass(frozen=True)
class Question:
    """What is asked: samples on an even grid, the lengths in samples."""

    samples: Sequence[float | None]
    step_seconds: int
    season: int
    horizon: int
    quantile: float
    model: str = "auto"
    # What an earlier answer left, and how many samples have come since; where it does not fit, everything is done again.
    fit: dict | None = None
    since: int = 0
    # The lead time in samples: with it each model's own line is answered, and its peaks at the last `replay` origins.
    lead: int | None = None
    replay: int = 0

    @property
    def shape(self) -> list[float]:
        """What a fit has to have been made for."""
        return [self.step_seconds, self.season, self.horizon, self.quantile, self.lead or 0]


@dataclass
class Answer:
    """The forecast, and how much to trust it."""

    model: str
    members: list[str]
    skilled: bool
    skill: float | None
    skill_flat: float | None
    backtests: int
    band: str
    samples: int
    interpolated: int
    borrowed: int
    mean: list[float]
    lower: list[float]
    upper: list[float]
    scores: list[dict] = field(default_factory=list)
    missing: list[dict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    lines: dict[str, list[float]] = field(default_factory=dict)
    peaks: dict[str, list[float]] = field(default_factory=dict)
    fit: dict | None = None


@dataclass(frozen=True)
class Verdict:
    """What a backtest says: which models to use, how much to trust them, and how wide the band is."""

    members: list[str]
    skilled: bool
    skill: float | None
    skill_flat: float | None
    # Whether the upper line, which a floor follows, is at least as close as the seasonal naive's.
    sharp: bool
    scores: list[dict]
    pooled: Outcome
    band: Band


def judge(
    outcomes: dict[str, Outcome], series: Series, at: np.ndarray, quantile: float, model: str = "auto"
) -> Verdict:
    """Judges models by their errors at the origins `at`, which are all that it looks at."""
    horizon = next(iter(outcomes.values())).errors.shape[1]
    scores = score(outcomes, at)
    members = choose(scores) if model == "auto" else [model]
    pooled = backtest.compare(np.mean([outcomes[name].forecasts for name in members], axis=0), series, at, horizon)
    skill, skill_flat = against(pooled.mae, outcomes)
    skilled = members != [NAIVE] and skill is not None and skill > 0 and skill_flat is not None and skill_flat >= MIN_SKILL_FLAT
    skilled = skilled and sure(pooled, [best_flat(outcomes)], outcomes, at)
    band = backtest.band(pooled, quantile)
    naive = outcomes.get(NAIVE)
    sharp = naive is None or band.loss(pooled, quantile) <= backtest.band(naive, quantile).loss(naive, quantile)
    return Verdict(members, bool(skilled and sharp), skill, skill_flat, sharp, scores, pooled, band)


def models_for(step_seconds: int, season: int) -> list[Model]:
    """Every model, the references first."""
    week = WEEK_SECONDS // step_seconds if WEEK_SECONDS % step_seconds == 0 else None
    if week is not None and (week <= season or week % season != 0):
        week = None
    weekly: list[Model] = [SeasonalNaive("weekly-naive", week)] if week is not None else []
    return [
        SeasonalNaive(NAIVE, season),
        LastValue(),
        FlatMean(season),
        *weekly,
        HoltWinters(season),
        Harmonic(season, week),
        DayWeek(season, week),
        Theta(season),
        DampedTrend(),
    ]


def answer(question: Question, pause: Callable[[], None] = lambda: None) -> Answer:
    """Forecasts; `pause` is called between the slow parts and may raise to give up."""
    series = from_samples(question.samples, question.season)
    horizon, has = question.horizon, len(series)

    every = models_for(question.step_seconds, question.season)
    named = {model.name: model for model in every}
    if question.fit is not None and carried.fits(question.fit, question.shape, question.since, named, series):
        return renewed(question, series, named)
    if question.model not in ("auto", *(model.name for model in every)):
        raise Refusal("bad-request", f"model `{question.model}` does not fit a season of {question.season} samples")
    enough, missing = [], []
    for model in every:
        wanted = backtest.needs(model, question.season, horizon)
        if wanted <= has:
            enough.append(model)
        else:
            missing.append({"model": model.name, "needs": wanted, "has": has})
    short = {entry["model"]: entry for entry in missing}
    if question.model in short:
        entry = short[question.model]
        raise Refusal(
            "not-enough-history",
            f"model `{question.model}` needs {entry['needs']} samples, has {entry['has']}",
            "give a longer history, or `auto` as the model",
        )
    if not enough:
        least = min(missing, key=lambda entry: entry["needs"])
        raise Refusal(
            "not-enough-history",
            f"a forecast needs {least['needs']} samples, has {has}",
            "give a longer history, or a shorter horizon",
        )

    notes: list[str] = []
    at = backtest.origins(has, max(model.fit_samples for model in enough), horizon)
    outcomes: dict[str, Outcome] = {}
    for model in enough:
        pause()
        try:
            outcome = backtest.run(model, series, at, horizon)
            if not np.isfinite(outcome.forecasts).all():
                raise ValueError("its forecast is not finite")
            outcomes[model.name] = outcome
        except (ValueError, FloatingPointError, np.linalg.LinAlgError) as error:
            if question.model == model.name:
                raise Refusal("model-failed", f"model `{model.name}` cannot be fitted: {error}") from error
            notes.append(f"model `{model.name}` cannot be fitted and was left out: {error}")
    if not any(np.isfinite(outcome.errors).any() for outcome in outcomes.values()):
        raise Refusal("too-many-gaps", "no sample was observed where the backtest looks")

    verdict = judge(outcomes, series, at, question.quantile, question.model)
    members, pooled = verdict.members, verdict.pooled

    by_name = {model.name: model for model in enough}
    pause()
    about = {
        "skilled": verdict.skilled,
        "skill": verdict.skill,
        "skill_flat": verdict.skill_flat,
        "backtests": len(at),
        "scores": verdict.scores,
        "missing": missing,
    }
    candidates = [] if question.lead is None else [by_name[name] for name in outcomes if name in CANDIDATES]
    fit = carried.remembered(
        question.shape, about, verdict.band, [by_name[name] for name in members], candidates, series
    )
    mean, lower, upper = carried.lines(fit, by_name, series, 0, horizon)
    peaks: dict[str, list[float]] = {}
    if question.lead is not None and question.replay > 0 and candidates:
        earliest = max(model.fit_samples for model in candidates)
        at = np.arange(max(earliest, has + 1 - question.replay), has + 1)
        peaks = replay(series, candidates, at, question.lead, pause)
    if not all(np.isfinite(each).all() for each in (mean, lower, upper)):
        raise Refusal("model-failed", "the forecast is not finite", "the values of the history may be too large")

    skilled = verdict.skilled
    if np.ptp(series.values) == 0:
        notes.append("the history is constant: there is nothing to forecast")
    elif not verdict.sharp:
        notes.append("the upper line is no closer than the seasonal naive's: do not scale on this forecast alone")
    elif not skilled:
        notes.append("no model beats the plain references on this history: do not scale on this forecast alone")
    if (1 - question.quantile) * (np.isfinite(pooled.errors).sum(axis=0).min() + 1) < 1:
        notes.append(f"{len(at)} backtests are few for the {question.quantile} quantile: it is the largest error seen")
    return Answer(
        model=members[0] if len(members) == 1 else "mean",
        members=members,
        skilled=skilled,
        skill=verdict.skill,
        skill_flat=verdict.skill_flat,
        backtests=len(at),
        band="proportional" if verdict.band.proportional else "additive",
        samples=has,
        interpolated=series.interpolated,
        borrowed=series.borrowed,
        mean=mean.tolist(),
        lower=lower.tolist(),
        upper=upper.tolist(),
        scores=verdict.scores,
        missing=missing,
        notes=notes,
        lines=carried.own_lines(fit, by_name, series, 0, horizon),
        peaks=peaks,
        fit=fit,
    )


def replay(
    series: Series, models: Sequence[Model], at: np.ndarray, lead: int, pause: Callable[[], None]
) -> dict[str, list[float]]:
    """Per model the highest value until the lead time from each origin, and that of the mean of all models.

    A model that cannot be fitted is left out: the caller has its own rules.
    """
    lines: dict[str, np.ndarray] = {}
    for model in models:
        pause()
        try:
            found = model.forecasts(series, at, lead)
        except (ValueError, FloatingPointError, np.linalg.LinAlgError):
            continue
        if np.isfinite(found).all():
            lines[model.name] = found
    if len(lines) > 1:
        lines[MEAN] = np.mean(list(lines.values()), axis=0)
    return {name: digits(found.max(axis=1), 6).tolist() for name, found in lines.items()}


def renewed(question: Question, series: Series, models: dict[str, Model]) -> Answer:
    """The forecast that an earlier one's fit makes of the samples that have come since."""
    fit = question.fit
    try:
        mean, lower, upper = carried.lines(fit, models, series, question.since, question.horizon)
        verdict, members = fit["verdict"], fit["members"]
        if len(mean) != question.horizon or not all(np.isfinite(each).all() for each in (mean, lower, upper)):
            raise ValueError("the forecast is not finite")
        return Answer(
            model=members[0] if len(members) == 1 else "mean",
            members=members,
            band="proportional" if fit["band"]["proportional"] else "additive",
            samples=len(series),
            interpolated=series.interpolated,
            borrowed=series.borrowed,
            mean=mean.tolist(),
            lower=lower.tolist(),
            upper=upper.tolist(),
            lines=carried.own_lines(fit, models, series, question.since, question.horizon),
            **verdict,
        )
    except (KeyError, TypeError, ValueError, IndexError) as cause:
        raise carried.refused(cause) from cause


def against(mae: float, outcomes: dict[str, Outcome]) -> tuple[float | None, float | None]:
    """Skill over the seasonal naive and over the better flat line, where those were backtested."""
    naive = outcomes[NAIVE].mae if NAIVE in outcomes else None
    flat = best_flat(outcomes)
    flat = None if flat is None else outcomes[flat].mae
    return (
        None if naive is None else backtest.skill(mae, naive),
        None if flat is None else backtest.skill(mae, flat),
    )


def best_flat(outcomes: dict[str, Outcome]) -> str | None:
    """The flat line with the least error."""
    return min((name for name in FLAT if name in outcomes), key=lambda name: outcomes[name].mae, default=None)


def sure(outcome: Outcome, references: list[str | None], outcomes: dict[str, Outcome], at: np.ndarray) -> bool:
    """Whether an outcome beats each of the references, as far as they were backtested, by more than luck."""
    there = [outcomes[name] for name in references if name in outcomes]
    return all(backtest.beyond_luck(outcome, reference, at) for reference in there)


def score(outcomes: dict[str, Outcome], at: np.ndarray) -> list[dict]:
    """Every backtested model with its error, its skills and whether these are sure, in the order of `models_for`."""
    references = [NAIVE, best_flat(outcomes)]
    scores = []
    for name, outcome in outcomes.items():
        skill, skill_flat = against(outcome.mae, outcomes)
        others = [reference for reference in references if reference != name]
        scores.append(
            {
                "model": name,
                "mae": outcome.mae,
                "skill": skill,
                "skill_flat": skill_flat,
                "sure": sure(outcome, others, outcomes, at),
            }
        )
    return scores


def choose(scores: list[dict]) -> list[str]:
    """The skilled models that are about as good as the best of them, else the reference with the least error."""
    skilled = [
        entry
        for entry in scores
        if entry["model"] not in (NAIVE, *FLAT)
        and entry["skill"] is not None
        and entry["skill"] >= MIN_SKILL
        and entry["skill_flat"] is not None
        and entry["skill_flat"] >= MIN_SKILL_FLAT
        and entry["sure"]
    ]
    if skilled:
        most = MAX_ERROR * min(entry["mae"] for entry in skilled)
        return [entry["model"] for entry in skilled if entry["mae"] <= most]
    references = [entry for entry in scores if entry["model"] in (NAIVE, *FLAT)]
    return [min(references, key=lambda entry: entry["mae"])["model"]]
