"""Reads requests from one stream and writes each answer into another, until the first one ends.

A bad line is answered and forgotten: one confused request must not take the process, and its warm packages, down.
"""

import sys
import time
import traceback
from typing import Any, TextIO

from forecaster import protocol, report, rolling
from forecaster.errors import Refusal
from forecaster.forecast import answer


def serve(requests: TextIO, answers: TextIO) -> None:
    """Answers every line of `requests`, in order."""
    for line in requests:
        if line.strip():
            answers.write(reply(line))
            answers.flush()


def reply(line: str) -> str:
    """The answer to one line, encoded."""
    request: int | None = None
    try:
        message = protocol.decode(line)
        request = protocol.request_id(message)
        return protocol.encode(dispatch(request, message))
    except Refusal as refusal:
        return protocol.encode(protocol.error(request, refusal))
    except Exception as bug:
        # The trace is for our log; the caller gets a sentence.
        traceback.print_exc(file=sys.stderr)
        return protocol.encode(protocol.error(request, Refusal("bug", f"{type(bug).__name__}: {bug}")))


def dispatch(request: int, message: dict[str, Any]) -> dict[str, Any]:
    """Does what a request asks for."""
    started = time.monotonic()

    def spent() -> float:
        return time.monotonic() - started

    def pause() -> None:
        # The caller kills us at the deadline; to answer in time spares it the restart.
        if spent() > allowed:
            raise Refusal("deadline", f"the {message['type']} takes longer than {allowed:g} s")

    match message.get("type"):
        case "ping":
            return {"type": "pong", "id": request}
        case "forecast":
            allowed = protocol.seconds_allowed(message)
            return protocol.forecast(request, answer(protocol.question(message), pause), spent())
        case "backtest":
            allowed = protocol.seconds_allowed(message)
            return protocol.backtest(request, report.report(*protocol.leads(message), pause), spent())
        case "rolling":
            allowed = protocol.seconds_allowed(message)
            return protocol.rolling(request, rolling.forecasts(*protocol.origins(message), pause), spent())
        case _:
            raise Refusal("bad-request", "`type` is none of `forecast`, `backtest`, `rolling`, `ping`")
