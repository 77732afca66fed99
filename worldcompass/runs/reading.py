"""JSON that others wrote: everything that is wrong with it is a ``ValueError``."""

from __future__ import annotations

import json
from typing import Any


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
