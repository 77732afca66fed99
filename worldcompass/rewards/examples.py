"""Pairs of real and imagined clips, and the memory of old ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worldcompass.seeding import Key, generator_for
from worldcompass.types import Group

CLIP, STRIDE = 3, 4  # frames of a clip, and from one clip's start to the next
CROP = 64  # pixels of a stored clip at most, each way
KEPT = 24  # pairs of a step that the replay keeps
OLD, FIRST = 240, 64  # pairs of the last steps and of the first ones in the replay
SHARES = (0.5, 0.3, 0.2)  # of new pairs, old ones and the first ones in a batch


def chunk_clips(frames_GF3hw: Tensor) -> Tensor:
    """All clips of three frames at a stride of four, (G, X, 3, 3, h, w)."""
    starts = range(0, frames_GF3hw.shape[1] - CLIP + 1, STRIDE)
    return torch.stack([frames_GF3hw[:, start : start + CLIP] for start in starts], 1)


def clip_frames(group: Group, frames_GF3hw: Tensor) -> Tensor:
    """A chunk's frames; where they are fewer than a clip has, behind the last frames before the chunk."""
    missing = CLIP - frames_GF3hw.shape[1]
    if missing <= 0:
        return frames_GF3hw
    past = group.past_frames_F3hw[-missing:].to(frames_GF3hw.device)
    return torch.cat([past.expand(len(frames_GF3hw), *past.shape), frames_GF3hw], 1)


def pairs_of(groups: Sequence[Group], keys: tuple[Key, ...]) -> Tensor:
    """One pair of a real and an imagined clip per candidate, uint8 (E, 2, 3, 3, h, w).

    Both show the same commands at the same time after the same start, cropped to the same place. Groups without
    reachable truth give none. Nor does a chunk of fewer than three frames after an imagined past: the real clip
    would jump from what was imagined to what is true. The clip of a candidate depends on ``keys`` and its number.
    """
    found: list[Tensor] = []
    for number, group in enumerate(groups):
        true_F3hw = group.reachable()
        if true_F3hw is None or (len(true_F3hw) < CLIP and not group.true_past):
            continue
        both = [clip_frames(group, frames) for frames in (true_F3hw[None], group.frames_GF3hw)]
        if both[0].shape[1] < CLIP:
            continue
        real, fakes = chunk_clips(both[0])[0], chunk_clips(both[1])
        generator = generator_for(*keys, "pairs", number)
        for candidate in fakes:
            place = int(torch.randint(len(real), (), generator=generator))
            pair = torch.stack([real[place], candidate[place]])
            top, left = (
                int(torch.randint(max(1, size - CROP + 1), (), generator=generator))
                for size in pair.shape[-2:]
            )
            found.append(pair[..., top : top + CROP, left : left + CROP].cpu())
    return torch.stack(found) if found else torch.empty(0, 2, CLIP, 3, 1, 1, dtype=torch.uint8)


@dataclass
class Replay:
    """Pairs of the first steps, whose imagination is the start weights', and of the last ones.

    Without them the networks would forget old tricks, and the policy could return to them.
    """

    first: Tensor
    old: Tensor
    """The newest last."""

    @staticmethod
    def of(state: Mapping[str, Tensor]) -> Replay:
        """A copy of what ``state`` returned, or an empty one."""
        none = torch.empty(0, 2, CLIP, 3, 1, 1, dtype=torch.uint8)
        return Replay(*(state[name].clone() if name in state else none for name in ("first", "old")))

    def state(self) -> dict[str, Tensor]:
        """The pairs by name, without the empty ones."""
        return {name: pairs for name, pairs in vars(self).items() if len(pairs)}

    def batch(self, new: Tensor, size: int, generator: torch.Generator) -> Tensor:
        """``size`` pairs drawn with replacement from all three sources, half of them mirrored."""
        sources = [
            (pairs, share)
            for pairs, share in zip((new, self.old, self.first), SHARES, strict=True)
            if len(pairs)
        ]
        total, drawn = sum(share for _, share in sources), list[Tensor]()
        for pairs, share in sources[1:]:
            count = round(size * share / total)
            drawn.append(pairs[torch.randint(len(pairs), (count,), generator=generator)])
        rest = size - sum(map(len, drawn))
        drawn.append(new[torch.randint(len(new), (rest,), generator=generator)])
        pairs = torch.cat(drawn)
        mirrored = torch.rand(len(pairs), generator=generator) < 0.5
        return torch.where(mirrored.view(-1, 1, 1, 1, 1, 1), pairs.flip(-1), pairs)

    def keep(self, new: Tensor, generator: torch.Generator) -> None:
        """Remember some of a step's pairs."""
        some = new[torch.randperm(len(new), generator=generator)[:KEPT]]
        if len(self.first) < FIRST:
            self.first = torch.cat([self.first, some])[:FIRST] if len(self.first) else some
        self.old = torch.cat([self.old, some])[-OLD:] if len(self.old) else some.clone()
