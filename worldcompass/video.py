"""Pictures and videos of frames: H.264 files that browsers play, columns side by side, filmstrips.

Frames are uint8 sRGB ``(F, 3, h, w)``, tensors or arrays; what comes back is always a NumPy array.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import cv2
import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    Frames = Tensor | np.ndarray

QUALITY = 18  # x264 constant rate factor: visually lossless for small pictures
GAP = 2  # pixels between pictures
BACKGROUND = 24  # grey level behind labels and between pictures
INK = 235  # grey level of labels
LABEL_HEIGHT = 22  # pixels
FONT = cv2.FONT_HERSHEY_SIMPLEX


def to_array(frames: Frames) -> np.ndarray:
    """Frames as a NumPy array.

    Raises:
        ValueError: when they are not uint8 (F, 3, h, w) with at least one frame.
    """
    value: Any = frames
    array = value if isinstance(value, np.ndarray) else value.detach().cpu().numpy()
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[1] != 3 or array.shape[0] == 0:
        raise ValueError(f"expected uint8 frames (F, 3, h, w) with F >= 1, got {array.dtype} {array.shape}")
    return array


def write_mp4(path: Path, frames_F3hw: Frames, fps: float) -> Path:
    """Write an H.264 file that plays in a browser (yuv420p, even sizes, index in front).

    A file that was there before is replaced only when the new one is complete.
    """
    frames = _even(to_array(frames_F3hw)).transpose(0, 2, 3, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.mp4")
    with av.open(str(partial), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": str(QUALITY), "preset": "medium"}
        for picture in frames:
            packets = stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24"))
            container.mux(packets)
        container.mux(stream.encode())
    return partial.replace(path)


def side_by_side(columns: Sequence[Frames], labels: Sequence[str], scale: int = 4) -> np.ndarray:
    """Videos beside each other, each under its label; a shorter one holds its last frame."""
    if len(columns) != len(labels) or not columns:
        raise ValueError(
            f"expected one label for each column, got {len(columns)} columns, {len(labels)} labels"
        )
    arrays = [to_array(column) for column in columns]
    length = max(len(array) for array in arrays)
    labelled = [
        _under_label(enlarge(_hold(array, length), scale), label)
        for array, label in zip(arrays, labels, strict=True)
    ]
    return _join(labelled, axis=3)


def stack_rows(rows: Sequence[Frames]) -> np.ndarray:
    """Videos of equal width under each other; a shorter one holds its last frame."""
    arrays = [to_array(row) for row in rows]
    length = max(len(array) for array in arrays)
    return _join([_hold(array, length) for array in arrays], axis=2)


def filmstrip(frames_F3hw: Frames, every: int, scale: int = 1) -> np.ndarray:
    """Every ``every``-th frame from left to right as one picture, uint8 (3, h, w)."""
    if every < 1:
        raise ValueError(f"every must be 1 or more, got {every}")
    return _join([f[None] for f in enlarge(to_array(frames_F3hw)[::every], scale)], axis=3)[0]


def filmstrips(rows: Sequence[Frames], labels: Sequence[str], every: int, scale: int = 2) -> np.ndarray:
    """Filmstrips of several videos under each other, each with its label, as one picture (3, h, w)."""
    strips = [
        _under_label(filmstrip(row, every, scale)[None], label)
        for row, label in zip(rows, labels, strict=True)
    ]
    width = max(strip.shape[3] for strip in strips)
    return _join([_pad(strip, 0, width - strip.shape[3]) for strip in strips], axis=2)[0]


def save_png(path: Path, image_3hw: Frames) -> Path:
    """Write one picture as PNG."""
    picture = np.ascontiguousarray(to_array(image_3hw[None])[0].transpose(1, 2, 0)[:, :, ::-1])
    ok, encoded = cv2.imencode(".png", picture)
    assert ok, f"PNG encoder refused a picture of {picture.shape}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded.tobytes())
    return path


def fit_picture(image_hw3: np.ndarray, height: int, width: int) -> np.ndarray:
    """The middle of a uint8 picture in the aspect of ``height`` x ``width``, at that size: (3, height, width)."""
    tall, wide = image_hw3.shape[:2]
    crop_w, crop_h = (
        max(1, n) for n in (min(wide, tall * width // height), min(tall, wide * height // width))
    )
    top, left = (tall - crop_h) // 2, (wide - crop_w) // 2
    middle = image_hw3[top : top + crop_h, left : left + crop_w]
    resized = cv2.resize(middle, (width, height), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(resized.transpose(2, 0, 1))


def enlarge(frames: np.ndarray, scale: int) -> np.ndarray:
    """Frames ``scale`` times as large, every pixel a square: nothing is invented."""
    return frames.repeat(scale, axis=2).repeat(scale, axis=3)


def _hold(frames: np.ndarray, length: int) -> np.ndarray:
    return np.concatenate([frames, frames[-1:].repeat(length - len(frames), axis=0)])


def _pad(frames: np.ndarray, rows: int, columns: int) -> np.ndarray:
    widths = ((0, 0), (0, 0), (0, rows), (0, columns))
    return np.pad(frames, widths, constant_values=BACKGROUND)


def _even(frames: np.ndarray) -> np.ndarray:
    height, width = frames.shape[2:]
    return np.pad(frames, ((0, 0), (0, 0), (0, height % 2), (0, width % 2)), mode="edge")


def _under_label(frames: np.ndarray, label: str) -> np.ndarray:
    """The frames with a bar above that carries the label, shrunk to fit."""
    width = frames.shape[3]
    (needed, _), _ = cv2.getTextSize(label, FONT, 0.5, 1)
    size = 0.5 * min(1.0, (width - 8) / max(needed, 1))
    bar = np.full((LABEL_HEIGHT, width, 3), BACKGROUND, np.uint8)
    cv2.putText(bar, label, (4, 16), FONT, size, (INK, INK, INK), 1, cv2.LINE_AA)
    bars = bar.transpose(2, 0, 1)[None].repeat(len(frames), axis=0)
    return np.concatenate([bars, frames], axis=2)


def _join(parts: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """Pictures next to each other along one axis with a gap between; other axes must agree."""
    shape = list(parts[0].shape)
    shape[axis] = GAP
    gap = np.full(shape, BACKGROUND, np.uint8)
    pieces = [piece for part in parts for piece in (gap, part)][1:]
    return np.concatenate(pieces, axis=axis)
