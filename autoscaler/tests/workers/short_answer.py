"""Forecasts fewer steps than were asked for."""

from forecaster import hello

hello.hello()
for request in hello.requests():
    hello.forecast({**request, "horizon": request["horizon"] - 1})
