"""All worlds that this package knows, in one list."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worldcompass.world import WorldSpec

DOOM, HANDS = "doom", "hands"


@dataclass(frozen=True)
class Listed:
    """A world: what no program can find out about it."""

    name: str
    """As ``--world`` and ``worldcompass train`` take it."""
    what: str
    """The model and its makers."""
    licence: str
    """Of the weights."""
    parity: str
    """How its arithmetic was compared with official code."""
    untried: str
    """What nobody has run yet."""
    page: str
    """Its page of the documentation."""
    embedded: bool = False
    """Whether its weights lie in the package."""


_AGREES = "cases of official code on tiny random networks"
WORLDS = (
    Listed(
        DOOM,
        "rooms seen through a camera, ViZDoom",
        "Apache-2.0",
        "our own model",
        "",
        "your_first_run",
        True,
    ),
    Listed(HANDS, "a gripper over a table, MuJoCo", "Apache-2.0", "our own model", "", "hands", True),
    Listed(
        "worldplay_8b",
        "HY-WorldPlay on HunyuanVideo-1.5",
        "Tencent Hunyuan community licence",
        _AGREES,
        "released weights; a run on a GPU with trained weights",
        "worldplay",
    ),
    Listed(
        "worldplay_5b",
        "HY-WorldPlay on Wan2.2-TI2V-5B",
        "Tencent Hunyuan community licence",
        _AGREES,
        "released weights; a run on a GPU with trained weights",
        "worldplay",
    ),
    Listed(
        "minwm",
        "minWM on causal Wan2.1 1.3B, with cameras",
        "Apache-2.0",
        _AGREES,
        "released weights; a run on a GPU with trained weights",
        "minwm",
    ),
    Listed(
        "matrix_game_2",
        "Matrix-Game 2 of Skywork, on Wan2.1",
        "MIT",
        _AGREES,
        "released weights; the unit of the mouse; a run on a GPU",
        "matrix_game",
    ),
    Listed(
        "forgewm",
        "ForgeWM, on Matrix-Game 2",
        "Apache-2.0",
        _AGREES,
        "released weights; the unit of the mouse; a run on a GPU",
        "matrix_game",
    ),
    Listed(
        "nano",
        "Nano World Model of PushT, RT-1, CSGO and others",
        "said to be MIT; read each card",
        _AGREES,
        "released weights; the rate of frames but for PushT and RT-1; a run on a GPU",
        "nano",
    ),
    Listed(
        "waypoint",
        "Waypoint-1 and 1.1 of Overworld",
        "Apache-2.0",
        _AGREES,
        "released weights; the unit of the mouse and the meaning of button numbers; a run on a GPU",
        "waypoint",
    ),
)
EMBEDDED = tuple(world.name for world in WORLDS if world.embedded)
OPEN = tuple(world.name for world in WORLDS if not world.embedded)


@dataclass(frozen=True)
class Facts:
    """What the code of a world says of it."""

    spec: WorldSpec
    parameters: int
    """Of the network that imagines."""

    @property
    def size(self) -> str:
        """Parameters for people, such as ``8.3 B``."""
        for unit, name in ((1e9, "B"), (1e6, "M")):
            if self.parameters >= unit:
                return f"{self.parameters / unit:.3g} {name}"
        return str(self.parameters)

    @property
    def chunk(self) -> str:
        """Latents and frames of a chunk."""
        length = self.spec.chunk_lengths[0]
        frames = self.spec.frames_per_latent * length
        return f"{length} latent{'s' * (length > 1)}, {frames} frame{'s' * (frames > 1)}"

    @property
    def picture(self) -> str:
        """Size and rate of its pictures."""
        height, width = self.spec.frame_size
        return f"{width}×{height}, {self.spec.fps:g} fps"


def facts_of(listed: Listed) -> Facts:
    """The facts of a world; an open checkpoint's without its weights."""
    world = _embedded(listed.name) if listed.embedded else _open(listed.name)
    return Facts(world.spec, sum(parameter.numel() for parameter in world.net.parameters()))


def table(worlds: Iterable[Listed] = WORLDS) -> str:
    """The worlds as a table in Markdown."""
    heads = ("world", "model", "size", "actions", "chunk", "pictures", "licence", "parity", "untried")
    lines = [" | ".join(heads), " | ".join("---" for _ in heads)]
    for world in worlds:
        facts = facts_of(world)
        named = f"[`{world.name}`]({world.page}.md)"
        cells = (named, world.what, facts.size, facts.spec.actions.describe(), facts.chunk, facts.picture)
        lines.append(" | ".join((*cells, world.licence, world.parity, world.untried or "–")))
    return "\n".join(f"| {line} |" for line in lines)


def _embedded(name: str) -> Any:
    if name == DOOM:
        from worldcompass.worlds.doom.world import load_doom_world as load
    else:
        from worldcompass.worlds.hands.world import load_hands_world as load
    return load(None, "cpu")


def _open(name: str) -> Any:
    from worldcompass.recipes.load import load_recipe

    return load_recipe(name)().blank()
