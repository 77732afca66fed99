"""Is it still the same place? A network learns on real frames which region of the world a patch shows.

It sees other episodes only, never the judged scenarios, and learns on pictures that are blurred, re-lit and
grainy, so that a decoder's softness is no excuse. Its features also serve as a space for distances, as they were
learned from real frames for another task than realism.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy, interpolate, leaky_relu

from worldcompass.judging.networks import seeded
from worldcompass.judging.sources import BASE, TRAINED, Sources
from worldcompass.seeding import generator_for
from worldcompass.statistics import Crossing, Estimate

STEPS = 400
BATCH = 32
LR, LR_END, DECAY = 3e-3, 0.05, 1e-2
CERTAIN = 0.9  # probability of another region at which a patch counts as foreign
LAST_FRAMES = 5  # at the end of a video, one of them in two
RESAMPLES = 1000
READ_BLOCK = 64


class Episodes(Protocol):
    """Real videos of known regions; ``Sources`` are some."""

    @property
    def regions(self) -> Sequence[str]:
        """The part of the world that each shows."""
        ...

    @property
    def other_SF3hw(self) -> Tensor:
        """uint8 sRGB, one a region."""
        ...

    @property
    def frames(self) -> int:
        """F."""
        ...


class PlaceNetwork(nn.Module):
    """Sees patches of 20 pixels and says which region each shows. About 60,000 parameters."""

    def __init__(self, regions: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Conv2d(3, 32, 4, 2), nn.Conv2d(32, 48, 3, 2), nn.Conv2d(48, 64, 3), nn.Conv2d(64, regions, 1)]
        )

    def maps(self, frames_N3hw: Tensor) -> list[Tensor]:
        """Rectified outputs of every convolution, then the logits of every patch."""
        x, found = frames_N3hw.float() / 64 - 2, list[Tensor]()
        for layer in self.layers[:-1]:
            x = leaky_relu(layer(x), 0.1)
            found.append(x)
        return [*found, self.layers[-1](x)]

    def forward(self, frames_N3hw: Tensor) -> Tensor:
        """Logits of every patch, (N, R, H, W)."""
        return self.maps(frames_N3hw)[-1]


@dataclass(frozen=True)
class Place:
    """What the network recognises, by source: the models, ``engine`` and ``reachable``."""

    kept: dict[str, Estimate]
    """Share of last frames that show the region in which the video began."""
    foreign: dict[str, Estimate]
    """Share of patches of the last frames that certainly show another region."""
    kept_change: Estimate
    """Trained minus base."""
    foreign_change: Estimate
    """Trained minus base."""


def place_network(
    sources: Episodes, seed: int, on_step: Callable[[], None] = lambda: None, steps: int = STEPS
) -> PlaceNetwork:
    """Learn the regions from the other episodes; ``on_step`` is called after each of ``steps``."""
    names = sorted(set(sources.regions))
    label_V = torch.tensor([names.index(region) for region in sources.regions])
    generator = generator_for(seed, "place")
    net = PlaceNetwork(len(names))
    seeded(net, generator)
    optimiser = torch.optim.AdamW(net.parameters(), LR, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda s: 1 + (LR_END - 1) * min(1.0, s / steps))
    weight = 1 / torch.bincount(label_V, minlength=len(names)).clamp_min(1)
    for _ in range(steps):
        rows = torch.multinomial(weight[label_V], BATCH, replacement=True, generator=generator)
        frames = torch.randint(sources.frames, (BATCH,), generator=generator)
        pictures = spoilt(sources.other_SF3hw[rows, frames].float(), generator)
        patches = net(pictures)
        labels = label_V[rows]
        every = labels[:, None, None].expand(-1, *patches.shape[2:])
        loss = cross_entropy(patches, every) + cross_entropy(patches.mean((-2, -1)), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        on_step()
    return net.eval()


def spoilt(pictures_N3hw: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures with random softness, light, grain and mirror images, in levels of 255."""
    count = len(pictures_N3hw)

    def drawn(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, 1, 1, generator=generator)

    size = pictures_N3hw.shape[-2:]
    small = interpolate(avg_pool2d(pictures_N3hw, 3, 2, 1), size, mode="bilinear")
    share = drawn(0, 1)
    x = share * small + (1 - share) * pictures_N3hw
    x = 128 + drawn(0.75, 1.25) * (x - 128) + drawn(-15, 15)
    x = x + drawn(0, 8) * torch.randn(x.shape, generator=generator)
    flip = torch.rand(count, generator=generator) < 0.5
    return torch.where(flip[:, None, None, None], x.flip(-1), x).clamp(0, 255)


def measure_place(sources: Sources, net: PlaceNetwork, seed: int = 0) -> Place:
    """Recognise the last frames of every source."""
    names = sorted(set(sources.regions))
    label_V = torch.tensor([names.index(region) for region in sources.regions] * sources.seeds)
    crossing = Crossing.of(sources.rows, seed, RESAMPLES)
    real = {"engine": sources.engine_SF3hw, "reachable": sources.reachable_SF3hw}
    videos = {name: v.repeat(sources.seeds, 1, 1, 1, 1) for name, v in real.items()}
    videos |= {name: sources.flat(name) for name in sources.models_KSF3hw}
    found = {name: recognised(net, v, label_V) for name, v in videos.items()}

    kept_V, foreign_V = (found[TRAINED][i] - found[BASE][i] for i in range(2))
    return Place(
        {name: crossing.mean(kept) for name, (kept, _) in found.items()},
        {name: crossing.mean(foreign) for name, (_, foreign) in found.items()},
        crossing.mean(kept_V),
        crossing.mean(foreign_V),
    )


@torch.no_grad()
def recognised(net: PlaceNetwork, videos_VF3hw: Tensor, label_V: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Shares of the last frames that show the label's region, and of their patches that show another; (V,) each."""
    last = videos_VF3hw[:, -2 * LAST_FRAMES :: 2]
    flat, count = last.flatten(0, 1), last.shape[1]
    patches = torch.cat([net(part) for part in flat.split(READ_BLOCK)])
    labels = label_V.repeat_interleave(count)
    right = patches.mean((-2, -1)).argmax(1) == labels
    sure, named = patches.softmax(1).max(1)
    foreign = ((sure > CERTAIN) & (named != labels[:, None, None])).float().mean((1, 2))
    return right.float().view(-1, count).mean(1).numpy(), foreign.view(-1, count).mean(1).numpy()


@torch.no_grad()
def feature_distance(net: PlaceNetwork, a_N3hw: Tensor, b_N3hw: Tensor) -> Tensor:
    """``sum_l mean |phi_l(a) - phi_l(b)|^2`` with unit length at every position (arXiv 1801.03924); (N,)."""
    total = torch.zeros(len(a_N3hw))
    for x, y in zip(net.maps(a_N3hw)[:-1], net.maps(b_N3hw)[:-1], strict=True):
        unit_x, unit_y = (v / v.norm(dim=1, keepdim=True).clamp_min(1e-6) for v in (x, y))
        total += (unit_x - unit_y).square().sum(1).mean((-2, -1))
    return total


def regions_known(regions: Sequence[str]) -> bool:
    """Whether there are several regions to tell apart."""
    return len(set(regions)) > 1
