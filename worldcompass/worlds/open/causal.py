"""Shared parts of the causal video autoencoders: passes over a segment of video that continue an earlier one.

Tensors are (B, C, F, H, W): frames or latents along F, pixels or cells along H and W.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

FRAMES_PER_LATENT = 4  # of every latent except a video's first, which is one frame

Memory = tuple[Tensor, ...]
"""The last input frames of each causal layer, in the order in which the layers run. Never changed in place."""


class Stream:
    """One pass over one segment of video, from which layers read their memory and to which they write a new one.

    Args:
        memory: of the previous segment, (1, ...) for all rows or (B, ...); None at the beginning of a video.
    """

    def __init__(self, memory: Memory | None) -> None:
        self.begins = memory is None
        self._before = list(memory or ())[::-1]
        self._kept: list[Tensor] = []

    def prepend(self, x: Tensor, start: Callable[[Tensor], Tensor]) -> Tensor:
        """The segment with the frames before it; at the beginning of a video, ``start`` makes them."""
        before = start(x) if self.begins else self._before.pop()
        whole = torch.cat([before.expand(len(x), -1, -1, -1, -1), x], 2)
        self.keep(whole[:, :, -before.shape[2] :])
        return whole

    def keep(self, x: Tensor) -> None:
        """Store frames for the same layer in the next segment, as a copy, to free the larger tensor."""
        self._kept.append(x.clone())

    def memory(self) -> Memory:
        """The memory for the next segment."""
        return tuple(self._kept)


class ChannelNorm(nn.Module):
    """Scales the channels of every pixel to a mean square of 1, then each by a learned factor."""

    def __init__(self, channels: int, num_axes: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *[1] * num_axes))

    def forward(self, x: Tensor) -> Tensor:
        """Normalised values of the same shape."""
        gamma = self.gamma.view(-1, 1, 1, 1)
        return functional.normalize(x, dim=1) * len(gamma) ** 0.5 * gamma


def attend_within_frames(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention with one head among the cells of each frame."""
    q_BFTC, k_BFTC, v_BFTC = (x.movedim(1, -1).flatten(2, 3) for x in (q, k, v))
    seen = functional.scaled_dot_product_attention(q_BFTC, k_BFTC, v_BFTC)
    return seen.movedim(-1, 1).reshape(q.shape)


def fold(x: Tensor, time: int, space: int) -> Tensor:
    """Neighbours along time, height and width as separate axes: (B, C, t, s, s, F/t, H/s, W/s)."""
    parts = x.unflatten(4, (-1, space)).unflatten(3, (-1, space)).unflatten(2, (-1, time))
    return parts.permute(0, 1, 3, 5, 7, 2, 4, 6)


def unfold(x: Tensor) -> Tensor:
    """The inverse of ``fold``."""
    return x.permute(0, 1, 5, 2, 6, 3, 7, 4).flatten(6, 7).flatten(4, 5).flatten(2, 3)


def average_channels(x: Tensor, channels: int) -> Tensor:
    """Means of consecutive channels; ``channels`` of them."""
    return x.unflatten(1, (channels, -1)).mean(2)


def repeat_channels(x: Tensor, channels: int) -> Tensor:
    """Every channel repeated in place, so that there are ``channels`` of them."""
    return x.repeat_interleave(channels // x.shape[1], 1)


def encode_stretches(run: Callable[[Tensor, Stream], Tensor], video: Tensor) -> Tensor:
    """Encode a video from its beginning: its first frame, then four frames at a time.

    Args:
        run: the encoder.
        video: 4K - 3 frames.

    Raises:
        ValueError: for another number of frames.
    """
    if video.shape[2] % FRAMES_PER_LATENT != 1:
        raise ValueError(f"a video has 1, 5, 9, ... frames, not {video.shape[2]}")
    first, rest = video[:, :, :1], video[:, :, 1:]
    segments = (first, *(rest.split(FRAMES_PER_LATENT, 2) if rest.shape[2] else ()))
    return _run(run, segments, None)[0]


def decode_stretches(
    run: Callable[[Tensor, Stream], Tensor], latents: Tensor, memory: Memory | None
) -> tuple[Tensor, Memory]:
    """Decode latents one after another, continuing from ``memory``; returns the frames and the new memory."""
    return _run(run, latents.split(1, 2), memory)


def _run(
    run: Callable[[Tensor, Stream], Tensor], segments: tuple[Tensor, ...], memory: Memory | None
) -> tuple[Tensor, Memory]:
    results = []
    for segment in segments:
        stream = Stream(memory)
        memory = None  # frees each layer's memory after its use, as it takes GiB in total
        results.append(run(segment, stream))
        memory = stream.memory()
    assert memory is not None, "expected at least one segment"
    return torch.cat(results, 2), memory
