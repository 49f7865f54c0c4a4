"""The protocol: what comes in, however broken, gets one line back and leaves the worker running."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from forecaster import loop, protocol, rolling
from forecaster.tests.histories import SEASON, STEP_SECONDS, load

GOOD = {
    "type": "forecast",
    "id": 1,
    "samples": load(seed=50, days=4).tolist(),
    "step_seconds": STEP_SECONDS,
    "season": SEASON,
    "horizon": 3,
    "quantile": 0.9,
    "model": "auto",
    "deadline_ms": 60_000,
}


def converse(*lines: str) -> list[dict]:
    answers = io.StringIO()
    loop.serve(io.StringIO("\n".join(lines) + "\n"), answers)
    return [json.loads(line) for line in answers.getvalue().splitlines()]


def test_a_forecast_has_the_id_of_its_request():
    (found,) = converse(json.dumps({**GOOD, "id": 77}))
    assert (found["type"], found["id"]) == ("forecast", 77)
    assert len(found["mean"]) == len(found["lower"]) == len(found["upper"]) == 3


def test_filled_gaps_are_counted_in_the_answer():
    samples = [*GOOD["samples"]]
    for at in (50, *range(100, 106)):
        samples[at] = None
    (found,) = converse(json.dumps({**GOOD, "samples": samples}))
    assert (found["interpolated"], found["borrowed"]) == (1, 6)


LEADS = {**GOOD, "type": "backtest", "samples": load(seed=51, days=7).tolist(), "leads": [1, 4]}
ROLLING = {**GOOD, "type": "rolling", "samples": load(seed=52, days=7).tolist(), "first": 280, "every": 8}


def test_a_backtest_has_its_leads_in_order(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rolling, "JUDGEMENTS", 10)
    (found,) = converse(json.dumps({**LEADS, "leads": [4, 1, 4]}))
    assert (found["type"], found["id"]) == ("backtest", 1), found
    assert [lead["lead"] for lead in found["leads"]] == [1, 4]
    assert found["leads"][0]["rows"][0]["model"] == "forecast"


def test_rolling_forecasts_are_one_per_origin():
    (found,) = converse(json.dumps(ROLLING))
    assert (found["type"], found["id"]) == ("rolling", 1), found
    assert found["origins"] == list(range(280, 337, 8))
    for lines in ("mean", "upper"):
        assert [len(line) for line in found[lines]] == [3] * 8


@pytest.mark.parametrize(
    ("request_", "change", "message"),
    [
        (LEADS, {"leads": []}, "`leads` is not a list of 1 to 8"),
        (LEADS, {"leads": [1] * 9}, "`leads` is not a list of 1 to 8"),
        (LEADS, {"leads": "15m"}, "`leads` is not a list of 1 to 8"),
        (LEADS, {"leads": [1, 0]}, "`leads` is not a whole number from 1"),
        (LEADS, {"leads": [300]}, "a backtest of 300 steps needs 600 samples, has 336"),
        (LEADS, {"samples": [1] * 20}, "needs 29 samples before its first origin, has 10"),
        (ROLLING, {"first": 0}, "`first` is not a whole number from 1 to 336"),
        (ROLLING, {"first": 337}, "`first` is not a whole number from 1 to 336"),
        (ROLLING, {"first": 5}, "needs 28 samples before its first origin, has 5"),
        (ROLLING, {"every": 0}, "`every` is not a whole number from 1 to 336"),
        (ROLLING, {"model": "weekly-naive"}, "needs 384 samples before its first origin, has 280"),
        (ROLLING, {"horizon": 4032, "first": 200, "every": 1}, "137 forecasts of 4032 steps are more than 250000"),
        (ROLLING, {"samples": [1] * 50_001}, "`samples` are more than 50000"),
        (ROLLING, {"deadline_ms": None}, "`deadline_ms` is not a whole number"),
    ],
)
def test_a_bad_backtest_says_what_is_wrong(request_: dict, change: dict, message: str):
    (found,) = converse(json.dumps({**request_, **change}))
    assert found["type"] == "error"
    assert message in found["message"]


@pytest.mark.parametrize("request_", [LEADS, ROLLING], ids=["backtest", "rolling"])
def test_a_deadline_is_kept(request_: dict):
    (found,) = converse(json.dumps({**request_, "deadline_ms": 1}))
    assert (found["code"], found["message"]) == ("deadline", f"the {request_['type']} takes longer than 0.001 s")


def test_garbage_is_answered_and_forgotten():
    garbage = ["}{", '"text"', "[1]", '{"id": 1, "x": NaN}', "\ufffd\u0000", "[" * 100_000]
    found = converse(*garbage, "", '{"type":"ping","id":5}')
    assert [entry["type"] for entry in found] == ["error"] * len(garbage) + ["pong"]
    assert {entry["code"] for entry in found[:-1]} == {"bad-request"}
    assert found[-1]["id"] == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": None}, "`id` is not a whole number"),
        ({"id": True}, "`id` is not a whole number"),
        ({"type": "dance"}, "`type` is none of"),
        ({"samples": []}, "`samples` is not a list"),
        ({"samples": [1, "2", 3]}, "`samples[1]` is neither a finite number nor null"),
        ({"samples": [1, True, 3]}, "`samples[1]` is neither a finite number nor null"),
        ({"samples": [1, 10**400, 3]}, "`samples[1]` is neither a finite number nor null"),
        ({"samples": [None, 1, 2]}, "`samples` begins or ends with null"),
        ({"samples": [1, 2, None]}, "`samples` begins or ends with null"),
        ({"season": 1}, "`season` is not a whole number from 2"),
        ({"horizon": 0}, "`horizon` is not a whole number from 1"),
        ({"horizon": 1.5}, "`horizon` is not a whole number from 1"),
        ({"step_seconds": -300}, "`step_seconds` is not a whole number from 1"),
        ({"quantile": 0.5}, "`quantile` is not a number between 0.5 and 1"),
        ({"quantile": "0.9"}, "`quantile` is not a number between 0.5 and 1"),
        ({"model": "oracle"}, "`model` is none of auto, seasonal-naive"),
        ({"deadline_ms": 0}, "`deadline_ms` is not a whole number from 1"),
    ],
)
def test_a_bad_request_names_its_field(change: dict, message: str):
    (found,) = converse(json.dumps({**GOOD, **change}))
    assert found["type"] == "error" and found["code"] == "bad-request"
    assert message in found["message"]


def test_a_refusal_keeps_its_code_and_hint():
    (found,) = converse(json.dumps({**GOOD, "samples": [1.0, 2.0]}))
    assert found["code"] == "not-enough-history"
    assert found["hint"] == "give a longer history, or a shorter horizon"


def test_a_bug_is_an_answer_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    def broken(*_):
        raise ZeroDivisionError("by us")

    monkeypatch.setattr(loop, "answer", broken)
    found = converse(json.dumps(GOOD), '{"type":"ping","id":2}')
    assert (found[0]["code"], found[0]["message"]) == ("bug", "ZeroDivisionError: by us")
    assert found[1]["type"] == "pong"
    assert "Traceback" in capsys.readouterr().err


def test_nan_never_leaves():
    with pytest.raises(ValueError):
        protocol.encode({"value": float("nan")})


def test_the_process_keeps_stdout_for_the_protocol():
    home = Path(__file__).parents[2]
    program = (
        "import forecaster.loop as loop, os\n"
        "real = loop.answer\n"
        "def chatty(*arguments):\n"
        "    print('hello from python'); os.system('echo hello from a child')\n"
        "    return real(*arguments)\n"
        "loop.answer = chatty\n"
        "import forecaster.__main__ as worker\n"
        "raise SystemExit(worker.main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input="nonsense\n" + json.dumps(GOOD) + "\n",
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(home), "PYTHONDONTWRITEBYTECODE": "1"},
        check=True,
    )
    hello, error, forecast = (json.loads(line) for line in done.stdout.splitlines())
    assert hello["type"] == "hello" and hello["protocol"] == protocol.VERSION
    assert set(hello["packages"]) == {"numpy", "pandas", "scipy", "statsmodels"}
    assert error["type"] == "error" and forecast["type"] == "forecast"
    assert "hello from python" in done.stderr and "hello from a child" in done.stderr
