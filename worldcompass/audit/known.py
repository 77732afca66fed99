"""Critics that can be audited by name, and what each must notice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from worldcompass.audit import ClipKind
from worldcompass.critic import Critic


@dataclass(frozen=True)
class Known:
    """How to make a critic, and the lies that it must detect (``audit.expected``)."""

    make: Callable[[], Critic]
    expects: str
    clips: ClipKind = "mixed"
    """The kind of clips that it scores."""
