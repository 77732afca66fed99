"""Files that others wrote: what to say when one cannot be read, and JSON whose every fault is a ``ValueError``."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

LARGEST = 1 << 30  # bytes of a JSON file or a picture, which are read whole


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


def check_whole(path: Path) -> None:
    """Check that a file has an end, and that memory may hold all of it.

    Raises:
        OSError: when there is no such file.
        ValueError: for a device, or more than ``LARGEST`` bytes.
    """
    found = path.stat()
    if stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode):
        raise ValueError("it is a device")
    if found.st_size > LARGEST:
        raise ValueError(f"it has {found.st_size / 2**30:.1f} GiB, at most {LARGEST >> 30} is read")


def read_json(path: Path) -> Any:
    """The value of a JSON file; see ``parse_json``.

    Raises:
        OSError: when it cannot be read.
        ValueError: also for what ``check_whole`` refuses.
    """
    check_whole(path)
    return parse_json(path.read_bytes())


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
