"""Scenes to start from: pictures inside the package, so that imagining and playing need no engine.

Each is a held-out scene as the engine draws it: ``write_starts`` made the files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from worldcompass.media.video import read_image, save_png
from worldcompass.worlds.hands.engine import Engine
from worldcompass.worlds.hands.splits import Scene, scene

NUMBERS = (0, 6, 3, 9, 12, 18, 21, 23)
"""Of scenes of the split ``heldout``; the first is where ``imagine`` starts."""


@dataclass(frozen=True)
class SceneStart:
    """A scene with its picture."""

    scene: Scene
    image_3hw: Tensor
    """uint8 sRGB."""

    @property
    def title(self) -> str:
        """Its things, such as ``blue cup, yellow ball``."""
        return ", ".join(f"{thing.colour} {thing.kind}" for thing in self.scene.things)


def scene_starts(numbers: Sequence[int] = NUMBERS) -> list[SceneStart]:
    """The scenes inside the package with their pictures, the first being the usual one."""
    folder = Path(str(resources.files("worldcompass.worlds.hands") / "starts"))
    return [SceneStart(scene("heldout", n), read_image(folder / _file(n))) for n in numbers]


def write_starts(engine: Engine, folder: Path) -> None:
    """Draw the pictures of all ``NUMBERS``."""
    for number in NUMBERS:
        save_png(folder / _file(number), draw_start(engine, scene("heldout", number)))


def draw_start(engine: Engine, of: Scene) -> Tensor:
    """The engine's picture of a scene, uint8 (3, h, w)."""
    frames = engine.reset(of).frames_Fhw3
    if frames is None:
        raise ValueError("the engine draws nothing: make it with draw=True")
    return torch.from_numpy(frames[0]).movedim(-1, 0).contiguous()


def _file(number: int) -> str:
    return f"heldout_{number:03d}.png"
