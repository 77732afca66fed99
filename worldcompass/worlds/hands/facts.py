"""Facts of the Hands world that engine, model and critics share; importing them needs no engine.

Lengths are metres, times seconds. Axes of the world: x to the right, y away from the camera, z up; the table's
top is z = 0 and its middle is the origin.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FRAME_SIZE = (64, 64)  # height, width in pixels
FRAMES_PER_LATENT = 4
FPS = 20.0
TIMESTEP = 0.005  # of the physics
SUBSTEPS = round(1 / (FPS * TIMESTEP))  # of a frame

STEP = 0.050  # what one latent moves the gripper on each commanded axis, and each finger
SPEED = STEP * FPS / FRAMES_PER_LATENT  # metres a second on each axis at full command

AXES = ("x", "y", "z", "opening")
LIMIT_LOW = np.array([-0.17, -0.18, 0.008, 0.0])
LIMIT_HIGH = np.array([0.17, 0.18, 0.218, 0.24])
"""Range of the gripper: x, y and z of the point between the finger tips, and the fingers' distance."""
NOMINAL = np.array([STEP, STEP, STEP, 2 * STEP])
"""What one latent changes on each axis: both fingers move, so the opening changes by two steps."""
THRESHOLD = np.array([0.020, 0.020, 0.020, 0.030])
"""Smallest change over one latent that counts as a motion: it can be seen, two pixels or more."""

THINGS = ("cup", "ball", "block", "bottle")
TOUCHES = ("table", "left finger", "right finger", "palm", "other thing")
"""Columns of the touch flags: what a thing touches."""

TABLE_HALF = (0.33, 0.26)  # of the table's top, inside the rim
CUP_RADIUS, CUP_HEIGHT, CUP_WALL = 0.062, 0.125, 0.009  # outer radius at the middle
HANDLE_REACH = 0.050  # of the cup's handle, from the cup's side outwards
BALL_RADIUS = 0.042  # it fits into the cup
BLOCK_HALF = 0.048
BOTTLE_RADIUS, BOTTLE_HEIGHT = 0.037, 0.165
FINGER_HALF = (0.014, 0.034, 0.081)  # x, y, z
PALM_HALF = (0.150, 0.013, 0.013)  # a slim beam, so that it hides little of what is held
REST_HEIGHT = (0.0, BALL_RADIUS, BLOCK_HALF, 0.0)
"""Height of each standing thing's own origin."""
ABSENT_POSE = (0.0, 0.0, -1.0, 1.0, 0.0, 0.0, 0.0)
"""What the truth says of things that a scene does not have: position and quaternion."""

# Camera: a long lens, so that near and far things are alike in size.
CAMERA_POSITION = (0.0, -1.36, 1.50)
CAMERA_TARGET = (0.0, 0.040, 0.100)
CAMERA_FOVY_DEG = 21.5

# Signs of (x, y) of the nine planar motions, and of (z, opening) of the nine of height and grip.
PLANAR = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))
LIFTING = ((0, 0), (1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (1, 1), (-1, -1), (-1, 1))
NUM_ACTIONS = len(PLANAR) * len(LIFTING)

WORDS = (("left", "right"), ("pull", "reach"), ("down", "up"), ("close", "open"))
"""Words of each axis' negative and positive motion; ``reach`` goes away from the camera."""

CONTROLS = np.array([[*planar, *lifting] for planar in PLANAR for lifting in LIFTING], np.int8)
"""int8 (81, 4): signs of x, y, z and opening of each composite action ``9 * planar + lifting``."""


def action_of(signs_4: Sequence[float] | np.ndarray) -> int:
    """The composite action whose axes have these signs."""
    x, y, z, opening = (int(np.sign(value)) for value in signs_4)
    return PLANAR.index((x, y)) * len(LIFTING) + LIFTING.index((z, opening))


def label_of(change_4: np.ndarray) -> int:
    """The composite action that a change of the gripper over one latent looks like, by ``THRESHOLD``."""
    return action_of(np.where(np.abs(change_4) > THRESHOLD, np.sign(change_4), 0))


def labels_of(grip_F4: np.ndarray) -> np.ndarray:
    """What really happened, int64 (M,), from the gripper of F = 4 M - 3 frames; latent 0 is the start: 0."""
    ends = np.asarray(grip_F4, np.float64)[::FRAMES_PER_LATENT]
    return np.array([0, *(label_of(change) for change in np.diff(ends, axis=0))], np.int64)


def action_words(action: int) -> str:
    """Words of a composite action, such as ``right+down``; ``none`` where nothing moves."""
    words = [WORDS[axis][int(sign > 0)] for axis, sign in enumerate(CONTROLS[action]) if sign]
    return "+".join(words) or "none"


def kind_of_action(action: int) -> str:
    """``none``, ``basic`` (one axis) or ``combined`` (two or more at once)."""
    return ("none", "basic", "combined", "combined", "combined")[int(np.abs(CONTROLS[action]).sum())]
