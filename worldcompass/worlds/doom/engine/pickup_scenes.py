"""Scenes of pick-ups: the same walk over one item, over another item, and past both.

A scene is a start and commands that the engine executes exactly. Two different items lie on the floor, both in view
at the start, in three layouts: the first on the walk and the second next to it, the reverse, and both next to it.
The outcome does not follow from commands and place, nor the item from the fact that one is taken. The game's
counters give the truth for every latent. Scenes are a function of (prefix, seed, map).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldcompass.errors import UserError
from worldcompass.geometry import motion_signs
from worldcompass.runs.atomic import write_text
from worldcompass.types import Group
from worldcompass.worlds.doom.engine.collect import true_labels
from worldcompass.worlds.doom.engine.engine import FRAME_SIZE, SUMMON_DISTANCE, Engine
from worldcompass.worlds.doom.engine.facts import ACTIONS, FRAMES_PER_LATENT, MOTION
from worldcompass.worlds.doom.engine.feasible import CLEARANCE, distance_to_walls, next_segment
from worldcompass.worlds.doom.engine.items import ITEMS, Item
from worldcompass.worlds.doom.engine.maps import DoomMap, find_map

VERSION = 1
LATENTS = 12  # of a clip with the start image: three chunks, 45 frames
LAYOUTS = 3
TOUCH = 36.0  # units along each axis between centres, below which a player takes an item: radii 16 and 20
MARGIN = 4.0  # smallest distance in units from that border
BESIDE = (42.0, 80.0)  # distance in units of items next to the walk
FIRST_REACH = 60.0  # smallest distance in units from the start, as closer items lie below the picture
IN_VIEW = 0.003  # smallest share of an item in the first picture
ROOM = 19.0  # smallest distance in units from a wall, for an item and the actor that places it
HEALTH = 50  # points at the start, so that a health pack can be taken
LAY_TRIES = 10  # layouts drawn for one walk
WALK_TRIES = 400  # walks drawn for one scene before the map is given up
WANDERINGS, WANDERING_LATENTS = 3, 60  # number and length of walks that find starts

_PATHS: dict[str, Callable[[np.random.Generator], str]] = {
    "ahead": lambda rng: f"w-{rng.integers(6, 10)}",
    "looking down": lambda rng: f"down-{rng.integers(2, 5)}, w-{rng.integers(5, 8)}",
    "there and back": lambda rng: f"w-{rng.integers(4, 6)}, s-{rng.integers(5, 7)}",
    "curve": lambda rng: f"w-2, w+{_side(rng, 'left', 'right')}-{rng.integers(3, 6)}, w-{rng.integers(1, 4)}",
    "aside": lambda rng: f"w-{rng.integers(2, 4)}, w+{_side(rng, 'a', 'd')}-{rng.integers(4, 7)}",
}
PATHS = tuple(_PATHS)

Laid = tuple[str, float, float]
"""Word of an item, and its x and z in map units."""


@dataclass(frozen=True)
class Scene:
    """The data from which the engine replays the three clips."""

    id: str
    map_name: str
    path: str
    seed: int
    place: tuple[float, float, float]
    """x, z in map units and yaw in degrees."""
    labels: tuple[int, ...]
    layouts: tuple[tuple[Laid, Laid], ...]
    taken: tuple[tuple[str, int] | None, ...]
    """Item and latent of the pick-up in each layout; None without a pick-up."""

    @property
    def words(self) -> tuple[str, str]:
        """The two items."""
        return self.layouts[0][0][0], self.layouts[0][1][0]


@dataclass(frozen=True)
class Played:
    """A scene with the engine's frames of its three clips."""

    scene: Scene
    frames_GF3hw: Tensor
    """uint8, G = 3."""

    def group(self, word: str) -> Group:
        """The clips as candidates for the instruction to take an item."""
        actions = ACTIONS.commanded(torch.tensor(self.scene.labels))
        frames = self.frames_GF3hw
        return Group(
            frames, frames[0, :0], frames[0, 0], actions, FRAMES_PER_LATENT, instruction=instruction(word)
        )

    def truth_G(self, word: str) -> np.ndarray:
        """Whether each clip takes the item; bool (3,)."""
        return np.array([taken is not None and taken[0] == word for taken in self.scene.taken])


def instruction(word: str) -> str:
    """The instruction to pick up an item."""
    return f"pick up the {word}"


def draw_scenes(
    maps: Sequence[DoomMap], per_map: int, seed: int, prefix: str, on_scene: Callable[[], None] = lambda: None
) -> list[Played]:  # fmt: skip
    """Draw scenes of every map, with the kinds of walks in turn.

    Args:
        maps: to draw scenes of.
        per_map: number of scenes per map.
        seed: of the random numbers.
        prefix: of the ids; scenes of different prefixes share only the map.
        on_scene: called after every scene.

    Raises:
        UserError: when a map has no room for a scene.
    """
    drawn = []
    for doom_map in maps:
        digest = hashlib.sha256(f"{prefix}/{seed}/{doom_map.name}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:4], "little"))
        with Engine(doom_map) as engine:
            engine.reset(0)
            walls_L4 = engine.walls_L4
        assert walls_L4 is not None
        with Engine(doom_map, labels=True, walls_L4=walls_L4) as engine:
            places = _wander(engine, rng)
            for count in range(per_map):
                name, path = f"{prefix}/{doom_map.name}/{count}", PATHS[count % len(PATHS)]
                tries = (_draw(engine, rng, name, path, places) for _ in range(WALK_TRIES))
                found = next((played for played in tries if played is not None), None)
                if found is None:
                    raise UserError(f"map {doom_map.name} has no room for the scene {name}: leave it out")
                drawn.append(found)
                on_scene()
    return drawn


def replay_scenes(
    scenes: Sequence[Scene], frame_size: tuple[int, int] = FRAME_SIZE, on_scene: Callable[[], None] = lambda: None
) -> list[Played]:  # fmt: skip
    """Replay scenes, with one engine per map.

    Args:
        scenes: in any order.
        frame_size: height and width of the frames.
        on_scene: called after every scene.

    Raises:
        UserError: when the installed engine gives other pick-ups.
    """
    played: dict[str, Played] = {}
    no_walls = np.zeros((0, 4), np.float32)  # the paths are free of walls
    for map_name in dict.fromkeys(s.map_name for s in scenes):
        with Engine(find_map(map_name), walls_L4=no_walls, frame_size=frame_size) as engine:
            for scene in (s for s in scenes if s.map_name == map_name):
                clips = [
                    _play(engine, scene.seed, scene.place, scene.labels, laid, viewed=False)
                    for laid in scene.layouts
                ]
                if [clip and clip.taken for clip in clips] != list(scene.taken):
                    raise UserError(
                        f"ViZDoom does not repeat scene {scene.id}: install the pinned vizdoom version"
                    )
                played[scene.id] = _played(scene, clips)
                on_scene()
    return [played[s.id] for s in scenes]


def save_scenes(path: Path, scenes: Sequence[Scene]) -> None:
    """Write scenes to a JSON file, one per line."""
    lines = ",\n".join(json.dumps(asdict(scene)) for scene in scenes)
    write_text(path, f'{{"version": {VERSION}, "scenes": [\n{lines}\n]}}\n')


def load_scenes(path: Path) -> list[Scene]:
    """The inverse of ``save_scenes``.

    Raises:
        UserError: when the file holds no scenes of this version.
    """
    try:
        held = json.loads(path.read_bytes())
        if held["version"] != VERSION:
            raise UserError(f"{path} holds scenes of version {held['version']}, expected {VERSION}")
        return [_scene_of(row) for row in held["scenes"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} holds no scenes ({type(error).__name__}): expected a file from `worldcompass doom pickups`"
        ) from error


def _scene_of(row: dict) -> Scene:
    layouts = tuple(tuple(tuple(laid) for laid in layout) for layout in row["layouts"])
    taken = tuple(None if t is None else (str(t[0]), int(t[1])) for t in row["taken"])
    changed = {
        "layouts": layouts,
        "taken": taken,
        "labels": tuple(row["labels"]),
        "place": tuple(row["place"]),
    }
    return Scene(**{**row, **changed})


@dataclass(frozen=True)
class _Clip:
    frames_Fhw3: np.ndarray
    taken: tuple[str, int] | None


def _side(rng: np.random.Generator, *sides: str) -> str:
    return sides[rng.integers(len(sides))]


def _wander(engine: Engine, rng: np.random.Generator) -> list[np.ndarray]:
    """Cameras (5,) of places that a player can reach from the map's start."""
    places: list[np.ndarray] = []
    for _ in range(WANDERINGS):
        place = None
        if places:
            spot = places[rng.integers(len(places))]
            place = (float(spot[0]), float(spot[2]), float(rng.uniform(-180, 180)))
        camera, hold, action = engine.reset(int(rng.integers(2**31)), place).cameras_F5[-1], 0, 0
        assert engine.walls_L4 is not None
        for _ in range(WANDERING_LATENTS):
            if hold == 0:
                action, hold = next_segment(rng, camera, engine.walls_L4)
            steps = engine.act(action)
            if steps is None:
                break
            camera, hold = steps.cameras_F5[-1], hold - 1
            places.append(camera)
    return places


def _draw(
    engine: Engine, rng: np.random.Generator, name: str, path: str, places: list[np.ndarray]
) -> Played | None:
    """Try to draw a scene; None when walls, the view or the engine prevent it."""
    spot = places[rng.integers(len(places))]
    place = (round(float(spot[0]), 2), round(float(spot[2]), 2), round(float(rng.uniform(-180, 180)), 2))
    moves = ACTIONS.parse(_PATHS[path](rng)).tolist()  # starts with the 0 of the start image
    labels = tuple((moves + [0] * LATENTS)[:LATENTS])
    track, walls_L4 = _track(place, labels), engine.walls_L4
    assert walls_L4 is not None
    if distance_to_walls(track, walls_L4).min() < CLEARANCE:
        return None
    tried = (_lay(rng, track, place, walls_L4) for _ in range(LAY_TRIES))
    layouts = next((laid for laid in tried if laid is not None), None)
    if layouts is None:
        return None
    seed, clips = int(rng.integers(2**31)), []
    for laid, word in zip(layouts, (layouts[0][0][0], layouts[0][1][0], None), strict=True):
        clip = _play(engine, seed, place, labels, laid, viewed=True)
        if clip is None or (clip.taken and clip.taken[0]) != word:
            return None
        clips.append(clip)
    taken = tuple(clip.taken for clip in clips)
    return _played(Scene(name, engine.map.name, path, seed, place, labels, layouts, taken), clips)


def _track(place: tuple[float, float, float], labels: Sequence[int]) -> np.ndarray:
    """Nominal x and z along a walk, eight points a latent; (P, 2)."""
    signs = motion_signs(torch.tensor(labels[1:])).double().repeat_interleave(MOTION.substeps, 0).numpy()
    heading = np.deg2rad(place[2] + np.cumsum(signs[:, 2]) * MOTION.yaw_deg / MOTION.substeps)
    length = MOTION.move / MOTION.substeps / np.maximum(np.hypot(signs[:, 0], signs[:, 1]), 1)
    right, ahead = length * signs[:, 0], length * signs[:, 1]
    steps = np.stack(
        [np.cos(heading) * right + np.sin(heading) * ahead, np.cos(heading) * ahead - np.sin(heading) * right], -1
    )  # fmt: skip
    return np.concatenate([np.zeros((1, 2)), np.cumsum(steps, 0)]) + np.array(place[:2])


def _played(scene: Scene, clips: Sequence[_Clip | None]) -> Played:
    frames = np.stack([clip.frames_Fhw3 for clip in clips if clip is not None])
    return Played(scene, torch.from_numpy(frames).movedim(-1, 2).contiguous())


def _play(
    engine: Engine, seed: int, place: tuple[float, float, float], labels: Sequence[int], laid: Sequence[Laid],
    viewed: bool,
) -> _Clip | None:  # fmt: skip
    """Play one clip; None when a command is not executed exactly, or two items are taken.

    Args:
        viewed: also return None when an item is out of view at the start.
    """
    engine.reset(seed, place)
    if engine.finished():
        return None
    things = [(_item(word).actor, x, z) for word, x, z in laid]
    seen = [engine.furnish(things, place, [item.actor for item in ITEMS], HEALTH)]
    if engine.finished():
        return None
    if viewed and any(engine.in_view().get(actor, 0) < IN_VIEW for actor, _, _ in things):
        return None
    counts, taken = _counts(engine), []
    for latent, action in enumerate(labels[1:], 1):
        steps = engine.act(action)
        if steps is None:
            return None
        seen.append(steps)
        before, counts = counts, _counts(engine)
        taken += [(i.word, latent) for i, b, a in zip(ITEMS, before, counts, strict=True) if a - b >= i.gain]
    cameras = np.concatenate([s.cameras_F5 for s in seen])
    if len(taken) > 1 or true_labels(cameras).tolist() != list(labels):
        return None
    frames = np.concatenate([s.frames_Fhw3 for s in seen])
    return _Clip(frames, taken[0] if taken else None)


def _item(word: str) -> Item:
    return next(item for item in ITEMS if item.word == word)


def _counts(engine: Engine) -> list[float]:
    return [engine.variable(item.variable) for item in ITEMS]


def _lay(
    rng: np.random.Generator, track: np.ndarray, place: tuple[float, float, float], walls_L4: np.ndarray
) -> tuple[tuple[Laid, Laid], ...] | None:  # fmt: skip
    """Place two items in three layouts around a walk; None without room."""
    far = np.flatnonzero(np.hypot(*(track - track[0]).T) >= FIRST_REACH)
    if not len(far):
        return None
    jitter = TOUCH / 2 - MARGIN
    on = track[rng.choice(far)] + rng.uniform(-jitter, jitter, 2)
    first, second = (_beside(rng, track, far) for _ in range(2))
    points = np.stack([on, first, second])
    yaw = np.deg2rad(place[2])
    layers = points - SUMMON_DISTANCE * np.array([np.sin(yaw), np.cos(yaw)])
    missed = np.abs(points[1:, None] - track[None]).max(-1).min(-1) >= TOUCH + MARGIN
    apart = min(np.hypot(*(points[i] - points[j])) for i, j in ((0, 1), (0, 2), (1, 2))) >= TOUCH
    room = distance_to_walls(np.concatenate([points, layers]), walls_L4)
    if not (missed.all() and apart and (room >= ROOM).all()):
        return None
    a, b = (ITEMS[i].word for i in rng.choice(len(ITEMS), 2, replace=False))

    def laid(word: str, point: np.ndarray) -> Laid:
        return word, round(float(point[0]), 2), round(float(point[1]), 2)

    return (laid(a, on), laid(b, first)), (laid(a, first), laid(b, on)), (laid(a, first), laid(b, second))


def _beside(rng: np.random.Generator, track_F2: np.ndarray, far: np.ndarray) -> np.ndarray:
    """A point left or right of the walk, or ahead of its farthest part."""
    index = int(rng.choice(far))
    ahead = track_F2[index] - track_F2[max(index - 1, 0)]
    if np.hypot(*ahead) < 1:
        ahead = track_F2[index] - track_F2[0]
    ahead = ahead / np.hypot(*ahead)
    distance = rng.uniform(*BESIDE)
    if rng.random() < 0.25:
        return track_F2[far[-1]] + distance * ahead
    return track_F2[index] + distance * (1 if rng.random() < 0.5 else -1) * np.array([ahead[1], -ahead[0]])
