"""The contract of a critic: pixels and commands in, one score per candidate out."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from worldcompass.errors import UserError
from worldcompass.types import Group, Scores

# What somebody's own code may raise: bugs, groups that it cannot read, files and devices that fail it.
FAILURES = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, OSError, RuntimeError,
    TypeError, ValueError,
)  # fmt: skip


class FailedCritic(ValueError):
    """What a critic did instead of scoring, as the end of a sentence about it."""


@runtime_checkable
class Critic(Protocol):
    """Scores the candidates of a group; ``worldcompass.testing.check_critic`` is its executable form.

    A candidate's score must not depend on its place in the group, and the group must be left as it is. A critic
    that reads more than pixels and words says what in ``needs``, see ``Need``; a run that lacks it is refused.
    """

    @property
    def name(self) -> str:
        """Word under which the scores are logged, such as ``interaction``."""
        ...

    def __call__(self, group: Group) -> Scores:
        """Score the G candidates, higher is better; ``valid_G`` False where the critic abstains."""
        ...


@runtime_checkable
class Elsewhere(Critic, Protocol):
    """A critic whose work is done in other processes: it is asked from threads while the next group is imagined."""

    @property
    def at_once(self) -> int:
        """Groups that it may be asked about at the same time, at least 1."""
        ...


@runtime_checkable
class Retrying(Critic, Protocol):
    """A critic that is asked again when it fails, and counts it: the doctor wants to know."""

    @property
    def tries(self) -> tuple[int, int]:
        """Tries made so far, and those of them that failed."""
        ...


Need = Literal["cameras", "controls", "truth"]
"""What a critic may read of a group besides pixels and words: labels and poses, controls, the engine's own part."""


def needs_of(critic: Critic) -> frozenset[Need]:
    """What a critic says it needs; nothing when it says nothing."""
    return frozenset(getattr(critic, "needs", ()))


def ask(critic: Critic, group: Group) -> Scores:
    """A critic's scores of a group: one number and one verdict for each candidate.

    Raises:
        FailedCritic: when it raises instead, or returns something else.
        UserError: its own sentence, such as that of a server which cannot be reached.
    """
    try:
        scores: Any = critic(group)
    except UserError:
        raise
    except FAILURES as error:
        raise FailedCritic(f"failed: {said(error)}") from error
    if not isinstance(scores, Scores):
        raise FailedCritic(f"returned {type(scores).__name__}: expected Scores(values_G, valid_G)")
    size = (len(group.frames_GF3hw),)
    if tuple(scores.values_G.shape) != size or tuple(scores.valid_G.shape) != size:
        raise FailedCritic(
            f"must return one score and one verdict for each candidate, {size[0]} each, got"
            f" {tuple(scores.values_G.shape)} and {tuple(scores.valid_G.shape)}"
        )
    return scores


def said(error: Exception) -> str:
    """An error of somebody's own code in one line: its words, and where it is a bug, what kind and where."""
    words = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    if isinstance(error, ValueError | OSError | ImportError | SyntaxError):  # who reads them needs no place
        return words
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "site-packages" not in f.filename]
    place = f", {Path(frames[-1].filename).name} line {frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}: {words}{place}"
