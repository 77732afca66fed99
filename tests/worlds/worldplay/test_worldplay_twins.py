"""WorldPlay's transformers against slow, plain versions: float64, one row, one softmax over all keys, no caches.

Written from the equations alone (module docstrings name the papers), so that nothing but the weights is shared.
"""

import pytest
import torch
from plain_maths import (
    affine_norm,
    attend,
    by_matrix,
    by_place,
    gelu,
    gelu_tanh,
    layer_norm,
    linear,
    rms_norm,
    silu,
    sinusoid,
)
from worldplay_tiny import random_latents, random_network, text_states

pytestmark = pytest.mark.golden
ATOL = 5e-5  # float32 against float64


class Tokens:
    """Rotations and projections of the tokens of a row's latents."""

    def __init__(self, latents, row, grid):
        count, height, width = grid
        self.latent_N = torch.arange(count).repeat_interleave(height * width)
        t, h, w = torch.meshgrid(*(torch.arange(n) for n in grid), indexing="ij")
        self.places_N3 = torch.stack([t + latents.first_position, h, w], -1).flatten(0, 2).double()
        focal = latents.intrinsics_BK4[row, :, :2].double()
        camera = torch.diag_embed(torch.cat([focal, torch.ones_like(focal)], -1))
        self.image_N44 = (camera @ torch.linalg.inv(latents.world_from_camera_BK44[row].double()))[
            self.latent_N
        ]


def see(q, k, v, tokens, dims, theta, before):
    """Both branches after the stored keys ``before``; the output, and the keys to store."""
    back = torch.linalg.inv(tokens.image_N44)
    own = (
        (by_place(k, tokens.places_N3, dims, theta), v),
        (by_matrix(k, back), by_matrix(v, back)),
    )
    queries = by_place(q, tokens.places_N3, dims, theta), by_matrix(q, tokens.image_N44.mT)
    kept = [
        tuple(torch.cat(pair) for pair in zip(old, new, strict=True))
        for old, new in zip(before, own, strict=True)
    ]
    place, camera = (attend(query, *keys) for query, keys in zip(queries, kept, strict=True))
    return place.flatten(1), by_matrix(camera, tokens.image_N44).flatten(1), kept


class Twin8B:
    def __init__(self, net):
        self.w = {name: t.double() for name, t in net.state_dict().items()}
        self.config = net.config

    def embed(self, name, value):
        return linear(self.w, f"{name}.mlp.2", silu(linear(self.w, f"{name}.mlp.0", sinusoid(value, 256))))

    def heads(self, x):
        return x.unflatten(-1, (self.config.num_heads, -1))

    def text_tokens(self, states):
        w, kinds = self.w, self.w["cond_type_embedding.weight"]
        caption = states.text_LE[states.text_mask_L.bool()].double()
        quoted = states.byt5_LE[states.byt5_mask_L.bool()].double()
        hidden = silu(linear(w, "txt_in.c_embedder.linear_1", caption.mean(0)))
        condition = self.embed("txt_in.t_embedder", torch.zeros(())) + linear(
            w, "txt_in.c_embedder.linear_2", hidden
        )
        x = linear(w, "txt_in.input_embedder", caption)
        for i in range(2):
            name = f"txt_in.individual_token_refiner.blocks.{i}"
            gates = linear(w, f"{name}.adaLN_modulation.1", silu(condition)).chunk(2)
            normed = affine_norm(w, f"{name}.norm1", x, 1e-6)
            q, k, v = (self.heads(p) for p in linear(w, f"{name}.self_attn_qkv", normed).chunk(3, -1))
            x = x + gates[0] * linear(w, f"{name}.self_attn_proj", attend(q, k, v).flatten(1))
            normed = affine_norm(w, f"{name}.norm2", x, 1e-6)
            x = x + gates[1] * linear(w, f"{name}.mlp.fc2", silu(linear(w, f"{name}.mlp.fc1", normed)))
        y = gelu(linear(w, "byt5_in.fc1", affine_norm(w, "byt5_in.layernorm", quoted, 1e-5)))
        y = linear(w, "byt5_in.fc3", gelu(linear(w, "byt5_in.fc2", y)))
        z = affine_norm(w, "vision_in.proj.0", states.vision_LE.double(), 1e-5)
        z = linear(w, "vision_in.proj.3", gelu(linear(w, "vision_in.proj.1", z)))
        z = affine_norm(w, "vision_in.proj.4", z, 1e-5)
        return torch.cat([z + kinds[2], y + kinds[1], x + kinds[0]])

    def block(self, index, stream, x, condition, see_now):
        name = f"double_blocks.{index}.{stream}"
        parts = linear(self.w, f"{name}_mod.linear", silu(condition)).chunk(6, -1)
        normed = layer_norm(x) * (1 + parts[1]) + parts[0]
        q, k, v = (self.heads(linear(self.w, f"{name}_attn_{p}", normed)) for p in "qkv")
        mixed, kept = see_now(
            rms_norm(self.w, f"{name}_attn_q_norm", q), rms_norm(self.w, f"{name}_attn_k_norm", k), v
        )
        x = x + parts[2] * mixed
        normed = layer_norm(x) * (1 + parts[4]) + parts[3]
        inner = gelu_tanh(linear(self.w, f"{name}_mlp.fc1", normed))
        return x + parts[5] * linear(self.w, f"{name}_mlp.fc2", inner), kept

    def text(self, states):
        x, condition, kept = self.text_tokens(states), self.embed("time_in", torch.zeros(())), []
        for i in range(self.config.num_blocks):

            def among_text(q, k, v, i=i):
                seen = attend(q, k, v).flatten(1)
                return linear(self.w, f"double_blocks.{i}.txt_attn_proj", seen), [(k, v), (k, v)]

            x, keys = self.block(i, "txt", x, condition, among_text)
            kept.append(keys)
        return kept

    def latents(self, latents, row, before):
        """Velocity (C, K, H, W), and what every block keeps."""
        w, x = self.w, latents.latents_BCKHW[row].double()
        grid = x.shape[1:]
        tokens = Tokens(latents, row, grid)
        x = x.flatten(1).T @ w["img_in.proj.weight"].flatten(1).T + w["img_in.proj.bias"]
        condition = self.embed("time_in", latents.timesteps_BK[row]) + self.embed(
            "action_in", latents.labels_BK[row]
        )
        condition, kept = condition[tokens.latent_N], []
        for i in range(self.config.num_blocks):

            def after_past(q, k, v, i=i):
                place, camera, keys = see(
                    q, k, v, tokens, self.config.rope_dims, self.config.rope_theta, before[i]
                )
                name = f"double_blocks.{i}.img_attn"
                return linear(w, f"{name}_proj", place) + linear(w, f"{name}_prope_proj", camera), keys

            x, keys = self.block(i, "img", x, condition, after_past)
            kept.append(keys)
        shift, scale = linear(w, "final_layer.adaLN_modulation.1", silu(condition)).chunk(2, -1)
        out = linear(w, "final_layer.linear", layer_norm(x) * (1 + scale) + shift)
        return out.T.unflatten(1, grid), kept


class Twin5B:
    def __init__(self, net):
        self.w = {name: t.double() for name, t in net.state_dict().items()}
        self.config = net.config

    def two_layers(self, name, x, activation):
        name = f"condition_embedder.{name}"
        return linear(self.w, f"{name}.linear_2", activation(linear(self.w, f"{name}.linear_1", x)))

    def keys(self, name, x):
        k = rms_norm(self.w, f"{name}.norm_k", linear(self.w, f"{name}.to_k", x))
        return tuple(
            t.unflatten(-1, (self.config.num_heads, -1)) for t in (k, linear(self.w, f"{name}.to_v", x))
        )

    def queries(self, name, x):
        q = rms_norm(self.w, f"{name}.norm_q", linear(self.w, f"{name}.to_q", x))
        return q.unflatten(-1, (self.config.num_heads, -1))

    def text(self, caption):
        self.caption = self.two_layers("text_embedder", caption.text_LE.double(), gelu_tanh)
        nothing = torch.zeros(0, self.config.num_heads, self.config.head, dtype=torch.float64)
        return [[(nothing, nothing)] * 2] * self.config.num_blocks

    def latents(self, latents, row, before):
        w, config, cells = self.w, self.config, latents.latents_BCKHW[row].double()
        channels, count, height, width = cells.shape
        _, tall, wide = config.patch
        grid = count, height // tall, width // wide
        tokens = Tokens(latents, row, grid)
        patches = [
            cells[:, t, tall * i : tall * (i + 1), wide * j : wide * (j + 1)].flatten()
            for t in range(count)
            for i in range(grid[1])
            for j in range(grid[2])
        ]
        x = torch.stack(patches) @ w["patch_embedding.weight"].flatten(1).T + w["patch_embedding.bias"]
        spread = [sinusoid(v[row], config.sinusoid) for v in (latents.timesteps_BK, latents.labels_BK)]
        condition = self.two_layers("time_embedder", spread[0], silu)
        condition = condition + self.two_layers("action_embedder", spread[1], silu)
        parts = linear(w, "condition_embedder.time_proj", silu(condition)).unflatten(-1, (6, -1))
        kept = []
        for i in range(config.num_blocks):
            name = f"blocks.{i}"
            m = (w[f"{name}.scale_shift_table"] + parts)[tokens.latent_N].unbind(1)
            normed = layer_norm(x) * (1 + m[1]) + m[0]
            q, (k, v) = self.queries(f"{name}.attn1", normed), self.keys(f"{name}.attn1", normed)
            place, camera, keys = see(q, k, v, tokens, config.rope_dims, 10_000.0, before[i])
            kept.append(keys)
            mixed = linear(w, f"{name}.attn1.to_out.0", place)
            x = x + m[2] * (mixed + linear(w, f"{name}.attn1.to_out_prope.0", camera))
            q = self.queries(f"{name}.attn2", affine_norm(w, f"{name}.norm2", x, config.eps))
            read = attend(q, *self.keys(f"{name}.attn2", self.caption)).flatten(1)
            x = x + linear(w, f"{name}.attn2.to_out.0", read)
            inner = gelu_tanh(linear(w, f"{name}.ffn.net.0.proj", layer_norm(x) * (1 + m[4]) + m[3]))
            x = x + m[5] * linear(w, f"{name}.ffn.net.2", inner)
        shift, scale = (w["scale_shift_table"] + condition[:, None])[tokens.latent_N].unbind(1)
        out = linear(w, "proj_out", layer_norm(x) * (1 + scale) + shift)
        velocity = torch.zeros(channels, count, height, width, dtype=torch.float64)
        for n, token in enumerate(out):
            t, i, j = (int(p) for p in (tokens.places_N3[n] - tokens.places_N3[0]))
            patch = token.view(tall, wide, channels).permute(2, 0, 1)
            velocity[:, t, tall * i : tall * (i + 1), wide * j : wide * (j + 1)] = patch
        return velocity, kept


@torch.no_grad()
@pytest.mark.parametrize("kind", ["8b", "5b"])
def test_a_chunk_after_text_and_remembered_latents_equals_its_plain_twin(kind):
    """Text once, three remembered latents, then two candidates that differ in everything."""
    net, states = random_network(kind), text_states(kind)
    memory = random_latents(kind, 1, count=3, seed=7)
    chunk = random_latents(kind, 2, first_position=3)
    pasts = net(memory, [net(states)], keep_keys=True)
    first, later = net(chunk, [net(states)]), net(chunk, pasts)
    twin = (Twin8B if kind == "8b" else Twin5B)(net)
    text = twin.text(states)
    _, remembered = twin.latents(memory, 0, text)
    for row in range(2):
        for found, before in ((first, text), (later, remembered)):
            expected, _ = twin.latents(chunk, row, before)
            torch.testing.assert_close(found[row].double(), expected, atol=ATOL, rtol=0)
    assert float((first - later).abs().max()) > 100 * ATOL
