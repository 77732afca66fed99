"""Files that others wrote: what to say when one cannot be read, and JSON whose every fault is a ``ValueError``."""

from __future__ import annotations

import json
from typing import Any


def reason(why: Exception) -> str:
    """What is wrong with a file's content, for a sentence that names the file and a remedy.

    Raises:
        PermissionError: ``why`` itself if it is one: nothing is known of the content, and no other file mends that.
    """
    if isinstance(why, PermissionError):
        raise why
    if isinstance(why, OSError) and why.strerror and why.filename:
        return f"{why.strerror}: {why.filename}"
    return str(why)


def parse_json(data: bytes | bytearray | str) -> Any:
    """The value of JSON text, with whole numbers that a float can hold.

    Raises:
        ValueError: for anything else, and for deeper nesting than Python reads.
    """
    try:
        return json.loads(data, parse_int=_whole)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _whole(digits: str) -> int:
    value = int(digits)
    try:
        float(value)
    except OverflowError:
        raise ValueError(f"the number {digits[:8]}... of {len(digits)} digits is too large") from None
    return value
