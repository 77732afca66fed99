"""Clips that are wrong by construction: things erased, recoloured, moved or doubled in the engine's frames."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from worldcompass.worlds.hands import looks
from worldcompass.worlds.hands.facts import THINGS
from worldcompass.worlds.hands.splits import Scene
from worldcompass.worlds.hands.task_judge import owners_of, palette

GROWN = 2  # pixels by which a thing's patch grows, for its soft edge and its white parts
JUMP = 5  # pixels by which a moved thing jumps
ASIDE = 16  # pixels between a thing and its double

Fault = Callable[[np.ndarray, np.ndarray, Scene, int, np.random.Generator], np.ndarray]
"""(frame (h, w, 3), mask of the thing (h, w), scene, index of the thing, random numbers) -> frame. The same random
numbers make the same fault."""


def mask_of(frame_hw3: np.ndarray, of: Scene, index: int) -> np.ndarray:
    """Pixels of a thing with its soft edge, bool (h, w)."""
    own = (owners_of(frame_hw3, palette(of)) == index).astype(np.uint8)
    closed = cv2.morphologyEx(own, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    return cv2.dilate(closed, np.ones((2 * GROWN + 1,) * 2, np.uint8)).astype(bool)


def erased(
    frame_hw3: np.ndarray, mask_hw: np.ndarray, of: Scene, index: int, rng: np.random.Generator
) -> np.ndarray:
    """The thing is gone: painted over from its surroundings."""
    return cv2.inpaint(frame_hw3, mask_hw.astype(np.uint8), 3, cv2.INPAINT_TELEA)


def recoloured(
    frame_hw3: np.ndarray, mask_hw: np.ndarray, of: Scene, index: int, rng: np.random.Generator
) -> np.ndarray:
    """The thing has a colour that no thing of the scene has."""
    taken = {thing.colour for thing in of.things}
    others = [name for name in looks.HUES if name not in taken]
    new = 255 * np.array(looks.rgb(looks.HUES[others[int(rng.integers(len(others)))]]))
    placed = of.placed(THINGS[index])
    assert placed is not None
    old = 255 * np.array(looks.rgb((looks.HUES | looks.UNSEEN_HUES)[placed.colour]))
    pixels = frame_hw3[mask_hw].astype(float)
    # Each pixel as a share of the old colour and of white, by least squares; the share goes to the new colour.
    basis = np.stack([old, np.full(3, 255.0)], 1)
    shares = np.linalg.lstsq(basis, pixels.T, rcond=None)[0]
    own = np.clip(shares[0], 0, 1.2)[:, None]
    changed = frame_hw3.copy()
    changed[mask_hw] = np.clip(pixels + own * (new - old), 0, 255).astype(np.uint8)
    return changed


def moved(
    frame_hw3: np.ndarray, mask_hw: np.ndarray, of: Scene, index: int, rng: np.random.Generator
) -> np.ndarray:
    """The thing stands elsewhere, ``JUMP`` pixels aside."""
    clean = erased(frame_hw3, mask_hw, of, index, rng)
    return _pasted(clean, frame_hw3, mask_hw, JUMP * (1 if rng.random() < 0.5 else -1))


def doubled(
    frame_hw3: np.ndarray, mask_hw: np.ndarray, of: Scene, index: int, rng: np.random.Generator
) -> np.ndarray:
    """A second thing of the kind stands beside it, on the side with more room."""
    columns = np.nonzero(mask_hw)[1]
    side = 1 if columns.mean() < frame_hw3.shape[1] / 2 else -1
    return _pasted(frame_hw3, frame_hw3, mask_hw, ASIDE * side)


def _pasted(onto: np.ndarray, source: np.ndarray, mask_hw: np.ndarray, right: int) -> np.ndarray:
    shift = np.array([[1, 0, right], [0, 1, 0]], np.float32)
    size = mask_hw.shape[::-1]
    where = cv2.warpAffine(mask_hw.astype(np.uint8), shift, size).astype(bool)
    changed = onto.copy()
    changed[where] = cv2.warpAffine(source, shift, size)[where]
    return changed


FAULTS: dict[str, Fault] = {"erased": erased, "recoloured": recoloured, "moved": moved, "doubled": doubled}


def spoilt_clip(
    frames_Fhw3: np.ndarray, of: Scene, index: int, fault: str, seed: int, begin: int = 0
) -> np.ndarray | None:
    """A clip with one thing wrong from frame ``begin`` on; None when the thing is out of sight in one of them."""
    changed = np.array(frames_Fhw3)
    for number in range(begin, len(changed)):
        mask = mask_of(changed[number], of, index)
        if not mask.any():
            return None
        changed[number] = FAULTS[fault](changed[number], mask, of, index, np.random.default_rng(seed))
    return changed
