"""The MuJoCo model of the Hands world, built from code: table, gripper and the four things.

One model serves every scene: a reset changes places and colours only. What collides is made of simple shapes
that are not drawn (group 3); what is drawn does not collide. Friction, solver and actuators are set so that a
scripted grasp holds: docstrings of the parts say what depends on what.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise

import cv2

from worldcompass.worlds.hands import looks
from worldcompass.worlds.hands.facts import (
    BALL_RADIUS,
    BLOCK_HALF,
    BOTTLE_HEIGHT,
    BOTTLE_RADIUS,
    CAMERA_FOVY_DEG,
    CUP_HEIGHT,
    CUP_RADIUS,
    CUP_WALL,
    FINGER_HALF,
    HANDLE_REACH,
    LIMIT_HIGH,
    LIMIT_LOW,
    PALM_HALF,
    TABLE_HALF,
    TIMESTEP,
)
from worldcompass.worlds.hands.meshes import arc, lathe, mesh_text
from worldcompass.worlds.hands.view import SUN, camera_axes, camera_position

PATTERNS = (*looks.PATTERNS, *looks.UNSEEN_PATTERNS)
HALF_OPENING = float(LIMIT_HIGH[3]) / 2
WALL_LEAN_DEG = 20.0  # unseen walls lean outwards, so that what the gripper carries clears them
RIM_HALF_WIDTH, RIM_HEIGHT = 0.016, 0.012
POSITION_GAIN, POSITION_DAMPING, POSITION_FORCE = 9000.0, 260.0, 50.0  # N/m, N s/m, N
FINGER_GAIN, FINGER_DAMPING, FINGER_FORCE = 2500.0, 60.0, 30.0
CUP_SIDES = 12  # boxes that make the cup's wall
FOOT = 0.004  # the cup's wall ends above the table, so that it stands on its base: far fewer contacts


def build(offscreen: int) -> tuple[str, dict[str, bytes]]:
    """The model's MJCF text and its assets; ``offscreen`` is the side of the picture that can be drawn."""
    text = f"""
<mujoco model="hands">
  <compiler angle="degree" inertiafromgeom="true"/>
  <option timestep="{TIMESTEP}" integrator="implicitfast" cone="elliptic" impratio="10" solver="Newton"
          iterations="50" ls_iterations="50" tolerance="1e-8"/>
  <visual>
    <global offwidth="{offscreen}" offheight="{offscreen}"/>
    <quality offsamples="0" numslices="20" numstacks="12" numquads="1"/>
    <map znear=".3" zfar="8"/>
    <headlight ambient=".42 .42 .42" diffuse=".22 .22 .22" specular="0 0 0"/>
  </visual>
  <statistic center="0 0 .08" extent=".55" meansize=".08"/>
  <default>
    <geom solref=".012 1" solimp=".95 .99 .001"/>
    <default class="solid">
      <geom group="3" contype="1" conaffinity="15" condim="4" friction=".6 .01 .0005"/>
    </default>
    <default class="drawn"><geom group="1" contype="0" conaffinity="0" mass="0"/></default>
    <default class="gripper">
      <geom group="1" contype="2" conaffinity="1" condim="4" friction="1.6 .03 .0005" priority="1"/>
    </default>
  </default>
  <asset>{_materials()}{_meshes()}</asset>
  <worldbody>
    <light directional="true" pos="0 0 2" dir="{SUN[0]} {SUN[1]} -1" diffuse=".56 .55 .52"
           specular=".3 .3 .3" ambient="0 0 0" castshadow="false"/>
    <camera name="fixed" pos="{_numbers(camera_position())}" xyaxes="{_numbers(camera_axes()[:2].ravel())}"
            fovy="{CAMERA_FOVY_DEG}"/>
    {_surroundings()}{_gripper()}{_cup()}{_ball()}{_block()}{_bottle()}
  </worldbody>
  <tendon><fixed name="opening"><joint joint="left" coef=".5"/><joint joint="right" coef=".5"/></fixed></tendon>
  <equality><joint joint1="left" joint2="right" solref=".010 1" solimp=".95 .99 .001"/></equality>
  <contact><exclude body1="left" body2="right"/></contact>
  <actuator>{_actuators()}</actuator>
</mujoco>"""
    return text, {f"{name}.png": _png(name) for name in PATTERNS}


def _numbers(values: Iterable[float]) -> str:
    return " ".join(f"{float(value):.6g}" for value in values)


def _png(pattern: str) -> bytes:
    return cv2.imencode(".png", cv2.cvtColor(looks.pattern(pattern), cv2.COLOR_GRAY2BGR))[1].tobytes()


def _materials() -> str:
    """One material per table pattern (a reset chooses among them) and one per part that is coloured."""
    textures = "".join(
        f'<texture name="{name}" type="2d" file="{name}.png"/>'
        f'<material name="table {name}" texture="{name}" texuniform="false" specular="0"/>'
        for name in PATTERNS
    )
    shades = {
        "wall": (0.45, 0), "rim": (0.1, 0), "skirt": (0, 0), "palm": (0.2, 0.2), "arm": (0.15, 0.2),
        "finger": (0.30, 0.1), "tip": (0, 0), "cup": (0.24, 0.3), "cup inside": (0.42, 0), "cup floor": (0.30, 0),
        "cup band": (0.25, 0), "ball": (0.24, 0.4), "ball band": (0.25, 0), "block": (0.24, 0),
        "block patch": (0.25, 0), "bottle": (0.24, 0.4), "bottle label": (0.25, 0), "bottle cap": (0.25, 0),
    }  # fmt: skip
    fixed = {
        "palm": ".20 .26 .40 1",
        "arm": ".62 .66 .74 1",
        "finger": "1 .56 .10 1",
        "tip": ".20 .20 .24 1",
    }
    return textures + "".join(
        f'<material name="{name}" emission="{emission}" specular="{specular}" shininess=".5"'
        f' rgba="{fixed.get(name, "1 1 1 1")}"/>'
        for name, (emission, specular) in shades.items()
    )


def _meshes() -> str:
    r, h, t = CUP_RADIUS, CUP_HEIGHT, CUP_WALL
    outside = [(r * 0.90, 0), (r, 0.012), (r * 1.03, h), (r * 1.03 - t * 0.6, h), (r - t * 0.6, 0.012)]
    inside = [
        (0.0004, 0.0115), (r - t * 0.6, 0.0115), (r * 1.03 - t * 0.6, h - 0.001),
        (r * 1.03 - t, h - 0.001), (r - t, 0.0135), (0.0004, 0.0135),
    ]  # fmt: skip
    band = [(r * 0.98, h * 0.28), (r * 1.017, h * 0.30), (r * 1.024, h * 0.52), (r * 0.98, h * 0.54)]
    handle = arc((r - 0.002, 0.066), (HANDLE_REACH - 0.007, 0.038), 0.0115)
    b, top = BOTTLE_RADIUS, BOTTLE_HEIGHT
    bottle = [
        (0.0004, 0), (b * 0.93, 0), (b, 0.008), (b, 0.082), (b * 0.84, 0.098), (0.0135, 0.116),
        (0.0125, top - 0.012), (0.0004, top - 0.012),
    ]  # fmt: skip
    ring = [(BALL_RADIUS * k * math.cos(a), BALL_RADIUS * k * math.sin(a)) for k, a in _BALL_BAND]
    return "".join(
        mesh_text(name, mesh)
        for name, mesh in {
            "cup outside": lathe(outside),
            "cup inside": lathe(inside),
            "cup band": lathe(band),
            "cup handle": handle,
            "bottle": lathe(bottle, 20),
            "ball band": lathe(ring, 20),
        }.items()
    )


_BALL_BAND = ((0.9, -0.3), (1.012, -0.3), (1.012, 0), (1.012, 0.3), (0.9, 0.3))  # radius factor, latitude


def _surroundings() -> str:
    x, y = TABLE_HALF
    w, h = RIM_HALF_WIDTH, RIM_HEIGHT
    rims = ((x + w, 0, w, y + 2 * w), (-x - w, 0, w, y + 2 * w), (0, y + w, x, w), (0, -y - w, x, w))
    rim = "".join(
        f'<geom class="drawn" group="0" type="box" size="{sx} {sy} {h + 0.02}" pos="{px} {py} {h - 0.02}"'
        ' material="rim"/>'
        for px, py, sx, sy in rims
    )
    return f"""
    <geom class="drawn" group="0" type="box" size="{x + 0.02} {y + 0.02} .3" pos="0 0 -.32" material="skirt"/>
    <geom name="table" type="box" size="{x} {y} .02" pos="0 0 -.02" material="table plain" group="0"
          contype="8" conaffinity="1" friction=".6 .006 .0006" condim="4"/>
    <geom class="drawn" group="0" type="box" size="3 .1 3" pos="0 .52 0" material="wall"/>
    {rim}{"".join(_fence(axis, side) for axis in (0, 1) for side in (-1, 1))}"""


def _fence(axis: int, side: int) -> str:
    """An unseen wall at one edge of the table that only things touch: nothing leaves the table."""
    lean = math.radians(WALL_LEAN_DEG)
    position = [0.0, 0.0, -0.5 * math.sin(lean) + 0.9 * math.cos(lean)]
    position[axis] = side * (TABLE_HALF[axis] + 0.5 * math.cos(lean) + 0.9 * math.sin(lean))
    size, turn = [1.4, 1.4, 1.0], [0.0, 0.0, 0.0]
    size[axis] = 0.5
    turn[1 - axis] = side * WALL_LEAN_DEG * (1 if axis == 0 else -1)
    return (
        f'<geom type="box" size="{_numbers(size)}" pos="{_numbers(position)}" euler="{_numbers(turn)}"'
        ' contype="4" conaffinity="0" group="4" friction=".2 .005 .0001"/>'
    )


def _gripper() -> str:
    """Three slides and two fingers; the origin is the point between the finger tips, the slides are its place.

    The pads are wide in y, because commands of 50 mm leave up to 25 mm of error.
    """
    low, high = LIMIT_LOW, LIMIT_HIGH
    x, y, z = FINGER_HALF
    palm_z = 2 * z + PALM_HALF[2]
    fingers = "".join(
        f"""
      <body name="{name}" pos="{side * x} 0 {z}" gravcomp="1">
        <joint name="{name}" type="slide" axis="{side} 0 0" range="-.004 {HALF_OPENING + 0.004}"
               damping="2" armature=".05"/>
        <geom name="{name}" class="gripper" type="box" size="{x} {y} {z}" mass=".12" material="finger"/>
        <geom class="drawn" type="box" size="{x * 1.06} {y * 1.06} .013" pos="0 0 {0.0125 - z}" material="tip"/>
      </body>"""
        for name, side in (("left", -1), ("right", 1))
    )
    slides = "".join(
        f'<joint name="{name}" type="slide" axis="{axis}" range="{low[i] - 0.004:.4f} {high[i] + 0.01:.4f}"'
        ' armature=".3"/>'
        for i, (name, axis) in enumerate((("x", "1 0 0"), ("y", "0 1 0"), ("z", "0 0 1")))
    )
    return f"""
    <body name="gripper" gravcomp="1">{slides}
      <geom name="palm" class="gripper" type="box" size="{_numbers(PALM_HALF)}" pos="0 0 {palm_z}" mass=".6"
            material="palm"/>
      <geom class="drawn" type="box" size=".036 .022 .016" pos="0 0 {palm_z + 0.02}" material="arm"/>
      <geom class="drawn" type="cylinder" size=".018 .4" pos="0 0 {palm_z + 0.42}" material="arm"/>{fingers}
    </body>"""


def _cup() -> str:
    """A hollow cup that stands on its base; the handle is three capsules to collide and a bent tube to see."""
    r, h, t = CUP_RADIUS, CUP_HEIGHT, CUP_WALL
    half_width = r * math.tan(math.pi / CUP_SIDES)
    solid = ""
    for i in range(CUP_SIDES):
        a = 2 * math.pi * (i + 0.5) / CUP_SIDES
        x, y = (r - t / 2) * math.cos(a), (r - t / 2) * math.sin(a)
        solid += (
            f'<geom class="solid" type="box" size="{t / 2} {half_width:.5f} {(h - FOOT) / 2}"'
            f' pos="{x:.5f} {y:.5f} {(h + FOOT) / 2}" euler="0 0 {math.degrees(a):.3f}" mass=".012"/>'
        )
    out = r + HANDLE_REACH - 0.010
    corners = [(r - 0.004, 0.102), (out, 0.092), (out, 0.040), (r - 0.004, 0.030)]
    for (xa, za), (xb, zb) in pairwise(corners):
        solid += (
            f'<geom class="solid" type="capsule" size=".0105" fromto="{xa} 0 {za} {xb} 0 {zb}" mass=".006"/>'
        )
    drawn = "".join(
        f'<geom class="drawn" type="mesh" mesh="{mesh}" material="{material}"/>'
        for mesh, material in (
            ("cup outside", "cup"),
            ("cup inside", "cup inside"),
            ("cup handle", "cup"),
            ("cup band", "cup band"),
        )
    )
    return f"""
    <body name="cup"><freejoint name="cup"/>
      <geom class="solid" type="cylinder" size="{r - t / 2} .006" pos="0 0 .006" mass=".05"/>{solid}{drawn}
      <geom class="drawn" type="cylinder" size="{r - t} .001" pos="0 0 .0145" material="cup floor"/>
    </body>"""


def _ball() -> str:
    return f"""
    <body name="ball"><freejoint name="ball"/>
      <geom class="solid" type="sphere" size="{BALL_RADIUS}" mass=".10" condim="6" friction=".9 .01 .002"
            group="1" material="ball"/>
      <geom class="drawn" type="mesh" mesh="ball band" euler="0 75 0" material="ball band"/>
    </body>"""


def _block() -> str:
    b = BLOCK_HALF
    patches = "".join(
        f'<geom class="drawn" type="box" size="{_numbers(size)}" material="block patch"/>'
        for size in (
            (b * 1.012, b * 0.6, b * 0.6),
            (b * 0.6, b * 1.012, b * 0.6),
            (b * 0.6, b * 0.6, b * 1.012),
        )
    )
    return f"""
    <body name="block"><freejoint name="block"/>
      <geom class="solid" type="box" size="{b} {b} {b}" mass=".16" group="1" material="block"/>{patches}
    </body>"""


def _bottle() -> str:
    r, h = BOTTLE_RADIUS, BOTTLE_HEIGHT
    body, neck = 0.050, (h - 0.100) / 2
    return f"""
    <body name="bottle"><freejoint name="bottle"/>
      <geom class="solid" type="cylinder" size="{r} {body}" pos="0 0 {body}" mass=".15"/>
      <geom class="solid" type="cylinder" size=".018 {neck}" pos="0 0 {2 * body + neck}" mass=".01"/>
      <geom class="drawn" type="mesh" mesh="bottle" material="bottle"/>
      <geom class="drawn" type="cylinder" size="{r * 1.03} .020" pos="0 0 .044" material="bottle label"/>
      <geom class="drawn" type="cylinder" size=".0185 .011" pos="0 0 {h - 0.011}" material="bottle cap"/>
    </body>"""


def _actuators() -> str:
    """Set points that travel at the commanded speed; the engine keeps them within the limits."""
    slides = "".join(
        f'<intvelocity name="{name}" joint="{name}" kp="{POSITION_GAIN}" kv="{POSITION_DAMPING}"'
        f' actrange="-1 1" forcerange="{-POSITION_FORCE} {POSITION_FORCE}"/>'
        for name in ("x", "y", "z")
    )
    return slides + (
        f'<intvelocity name="opening" tendon="opening" kp="{FINGER_GAIN}" kv="{FINGER_DAMPING}"'
        f' actrange="-1 1" forcerange="{-FINGER_FORCE} {FINGER_FORCE}"/>'
    )
