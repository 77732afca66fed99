"""MuJoCo, driven so that a composite action moves the gripper by a known amount; the engine keeps the truth.

One latent is 4 frames, one frame is 10 steps of the physics. Set points travel at the commanded speed; the
actuators' own lag is made up for, so that a motion begins and ends with its latent. A blocked gripper's set
point waits a little ahead of it: pressing does not wind up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np

from worldcompass.errors import UserError
from worldcompass.worlds.hands.drawing import Drawing
from worldcompass.worlds.hands.facts import (
    ABSENT_POSE,
    CONTROLS,
    FPS,
    FRAMES_PER_LATENT,
    LIMIT_HIGH,
    LIMIT_LOW,
    NUM_ACTIONS,
    REST_HEIGHT,
    SPEED,
    SUBSTEPS,
    THINGS,
    TOUCHES,
)
from worldcompass.worlds.hands.gl import load_mujoco
from worldcompass.worlds.hands.scene import (
    FINGER_DAMPING,
    FINGER_GAIN,
    POSITION_DAMPING,
    POSITION_GAIN,
    build,
)
from worldcompass.worlds.hands.splits import Scene, yaw_quaternion

# How far a set point runs ahead of a joint that is blocked: metres of x, y, z and of each finger. What presses
# is this times the actuator's gain.
LEAD = np.array([0.004, 0.004, 0.004, 0.012])
# By how much the set point must precede a moving joint, so that the joint is where it shall be, seconds.
LAG = np.array([POSITION_DAMPING / POSITION_GAIN] * 3 + [FINGER_DAMPING / FINGER_GAIN])
LOW = LIMIT_LOW * [1, 1, 1, 0.5]  # per finger
HIGH = LIMIT_HIGH * [1, 1, 1, 0.5]
PARKED = (2.0, 2.0, 3.0)  # where things are that a scene does not have
SETTLE = 0.0005  # metres above the table at which things start


@dataclass(frozen=True)
class Steps:
    """What the engine showed and what was true, frame by frame; lengths in metres."""

    grip_F4: np.ndarray
    """float32: x, y, z of the point between the finger tips, and the opening."""
    things_FT7: np.ndarray
    """float32: position and quaternion (w, x, y, z) of cup, ball, block, bottle; (0, 0, -1) where absent.

    The origin of cup and bottle is the middle of their base, of ball and block their own middle.
    """
    touch_FT5: np.ndarray
    """bool: what each thing touches, the columns of ``facts.TOUCHES``."""
    held_FT: np.ndarray
    """bool: between both fingers and off the table."""
    frames_Fhw3: np.ndarray | None
    """uint8 sRGB, or None where nothing was drawn."""

    @staticmethod
    def join(parts: Sequence[Steps]) -> Steps:
        """Steps one after the other; without frames unless all have some."""
        frames = [part.frames_Fhw3 for part in parts if part.frames_Fhw3 is not None]
        return Steps(
            *(
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("grip_F4", "things_FT7", "touch_FT5", "held_FT")
            ),
            frames_Fhw3=np.concatenate(frames) if len(frames) == len(parts) else None,
        )


@dataclass(frozen=True)
class Moment:
    """Everything that what follows depends on; see ``Engine.save``."""

    scene: Scene
    state: np.ndarray
    target_4: np.ndarray


class Engine:
    """One table with a gripper. Use it in a ``with`` block; several may live in one process.

    Args:
        draw: without it the engine tells the truth only and needs no OpenGL.
        size: side of the frames in pixels.

    Raises:
        UserError: when mujoco is missing, or where nothing can be drawn.
    """

    def __init__(self, *, draw: bool = True, size: int = 64) -> None:
        self._mujoco = mujoco = load_mujoco()
        text, assets = build(size * Drawing.SUPERSAMPLING)
        self._model = model = mujoco.MjModel.from_xml_string(text, assets)
        self._data = mujoco.MjData(model)
        slides = ("x", "y", "z", "left", "right")
        self._slides = np.array([model.joint(name).qposadr[0] for name in slides])
        self._places = np.array([model.joint(name).qposadr[0] for name in THINGS])
        self._bodies = [model.body(name).id for name in THINGS]
        self._touch_class = self._classes()
        self._scene: Scene | None = None
        self._present = np.zeros(len(THINGS), bool)
        self._target = np.zeros(4)
        self._drawing = Drawing(mujoco, model, self._data, size) if draw else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the drawing context; calling it again does nothing."""
        if self._drawing is not None:
            self._drawing.close()
            self._drawing = None

    @property
    def scene(self) -> Scene:
        """The scene of the last reset."""
        if self._scene is None:
            raise UserError("the Hands engine has no scene yet: call reset first")
        return self._scene

    @property
    def present(self) -> np.ndarray:
        """bool (4,): which of cup, ball, block, bottle the scene has."""
        return self._present.copy()

    def reset(self, scene: Scene) -> Steps:
        """Start at a scene; its one frame."""
        mujoco, model, data = self._mujoco, self._model, self._data
        self._dress(scene)
        mujoco.mj_resetData(model, data)
        for index, kind in enumerate(THINGS):
            self._lay(index, scene, kind)
        x, y, z, opening = scene.gripper
        self._target = np.clip([x, y, z, opening / 2], LOW, HIGH)
        data.qpos[self._slides] = *self._target, self._target[3]
        data.act[:] = self._target
        data.ctrl[:] = 0
        mujoco.mj_step(model, data, SUBSTEPS)
        mujoco.mj_forward(model, data)
        return self._collect([self._observe()])

    def _dress(self, scene: Scene) -> None:
        """Colours of the scene, and which things are there."""
        self._scene = scene
        self._present = np.array([scene.placed(kind) is not None for kind in THINGS])
        for body, here in zip(self._bodies, self._present, strict=True):
            self._model.body_gravcomp[body] = 0 if here else 1
        if self._drawing is not None:
            self._drawing.dress(scene)

    def _lay(self, index: int, scene: Scene, kind: str) -> None:
        """Put a thing at its place, or out of the way."""
        start, thing = self._places[index], scene.placed(kind)
        pose = self._data.qpos[start : start + 7]
        if thing is None:
            pose[:] = PARKED[0] + index, *PARKED[1:], 1, 0, 0, 0
        else:
            pose[:] = thing.x, thing.y, REST_HEIGHT[index] + SETTLE, *yaw_quaternion(thing.yaw_deg)

    def act(self, action: int | Sequence[float] | np.ndarray, draw: bool = True) -> Steps:
        """Carry out one latent: a composite action 0..80, or four controls in [-1, 1]; its four frames.

        Controls are speeds: 1 moves by ``facts.NOMINAL`` over the latent. Without ``draw`` nothing is drawn,
        which is five times faster.

        Raises:
            UserError: for an action out of range or controls that are not four finite numbers.
        """
        controls = controls_of(action)
        if self._scene is None:
            raise UserError("the Hands engine has no scene yet: call reset first")
        seen = []
        for _ in range(FRAMES_PER_LATENT):
            self._frame(controls)
            seen.append(self._observe(draw))
        return self._collect(seen)

    def _frame(self, controls_4: np.ndarray) -> None:
        """Advance by one frame: set points that end exactly where the command says."""
        data = self._data
        slides = data.qpos[self._slides]
        here = np.array([*slides[:3], 0.5 * (slides[3] + slides[4])])
        begin = np.clip(self._target, here - LEAD, here + LEAD)
        if controls_4[3] > 0:  # fingers that press let go at once
            begin[3] = max(begin[3], here[3])
        self._target = np.clip(begin + controls_4 * SPEED / FPS, LOW, HIGH)
        speed = (self._target - begin) * FPS
        data.act[:] = begin + LAG * speed
        data.ctrl[:] = speed
        self._mujoco.mj_step(self._model, data, SUBSTEPS)

    def save(self) -> Moment:
        """This moment, to come back to with ``restore``: what follows is then the same bit by bit."""
        mujoco = self._mujoco
        kind = mujoco.mjtState.mjSTATE_INTEGRATION.value
        state = np.empty(mujoco.mj_stateSize(self._model, kind))
        mujoco.mj_getState(self._model, self._data, state, kind)
        return Moment(self.scene, state, self._target.copy())

    def restore(self, moment: Moment) -> Steps:
        """Return to a moment that this engine, or another of the same version, saved; its one frame."""
        mujoco = self._mujoco
        self._dress(moment.scene)
        kind = mujoco.mjtState.mjSTATE_INTEGRATION.value
        mujoco.mj_setState(self._model, self._data, moment.state, kind)
        mujoco.mj_forward(self._model, self._data)
        mujoco.mj_setState(self._model, self._data, moment.state, kind)  # forward changed the warm start
        self._target = moment.target_4.copy()
        return self._collect([self._observe()])

    def apart(self) -> tuple[np.ndarray, np.ndarray]:
        """This moment without the gripper, and the empty table; uint8 sRGB (64, 64, 3) each.

        Raises:
            UserError: when the engine does not draw.
        """
        if self._drawing is None:
            raise UserError("this Hands engine draws nothing: make it with draw=True")
        return self._drawing.without_gripper(), self._drawing.table()

    def _classes(self) -> np.ndarray:
        """Per geom: 0..3 the thing it belongs to, 4.. the column of touch plus 4, -1 anything else."""
        model = self._model
        found = np.full(model.ngeom, -1)
        for index, body in enumerate(self._bodies):
            found[model.geom_bodyid == body] = index
        for column, name in enumerate(("table", "left", "right", "palm")):
            found[model.geom(name).id] = len(THINGS) + column
        return found

    def _touches(self) -> np.ndarray:
        touch = np.zeros((len(THINGS), len(TOUCHES)), bool)
        pairs = self._touch_class[self._data.contact.geom]
        for low, high in {(int(min(pair)), int(max(pair))) for pair in pairs}:
            if 0 <= low < len(THINGS) <= high:
                touch[low, high - len(THINGS)] = True
            elif 0 <= low < high:
                touch[[low, high], -1] = True
        return touch

    def _observe(self, draw: bool = True) -> tuple[np.ndarray, ...]:
        position = self._data.qpos
        slides = position[self._slides]
        grip = np.array([*slides[:3], slides[3] + slides[4]], np.float32)
        things = np.stack([position[start : start + 7] for start in self._places]).astype(np.float32)
        things[~self._present] = ABSENT_POSE
        touch = self._touches()
        held = touch[:, 1] & touch[:, 2] & ~touch[:, 0]
        truth = (grip, things, touch, held)
        return (*truth, self._drawing.picture()) if draw and self._drawing is not None else truth

    def _collect(self, seen: list[tuple[np.ndarray, ...]]) -> Steps:
        columns = [np.stack(column) for column in zip(*seen, strict=True)]
        return Steps(*columns[:4], frames_Fhw3=columns[4] if len(columns) > 4 else None)


def controls_of(action: int | Sequence[float] | np.ndarray) -> np.ndarray:
    """Four controls in [-1, 1], float64: of a composite action, or the given ones, clipped.

    Raises:
        UserError: for an action out of range or controls that are not four finite numbers.
    """
    if isinstance(action, int | np.integer):
        if not 0 <= action < NUM_ACTIONS:
            raise UserError(f"Hands has the actions 0 to {NUM_ACTIONS - 1}, got {action}")
        return CONTROLS[action].astype(float)
    try:
        controls = np.asarray(action, float)
    except (TypeError, ValueError):
        controls = np.empty(0)
    if controls.shape != (4,) or not np.isfinite(controls).all():
        raise UserError(
            f"expected an action of 0 to {NUM_ACTIONS - 1}, or four finite controls (x, y, z, opening),"
            f" got {action!r}"
        )
    return np.clip(controls, -1, 1)
