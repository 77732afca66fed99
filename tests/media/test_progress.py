"""Progress in a log: lines for long work, none for short, never among the results."""

import pytest

from worldcompass.media import progress as module
from worldcompass.media.progress import progress


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_long_work_says_how_much_is_left_and_short_work_nothing(clock, capsys):
    with progress("filming", 10) as advance:
        for _ in range(10):
            clock[0] += 20
            advance()
    with progress("quick", 10) as advance:
        for _ in range(10):
            advance()
    written = capsys.readouterr()
    assert not written.out
    lines = written.err.splitlines()
    assert lines[0] == "filming: 2 of 10, 2 min 40 s left" and lines[-1] == "filming: 10 of 10, 0 s left"
    assert len(lines) == 5


def test_what_was_finished_before_does_not_shorten_the_time_left(clock, capsys):
    with progress("recording", 10) as advance:
        advance(6)
        clock[0] += 40
        advance()
    assert capsys.readouterr().err == "recording: 7 of 10, 2 min 00 s left\n"


def test_work_that_is_counted_late_is_not_taken_for_finished_before(clock, capsys):
    with progress("filming", 10) as advance:
        advance(0)
        clock[0] += 50
        advance(5)
    assert capsys.readouterr().err == "filming: 5 of 10, 50 s left\n"
