"""What a request and an answer look like: one JSON object per line, checked field by field.

Pure: text in, values out. A change that an old reader would misread raises `VERSION`.
"""

import json
import math
from dataclasses import asdict, fields, replace
from typing import Any

from forecaster.errors import Refusal
from forecaster.forecast import NAMES, Answer, Question
from forecaster.report import Report
from forecaster.rolling import Rolled
from forecaster.series import MAX_SAMPLES

VERSION = 1
MAX_HORIZON = 4_032
MAX_LEADS = 8
# A month: what is sampled more seldom is not autoscaled, but may be backtested.
MAX_STEP_SECONDS = 31 * 24 * 3600
# A line of some 10 MB, which its reader still takes.
MAX_VALUES = 250_000
# Sums of squares of anything larger are not finite.
LARGEST = 1e300


def hello(python: str, packages: dict[str, str]) -> dict[str, Any]:
    """The first line of a worker."""
    return {"type": "hello", "protocol": VERSION, "python": python, "packages": packages}


def forecast(request: int, answer: Answer, seconds: float) -> dict[str, Any]:
    """The answer to a `forecast` request."""
    # Not `asdict`, which copies each of some thousand numbers.
    found = {each.name: getattr(answer, each.name) for each in fields(answer)}
    return {"type": "forecast", "id": request, "seconds": seconds, **found}


def backtest(request: int, report: Report, seconds: float) -> dict[str, Any]:
    """The answer to a `backtest` request."""
    return {"type": "backtest", "id": request, "seconds": seconds, **asdict(report)}


def rolling(request: int, rolled: Rolled, seconds: float) -> dict[str, Any]:
    """The answer to a `rolling` request."""
    return {"type": "rolling", "id": request, "seconds": seconds, **asdict(rolled)}


def error(request: int | None, refusal: Refusal) -> dict[str, Any]:
    """The answer to a request that was refused; no id when the request did not show one."""
    return {
        "type": "error",
        "id": request,
        "code": refusal.code,
        "message": refusal.message,
        "hint": refusal.hint,
    }


def encode(message: dict[str, Any]) -> str:
    """One line. Refuses NaN, which is not JSON."""
    return json.dumps(message, separators=(",", ":"), allow_nan=False) + "\n"


def decode(line: str) -> dict[str, Any]:
    """The object on a line."""
    try:
        message = json.loads(line, parse_constant=not_json)
    except (ValueError, RecursionError) as cause:
        raise Refusal("bad-request", f"the line is not JSON: {cause}") from cause
    if not isinstance(message, dict):
        raise Refusal("bad-request", "the line is not a JSON object")
    return message


def not_json(constant: str) -> None:
    """Python reads `NaN` and `Infinity` as numbers; JSON has no such thing, a missing sample is `null`."""
    raise ValueError(f"`{constant}` is not a JSON value")


def request_id(message: dict[str, Any]) -> int:
    """The id that the answer repeats."""
    return integer(message, "id", 0, 2**53)


def question(message: dict[str, Any]) -> Question:
    """The forecast that a request asks for."""
    asks = asked(message, integer(message, "horizon", 1, MAX_HORIZON))
    if message.get("fit") is None:
        return asks
    return replace(asks, fit=message["fit"], since=integer(message, "since", 0, MAX_SAMPLES))


def leads(message: dict[str, Any]) -> tuple[Question, list[int]]:
    """The backtest that a request asks for, as far as its longest lead."""
    leads = message.get("leads")
    if not isinstance(leads, list) or not 1 <= len(leads) <= MAX_LEADS:
        raise Refusal("bad-request", f"`leads` is not a list of 1 to {MAX_LEADS} whole numbers")
    for lead in leads:
        integer({"leads": lead}, "leads", 1, MAX_HORIZON)
    return asked(message, max(leads)), sorted(set(leads))


def origins(message: dict[str, Any]) -> tuple[Question, range]:
    """The rolling forecasts that a request asks for, and from which origins."""
    question = asked(message, integer(message, "horizon", 1, MAX_HORIZON))
    first = integer(message, "first", 1, len(question.samples))
    every = integer(message, "every", 1, len(question.samples))
    at = range(first, len(question.samples) + 1, every)
    if len(question.samples) > MAX_SAMPLES:
        raise Refusal("bad-request", f"`samples` are more than {MAX_SAMPLES}")
    if len(at) * question.horizon > MAX_VALUES:
        asks = f"{len(at)} forecasts of {question.horizon} steps"
        raise Refusal("bad-request", f"{asks} are more than {MAX_VALUES} values", "ask for fewer at a time")
    return question, at


def asked(message: dict[str, Any], horizon: int) -> Question:
    """What every request about samples says."""
    samples = message.get("samples")
    if not isinstance(samples, list) or not samples:
        raise Refusal("bad-request", "`samples` is not a list of numbers and nulls")
    # Some thousand numbers: those that JSON reads as floats need no call each.
    for index, sample in enumerate(samples):
        if sample is not None and not (type(sample) is float and -LARGEST < sample < LARGEST) and not number(sample):
            raise Refusal("bad-request", f"`samples[{index}]` is neither a finite number nor null")
    if samples[0] is None or samples[-1] is None:
        raise Refusal("bad-request", "`samples` begins or ends with null", "cut the gap off, and move the start")
    quantile = message.get("quantile")
    if not number(quantile) or not 0.5 < quantile < 1:
        raise Refusal("bad-request", "`quantile` is not a number between 0.5 and 1")
    model = message.get("model", "auto")
    if model not in ("auto", *NAMES):
        raise Refusal("bad-request", "`model` is none of " + ", ".join(("auto", *NAMES)))
    return Question(
        samples=samples,
        step_seconds=integer(message, "step_seconds", 1, MAX_STEP_SECONDS),
        season=integer(message, "season", 2, 20_160),
        horizon=horizon,
        quantile=float(quantile),
        model=model,
        lead=None if message.get("lead") is None else integer(message, "lead", 1, horizon),
        replay=0 if message.get("replay") is None else integer(message, "replay", 0, MAX_SAMPLES),
    )


def seconds_allowed(message: dict[str, Any]) -> float:
    """How long the caller waits for the answer."""
    return integer(message, "deadline_ms", 1, 24 * 3600 * 1000) / 1000


def integer(message: dict[str, Any], name: str, least: int, most: int) -> int:
    """A whole number in a range."""
    value = message.get(name)
    # True is an int to Python.
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise Refusal("bad-request", f"`{name}` is not a whole number from {least} to {most}")
    return value


def number(value: object) -> bool:
    """Whether a value is a finite number that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < LARGEST and math.isfinite(value)
