"""Tests of the worker. Run in the folder above the package: `python -m pytest -p no:cacheprovider forecaster`.

They have the number of threads of the worker: on arrays this small more threads only wait for each other.
"""

import os

for library in ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "VECLIB_MAXIMUM"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")
