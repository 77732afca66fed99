"""The player's server: walks over a WebSocket, starts, recordings, limits; with toy worlds on a real port."""

import asyncio
import contextlib
import gc
import io
import itertools
import json
import os
import sys
import time
import weakref
from pathlib import Path
from unittest.mock import AsyncMock

import av
import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("fastapi", reason="the player needs worldcompass[web]")

from camera_paths import CAMERAS, path_of
from player_server import Browser, ask, detail, png, running, toy_shared, toy_starts
from websockets.exceptions import ConnectionClosed, InvalidStatus

from worldcompass import cli
from worldcompass.media.pictures import picture_size
from worldcompass.player import pace, session, sessions, starts
from worldcompass.player.messages import Begin, encode_frame, read_message
from worldcompass.player.panes import WorldPane
from worldcompass.player.server import Settings
from worldcompass.player.starts import Start, start_from_picture
from worldcompass.toy import ToyWorld
from worldcompass.worlds.doom.player import EnginePane, doom_starts

PATH = "w-2, left-1, none-1, w+right-2"


@pytest.fixture(scope="module")
def port():
    with running(toy_shared()) as port:
        yield port


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
        [0, *([51, 62] * (session.MAX_LATENTS // 2))]
    )  # other keys in every latent, four at once
    message = json.dumps({"type": "start", "start": "own/" + "0" * 16, "seed": 2**31 - 1, "path": restless})
    begin = read_message(message)
    assert isinstance(begin, Begin) and len(session.read_path(CAMERAS, begin.path)) == session.MAX_LATENTS + 1


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


def test_frames_never_come_faster_than_the_pace():
    """In the long run: what was late is caught up, within a frame."""
    with running(toy_shared(fps=20.0)) as port, Browser(port) as browser:
        browser.say(type="start", start="toy/0", seed=0, path="w-10")
        arrived = []
        while len(arrived) < 21:
            if isinstance(browser.hear(), tuple):
                arrived.append(time.monotonic())
        assert arrived[-1] - arrived[1] > (19 - pace.MAX_LATE) / 20


def shown(lateness, fps=20.0, count=4):
    """When the pictures of steps are shown that are ready so much later than the one before has been shown."""
    clock, last, times = pace.Pace(fps), 0.0, []
    clock.place(100.0, 0)
    for late in lateness:
        ready = clock.due + late
        for wanted in clock.place(ready, count):
            last = max(clock.after(last, wanted), ready)
            times.append(last)
    return times


def test_a_step_that_is_a_little_late_is_caught_up_without_a_hurry():
    late = shown([-0.05, 0.04, -0.05, 0.03, 0.01])
    assert late[4] == pytest.approx(100 + 4 / 20 + 0.04)  # shown as soon as it is ready
    assert late[8] == pytest.approx(100 + 8 / 20)  # and on the grid again four pictures later
    assert late[-1] == pytest.approx(100 + 19 / 20)  # so that the pace holds on average
    assert min(b - a for a, b in itertools.pairwise(late)) >= 0.75 / 20 - 1e-9


def test_a_step_that_is_very_late_moves_all_that_follow():
    late = shown([-0.05, 0.2, -0.05])
    assert late[4] == pytest.approx(100 + 4 / 20 + 0.2)
    assert np.diff(late[4:]) == pytest.approx(1 / 20)


def test_a_step_is_begun_as_late_as_the_usual_cost_allows():
    """One slow step in many does not make every key wait, a step that got slower for good does."""
    costs = pace.Costs()
    assert costs.ahead < 0.01  # nothing is known yet
    for index in range(30):
        costs.add(0.5 if index % 10 == 0 else 0.1)
    assert costs.ahead == pytest.approx(0.1 + pace.WAKING)
    for _ in range(8):
        costs.add(0.13)
    assert costs.ahead == pytest.approx(0.13 + pace.WAKING)


def test_pictures_do_not_wait_for_the_world_to_remember_them():
    """A step shows its pictures first, and what only the next one needs comes after."""
    world, remembered = ToyWorld(0), []
    remember = world.remember
    world.remember = lambda *arguments: remembered.append(1) or remember(*arguments)
    here = WorldPane("World", world, 2).begin(toy_starts().all()[0], 0)
    remembered.clear()
    seen = here.step(9)
    assert not remembered and seen.composites_M == (0, 9)
    settled = seen.settle()
    assert len(remembered) == 1 and settled.frames_F3hw.equal(seen.frames_F3hw)
    assert settled.settle().step(1).frames_F3hw.equal(seen.step(1).frames_F3hw)  # and it is never forgotten
    assert len(remembered) == 2


def test_a_browser_that_takes_nothing_stops_its_own_walk():
    """Backpressure: a step waits while the one before it is not taken, so nothing piles up."""

    async def walk():
        walker, taken = session.Session(toy_shared(fps=1000.0)), 0

        async def take_one_step(_):
            nonlocal taken
            taken += 1
            if taken > 2:
                await asyncio.Event().wait()

        walker.hear(Begin(type="start", start="toy/0", path="w-100"))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(walker.run(session.Send(AsyncMock(), take_one_step)), 1.0)
        return len(walker.moments[-1].composites_M)

    assert asyncio.run(walk()) <= 5


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


def test_own_pictures_begin_walks(port):
    status, body = ask(port, "/pictures", png(300, 200))
    added = json.loads(body)
    assert status == 200 and added["image"].startswith("data:image/png;base64,")
    shown, others = (json.loads(ask(port, f"/starts{own}")[1]) for own in (f"?own={added['id']}", ""))
    assert [s["id"] for s in shown] == [
        *(s["id"] for s in others),
        added["id"],
    ]  # in this page's gallery alone
    with Browser(port) as browser:
        assert browser.begin(start=added["id"], path="w-1")["start"] == added["id"]


def test_bad_pictures_are_answered_with_a_sentence(port, monkeypatch):
    declares_a_billion = png(20, 20)[:16] + (40_000).to_bytes(4) * 2 + png(20, 20)[24:]
    for body, sentence in [
        (b"GIF89a...", "not a picture that can be read: choose a PNG or JPEG"),
        (b"\x89PNG\r\n\x1a\n", "not a picture"),
        (png(20, 20)[:60], "damaged"),
        (png(8, 20), "8 x 20: expected sides of 16 to 6000"),
        (png(400, 20), "crop it to no more than 4 : 1"),
        (declares_a_billion, "40000 x 40000"),
    ]:
        status, text = detail(ask(port, "/pictures", body))
        assert status == 400 and sentence in text
    monkeypatch.setattr("worldcompass.player.server.MAX_UPLOAD_BYTES", 2**20)
    status, text = detail(ask(port, "/pictures", bytes(2**20 + 1)))
    assert (status, text) == (413, "the picture has more than 1 MiB: send a smaller one")


def test_jpegs_are_measured_before_they_are_decoded():
    jpeg = cv2.imencode(".jpg", np.zeros((30, 50, 3), np.uint8))[1].tobytes()
    assert picture_size(jpeg) == (50, 30) and picture_size(jpeg[:30]) is None
    assert start_from_picture(jpeg, (48, 64)).image_3hw.shape == (3, 48, 64)


def test_only_the_newest_pictures_are_kept():
    kept = toy_starts()
    for i in range(starts.MAX_PICTURES + 5):
        kept.add(Start(f"own/{i}", "", starts.OWN, torch.zeros(3, 4, 4)))
    ids = [s.id for s in kept.all()]
    assert len(ids) == 2 + starts.MAX_PICTURES and "own/4" not in ids and "toy/0" in ids


def test_the_engine_walks_beside_and_rewinds_by_playing_again():
    start = next(iter(doom_starts()))
    pane = EnginePane("Engine")
    place = pane.begin(start, 0)
    assert place.frames_F3hw[0].equal(start.image_3hw)
    assert pane.begin(Start("own/1", "", starts.OWN, start.image_3hw), 0) is None
    first = place.step(2)
    there = first.step(2).frames_F3hw
    first.step(1)
    assert first.step(2).frames_F3hw.equal(there)
    game = place.game
    pane.close()
    assert not game.close.alive


def test_frames_survive_the_way_to_the_browser():
    frame = torch.randint(0, 255, (3, 12, 16)).byte().repeat_interleave(4, 1).repeat_interleave(4, 2)
    back = cv2.cvtColor(cv2.imdecode(np.frombuffer(encode_frame(frame), np.uint8), 1), cv2.COLOR_BGR2RGB)
    error = np.abs(back.astype(int) - frame.movedim(0, -1).numpy().astype(int))
    assert error.mean() < 4


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--after", "absent"], "absent holds no trained weights"),
        (["--single", "--after", "x"], "leave out one of the two"),
        (["--fps", "0"], "--fps 0 is out of range"),
        (["--port", "70000"], "--port 70000 is out of range"),
        (["--single", "--vote"], "--vote compares two sets of weights"),
        (
            ["--single", "--host", "203.0.113.1"],
            "cannot listen on 203.0.113.1 port 8765: Cannot assign requested address; name an address",
        ),
    ],
)
def test_mistakes_on_the_command_line(words, sentence, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["play", *words]) == 2
    assert sentence in capsys.readouterr().err


def test_a_world_of_ones_own_is_played_from_the_shell(monkeypatch, tmp_path, capsys):
    from worldcompass.player import server

    own, picture, made = tmp_path / "own.py", tmp_path / "my room.png", []
    own.write_text(
        "from worldcompass.toy import ToyWorld\n\n"
        "def make(weights, device):\n    return ToyWorld(0 if weights is None else 1)\n"
    )
    picture.write_bytes(png(40, 30))
    serve = type("Server", (), {"run": lambda self, sockets: sockets[0].close()})
    monkeypatch.setattr(server, "create_app", lambda shared, *_: made.append(shared))
    monkeypatch.setattr(server, "web_server", lambda app: serve())
    words = ["play", "--world", f"{own}:make", "--port", "0", "--no-browser"]
    assert cli.main([*words, "--start", str(picture), "--after", str(tmp_path)]) == 0
    (shared,) = made
    start = shared.starts.first()
    assert (start.title, start.group) == ("my room", starts.GIVEN) and shared.fittings.critics == ()
    before, after = (pane.begin(start, 0).step(9).frames_F3hw for pane in shared.panes)
    assert before.shape == (2, 3, 4, 4) and not before.equal(after)
    for more, said in {
        (): "name a picture to start from with --start FILE",
        ("--start", str(own)): "own.py: this file is not a picture that can be read",
        ("--start", "absent.png"): "there is no file absent.png",
        ("--start", str(picture), "--engine"): "--engine works with doom and hands alone",
        ("--start", str(picture), "--after", "absent"): "there are no weights at absent",
    }.items():
        assert cli.main([*words, *more]) == 2
        assert said in capsys.readouterr().err


def test_a_missing_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert cli.main(["play", "--single"]) == 2
    assert (
        "the player needs uvicorn: install it with pip install 'worldcompass[web]'" in capsys.readouterr().err
    )


def test_a_busy_port_is_named_before_anything_is_loaded(port, capsys):
    assert cli.main(["play", "--single", "--port", str(port)]) == 2
    assert f"port {port}: Address already in use; choose another with --port" in capsys.readouterr().err


def test_the_newest_finished_run_is_the_default(tmp_path, monkeypatch, capsys):
    from worldcompass.commands import play

    monkeypatch.chdir(tmp_path)
    assert play._newest("doom") is None
    for name, world in {"old": "doom", "new": "doom", "other": "hands", "unfinished": "doom"}.items():
        (tmp_path / "runs" / name / "weights").mkdir(parents=True)
        (tmp_path / "runs" / name / "weights" / f"{world}_world.safetensors").touch()
    for at, name in enumerate(("old", "new", "other")):
        results = tmp_path / "runs" / name / "results.json"
        results.touch()
        os.utime(results, (at, at))
    assert play._newest("doom") == play.RUNS / "new" / "weights"
    assert "the newest finished run, runs/new" in capsys.readouterr().out
    assert play._newest("hands") == play.RUNS / "other" / "weights"
