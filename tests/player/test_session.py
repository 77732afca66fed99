"""Walks over a WebSocket: keys, paths, rewinding, lost connections, recordings; with toy worlds on a real port."""

import gc
import io
import json
import time
import weakref

import av
import pytest

pytest.importorskip("fastapi", reason="the player needs worldcompass[web]")

from camera_paths import CAMERAS, path_of
from player_server import Browser, ask, running, toy_shared

from worldcompass.player import session, sessions
from worldcompass.player.messages import Begin, read_message

PATH = "w-2, left-1, none-1, w+right-2"


def test_keys_walk_every_pane_and_without_keys_the_world_waits(port):
    with Browser(port) as browser:
        assert browser.welcome["panes"] == ["Before", "After"] and not browser.welcome["known"]
        browser.begin()
        browser.see(0, 1)
        browser.hold("w", "left")
        state = browser.until("state", latents=3)
        browser.hold()
        browser.settle()
        assert state["action"] == ["w", "left"] and state["path"] == "w+left-3"
        assert browser.state["path"] == f"w+left-{browser.state['latents']}"
        waited = len(browser.pictures)
        browser.settle()
        assert len(browser.pictures) == waited
        before, after = browser.last_of(2)
        assert before and after and before != after and before != browser.last_of(0)[0]


def test_a_short_tap_between_two_steps_is_not_lost(port):
    with Browser(port) as browser:
        browser.begin()
        browser.hold("d")
        browser.hold()
        assert browser.until("state", latents=1)["path"] == "d-1"


def test_pictures_say_which_keys_they_obey(port):
    with Browser(port) as browser:
        browser.begin()
        for key in ("w", "a", "s"):
            browser.hold(key)
            browser.until("state", action=[key])
        browser.hold()
        browser.settle()
        numbers = [header["number"] for header, _ in browser.pictures]
        assert numbers == sorted(numbers) and set(numbers) >= {0, 1, 2, 3}


def test_a_path_replays_the_same_pictures_and_a_seed_changes_them(port):
    def walk(seed):
        with Browser(port) as browser:
            state = browser.begin(seed=seed, path=PATH)
            assert state["path"] == PATH and state["latents"] == 6
            browser.see(6)
            return [jpegs for _, jpegs in browser.pictures]

    first = walk(3)
    assert len(first) == 1 + 2 * 6
    assert walk(3) == first and walk(4) != first


def test_the_same_weights_get_the_same_noise_in_both_panes():
    with running(toy_shared(seeds=(5, 5))) as port, Browser(port) as browser:
        browser.begin(path="w-2, d-1")
        browser.see(3)
        assert all(before == after for _, (before, after) in browser.pictures)


def test_rewinding_goes_on_from_the_older_place(port):
    with Browser(port) as browser:
        browser.begin(path="w-3, a-2")
        browser.see(5)
        there = browser.last_of(3)
        browser.say(type="rewind", latents=2)
        assert browser.until("state")["path"] == "w-3"
        browser.see(3, 3)
        assert browser.pictures[-1][1] == there
        browser.say(type="rewind", latents=10_000)
        assert browser.until("state")["latents"] == 0


def test_what_is_shown_after_a_reset_is_the_start_and_not_the_rest_of_the_walk():
    with running(toy_shared(fps=10.0)) as port, Browser(port) as browser:
        browser.begin(path="w-2")
        browser.begin()
        browser.see(0, 2)
        assert [header["latent"] for header, _ in browser.pictures] == [0, 1, 1, 2, 2, 0]


def test_the_link_of_the_longest_walk_is_not_too_long():
    restless = path_of(
        [0, *([51, 62] * (session.MAX_WALK_LATENTS // 2))]
    )  # other keys in every latent, four at once
    message = json.dumps({"type": "start", "start": "own/" + "0" * 16, "seed": 2**31 - 1, "path": restless})
    begin = read_message(message)
    assert (
        isinstance(begin, Begin)
        and len(session.read_path(CAMERAS, begin.path)) == session.MAX_WALK_LATENTS + 1
    )


def test_a_key_ends_a_replay():
    with running(toy_shared(fps=10.0)) as port, Browser(port) as browser:
        browser.say(type="start", start="toy/0", seed=0, path="w-50")
        browser.until("state", latents=1)
        browser.hold("a")
        browser.hold()
        browser.settle()
        assert browser.state["path"].endswith("a-1") and browser.state["latents"] < 50


def test_two_browsers_walk_two_worlds(port):
    with Browser(port) as one, Browser(port) as two:
        one.begin(start="toy/0", path="w-2")
        state = two.begin(start="toy/1", path="s-3")
        assert state["start"] == "toy/1" and state["path"] == "s-3"
        one.say(type="rewind", latents=1)
        assert one.until("state")["path"] == "w-1"


def known_again(port, token):
    """A browser that finds its walk, once the server has noticed that the one before is gone."""
    deadline = time.monotonic() + 60
    while not (back := Browser(port, token=token)).welcome["known"]:
        back.socket.close()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return back


def test_a_lost_connection_finds_its_walk_again(port):
    with Browser(port) as lost:
        lost.begin(path=PATH)
        lost.see(6)
        token, there = lost.welcome["token"], lost.pictures[-1][1]
    with known_again(port, token) as back:
        assert back.until("state")["path"] == PATH
        assert back.hear()[1] == there
        with Browser(port, token=token) as other:  # a second tab with the same memory is a new walk
            assert not other.welcome["known"]


def test_recordings_are_videos_of_all_panes(port):
    with Browser(port) as browser:
        browser.begin()
        browser.say(type="record", on=True)
        browser.until("recording")
        browser.hold("w")
        browser.until("state", latents=4)
        browser.say(type="record", on=False)
        files = browser.until("recorded")
    for kind in ("mp4", "gif"):
        status, data = ask(port, files[kind])
        assert status == 200
        with av.open(io.BytesIO(data)) as video:
            frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
        assert frames[0].shape[1] > 2 * 250, kind
    assert files["seconds"] >= 9 / 200
    assert ask(port, "/clips/../pyproject.toml")[0] == 404
    assert ask(port, "/clips/..%2f..%2fetc%2fpasswd")[0] == 404


def test_a_dropped_session_is_freed_at_once_and_not_when_python_collects_cycles(monkeypatch):
    """Collecting waits for a quarter of all objects to be new, which takes hundreds of sessions beside PyTorch."""
    monkeypatch.setattr(sessions, "PARKED_SECONDS", 0.0)
    walks = weakref.WeakSet()
    begin = session.Session.__init__

    def counted(walk, shared):
        begin(walk, shared)
        walks.add(walk)

    monkeypatch.setattr(session.Session, "__init__", counted)
    with running(toy_shared()) as port:
        gc.disable()
        try:
            for _ in range(20):
                with Browser(port) as browser:
                    browser.begin(path="w-1")
            deadline = time.monotonic() + 60
            while walks and time.monotonic() < deadline:
                time.sleep(0.05)
            assert len(walks) == 0
        finally:
            gc.enable()
