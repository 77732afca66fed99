"""What a reader sees of a latent: optical flow and pictures, averaged over cells of four pixels.

Flow looks alike in places that no recording shows, so little data goes far. Pictures say what flow does not: where
things are, and what changes without moving. Nothing here is learned, so training looks at each latent once.
"""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import cv2
import numpy as np
import torch
from torch import Tensor

from worldcompass.media.video import fit
from worldcompass.parallel.cpus import usable_cpus

AREA, SHORTEST, STEP = (
    64 * 64,
    32,
    8,
)  # pixels of a frame that is read, its shortest side, and what divides sides
CELL = 4  # pixels
MOST_FRAMES = 5  # of a latent that are read, its first and its last among them
SPREAD, LEAST_SPREAD = (
    48.0,
    4.0,
)  # levels of 255 to which brightness is stretched (deviation); of flat pictures
MOST_FLOW, FLOW_UNIT = 24.0, 2.0  # pixels
WHOLE, QUICK = (
    0,
    1,
)  # finest scale of flow over a latent, and between neighbours, where half of the size is enough
BRIGHT, DETAIL, REST, EDGE = (
    64.0,
    8.0,
    32.0,
    256.0,
)  # levels that are 1 in pictures, detail, differences and edges
MIDDLE = 127.5  # the level that is 0 in pictures

_local = threading.local()


def reading_size(frame_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) in which pictures are read: of nearly the same aspect, and ``AREA`` pixels at most."""
    height, width = frame_size
    factor = min(1.0, math.sqrt(AREA / (height * width)))
    factor = max(factor, SHORTEST / min(height, width))
    high, wide = (STEP * max(1, round(factor * side / STEP)) for side in (height, width))
    return high, wide


def resized(frames_N3hw: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 frames in the size in which they are read, on the CPU."""
    frames = frames_N3hw.cpu()
    return frames if tuple(frames.shape[-2:]) == size else fit(frames, size)


def read_frames(frames_per_latent: int) -> tuple[int, ...]:
    """Which of the ``frames_per_latent + 1`` frames from the end of one latent to the end of the next are read."""
    count = min(MOST_FRAMES, frames_per_latent + 1)
    return tuple(round(i * frames_per_latent / (count - 1)) for i in range(count))


def windows(frames_GF3hw: Tensor, frames_per_latent: int) -> Tensor:
    """The frames that are read of every latent, (G, K, W, 3, h, w), of F = 1 + K frames_per_latent."""
    found = frames_GF3hw.unfold(1, frames_per_latent + 1, frames_per_latent).movedim(-1, 2)
    return found[:, :, list(read_frames(frames_per_latent))]


def num_planes(num_frames: int) -> int:
    """C of ``looked_at``, for W frames of a latent."""
    return 2 * num_frames + 12


def looked_at(windows_BW3hw: Tensor) -> Tensor:
    """What is seen of uint8 windows, in as many threads as torch uses; float32 (B, C, h / 4, w / 4)."""
    whole = np.ascontiguousarray(windows_BW3hw.movedim(2, -1).cpu().numpy())
    workers = min(torch.get_num_threads(), usable_cpus())
    if workers == 1:
        found = [_seen(window) for window in whole]
    else:
        with ThreadPoolExecutor(workers) as pool:
            found = list(pool.map(_seen, whole))
    return torch.from_numpy(np.ascontiguousarray(np.stack(found)))


def _seen(window_Whw3: np.ndarray) -> np.ndarray:
    """Flow between neighbours and over all, first and last picture, their detail, edges, what flow leaves over."""
    grey = _stretched(window_Whw3)
    steps = [_flow(a, b, QUICK) for a, b in pairwise(grey)]
    whole = _flow(grey[0], grey[-1], WHOLE)
    height, width = grey.shape[1:]
    ys, xs = np.mgrid[:height, :width].astype(np.float32)
    where = (xs + whole[..., 0], ys + whole[..., 1])
    back = cv2.remap(grey[-1], *where, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    rest = [cv2.absdiff(grey[0], image).astype(np.float32) / REST for image in (back, grey[-1])]
    edges = [np.abs(cv2.Sobel(grey[0], cv2.CV_32F, *axis, ksize=3)) / EDGE for axis in ((1, 0), (0, 1))]
    ends = [window_Whw3[end].astype(np.float32) for end in (0, -1)]
    pictures = [(end - MIDDLE) / BRIGHT for end in ends]
    fine = [np.abs(end - cv2.blur(end, (3, 3))).mean(-1) / DETAIL for end in ends]  # which a blur takes away
    moved = [np.clip(flow, -MOST_FLOW, MOST_FLOW) / FLOW_UNIT for flow in (*steps, whole)]
    size = (width // CELL, height // CELL)
    parts = [
        cv2.resize(part, size, interpolation=cv2.INTER_AREA)
        for part in (*moved, *pictures, *fine, *edges, *rest)
    ]
    return np.concatenate([p.reshape(*size[::-1], -1) for p in parts], -1).transpose(2, 0, 1)


def _stretched(window_Whw3: np.ndarray) -> np.ndarray:
    """Grey uint8 (W, h, w) of the same contrast everywhere; the frames of a window share one scale."""
    rows = window_Whw3.reshape(-1, window_Whw3.shape[2], 3)
    grey = cv2.cvtColor(rows, cv2.COLOR_RGB2GRAY).astype(np.float32)
    grey = (grey - grey.mean()) * (SPREAD / max(float(grey.std()), LEAST_SPREAD)) + 128
    return np.clip(grey, 0, 255).astype(np.uint8).reshape(window_Whw3.shape[:3])


def _flow(before: np.ndarray, after: np.ndarray, finest: int) -> np.ndarray:
    """DIS flow (h, w, 2) in pixels, with one estimator per thread, as it is not thread-safe."""
    if not hasattr(_local, "dis"):
        _local.dis = {}
    if finest not in _local.dis:
        _local.dis[finest] = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        _local.dis[finest].setFinestScale(finest)
    # None, as any array, even of zeros, would be used as the initial flow and change the result.
    return _local.dis[finest].calc(before, after, None)
