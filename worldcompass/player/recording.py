"""Recordings of all panes as MP4 and GIF files, stored until the player stops."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from worldcompass.media.video import side_by_side, write_mp4

MAX_SECONDS = 60.0
MAX_FILES = 16  # stored recordings; the oldest is deleted
MP4_WIDTH, GIF_WIDTH = 480, 256  # approximate pixels of one pane
GIF_FPS = 12.5  # browsers play it evenly, as a GIF counts time in hundredths of a second


class Recording:
    """The frames of all panes during a recording."""

    def __init__(self, names: Sequence[str], fps: float) -> None:
        self.names, self.fps, self.longest = tuple(names), fps, MAX_SECONDS
        self._parts: list[Sequence[Tensor]] = []
        self._count = 0

    @property
    def seconds(self) -> float:
        """Duration of the recording."""
        return self._count / self.fps

    def add(self, frames: Sequence[Tensor]) -> bool:
        """Append the frames of a step, uint8 (F, 3, h, w) per pane; False once the recording is full."""
        if len(frames) == len(self.names):  # another start may show fewer panes
            self._parts.append(frames)
            self._count += len(frames[0])
        return self.seconds < self.longest

    def columns(self) -> list[np.ndarray]:
        """The video of every pane."""
        return [torch.cat(list(column)).numpy() for column in zip(*self._parts, strict=True)]


class Shelf:
    """A folder of finished recordings with random names."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="worldcompass-clips-")
        self._files: dict[str, Path] = {}

    def save(self, recording: Recording) -> dict[str, str | float]:
        """Write both files; return their addresses and the length in seconds."""
        columns, token = recording.columns(), secrets.token_urlsafe(12)
        width = columns[0].shape[-1]
        large = side_by_side(columns, recording.names, max(1, MP4_WIDTH // width))
        mp4 = write_mp4(Path(self._folder.name) / f"{token}.mp4", large, recording.fps)
        every = max(1, round(recording.fps / GIF_FPS))
        few = [column[::every] for column in columns]
        gif = Path(self._folder.name) / f"{token}.gif"
        write_gif(gif, side_by_side(few, recording.names, max(1, GIF_WIDTH // width)), recording.fps / every)
        self._files |= {mp4.name: mp4, gif.name: gif}
        for name in list(self._files)[: -2 * MAX_FILES]:
            self._files.pop(name).unlink(missing_ok=True)
        return {"mp4": f"/clips/{mp4.name}", "gif": f"/clips/{gif.name}", "seconds": recording.seconds}

    def find(self, name: str) -> Path | None:
        """The stored file of that name, or None."""
        return self._files.get(name)

    def close(self) -> None:
        """Delete all recordings."""
        self._files.clear()
        self._folder.cleanup()


def write_gif(path: Path, frames_F3hw: np.ndarray, fps: float) -> Path:
    """Write an endlessly repeating GIF."""
    animation = cv2.Animation()
    animation.frames = [np.ascontiguousarray(f[::-1].transpose(1, 2, 0)) for f in frames_F3hw]
    animation.durations = [round(1000 / fps)] * len(frames_F3hw)
    if not cv2.imwriteanimation(str(path), animation):
        raise OSError(f"cannot write {path}")
    return path
