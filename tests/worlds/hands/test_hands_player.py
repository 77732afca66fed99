"""The Hands world in the player: its engine as a pane, goals that panes reach, and pictures that are no scene."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("fastapi", reason="the player needs worldcompass[web]")

from player_server import Browser, ask, detail, running

from worldcompass import cli
from worldcompass.errors import UserError
from worldcompass.player.panes import WorldPane
from worldcompass.player.recording import Shelf
from worldcompass.player.session import Shared
from worldcompass.player.starts import Starts
from worldcompass.worlds.hands.facts import action_words
from worldcompass.worlds.hands.player import EnginePane, HandsReferee, hands_fittings, hands_starts
from worldcompass.worlds.hands.recognise import check_scene, is_scene
from worldcompass.worlds.hands.scripts import Look, Pick, play
from worldcompass.worlds.hands.splits import scene
from worldcompass.worlds.hands.starts import draw_start, scene_starts
from worldcompass.worlds.hands.world import load_hands_world

GOAL = "pick up the navy cup"


@pytest.fixture(scope="module")
def grasp(blind) -> str:
    """A path that picks up the cup of the first start."""
    first = scene_starts()[0].scene
    actions, _ = play(blind, Look.at_end(blind.reset(first)), Pick("cup"), 24)
    return ", ".join(f"{action_words(action)}-1" for action in actions)


@pytest.fixture(scope="module")
def port(engine):
    panes = (WorldPane("World", load_hands_world(), 1), EnginePane.start())
    shared = Shared(panes, Starts(tuple(hands_starts())), Shelf(), 500.0, hands_fittings())
    with running(shared) as port:
        yield port


def test_the_engines_pane_says_when_a_goal_was_reached_and_a_rewind_takes_it_back(port, grasp):
    with Browser(port) as browser:
        assert "W moves the gripper away" in browser.welcome["guide"] and not browser.welcome["reads"]
        browser.say(type="start", start="hands/heldout/0", seed=0, path=grasp)
        state = browser.until("state", replaying=False)
        while state["latents"] == 0:
            state = browser.until("state", replaying=False)
        assert GOAL in state["goals"] and len(state["panes"]) == 2
        after = state["panes"][1]["reached"]
        assert list(after) == [GOAL] and 5 < after[GOAL] <= state["latents"]
        browser.say(type="rewind", latents=4)
        back = browser.until("state", latents=state["latents"] - 4)
        assert back["panes"][1]["reached"] == {}


def test_walks_of_two_browsers_share_the_table_without_mixing(port, grasp):
    def walk(browser: Browser, start: str, path: str) -> list[bytes]:
        browser.say(type="start", start=start, seed=0, path=path)
        browser.see(len(path.split(",")), 4)
        return browser.last_of(len(path.split(",")))

    paths = ("right-1, down-1, down-1, left-1", "up-1, left-1, reach-1, down-1")
    with Browser(port) as one, Browser(port) as other:
        for browser, start, path in (
            (one, "hands/heldout/0", paths[0]),
            (other, "hands/heldout/3", paths[1]),
        ):
            browser.say(type="start", start=start, seed=0, path=path)  # both at once
        mixed = []
        for browser in (one, other):
            browser.see(4, 4)
            mixed.append(browser.last_of(4))
    with Browser(port) as alone:
        assert walk(alone, "hands/heldout/0", paths[0])[1] == mixed[0][1]
    with Browser(port) as alone:
        assert walk(alone, "hands/heldout/3", paths[1])[1] == mixed[1][1]


def test_a_picture_that_is_no_scene_is_refused_everywhere(port, tmp_path, capsys):
    grey = tmp_path / "grey.png"
    cv2.imwrite(str(grey), np.full((64, 64, 3), 90, np.uint8))
    said = "this picture is no scene of the Hands world"
    assert detail(ask(port, "/pictures", grey.read_bytes()))[1].startswith(said)
    for words in (
        ["imagine", "--world", "hands", "--path", "up-1", "--image", str(grey)],
        ["play", "--world", "hands", "--single", "--no-browser", "--port", "0", "--start", str(grey)],
    ):
        assert cli.main(words) == 2
        err = capsys.readouterr().err
        assert f"{grey}: {said}" in err and err.count("\n") == 1
    own = tmp_path / "own.png"
    frame = scene_starts()[3].image_3hw.movedim(0, -1).numpy()
    cv2.imwrite(str(own), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    assert ask(port, "/pictures", own.read_bytes())[0] == 200


def test_scenes_of_every_split_are_recognised_and_other_pictures_are_not(engine):
    for split in ("train", "unseen_looks", "unseen_sets"):
        assert all(is_scene(draw_start(engine, scene(split, number))) for number in range(8))
    random = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.interpolate(
        torch.rand(40, 3, 4, 4, generator=random), (64, 64), mode="bilinear"
    )
    flat = torch.rand(200, 3, 1, 1, generator=random).expand(-1, -1, 64, 64)
    noise = torch.rand(20, 3, 64, 64, generator=random)
    assert not any(is_scene((255 * one).byte()) for kind in (smooth, flat, noise) for one in kind)
    with pytest.raises(UserError, match="no scene of the Hands world: expected its table with a rim"):
        check_scene(torch.zeros(3, 64, 64, dtype=torch.uint8))


def test_a_users_own_picture_has_no_goals_and_no_engine(port):
    start = next(hands_starts())
    picture = type(start)("own/1", "mine", "Your pictures", start.image_3hw)
    assert HandsReferee().goals(picture) == ()
    assert HandsReferee().goals(start)[0] == GOAL


def test_without_opengl_the_engines_pane_is_one_sentence(monkeypatch, capsys, tmp_path):
    mujoco = pytest.importorskip("mujoco")

    def no_context(width, height):
        raise ImportError("Cannot initialize a EGL device display.")

    monkeypatch.setattr(mujoco, "GLContext", no_context)
    for words in (
        ["play", "--world", "hands", "--engine", "--single", "--no-browser", "--port", "0"],
        ["hands", "policies", "--scenes", "1", "--out", str(tmp_path / "new")],
    ):
        assert cli.main(words) == 2
        said = capsys.readouterr().err
        assert "the Hands engine cannot draw here: no OpenGL library works" in said and said.count("\n") == 1
        assert not (tmp_path / "new").exists()
