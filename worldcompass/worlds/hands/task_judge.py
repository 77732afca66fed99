"""The task judge: where each thing of a known scene is in a video, by colours and geometry, without a network.

It is of another design than the critics and never a reward. It knows the scene's kinds and colours. Every pixel
belongs to what its colour is nearest to: a shade of a thing, of the gripper, or of the room. A thing is the largest
patch of its colour; its kind is not read, as the colours of a scene differ.

``sight.ColourEye`` finds things by colour as well, and neither can do the other's work. The eye learns the things'
colours where they stand, and so places a cup with its handle and band more often right. It also takes more of what
is left of an erased thing for the thing, as it does not know the colours of room and gripper; a judge of permanence
must not. ``docs/hands.md`` has the figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from torch import Tensor

from worldcompass.types import Scenario
from worldcompass.worlds.hands import looks
from worldcompass.worlds.hands.facts import FRAME_SIZE, FRAMES_PER_LATENT, THINGS
from worldcompass.worlds.hands.footage import scene_of
from worldcompass.worlds.hands.splits import Scene
from worldcompass.worlds.hands.tasks import parse
from worldcompass.worlds.hands.watching import PixelWatch

SHADES = (0.7, 0.8, 0.9, 1.0, 1.1)  # of a colour in light and shade
WHITER = (0.0, 0.15, 0.3)  # share of white in highlights and soft edges
DARKER = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1)  # shades of the room: shadows fall on it
FINGERS, PALM, ARM, TIP = (1.0, 0.56, 0.10), (0.20, 0.26, 0.40), (0.62, 0.66, 0.74), (0.20, 0.20, 0.24)
NEAREST = 60.0  # levels of 255, summed over channels in squares: further from all, a pixel is nothing
LEAST_AREA = 4  # pixels of a patch
RIVAL = 0.5  # of the largest patch: another patch as large is a second thing
FAR = 6.0  # pixels between two patches of a colour that a finger before one thing does not explain


@dataclass(frozen=True)
class Found:
    """Where F frames show the T things of a scene, in the order of ``facts.THINGS``."""

    area_FT: np.ndarray
    """int: pixels of the thing's patch, 0 where it is not seen."""
    place_FT2: np.ndarray
    """float: column and row of the patch's middle; NaN where it is not seen."""
    rivals_FT: np.ndarray
    """int: further patches of its colour that are about as large, apart from it."""

    @property
    def seen_FT(self) -> np.ndarray:
        """Whether each thing is seen, bool."""
        return self.area_FT > 0


@dataclass(frozen=True)
class Palette:
    """Colours of a scene, and whose they are."""

    colours_C3: np.ndarray
    """float32, levels of 255."""
    owner_C: np.ndarray
    """int: index of a thing, ``FINGER`` or ``ROOM``."""


FINGER, ROOM = len(THINGS), len(THINGS) + 1


@cache
def palette(of: Scene) -> Palette:
    """Shades of everything that a scene shows."""
    hues = looks.HUES | looks.UNSEEN_HUES
    rows: list[tuple[np.ndarray, int]] = []
    for index, kind in enumerate(THINGS):
        placed = of.placed(kind)
        if placed is not None:
            rows += [(_mixed(looks.rgb(hues[placed.colour]), s, w), index) for s in SHADES for w in WHITER]
    rows += [(_mixed(FINGERS, s, w), FINGER) for s in SHADES for w in WHITER]
    room = [PALM, ARM, TIP, *(looks.rgb(colour) for colour in (of.tint, of.wall, of.rim)), looks.WHITE]
    rows += [(_mixed(colour, s, 0), ROOM) for colour in room for s in DARKER]
    rows += [(_mixed(looks.rgb(of.rim), s, 0.0), ROOM) for s in (0.4, 0.3)]
    return Palette(np.stack([row for row, _ in rows]).astype(np.float32), np.array([o for _, o in rows]))


def _mixed(colour: Sequence[float], shade: float, white: float) -> np.ndarray:
    return 255 * np.clip(shade * np.array(colour) * (1 - white) + white, 0, 1)


def find(frames_F3hw: Tensor, of: Scene) -> Found:
    """Where uint8 frames of a scene show its things."""
    frames = frames_F3hw.movedim(1, -1).numpy()
    found = [_find_in(frame, of) for frame in frames]
    area, place, rivals = (np.stack(part) for part in zip(*found, strict=True))
    return Found(area, place, rivals)


def _find_in(frame_hw3: np.ndarray, of: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    owner_hw = owners_of(frame_hw3, palette(of))
    area = np.zeros(len(THINGS), int)
    place = np.full((len(THINGS), 2), np.nan)
    rivals = np.zeros(len(THINGS), int)
    for index, kind in enumerate(THINGS):
        if of.placed(kind) is not None:
            area[index], place[index], rivals[index] = _patches(owner_hw == index)
    return area, place, rivals


def owners_of(frame_hw3: np.ndarray, known: Palette) -> np.ndarray:
    """Whose colour each pixel has, int (h, w); -1 for none."""
    pixels = frame_hw3.reshape(-1, 3).astype(np.float32)
    colours = known.colours_C3
    distance = (pixels**2).sum(1)[:, None] - 2 * pixels @ colours.T + (colours**2).sum(1)
    nearest = distance.argmin(1)
    owner = np.where(distance[np.arange(len(pixels)), nearest] < NEAREST**2, known.owner_C[nearest], -1)
    return owner.reshape(FRAME_SIZE)


def _patches(mask_hw: np.ndarray) -> tuple[int, np.ndarray, int]:
    """Area and middle of the largest patch, and how many others far from it are about as large."""
    count, _, stats, middles = cv2.connectedComponentsWithStats(mask_hw.astype(np.uint8), connectivity=8)
    if count < 2:
        return 0, np.full(2, np.nan), 0
    areas = stats[1:, cv2.CC_STAT_AREA]
    best = int(areas.argmax())
    if areas[best] < LEAST_AREA:
        return 0, np.full(2, np.nan), 0
    apart = np.linalg.norm(middles[1:] - middles[1 + best], axis=1) > FAR
    rivals = int((apart & (areas >= max(LEAST_AREA, RIVAL * areas[best]))).sum())
    return int(areas[best]), middles[1 + best], rivals


def permanence(video_F3hw: Tensor, scenario: Scenario) -> np.ndarray:
    """For every frame the share of the start image's things that are there, once each; float (F,).

    Each latent's last frame is looked at, and stands for the latent. A thing that is out of sight in the engine's
    frame too, behind the gripper or in the cup, does not count; nor does one that the start image hides, which no
    world model can know of. Where none counts, none is lost: 1.
    """
    return kept_things(video_F3hw, scenario, scene_of(scenario.id))


def kept_things(video_F3hw: Tensor, scenario: Scenario, of: Scene) -> np.ndarray:
    """``permanence`` in any scene."""
    assert scenario.truth is not None
    ends = video_F3hw[::FRAMES_PER_LATENT]
    found = find(ends, of)
    true = find(scenario.truth.frames_F3hw[::FRAMES_PER_LATENT][: len(ends)], of)
    kept = found.seen_FT & (found.rivals_FT <= true.rivals_FT)
    counts = true.seen_FT & true.seen_FT[:1]
    shares = np.where(counts.any(1), (kept & counts).sum(1) / np.maximum(counts.sum(1), 1), 1.0)
    latent_of = -(-np.arange(len(video_F3hw)) // FRAMES_PER_LATENT)
    return shares[latent_of]


def errands_done(videos_VF3hw: Tensor, scenarios: Sequence[Scenario]) -> np.ndarray:
    """Whether each video shows its scenario's instruction done at the end of some latent; bool (V,)."""
    return np.array([_done(video, of) for video, of in zip(videos_VF3hw, scenarios, strict=True)])


def _done(video_F3hw: Tensor, of: Scenario) -> bool:
    wanted = parse(of.instruction)
    watch = PixelWatch.start(scene_of(of.id), video_F3hw[0], (wanted,))
    commands_M4 = of.actions.controls.flat_KA.double().numpy()
    for controls_4, picture in zip(
        commands_M4[1:], video_F3hw[FRAMES_PER_LATENT::FRAMES_PER_LATENT], strict=True
    ):
        watch = watch.after(controls_4, picture)
    return wanted in watch.done
