"""What the pictures show: things in their colours where the truth says, handles, shadows, and no OpenGL at all."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from worldcompass.errors import UserError
from worldcompass.worlds.hands import gl, looks
from worldcompass.worlds.hands.engine import Engine
from worldcompass.worlds.hands.facts import BALL_RADIUS, BLOCK_HALF, CUP_RADIUS, FRAME_SIZE, HANDLE_REACH
from worldcompass.worlds.hands.splits import Placed, scene
from worldcompass.worlds.hands.view import project

ASIDE = (0.17, 0.18, 0.218, 0.0)  # where the gripper hides nothing that stands apart
EMPTY = replace(scene("train", 1), things=(), gripper=ASIDE, pattern="plain")
SURE_PLACE = {"cup": (-0.062, 0.05), "ball": (0.0, 0.0), "block": (0.0, BLOCK_HALF), "bottle": (0.0, 0.1)}
"""y and z of a point on each thing that is of its own colour and faces the camera."""


def colours_at(frame_hw3: np.ndarray, point_3: tuple[float, float, float]) -> np.ndarray:
    """The nine pixels about a point of the world."""
    column, row = np.round(project(np.array([point_3]))[0]).astype(int)
    return frame_hw3[row - 1 : row + 2, column - 1 : column + 2].reshape(-1, 3)


def hue(colour_3: np.ndarray) -> float:
    """Hue in degrees."""
    return 2.0 * float(cv2.cvtColor(colour_3.reshape(1, 1, 3).astype(np.uint8), cv2.COLOR_RGB2HSV)[0, 0, 0])


def shows(
    frame_hw3: np.ndarray, point_3: tuple[float, float, float], colour: str, degrees: float = 14
) -> bool:
    """Whether a point of the world is seen in a hue."""
    wanted = hue(255 * np.array(looks.rgb(looks.HUES[colour])))
    away = [abs((hue(pixel) - wanted + 180) % 360 - 180) for pixel in colours_at(frame_hw3, point_3)]
    return min(away) < degrees


@pytest.mark.parametrize("kind", ["cup", "ball", "block", "bottle"])
@pytest.mark.parametrize("colour", ["red", "blue", "green", "yellow", "purple"])
def test_things_are_seen_in_their_colour_where_the_truth_says(engine, kind, colour):
    for x, y in ((-0.15, -0.1), (0.0, 0.05), (-0.1, 0.15)):
        steps = engine.reset(replace(EMPTY, things=(Placed(kind, colour, x, y, 20.0),)))
        forward, up = SURE_PLACE[kind]
        height = BALL_RADIUS if kind == "ball" else up
        assert shows(steps.frames_Fhw3[0], (x, y + forward, height), colour)


def test_the_cups_handle_is_seen_at_the_start(engine):
    seen = 0
    for number in range(40):
        cup = scene("train", number).placed("cup")
        alone = replace(scene("train", number), things=(replace(cup, colour="red"),), gripper=ASIDE)
        frame = engine.reset(replace(alone, wall="bcd9ea", tint="efe6d2", rim="6b7a8f")).frames_Fhw3[0]
        angle, out = np.deg2rad(cup.yaw_deg), CUP_RADIUS + HANDLE_REACH - 0.010
        seen += shows(frame, (cup.x + out * np.cos(angle), cup.y + out * np.sin(angle), 0.06), "red")
    assert seen == 40


def test_things_that_a_scene_lacks_are_not_drawn(engine):
    with_ball = engine.reset(replace(EMPTY, things=(Placed("ball", "red", -0.1, 0.0, 0.0),))).frames_Fhw3[0]
    without = engine.reset(EMPTY).frames_Fhw3[0]
    assert shows(with_ball, (-0.1, 0.0, BALL_RADIUS), "red")
    assert not shows(without, (-0.1, 0.0, BALL_RADIUS), "red")


def test_the_shadow_tells_the_height(engine):
    """The lower the gripper, the darker the table right under its fingers."""
    bare = engine.reset(EMPTY).frames_Fhw3[0].astype(float)
    darkest = []
    for z in (0.008, 0.10, 0.20):
        low = replace(EMPTY, gripper=(0.0, 0.0, z, 0.0))
        frame = engine.reset(low).frames_Fhw3[0].astype(float)
        column, row = np.round(project(np.array([[0.2 * z, -0.1 * z - 0.03, 0.0]]))[0]).astype(int)
        window = np.s_[row - 1 : row + 4, column - 3 : column + 4]
        shade = (frame / np.maximum(bare, 1))[window].min(-1)
        darkest.append(shade[shade > 0.35].min())  # what is darker is the finger itself
    assert darkest[0] < darkest[1] < darkest[2] < 0.95


def test_frames_are_as_large_as_asked_and_idle_frames_stand_still(engine):
    steps = engine.reset(scene("train", 2))
    engine.act(0)
    idle = engine.act(0)
    assert steps.frames_Fhw3.shape == (1, *FRAME_SIZE, 3)
    assert steps.frames_Fhw3.dtype == np.uint8
    assert (idle.frames_Fhw3 == idle.frames_Fhw3[:1]).all()
    with Engine(size=96) as larger:
        assert larger.reset(scene("train", 2)).frames_Fhw3.shape == (1, 96, 96, 3)


def test_without_drawing_there_are_no_frames(blind):
    assert blind.reset(scene("train", 2)).frames_Fhw3 is None
    assert blind.act(3).frames_Fhw3 is None


class Fatal(Exception):
    """Stands for MuJoCo's own error."""


@pytest.mark.parametrize(
    "error",
    [
        AttributeError("'NoneType' object has no attribute 'eglQueryString'"),
        ImportError("Cannot initialize a EGL device display.\nThis likely means more."),
        RuntimeError("Failed to create OSMesa GL context."),
        Fatal("an OpenGL platform library has not been loaded into this process"),
    ],
)
def test_no_opengl_is_one_sentence_that_says_what_to_install(error, monkeypatch):
    def fails(*size: int) -> None:
        raise error

    monkeypatch.setattr(gl.sys, "platform", "linux")
    with pytest.raises(UserError, match=r"apt-get install libegl1") as told:
        gl.open_renderer(SimpleNamespace(GLContext=fails, FatalError=Fatal), None, 128)
    assert "\n" not in str(told.value)


def test_a_missing_package_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(UserError, match=r"pip install \"worldcompass\[hands\]\"") as told:
        gl.load_mujoco()
    assert "\n" not in str(told.value)


def test_without_a_display_the_engine_still_tells_the_truth():
    """In a process whose drawing library cannot work: one sentence for pictures, and the truth all the same."""
    code = """
import os
os.environ.pop("DISPLAY", None), os.environ.pop("WAYLAND_DISPLAY", None)
os.environ["MUJOCO_GL"] = "glfw"
from worldcompass.errors import UserError
from worldcompass.worlds.hands.engine import Engine
from worldcompass.worlds.hands.splits import scene
with Engine(draw=False) as blind:
    blind.reset(scene("train", 0))
    print(len(blind.act(3).grip_F4))
try:
    Engine()
except UserError as why:
    print(why)
"""
    path = [str(folder) for folder in sys.path if folder]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"import sys; sys.path[:0] = {path!r}\n{code}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    frames, sentence = done.stdout.strip().split("\n")
    assert frames == "4"
    assert sentence.startswith(
        "the Hands engine cannot draw here: no OpenGL library works with MUJOCO_GL=glfw"
    )


@pytest.mark.parametrize(
    ("here", "chosen"), [({"libEGL.so.1"}, "egl"), ({"libOSMesa.so.8"}, "osmesa"), (set(), None)]
)
def test_the_drawing_library_is_the_one_that_is_there(here, chosen, monkeypatch):
    monkeypatch.delenv(gl.VARIABLE, raising=False)
    monkeypatch.setattr(gl.sys, "platform", "linux")
    monkeypatch.setattr(gl, "_loads", lambda library: library in here)
    gl.load_mujoco()
    assert gl.os.environ.get(gl.VARIABLE) == chosen
    monkeypatch.delenv(gl.VARIABLE, raising=False)
