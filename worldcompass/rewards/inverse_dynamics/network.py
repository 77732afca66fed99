"""The network of the critic: from what is seen of a latent to every control's distribution."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import silu

from worldcompass.rewards.inverse_dynamics.panel import Panel
from worldcompass.rewards.inverse_dynamics.sight import CELL, num_planes

LIMIT = 12.0  # of what is seen
WIDTH, HIDDEN = 40, 192


class ControlReader(nn.Module):
    """Reads the controls of latents.

    Args:
        panel: of the controls.
        size: (height, width) of the frames, multiples of 8.
        num_frames: W, frames of a latent that are read.
    """

    def __init__(self, panel: Panel, size: tuple[int, int], num_frames: int) -> None:
        super().__init__()
        self.panel, self.size = panel, size
        self.enter = nn.Conv2d(num_planes(num_frames), WIDTH, 3, 1, 1)
        self.down = nn.Conv2d(WIDTH, WIDTH, 4, 2, 1)
        self.inner = nn.Linear(WIDTH * (size[0] // (2 * CELL)) * (size[1] // (2 * CELL)), HIDDEN)
        self.middle = nn.Linear(HIDDEN, HIDDEN)
        self.heads = nn.Linear(HIDDEN, panel.settings * sum(panel.sizes) + 1)
        self.dropout = nn.Dropout(0.2)

    def forward(self, seen_BCyx: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of all values of all controls, (B, T, L), and of pictures of this world, (B,)."""
        x = silu(self.down(silu(self.enter(seen_BCyx.float().clamp(-LIMIT, LIMIT))))).flatten(1)
        x = silu(self.inner(self.dropout(x)))
        x = x + silu(self.middle(self.dropout(x)))
        found = self.heads(x)
        return found[:, :-1].unflatten(1, (self.panel.settings, -1)), found[:, -1]
