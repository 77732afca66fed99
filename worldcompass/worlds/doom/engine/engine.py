"""ViZDoom, driven so that a composite action moves the camera by a known amount; the engine keeps the truth.

One latent is 4 frames, one frame is 2 of the engine's tics. The game's own physics moves the player: every tic
gets the thrust that brings the velocity to the commanded one, walls and steps stop it as they stop a player.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import cv2
import numpy as np
import torch
import vizdoom
from torch import Tensor

from worldcompass.errors import UserError
from worldcompass.geometry import motion_signs, pose, rotation_from_angles
from worldcompass.runs.requirements import need_version
from worldcompass.worlds.doom.engine.facts import (
    FRAME_HEIGHT,
    FRAME_WIDTH,
    FRAMES_PER_LATENT,
    MOTION,
    TICS_PER_FRAME,
)
from worldcompass.worlds.doom.engine.maps import DoomMap
from worldcompass.worlds.doom.engine.start import write_script

need_version("vizdoom")

FRAME_SIZE = (FRAME_HEIGHT, FRAME_WIDTH)
THRUST_PER_DELTA = 1 / 32  # units per tic gained by one unit of a MOVE_*_DELTA button, measured
MAX_DELTA = 50.0  # the engine clamps forward and side moves there, measured
SHARED_MEMORY = Path("/dev/shm")
SHARED_BYTES = 8 << 20  # for pictures and messages of one engine, with room to spare
SETTLING = 21  # tics to land and let the view rise after a warp; a new game ignores turns in the first few
SUMMON_DISTANCE = 56.0  # units before the player at which a summoned item of radius 20 appears, measured


@dataclass(frozen=True)
class Steps:
    """What the engine showed and where the camera was, frame by frame."""

    frames_Fhw3: np.ndarray
    """uint8 sRGB, (F, 48, 64, 3) unless the engine was asked for another size."""
    cameras_F5: np.ndarray
    """float32: x (east), y (down), z (north) in map units, yaw (right +) and pitch (up +) in degrees."""
    depth_Fhw: np.ndarray | None = None
    """uint8 depth buffer of the engine, only when asked for."""


def poses_from_cameras(cameras_F5: np.ndarray) -> Tensor:
    """``world_from_camera`` of engine cameras, float32 (F, 4, 4).

    Position and yaw are relative to the first camera; pitch stays absolute, so that a level first camera
    has the identity.
    """
    cameras = torch.tensor(np.asarray(cameras_F5), dtype=torch.float64)
    yaw_0 = torch.deg2rad(cameras[0, 3])
    step = cameras[:, :3] - cameras[0, :3]
    right = yaw_0.cos() * step[:, 0] - yaw_0.sin() * step[:, 2]
    forward = yaw_0.sin() * step[:, 0] + yaw_0.cos() * step[:, 2]
    position = torch.stack([right, step[:, 1], forward], -1)
    return pose(rotation_from_angles(cameras[:, 3] - cameras[0, 3], cameras[:, 4]), position).float()


class Engine:
    """One headless game on one map. Use it in a ``with`` block.

    ``frame_size`` is (height, width) of the frames; the embedded world's own by default. The engine draws
    160 x 120, or 320 x 240 when that is too small, and the picture is shrunk by areas. With ``labels`` it says
    which things are in view. With the walls of an engine before it (``walls_L4``) it asks the game for none: on
    large maps that is most of the time of a frame.

    Raises:
        UserError: when ViZDoom does not start.
    """

    def __init__(
        self,
        doom_map: DoomMap,
        *,
        depth: bool = False,
        labels: bool = False,
        walls_L4: np.ndarray | None = None,
        frame_size: tuple[int, int] = FRAME_SIZE,
    ) -> None:
        self.map = doom_map
        self.depth = depth
        self.frame_size = frame_size
        self._folder = tempfile.TemporaryDirectory(prefix="worldcompass-doom-")
        self._game = _configure(doom_map, depth, frame_size, Path(self._folder.name))
        self._game.set_labels_buffer_enabled(labels)
        self._game.set_sectors_info_enabled(walls_L4 is None)
        try:
            _check_machine(self._game, Path(self._folder.name))
            with _quiet():
                self._game.init()
        except UserError:
            self._folder.cleanup()
            raise
        except (
            vizdoom.ViZDoomErrorException,
            vizdoom.ViZDoomUnexpectedExitException,
            vizdoom.MessageQueueException,
            vizdoom.SharedMemoryException,
            FileNotFoundError,
        ) as why:
            self._folder.cleanup()
            raise UserError(
                f"ViZDoom did not start on map {doom_map.name}: {str(why).splitlines()[0]}"
                " - reinstall it with 'pip install --force-reinstall vizdoom'"
            ) from why
        self.walls_L4 = walls_L4

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._game.close()
        self._folder.cleanup()

    def reset(self, seed: int, place: tuple[float, float, float] | None = None) -> Steps:
        """Start an episode at the map's own start, or standing at ``place`` (x, z, yaw in degrees)."""
        with _quiet():
            self._game.set_seed(seed % 2**31)
            self._game.new_episode()
        self._game.send_game_command("god")
        self._stand(place)
        if self.walls_L4 is None and not self.finished():
            walls_L4 = _walls(self._game.get_state().sectors)
            self.walls_L4 = np.concatenate([walls_L4, self.map.obstacles_L4()])
        return self._collect([self._observe()]) if not self.finished() else _nothing(self.frame_size)

    def _stand(self, place: tuple[float, float, float] | None) -> None:
        if place is not None:
            self._game.send_game_command(f"warp {place[0]:.3f} {place[1]:.3f}")
        self._game.make_action([0, 0, 0, 0], SETTLING)
        if place is not None:
            turn = (place[2] - self._camera()[3] + 180) % 360 - 180
            self._game.make_action([0, 0, turn, 0], 1)

    def furnish(
        self,
        things: Sequence[tuple[str, float, float]],
        place: tuple[float, float, float],
        removed: Sequence[str] = (),
        health: int = 100,
    ) -> Steps:
        """Lay things (actor, x, z) on the floor, lower health to ``health`` points, and stand at ``place``.

        Each thing is laid from behind it, seen from ``place``: there must be room for a player.

        Args:
            removed: actors that the map itself may have laid and that shall be gone.
        """
        for actor in removed:
            self._game.send_game_command(f"remove {actor}")
        if self.variable("HEALTH") > health:
            self._game.send_game_command(f"take health {self.variable('HEALTH') - health:.0f}")
        yaw = np.deg2rad(place[2])
        for actor, x, z in things:
            east, north = x - SUMMON_DISTANCE * np.sin(yaw), z - SUMMON_DISTANCE * np.cos(yaw)
            self._stand((east, north, place[2]))
            self._game.send_game_command(f"summon {actor}")
            self._game.make_action([0, 0, 0, 0], 1)
        self._stand(place)
        return self._collect([self._observe()]) if not self.finished() else _nothing(self.frame_size)

    def variable(self, name: str) -> float:
        """A game variable of ViZDoom, such as ``ARMOR``."""
        return self._game.get_game_variable(getattr(vizdoom.GameVariable, name))

    def in_view(self) -> dict[str, float]:
        """Share of the picture's area that each kind of thing in view spans, by name; needs ``labels``."""
        seen: dict[str, float] = {}
        area = self._game.get_screen_width() * self._game.get_screen_height()
        for label in self._game.get_state().labels or []:
            share = label.width * label.height / area
            seen[label.object_name] = seen.get(label.object_name, 0.0) + share
        return seen

    def finished(self) -> bool:
        """Whether the map's script ended the episode."""
        return self._game.is_episode_finished()

    def act(self, action: int) -> Steps | None:
        """Carry out a composite action for one latent; None when the map's script ended the episode."""
        right, forward, yaw, pitch = motion_signs(torch.tensor(action)).tolist()
        frames = []
        for _ in range(FRAMES_PER_LATENT):
            for tic in range(TICS_PER_FRAME):
                self._tic(right, forward, yaw, pitch, render=tic == TICS_PER_FRAME - 1)
                if self.finished():
                    return None
            frames.append(self._observe())
        return self._collect(frames)

    def _tic(self, right: float, forward: float, yaw: float, pitch: float, render: bool) -> None:
        """One tic with the thrust that makes this tic's displacement the commanded one."""
        tics = MOTION.substeps
        turn = yaw * MOTION.yaw_deg / tics
        wish = MOTION.move / tics / max(np.hypot(right, forward), 1)
        variable = self._game.get_game_variable
        heading = np.deg2rad(90 - variable(vizdoom.GameVariable.ANGLE) + turn)
        east, north = variable(vizdoom.GameVariable.VELOCITY_X), variable(vizdoom.GameVariable.VELOCITY_Y)
        ahead = np.sin(heading) * east + np.cos(heading) * north
        aside = np.cos(heading) * east - np.sin(heading) * north
        thrust = np.array([forward * wish - ahead, right * wish - aside]) / THRUST_PER_DELTA
        thrust = np.clip(thrust, -MAX_DELTA, MAX_DELTA)
        self._game.set_action([thrust[0], thrust[1], turn, pitch * MOTION.pitch_deg / tics])
        self._game.advance_action(1, render)

    def _camera(self) -> np.ndarray:
        v, variable = vizdoom.GameVariable, self._game.get_game_variable
        east, north, up = (
            variable(name) for name in (v.CAMERA_POSITION_X, v.CAMERA_POSITION_Y, v.CAMERA_POSITION_Z)
        )
        yaw = (90 - variable(v.ANGLE) + 180) % 360 - 180
        pitch = -((variable(v.PITCH) + 180) % 360 - 180)
        return np.array([east, -up, north, yaw, pitch], np.float32)

    def _observe(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        state = self._game.get_state()
        frame = cv2.resize(state.screen_buffer, self.frame_size[::-1], interpolation=cv2.INTER_AREA)
        return frame, self._camera(), None if state.depth_buffer is None else state.depth_buffer.copy()

    def _collect(self, seen: list[tuple[np.ndarray, np.ndarray, np.ndarray | None]]) -> Steps:
        frames, cameras, depths = zip(*seen, strict=True)
        return Steps(np.stack(frames), np.stack(cameras), np.stack(depths) if self.depth else None)


def _nothing(frame_size: tuple[int, int]) -> Steps:
    return Steps(np.zeros((0, *frame_size, 3), np.uint8), np.zeros((0, 5), np.float32))


def _configure(doom_map: DoomMap, depth: bool, frame_size: tuple[int, int], folder: Path) -> vizdoom.DoomGame:
    game = vizdoom.DoomGame()
    wad = doom_map.path(folder)
    if not wad.is_file():
        raise UserError(
            f"the installed vizdoom has no {doom_map.wad}: install a newer one with 'pip install -U vizdoom'"
        )
    (game.set_doom_game_path if _is_game(wad) else game.set_doom_scenario_path)(str(wad))
    game.set_doom_map(doom_map.lump)
    game.set_doom_config_path(str(folder / "vizdoom.ini"))
    resolution = vizdoom.ScreenResolution
    large = frame_size[0] > 120 or frame_size[1] > 160
    game.set_screen_resolution(resolution.RES_320X240 if large else resolution.RES_160X120)
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_window_visible(False)
    for hide in (
        game.set_render_hud, game.set_render_weapon, game.set_render_messages, game.set_render_crosshair,
        game.set_render_decals, game.set_render_particles, game.set_render_screen_flashes,
        game.set_render_effects_sprites, game.set_render_corpses,
    ):  # fmt: skip
        hide(False)
    game.set_depth_buffer_enabled(depth)
    game.set_sectors_info_enabled(True)
    button = vizdoom.Button
    game.set_available_buttons(
        [
            button.MOVE_FORWARD_BACKWARD_DELTA,
            button.MOVE_LEFT_RIGHT_DELTA,
            button.TURN_LEFT_RIGHT_DELTA,
            button.LOOK_UP_DOWN_DELTA,
        ]
    )
    game.set_mode(vizdoom.Mode.PLAYER)
    game.set_episode_timeout(0)
    game.add_game_args("-nomonsters +movebob 0 +sv_cheats 1")
    return game


def _is_game(wad: Path) -> bool:
    """Whether a file is a whole game; others are loaded on top of Freedoom.

    Raises:
        UserError: when it is no WAD file.
    """
    with wad.open("rb") as file:
        kind = file.read(4)
    if kind not in (b"IWAD", b"PWAD"):
        raise UserError(f"{wad} is not a WAD file: it begins with {kind!r}, expected IWAD or PWAD")
    return kind == b"IWAD"


def _check_machine(game: vizdoom.DoomGame, folder: Path) -> None:
    """Let the engine start in ``folder``, and refuse a machine on which it would end this process without a word.

    Raises:
        UserError: when there is too little shared memory, or no folder to start in.
    """
    if SHARED_MEMORY.is_dir():
        space = os.statvfs(SHARED_MEMORY)
        if space.f_bavail * space.f_frsize < SHARED_BYTES or not os.access(SHARED_MEMORY, os.W_OK):
            raise UserError(
                f"the engine needs {SHARED_BYTES >> 20} MiB of writable shared memory in {SHARED_MEMORY}: give the"
                " container more, such as docker run --shm-size=256m"
            )
    script = write_script(folder, Path(vizdoom.__file__).parent / "vizdoom")
    if script is not None:
        game.set_vizdoom_path(str(script))
    elif not os.access(os.curdir, os.W_OK):
        raise UserError(f"the engine writes to the current folder {Path.cwd()}: start from a writable one")


def _walls(sectors: list[vizdoom.Sector]) -> np.ndarray:
    """Line segments (x1, y1, x2, y2) that a walking player cannot or should not cross, float32 (L, 4)."""
    sides: dict[tuple[float, ...], list[tuple[float, float, bool]]] = {}
    for sector in sectors:
        for line in sector.lines:
            ends = sorted([(line.x1, line.y1), (line.x2, line.y2)])
            key = (*ends[0], *ends[1])
            sides.setdefault(key, []).append((sector.floor_height, sector.ceiling_height, line.is_blocking))
    walls = [key for key, seen in sides.items() if _blocks(seen)]
    return np.array(walls, np.float32).reshape(-1, 4)


def _blocks(seen: list[tuple[float, float, bool]]) -> bool:
    """A line blocks when it says so, when it has one side, or when the step or the opening is not walkable."""
    if any(blocking for *_, blocking in seen) or len(seen) < 2:
        return True
    floors, ceilings = [s[0] for s in seen], [s[1] for s in seen]
    return max(floors) - min(floors) > 24 or min(ceilings) - max(floors) < 56


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the engine's start-up chatter off the terminal; it inherits these file descriptors."""
    saved = [os.dup(1), os.dup(2)]
    with open(os.devnull, "wb") as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
        try:
            yield
        finally:
            for target, copy in zip((1, 2), saved, strict=True):
                os.dup2(copy, target)
                os.close(copy)
