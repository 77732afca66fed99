"""The WorldPlay 8B transformer: velocity of a chunk after a past (HunyuanVideo-1.5 with actions and cameras).

Text never attends to video, so it runs once per scenario and stores its keys and values, a ``Prefix``. Finished
latents run once per chunk after this prefix and extend it. The noisy chunk runs at every denoising step after the
extended prefix. Parameter names are those of the official state dict.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from worldcompass.worlds.open.attention import KeyValues
from worldcompass.worlds.open.layers import gelu_tanh, merge_heads, run_block, split_heads
from worldcompass.worlds.worldplay.branches import Attend, Latents, Prefix, attention_for, extend
from worldcompass.worlds.worldplay.config import Config8B
from worldcompass.worlds.worldplay.layers import (
    EPS,
    FinalLayer,
    Mlp,
    Modulation,
    PatchEmbed,
    ScalarEmbedder,
    Table,
    modulate,
)
from worldcompass.worlds.worldplay.text import (
    BYT5,
    TEXT,
    VISION,
    Byt5Mapper,
    TextRefiner,
    TextStates,
    VisionProjection,
    drop_padding,
)

Stream = Literal["img", "txt"]
_PROJECTIONS = {"img": ("attn_proj", "attn_prope_proj"), "txt": ("attn_proj",)}


class DoubleBlock(nn.Module):
    """One block of both streams, which have separate weights and run at different times.

    A call runs the video's stream. ``text`` runs the text's layers one by one, so that with sharded weights neither
    stream gathers the other's.
    """

    def __init__(self, config: Config8B) -> None:
        super().__init__()
        self.num_heads, width = config.num_heads, config.width
        for stream, projections in _PROJECTIONS.items():
            self.add_module(f"{stream}_mod", Modulation(width, 6))
            for name in ("attn_q", "attn_k", "attn_v", *projections):
                self.add_module(f"{stream}_{name}", nn.Linear(width, width))
            for name in ("attn_q_norm", "attn_k_norm"):
                self.add_module(f"{stream}_{name}", nn.RMSNorm(config.head, EPS))
            self.add_module(f"{stream}_mlp", Mlp(width, int(config.mlp_ratio * width), gelu_tanh))

    def forward(self, x_BKTD: Tensor, condition_BKD: Tensor, attend: Attend) -> tuple[Tensor, KeyValues]:
        """The video's tokens after the block, and their keys and values to store."""
        return self._run("img", x_BKTD, condition_BKD, attend)

    def text(self, x_BKTD: Tensor, condition_BKD: Tensor) -> tuple[Tensor, KeyValues]:
        """The text's tokens after the block, and their keys and values."""
        return self._run("txt", x_BKTD, condition_BKD, _attend_within_text)

    @property
    def text_layers(self) -> tuple[nn.Module, ...]:
        """The layers of ``text``, each of which it calls once."""
        return tuple(layer for name, layer in self.named_children() if name.startswith("txt_"))

    def _run(
        self, stream: Stream, x_BKTD: Tensor, condition_BKD: Tensor, attend: Attend
    ) -> tuple[Tensor, KeyValues]:

        def part(name: str, x: Tensor) -> Any:
            return getattr(self, f"{stream}_{name}")(x)

        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = part("mod", condition_BKD)
        normed = modulate(x_BKTD, shift_1, scale_1).flatten(1, 2)
        q, k, v = (split_heads(part(f"attn_{name}", normed), self.num_heads) for name in "qkv")
        # Autocast on CUDA normalises in float32, and attention's kernels take one type: that of v.
        branches, kept = attend(part("attn_q_norm", q).to(v), part("attn_k_norm", k).to(v), v)
        projections = zip(_PROJECTIONS[stream], branches, strict=True)
        mixed = reduce(torch.add, (part(name, merge_heads(output)) for name, output in projections))
        x = x_BKTD + gate_1 * mixed.view_as(x_BKTD)
        return x + gate_2 * part("mlp", modulate(x, shift_2, scale_2)), kept


class Transformer8B(nn.Module):
    """Call it with ``TextStates`` for a prefix, with ``Latents`` for a longer prefix or for velocity."""

    def __init__(self, config: Config8B | None = None, recompute: bool = False) -> None:
        super().__init__()
        self.config = config = config or Config8B()
        self.recompute = recompute  # recompute activations in the backward pass instead of storing them
        width = config.width
        self.img_in = PatchEmbed(2 * config.latent_channels + 1, width)
        self.time_in, self.action_in = ScalarEmbedder(width), ScalarEmbedder(width)
        self.txt_in = TextRefiner(config)
        self.byt5_in, self.vision_in = Byt5Mapper(config), VisionProjection(config)
        self.cond_type_embedding = Table(3, width)
        self.double_blocks = nn.ModuleList(DoubleBlock(config) for _ in range(config.num_blocks))
        self.final_layer = FinalLayer(width, config.latent_channels)
        self._zero_actions_and_cameras()

    @staticmethod
    def is_text_only(name: str) -> bool:
        """Whether a pass over latents gives this parameter no gradient.

        ``time_in`` is part of both streams. Only video trains it; text uses the trained weights, as its keys are
        recomputed for every rollout.
        """
        return (
            name.startswith(("txt_in.", "byt5_in.", "vision_in.", "cond_type_embedding.")) or ".txt_" in name
        )

    def units(self) -> Iterator[tuple[nn.Module, ...]]:
        """Modules whose parameters are gathered together when weights are sharded, inner ones first.

        A unit has the parameters that no earlier unit has. The remaining parameters belong to the whole network.
        Each module is called at most once in a pass, and a pass over latents calls no unit of text.
        """
        yield from ((end,) for end in (self.txt_in, self.byt5_in, self.vision_in, self.cond_type_embedding))
        for block in self.double_blocks:
            assert isinstance(block, DoubleBlock)
            yield block.text_layers
            yield (block,)

    def forward(
        self, inputs: TextStates | Latents, pasts: Sequence[Prefix] = (), keep_keys: bool = False
    ) -> Any:
        """Run one of the three passes.

        Args:
            inputs: states of one scenario's text, or latents of B rows.
            pasts: P prefixes that begin with text, for latents; row b belongs to past ``b // (B // P)``.
            keep_keys: return P longer prefixes instead of velocity; for finished latents, one row per past.

        Returns:
            A ``Prefix`` for text, a list of P of them with ``keep_keys``, otherwise velocity (B, C, K, H, W),
            ``noise - clean``, in the network's dtype.

        Raises:
            ValueError: when the pasts do not fit the rows.
        """
        if isinstance(inputs, TextStates):
            return self._text(inputs)
        if keep_keys and len(pasts) != len(inputs.latents_BCKHW):
            raise ValueError(
                f"{len(inputs.latents_BCKHW)} rows cannot extend {len(pasts)} pasts: give one row to each"
            )
        if not pasts:
            raise ValueError("latents need a past with at least the text: call net(text_states) first")
        return self._vision(inputs, pasts, keep_keys)

    def _text(self, states: TextStates) -> Prefix:
        """Both branches have the same text keys, so these are a view over the axis of branches."""
        x_BKTD = self._text_tokens(states)[None, None]
        # Text is never noisy: its timestep is 0.
        condition = self.time_in(torch.zeros(1, 1, device=x_BKTD.device))
        prefix = []
        for block in self.double_blocks:
            x_BKTD, (k, v) = block.text(x_BKTD, condition)  # type: ignore[operator]
            prefix.append((k.expand(2, -1, -1, -1), v.expand(2, -1, -1, -1)))
        return prefix

    def _text_tokens(self, states: TextStates) -> Tensor:
        """Tokens of image, quoted text and caption, (S, D)."""
        kinds = self.cond_type_embedding(torch.arange(3, device=states.text_LE.device))
        text = drop_padding(states.text_LE, states.text_mask_L, kinds.dtype)
        byt5 = drop_padding(states.byt5_LE, states.byt5_mask_L, kinds.dtype)
        never_noisy = torch.zeros(1, device=text.device)
        tokens = [self.byt5_in(byt5) + kinds[BYT5], self.txt_in(text[None], never_noisy)[0] + kinds[TEXT]]
        if states.vision_LE is not None:
            tokens.insert(0, self.vision_in(states.vision_LE.to(kinds.dtype)) + kinds[VISION])
        return torch.cat(tokens)

    def _vision(self, inputs: Latents, pasts: Sequence[Prefix], keep_keys: bool) -> Tensor | list[Prefix]:
        count, height, width = inputs.latents_BCKHW.shape[2:]
        x = self.img_in(inputs.latents_BCKHW.to(self.img_in.proj.weight.dtype))
        condition = self.time_in(inputs.timesteps_BK) + self.action_in(inputs.labels_BK)
        grid = (count, height, width)
        attend_after = attention_for(inputs, grid, self.config.rope_dims, self.config.rope_theta)
        longer = []
        for index, block in enumerate(self.double_blocks):
            past_keys = [past[index] for past in pasts]
            x, own = run_block(self.recompute, block, x, condition, attend_after(past_keys))
            if keep_keys:
                # Extend block by block, so that a long memory never exists twice.
                longer.append([extend(past, own, row) for row, past in enumerate(past_keys)])
        if keep_keys:
            return [list(blocks) for blocks in zip(*longer, strict=True)]
        velocity = self.final_layer(x, condition).permute(0, 3, 1, 2).unflatten(-1, (height, width))
        return velocity.clone()  # not a view: with sharded weights the backward pass begins at this tensor

    def _zero_actions_and_cameras(self) -> None:
        """Set WorldPlay's additions to HunyuanVideo to zero, so that a new network equals the video model."""
        cameras = (block.get_submodule("img_attn_prope_proj") for block in self.double_blocks)
        for layer in (self.action_in.mlp[2], *cameras):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)


def _attend_within_text(q: Tensor, k: Tensor, v: Tensor) -> tuple[tuple[Tensor, ...], KeyValues]:
    return (functional.scaled_dot_product_attention(q, k, v),), (k, v)
