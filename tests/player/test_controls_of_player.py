"""The player of a world without a camera: its own keys, words and frame size."""

import json

import pytest
import torch

pytest.importorskip("fastapi", reason="the player needs worldcompass[web]")

from lamp_page import FOLDER, LampWorld
from player_server import Browser, ask, detail, png, running

from worldcompass import cli
from worldcompass.controls import Axis, Controls, button
from worldcompass.player.messages import mouse_words
from worldcompass.player.panes import WorldPane
from worldcompass.player.recording import Shelf
from worldcompass.player.session import Shared
from worldcompass.player.starts import Start, Starts
from worldcompass.worlds.doom.world import SPEC


@pytest.fixture(scope="module")
def port():
    start = Start("lamp/0", "dark", "Lamps", torch.full((3, 16, 16), 100, dtype=torch.uint8))
    with running(Shared((WorldPane("World", LampWorld()),), Starts((start,)), Shelf(), 200.0)) as port:
        yield port


def test_the_page_gets_the_keys_of_the_worlds_controls(port):
    with Browser(port) as browser:
        codes = {key["word"]: key["code"] for key in browser.welcome["keys"]}
        assert codes == {
            "dimmer": "KeyS", "brighter": "KeyW", "colder": "KeyA", "warmer": "KeyD",
            "down": "ArrowDown", "up": "ArrowUp", "left": "ArrowLeft", "right": "ArrowRight",
        }  # fmt: skip
        assert browser.welcome["size"] == [16, 16] and browser.welcome["example"] == "dimmer-3, dimmer+up-4"


def test_the_mouse_looks_where_a_world_turns_a_view_and_nowhere_else(port):
    """An axis of a mouse grows downwards, a pitch upwards."""
    ways = {way: way for way in ("left", "right", "up", "down")}
    ends = {"low": -30.0, "high": 30.0}
    mouse = Controls(
        (
            button("jump"),
            Axis("mouse_x", **ends, words=("left", "right")),
            Axis("mouse_y", **ends, words=("up", "down")),
        )
    )
    head = Controls((Axis("yaw", words=("left", "right")), Axis("pitch", words=("down", "up"))))
    for space in (SPEC.actions, mouse, head):
        assert mouse_words(space) == ways
    with Browser(port) as browser:
        assert browser.welcome["look"] == {}, "arrows alone do not make a view"


def test_held_controls_light_the_lamp_and_a_path_replays_them(port):
    def walk(path):
        with Browser(port) as browser:
            browser.say(type="start", start="lamp/0", seed=0, path=path)
            latents = browser.until("state", latents=7)
            browser.see(7, 4)
            return latents, browser.last_of(7)

    with Browser(port) as browser:
        browser.say(type="start", start="lamp/0", seed=0, path="")
        browser.until("state", latents=0)
        browser.hold("brighter", "left", "right")
        state = browser.until("state", latents=7)
        assert state["action"] == ["brighter"] and state["path"] == "brighter-7"  # opposite keys cancel
        browser.see(7, 4)
        held = browser.last_of(7)
    assert walk("brighter-7")[1] == held != walk("dimmer-7")[1]


def test_words_of_another_world_are_refused_with_those_of_this_one(port):
    words = "dimmer brighter colder warmer down up left right none"
    with Browser(port) as browser:
        browser.say(type="keys", held=["w"])
        assert f"unknown key 'w': expected keys from {words}" in browser.until("error")["text"]
    body = json.dumps({"path": "w-3"}).encode()
    code, said = detail(ask(port, "/imagine", body, **{"Content-Type": "application/json"}))
    assert code == 400 and f"such as dimmer-3 or dimmer+up-4, with keys from {words}" in said


def test_from_the_shell_a_path_of_another_world_is_one_sentence_and_code_2(tmp_path, capsys):
    (tmp_path / "grey.png").write_bytes(png(32, 32))
    asked = ["imagine", "--world", f"{FOLDER / 'lamp.py'}:make", "--image", str(tmp_path / "grey.png")]
    assert cli.main([*asked, "--path", "w-3", "--out", str(tmp_path / "clip.mp4")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: cannot read 'w-3' in the path 'w-3'") and said.count("\n") == 1
    assert "with keys from dimmer brighter" in said and not (tmp_path / "clip.mp4").exists()
