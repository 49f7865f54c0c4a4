"""What the hostile workers share: they are put side by side into one package, and run with the standard library only."""

import json
import sys
from pathlib import Path


def say(message):
    print(json.dumps(message), flush=True)


def hello(protocol=1):
    say({"type": "hello", "protocol": protocol, "python": "3.0.0", "packages": {"numpy": "0"}})


def forecast(request):
    """A correct answer, flat at 42."""
    steps = request["horizon"]
    say(
        {
            "type": "forecast",
            "id": request["id"],
            "model": "last-value",
            "members": ["last-value"],
            "skilled": False,
            "skill": None,
            "skill_flat": 0.0,
            "backtests": 1,
            "band": "additive",
            "samples": len(request["samples"]),
            "interpolated": 0,
            "borrowed": 0,
            "mean": [42.0] * steps,
            "lower": [41.0] * steps,
            "upper": [43.0] * steps,
            "scores": [],
            "missing": [],
            "notes": [],
            "seconds": 0.0,
        }
    )


def requests():
    return (json.loads(line) for line in sys.stdin)


def first_time():
    """True for the first worker of a home, false for those after it."""
    mark = Path(__file__).with_name("seen")
    if mark.exists():
        return False
    mark.write_text("")
    return True
