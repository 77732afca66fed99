"""The Hands world in the player: its gallery."""

from __future__ import annotations

from collections.abc import Iterator

from worldcompass.player.starts import Start
from worldcompass.worlds.hands.starts import scene_starts

GROUP = "Held-out scenes"


def hands_starts() -> Iterator[Start]:
    """The gallery of the embedded world: scenes that it was never trained on."""
    for start in scene_starts():
        yield Start(f"hands/{start.scene.name}", start.title, GROUP, start.image_3hw)
