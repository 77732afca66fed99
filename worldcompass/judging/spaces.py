"""Spaces of features in which sets of videos are compared; none was trained to tell real from imagined.

A space maps clips to rows of features. Random convolutions judge pictures that are unlike photographs more sensibly
than networks trained on photographs (Naeem et al., arXiv 2002.09797).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, conv3d, relu

from worldcompass.judging.sources import Windows
from worldcompass.seeding import generator_for

PATCH = 16  # pixels along a patch
WIDTHS = (16, 32, 64)  # channels of a random network
WAVELET_LEVELS = 3
BLOCK = 256  # clips at once


@dataclass(frozen=True)
class Space:
    """One or several sets of features that are compared separately and averaged, such as wavelet packets."""

    name: str
    family: Literal["pictures", "motion"]
    """Spaces of one family are averaged."""
    embed: Callable[[Tensor], list[Tensor]]
    """(clips_NT3hw uint8) -> a list of features (N, P, D)."""
    most_dims: int
    """Dimensions that are kept of each set."""


def clips_of(videos_VF3hw: Tensor, windows: Windows) -> Tensor:
    """The windows of every video, (V, W, T, 3, h, w)."""
    return torch.stack([videos_VF3hw[:, s : s + windows.length] for s in windows.starts], 1)


def embedded(space: Space, videos_VF3hw: Tensor, windows: Windows) -> list[Tensor]:
    """Features of every video; a list of (V, W, P, D), one for each set of the space."""
    parts: list[list[Tensor]] = []
    step = max(1, BLOCK // len(windows.starts))
    for block in videos_VF3hw.split(step):
        clips = clips_of(block, windows)
        sets = space.embed(clips.flatten(0, 1))
        parts.append([features.unflatten(0, clips.shape[:2]) for features in sets])
    return [torch.cat(column) for column in zip(*parts, strict=True)]


def spaces(seed: int, networks: int = 3) -> list[Space]:
    """The spaces that need no training.

    Args:
        seed: of the random networks.
        networks: random networks for whole pictures and for patches.
    """
    nets = [random_filters(seed, number) for number in range(networks)]
    volumes = random_volumes(seed)
    return [
        Space("wavelets", "pictures", lambda clips: wavelet_packets(middle(clips)), 8),
        Space("pictures", "pictures", lambda clips: [_whole(middle(clips), net) for net in nets], 32),
        Space("patches", "pictures", lambda clips: [_patches(middle(clips), net) for net in nets], 32),
        Space("motion", "motion", lambda clips: [_motion(clips, volumes)], 32),
    ]


def middle(clips_NT3hw: Tensor) -> Tensor:
    """The middle frame of every clip in [0, 1], (N, 3, h, w)."""
    return clips_NT3hw[:, clips_NT3hw.shape[1] // 2].float() / 255


# --------------------------------------------------------------------------- wavelets


def haar(pictures_NChw: Tensor) -> list[Tensor]:
    """The four orthonormal Haar bands, each of half the size: low, across, down, diagonal."""
    a, b = pictures_NChw[..., 0::2, 0::2], pictures_NChw[..., 0::2, 1::2]
    c, d = pictures_NChw[..., 1::2, 0::2], pictures_NChw[..., 1::2, 1::2]
    return [(a + b + c + d) / 2, (a - b + c - d) / 2, (a + b - c - d) / 2, (a - b - c + d) / 2]


def wavelet_packets(pictures_NChw: Tensor, levels: int = WAVELET_LEVELS) -> list[Tensor]:
    """All 4 ** levels packets, each (N, 1, D); source: Frechet wavelet distance, arXiv 2312.15289."""
    side = 2**levels
    height, width = (n // side * side for n in pictures_NChw.shape[-2:])
    bands = [pictures_NChw[..., :height, :width]]
    for _ in range(levels):
        bands = [part for band in bands for part in haar(band)]
    return [band.flatten(1)[:, None] for band in bands]


# --------------------------------------------------------------------------- random networks


def random_filters(seed: int, number: int) -> list[Tensor]:
    """Filters of a network of three convolutions; most of the first have no mean, as brightness is no edge.

    Every filter of the first has its opposite: a rectifier passes one sign, and a network whose few filters of
    brightness all have one sign would not see a picture become darker or brighter.
    """
    generator, found, channels = generator_for(seed, "random network", number), [], 3
    for level, width in enumerate(WIDTHS):
        size, first = (5, True) if level == 0 else (3, False)
        weights = torch.randn(width // 2 if first else width, channels, size, size, generator=generator)
        if first:
            weights[width // 8 :] -= weights[width // 8 :].mean((-2, -1), keepdim=True)
            weights = torch.cat([weights, -weights])
        found.append(weights / weights.flatten(1).norm(dim=1).view(-1, 1, 1, 1))
        channels = width
    return found


def activations(pictures_N3hw: Tensor, filters: Sequence[Tensor]) -> list[Tensor]:
    """Rectified outputs of every convolution; the size halves after each."""
    found, x = [], pictures_N3hw - 0.5
    for level, weights in enumerate(filters):
        x = relu(conv2d(x, weights, padding=weights.shape[-1] // 2))
        found.append(x)
        if level + 1 < len(filters):
            x = _halved(x)
    return found


def _halved(x_NChw: Tensor) -> Tensor:
    """Largest of every 2 x 2 values, as ``max_pool2d``, which takes nine times as long on a CPU."""
    height, width = (n // 2 * 2 for n in x_NChw.shape[-2:])
    rows = torch.maximum(x_NChw[..., 0:height:2, :], x_NChw[..., 1:height:2, :])
    return torch.maximum(rows[..., 0:width:2], rows[..., 1:width:2])


def mean_and_deviation(x_ND: Tensor, dims: tuple[int, ...]) -> list[Tensor]:
    """``x.mean(dims)`` and ``x.std(dims)``, whose own code takes four times as long on a CPU."""
    mean = x_ND.mean(dims, keepdim=True)
    count = x_ND.numel() // mean.numel()
    squares = (x_ND - mean).square_().sum(dims)
    return [mean.squeeze(dims), (squares / (count - 1)).sqrt()]


def _whole(pictures_N3hw: Tensor, filters: Sequence[Tensor]) -> Tensor:
    """Mean and deviation of every channel over the picture, (N, 1, 2 * channels)."""
    maps = activations(pictures_N3hw, filters)
    return torch.cat([part for x in maps for part in mean_and_deviation(x, (-2, -1))], 1)[:, None]


def _patches(pictures_N3hw: Tensor, filters: Sequence[Tensor]) -> Tensor:
    """The same of the first two convolutions over patches of 16 pixels, (N, patches, 2 * channels)."""
    found = []
    for level, x in enumerate(activations(pictures_N3hw, filters[:2])):
        mean = avg_pool2d(x, PATCH >> level)
        square = avg_pool2d(x.square(), PATCH >> level)
        found += [mean, (square - mean.square()).clamp_min(0).sqrt()]
    return torch.cat(found, 1).flatten(2).transpose(1, 2)


def random_volumes(seed: int, width: int = 48) -> Tensor:
    """Filters over 3 frames and 5 x 5 pixels whose sum over time is zero: they see change only."""
    weights = torch.randn(width, 3, 3, 5, 5, generator=generator_for(seed, "random volumes"))
    weights -= weights.mean(2, keepdim=True)
    return weights / weights.flatten(1).norm(dim=1).view(-1, 1, 1, 1, 1)


def _motion(clips_NT3hw: Tensor, weights: Tensor) -> Tensor:
    """Mean and deviation of the responses to change over a clip, (N, 1, 2 * width)."""
    x = clips_NT3hw.transpose(1, 2).float() / 255
    found = conv3d(x, weights, stride=(1, 4, 4)).abs()
    return torch.cat(mean_and_deviation(found, (-3, -2, -1)), 1)[:, None]


def place_space(maps: Callable[[Tensor], list[Tensor]]) -> Space:
    """Mean and deviation of the features of a network that learned places; ``maps`` takes levels of 255."""

    @torch.no_grad()
    def embed(clips: Tensor) -> list[Tensor]:
        found = maps(255 * middle(clips))[:-1]
        return [torch.cat([part for x in found for part in mean_and_deviation(x, (-2, -1))], 1)[:, None]]

    return Space("places", "pictures", embed, 32)
