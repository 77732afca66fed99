"""What a reader learns from: latents as they are seen, plain and with faults, and what shows nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from worldcompass.media.progress import progress
from worldcompass.rewards.inverse_dynamics.faults import faulty, void
from worldcompass.rewards.inverse_dynamics.footage import Latents, evenly
from worldcompass.rewards.inverse_dynamics.panel import Panel
from worldcompass.rewards.inverse_dynamics.sight import looked_at
from worldcompass.runs.atomic import write_tensors
from worldcompass.seeding import generator_for

MOST = 12_000  # latents that are looked at; of more, those with rare commands first
VOID_EACH = 2  # latents for each that shows nothing
AT_ONCE = 64


@dataclass(frozen=True)
class Pool:
    """All that is seen, float16."""

    plain_NCyx: Tensor
    faulty_NCyx: Tensor
    """The same latents with faults."""
    void_VCyx: Tensor
    ways_NTA: Tensor
    """The commands of the latents."""
    shares_N: Tensor
    """How often to draw each, see ``evenly``."""

    def batch(self, count: int, voids: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """What is seen of latents, half of them with faults, and then of voids; and the commands of the former."""
        rows = torch.multinomial(self.shares_N, count, replacement=True, generator=generator)
        other = torch.randint(len(self.void_VCyx), (voids,), generator=generator)
        half = count // 2
        parts = (self.plain_NCyx[rows[:half]], self.faulty_NCyx[rows[half:]], self.void_VCyx[other])
        return torch.cat(parts).float(), self.ways_NTA[rows]


def look(latents: Latents, panel: Panel, seed: int, file: Path) -> Pool:
    """Look at latents, once: what is seen stays in a file.

    Args:
        latents: all of the recordings to learn from.
        panel: of the controls.
        seed: of faults and voids.
        file: to keep it in.
    """
    count = min(MOST, len(latents))
    generator = generator_for(seed, "latents")
    shares = evenly(panel, latents.ways_NTA)
    chosen = latents.some(torch.multinomial(shares, count, generator=generator).sort().values)
    if not file.is_file():
        _look(chosen, latents, seed, file)
    found = load_file(file)
    ways = chosen.ways_NTA
    return Pool(found["plain"], found["faulty"], found["void"], ways, evenly(panel, ways))


def _look(chosen: Latents, everything: Latents, seed: int, file: Path) -> None:
    generator = generator_for(seed, "faults")
    rows = torch.arange(len(chosen))
    some = torch.randperm(len(chosen), generator=generator)[: max(AT_ONCE, len(chosen) // VOID_EACH)]

    def with_faults(part: Tensor) -> Tensor:
        near = everything.windows(chosen.near(part, generator))
        return as_bytes(faulty(as_floats(chosen.windows(part)), as_floats(near), generator))

    makers: dict[str, tuple[Tensor, Callable[[Tensor], Tensor]]] = {
        "plain": (rows, chosen.windows),
        "faulty": (rows, with_faults),
        "void": (some, lambda part: as_bytes(void(as_floats(chosen.windows(part)), generator))),
    }
    found = {}
    with progress("looking at recordings", sum(len(of) for of, _ in makers.values())) as advance:
        advance(done := 0)
        for name, (of, make) in makers.items():
            seen = []
            for part in of.split(AT_ONCE):
                seen.append(looked_at(make(part)).half())
                advance(done := done + len(part))
            found[name] = torch.cat(seen)
    write_tensors(file, found)


def as_floats(windows: Tensor) -> Tensor:
    """Levels of 255 in [0, 1]."""
    return windows.float() / 255


def as_bytes(windows: Tensor) -> Tensor:
    """The inverse, rounded."""
    return (255 * windows).round().to(torch.uint8)
