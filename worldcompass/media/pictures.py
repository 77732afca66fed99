"""Decode a user's picture file, with its size checked before any pixel is."""

from __future__ import annotations

import struct
from collections.abc import Callable

import cv2
import numpy as np
import torch
from torch import Tensor

from worldcompass.errors import UserError

MAX_SIDE = 6000  # pixels; a phone's camera has about 4000
WEBP_QUALITY = 80  # of 100
PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"  # with which these files begin
_NO_PICTURE = "is damaged, or is not an image that this program reads: expected a PNG or JPEG file"


def decode_picture(data: bytes, name: str) -> Tensor:
    """A picture file's content as uint8 sRGB (3, h, w); 16 bits become 8, and a camera's rotation is applied.

    Args:
        data: PNG, JPEG, or another format of OpenCV.
        name: begins the error.

    Raises:
        UserError: when it is no picture of a known format, or has sides of more than ``MAX_SIDE`` pixels.
    """
    if data and (size := picture_size(data)) is None:
        raise UserError(f"{name} {_NO_PICTURE}")
    if data and max(size) > MAX_SIDE:
        raise UserError(
            f"{name} is {size[0]} x {size[1]} pixels: scale it down to sides of {MAX_SIDE} at most"
        )
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    except cv2.error as why:
        raise UserError(f"{name} is too large for OpenCV: scale it down") from why
    if image is None:
        raise UserError(f"{name} {_NO_PICTURE}")
    return torch.from_numpy(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)).movedim(-1, 0).contiguous()


def small_webp(picture: bytes, width: int) -> bytes:
    """A picture of this program as WebP, scaled down to ``width`` pixels where it is wider."""
    image = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None, "not a picture"
    if image.shape[1] > width:
        size = (width, max(1, round(image.shape[0] * width / image.shape[1])))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    ok, encoded = cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, WEBP_QUALITY])
    assert ok, f"WebP encoder refused a picture of {image.shape}"
    return encoded.tobytes()


def picture_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in the header of a PNG, JPEG, WebP, TIFF, JPEG 2000, BMP or GIF; None for other data."""
    for begins, read in _HEADERS.items():
        if data.startswith(begins):
            try:
                return read(data)
            except (struct.error, IndexError, KeyError):  # cut
                return None
    return None


def _png(data: bytes) -> tuple[int, int] | None:
    return struct.unpack_from(">II", data, 16) if data[12:16] == b"IHDR" else None


def _jpeg(data: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a start of frame
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        at += 1 if marker == 0xFF else 2 + length
    return None


def _webp(data: bytes) -> tuple[int, int] | None:
    if data[8:16] == b"WEBPVP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    elif data[8:16] == b"WEBPVP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif data[8:16] == b"WEBPVP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        return None
    return width, height


def _tiff(data: bytes) -> tuple[int, int]:
    order = "<" if data[:2] == b"II" else ">"
    (at,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, at)
    sides: dict[int, int] = {}
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(f"{order}HH", data, entry)
        if tag in (256, 257):  # width and height, as 16 or 32 bits
            (sides[tag],) = struct.unpack_from(f"{order}{'H' if kind == 3 else 'I'}", data, entry + 8)
    return sides[256], sides[257]


def _jp2(data: bytes) -> tuple[int, int] | None:
    at = data.find(b"ihdr", 0, 4096)
    if at < 0:
        return None
    height, width = struct.unpack_from(">II", data, at + 4)
    return width, height


def _codestream(data: bytes) -> tuple[int, int]:
    right, bottom, left, top = struct.unpack_from(">IIII", data, 8)
    return right - left, bottom - top


def _bmp(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from("<ii", data, 18)
    return abs(width), abs(height)


_HEADERS: dict[bytes, Callable[[bytes], tuple[int, int] | None]] = {
    PNG: _png,
    JPEG: _jpeg,
    b"RIFF": _webp,
    b"II*\0": _tiff,
    b"MM\0*": _tiff,
    b"\0\0\0\x0cjP  ": _jp2,
    b"\xff\x4f\xff\x51": _codestream,
    b"BM": _bmp,
    b"GIF8": lambda data: struct.unpack_from("<HH", data, 6),
}
