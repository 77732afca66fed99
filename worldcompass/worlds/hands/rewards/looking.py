"""What the critics of things see of a group: each latent's last frame, read by the network of ``critics``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from worldcompass.types import Group
from worldcompass.worlds.hands.facts import FRAMES_PER_LATENT, NOMINAL

if TYPE_CHECKING:
    from worldcompass.worlds.hands.critics.reader import SceneReader, Seen

PRESENT = 0.5  # of a spot in the start image, above which the scene has the thing
COLOUR = 0.12  # by which red, green and blue may change on average: the deviation of the kernel
UNSURE = 0.4  # steps of deviation over all axes of the gripper, above which a picture does not show it
FAINT = 0.5  # of a spot: when all are below, a picture shows no thing
CALM = 3  # latents of the past that are read: after a touch, balls roll and bottles topple


@dataclass(frozen=True)
class Look:
    """What the critics of things see of a group: the ends of latents, T kinds."""

    start: Seen
    """The video's first frame, fields (T, ...)."""
    ends: Seen
    """The chunk's latents' last frames after ``before`` of the past, fields (G, L, T, ...)."""
    before: int
    """Ends of the past, the last of which is right before the chunk; 0 for the first chunk, whose first end is the
    start."""

    @property
    def blank_GL(self) -> Tensor:
        """Pictures without the gripper, or without any thing of the start; bool.

        What else is read from them means nothing. They count as failures, as a candidate that abstained would fare
        better than one that fails.
        """
        had_T = self.start.there_NT > PRESENT
        bare_GL = (self.ends.there_NT[..., had_T] < FAINT).all(-1) & had_T.any()
        return ~shows_gripper(self.ends) | bare_GL

    @property
    def there_GLT(self) -> Tensor:
        """Share of each thing of the start that is there, in its colour; 0 in blank pictures."""
        changed = (self.ends.colour_NT3 - self.start.colour_NT3).square().mean(-1)
        same = (-changed / (2 * COLOUR**2)).exp()
        return self.ends.there_NT * same * ~self.blank_GL[..., None]


def shows_gripper(seen: Seen) -> Tensor:
    """Whether each picture shows the gripper, bool (...): its place is known to ``UNSURE`` steps."""
    return (seen.spread_N4 / torch.tensor(NOMINAL).float()).norm(dim=-1) < UNSURE


def reader_or_shipped(reader: SceneReader | None) -> SceneReader:
    """A critic's network: the given one, or the one with the weights of the package."""
    if reader is None:
        from worldcompass.worlds.hands.critics.weights import shared_reader

        reader = shared_reader()
    return reader.eval()


def need_latents(group: Group) -> None:
    """Refuse latents of another length than the reader knows.

    Raises:
        ValueError: when latents do not have 4 frames.
    """
    if group.frames_per_latent != FRAMES_PER_LATENT:
        raise ValueError(
            f"the Hands critics need latents of {FRAMES_PER_LATENT} frames, this group has"
            f" {group.frames_per_latent}"
        )


def look_at(reader: SceneReader, group: Group) -> Look | None:
    """What is seen, with up to ``CALM`` ends of the past; None when the chunk shows only the start image.

    Raises:
        ValueError: when latents do not have 4 frames, or frames are not 64 x 64.
    """
    need_latents(group)
    past, frames = group.past_frames_F3hw, group.frames_GF3hw
    if len(past) + frames.shape[1] < 1 + FRAMES_PER_LATENT:
        return None
    ends = past[::FRAMES_PER_LATENT][-CALM:]
    whole = torch.cat([ends.expand(len(frames), *ends.shape), _chunk_ends(group)], 1)
    seen = reader.read_videos(whole.cpu())
    start = reader.read(group.first_frame_3hw[None].cpu()).pick(0, 0)
    return Look(start, seen, len(ends))


def _chunk_ends(group: Group) -> Tensor:
    """The last frame of every latent of the chunk, (G, K, 3, h, w)."""
    first = 0 if len(group.past_frames_F3hw) == 0 else FRAMES_PER_LATENT - 1
    return group.frames_GF3hw[:, first::FRAMES_PER_LATENT]
