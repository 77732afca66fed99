"""Pictures of the Hands engine: colours of a scene, MuJoCo's renderer at twice the size, painted shadows."""

from __future__ import annotations

import weakref
from typing import Any

import cv2
import numpy as np

from worldcompass.worlds.hands import looks
from worldcompass.worlds.hands.facts import THINGS
from worldcompass.worlds.hands.gl import open_renderer
from worldcompass.worlds.hands.splits import Scene
from worldcompass.worlds.hands.view import Shadows, table_mask

HIDDEN_GROUP = 5  # of geoms of things that a scene does not have
THINGS_GROUP = 1  # of everything that moves
MAX_SHAPES = 200
GRIPPER = ("gripper", "left", "right")  # bodies


class Drawing:
    """Draws one model's data off screen.

    Raises:
        UserError: where no OpenGL library works.
    """

    SUPERSAMPLING = 2

    def __init__(self, mujoco: Any, model: Any, data: Any, size: int) -> None:
        self._mujoco, self._model, self._data = mujoco, model, data
        self._size, side = size, size * self.SUPERSAMPLING
        self._materials = {model.material(i).name: i for i in range(model.nmat)}
        self._groups = model.geom_group.copy()
        self._geoms = [np.flatnonzero(model.geom_bodyid == model.body(kind).id) for kind in THINGS]
        gripper = [model.body(name).id for name in GRIPPER]
        self._gripper = np.flatnonzero(np.isin(model.geom_bodyid, gripper))
        self._absent: frozenset[str] = frozenset()
        self._context, self._renderer = open_renderer(mujoco, model, side)
        self._free = weakref.finalize(self, _free, self._context, self._renderer)
        self._shapes, self._options, self._camera = _stage(mujoco, model)
        self._window = mujoco.MjrRect(0, 0, side, side)
        self._pixels = np.empty((side, side, 3), np.uint8)
        self._depth = np.empty((side, side), np.float32)
        self._bare_depth = self._depth_of_the_bare_table(side)
        bodies = {model.body(i).name: i for i in range(model.nbody)}
        self._shadows = Shadows(side, 2 * self.SUPERSAMPLING + 1, bodies)

    def close(self) -> None:
        """Free the renderer and its context; otherwise that happens when nobody refers to the drawing any more."""
        self._free()

    def dress(self, scene: Scene) -> None:
        """Colours and table of a scene; things that it does not have are not drawn."""
        for geoms, kind in zip(self._geoms, THINGS, strict=True):
            here = scene.placed(kind) is not None
            self._model.geom_group[geoms] = self._groups[geoms] if here else HIDDEN_GROUP
        self._absent = frozenset(kind for kind in THINGS if scene.placed(kind) is None)
        table = f"table {scene.pattern}"
        self._model.geom_matid[self._model.geom("table").id] = self._materials[table]
        for name, colour in {**_surroundings(scene, table), **_things(scene)}.items():
            self._model.mat_rgba[self._materials[name], :3] = np.clip(colour, 0, 1)

    def picture(self) -> np.ndarray:
        """What the fixed camera sees now, uint8 sRGB (size, size, 3)."""
        return self._picture(self._absent)

    def without_gripper(self) -> np.ndarray:
        """The same as if the gripper were not there."""
        groups = self._model.geom_group
        kept = groups[self._gripper].copy()
        groups[self._gripper] = HIDDEN_GROUP
        picture = self._picture(self._absent | set(GRIPPER))
        groups[self._gripper] = kept
        return picture

    def table(self) -> np.ndarray:
        """The same as if neither gripper nor things were there."""
        self._options.geomgroup[THINGS_GROUP] = 0
        picture = self._picture(frozenset((*THINGS, *GRIPPER)))
        self._options.geomgroup[THINGS_GROUP] = 1
        return picture

    def _picture(self, absent: frozenset[str]) -> np.ndarray:
        """The picture with the shadows of all that is not absent."""
        self._context.make_current()
        self._mujoco.mj_kinematics(self._model, self._data)  # a step leaves bodies where they were before it
        self._draw()
        bare = self._depth == self._bare_depth
        data = self._data
        dark = self._shadows.darken(self._pixels, bare, data.xpos, data.xmat.reshape(-1, 3, 3), absent)
        small = cv2.resize(dark, (self._size, self._size), interpolation=cv2.INTER_AREA)
        return np.ascontiguousarray(small[::-1])

    def _draw(self) -> None:
        mujoco = self._mujoco
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(
            self._model, self._data, self._options, None, self._camera, everything, self._shapes
        )
        mujoco.mjr_render(self._window, self._shapes, self._renderer)
        mujoco.mjr_readPixels(self._pixels, self._depth, self._window, self._renderer)

    def _depth_of_the_bare_table(self, side: int) -> np.ndarray:
        """Depth of each pixel of the table's top, -1 elsewhere: a pixel with this very depth shows bare table."""
        self._mujoco.mj_forward(self._model, self._data)
        self._options.geomgroup[THINGS_GROUP] = 0
        self._draw()
        self._options.geomgroup[THINGS_GROUP] = 1
        return np.where(table_mask(side), self._depth, np.float32(-1))


def _free(context: Any, renderer: Any) -> None:
    """Free a renderer in its own context: freed in another one it would delete what that one draws with."""
    context.make_current()
    renderer.free()
    context.free()


def _stage(mujoco: Any, model: Any) -> tuple[Any, Any, Any]:
    """What is drawn, how, and from where; nothing of MuJoCo's own shadows, sky or helpers."""
    shapes = mujoco.MjvScene(model, maxgeom=MAX_SHAPES)
    for flag in ("SHADOW", "REFLECTION", "SKYBOX", "FOG", "HAZE", "ADDITIVE"):
        shapes.flags[getattr(mujoco.mjtRndFlag, f"mjRND_{flag}")] = 0
    options = mujoco.MjvOption()
    options.geomgroup[:] = [1, 1, 0, 0, 0, 0]
    options.flags[:] = 0
    for flag in ("STATIC", "TEXTURE"):
        options.flags[getattr(mujoco.mjtVisFlag, f"mjVIS_{flag}")] = 1
    camera = mujoco.MjvCamera()
    camera.fixedcamid, camera.type = 0, mujoco.mjtCamera.mjCAMERA_FIXED
    return shapes, options, camera


def _surroundings(scene: Scene, table: str) -> dict[str, np.ndarray]:
    rim = np.array(looks.rgb(scene.rim))
    return {
        "wall": 0.95 * np.array(looks.rgb(scene.wall)),
        table: np.array(looks.rgb(scene.tint)),
        "rim": rim,
        "skirt": 0.7 * rim,
    }


def _things(scene: Scene) -> dict[str, np.ndarray]:
    """Colours of every part of every thing; light parts keep a little of the thing's own colour."""
    white, hues = np.array(looks.WHITE), looks.HUES | looks.UNSEEN_HUES
    own = {thing.kind: np.array(looks.rgb(hues[thing.colour])) for thing in scene.things}
    parts = {
        "cup": {
            "cup": 0.0,
            "cup inside": 0.72,
            "cup floor": 0.45,
            "cup band": 1.0 if scene.white_band else 0.0,
        },
        "ball": {"ball": 0.0, "ball band": 1.0},
        "block": {"block": 0.0, "block patch": 0.55},
        "bottle": {"bottle": 0.0, "bottle label": 1.0, "bottle cap": 0.75},
    }
    return {
        part: share * white + (1 - share) * colour
        for kind, colour in own.items()
        for part, share in parts[kind].items()
    }
