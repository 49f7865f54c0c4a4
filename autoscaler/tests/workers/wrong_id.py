"""Answers a question that nobody asked."""

from forecaster import hello

hello.hello()
for request in hello.requests():
    hello.forecast({**request, "id": request["id"] + 1})
