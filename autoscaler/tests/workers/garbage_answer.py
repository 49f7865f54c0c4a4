"""Says hello, then answers with something else."""

from forecaster import hello

hello.hello()
for _ in hello.requests():
    print("}{ not json", flush=True)
