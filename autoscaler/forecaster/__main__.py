"""The worker process: `python -m forecaster`, requests on stdin, answers on stdout, talk on stderr.

Sets up the process before numpy is imported: numpy reads the number of threads once.
"""

import os
import sys

# One request at a time on arrays this small: more threads would only fight the operator for its CPU quota.
for library in ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "VECLIB_MAXIMUM"):
    os.environ[f"{library}_NUM_THREADS"] = "1"


def main() -> int:
    """Runs the worker until its stdin ends."""
    # The protocol keeps the real stdout for itself; whoever prints, even from C, reaches stderr.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    requests = os.fdopen(0, "r", encoding="utf-8", errors="replace", closefd=False)

    try:
        from forecaster import loop, protocol
        from importlib.metadata import version

        packages = {name: version(name) for name in ("numpy", "pandas", "scipy", "statsmodels")}
    except ImportError as cause:
        print(f"cannot import what the worker needs: {cause}", file=sys.stderr)
        return 3

    answers.write(protocol.encode(protocol.hello(sys.version.split()[0], packages)))
    answers.flush()
    try:
        loop.serve(requests, answers)
    except BrokenPipeError:
        # The caller is gone, and with it the one who could read about it. Python would flush, and fail, once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), answers.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
