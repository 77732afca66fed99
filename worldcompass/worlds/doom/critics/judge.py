"""The held-out judge, for evaluation only: a network for actions and another one for realism.

It shares no estimator, network, seed or training episode with the critics. Cost volumes measure how well a patch of
one frame matches a later frame at every displacement of a window, for frames one and four apart. A small network
reads the action from the two volumes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, gelu, pad

from worldcompass.geometry import NUM_ROTATIONS, NUM_TRANSLATIONS
from worldcompass.worlds.doom.critics.motion import POOLED, LabelReader, mirrored_probabilities
from worldcompass.worlds.doom.critics.realism import frames_to_fit
from worldcompass.worlds.doom.engine.facts import FRAMES_PER_LATENT

NEAR_WINDOW = (4, 2)  # largest displacement in x and y between neighbouring frames, pixels
FAR_WINDOW = (8, 3)  # largest displacement between frames four apart, in pixels of half size
NUM_NEAR, NUM_FAR = ((2 * x + 1) * (2 * y + 1) for x, y in (NEAR_WINDOW, FAR_WINDOW))
NUM_MATCHES = NUM_NEAR + NUM_FAR
CONTRAST_FLOOR = 0.03  # added to the local contrast, for flat patches
MATCH_SHARE = 0.12  # scale of the decay of a match with its cost, as a share of the window's mean cost
MATCH_FLOOR = 0.02
BATCH = 4  # clips whose volumes fit into the processor's cache


def _normalised(clips_B53hw: Tensor) -> Tensor:
    """Brightness and tint with the local mean and contrast removed; float32 (B, 5, 2, 48, 64)."""
    frames = (frames_to_fit(clips_B53hw.flatten(0, 1)) + 1).div(2).sqrt()
    planes = torch.stack([frames.mean(1), frames[:, 0] - frames[:, 2]], 1)
    local = planes - _smooth(planes)
    contrast = _smooth(local.square()).sqrt() + CONTRAST_FLOOR
    return (local / contrast).unflatten(0, clips_B53hw.shape[:2])


def _smooth(planes: Tensor) -> Tensor:
    return avg_pool2d(pad(planes, (4, 4, 4, 4), mode="replicate"), 9, 1)


def _matches(before_BPChw: Tensor, after_BPChw: Tensor, window: tuple[int, int]) -> Tensor:
    """Match of patches at every displacement, 1 for the best; (B, D, 12, 16), mean over the P pairs."""
    reach_x, reach_y = window
    height, width = before_BPChw.shape[-2:]
    size = height // POOLED[0]
    padded = pad(after_BPChw.flatten(1, 2), (reach_x, reach_x, reach_y, reach_y), mode="replicate")
    before = before_BPChw.flatten(1, 2)
    costs = []
    for dy in range(2 * reach_y + 1):
        for dx in range(2 * reach_x + 1):
            costs.append((before - padded[:, :, dy : dy + height, dx : dx + width]).abs_().mean(1))
    halves = avg_pool2d(torch.stack(costs, 1), size // 2)
    cost = avg_pool2d(pad(halves, (1, 1, 1, 1), mode="replicate"), 4, 2)
    best, mean = cost.amin(1, keepdim=True), cost.mean(1, keepdim=True)
    return torch.exp((best - cost) / (MATCH_SHARE * mean + MATCH_FLOOR))


@torch.no_grad()
def match_volumes(clips_B53hw: Tensor) -> Tensor:
    """Matches one frame and four frames apart as uint8 of 255, (B, D, 12, 16), of uint8 clips."""
    parts = []
    for clips in clips_B53hw.split(BATCH):
        planes = _normalised(clips)
        near = _matches(planes[:, :-1], planes[:, 1:], NEAR_WINDOW)
        half = avg_pool2d(planes[:, ::FRAMES_PER_LATENT].flatten(0, 1), 2).unflatten(0, (len(clips), 2))
        far = _matches(half[:, :1], half[:, 1:], FAR_WINDOW)
        parts.append((255 * torch.cat([near, far], 1)).round().to(torch.uint8))
    return torch.cat(parts)


def mirror_volumes(volumes_BDyx: Tensor) -> Tensor:
    """The volumes of the mirrored clips: x and the displacement in x change sign."""
    turned = []
    for part, (x, y) in zip(
        volumes_BDyx.split((NUM_NEAR, NUM_FAR), 1), (NEAR_WINDOW, FAR_WINDOW), strict=True
    ):
        turned.append(part.unflatten(1, (2 * y + 1, 2 * x + 1)).flip((2, 4)).flatten(1, 2))
    return torch.cat(turned, 1)


def _displacements() -> Tensor:
    """Displacement (x, y) of every match in units of the window, zero for the other volume; (4, D)."""
    table = torch.zeros(4, NUM_MATCHES)
    start = 0
    for row, (x, y) in zip((0, 2), (NEAR_WINDOW, FAR_WINDOW), strict=True):
        grid = torch.meshgrid(
            torch.linspace(-1, 1, 2 * y + 1), torch.linspace(-1, 1, 2 * x + 1), indexing="ij"
        )
        count = grid[0].numel()
        table[row, start : start + count] = grid[1].flatten()
        table[row + 1, start : start + count] = grid[0].flatten()
        start += count
    return table


class MatchReader(nn.Module):
    """A network from match volumes to 9 + 9 logits."""

    displacements: Tensor

    def __init__(self, width: int = 32, hidden: int = 160, dropout: float = 0.2) -> None:
        super().__init__()
        self.register_buffer("displacements", _displacements(), persistent=False)
        self.mix = nn.Conv2d(NUM_MATCHES, width, 1)
        self.conv = nn.Conv2d(width + 6, width + 16, 3, 2, 1)
        self.inner = nn.Linear((width + 16) * (POOLED[0] // 2) * (POOLED[1] // 2), hidden)
        self.heads = nn.Linear(hidden, NUM_TRANSLATIONS + NUM_ROTATIONS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, volumes_BDyx: Tensor) -> tuple[Tensor, Tensor]:
        """Translation and rotation logits, (B, 9) each, of uint8 match volumes."""
        matches = volumes_BDyx.float() / 255
        sharp = matches.square()
        moments = torch.einsum("md,bdyx->bmyx", self.displacements, sharp)
        near, far = (part.sum(1, keepdim=True) for part in sharp.split((NUM_NEAR, NUM_FAR), 1))
        expected = torch.cat(
            [4 * moments[:, :2] / near, 4 * moments[:, 2:] / far, near / NUM_NEAR, far / NUM_FAR], 1
        )
        hidden = gelu(self.conv(torch.cat([gelu(self.mix(matches - 0.3)), expected], 1))).flatten(1)
        hidden = gelu(self.inner(self.dropout(hidden)))
        translation, rotation = self.heads(self.dropout(hidden)).split((NUM_TRANSLATIONS, NUM_ROTATIONS), -1)
        return translation, rotation


def with_differences(frames_F3hw: Tensor) -> Tensor:
    """uint8 frames as (F, 9, 48, 64): the picture, and absolute differences across and down times four.

    The network needs the differences to detect grain.
    """
    frames = frames_to_fit(frames_F3hw)
    across = pad(frames.diff(dim=-1).abs(), (0, 1, 0, 0), mode="replicate")
    down = pad(frames.diff(dim=-2).abs(), (0, 0, 0, 1), mode="replicate")
    return torch.cat([frames, 4 * across, 4 * down], 1)


class Texture(nn.Module):
    """A network from frames to the log-odds of engine frames: depthwise layers, then maximum and mean."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(9, width, 6, 2, 2), nn.BatchNorm2d(width))
        self.depth = nn.ModuleList(nn.Conv2d(width * s, width * s, 5, 2, 2, groups=width * s) for s in (1, 2))
        self.point = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width * s, 2 * width * s, 1), nn.BatchNorm2d(2 * width * s))
            for s in (1, 2)
        )
        self.head = nn.Linear(8 * width, 1)

    def forward(self, frames_F3hw: Tensor) -> Tensor:
        """Log-odds (F,) of uint8 frames."""
        hidden = torch.relu(self.first(with_differences(frames_F3hw)))
        for depth, point in zip(self.depth, self.point, strict=True):
            hidden = torch.relu(point(depth(hidden)))
        return self.head(torch.cat([hidden.mean((-2, -1)), hidden.amax((-2, -1))], 1))[:, 0]


class Judge(nn.Module):
    """Both networks of the judge, for evaluation only."""

    def __init__(self) -> None:
        super().__init__()
        self.reader = MatchReader()
        self.texture = Texture()

    @torch.no_grad()
    def probabilities(self, clips_B53hw: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities of translations and rotations, (B, 9) each, of uint8 clips."""
        clips = clips_B53hw.to(self.reader.heads.weight.device)
        return mirrored_probabilities(self.reader, match_volumes(clips), mirror_volumes)

    def labels(self, frames_PF3hw: Tensor) -> Tensor:
        """Actions of P videos of F = 4 M - 3 uint8 frames, one per latent, with 0 for latent 0; int64 (P, M).

        Raises:
            ValueError: when F is not 4 M - 3.
        """
        return LabelReader(self).labels(frames_PF3hw)

    @torch.no_grad()
    def realism(self, frames_F3hw: Tensor) -> Tensor:
        """Log-odds that uint8 frames come from the engine; float32 (F,), higher is better."""
        device = self.texture.head.weight.device
        return torch.cat([self.texture(part.to(device)).cpu() for part in frames_F3hw.split(256)])
