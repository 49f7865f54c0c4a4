"""Seeded synthetic histories that the tests share."""

import numpy as np

SEASON = 48
STEP_SECONDS = 1800


def load(seed: int, days: int = 12, noise: float = 6.0) -> np.ndarray:
    """A daily wave with a lunch dip, a slow trend, and noise that lingers."""
    chance = np.random.default_rng(seed)
    at = np.arange(days * SEASON)
    errors = np.zeros(len(at))
    for i in range(1, len(at)):
        errors[i] = 0.7 * errors[i - 1] + chance.normal(0, noise)
    day = 2 * np.pi * at / SEASON
    return 200 + 80 * np.sin(day) + 30 * np.cos(2 * day) + 0.02 * at + errors
