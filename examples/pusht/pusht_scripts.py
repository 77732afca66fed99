"""Scripts that push the T, from good to useless. What they know is a state: agent and T on the board.

The T glides without friction under a contact that only presses: pushed at a point by a distance ``d`` along the
edge's normal ``n``, it moves by ``d n / (1 + (r x n)^2 / I)`` and turns by ``d (r x n) / (I + (r x n)^2)``. A
script looks for the contact after which the T lies nearer to where it should be, walks around the T, and pushes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from pusht_engine import (
    AGENT_RADIUS,
    BOARD,
    CENTRE,
    GOAL,
    REACH,
    gap,
    on_board,
    turned,
)
from pusht_recording import PER_LATENT

Script = Callable[[np.ndarray], np.ndarray]
"""The state (5,) at the end of a latent -> the controls (2, 2) of the next one."""

INERTIA = 3000.0  # board pixels squared, of the T for a mass of 1; read off the environment
PUSHES = (8.0, 20.0, 40.0, 80.0)  # board pixels of a push that is thought through
TURN_LENGTH = 60.0  # board pixels that an error of one radian counts as
STAND_OFF = 12.0  # board pixels between agent and T before a push
CLEAR = 3.0  # board pixels that the agent keeps from the T when it walks around it
WALK_RADIUS = 110.0  # of the circle around the T that it walks on
PUSH_SPEED = 0.6  # of a push, as a share of the speed of walking
PATIENCE, MOST_GIVEN_UP = (
    4,
    12,
)  # latents without motion before a contact is given up, and how many it remembers
TRAVEL_COST = 0.08  # of a board pixel of walking, in board pixels of error
EDGE = 30.0  # board pixels from the walls that the agent does not leave


def _contacts() -> tuple[np.ndarray, np.ndarray]:
    """Points on the T's outline and the outward normals there, in its own axes."""
    outline = [(-60, 0), (60, 0), (60, 30), (15, 30), (15, 120), (-15, 120), (-15, 30), (-60, 30)]
    points, normals = [], []
    for start, end in zip(outline, outline[1:] + outline[:1], strict=True):
        a, b = np.array(start, float), np.array(end, float)
        along = (b - a) / np.linalg.norm(b - a)
        for place in np.arange(7.5, np.linalg.norm(b - a), 7.5):
            points.append(a + along * place)
            normals.append(np.array([along[1], -along[0]]))
    found, outward = np.array(points), np.array(normals)
    # In the two inner corners the agent does not fit.
    room = gap(found + outward * (AGENT_RADIUS + 1), np.zeros(3)) > AGENT_RADIUS
    return found[room], outward[room]


POINTS, NORMALS = _contacts()


def pushed(pose_3: np.ndarray, distance: float) -> np.ndarray:
    """The pose after a push at each of N contacts, (N, 3)."""
    arm = POINTS - CENTRE
    lever = arm[:, 0] * -NORMALS[:, 1] - arm[:, 1] * -NORMALS[:, 0]
    share = 1 / (1 + lever**2 / INERTIA)
    moved = -NORMALS @ turned(pose_3[2]).T * (distance * share)[:, None]
    angle = pose_3[2] + distance * share * lever / INERTIA
    turned_only = np.concatenate([np.zeros_like(moved), angle[:, None]], 1)
    place = _centres(pose_3[None]) + moved - _centres(turned_only)
    return np.concatenate([place, angle[:, None]], 1)


def error(poses_N3: np.ndarray, goal_3: np.ndarray, turns: float = 1.0) -> np.ndarray:
    """How far poses are from a goal, board pixels; ``turns`` says how much the angle counts."""
    away = np.linalg.norm(_centres(poses_N3) - _centres(goal_3[None]), axis=1)
    wrapped = (poses_N3[:, 2] - goal_3[2] + math.pi) % (2 * math.pi) - math.pi
    return np.hypot(away, turns * TURN_LENGTH * wrapped)


def _centres(poses_N3: np.ndarray) -> np.ndarray:
    """Centres of gravity on the board, (N, 2)."""
    cos, sin = np.cos(poses_N3[:, 2]), np.sin(poses_N3[:, 2])
    x, y = CENTRE
    return poses_N3[:, :2] + np.stack([cos * x - sin * y, sin * x + cos * y], -1)


@dataclass
class Pusher:
    """Pushes the T towards a goal."""

    goal_3: np.ndarray
    speed: float = 0.6
    """Largest control."""
    turns: float = 1.0
    """How much it cares about the angle; 0 brings the T to the place alone."""
    away: bool = False
    """Whether it pushes the T away from the goal instead."""
    contact: int | None = None
    """Where it pushes just now, a row of ``POINTS``."""
    given_up: list[int] = field(default_factory=list)
    """Contacts that it could not get to."""
    before_5: np.ndarray | None = None
    waited: int = 0

    def __call__(self, state_5: np.ndarray) -> np.ndarray:
        """See ``Script``."""
        agent, pose = state_5[:2], state_5[2:]
        self._notice(state_5)
        if self.contact is None or self._gains(pose, PUSHES[:1])[self.contact] <= 0:
            self.contact = self._choose(agent, pose)
        point = on_board(POINTS[self.contact][None], pose)[0]
        normal = turned(pose[2]) @ NORMALS[self.contact]
        aside = agent - point
        ahead, off = aside @ normal, abs(aside[0] * normal[1] - aside[1] * normal[0])
        if 0 < ahead < AGENT_RADIUS + STAND_OFF + 8 and off < 7:
            return held((point - normal * 30 - agent) / REACH, self.speed * PUSH_SPEED)
        target = point + normal * (AGENT_RADIUS + STAND_OFF)
        return held((self._way(agent, target, pose) - agent) / REACH, self.speed)

    def _notice(self, state_5: np.ndarray) -> None:
        """Give up a contact when nothing has moved for a while."""
        stuck = self.before_5 is not None and np.abs(state_5 - self.before_5)[:4].max() < 1.5
        self.waited = self.waited + 1 if stuck else 0
        self.before_5 = state_5
        if self.waited >= PATIENCE and self.contact is not None:
            self.given_up = [*self.given_up, self.contact][-MOST_GIVEN_UP:]
            self.contact, self.waited = None, 0

    def _gains(self, pose_3: np.ndarray, pushes: tuple[float, ...]) -> np.ndarray:
        """Board pixels of error that the best of some pushes takes away at each contact."""
        now = error(pose_3[None], self.goal_3, self.turns)[0]
        gains = [now - error(pushed(pose_3, distance), self.goal_3, self.turns) for distance in pushes]
        return np.max([-gain for gain in gains] if self.away else gains, 0)

    def _choose(self, agent_2: np.ndarray, pose_3: np.ndarray) -> int:
        stands = on_board(POINTS + NORMALS * (AGENT_RADIUS + STAND_OFF), pose_3)
        outside = np.maximum(EDGE - stands, stands - (BOARD - EDGE)).max(1) > 0
        cost = TRAVEL_COST * np.linalg.norm(stands - agent_2, axis=1) + 1e3 * outside
        cost[self.given_up] += 1e2
        return int(np.argmax(self._gains(pose_3, PUSHES) - cost))

    def _way(self, agent_2: np.ndarray, target_2: np.ndarray, pose_3: np.ndarray) -> np.ndarray:
        """The next point on a way to the target, around the T where it stands between."""
        if _clear(agent_2, target_2, pose_3):
            return target_2
        centre = on_board(CENTRE[None], pose_3)[0]
        here, there = (math.atan2(*(place - centre)[::-1]) for place in (agent_2, target_2))
        turn = (there - here + math.pi) % (2 * math.pi) - math.pi
        for sign in (1, -1) if turn > 0 else (-1, 1):
            for step in (0.8, 0.5, 0.25):
                ring = centre + WALK_RADIUS * np.array(
                    [math.cos(here + sign * step), math.sin(here + sign * step)]
                )
                ring = np.clip(ring, EDGE / 2, BOARD - EDGE / 2)
                if _clear(agent_2, ring, pose_3):
                    return ring
        return agent_2 + (agent_2 - centre)


def _clear(start_2: np.ndarray, end_2: np.ndarray, pose_3: np.ndarray) -> bool:
    """Whether the agent gets from one point to another without touching the T."""
    along = np.linspace(0, 1, 12)[:, None]
    gaps = gap(start_2 + along * (end_2 - start_2), pose_3)
    return bool((gaps[1:] > min(AGENT_RADIUS + CLEAR, gaps[0] + 1)).all())


@dataclass
class Wander:
    """Walks about at random, now and then towards the T."""

    rng: np.random.Generator
    speed: float = 0.6
    left: int = 0
    control_2: np.ndarray | None = None

    def __call__(self, state_5: np.ndarray) -> np.ndarray:
        """See ``Script``."""
        if self.left <= 0 or self.control_2 is None:
            self.left = int(self.rng.integers(1, 7))
            goal = self.rng.uniform(40, BOARD - 40, 2)
            if self.rng.random() < 0.5:
                goal = on_board(CENTRE[None], state_5[2:])[0] + self.rng.normal(0, 30, 2)
            way = goal - state_5[:2]
            self.control_2 = (
                way / max(1.0, float(np.linalg.norm(way))) * self.speed * self.rng.uniform(0.3, 1.2)
            )
        self.left -= 1
        return held(self.control_2, 1.0)


@dataclass
class Shaky:
    """Another script, some of whose latents are replaced by any control."""

    script: Script
    rng: np.random.Generator
    share: float

    def __call__(self, state_5: np.ndarray) -> np.ndarray:
        """See ``Script``."""
        wanted = self.script(state_5)
        anything = self.rng.uniform(-0.7, 0.7, (PER_LATENT, 2))
        return anything if self.rng.random() < self.share else wanted


def still(state_5: np.ndarray) -> np.ndarray:
    """Rest."""
    return np.zeros((PER_LATENT, 2))


def held(control_2: np.ndarray, most: float) -> np.ndarray:
    """One control for a whole latent, no longer than ``most``."""
    length = float(np.linalg.norm(control_2))
    return np.tile(control_2 * min(1.0, most / max(length, 1e-9)), (PER_LATENT, 1))


def random_goal(rng: np.random.Generator) -> np.ndarray:
    """A pose somewhere on the board."""
    return np.array([*rng.uniform(130, BOARD - 130, 2), rng.uniform(-math.pi, math.pi)])


def to_goal() -> np.ndarray:
    """The goal that the environment draws."""
    return GOAL.copy()
