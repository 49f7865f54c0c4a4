"""The first worker of a home dies on its first question, the next ones work."""

import os

from forecaster import hello

first = hello.first_time()
hello.hello()
for request in hello.requests():
    if first:
        os._exit(9)
    hello.forecast(request)
