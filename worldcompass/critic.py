"""The contract of a critic, which scores candidates from their pixels and commands."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from worldcompass.errors import UserError
from worldcompass.types import Group, Scores

# Errors to expect from a user's critic or recipe: bugs, unreadable groups, failing files and devices.
FAILURES = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, OSError, RuntimeError,
    TypeError, ValueError,
)  # fmt: skip


class FailedCritic(ValueError):
    """A critic did not return scores; the message ends a sentence about the critic."""


@runtime_checkable
class Critic(Protocol):
    """Scores the candidates of a group; ``worldcompass.testing.check_critic`` checks this contract.

    A candidate's score must not depend on its place in the group, and the group must stay unchanged. A critic that
    reads more than pixels and words lists it in ``needs``, see ``Need``; runs without it are refused.
    """

    @property
    def name(self) -> str:
        """Name of the scores in logs, such as ``interaction``."""
        ...

    def __call__(self, group: Group) -> Scores:
        """Score the G candidates, higher is better; ``valid_G`` is False where the critic abstains."""
        ...


@runtime_checkable
class Elsewhere(Critic, Protocol):
    """A critic that works in other processes; threads call it while the next group is imagined."""

    @property
    def at_once(self) -> int:
        """Limit of simultaneous calls, at least 1."""
        ...


@runtime_checkable
class Retrying(Critic, Protocol):
    """A critic that retries after failures and counts them, for the doctor."""

    @property
    def tries(self) -> tuple[int, int]:
        """Number of tries so far, and of failed ones."""
        ...


@runtime_checkable
class Fitted(Critic, Protocol):
    """A critic that was made for one world, such as from its recordings."""

    def misfit(self, spec: Any) -> str:
        """Why it cannot score the world of a ``WorldSpec``, to end a sentence; empty if it can."""
        ...


@runtime_checkable
class Learner(Critic, Protocol):
    """A critic that learns from every step after it has scored it, along with the policy.

    A run saves its state with each checkpoint and restores it, so a resumed run scores as an uninterrupted one.
    All processes of a run learn from the same examples and stay equal.
    """

    def examples(self, groups: Sequence[Group], keys: tuple[int | str, ...]) -> Tensor:
        """What it learns from this process's groups, (E, ...); random numbers derive from ``keys``."""
        ...

    def learn(self, examples: Tensor, keys: tuple[int | str, ...]) -> Mapping[str, float]:
        """Learn from the examples of all processes, and return measurements by name, such as ``accuracy``."""
        ...

    def state(self) -> Mapping[str, Tensor]:
        """All tensors that it needs to go on exactly."""
        ...

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state`` returned; an empty one starts over."""
        ...


Need = Literal["cameras", "controls", "truth", "reachable"]
"""What a critic may read besides pixels and words: labels and poses, controls, the engine's continuation, and that
continuation through the world's autoencoder."""


def needs_of(critic: Critic) -> frozenset[Need]:
    """The needs of a critic; empty without an attribute ``needs``."""
    return frozenset(getattr(critic, "needs", ()))


def ask(critic: Critic, group: Group) -> Scores:
    """Call a critic without gradients and check that it returns one value and one validity per candidate.

    Raises:
        FailedCritic: when it raises an error, or returns something else.
        UserError: as raised by the critic, such as for an unreachable server.
    """
    try:
        with (
            torch.no_grad()
        ):  # a network called as people write it would keep its graph, and spoil the next one
            scores: Any = critic(group)
    except UserError:
        raise
    except FAILURES as error:
        raise FailedCritic(f"failed: {error_line(error)}") from error
    if not isinstance(scores, Scores):
        raise FailedCritic(f"returned {type(scores).__name__}: expected Scores(values_G, valid_G)")
    size = (len(group.frames_GF3hw),)
    if tuple(scores.values_G.shape) != size or tuple(scores.valid_G.shape) != size:
        raise FailedCritic(
            f"must return one score and one verdict for each candidate, {size[0]} each, got"
            f" {tuple(scores.values_G.shape)} and {tuple(scores.valid_G.shape)}"
        )
    each = scores.each_GL
    if each is not None and (
        each.ndim != 2 or len(each) != size[0] or not 0 < each.shape[1] <= len(group.actions)
    ):
        raise FailedCritic(
            f"must score each of the clip's last latents, at most {len(group.actions)} of {size[0]} candidates, got"
            f" {tuple(each.shape)}"
        )
    return replace(scores, values_G=scores.values_G.detach(), each_GL=None if each is None else each.detach())


def error_line(error: BaseException) -> str:
    """One line for an error of a user's code: its message, and for a bug also the type and place."""
    words = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    if isinstance(error, ValueError | OSError | ImportError | SyntaxError):  # the message suffices
        return words
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "site-packages" not in f.filename]
    place = f", {Path(frames[-1].filename).name} line {frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}: {words}{place}"
