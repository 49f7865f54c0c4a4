"""The forecasting worker of the autoscaler: demand histories in, forecasts with honest bands out.

`series`, `models`, `backtest`, `forecast`, `rolling` and `report` are pure: no clock, file, environment or standard
stream. `protocol` says what a request and an answer look like, `loop` carries them over stdio, `__main__` sets the
process up.
"""
