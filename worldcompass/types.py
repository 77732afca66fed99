"""The frozen types that the stages exchange: Scenario -> Group -> Scores -> Samples.

Dimension suffixes of all files (logical sizes, not sharded ones):

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
A      controls of a world without a camera
T      settings of the controls within one latent
C,H,W  channels, height and width of a latent
h,w    height and width of a frame in pixels
=====  ==========================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self, TypeVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class Actions:
    """Commands, one entry per latent; leading axes (``...``) are a batch of trajectories.

    The subclass belongs to the world's action space, ``spec.actions``: ``CameraMoves`` or ``ControlValues``. Every
    field is a tensor whose name ends with its axes: ``_K44`` has two axes after that of the latents.
    """

    def __len__(self) -> int:
        name = fields(self)[0].name
        return getattr(self, name).shape[-1 - _axes_after(name)]

    @property
    def cameras(self) -> CameraMoves:
        """The actions as camera moves.

        Raises:
            ValueError: for actions of another kind.
        """
        raise ValueError("expected camera poses, got the values of controls: this world has no camera")

    @property
    def controls(self) -> ControlValues:
        """The actions as values of controls.

        Raises:
            ValueError: for actions of another kind.
        """
        raise ValueError("expected the values of controls, got camera poses: this world has no controls")

    @property
    def commanded_K(self) -> Tensor:
        """bool (..., K): latents with a command other than rest."""
        raise NotImplementedError

    def latents(self, start: int, stop: int) -> Self:
        """The latents ``start <= i < stop`` of every trajectory."""
        return self._each(lambda tensor, after: tensor[(..., slice(start, stop), *[slice(None)] * after)])

    def select(self, row: int | slice | Tensor) -> Self:
        """One trajectory of a batch, without its batch axis; or some of them."""
        return self._each(lambda tensor, after: tensor[row])

    def pick(self, index: Tensor) -> Self:
        """Some latents of every trajectory, int64 (K,)."""
        return self._each(lambda tensor, after: tensor[(..., index, *[slice(None)] * after)])

    def pick_each(self, index_PK: Tensor) -> Self:
        """Some latents of each of P trajectories, its own ones, int64 (P, K)."""
        rows = torch.arange(len(index_PK), device=index_PK.device)[:, None]
        return self._each(lambda tensor, after: tensor[rows, index_PK])

    def to(self, device: torch.device | str) -> Self:
        """The same actions on another device."""
        return self._each(lambda tensor, after: tensor.to(device))

    def _each(self, change: Callable[[Tensor, int], Tensor]) -> Self:
        """A copy with every tensor changed; ``change`` also gets the number of axes after that of the latents."""
        names = [f.name for f in fields(self)]
        return replace(self, **{name: change(getattr(self, name), _axes_after(name)) for name in names})

    @staticmethod
    def stack(trajectories: Sequence[A]) -> A:
        """A batch of equally long trajectories.

        Raises:
            ValueError: when they differ in length or kind.
        """
        lengths = sorted({len(t) for t in trajectories})
        if len(lengths) != 1:
            raise ValueError(f"trajectories of one batch need one length, got lengths {lengths}")
        return _combined(trajectories, lambda tensors, after: torch.stack(tensors))

    @staticmethod
    def join(parts: Sequence[A]) -> A:
        """Concatenate parts of the same trajectories.

        Raises:
            ValueError: when they differ in kind.
        """
        return _combined(parts, lambda tensors, after: torch.cat(tensors, -1 - after))


A = TypeVar("A", bound=Actions)


def _combined(parts: Sequence[A], combine: Callable[[list[Tensor], int], Tensor]) -> A:
    kinds = {type(part) for part in parts}
    if len(kinds) != 1:
        raise ValueError(f"expected actions of one kind, got {sorted(kind.__name__ for kind in kinds)}")
    names = [f.name for f in fields(parts[0])]
    return kinds.pop()(*(combine([getattr(p, name) for p in parts], _axes_after(name)) for name in names))


def _axes_after(name: str) -> int:
    return len(name.rpartition("_K")[2])


@dataclass(frozen=True)
class CameraMoves(Actions):
    """Actions of a camera. The pose of latent i is that of the latent's last frame."""

    labels_K: Tensor
    """int64, (..., K): composite action ``9 * translation + rotation`` in 0..80 (see geometry.py)."""
    world_from_camera_K44: Tensor
    """float32, (..., K, 4, 4): OpenCV axes, in the world's own length unit."""
    intrinsics_K4: Tensor
    """float32, (..., K, 4): fx, fy, cx, cy divided by the image's width and height."""

    @property
    def cameras(self) -> CameraMoves:
        """See ``Actions``."""
        return self

    @property
    def commanded_K(self) -> Tensor:
        """See ``Actions``."""
        return self.labels_K != 0


@dataclass(frozen=True)
class ControlValues(Actions):
    """Actions of controls."""

    values_KTA: Tensor
    """float32, (..., K, T, A): the T successive settings of each latent, in the order of the controls."""

    @property
    def controls(self) -> ControlValues:
        """See ``Actions``."""
        return self

    @property
    def commanded_K(self) -> Tensor:
        """See ``Actions``."""
        return (self.flat_KA != 0).any(-1)

    @property
    def flat_KA(self) -> Tensor:
        """All values of a latent in one row, (..., K, T * A), as most networks expect."""
        return self.values_KTA.flatten(-2)


@dataclass(frozen=True)
class Truth:
    """The engine's continuation of a scenario."""

    frames_F3hw: Tensor
    """uint8 sRGB; the first frame is the start image."""
    actions: Actions
    """Executed actions, M latents; labels of a camera are measured from its motion."""
    reachable_F3hw: Tensor | None = None
    """uint8: the frames through the world's autoencoder (``reachable.py``), if they were made."""

    def to(self, device: torch.device | str) -> Truth:
        """The same truth on another device."""
        reachable = None if self.reachable_F3hw is None else self.reachable_F3hw.to(device)
        return Truth(self.frames_F3hw.to(device), self.actions.to(device), reachable)

    def part(self, frames: slice, start: int, stop: int) -> Truth:
        """Some frames, and the latents ``start <= i < stop``."""
        reachable = None if self.reachable_F3hw is None else self.reachable_F3hw[frames]
        return Truth(self.frames_F3hw[frames], self.actions.latents(start, stop), reachable)


@dataclass(frozen=True)
class Scenario:
    """A start and a trajectory of commands."""

    id: str
    """Unique and stable: random numbers derive from it."""
    actions: Actions
    """M latents; latent 0 is the start image, without a command."""
    image_3hw: Tensor | None = None
    """uint8 sRGB start image, or None when ``conditioning`` holds a prepared one."""
    conditioning: Mapping[str, Tensor] | None = None
    """Prepared conditioning of adapters that need heavy encoders (latents, text states)."""
    caption: str = ""
    instruction: str = ""
    kind: str = ""
    """Kind of actions, by which the evaluation groups scores: ``basic``, ``combined`` or free text."""
    truth: Truth | None = None


@dataclass(frozen=True)
class Group:
    """G candidate futures of one chunk for critics: pixels and commands, without the model."""

    frames_GF3hw: Tensor
    """uint8 sRGB: the chunk's frames."""
    past_frames_F3hw: Tensor
    """uint8 sRGB: the frames before the chunk; F = 0 for the first chunk."""
    first_frame_3hw: Tensor
    """uint8 sRGB: the video's first frame."""
    actions: Actions
    """The chunk's K latents of commands."""
    frames_per_latent: int
    caption: str = ""
    truth: Truth | None = None
    """The engine's continuation over the same frames and latents, if known."""
    past_actions: Actions | None = None
    """The commands of the latents before the chunk, if known."""
    instruction: str = ""
    """The scenario's task in words, such as ``pick up the health pack``."""
    guidance_G: Tensor | None = None
    """float32: the guidance of each candidate; None when the group did not explore."""
    true_past: bool = False
    """Whether the past frames are the engine's own."""

    @property
    def depth(self) -> int:
        """Imagined chunks before this one, of this one's length; 0 after the engine's own past."""
        past = 0 if self.true_past or self.past_actions is None else len(self.past_actions)
        return past // max(1, len(self.actions))

    def reachable(self) -> Tensor | None:
        """The engine's frames through the world's autoencoder, uint8 (F, 3, h, w); None if unknown."""
        found = None if self.truth is None else self.truth.reachable_F3hw
        fits = found is not None and found.shape == self.frames_GF3hw.shape[1:]
        return found.to(self.frames_GF3hw.device) if found is not None and fits else None

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
            guidance_G=None if self.guidance_G is None else self.guidance_G.to(device),
        )

    def transitions(self) -> tuple[Tensor, Actions]:
        """The frames, preceded by the last frame before the motion, and their commanded actions.

        Returns:
            ``frames_GT3hw`` with T = 1 + frames_per_latent * K', and the actions of the K' moving latents. In the
            first chunk of a video, latent 0 contributes only its last frame.
        """
        if self.past_frames_F3hw.shape[0] == 0:
            actions = self.actions.latents(1, len(self.actions))
            return self.frames_GF3hw[:, -1 - self.frames_per_latent * len(actions) :], actions
        lead = self.past_frames_F3hw[-1].expand(self.frames_GF3hw.shape[0], 1, -1, -1, -1)
        return torch.cat([lead, self.frames_GF3hw], 1), self.actions


@dataclass(frozen=True)
class Scores:
    """A critic's scores of a group; higher is better."""

    values_G: Tensor
    """float32, finite even where ``valid_G`` is False."""
    valid_G: Tensor
    """bool: False where the critic abstains."""
    each_GL: Tensor | None = None
    """float32: of each of the clip's last L latents, for ``credit=latents``; None where only clips are scored."""


@dataclass(frozen=True)
class Samples:
    """The selected futures of one step for the update; row b belongs to past ``b // (B // P)``."""

    clean_BCKHW: Tensor
    """float32 latents, imagined by the behaviour weights."""
    advantage_B: Tensor
    """float32 in [-1, 1]; (B, K) where each latent has its own."""
    actions: Actions
    """(P, K): the commands of each past's chunk."""
    context: Any
    """The world's own Context of P pasts, attended for this chunk."""
