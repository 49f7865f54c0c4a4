"""Answers correctly, a second late."""

import time

from forecaster import hello

hello.hello()
for request in hello.requests():
    hello.first_time()
    time.sleep(1)
    hello.forecast(request)
