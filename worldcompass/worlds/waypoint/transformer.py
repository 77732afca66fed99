"""Waypoint's transformer: velocity of one frame after the frames that its layers remember.

Parameter names are the official ones, but for the matrices of the noise level: they are tied, so that here they
exist once, in ``noise_heads`` (see ``weights.py``). Parameters that read only the caption run once per scenario.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from worldcompass.worlds.open.attention import KeyValues, attend_after, attend_to
from worldcompass.worlds.open.layers import merge_heads, run_block, split_heads
from worldcompass.worlds.waypoint.config import WaypointConfig
from worldcompass.worlds.waypoint.rotary import Rotary, rotary_table, rotate

EPS = torch.finfo(torch.float32).eps  # of every norm
SINUSOID = 512  # dimensions of a noise level's embedding
MAX_PERIOD = 10_000
LEVEL_SCALE = 1000.0  # of a noise level before its embedding
NUM_PARTS = 6  # scale, shift and gate of attention, then of the MLP

Attend = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, KeyValues]]
"""Queries (B, heads, N, head), keys and values of fewer heads -> the output, and what to store."""


@dataclass(frozen=True)
class Prompt:
    """The encoder's output for one scenario."""

    states_LE: Tensor
    """All states, padding included: the network attends to its zeros too."""


@dataclass(frozen=True)
class Frame:
    """One frame of B rows, noisy or finished, with its conditions."""

    latents_BCHW: Tensor
    sigma_B: Tensor
    controls_BA: Tensor
    """The frame's own: mouse x and y, buttons, sign of the wheel."""
    index: int
    """Absolute number of the frame."""


@dataclass(frozen=True)
class Past:
    """What a frame reads of one past."""

    prompt: tuple[KeyValues, ...]
    """Keys and values of the caption, (1, heads, L, head), for each layer that reads it."""
    layers: tuple[KeyValues | None, ...]
    """Those of the visible frames, (1, heads, tokens, head), for each layer; None where there are none."""


def rms(x: Tensor) -> Tensor:
    """RMS norm without weights, in float32; returned in the dtype of ``x``."""
    return functional.rms_norm(x.float(), x.shape[-1:], eps=EPS).to(x.dtype)


def noise_features(sigma_B: Tensor) -> Tensor:
    """Sines, then cosines, of a noise level; float32 (B, 512). The slowest rate is exactly 1 / 10000."""
    half = SINUSOID // 2
    # Rates are rounded once: at angles up to 1000 a second rounding would show.
    rates = MAX_PERIOD ** (-torch.arange(half, dtype=torch.float64) / (half - 1))
    angle = LEVEL_SCALE * sigma_B.float()[:, None] * rates.float().to(sigma_B.device)
    return math.sqrt(2) * torch.cat([angle.sin(), angle.cos()], -1)


class _Exact(nn.Linear):
    """A layer that computes in float32 whatever the dtype of its weights."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x.float(), self.weight.float())


class _Mlp(nn.Module):
    def __init__(self, before: int, hidden: int, after: int, kind: type[nn.Linear] = nn.Linear) -> None:
        super().__init__()
        self.fc1, self.fc2 = kind(before, hidden, bias=False), kind(hidden, after, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.silu(self.fc1(x)))


class _NoiseEmbedding(nn.Module):
    """Computed in float32, as in the official code."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = _Mlp(SINUSOID, 4 * width, width, _Exact)

    def forward(self, sigma_B: Tensor) -> Tensor:
        """(B) to (B, D), float32."""
        with torch.autocast(sigma_B.device.type, enabled=False):
            return self.mlp(noise_features(sigma_B))


class _ControlEmbedding(nn.Module):
    def __init__(self, config: WaypointConfig) -> None:
        super().__init__()
        self.mlp = _Mlp(config.num_controls, config.mlp_ratio * config.width, config.width)

    def forward(self, controls_BA: Tensor) -> Tensor:
        return self.mlp(controls_BA.to(self.mlp.fc1.weight.dtype))


class _Unused(nn.Module):
    """An embedding that checkpoints hold and no pass reads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.null_emb = nn.Parameter(torch.zeros(1, 1, width))


class _NoiseHeads(nn.Module):
    """Scales, shifts and gates of all layers: one set of matrices if they are tied, else one per layer."""

    def __init__(self, config: WaypointConfig) -> None:
        super().__init__()
        width, layers = config.width, config.num_layers
        self.num_layers = layers
        self.cond_proj = nn.ModuleList(
            nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(NUM_PARTS))
            for _ in range(1 if config.ties else layers)
        )
        self.bias_in = nn.ParameterList(torch.zeros(width) for _ in range(layers if config.biases else 0))

    def forward(self, condition_BD: Tensor) -> list[Tensor]:
        """For each layer its parts (B, 6, 1, D), which broadcast over tokens."""
        inputs = [condition_BD + bias for bias in self.bias_in] or [condition_BD] * self.num_layers
        rows = [functional.silu(x.float()).to(condition_BD.dtype) for x in inputs]
        sets: list[Any] = list(self.cond_proj)
        if len(sets) > 1:
            found = [[head(x) for head in heads] for x, heads in zip(rows, sets, strict=True)]
        else:
            stacked = torch.stack(rows)
            found = list(zip(*(head(stacked) for head in sets[0]), strict=True))
        return [torch.stack(list(parts), 1)[:, :, None] for parts in found]


class _Attention(nn.Module):
    """Self-attention of a frame to itself and to remembered frames; the tokens of a frame all see each other."""

    def __init__(self, config: WaypointConfig) -> None:
        super().__init__()
        width, head = config.width, config.head
        self.num_heads, self.num_kv_heads = config.num_heads, config.num_kv_heads
        self.q_proj = nn.Linear(width, config.num_heads * head, bias=False)
        self.k_proj, self.v_proj = (
            nn.Linear(width, config.num_kv_heads * head, bias=False) for _ in range(2)
        )
        self.out_proj = nn.Linear(config.num_heads * head, width, bias=False)
        if config.gated:
            self.gate_proj = nn.Linear(config.num_heads, config.num_heads, bias=False)
        if config.value_residual:
            self.v_lamb = nn.Parameter(torch.zeros(1))  # official: a scalar, which cannot be sharded

    def forward(
        self, x_BND: Tensor, first_BhNd: Tensor | None, attend: Attend
    ) -> tuple[Tensor, Tensor, KeyValues]:
        """The output, the values before mixing, and what to store.

        Args:
            x_BND: modulated and normed.
            first_BhNd: values of layer 0 in this pass; None in layer 0.
            attend: rotates and attends.
        """
        q = split_heads(self.q_proj(x_BND), self.num_heads)
        k = split_heads(self.k_proj(x_BND), self.num_kv_heads)
        own = split_heads(self.v_proj(x_BND), self.num_kv_heads).clone()  # sharding wants no view in outputs
        v = own
        if hasattr(self, "v_lamb"):
            v = own + self.v_lamb.to(own.dtype) * ((own if first_BhNd is None else first_BhNd) - own)
        read, kept = attend(rms(q), rms(k).to(v.dtype), v)
        if hasattr(self, "gate_proj"):
            gates_BNh = torch.sigmoid(self.gate_proj(x_BND[..., : self.num_heads]))
            read = read * gates_BNh.mT[..., None]
        return self.out_proj(merge_heads(read)), own, kept


class _CaptionAttention(nn.Module):
    """Attention of a frame to the caption, padding included; without positions."""

    def __init__(self, config: WaypointConfig, inner: int) -> None:
        super().__init__()
        self.num_heads = inner // config.head
        self.q_proj = nn.Linear(config.width, inner, bias=False)
        self.k_proj, self.v_proj = (nn.Linear(inner, inner, bias=False) for _ in range(2))
        self.out_proj = nn.Linear(inner, config.width, bias=False)

    def keys(self, states_1LE: Tensor) -> KeyValues:
        """Keys and values of normed states."""
        k, v = (split_heads(layer(states_1LE), self.num_heads) for layer in (self.k_proj, self.v_proj))
        return rms(k).to(v.dtype), v

    def forward(self, x_BND: Tensor, texts: Sequence[KeyValues]) -> Tensor:
        read = attend_to(rms(split_heads(self.q_proj(x_BND), self.num_heads)), texts)
        return self.out_proj(merge_heads(read))


class _ControlFusion(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = _Mlp(2 * width, width, width)

    def forward(self, x_BND: Tensor, controls_BD: Tensor) -> Tensor:
        controls = rms(controls_BD).to(x_BND.dtype)[:, None].expand_as(x_BND)
        return self.mlp(torch.cat([rms(x_BND), controls], -1))


class _Block(nn.Module):
    """Self-attention, caption, controls, MLP, in this order; the two in the middle only in some layers."""

    def __init__(self, config: WaypointConfig, layer: int) -> None:
        super().__init__()
        self.attn = _Attention(config)
        if config.reads_prompt(layer):
            assert config.prompt_width is not None
            self.prompt_cross_attn = _CaptionAttention(config, config.prompt_width)
        if config.reads_controls(layer):
            self.ctrl_mlpfusion = _ControlFusion(config.width)
        self.mlp = _Mlp(config.width, config.mlp_ratio * config.width, config.width)

    @property
    def text_layers(self) -> tuple[nn.Module, ...]:
        """The layers that read only the caption, each of which ``_CaptionAttention.keys`` calls once."""
        reader = getattr(self, "prompt_cross_attn", None)
        return () if reader is None else (reader.k_proj, reader.v_proj)

    def forward(
        self,
        x_BND: Tensor,
        parts_B61D: Tensor,
        controls_BD: Tensor,
        first_BhNd: Tensor | None,
        attend: Attend,
        texts: Sequence[KeyValues],
    ) -> tuple[Tensor, Tensor, KeyValues]:
        """Tokens after the block, its values before mixing, and what to store."""
        scale_1, shift_1, gate_1, scale_2, shift_2, gate_2 = parts_B61D.unbind(1)
        x = x_BND
        mixed, values, kept = self.attn(_modulated(x, scale_1, shift_1), first_BhNd, attend)
        x = _gated(x, mixed, gate_1)
        if hasattr(self, "prompt_cross_attn"):
            x = x + self.prompt_cross_attn(rms(x), texts)
        if hasattr(self, "ctrl_mlpfusion"):
            x = x + self.ctrl_mlpfusion(x, controls_BD)
        return _gated(x, self.mlp(_modulated(x, scale_2, shift_2)), gate_2), values, kept


class _OutNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width, 2 * width, bias=False)

    def forward(self, x_BND: Tensor, condition_BD: Tensor) -> Tensor:
        scale, shift = self.fc(functional.silu(condition_BD))[:, None].chunk(2, -1)
        return _modulated(x_BND, scale, shift)


class _Layers(nn.Module):
    def __init__(self, config: WaypointConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block(config, layer) for layer in range(config.num_layers))


class WaypointTransformer(nn.Module):
    """Call it with a ``Prompt`` for its keys, with a ``Frame`` for velocity or for what to store of it."""

    def __init__(self, config: WaypointConfig | None = None, recompute: bool = False) -> None:
        super().__init__()
        self.config = config = config or WaypointConfig()
        self.recompute = recompute  # recompute activations in the backward pass instead of storing them
        width, (high, wide) = config.width, config.patch
        self.denoise_step_emb = _NoiseEmbedding(width)
        self.ctrl_emb = _ControlEmbedding(config)
        self.ctrl_cfg = _Unused(width)
        if config.prompt_width is not None:
            self.prompt_cfg = _Unused(config.prompt_width)
        self.noise_heads = _NoiseHeads(config)
        self.transformer = _Layers(config)
        self.patchify = nn.Conv2d(config.channels, width, (high, wide), (high, wide), bias=False)
        self.out_norm = _OutNorm(width)
        self.unpatchify = nn.Linear(width, config.channels * high * wide)

    @staticmethod
    def is_text_only(name: str) -> bool:
        """Whether a pass over a frame gives this parameter no gradient."""
        return name.endswith("null_emb") or ".prompt_cross_attn.k_" in name or ".prompt_cross_attn.v_" in name

    def units(self) -> Iterator[tuple[nn.Module, ...]]:
        """Modules whose parameters are gathered together when weights are sharded; see ``InUnits``."""
        yield (self.noise_heads,)
        for block in self._blocks:
            if block.text_layers:
                yield block.text_layers
            yield (block,)

    def forward(self, inputs: Prompt | Frame, pasts: Sequence[Past] = (), keep_keys: bool = False) -> Any:
        """Run one of the three passes.

        Args:
            inputs: states of one scenario's caption, or a frame of B rows.
            pasts: P pasts, for a frame; row b belongs to past ``b // (B // P)``. They remember the same frames.
            keep_keys: return what to store instead of velocity.

        Returns:
            For a caption the keys and values of each layer that reads it, see ``Past.prompt``. With ``keep_keys`` a
            list of those of every layer, (B, heads, N, head). Otherwise velocity (B, C, H, W), ``noise - clean``.

        Raises:
            ValueError: when the latents have another size, or the pasts do not divide the rows.
        """
        if isinstance(inputs, Prompt):
            states = rms(inputs.states_LE[None]).to(self.patchify.weight.dtype)
            return tuple(block.prompt_cross_attn.keys(states) for block in self._blocks if block.text_layers)
        if (found := tuple(inputs.latents_BCHW.shape[1:])) != self.config.latent_shape:
            raise ValueError(f"latents have the shape {found}, expected {self.config.latent_shape}")
        return self._frame(inputs, pasts, keep_keys)

    @property
    def _blocks(self) -> list[Any]:
        return list(self.transformer.blocks)

    def _frame(self, frame: Frame, pasts: Sequence[Past], keep_keys: bool) -> Tensor | list[KeyValues]:
        dtype = self.patchify.weight.dtype
        x = self.patchify(frame.latents_BCHW.to(dtype)).flatten(2).mT
        condition = self.denoise_step_emb(frame.sigma_B).to(dtype)
        controls = self.ctrl_emb(frame.controls_BA)
        rotary = rotary_table(frame.index, self.config.grid, self.config.head, x.device)
        parts, stored = self.noise_heads(condition), []
        first, reader = None, 0
        for layer, block in enumerate(self._blocks):
            memories = [m for past in pasts if (m := past.layers[layer]) is not None]
            attend = partial(attend_frames, rotary=rotary, pasts=memories)
            texts = [past.prompt[reader] for past in pasts] if block.text_layers else []
            reader += bool(block.text_layers)
            inputs = (x, parts[layer], controls, first, attend, texts)
            x, values, kept = run_block(self.recompute, block, *inputs)
            first = values if layer == 0 else first
            stored.append(kept)
        if keep_keys:
            return stored
        return self._cells(self.unpatchify(functional.silu(self.out_norm(x, condition))))

    def _cells(self, x_BNE: Tensor) -> Tensor:
        """Tokens whose dimensions are (channel, height, width) of their patch, to (B, C, H, W)."""
        cells = x_BNE.unflatten(-1, (-1, *self.config.patch)).unflatten(1, self.config.grid)
        # A copy, not a view: with sharded weights the backward pass begins at this tensor.
        return cells.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3).clone()


def attend_frames(
    q_BhNd: Tensor, k_BgNd: Tensor, v_BgNd: Tensor, rotary: Rotary, pasts: Sequence[KeyValues]
) -> tuple[Tensor, KeyValues]:
    """Attention after rotation; the queries of one head of keys follow each other like further tokens."""
    q, k = rotate(q_BhNd, rotary), rotate(k_BgNd, rotary)
    heads, tokens = k.shape[1], q.shape[2]
    folded = q.unflatten(1, (heads, -1)).flatten(2, 3)
    read = attend_after(folded[None], k[None], v_BgNd[None], pasts)[0]
    return read.unflatten(2, (-1, tokens)).flatten(1, 2), (k, v_BgNd)


def _modulated(x_BND: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return (rms(x_BND) * (1 + scale) + shift).to(x_BND.dtype)


def _gated(x_BND: Tensor, branch_BND: Tensor, gate: Tensor) -> Tensor:
    return (x_BND + branch_BND * gate).to(x_BND.dtype)
