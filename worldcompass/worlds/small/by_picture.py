"""What a frozen network found of pictures, kept as training meets the same scenarios many times."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b

import torch
from torch import Tensor

Found = tuple[Tensor, ...]
"""Of N pictures, (N, ...) each."""


class ByPicture:
    """A function of pictures that keeps what it found of each, the most recent ones.

    Pictures are looked at one by one, so that what is found of one does not depend on what else was asked for: a
    resumed run repeats bit by bit. On other devices than the CPU, and in inference mode, nothing is kept.
    """

    def __init__(self, look: Callable[[Tensor], Found], most: int) -> None:
        """Keep at most ``most`` pictures of ``look``, a function of (N, 3, h, w)."""
        self._look, self._most = look, most
        self._kept: OrderedDict[bytes, Found] = OrderedDict()

    @torch.no_grad()
    def __call__(self, pictures_N3hw: Tensor) -> Found:
        """What the function finds of these pictures."""
        ordinary = type(pictures_N3hw) is Tensor and pictures_N3hw.device.type == "cpu"
        if not ordinary or torch.is_inference_mode_enabled() or len(pictures_N3hw) == 0:
            return self._look(pictures_N3hw)
        return tuple(map(torch.cat, zip(*map(self._recall, pictures_N3hw.split(1)), strict=True)))

    def _recall(self, picture_13hw: Tensor) -> Found:
        key = blake2b(picture_13hw.contiguous().numpy().tobytes(), digest_size=16).digest()
        if key in self._kept:
            self._kept.move_to_end(key)
        else:
            self._kept[key] = self._look(picture_13hw)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return self._kept[key]
