"""The world of four controls and no camera, as the page ``your_own_world.md`` has it."""

import importlib
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from pages import FILE, ROOT, python_blocks

from worldcompass.controls import Axis, Controls, button

FOLDER = Path(tempfile.mkdtemp(prefix="worldcompass-lamp-"))
for block in python_blocks(ROOT / "docs" / "your_own_world.md"):
    if named := FILE.match(block):
        with (FOLDER / named[1]).open("a") as file:
            file.write(block)
sys.path.append(str(FOLDER))
page = importlib.import_module("lamp")
LampWorld, Brightness, walks = page.LampWorld, page.Brightness, page.walks

MIXED = Controls(
    (
        button("on"),
        Axis("hue", -2, 2, words=("redder", "bluer"), levels=5),
        Axis("tilt", words=("down", "up")),
        button("flash"),
    )
)


class MixedLamp(LampWorld):
    """Four controls of three kinds."""

    spec = replace(LampWorld.spec, name="mixed lamp", actions=MIXED)


def mixed_walks():
    """Two scenarios of it."""
    paths = ["on-3, redder+up-4", "flash-3, bluer+down-4"]
    return [
        replace(walk, actions=MIXED.along(path), id=path) for walk, path in zip(walks(2), paths, strict=True)
    ]
