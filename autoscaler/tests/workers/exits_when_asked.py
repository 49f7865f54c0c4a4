"""Dies on its first question, as when the kernel takes its memory."""

import os

from forecaster import hello

hello.hello()
next(hello.requests())
os._exit(9)
