"""Layers of both the text and the vision stream; parameter names are the official ones."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

from worldcompass.worlds.open.layers import sinusoid

SINUSOID = 256  # dimensions of a number's sinusoidal embedding
EPS = 1e-6  # default of all norms


class ScalarEmbedder(nn.Module):
    """Embeds a timestep (0 to 1000) or the index of an action."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(SINUSOID, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, values: Tensor) -> Tensor:
        """(...) to (..., D)."""
        return self.mlp(sinusoid(values, SINUSOID).to(next(self.mlp.parameters()).dtype))


class Table(nn.Embedding):
    """An embedding without numbers on the meta device: drawing any there loads PyTorch's compiler, for seconds."""

    def reset_parameters(self) -> None:
        """See ``torch.nn.Embedding``."""
        if not self.weight.is_meta:
            super().reset_parameters()


class Mlp(nn.Module):
    """Two layers with an activation between them."""

    def __init__(self, width: int, hidden: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        return self.fc2(self.activation(self.fc1(x)))


class Modulation(nn.Module):
    """Shifts, scales and gates of a block, one row per latent."""

    def __init__(self, width: int, num_parts: int) -> None:
        super().__init__()
        self.num_parts = num_parts
        self.linear = nn.Linear(width, num_parts * width)

    def forward(self, condition_BKD: Tensor) -> tuple[Tensor, ...]:
        """``num_parts`` tensors (B, K, 1, D), which broadcast over the tokens of each latent."""
        return self.linear(functional.silu(condition_BKD))[..., None, :].chunk(self.num_parts, -1)


def modulate(x_BKTD: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm without parameters, shifted and scaled, in the type of ``x``.

    Autocast on CUDA normalises in float32. The next layer rounds the result anyway, but would hold it longer.
    """
    return (functional.layer_norm(x_BKTD, x_BKTD.shape[-1:], eps=EPS) * (1 + scale) + shift).to(x_BKTD.dtype)


class PatchEmbed(nn.Module):
    """One token per cell of a latent."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(channels, width, 1)

    def forward(self, latents_BCKHW: Tensor) -> Tensor:
        """(B, K, H * W, D)."""
        return self.proj(latents_BCKHW).flatten(3).permute(0, 2, 3, 1)


class FinalLayer(nn.Module):
    """Velocity of each cell."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x_BKTD: Tensor, condition_BKD: Tensor) -> Tensor:
        """(B, K, T, C)."""
        shift, scale = self.adaLN_modulation(condition_BKD)[..., None, :].chunk(2, -1)
        return self.linear(modulate(x_BKTD, shift, scale))
