"""Images and videos from frames: H.264 files for browsers, columns side by side, filmstrips.

Frames are uint8 sRGB ``(F, 3, h, w)``, tensors or arrays. Functions that compose frames return NumPy arrays, and
functions that read files return tensors.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import cv2
import numpy as np
import torch
from av.container import InputContainer
from av.sidedata.sidedata import Type as SideData
from av.stream import Disposition
from av.video.stream import VideoStream
from torch import Tensor

from worldcompass.errors import UserError
from worldcompass.media.pictures import decode_picture
from worldcompass.runs.atomic import writing
from worldcompass.runs.reading import check_whole
from worldcompass.runs.requirements import need_version

need_version("av")

Frames = Tensor | np.ndarray
Matrix = tuple[float, float, float, float]
# What PyAV raises for damaged streams besides its own errors.
_UNREADABLE = (ArithmeticError, LookupError, MemoryError, ValueError)

# Containers that are opened, by FFmpeg's names. Others, such as playlists and SDP, may name files and addresses,
# which FFmpeg would then open itself.
CONTAINERS = (
    "mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "mpegts", "mpeg", "flv", "ogg", "gif",
    "asf", "h264", "hevc",
)  # fmt: skip

VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi")
"""Endings of files that count as videos in a folder."""
MAX_ASPECT = 4.0  # of a user's picture
QUALITY = 18  # x264 constant rate factor: visually lossless for small pictures
PRESET = "medium"  # of x264: how long it searches for a smaller file
GAP = 2  # pixels between pictures
BACKGROUND = 24  # grey level behind labels and between pictures
INK = 235  # grey level of labels
LABEL_HEIGHT = 22  # pixels
KEYS_HEIGHT = 18  # pixels of the bar with the commanded keys
KEYS_SIZE, LABEL_SIZE = 0.45, 0.5  # of letters
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
    """Write an H.264 file that plays in a browser (yuv420p, even sizes, index at the front).

    An existing file is replaced only when the new one is complete. Equal frames give equal bytes on one machine.
    """
    frames = _even(to_array(frames_F3hw)).transpose(0, 2, 3, 1)
    options = {"movflags": "+faststart"}
    with (
        writing(path, shared=True) as unfinished,
        av.open(str(unfinished.absolute()), "w", format="mp4", options=options) as container,
    ):
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        # With mbtree x264's bytes, and pixels by up to 3 levels, vary from call to call for some frame sizes.
        stream.options = {"crf": str(QUALITY), "preset": PRESET, "x264-params": "mbtree=0"}
        for picture in frames:
            packets = stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24"))
            container.mux(packets)
        container.mux(stream.encode())
    return path


def read_video(
    source: Path | bytes,
    max_frames: int | None = None,
    max_pixels: int | None = None,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """Frames of a video as a player shows them, uint8 (F, 3, h, w): upright, with square pixels.

    Args:
        source: a file, or its content.
        max_frames: number of frames to read; all when None.
        max_pixels: largest number of pixels per frame; unlimited when None.
        size: (height, width) to ``fit`` every frame to as it is read, so that memory depends on it alone.

    Raises:
        UserError: when the file does not exist, is not a video, or its frames are too large or change their size.
    """
    name = "this file" if isinstance(source, bytes) else str(source)
    if isinstance(source, Path) and not source.is_file():
        raise UserError(f"there is no file {source}: expected a video such as an MP4")
    try:
        shown = itertools.islice(_shown_frames(source, name, max_pixels), max_frames)
        frames = [picture if size is None else _fitted(picture, size) for picture in shown]
    except (av.error.FFmpegError, *_UNREADABLE) as why:
        raise UserError(
            f"{name} is not a readable video ({_said(why)}): expected one such as an MP4"
        ) from why
    if not frames:
        raise UserError(f"{name} holds no frames: expected a video such as an MP4")
    if len({picture.shape for picture in frames}) > 1:
        raise UserError(f"the frames of {name} change their size: expected a video of one size")
    return torch.from_numpy(np.stack(frames)).movedim(-1, 1)


def frame_rate(path: Path) -> float | None:
    """Frames per second of a video; None when the file does not say.

    Raises:
        UserError: when the file is not a video, or holds none.
    """
    try:
        with _opened(str(path.absolute())) as container:
            rate = _stream_of(container, str(path)).average_rate
    except (av.error.FFmpegError, *_UNREADABLE) as why:
        raise UserError(
            f"{path} is not a readable video ({_said(why)}): expected one such as an MP4"
        ) from why
    return float(rate) if rate else None


def _said(error: Exception) -> str:
    """What an error says, without FFmpeg's number and a repetition of the name."""
    return getattr(error, "strerror", None) or str(error)


def _shown_frames(source: Path | bytes, name: str, max_pixels: int | None) -> Iterator[np.ndarray]:
    """Frames (h, w, 3) one by one, see ``read_video``."""
    # A name with a colon, such as 10:20.mp4, would be a protocol of FFmpeg if the path were not absolute.
    opened = io.BytesIO(source) if isinstance(source, bytes) else str(source.absolute())
    with _opened(opened) as container:
        stream = _stream_of(container, name)
        if stream.codec_context is None:  # the file ends before what describes the stream
            raise UserError(f"{name} is not a readable video (no decoder): expected one such as an MP4")
        _check_pixels(stream.width, stream.height, max_pixels)
        matrix: Matrix | None = None
        for number, frame in enumerate(container.decode(stream)):
            _check_pixels(frame.width, frame.height, max_pixels)  # a stream may change its size
            squared = _square_pixels(frame.to_ndarray(format="rgb24"), stream.sample_aspect_ratio, name)
            # Once: a frame whose side data was read refers to itself and waits for the garbage collector.
            matrix = _matrix_of(frame) if number == 0 else matrix
            yield squared if matrix is None else _upright(squared, matrix, name)


def _stream_of(container: InputContainer, name: str) -> VideoStream:
    """The first stream of pictures that is no cover."""
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        raise UserError(f"{name} holds no video: expected a video such as an MP4")
    return streams[0]


def _opened(source: str | io.BytesIO) -> InputContainer:
    """A container of a known kind, which reads nothing but itself."""
    protocols = "file" if isinstance(source, str) else ""
    limits = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": protocols}
    return av.open(source, "r", container_options=limits)


def _check_pixels(width: int, height: int, max_pixels: int | None) -> None:
    if max_pixels is not None and width * height > max_pixels:
        raise UserError(f"the video is {width} x {height}: scale it down")


def _square_pixels(picture: np.ndarray, ratio: Fraction | None, name: str) -> np.ndarray:
    """The picture with square pixels; ``ratio`` is the width of a pixel by its height."""
    if not ratio or ratio == 1:
        return picture
    if not 1 / MAX_ASPECT <= ratio <= MAX_ASPECT:
        raise UserError(f"the pixels of {name} are {ratio} as wide as high: expected square ones")
    height, width = picture.shape[:2]
    return cv2.resize(picture, (max(1, round(width * ratio)), height), interpolation=cv2.INTER_AREA)


def _matrix_of(frame: av.VideoFrame) -> Matrix | None:
    """How the container turns and mirrors its frames: a stored point (x, y) is shown at (a x + c y, b x + d y)."""
    parts: Any = frame.side_data  # which PyAV types as if it held names
    matrix = next((part for part in parts if part.type == SideData.DISPLAYMATRIX), None)
    if matrix is None:
        return None
    a, b, _, c, d = (
        np.frombuffer(bytes(matrix), "<i4")[:5] / 65536
    ).tolist()  # fixed point a b u, c d v, x y w
    return a, b, c, d


def _upright(picture: np.ndarray, matrix: Matrix, name: str) -> np.ndarray:
    """The picture turned and mirrored as its container says, as a phone's videos need."""
    a, b, c, d = matrix
    turned, straight = bool(a == d == 0), bool(b == c == 0)
    if turned == straight:
        raise UserError(f"{name} is turned by less than a quarter: expected an upright video")
    right, down = (c, b) if turned else (a, d)
    shown = picture.swapaxes(0, 1) if turned else picture
    return np.ascontiguousarray(shown[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1])


def _fitted(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """``fit`` of a frame (h, w, 3)."""
    return fit(torch.from_numpy(picture).movedim(-1, 0)[None], size)[0].movedim(0, -1).numpy()


def read_image(path: Path) -> Tensor:
    """A picture file, uint8 (3, h, w).

    Raises:
        UserError: when there is no such file, or it is not an image or too large.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}: expected a PNG or JPEG file")
    try:
        check_whole(path)
    except ValueError as why:
        raise UserError(f"{path} is not read as a picture: {why}") from None
    return decode_picture(path.read_bytes(), str(path))


def check_aspect(width: int, height: int) -> None:
    """Refuse a user's picture that would lose most of its area when cropped to a world's aspect.

    Raises:
        UserError: for a picture that is too long or too wide.
    """
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UserError(f"the picture is {width} x {height}: crop it to no more than {MAX_ASPECT:.0f} : 1")


def fit(frames_F3hw: Tensor, size: tuple[int, int]) -> Tensor:
    """Frames cropped around their centre to the aspect of ``size`` (height, width) and resized to it; uint8."""
    height, width = frames_F3hw.shape[-2:]
    crop_w = max(1, min(width, height * size[1] // size[0]))
    crop_h = max(1, min(height, width * size[0] // size[1]))
    top, left = (height - crop_h) // 2, (width - crop_w) // 2
    cropped = frames_F3hw[..., top : top + crop_h, left : left + crop_w].movedim(1, -1).numpy()
    resized = [cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA) for frame in cropped]
    return torch.from_numpy(np.stack(resized)).movedim(-1, 1).contiguous()


def side_by_side(columns: Sequence[Frames], labels: Sequence[str], scale: int = 4) -> np.ndarray:
    """Videos next to each other, each under its label; shorter ones repeat their last frame."""
    if len(columns) != len(labels) or not columns:
        raise ValueError(
            f"expected one label for each column, got {len(columns)} columns, {len(labels)} labels"
        )
    arrays = [to_array(column) for column in columns]
    length = max(len(array) for array in arrays)
    labelled = [
        _under_label(enlarge(_repeat_last(array, length), scale), label)
        for array, label in zip(arrays, labels, strict=True)
    ]
    return _join(labelled, axis=3)


def stack_rows(rows: Sequence[Frames]) -> np.ndarray:
    """Videos of equal width below each other; shorter ones repeat their last frame."""
    arrays = [to_array(row) for row in rows]
    length = max(len(array) for array in arrays)
    return _join([_repeat_last(array, length) for array in arrays], axis=2)


def filmstrip(frames_F3hw: Frames, every: int, scale: int = 1, keys_F: Sequence[str] = ()) -> np.ndarray:
    """Every ``every``-th frame from left to right as one image, uint8 (3, h, w); see ``above_keys``."""
    if every < 1:
        raise ValueError(f"every must be 1 or more, got {every}")
    shown = enlarge(to_array(frames_F3hw)[::every], scale)
    shown = above_keys(shown, keys_F[: len(frames_F3hw)][::every]) if keys_F else shown
    return _join([f[None] for f in shown], axis=3)[0]


def filmstrips(
    rows: Sequence[Frames], labels: Sequence[str], every: int, scale: int = 2, keys_F: Sequence[str] = ()
) -> np.ndarray:
    """Filmstrips of several videos below each other, each with its label, as one image (3, h, w).

    Args:
        rows: the videos, which all follow the same commands.
        labels: of the videos.
        every: frames from picture to picture.
        scale: of the pictures.
        keys_F: the commanded keys of every frame, for the bar below each picture; none when empty.
    """
    strips = [
        _under_label(filmstrip(row, every, scale, keys_F)[None], label)
        for row, label in zip(rows, labels, strict=True)
    ]
    width = max(strip.shape[3] for strip in strips)
    return _join([_pad(strip, 0, width - strip.shape[3]) for strip in strips], axis=2)[0]


def above_keys(frames_F3hw: Frames, keys_F: Sequence[str]) -> np.ndarray:
    """Every frame above a bar with its own text, such as the commanded keys.

    Args:
        frames_F3hw: already enlarged.
        keys_F: one text per frame, see ``WorldSpec.keys_of_frames``.
    """
    frames = to_array(frames_F3hw)
    if len(keys_F) != len(frames):
        raise ValueError(f"expected one text for each of {len(frames)} frames, got {len(keys_F)}")
    bars = {text: _bar(text, frames.shape[3], KEYS_HEIGHT, KEYS_SIZE) for text in set(keys_F)}
    return np.concatenate([frames, np.stack([bars[text] for text in keys_F])], axis=2)


def save_png(path: Path, image_3hw: Frames) -> Path:
    """Write one image as a PNG file."""
    with writing(path, shared=True) as unfinished:
        unfinished.write_bytes(png(image_3hw))
    return path


def png(image_3hw: Frames) -> bytes:
    """One image in PNG format."""
    picture = np.ascontiguousarray(to_array(image_3hw[None])[0].transpose(1, 2, 0)[:, :, ::-1])
    ok, encoded = cv2.imencode(".png", picture)
    assert ok, f"PNG encoder refused a picture of {picture.shape}"
    return encoded.tobytes()


def enlarge(frames: np.ndarray, scale: int) -> np.ndarray:
    """Frames ``scale`` times as large, without interpolation: every pixel becomes a square."""
    return frames.repeat(scale, axis=2).repeat(scale, axis=3)


def _repeat_last(frames: np.ndarray, length: int) -> np.ndarray:
    return np.concatenate([frames, frames[-1:].repeat(length - len(frames), axis=0)])


def _pad(frames: np.ndarray, rows: int, columns: int) -> np.ndarray:
    widths = ((0, 0), (0, 0), (0, rows), (0, columns))
    return np.pad(frames, widths, constant_values=BACKGROUND)


def _even(frames: np.ndarray) -> np.ndarray:
    height, width = frames.shape[2:]
    return np.pad(frames, ((0, 0), (0, 0), (0, height % 2), (0, width % 2)), mode="edge")


def _under_label(frames: np.ndarray, label: str) -> np.ndarray:
    """The frames below a bar with the label."""
    bar = _bar(label, frames.shape[3], LABEL_HEIGHT, LABEL_SIZE)
    return np.concatenate([bar[None].repeat(len(frames), axis=0), frames], axis=2)


def _bar(text: str, width: int, height: int, size: float) -> np.ndarray:
    """A bar with a text that is shrunk to fit; (3, height, width)."""
    (needed, _), _ = cv2.getTextSize(text, FONT, size, 1)
    bar = np.full((height, width, 3), BACKGROUND, np.uint8)
    fitted = size * min(1.0, (width - 8) / max(needed, 1))
    cv2.putText(bar, text, (4, height * 3 // 4), FONT, fitted, (INK, INK, INK), 1, cv2.LINE_AA)
    return bar.transpose(2, 0, 1)


def _join(parts: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """Frames next to each other along one axis with gaps between them; other axes must agree."""
    shape = list(parts[0].shape)
    shape[axis] = GAP
    gap = np.full(shape, BACKGROUND, np.uint8)
    pieces = [piece for part in parts for piece in (gap, part)][1:]
    return np.concatenate(pieces, axis=axis)
