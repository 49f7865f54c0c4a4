"""Answers backtests with another lead, and rolling requests with lines that are too short."""

from forecaster import hello

hello.hello()
for request in hello.requests():
    answer = {"id": request["id"], "missing": [], "notes": [], "seconds": 0.0}
    if request["type"] == "backtest":
        lead = {"lead": request["leads"][0] + 1, "origins": 1, "skilled": 1.0, "skilled_now": True, "rows": []}
        hello.say({**answer, "type": "backtest", "samples": 1, "taught": 1, "borrowed": 0, "leads": [lead]})
    else:
        lines = {"mean": [[1.0]], "upper": [[1.0]], "skilled": [True], "members": [["harmonic"]]}
        hello.say({**answer, "type": "rolling", "origins": [request["first"]], **lines})
