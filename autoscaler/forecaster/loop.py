"""Requests from one stream, answers to another, until the first one ends.

A bad line is answered and forgotten: one confused request must not take the process, and its warm packages, down.
"""

import sys
import time
import traceback
from typing import Any, TextIO

from forecaster import protocol
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
    match message.get("type"):
        case "ping":
            return {"type": "pong", "id": request}
        case "forecast":
            started = time.monotonic()
            allowed = protocol.seconds_allowed(message)

            def pause() -> None:
                # The caller kills us at the deadline; to answer in time spares it the restart.
                if time.monotonic() - started > allowed:
                    raise Refusal("deadline", f"the forecast takes longer than {allowed:g} s")

            found = answer(protocol.question(message), pause)
            return protocol.forecast(request, found, time.monotonic() - started)
        case _:
            raise Refusal("bad-request", "`type` is neither `forecast` nor `ping`")
