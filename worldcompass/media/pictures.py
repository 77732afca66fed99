"""Decode a user's picture file, with its size checked before any pixel is."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import torch
from torch import Tensor

from worldcompass.errors import UserError

MAX_SIDE = 6000  # pixels; a phone's camera has about 4000


def decode_picture(data: bytes, name: str) -> Tensor:
    """A picture file's content as uint8 sRGB (3, h, w); 16 bits become 8, and a camera's rotation is applied.

    Args:
        data: PNG, JPEG, or another format of OpenCV.
        name: begins the error.

    Raises:
        UserError: when it is no picture, or has sides of more than ``MAX_SIDE`` pixels.
    """
    size = picture_size(data)
    if size is not None and max(size) > MAX_SIDE:
        raise UserError(
            f"{name} is {size[0]} x {size[1]} pixels: scale it down to sides of {MAX_SIDE} at most"
        )
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    except cv2.error as why:
        raise UserError(f"{name} is too large for OpenCV: scale it down") from why
    if image is None:
        raise UserError(
            f"{name} is damaged, or is not an image that OpenCV reads: expected a PNG or JPEG file"
        )
    return torch.from_numpy(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)).movedim(-1, 0).contiguous()


def picture_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in the header of a PNG or JPEG; None for other data."""
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR" and len(data) >= 24:
        return struct.unpack(">II", data[16:24])
    if data[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a start of frame
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        at += 1 if marker == 0xFF else 2 + length
    return None
