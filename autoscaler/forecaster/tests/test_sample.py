"""The bundled sample is what its generator writes, and worth showing."""

from pathlib import Path

from forecaster.forecast import Question, answer
from forecaster.tests import sample

FILE = Path(__file__).parents[2] / "samples" / "requests.csv"


def test_the_file_is_what_the_generator_writes():
    assert FILE.read_text() == sample.text(), "repair: python -m forecaster.tests.sample > samples/requests.csv"
    assert FILE.stat().st_size < 400_000


def test_the_next_hour_is_skilled():
    samples = [load for _, load in sample.rows()]
    found = answer(Question(samples, 300, sample.DAY, 12, 0.9))
    assert found.skilled and found.skill > 0.3
    assert (found.interpolated, found.borrowed) == (4, 12)
