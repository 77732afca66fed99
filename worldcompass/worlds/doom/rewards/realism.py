"""The embedded realism critic as a scorer of frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from worldcompass.worlds.doom.critics.realism import Realism


class EmbeddedRealism:
    """Realism of single frames, by a network trained only on the embedded world."""

    name = "realism"

    def __init__(self, realism: Realism | None = None) -> None:
        """Use ``realism``, by default the network with the weights of the package."""
        if realism is None:
            from worldcompass.worlds.doom.critics.weights import load_critics

            realism = load_critics().realism
        self.realism = realism.eval()

    def __call__(self, frames_F3hw: Tensor, caption: str) -> Tensor:
        """Minus the predicted strength of degradation, about -1 to 0; captions are not read."""
        return self.realism.score(frames_F3hw)
