"""What the player's server refuses: unreadable messages, floods, other sites."""

import contextlib
import itertools
import time
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the player needs worldcompass[web]")

from player_server import Browser, ask, running, toy_shared
from websockets.exceptions import ConnectionClosed, InvalidStatus

from worldcompass.player.server import Settings


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ("{", "cannot read message: Invalid JSON"),
        ("[]", "cannot read message"),
        ('{"type": "fly"}', "does not match any of the expected tags"),
        ('{"type": "keys", "held": ["jump"]}', "unknown key 'jump': expected keys from w s d a"),
        ('{"type": "keys", "held": [], "more": 1}', "Extra inputs are not permitted"),
        ('{"type": "start", "start": "toy/0", "seed": -1}', "greater than or equal to 0"),
        ('{"type": "start", "start": "../../etc/passwd"}', "this start does not exist"),
        ('{"type": "start", "start": "toy/0", "path": "w-999999999"}', "lasts more than 1500 latents"),
        ('{"type": "start", "start": "toy/0", "path": "jump-3"}', "cannot read 'jump-3'"),
        ('{"type": "rewind", "latents": 1}', "nothing to rewind"),
        ('{"type": "record", "on": true}', "nothing to record"),
        ('{"type": "hello", "token": ""}', "unexpected second hello"),
        ("x" * 40_000, "more than 32768 characters"),
        (b"\x00\xff", "cannot read message"),
    ],
)
def test_what_cannot_be_read_is_answered_with_a_sentence(port, message, sentence):
    with Browser(port) as browser:
        browser.socket.send(message)
        assert sentence in browser.until("error")["text"]
        assert browser.begin(path="w-1")["path"] == "w-1"  # and the walk goes on


def let_in(port):
    """A browser that is let in, once the server has noticed that others are gone."""
    deadline = time.monotonic() + 60
    while (browser := Browser(port)).welcome["type"] == "refused":
        browser.socket.close()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return browser


def test_floods_and_full_houses_are_refused():
    with running(toy_shared(), Settings(max_sessions=2)) as port:
        with Browser(port), Browser(port), Browser(port) as third:
            assert third.welcome["type"] == "refused" and "all 2 sessions" in third.welcome["text"]
        with let_in(port) as flood:
            with contextlib.suppress(ConnectionClosed):
                for _ in range(1000):
                    flood.hold("w")
            with pytest.raises(ConnectionClosed):
                for _ in itertools.repeat(None, 2000):
                    flood.hear()
        with Browser(port) as mistaken, pytest.raises(ConnectionClosed):
            for _ in range(30):
                mistaken.socket.send("{")
            for _ in itertools.repeat(None, 100):
                mistaken.hear()
        with Browser(port) as browser:
            assert browser.welcome["type"] == "welcome"


def test_other_sites_and_foreign_names_are_refused(port):
    own = f"http://127.0.0.1:{port}"
    assert ask(port, "/health", Origin=own)[0] == 200
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}):
        assert ask(port, "/health", **headers)[0] == 403
    with pytest.raises(InvalidStatus, match="403"):
        Browser(port, origin="https://evil.example")
    with Browser(port, origin=own) as browser:
        assert browser.welcome["type"] == "welcome"


def test_malformed_messages_and_requests_leave_the_server_serving(caplog, monkeypatch):
    """A short run of benchmarks/player_fuzz.py."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import player_fuzz

    with running(toy_shared()) as port:
        messages = player_fuzz.send_messages(port, 300, seed=1)
        assert messages["messages"] > 250 and messages["error"] > 100
        statuses = player_fuzz.send_requests(port, 150, seed=1)
        assert sum(statuses.values()) == 150 and not [s for s in statuses if s >= 500]
        player_fuzz.walk_once(port)
    assert [r for r in caplog.records if r.levelname == "ERROR"] == []


def test_requests_made_from_the_description_leave_no_server_error(port, caplog, monkeypatch):
    """Schemathesis reads /openapi.json; what it sends is refused by a sentence or answered."""
    pytest.importorskip("schemathesis", reason="this fuzz test needs schemathesis")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import player_fuzz

    statuses = player_fuzz.send_described_requests(port, 8, seed=1)
    assert sum(statuses.values()) >= 30 and set(statuses) <= {200, 400, 422}, statuses
    assert [r for r in caplog.records if r.levelname == "ERROR"] == []
