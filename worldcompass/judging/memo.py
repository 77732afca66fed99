"""What was computed of videos that several judgements share, such as the real ones and a forgery's original."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")


class Memo:
    """Remembers results of some videos, by their memory; those of all others are computed anew."""

    def __init__(self, kept: Sequence[Tensor] = ()) -> None:
        self._kept = tuple(kept)  # held, so that no other videos take their place in memory
        self._known: dict[tuple[object, ...], Any] = {}

    def of(self, what: tuple[object, ...], videos_VF3hw: Tensor, make: Callable[[], T]) -> T:
        """The result of ``make``, which is called once for kept videos.

        Args:
            what: names the result; with the videos it determines it.
            videos_VF3hw: whole videos or a view of all of them.
            make: computes it.
        """
        if not any(_same(videos_VF3hw, kept) for kept in self._kept):
            return make()
        key = (*what, videos_VF3hw.data_ptr())
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]


def _same(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.numel() == b.numel()
