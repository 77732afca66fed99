"""Fewer resamples: the tests of the judge ask for signs, not for exact intervals."""

import pytest

from worldcompass.judging import bands, classifier, frechet, paired, place


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    """Sixty resamples in every measure."""
    for module in (bands, classifier, frechet, paired, place):
        monkeypatch.setattr(module, "RESAMPLES", 60)
