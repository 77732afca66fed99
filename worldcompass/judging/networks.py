"""Small networks that learn to tell real clips from imagined ones, at three capacities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits, leaky_relu

from worldcompass.judging.sources import Windows
from worldcompass.judging.spaces import activations, mean_and_deviation, random_filters

BATCH = 32  # clips, half of them real
LR, LR_END, DECAY = 2e-3, 0.05, 1e-2
GRADIENT = 1.0  # largest norm
CROP = 32  # pixels of a patch network's crop
SHIFT = 4  # pixels: largest shift of a whole clip
READ_BLOCK = 64  # clips at once when reading
RIDGE = 1e-2  # of the mean variance


class PatchNetwork(nn.Module):
    """Sees 16 pixels and 5 frames; its logit is the mean over patches. About 40,000 parameters."""

    frames = 5

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Conv2d(15, 24, 4, 2), nn.Conv2d(24, 48, 3, 2), nn.Conv2d(48, 48, 3), nn.Conv2d(48, 1, 1)]
        )

    def forward(self, clips_NT3hw: Tensor) -> Tensor:
        """Logits of being real, (N,)."""
        return _through(self.layers, with_changes(clips_NT3hw)).mean((1, 2, 3))


class ClipNetwork(nn.Module):
    """Sees whole clips of 9 frames with strided convolutions. About 90,000 parameters."""

    frames = 9

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                nn.Conv2d(27, 32, 4, 4),
                nn.Conv2d(32, 64, 3, 2, 1),
                nn.Conv2d(64, 64, 3, 2, 1),
                nn.Conv2d(64, 1, 1),
            ]
        )

    def forward(self, clips_NT3hw: Tensor) -> Tensor:
        """Logits of being real, (N,)."""
        return _through(self.layers, with_changes(clips_NT3hw)).mean((1, 2, 3))


def _through(layers: nn.ModuleList, x: Tensor) -> Tensor:
    for layer in layers[:-1]:
        x = leaky_relu(layer(x), 0.2)
    return layers[-1](x)


def with_changes(clips_NT3hw: Tensor) -> Tensor:
    """The middle frame and the changes from frame to frame, as channels of about unit size; (N, 3 * T, h, w)."""
    x = clips_NT3hw.float() / 64 - 2
    middle = x[:, x.shape[1] // 2]
    return torch.cat([middle, 2 * x.diff(dim=1).flatten(1, 2)], 1)


@dataclass(frozen=True)
class Clips:
    """Clips of some videos, by index; nothing is copied until a batch is drawn."""

    videos_VF3hw: Tensor
    rows: tuple[int, ...]
    """The videos that may be drawn."""


def draw(clips: Clips, windows: Windows, frames: int, index: Sequence[tuple[int, int]]) -> Tensor:
    """The clips of (video, window), with ``frames`` frames around the middle of the window."""
    lead = (windows.length - frames) // 2
    starts = [windows.starts[w] + lead for _, w in index]
    return torch.stack(
        [clips.videos_VF3hw[v, s : s + frames] for (v, _), s in zip(index, starts, strict=True)]
    )


@dataclass(frozen=True)
class Capacity:
    """A kind of network and how long it learns."""

    name: str
    make: Callable[[], PatchNetwork | ClipNetwork]
    steps: int
    crop: int | None
    """Pixels of a random crop; None for whole clips with a small shift."""


PATCH = Capacity("patch", PatchNetwork, 240, CROP)
CLIP = Capacity("clip", ClipNetwork, 240, None)


def trained_network(
    capacity: Capacity, real: Clips, fakes: Sequence[Clips], windows: Windows, generator: torch.Generator
) -> nn.Module:
    """A network that learned real clips against the pooled fakes, drawn in equal numbers under one label.

    Every fake comes with the real clip of the same scenario and window, so that content tells nothing.
    """
    net = seeded(capacity.make(), generator)
    optimiser = torch.optim.AdamW(net.parameters(), LR, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: 1 + (LR_END - 1) * min(1.0, step / capacity.steps)
    )
    share = max(1, BATCH // (2 * len(fakes)))
    for _ in range(capacity.steps):
        parts, labels = [], []
        for fake in fakes:
            index = _pairs(fake.rows, len(windows.starts), share, generator)
            scenarios = len(real.videos_VF3hw)
            true = [(v % scenarios, w) for v, w in index]
            parts += [draw(real, windows, net.frames, true), draw(fake, windows, net.frames, index)]  # type: ignore[arg-type]
            labels += [torch.ones(share), torch.zeros(share)]
        batch = augmented(torch.cat(parts), capacity.crop, generator)
        loss = binary_cross_entropy_with_logits(net(batch), torch.cat(labels))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), GRADIENT)
        optimiser.step()
        schedule.step()
    return net.eval()


def _pairs(
    rows: Sequence[int], num_windows: int, count: int, generator: torch.Generator
) -> list[tuple[int, int]]:
    videos = torch.randint(len(rows), (count,), generator=generator).tolist()
    chosen = torch.randint(num_windows, (count,), generator=generator).tolist()
    return [(rows[v], w) for v, w in zip(videos, chosen, strict=True)]


def seeded(net: nn.Module, generator: torch.Generator) -> nn.Module:
    """The network with weights drawn from a generator; biases are 0."""
    for parameter in net.parameters():
        with torch.no_grad():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
                parameter.mul_((2 / parameter[0].numel()) ** 0.5)
            else:
                parameter.zero_()
    return net


def augmented(clips_NT3hw: Tensor, crop: int | None, generator: torch.Generator) -> Tensor:
    """One random crop or shift for the batch, and a mirror image half of the time."""
    height, width = clips_NT3hw.shape[-2:]
    size = (min(crop, height), min(crop, width)) if crop else (height - SHIFT, width - SHIFT)
    top, left = (
        int(torch.randint(full - part + 1, (1,), generator=generator))
        for full, part in zip((height, width), size, strict=True)
    )
    found = clips_NT3hw[..., top : top + size[0], left : left + size[1]]
    return found.flip(-1) if float(torch.rand(1, generator=generator)) < 0.5 else found


@torch.no_grad()
def read(net: nn.Module, clips: Clips, windows: Windows) -> Tensor:
    """Logits of every window of the rows, (rows, W)."""
    index = [(v, w) for v in clips.rows for w in range(len(windows.starts))]
    parts = [
        net(draw(clips, windows, int(net.frames), index[i : i + READ_BLOCK]))  # type: ignore[arg-type]
        for i in range(0, len(index), READ_BLOCK)
    ]
    return torch.cat(parts).view(len(clips.rows), -1)


# --------------------------------------------------------------------------- fixed features


@torch.no_grad()
def fixed_features(videos_VF3hw: Tensor, windows: Windows, seed: int) -> Tensor:
    """Features of every window from a random network on 32 x 24 pixels, and of its changes; (V, W, D)."""
    filters, found = random_filters(seed, 99), []
    for video in videos_VF3hw:
        clips = torch.stack([video[s : s + windows.length] for s in windows.starts])
        half = avg_pool2d(clips.flatten(0, 1).float() / 255, 2).unflatten(0, clips.shape[:2])
        middle = half[:, windows.length // 2]
        change = half.diff(dim=1).abs().mean(1)
        found.append(torch.cat([_pooled(middle, filters), _pooled(change + 0.5, filters)], 1))
    return torch.stack(found)


def _pooled(pictures_N3hw: Tensor, filters: Sequence[Tensor]) -> Tensor:
    maps = activations(pictures_N3hw, filters)
    return torch.cat([part for x in maps for part in mean_and_deviation(x, (-2, -1))], 1)


def linear_logits(real_ND: Tensor, fakes: Sequence[Tensor], asked_MD: Tensor) -> Tensor:
    """Logits of a linear discriminant with one label for all fakes; (M,).

    The direction is ``C^-1 (m_real - m_fake)`` with the covariance inside the classes, all fakes weighing alike.
    """
    real, others = real_ND.double(), [fake.double() for fake in fakes]
    fake_mean = torch.stack([fake.mean(0) for fake in others]).mean(0)
    inside = torch.cov((real - real.mean(0)).T) + torch.stack(
        [torch.cov((fake - fake_mean).T) for fake in others]
    ).mean(0)
    inside = inside / 2
    ridge = RIDGE * inside.diagonal().mean() * torch.eye(len(inside), dtype=torch.float64)
    direction = torch.linalg.solve(inside + ridge, real.mean(0) - fake_mean)
    return (asked_MD.double() - (real.mean(0) + fake_mean) / 2) @ direction
