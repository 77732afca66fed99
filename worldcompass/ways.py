"""Ways of walking: how long the chunks of a video are and how many denoising steps they take, by name.

Every number about a world belongs to one of them, so that what people use is what is trained and judged.
"""

from __future__ import annotations

from dataclasses import dataclass

ROLLOUT, PLAY = "rollout", "play"
"""Videos along a known path, as in training and evaluation; and live walks, one key after another."""


@dataclass(frozen=True)
class Walking:
    """A way of walking."""

    chunk_length: int
    """Latents of every chunk."""
    num_steps: int
    """Denoising steps of every chunk."""

    def describe(self) -> str:
        """Such as ``chunks of 4 latents, 8 denoising steps``."""
        return f"chunks of {_count(self.chunk_length, 'latent')}, {_count(self.num_steps, 'denoising step')}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
