"""Action spaces of world models: ``CameraActions`` here, and ``Controls`` in ``controls.py``.

Both number their **composites**, the combinations of keys such as ``w+left`` or ``reach+close``. Composite 0 rests.
A path lists composites and the number of latents to hold each: ``w-3, right-1`` or ``reach-2, close+up-3``.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby

import torch
from torch import Tensor

from worldcompass.critic import Critic, Need, needs_of
from worldcompass.geometry import (
    NUM_ACTIONS,
    NUM_ROTATIONS,
    LabelThresholds,
    Motion,
    label_from_signs,
    nominal_poses,
    signs_of_label,
    within_pitch,
)
from worldcompass.types import Actions, CameraMoves

REST = "none"  # the name of composite 0

TRANSLATIONS = (
    "none", "forward", "backward", "right", "left",
    "forward-right", "forward-left", "backward-right", "backward-left",
)  # fmt: skip
ROTATIONS = (
    "none", "yaw right", "yaw left", "pitch up", "pitch down", "right-up", "right-down", "left-up", "left-down",
)  # fmt: skip


@dataclass(frozen=True)
class Key:
    """A word of a path and a key of the player: one direction along one axis."""

    word: str
    axis: int
    """Index into ``ActionSpace.axes``."""
    sign: int
    """1 towards the upper end of the axis, -1 towards its lower end."""
    code: str
    """The browser's ``KeyboardEvent.code``; empty without a key."""
    says: str
    """Description of its effect, for people."""


class ActionSpace(ABC):
    """The interface of both action spaces."""

    @property
    @abstractmethod
    def gives(self) -> Need:
        """What critics can read of these actions."""

    @property
    @abstractmethod
    def axes(self) -> tuple[str, ...]:
        """Names of the independent commands."""

    @property
    @abstractmethod
    def keys(self) -> tuple[Key, ...]:
        """The words of a path, in print order."""

    @property
    @abstractmethod
    def rows(self) -> tuple[str, ...]:
        """Names of the composites as a table: composite ``len(columns) * row + column``."""

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """See ``rows``."""

    @property
    @abstractmethod
    def num_composites(self) -> int:
        """``len(rows) * len(columns)``."""

    @abstractmethod
    def signs(self, composite: int) -> tuple[int, ...]:
        """The direction of a composite along each axis: -1, 0 or 1."""

    @abstractmethod
    def composite(self, signs: Sequence[int]) -> int:
        """The composite with these signs."""

    @abstractmethod
    def commanded(self, composites_M: Tensor, like: Actions | None = None) -> Actions:
        """The nominal actions of composites.

        Args:
            composites_M: int64, (..., M), starting with 0 for the start image.
            like: actions of the same trajectories, for properties besides composites, such as the camera's lens.
        """

    @abstractmethod
    def composites(self, actions: Actions) -> Tensor:
        """The composite closest to each latent's action; int64 (..., K)."""

    @abstractmethod
    def hold_last(self, actions: Actions, num_extra: int) -> Actions:
        """One trajectory, with its last action held for ``num_extra`` more latents."""

    @abstractmethod
    def follow(self, past: Actions, coming: Actions, latents: int) -> Actions:
        """Extend P trajectories by one action each.

        Args:
            past: (P, M), M at least 1.
            coming: (P, 1), which is kept within the world's limits.
            latents: number of latents to hold it.
        """

    @abstractmethod
    def changed(self, actions: Actions, axis: int) -> Actions:
        """The actions with a different command along one axis in every latent."""

    @abstractmethod
    def check(self, actions: Actions) -> None:
        """Check that actions belong to this space.

        Raises:
            ValueError: in one sentence with the expected and received values.
        """

    @abstractmethod
    def describe(self) -> str:
        """A short description of the space, such as ``81 camera motions``."""

    def words(self, composite: int) -> tuple[str, ...]:
        """The words of a composite, such as ``("w", "left")``; none for rest."""
        return _words(self, composite)

    def of_words(self, words: Iterable[str]) -> int:
        """The composite of keys that are held together; opposite keys cancel.

        Raises:
            ValueError: with an unknown word and the known ones.
        """
        known = {key.word: key for key in self.keys}
        total = [0] * len(self.axes)
        for word in set(words) - {REST}:
            if word not in known:
                raise ValueError(f"unknown key {word!r}: expected keys from {self._vocabulary}")
            total[known[word].axis] += known[word].sign
        return self.composite(total)

    def name(self, composite: int) -> str:
        """A readable name of a composite, such as ``reach + close``."""
        return " + ".join(self.words(composite)) or REST

    def kind(self, composite: int) -> str:
        """The kind of a composite in evaluations: ``none``, ``basic`` for one axis, or ``combined``."""
        return ("none", "basic", "combined")[min(2, sum(map(abs, self.signs(composite))))]

    def parse(self, text: str, longest: int | None = None) -> Tensor:
        """Composites of a path such as ``w-3, w+left-4``: int64 (M,), one per latent, starting with 0.

        A number counts latents, ``+`` combines keys and ``none`` rests. Fractions of a latent are cut off, as
        WorldPlay reads its own ``right-0.5``.

        Args:
            text: the path.
            longest: limit of latents without the start image, checked before any allocation.

        Raises:
            ValueError: in one sentence with the invalid segment, or the excessive length.
        """
        found, known = [0], {key.word: key for key in self.keys}
        for segment in (part.strip() for part in text.split(",")):
            head, _, count = segment.rpartition("-")
            words, latents = [word.strip() for word in head.split("+")], _whole_latents(count.strip())
            unread = [word for word in words if word not in known and word != REST]
            if unread or latents is None:
                raise ValueError(
                    f"cannot read {segment!r} in the path {text!r}: expected KEYS-LATENTS such as"
                    f" {' or '.join(self.examples)}, with keys from {self._vocabulary}"
                )
            if len(set(words)) < len(words):
                raise ValueError(f"{segment!r} in the path {text!r} names a key twice: name each key once")
            held = [known[word] for word in words if word != REST]
            if len({key.axis for key in held}) < len(held):
                raise ValueError(
                    f"{segment!r} in the path {text!r} asks for opposite ways at once: leave one out"
                )
            if longest is not None and len(found) - 1 + latents > longest:
                raise ValueError(f"the path lasts more than {longest} latents: shorten it")
            found += [self.of_words(words)] * latents
        if len(found) == 1:
            raise ValueError(f"the path {text!r} lasts less than one latent: make a part of it longer")
        return torch.tensor(found)

    def path(self, composites_M: Sequence[int]) -> str:
        """The path of composites from the start image's on: the inverse of ``parse``; empty without a step."""
        held = [(self.words(composite), len(list(run))) for composite, run in groupby(composites_M[1:])]
        return ", ".join(f"{'+'.join(words) or REST}-{count}" for words, count in held)

    def along(self, path: str) -> Actions:
        """The actions of a path from the start: ``commanded(parse(path))``.

        Raises:
            ValueError: see ``parse``.
        """
        return self.commanded(self.parse(path))

    @property
    def examples(self) -> tuple[str, ...]:
        """Segments of a path that this world knows, such as ``w-3`` and ``w+left-4``."""
        first, *others = self.keys
        other = [key.word for key in others[len(others) // 2 + 1 :] + others if key.axis != first.axis]
        return (f"{first.word}-3", f"{first.word}+{other[0]}-4") if other else (f"{first.word}-3",)

    @property
    def _vocabulary(self) -> str:
        return " ".join([*(key.word for key in self.keys), REST])


def misfit(critic: Critic, space: ActionSpace) -> str:
    """The reason why a critic cannot score a world with these actions, to end a sentence; empty if it can."""
    words = {"cameras": "camera poses", "controls": "the values of controls"}
    lacking = [words[need] for need in sorted(needs_of(critic) - {space.gives, "truth", "reachable"})]
    return f"needs {lacking[0]}, but this world's actions are {space.describe()}" if lacking else ""


@cache
def _words(space: ActionSpace, composite: int) -> tuple[str, ...]:
    signs = space.signs(composite)
    return tuple(key.word for key in space.keys if signs[key.axis] == key.sign)


_CAMERA_KEYS = (
    Key("w", 1, 1, "KeyW", "forward"),
    Key("s", 1, -1, "KeyS", "backward"),
    Key("d", 0, 1, "KeyD", "step right"),
    Key("a", 0, -1, "KeyA", "step left"),
    Key("right", 2, 1, "ArrowRight", "turn right"),
    Key("left", 2, -1, "ArrowLeft", "turn left"),
    Key("up", 3, 1, "ArrowUp", "look up"),
    Key("down", 3, -1, "ArrowDown", "look down"),
)


@dataclass(frozen=True)
class CameraActions(ActionSpace):
    """81 motions of a camera, 9 translations x 9 rotations, one per latent, with the resulting poses."""

    motion: Motion
    """Nominal motion of an action over one latent."""
    thresholds: LabelThresholds
    """Smallest motions for labels that are read from poses."""
    max_pitch_deg: float | None = None
    """Limit of the pitch that the world was trained for; no limit when None."""
    intrinsics: tuple[float, float, float, float] = (1.0, 1.0, 0.5, 0.5)
    """Default fx, fy, cx, cy of the camera, divided by width and height."""

    @property
    def gives(self) -> Need:
        """Cameras."""
        return "cameras"

    @property
    def axes(self) -> tuple[str, ...]:
        """See ``ActionSpace``."""
        return "right", "forward", "yaw", "pitch"

    @property
    def keys(self) -> tuple[Key, ...]:
        """See ``ActionSpace``."""
        return _CAMERA_KEYS

    @property
    def rows(self) -> tuple[str, ...]:
        """See ``ActionSpace``: the translations."""
        return TRANSLATIONS

    @property
    def columns(self) -> tuple[str, ...]:
        """See ``ActionSpace``: the rotations."""
        return ROTATIONS

    @property
    def num_composites(self) -> int:
        """81."""
        return NUM_ACTIONS

    def signs(self, composite: int) -> tuple[int, ...]:
        """See ``ActionSpace``."""
        return signs_of_label(composite)

    def composite(self, signs: Sequence[int]) -> int:
        """See ``ActionSpace``."""
        return label_from_signs(*signs)

    def name(self, composite: int) -> str:
        """A readable name of a composite, such as ``forward + yaw left``."""
        parts = (TRANSLATIONS[composite // NUM_ROTATIONS], ROTATIONS[composite % NUM_ROTATIONS])
        return " + ".join(part for part in parts if part != REST) or REST

    def commanded(self, composites_M: Tensor, like: Actions | None = None) -> CameraMoves:
        """See ``ActionSpace``: labels with their nominal camera path from the identity."""
        labels = composites_M.long()
        lens = torch.tensor(self.intrinsics) if like is None else like.cameras.intrinsics_K4[..., :1, :]
        return CameraMoves(labels, self.poses(labels), lens.expand(*labels.shape, 4))

    def poses(self, labels_M: Tensor, start_44: Tensor | None = None) -> Tensor:
        """The nominal camera path of labels, the pose after each; float32 (..., M, 4, 4).

        Args:
            labels_M: that of a start image is 0.
            start_44: nominal pose before the first label; the identity when None.
        """
        return nominal_poses(labels_M, self.motion, start_44)

    def composites(self, actions: Actions) -> Tensor:
        """See ``ActionSpace``: the labels."""
        return actions.cameras.labels_K

    def hold_last(self, actions: Actions, num_extra: int) -> CameraMoves:
        """See ``ActionSpace``: by the action's nominal motion, from the last pose."""
        own = actions.cameras
        labels = torch.cat([own.labels_K, own.labels_K[-1:].expand(num_extra)])
        nominal = self.poses(labels).to(own.world_from_camera_K44)
        last = len(own) - 1
        extra = own.world_from_camera_K44[last] @ torch.inverse(nominal[last]) @ nominal[last + 1 :]
        lens = torch.cat([own.intrinsics_K4, own.intrinsics_K4[-1:].expand(num_extra, 4)])
        return CameraMoves(labels, torch.cat([own.world_from_camera_K44, extra]), lens)

    def follow(self, past: Actions, coming: Actions, latents: int) -> CameraMoves:
        """See ``ActionSpace``. Only the labels of ``coming`` are used; poses follow by the nominal motion.

        Pitch is removed from an action that would exceed the limit. The path goes on from the last pose, so that a
        step of a long walk takes no longer than one of a short walk.
        """
        own, labels_P = past.cameras, coming.cameras.labels_K[:, 0]
        held = self.within(own.labels_K, labels_P, latents)[:, None].expand(-1, latents)
        poses = self.poses(held, own.world_from_camera_K44[:, -1])
        lens = own.intrinsics_K4[:, -1:].expand(-1, latents, -1)
        return CameraMoves.join([own, CameraMoves(held, poses, lens)])

    def changed(self, actions: Actions, axis: int) -> CameraMoves:
        """See ``ActionSpace``: a resting axis becomes positive, a moving one rests; poses are nominal."""
        own = actions.cameras.to("cpu")
        signs = [[*self.signs(int(label))] for label in own.labels_K.flatten()]
        others = [self.composite([*s[:axis], int(not s[axis]), *s[axis + 1 :]]) for s in signs]
        return self.commanded(torch.tensor(others).view(own.labels_K.shape), like=own).to(
            actions.cameras.labels_K.device
        )

    def within(self, labels_PM: Tensor, labels_P: Tensor, latents: int = 1) -> Tensor:
        """The labels without pitch beyond the limit; int64 (P,). See ``within_pitch``."""
        return within_pitch(labels_PM, labels_P, self.motion, self.max_pitch_deg, latents)

    def check(self, actions: Actions) -> None:
        """See ``ActionSpace``."""
        own = actions.cameras
        shape, labels = own.labels_K.shape, own.labels_K
        shapes = (own.world_from_camera_K44.shape, own.intrinsics_K4.shape)
        if shapes != ((*shape, 4, 4), (*shape, 4)) or labels.dtype != torch.int64:
            raise ValueError(
                f"expected int64 labels with a pose (4, 4) and a lens (4,) each, got {labels.dtype} {tuple(shape)}"
                f" with {tuple(shapes[0])} and {tuple(shapes[1])}"
            )
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < NUM_ACTIONS:
            raise ValueError(
                f"expected composite actions from 0 to {NUM_ACTIONS - 1}, got {int(labels.min())} to"
                f" {int(labels.max())}"
            )

    def describe(self) -> str:
        """See ``ActionSpace``."""
        return f"{NUM_ACTIONS} camera motions"


def _whole_latents(count: str) -> int | None:
    """The whole latents of a duration such as ``3`` or ``2.5``; None for one that is not positive."""
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", count) or float(count) <= 0:
        return None
    return int(float(count))
