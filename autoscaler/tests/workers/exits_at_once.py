"""Ends like a worker whose packages are missing."""

import sys

sys.exit("cannot import what the worker needs: No module named 'numpy'")
