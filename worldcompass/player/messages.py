"""The messages between browser and server over the WebSocket.

Text is JSON in both directions. Pictures are binary: the length of a header as 4 bytes (little endian), the
header as JSON, then one JPEG for every pane.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Annotated, Literal

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor

from worldcompass.actions import ActionSpace
from worldcompass.errors import UserError

MAX_PATH_CHARACTERS = 27_000  # the longest walk with one entry per latent, such as "w+d+right+down-1, "
MAX_MESSAGE_BYTES = 32_768
LARGEST_SEED = 2**31 - 1
JPEG_QUALITY = 95  # with full colour resolution, visually lossless

# Name and sign of an axis -> where a mouse moves for it.
LOOKS = {
    ("yaw", 1): "right", ("yaw", -1): "left", ("pitch", 1): "up", ("pitch", -1): "down",
    ("mouse_x", 1): "right", ("mouse_x", -1): "left", ("mouse_y", 1): "down", ("mouse_y", -1): "up",
}  # fmt: skip
MAX_HELD = 32  # keys at once, more than fingers and a gamepad can hold


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Hello(_Message):
    """The first message, with the token of an earlier connection or an empty one."""

    type: Literal["hello"]
    token: str = Field("", max_length=64)


class Begin(_Message):
    """Go to a start; with a path, walk along it."""

    type: Literal["start"]
    start: str = Field(max_length=200)
    seed: int = Field(0, ge=0, le=LARGEST_SEED)
    path: str = Field("", max_length=MAX_PATH_CHARACTERS)


class Keys(_Message):
    """The words of the keys that are down; ``number`` counts these messages."""

    type: Literal["keys"]
    held: list[Annotated[str, Field(max_length=40)]] = Field(max_length=MAX_HELD)
    number: int = Field(0, ge=0, le=2**53)


class Rewind(_Message):
    """Go back by a number of latents, at most to the oldest stored moment."""

    type: Literal["rewind"]
    latents: int = Field(ge=1, le=10_000)


class Record(_Message):
    """Start or stop recording."""

    type: Literal["record"]
    on: bool


Message = Hello | Begin | Keys | Rewind | Record
_MESSAGES: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="type")])


def read_message(text: str) -> Message:
    """A message from the browser.

    Raises:
        UserError: names the problem in one sentence.
    """
    if len(text) > MAX_MESSAGE_BYTES:
        raise UserError(f"the message has more than {MAX_MESSAGE_BYTES} characters: send a shorter one")
    try:
        return _MESSAGES.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "message"
        raise UserError(f"cannot read {place}: {first['msg']}") from error


def key_cards(space: ActionSpace) -> list[dict[str, str]]:
    """What the pages know of a world's keys."""
    return [{"word": key.word, "code": key.code, "says": key.says} for key in space.keys]


def mouse_words(space: ActionSpace) -> dict[str, str]:
    """Where a mouse looks: the words of right, left, up and down; empty for a world that turns no view.

    These are the ways of the axes ``yaw`` or ``mouse_x``, and ``pitch`` or ``mouse_y``, which grows downwards.
    """
    return {
        LOOKS[space.axes[key.axis], key.sign]: key.word
        for key in space.keys
        if (space.axes[key.axis], key.sign) in LOOKS
    }


def encode_frame(frame_3hw: Tensor) -> bytes:
    """A uint8 frame as JPEG."""
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    bgr = np.ascontiguousarray(frame_3hw.cpu().numpy()[::-1].transpose(1, 2, 0))
    ok, jpeg = cv2.imencode(".jpg", bgr, options)
    assert ok, f"JPEG encoder refused a picture of {tuple(frame_3hw.shape)}"
    return jpeg.tobytes()


def pack_pictures(jpegs: Sequence[bytes], number: int, latent: int) -> bytes:
    """One moment of all panes; a pane without a view has an empty picture.

    Args:
        number: the latest ``Keys`` message that this moment obeys.
        latent: index of the latent that the frames belong to.
    """
    header = json.dumps({"number": number, "latent": latent, "sizes": [len(j) for j in jpegs]}).encode()
    return b"".join([struct.pack("<I", len(header)), header, *jpegs])


def unpack_pictures(message: bytes) -> tuple[dict[str, int | list[int]], list[bytes]]:
    """The header and the pictures of ``pack_pictures``, for clients in Python."""
    (length,) = struct.unpack_from("<I", message)
    header, at, pictures = json.loads(message[4 : 4 + length]), 4 + length, []
    for size in header["sizes"]:
        pictures.append(message[at : at + size])
        at += size
    return header, pictures
