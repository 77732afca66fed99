"""Records episodes of mixed behaviour: what is missing of a dataset, safe to stop and start again.

Episode ``number`` of a split is a function of these two alone: its scene, what the gripper does, and so every
pixel. More episodes of the same split extend a dataset.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from worldcompass.errors import UserError
from worldcompass.worlds.hands.engine import Engine, Steps, controls_of
from worldcompass.worlds.hands.facts import FRAME_SIZE, FRAMES_PER_LATENT, THINGS, action_of
from worldcompass.worlds.hands.gl import load_mujoco
from worldcompass.worlds.hands.recording import FORMAT, HandsEpisode, shard_folder
from worldcompass.worlds.hands.scripts import (
    PATIENCE,
    Behaviour,
    Chain,
    Look,
    Pick,
    Place,
    Push,
    Wander,
    carry,
    play,
    pushes,
)
from worldcompass.worlds.hands.splits import SPLITS, scene, seed_of
from worldcompass.worlds.small import data

EPISODE_LATENTS = 21  # the start image and 20 actions
EPISODE_FRAMES = FRAMES_PER_LATENT * (EPISODE_LATENTS - 1) + 1
EPISODES_PER_SHARD = 25
KINDS = {
    "random": 0.16, "poke": 0.10, "pick": 0.26, "push": 0.14, "place": 0.10, "drop": 0.10, "miss": 0.06,
    "smooth": 0.08,
}  # fmt: skip
"""What the gripper does, with the share of episodes; ``smooth`` uses continuous controls."""
NOISE = 0.03  # share of a script's actions that are replaced by any action
CUP_SHARE = 0.5  # of scripts that are about the cup, where there is one
LATE_SHARE = 0.4  # of episodes whose recording begins after some wandering
LATE_MOST = 14  # latents of it
MISS = (0.06, 0.11)  # metres by which a miss fails
PICK_MOST = 4 * PATIENCE + 12  # latents that a pick before the recording may take


class Smooth:
    """Continuous controls, each held for one to five latents; asked for four numbers instead of an action."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng, self._turns, self._left = rng, Wander(rng, low=True), 0
        self._controls = np.zeros(4)

    def __call__(self, look: Look) -> np.ndarray:
        """The next controls, float64 (4,)."""
        if self._left <= 0:
            action = self._turns(look)
            size = self._rng.uniform(0.2, 1.0, 4) * (self._rng.random(4) < 0.8)
            self._controls = controls_of(0 if action is None else action) * size
            self._left = int(self._rng.integers(1, 6))
        self._left -= 1
        return self._controls


def record_episode(engine: Engine, split: str, number: int) -> HandsEpisode:
    """One episode of 21 latents: 81 frames, commands and truth."""
    rng = np.random.default_rng(seed_of("behaviour", split, number))
    look = Look.at_end(engine.reset(scene(split, number)))
    kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    moment = engine.save()
    if rng.random() < LATE_SHARE:
        late = play(engine, look, Wander(rng, low=True), int(rng.integers(1, LATE_MOST + 1)), draw=False)[1]
        look, moment = Look.at_end(late[-1]), engine.save()
    if kind in ("drop", "place"):
        look = _pick_before(engine, rng, look)
        moment = engine.save()
    seen, commands = [engine.restore(moment)], [np.zeros(4)]
    bare, table = engine.apart()
    bares = [bare]
    ask = Smooth(rng) if kind == "smooth" else _behaviour(rng, kind, look, engine.present)
    while len(commands) < EPISODE_LATENTS:
        action = ask(look)
        if action is None:
            ask = Wander(rng, low=True)
            continue
        commands.append(controls_of(action))
        seen.append(engine.act(action))
        bares.append(engine.apart()[0])
        look = Look.at_end(seen[-1])
    apart = Apart(np.stack(bares), table)
    return _episode(Steps.join(seen), apart, np.stack(commands), engine.present, kind, number)


def _pick_before(engine: Engine, rng: np.random.Generator, look: Look) -> Look:
    """Pick something up before the recording begins; whether that works or not."""
    pick = Pick(_thing(rng, engine.present), int(rng.integers(2, 5)))
    seen = play(engine, look, pick, PICK_MOST, draw=False)[1]
    return Look.at_end(seen[-1]) if seen else look


def _thing(rng: np.random.Generator, present_T: np.ndarray) -> str:
    here = [kind for kind, there in zip(THINGS, present_T, strict=True) if there]
    about_cup = rng.random() < CUP_SHARE and "cup" in here
    return "cup" if about_cup else here[int(rng.integers(len(here)))]


def _behaviour(rng: np.random.Generator, kind: str, look: Look, present_T: np.ndarray) -> Behaviour:
    """What the gripper does from the first recorded frame on; when it is done it wanders low."""
    thing = _thing(rng, present_T)
    if kind in ("random", "poke"):
        return Wander(rng, low=kind == "poke")
    if kind == "pick":
        moves = carry(rng, int(rng.integers(1, 5)), int(rng.integers(0, 4)))
        return Chain(rng, [Pick(thing, int(rng.integers(2, 5))), moves], NOISE)
    if kind == "push":
        ways = pushes(look.things_T7, thing) or ["left", "right"]
        return Chain(rng, [Push(thing, ways[int(rng.integers(len(ways)))], int(rng.integers(3, 8)))], NOISE)
    if kind == "miss":
        angle, size = rng.uniform(0, 2 * np.pi), rng.uniform(*MISS)
        return Chain(rng, [Pick(thing, 3, (size * np.cos(angle), size * np.sin(angle)))], NOISE)
    held = [name for name, holds in zip(THINGS, look.held_T, strict=True) if holds]
    others = [name for name, there in zip(THINGS, present_T, strict=True) if there and name not in held]
    if kind == "place" and held and others:
        return Chain(rng, [Place(held[0], others[int(rng.integers(len(others)))])], NOISE)
    return Chain(rng, [carry(rng, int(rng.integers(0, 6)), int(rng.integers(0, 3)))], NOISE)


@dataclass(frozen=True)
class Apart:
    """What an episode shows without the gripper, and without anything; see ``HandsEpisode``."""

    bare_Mhw3: np.ndarray
    table_hw3: np.ndarray


def _episode(
    steps: Steps, apart: Apart, commands_M4: np.ndarray, present_T: np.ndarray, kind: str, number: int
) -> HandsEpisode:
    assert steps.frames_Fhw3 is not None
    actions = [action_of(np.where(np.abs(controls) >= 0.5, controls, 0)) for controls in commands_M4]
    return HandsEpisode(
        frames_Fhw3=steps.frames_Fhw3,
        actions_M=np.array(actions, np.int16),
        controls_M4=commands_M4.astype(np.float32),
        grip_F4=steps.grip_F4,
        things_FT7=steps.things_FT7,
        touch_FT5=steps.touch_FT5,
        held_FT=steps.held_FT,
        bare_Mhw3=apart.bare_Mhw3,
        table_hw3=apart.table_hw3,
        present_T=present_T,
        kind=np.array(list(KINDS).index(kind), np.uint8),
        number=np.array(number, np.int64),
    )


def collect_shard(shard: tuple[str, int], root: Path) -> None:
    """Record the episodes of one shard, the given one of a split."""
    split, index = shard
    numbers = range(index * EPISODES_PER_SHARD, (index + 1) * EPISODES_PER_SHARD)
    with Engine() as engine:
        data.write_shard(shard_folder(root, *shard), [record_episode(engine, split, n) for n in numbers])


def collect(root: Path, episodes: Mapping[str, int], workers: int | None = None) -> Path:
    """Record what is missing of so many episodes per split, rounded up to whole shards of 25.

    Args:
        root: the dataset's folder.
        episodes: their number by split.
        workers: processes; as many as there are cores by default.

    Raises:
        UserError: for an unknown split, too little disk, a folder that holds another dataset, or where the engine
            cannot run.
    """
    shards = {shard_folder(root, *shard): shard for shard in _shards(episodes)}
    missing = sum(not folder.is_dir() for folder in shards)
    pictures = EPISODE_FRAMES + EPISODE_LATENTS + 1
    size = EPISODES_PER_SHARD * pictures * FRAME_SIZE[0] * FRAME_SIZE[1] * 3
    made_by = {"world": "hands", "mujoco": load_mujoco().__version__, "kinds": list(KINDS)}
    made_by["latents"] = EPISODE_LATENTS
    data.claim(root, FORMAT, made_by, 1.05 * missing * size, "record fewer episodes")
    data.collect(shards, partial(collect_shard, root=root), workers)
    return root


def _shards(episodes: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    for split, count in episodes.items():
        if split not in SPLITS:
            raise UserError(f"there is no split {split!r} of Hands scenes: choose one of {', '.join(SPLITS)}")
        for index in range(-(-count // EPISODES_PER_SHARD)):
            yield split, index
