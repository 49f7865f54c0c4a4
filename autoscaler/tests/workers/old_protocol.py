"""Speaks a protocol from another time."""

from forecaster import hello

hello.hello(protocol=0)
input()
