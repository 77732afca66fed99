"""The keyboard-and-mouse module of Matrix-Game 2 and ForgeWM: two attentions along time inside a transformer block.

Latent L reads the settings of ``SEEN_FRAMES`` video frames, see ``controls.py``. The **mouse** attention compares a
token with the tokens at the same place in other latents. The **keyboard** attention compares every token with keys
made of the pressed keys alone. Both look at whole latents: all of the own chunk, and those of the past that are
passed in. Parameter names are the official ones, ``blocks.<i>.action_model.``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from worldcompass.worlds.open.attention import KeyValues, attend_after, attend_to, rows_per_past
from worldcompass.worlds.open.causal import FRAMES_PER_LATENT
from worldcompass.worlds.open.rotary import Rotary, rotate

HEAD = 64  # dimensions of a head, which the official positions fix
ROTATED = 8  # of them rotate with time; the others have position 0
THETA = 256.0
NORM_EPS, MLP_EPS = 1e-6, 1e-5
SEEN_LATENTS = 3  # whose frames one latent reads
SEEN_FRAMES = SEEN_LATENTS * FRAMES_PER_LATENT
MOUSE = 2  # numbers of the mouse in a frame: pitch, yaw

KeptActions = tuple[Tensor, ...]
"""Keys and values of the keyboard, (K, heads, head) each, then with a mouse its own, (K, tokens, heads, head)."""


@dataclass(frozen=True)
class ActionConfig:
    """Sizes of the module; the defaults are the real ones."""

    num_keys: int
    """Keys of the keyboard, the numbers of a frame."""
    has_mouse: bool = True
    """Without it the mouse's layers do not exist, which is another function than a mouse at rest."""
    key_width: int = 128
    """Dimensions of one frame's keys."""
    keyboard_width: int = 1024
    """Of the keyboard's attention, all heads together."""
    mouse_width: int = 1024
    """Of the mouse's attention."""

    @classmethod
    def of_shapes(cls, shapes: Mapping[str, tuple[int, ...]], block: int) -> ActionConfig:
        """The sizes of a network's modules by its tensors' official names, read from one block.

        Raises:
            KeyError: when the block lacks a tensor.
        """
        prefix = f"blocks.{block}.action_model."
        key_width, num_keys = shapes[f"{prefix}keyboard_embed.0.weight"]
        keyboard_width, has_mouse = (
            shapes[f"{prefix}proj_keyboard.weight"][1],
            f"{prefix}t_qkv.weight" in shapes,
        )
        mouse_width = shapes[f"{prefix}proj_mouse.weight"][1] if has_mouse else cls.mouse_width
        return cls(num_keys, has_mouse, key_width, keyboard_width, mouse_width)


@dataclass(frozen=True)
class Windows:
    """The settings that each of K latents reads, oldest frame first; one row per past or per row of a batch."""

    keyboard_PKE: Tensor
    """float32, E = ``SEEN_FRAMES`` * keys."""
    mouse_PKE: Tensor
    """float32, E = ``SEEN_FRAMES`` * 2: pitch and yaw of every frame."""


class ActionModule(nn.Module):
    """Adds the mouse's and the keyboard's attention to a block's tokens."""

    def __init__(self, width: int, config: ActionConfig) -> None:
        super().__init__()
        self.config = config
        keys, hidden = config.key_width, config.keyboard_width
        self.keyboard_embed = nn.Sequential(
            nn.Linear(config.num_keys, keys), nn.SiLU(), nn.Linear(keys, keys)
        )
        self.mouse_attn_q = nn.Linear(
            width, hidden, bias=False
        )  # the keyboard's queries, in spite of its name
        self.keyboard_attn_kv = nn.Linear(SEEN_FRAMES * keys, 2 * hidden, bias=False)
        self.proj_keyboard = nn.Linear(hidden, width, bias=False)
        self.key_attn_q_norm, self.key_attn_k_norm = _UnusedScale(), _UnusedScale()
        if config.has_mouse:
            mouse = config.mouse_width
            self.mouse_mlp = nn.Sequential(
                nn.Linear(width + SEEN_FRAMES * MOUSE, mouse),
                nn.GELU("tanh"),
                nn.Linear(mouse, mouse),
                nn.LayerNorm(mouse, MLP_EPS),
            )
            self.t_qkv = nn.Linear(mouse, 3 * mouse, bias=False)
            self.proj_mouse = nn.Linear(mouse, width, bias=False)
            self.img_attn_q_norm, self.img_attn_k_norm = _UnusedScale(), _UnusedScale()

    def forward(
        self, x_BKTD: Tensor, windows: Windows, pasts: Sequence[KeptActions], first: int
    ) -> tuple[Tensor, KeptActions]:
        """Tokens with both attentions added, and what the rows' latents leave behind, rows in front.

        Args:
            x_BKTD: T tokens of each of K latents; row b belongs to past ``b // (B // P)``.
            windows: of the latents; those of one past are the same.
            pasts: what the visible latents of each of the P pasts left behind; none without a past.
            first: index in the video of the first latent.
        """
        table = _positions(first, x_BKTD.shape[1], x_BKTD.device)
        visible = [past for past in pasts if past]
        mouse: KeptActions = ()
        if self.config.has_mouse:
            x_BKTD, mouse = self._mouse(x_BKTD, windows.mouse_PKE, table, [past[2:] for past in visible])
        x_BKTD, keyboard = self._keyboard(x_BKTD, windows.keyboard_PKE, table, [past[:2] for past in visible])
        return x_BKTD, (*keyboard, *mouse)

    def _mouse(
        self, x_BKTD: Tensor, mouse_PKE: Tensor, table: Rotary, pasts: Sequence[KeptActions]
    ) -> tuple[Tensor, KeptActions]:
        rows, tokens = rows_per_past(len(x_BKTD), len(mouse_PKE)), x_BKTD.shape[2]
        moves_BKTE = mouse_PKE.repeat_interleave(rows, 0)[:, :, None].expand(-1, -1, tokens, -1)
        hidden = self.mouse_mlp(torch.cat([x_BKTD, moves_BKTE.to(x_BKTD)], -1))
        qkv = self.t_qkv(hidden.to(x_BKTD)).unflatten(-1, (3, -1, HEAD))
        q, k, v = qkv.permute(3, 2, 0, 4, 1, 5)  # each (T, B, heads, K, head): the places are independent
        q, k = rotate(_norm(q), table), rotate(_norm(k), table)
        seen = attend_after(q, k, v, [_by_head(past, k) for past in pasts])
        out = self.proj_mouse(seen.permute(1, 3, 0, 2, 4).flatten(-2))
        return x_BKTD + out, (k.permute(1, 3, 0, 2, 4), v.permute(1, 3, 0, 2, 4))

    def _keyboard(
        self, x_BKTD: Tensor, keyboard_PKE: Tensor, table: Rotary, pasts: Sequence[KeptActions]
    ) -> tuple[Tensor, KeptActions]:
        own_PKE = keyboard_PKE[:: rows_per_past(len(keyboard_PKE), len(pasts))] if pasts else keyboard_PKE
        keys = own_PKE.to(x_BKTD).unflatten(-1, (SEEN_FRAMES, -1))
        kv = self.keyboard_attn_kv(self.keyboard_embed(keys).flatten(-2)).unflatten(-1, (2, -1, HEAD))
        k, v = kv.permute(2, 0, 3, 1, 4)  # each (P, heads, K, head)
        k = rotate(_norm(k), table)
        own = [(k[row : row + 1], v[row : row + 1]) for row in range(len(k))]
        visible = (
            [_after(_by_head(past, k), new) for past, new in zip(pasts, own, strict=True)] if pasts else own
        )
        queries = self.mouse_attn_q(x_BKTD).unflatten(-1, (-1, HEAD)).permute(0, 3, 1, 2, 4)
        same_place = (table[0][:, None], table[1][:, None])  # for all tokens of a latent
        q = rotate(_norm(queries), same_place).flatten(2, 3)
        seen = attend_to(q, visible).unflatten(2, x_BKTD.shape[1:3])
        rows = rows_per_past(len(x_BKTD), len(k))
        kept = (k.transpose(1, 2).repeat_interleave(rows, 0), v.transpose(1, 2).repeat_interleave(rows, 0))
        return x_BKTD + self.proj_keyboard(seen.permute(0, 2, 3, 1, 4).flatten(-2)), kept


class _UnusedScale(nn.Module):
    """Official files hold a scale for each norm, by which the official code never multiplies."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(HEAD), requires_grad=False)


def _norm(x: Tensor) -> Tensor:
    """Mean square 1 in every head, in float32."""
    return functional.rms_norm(x.float(), x.shape[-1:], eps=NORM_EPS).to(x.dtype)


def _positions(first: int, count: int, device: torch.device) -> Rotary:
    """Cosines and sines of the latents' places in the video, (K, head / 2); most dimensions do not rotate."""
    rates = torch.zeros(HEAD // 2, device=device)
    rates[: ROTATED // 2] = THETA ** (-torch.arange(0, ROTATED, 2, device=device).float() / ROTATED)
    angle = (first + torch.arange(count, device=device).float())[:, None] * rates
    return angle.cos(), angle.sin()


def _by_head(past: KeptActions, like: Tensor) -> KeyValues:
    """Keys and values as attention reads them, (tokens or 1, heads, latents, head), in the type of ``like``."""
    k, v = (x if x.ndim == 4 else x[:, None] for x in past)
    return k.permute(1, 2, 0, 3).to(like), v.permute(1, 2, 0, 3).to(like)


def _after(past: KeyValues, own: KeyValues) -> KeyValues:
    return torch.cat([past[0], own[0]], -2), torch.cat([past[1], own[1]], -2)
