"""The pictures of a pair: a video and a filmstrip with the start image and both sides, named A and B alone.

A sheet may also show the engine's own video of the same commands, named *real*.

One file holds both sides, so that neither names, sizes nor dates of files tell them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from worldcompass.media.video import FONT, enlarge

VIDEO_SCALE = 6  # every pixel becomes a square of this side
STRIP_WIDTH = 320  # approximate width of a picture of a filmstrip, in pixels
COLUMNS = 4  # pictures in a row of a filmstrip
ROWS = 2  # of every side
MARGIN = 16  # pixels between pictures
SIDE_MARGIN = 6  # pixels between A and B in a filmstrip
BAR = 40  # pixels: height of a bar of text
BACKGROUND = 46  # grey level
INK = 240  # grey level of text


@dataclass(frozen=True)
class Shown:
    """What a pair shows; the frames of both sides are equally many."""

    start_3hw: np.ndarray
    """uint8 start image."""
    A_F3hw: np.ndarray
    """uint8 frames."""
    B_F3hw: np.ndarray
    commands_F: tuple[str, ...]
    """The command during each frame, in words."""
    fps: float
    real_F3hw: np.ndarray | None = None
    """uint8 frames of the engine; None on sheets that do not show it."""

    @property
    def rows(self) -> dict[str, np.ndarray]:
        """The videos by the names that raters see."""
        sides = {"A": self.A_F3hw, "B": self.B_F3hw}
        return sides if self.real_F3hw is None else {"real": self.real_F3hw, **sides}

    def __post_init__(self) -> None:
        """Refuse sides that a rater could tell apart by their shape.

        Raises:
            ValueError: when the sides differ in their shape, or commands are missing.
        """
        if self.A_F3hw.shape != self.B_F3hw.shape or len(self.commands_F) != len(self.A_F3hw):
            raise ValueError(
                f"expected two equal videos and a command for each frame, got {self.A_F3hw.shape},"
                f" {self.B_F3hw.shape} and {len(self.commands_F)} commands"
            )


def panel(shown: Shown) -> np.ndarray:
    """The video of a pair: start image, then its rows side by side, below them the command; uint8 (F, 3, h, w)."""
    start = enlarge(shown.start_3hw[None], VIDEO_SCALE)[0]
    height, width = start.shape[1:]
    lefts = [MARGIN + i * (width + MARGIN) for i in range(1 + len(shown.rows))]
    canvas = _canvas(2 * BAR + height, lefts[-1] + width + MARGIN)
    for left, title in zip(lefts, ("Start", *shown.rows), strict=True):
        _write(canvas, title, left + width // 2, BAR // 2)
    frames = []
    for index, command in enumerate(shown.commands_F):
        frame = canvas.copy()
        pictures = (start, *(enlarge(row[index][None], VIDEO_SCALE)[0] for row in shown.rows.values()))
        for left, picture in zip(lefts, pictures, strict=True):
            _place(frame, picture, BAR, left)
        _write(frame, f"command: {command}", frame.shape[1] // 2, BAR + height + BAR // 2, 0.8)
        frames.append(frame.transpose(2, 0, 1))
    return np.stack(frames)


def strip(shown: Shown) -> np.ndarray:
    """The filmstrip of a pair: the start image, then both sides at equal times up to the end; uint8 (3, h, w).

    Two bands of pictures with time from left to right; in each band A is above B, and the engine above both.
    """
    height, width = shown.start_3hw.shape[1:]
    scale = max(1, round(STRIP_WIDTH / width))
    tall, wide = height * scale, width * scale
    band = BAR + len(shown.rows) * (tall + SIDE_MARGIN) - SIDE_MARGIN
    canvas = _canvas(ROWS * (band + MARGIN), BAR + COLUMNS * (wide + MARGIN))
    for place, index in enumerate(moments(len(shown.A_F3hw))):
        row, column = divmod(place, COLUMNS)
        top, left = row * (band + MARGIN), BAR + column * (wide + MARGIN)
        title = f"{index / shown.fps:.1f} s" if place else "start"
        _write(canvas, title, left + wide // 2, top + BAR // 2, 0.8)
        for number, (name, frames) in enumerate(shown.rows.items()):
            picture = frames[index] if place else shown.start_3hw
            below = top + BAR + number * (tall + SIDE_MARGIN)
            _place(canvas, enlarge(picture[None], scale)[0], below, left)
            if column == 0:
                _write(canvas, name, BAR // 2, below + tall // 2, 1.0 if len(name) == 1 else 0.5)
    return canvas.transpose(2, 0, 1)


def moments(num_frames: int) -> Sequence[int]:
    """The frames on a filmstrip, evenly spread from the first to the last; some repeat in a very short video."""
    return np.linspace(0, num_frames - 1, COLUMNS * ROWS).round().astype(int).tolist()


def _canvas(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), BACKGROUND, np.uint8)


def _place(canvas_hw3: np.ndarray, picture_3hw: np.ndarray, top: int, left: int) -> None:
    height, width = picture_3hw.shape[1:]
    canvas_hw3[top : top + height, left : left + width] = picture_3hw.transpose(1, 2, 0)


def _write(canvas_hw3: np.ndarray, text: str, x: int, y: int, size: float = 1.0) -> None:
    """Text around a point."""
    (width, height), _ = cv2.getTextSize(text, FONT, size, 2)
    at = (x - width // 2, y + height // 2)
    cv2.putText(canvas_hw3, text, at, FONT, size, (INK, INK, INK), 2, cv2.LINE_AA)
