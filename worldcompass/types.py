"""The frozen types that travel between the stages: Scenario -> Group -> Scores -> Samples.

Dimension suffixes used in every file (logical sizes, never sharded ones):

=====  ==========================================================================
N      scenarios (groups) of one training step
P      pasts held by one context
G      candidate futures of one chunk that share one past
B      rows of a batch; P divides B and row b belongs to past ``b // (B // P)``
R      rewards (critics)
K      latents of one chunk (a chunk is what users call a clip)
M      latents of a whole trajectory, latent 0 being the start image
F      video frames
S      denoising steps
C,H,W  channels, height and width of a latent
h,w    height and width of a frame in pixels
=====  ==========================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Actions:
    """What is commanded, one entry per latent; leading axes (``...``) are a batch of trajectories.

    The pose of latent i is where the camera stands at that latent's last frame.
    """

    labels_K: Tensor
    """int64, (..., K): composite action ``9 * translation + rotation`` in 0..80 (see geometry.py)."""
    world_from_camera_K44: Tensor
    """float32, (..., K, 4, 4): OpenCV axes, in the world's own length unit."""
    intrinsics_K4: Tensor
    """float32, (..., K, 4): fx, fy, cx, cy divided by the image's width and height."""

    def __len__(self) -> int:
        return self.labels_K.shape[-1]

    def latents(self, start: int, stop: int) -> Actions:
        """The latents ``start <= i < stop`` of every trajectory."""
        return Actions(
            self.labels_K[..., start:stop],
            self.world_from_camera_K44[..., start:stop, :, :],
            self.intrinsics_K4[..., start:stop, :],
        )

    def select(self, row: int) -> Actions:
        """One trajectory of a batch, without its batch axis."""
        return Actions(self.labels_K[row], self.world_from_camera_K44[row], self.intrinsics_K4[row])

    def to(self, device: torch.device | str) -> Actions:
        """The same actions on another device."""
        return Actions(
            self.labels_K.to(device), self.world_from_camera_K44.to(device), self.intrinsics_K4.to(device)
        )

    @staticmethod
    def stack(trajectories: Sequence[Actions]) -> Actions:
        """A batch of equally long trajectories.

        Raises:
            ValueError: when they differ in length.
        """
        lengths = sorted({len(t) for t in trajectories})
        if len(lengths) != 1:
            raise ValueError(f"trajectories of one batch need one length, got lengths {lengths}")
        return Actions(
            torch.stack([t.labels_K for t in trajectories]),
            torch.stack([t.world_from_camera_K44 for t in trajectories]),
            torch.stack([t.intrinsics_K4 for t in trajectories]),
        )


@dataclass(frozen=True)
class Truth:
    """What the engine itself did when it was given a scenario's commands."""

    frames_F3hw: Tensor
    """uint8 sRGB, the first frame being the start image."""
    labels_M: Tensor
    """int64: labels measured from the engine's own motion, one per latent."""
    world_from_camera_M44: Tensor
    """float32: the engine's camera at each latent's last frame."""

    def to(self, device: torch.device | str) -> Truth:
        """The same truth on another device."""
        return Truth(
            self.frames_F3hw.to(device), self.labels_M.to(device), self.world_from_camera_M44.to(device)
        )


@dataclass(frozen=True)
class Scenario:
    """One start and one trajectory of commands."""

    id: str
    """Unique and stable: random numbers derive from it."""
    actions: Actions
    """M latents; latent 0 is the start image and carries action 0."""
    image_3hw: Tensor | None = None
    """uint8 sRGB start image, or None when ``conditioning`` holds a prepared one."""
    conditioning: Mapping[str, Tensor] | None = None
    """Prepared conditioning of adapters that need heavy encoders (latents, text states)."""
    caption: str = ""
    instruction: str = ""
    kind: str = ""
    """Kind of actions, by which evaluation groups its numbers: ``basic``, ``combined`` or free text."""
    truth: Truth | None = None


@dataclass(frozen=True)
class Group:
    """G candidate futures of one chunk, as critics see them: pixels and commands, never the model."""

    frames_GF3hw: Tensor
    """uint8 sRGB: the chunk's frames."""
    past_frames_F3hw: Tensor
    """uint8 sRGB: the frames before the chunk, possibly none (F = 0)."""
    first_frame_3hw: Tensor
    """uint8 sRGB: the video's first frame."""
    actions: Actions
    """The chunk's K latents of commands."""
    frames_per_latent: int
    caption: str = ""
    truth: Truth | None = None
    """The engine's own continuation over the same frames and latents, where there is one."""
    past_actions: Actions | None = None
    """The commands of the latents before the chunk, where they are known."""
    instruction: str = ""
    """What the scenario asks for in words, such as ``pick up the health pack``."""

    def to(self, device: torch.device | str) -> Group:
        """The same group on another device."""
        return replace(
            self,
            frames_GF3hw=self.frames_GF3hw.to(device),
            past_frames_F3hw=self.past_frames_F3hw.to(device),
            first_frame_3hw=self.first_frame_3hw.to(device),
            actions=self.actions.to(device),
            truth=None if self.truth is None else self.truth.to(device),
            past_actions=None if self.past_actions is None else self.past_actions.to(device),
        )

    def transitions(self) -> tuple[Tensor, Tensor]:
        """The frames with the one before them, and the labels they were meant to carry out.

        Returns:
            ``frames_GT3hw`` with T = 1 + frames_per_latent * K', the first being the last frame
            before the motion, and ``labels_K`` of the K' latents that move (in a video's first
            chunk latent 0 is left out but for its last frame).
        """
        labels_K = self.actions.labels_K
        if self.past_frames_F3hw.shape[0] == 0:
            moving = self.frames_per_latent * (len(labels_K) - 1)
            return self.frames_GF3hw[:, -1 - moving :], labels_K[1:]
        lead = self.past_frames_F3hw[-1].expand(self.frames_GF3hw.shape[0], 1, -1, -1, -1)
        return torch.cat([lead, self.frames_GF3hw], 1), labels_K


@dataclass(frozen=True)
class Scores:
    """A critic's verdict on a group; higher is better."""

    values_G: Tensor
    """float32, finite everywhere, also where ``valid_G`` is False."""
    valid_G: Tensor
    """bool: False where the critic abstains."""


@dataclass(frozen=True)
class Samples:
    """The chosen futures of one step, ready for the update; row b belongs to past ``b // (B // P)``."""

    clean_BCKHW: Tensor
    """float32 latents as the behaviour weights imagined them."""
    advantage_B: Tensor
    """float32 in [-1, 1]."""
    actions: Actions
    """(P, K): the commands of each past's chunk."""
    context: object
    """The world's own Context of P pasts, attended for this chunk."""
