"""Tests of the worker. Run in the folder above the package: `python -m pytest -p no:cacheprovider forecaster`."""
