"""Says hello as soon as a file exists, and answers correctly."""

import os
import time

from forecaster import hello

while not os.path.exists(os.path.join(os.path.dirname(__file__), "go")):
    time.sleep(0.02)
hello.hello()
for request in hello.requests():
    hello.forecast(request)
