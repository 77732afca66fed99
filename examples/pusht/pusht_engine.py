"""PushT, the environment of gym-pusht, as a world model sees it: a picture after every two controls.

The board is 512 pixels wide, x to the right and y down. The environment takes a target for the agent ten times a
second. A control is relative to the agent: 1 puts the target a tenth of the board ahead, 0 lets it rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import gym_pusht  # noqa: F401 (registers the environment)
import gymnasium
import numpy as np

from pusht_recording import SIZE

BOARD = 512  # pixels of the environment's plane
REACH = 50.0  # board pixels from the agent to its target for a control of 1
AGENT_RADIUS = 15.0
GOAL = np.array([256.0, 256.0, math.pi / 4])  # where the T belongs: x, y, angle
BAR = ((-60.0, 0.0), (60.0, 30.0))  # two opposite corners of the T's bar, in its own axes
STEM = ((-15.0, 30.0), (15.0, 120.0))
CENTRE = np.array([0.0, 45.0])  # the T's centre of gravity there; it turns around this point


@dataclass(frozen=True)
class Moment:
    """What the environment shows and what is true at the end of a latent."""

    picture_hw3: np.ndarray
    """uint8 sRGB, (64, 64, 3)."""
    state_5: np.ndarray
    """float64: agent x, y; T x, y, angle. Board pixels and radians."""


def turned(angle: float) -> np.ndarray:
    """The matrix that turns a point of the T's own axes by an angle."""
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin], [sin, cos]])


def on_board(points_N2: np.ndarray, pose_3: np.ndarray) -> np.ndarray:
    """Points of the T's own axes on the board."""
    return points_N2 @ turned(pose_3[2]).T + pose_3[:2]


class Engine:
    """One environment. Pictures are drawn large and averaged down, so that half a pixel of motion shows."""

    def __init__(self) -> None:
        self._env = gymnasium.make(
            "gym_pusht/PushT-v0",
            obs_type="pixels",
            render_mode="rgb_array",
            observation_width=BOARD,
            observation_height=BOARD,
            disable_env_checker=True,
            max_episode_steps=10**9,
        )

    def begin(self, state_5: np.ndarray) -> Moment:
        """Stand still in a state."""
        pose = state_5[2:]
        # The environment sets the place before the angle, and turns around the centre of gravity after it.
        place = pose[:2] - CENTRE + turned(pose[2]) @ CENTRE
        seen, info = self._env.reset(options={"reset_to_state": [*state_5[:2], *place, pose[2]]})
        return _moment(seen, info)

    def go(self, controls_T2: np.ndarray) -> Moment:
        """Carry out the controls of one latent, each for a tenth of a second."""
        seen, info = None, {}
        board: Any = self._env.unwrapped
        for index, control_2 in enumerate(controls_T2):
            # Only the last picture is looked at, and drawing takes most of the time.
            board.obs_type = "pixels" if index == len(controls_T2) - 1 else "state"
            target = np.clip(np.asarray(board.agent.position) + REACH * control_2, 0, BOARD)
            seen, _, _, _, info = self._env.step(target)
        return _moment(seen, info)


def _moment(seen_hw3: Any, info: dict[str, Any]) -> Moment:
    picture = cv2.resize(seen_hw3, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    return Moment(picture, np.concatenate([info["pos_agent"], info["block_pose"]]))


def random_state(rng: np.random.Generator) -> np.ndarray:
    """A start as the environment draws it, but never with the agent inside the T."""
    while True:
        state = np.concatenate(
            [rng.uniform(50, 450, 2), rng.uniform(100, 400, 2), rng.uniform(-np.pi, np.pi, 1)]
        )
        inside = np.abs(on_board(np.zeros((1, 2)), state[2:])[0] - 256).max() > 220
        if gap(state[:2], state[2:]) > AGENT_RADIUS + 4 and not inside:
            return state


def gap(points_N2: np.ndarray, pose_3: np.ndarray) -> np.ndarray:
    """Board pixels from points to the T; 0 inside of it."""
    own = (np.atleast_2d(points_N2) - pose_3[:2]) @ turned(pose_3[2])
    boxes = [
        np.maximum(np.maximum(np.array(low) - own, own - np.array(high)), 0) for low, high in (BAR, STEM)
    ]
    return np.min([np.linalg.norm(outside, axis=1) for outside in boxes], axis=0)


def coverage(pose_3: np.ndarray) -> float:
    """Share of the goal that a T in this pose covers, the environment's own measure of success."""
    goal, block = (_mask(p) for p in (GOAL, pose_3))
    return float((goal & block).sum() / goal.sum())


def _mask(pose_3: np.ndarray) -> np.ndarray:
    """Which points of a fine grid over the board lie inside the T; bool (256, 256)."""
    side = np.arange(1, BOARD, 2, dtype=float)
    points = np.stack(np.meshgrid(side, side, indexing="xy"), -1).reshape(-1, 2)
    return (gap(points, pose_3) == 0).reshape(len(side), len(side))
