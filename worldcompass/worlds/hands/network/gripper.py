"""The gripper's parts, cut out of one picture of the engine: it looks alike in every video.

``python -m worldcompass.worlds.hands.network.gripper`` makes the picture beside this file again.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch import Tensor

from worldcompass.worlds.hands.facts import FRAME_SIZE, THINGS
from worldcompass.worlds.hands.outlines import GRIPPER, arm_outline, outlines
from worldcompass.worlds.hands.silhouettes import start_poses
from worldcompass.worlds.hands.splits import Scene

if TYPE_CHECKING:
    from worldcompass.worlds.hands.engine import Engine

FILE = Path(__file__).parent / "gripper.png"
SCENE = Scene("gripper", (), "plain", "efe6d2", "d5dde6", "6b7a8f", (0.0, -0.094, 0.06, 0.2))
"""An empty table, with the palm in the middle of the picture: what is upright leans about that row."""


@cache
def cut_gripper() -> Tensor:
    """Palm with its arm, left and right finger, see ``layers.cut_out``; float (3, 4, 64, 64)."""
    sheet = cv2.imread(str(FILE), cv2.IMREAD_UNCHANGED)
    assert sheet is not None, f"{FILE} is part of the package"
    parts = torch.from_numpy(sheet[..., [2, 1, 0, 3]].copy()).movedim(-1, 0).float() / 255
    return torch.stack(parts.chunk(len(GRIPPER), 2))


@cache
def gripper_outlines() -> Tensor:
    """Of the same, the palm without its arm; float (3, 64, 64)."""
    whole = outlines(np.array(SCENE.gripper), start_poses(SCENE))
    return torch.from_numpy(whole[len(THINGS) :]).float() / 255


cut_gripper()  # now, see ``camera``


def cut_by(engine: Engine) -> np.ndarray:
    """What ``FILE`` holds: the parts side by side, blue, green, red and share; uint8 (64, 192, 4)."""
    steps = engine.reset(SCENE)
    assert steps.frames_Fhw3 is not None
    frame, (bare, _) = steps.frames_Fhw3[0] / 255, engine.apart()
    palm = np.maximum(gripper_outlines()[0].numpy(), arm_outline(np.array(SCENE.gripper)) / 255)
    shares = [palm, *(gripper_outlines()[1:].numpy() * (1 - palm))]
    total = np.sum(shares, 0).clip(0, 1)
    added = frame - (1 - total[..., None]) * bare / 255  # what the gripper adds to what lies behind it
    parts = []
    for share in shares:
        own = (added * (share / total.clip(1e-3))[..., None]).clip(0, share[..., None])
        parts.append(np.concatenate([own[..., ::-1], share[..., None]], 2))
    return (np.concatenate(parts, 1) * 255).round().astype(np.uint8)


if __name__ == "__main__":
    from worldcompass.worlds.hands.engine import Engine

    with Engine() as drawing:
        cv2.imwrite(str(FILE), cut_by(drawing))
    print(f"{FILE}: {len(GRIPPER)} parts of {FRAME_SIZE[0]} pixels")
