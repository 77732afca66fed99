"""The starts of walks: scenes of the evaluation, and the user's own pictures."""

from __future__ import annotations

import base64
import hashlib
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
from torch import Tensor

from worldcompass.errors import UserError
from worldcompass.media.pictures import JPEG, MAX_SIDE, PNG, decode_picture, picture_size
from worldcompass.media.video import check_aspect, fit

MAX_UPLOAD_BYTES = 8 * 2**20
MIN_SIDE = 16
GIVEN, OWN = "Pictures", "Your pictures"
MAX_PICTURES = 32  # stored pictures of users; the oldest is deleted


@dataclass(frozen=True)
class Start:
    """A start of walks."""

    id: str
    title: str
    group: str
    image_3hw: Tensor
    """uint8 sRGB in the world's frame size."""
    plan: object | None = None
    """The route of the world's engine to this start, for its pane; None for a picture."""
    composites_M: tuple[int, ...] = ()
    """The actions of a walk for blind votes, with the start's 0 first; empty for a picture."""


class Starts:
    """All starts in order of their addition; safe for several threads."""

    def __init__(self, starts: tuple[Start, ...] = ()) -> None:
        self._lock = threading.Lock()
        self._starts = {start.id: start for start in starts}

    def add(self, start: Start) -> None:
        """Add a start; the oldest of too many users' pictures is deleted."""
        with self._lock:
            self._starts[start.id] = start
            own = [s.id for s in self._starts.values() if s.group == OWN]
            for old in own[:-MAX_PICTURES]:
                del self._starts[old]

    def all(self) -> list[Start]:
        """All starts."""
        with self._lock:
            return list(self._starts.values())

    def first(self) -> Start:
        """The default start.

        Raises:
            UserError: when the gallery is empty.
        """
        for start in self.all():
            return start
        raise UserError("the gallery is empty: upload a picture")

    def find(self, start_id: str) -> Start:
        """The start with this id.

        Raises:
            UserError: for an unknown id.
        """
        with self._lock:
            if start_id in self._starts:
                return self._starts[start_id]
        raise UserError("this start does not exist: choose one from the gallery, or upload the picture again")


def start_from_picture(data: bytes, frame_size: tuple[int, int]) -> Start:
    """A start from a PNG or JPEG file, cropped around its centre to the world's aspect.

    Raises:
        UserError: when the picture is too large, too small, too narrow or unreadable.
    """
    if len(data) > MAX_UPLOAD_BYTES:
        raise UserError(f"the picture has more than {MAX_UPLOAD_BYTES >> 20} MiB: save a smaller one")
    size = picture_size(data) if data.startswith((PNG, JPEG)) else None
    if size is None:
        raise UserError("this file is not a picture that can be read: choose a PNG or JPEG")
    width, height = size
    if max(size) > MAX_SIDE or min(size) < MIN_SIDE:
        raise UserError(
            f"the picture is {width} x {height}: expected sides of {MIN_SIDE} to {MAX_SIDE} pixels"
        )
    check_aspect(width, height)
    fitted = fit(decode_picture(data, "the picture")[None], frame_size)[0]
    return Start(f"own/{hashlib.sha256(data).hexdigest()[:16]}", "your picture", OWN, fitted)


def start_from_file(path: Path, frame_size: tuple[int, int]) -> Start:
    """A start from a picture of ``--start``, which every gallery shows.

    Raises:
        UserError: when there is no such file, and as ``start_from_picture``.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}: expected a PNG or JPEG to start from")
    try:
        start = start_from_picture(path.read_bytes(), frame_size)
    except UserError as why:
        raise UserError(f"{path}: {why}") from why
    return replace(start, id=start.id.replace("own/", "given/"), title=path.stem, group=GIVEN)


def data_url(image_3hw: Tensor) -> str:
    """A picture as a data URL with a PNG, for an ``img`` element."""
    ok, png = cv2.imencode(".png", cv2.cvtColor(image_3hw.movedim(0, -1).numpy(), cv2.COLOR_RGB2BGR))
    assert ok, f"PNG encoder refused a picture of {tuple(image_3hw.shape)}"
    return f"data:image/png;base64,{base64.b64encode(png.tobytes()).decode()}"
