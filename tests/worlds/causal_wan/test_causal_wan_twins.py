"""The network of causal Wan2.1 against a slow, plain version: float64, one row, one softmax over all keys.

Written from the equations alone, so that nothing but the weights is shared.
"""

import pytest
import torch
from causal_wan_tiny import chunk_of, noise, random_network, scenario, scenarios, tiny_world
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

from worldcompass.worlds.causal_wan.memory import Past, Window
from worldcompass.worlds.causal_wan.minwm import Guidance
from worldcompass.worlds.causal_wan.network import Latents

pytestmark = pytest.mark.golden
ATOL = 5e-5  # float32 against float64


class Twin:
    """Keeps what every block stores of every latent, with the latents' absolute indices."""

    def __init__(self, net):
        self.w = {name: t.double() for name, t in net.state_dict().items()}
        self.config = net.config

    def heads(self, x):
        return x.unflatten(-1, (self.config.num_heads, -1))

    def states(self, states_LE):
        """Embedded states; a prompt is padded with zeros first."""
        x = states_LE.double()
        if self.config.reads == "text":
            x = torch.cat([x, x.new_zeros(self.config.text_length - len(x), x.shape[1])])
            return linear(self.w, "text_embedding.2", gelu_tanh(linear(self.w, "text_embedding.0", x)))
        x = linear(self.w, "img_emb.proj.1", affine_norm(self.w, "img_emb.proj.0", x, 1e-5))
        return affine_norm(self.w, "img_emb.proj.4", linear(self.w, "img_emb.proj.3", gelu(x)), 1e-5)

    def projections(self, moves):
        """Image from world of K latents, (K, 4, 4)."""
        focal = moves.intrinsics_K4[:, :2].double()
        lens = torch.diag_embed(torch.cat([focal, torch.ones_like(focal)], -1))
        return lens @ torch.linalg.inv(moves.world_from_camera_K44.double())

    def latents(self, cells, timestep, first, states, before, moves=None):
        """The flow (C, K, H, W), and what every block keeps: a list of (places, projections, k, v) for its tokens.

        ``before`` holds what the visible finished latents kept, of every block.
        """
        w, config, cells = self.w, self.config, cells.double()
        count, height, width = cells.shape[1:]
        grid = count, height // 2, width // 2
        patches = torch.stack(
            [
                cells[:, t, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].flatten()
                for t in range(count)
                for i in range(grid[1])
                for j in range(grid[2])
            ]
        )
        places = torch.tensor(
            [[first + t, i, j] for t in range(count) for i in range(grid[1]) for j in range(grid[2])]
        ).double()
        latent = (places[:, 0] - first).long()
        cameras = None if moves is None else self.projections(moves)[latent]
        x = patches @ w["patch_embedding.weight"].flatten(1).T + w["patch_embedding.bias"]
        wave = sinusoid(torch.tensor(float(timestep)), config.sinusoid)
        condition = linear(w, "time_embedding.2", silu(linear(w, "time_embedding.0", wave)))
        parts, text, kept = linear(w, "time_projection.1", silu(condition)), self.states(states), []
        for i in range(config.num_blocks):
            name = f"blocks.{i}"
            m = (w[f"{name}.modulation"][0] + parts.unflatten(-1, (6, -1))).unbind(0)
            normed = layer_norm(x) * (1 + m[1]) + m[0]
            k = self.heads(rms_norm(w, f"{name}.self_attn.norm_k", linear(w, f"{name}.self_attn.k", normed)))
            own = (places, cameras, k, self.heads(linear(w, f"{name}.self_attn.v", normed)))
            kept.append(own)
            q = self.heads(rms_norm(w, f"{name}.self_attn.norm_q", linear(w, f"{name}.self_attn.q", normed)))
            x = x + m[2] * self.mixed(name, q, own, [part[i] for part in before])
            normed = affine_norm(w, f"{name}.norm3", x, config.eps)
            q, k = (
                self.heads(rms_norm(w, f"{name}.cross_attn.norm_{n}", linear(w, f"{name}.cross_attn.{n}", y)))
                for n, y in (("q", normed), ("k", text))
            )
            read = attend(q, k, self.heads(linear(w, f"{name}.cross_attn.v", text))).flatten(1)
            x = x + linear(w, f"{name}.cross_attn.o", read)
            normed = layer_norm(x) * (1 + m[4]) + m[3]
            x = x + m[5] * linear(w, f"{name}.ffn.2", gelu_tanh(linear(w, f"{name}.ffn.0", normed)))
        shift, scale = (w["head.modulation"][0] + condition).unbind(0)
        out = linear(w, "head.head", layer_norm(x) * (1 + scale) + shift)
        flow = torch.zeros(config.out_channels, count, height, width, dtype=torch.float64)
        for n, token in enumerate(out):
            t, i, j = int(latent[n]), int(places[n, 1]), int(places[n, 2])
            patch = token.view(2, 2, config.out_channels).permute(2, 0, 1)
            flow[:, t, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2] = patch
        return flow, kept

    def mixed(self, name, q, own, before):
        third = 2 * (self.config.head // 6)
        dims, theta = (self.config.head - 2 * third, third, third), 10_000.0
        places, cameras = own[0], own[1]
        every = [*before, own]
        k, v = torch.cat([part[2] for part in every]), torch.cat([part[3] for part in every])
        where = torch.cat([part[0] for part in every])
        seen = attend(by_place(q, places, dims, theta), by_place(k, where, dims, theta), v).flatten(1)
        mixed = linear(self.w, f"{name}.self_attn.o", seen)
        if cameras is None:
            return mixed
        back = torch.linalg.inv(torch.cat([part[1] for part in every]))
        seen = attend(by_matrix(q, cameras.mT), by_matrix(k, back), by_matrix(v, back))
        return mixed + linear(self.w, f"{name}.self_attn.prope_o", by_matrix(seen, cameras).flatten(1))


def some(kept, start, stop):
    """What blocks keep of the latents ``start <= i < stop`` only."""
    found = []
    for places, cameras, k, v in kept:
        own = (places[:, 0] >= start) & (places[:, 0] < stop)
        found.append((places[own], None if cameras is None else cameras[own], k[own], v[own]))
    return found


@torch.no_grad()
@pytest.mark.parametrize("window", [Window(), Window(8), Window(6), Window(10, 2)], ids=str)
def test_candidates_after_three_chunks_equal_their_plain_twin(window):
    """Two pasts with two candidates each, which differ in prompt, cameras, noise and level."""
    world = tiny_world(window=window)
    batch = [scenario(seed) for seed in range(2)]
    context = world.begin(batch)
    for chunk in range(3):
        context = world.remember(context, noise(2, chunk), chunk_of(batch, chunk))
    context = world.attend(context, chunk_of(batch, 3))
    noisy, sigma = noise(4, 9), torch.tensor([0.9, 0.5, 0.7, 0.2])
    found = world.predict_clean(noisy, sigma, chunk_of(batch, 3), context)
    twin = Twin(world.net)
    for row in range(4):
        past, kept = row // 2, []
        states = batch[past].conditioning["text_states"]

        def seen(at, kept=kept):
            if window.num_latents is None or at + 4 <= window.num_latents:
                spans = [(0, at)]
            else:
                recent = window.num_latents - 4 - window.sink
                spans = [(0, window.sink), (at - recent, at)]
            return [some(part, *span) for span in spans for part in kept]

        for chunk in range(3):
            moves = chunk_of(batch, chunk).select(past)
            clean = noise(2, chunk)[past]
            kept.append(twin.latents(clean, 0, 4 * chunk, states, seen(4 * chunk), moves)[1])
        moves, level = chunk_of(batch, 3).select(past), float(sigma[row])
        flow, _ = twin.latents(noisy[row], 1000 * level, 12, states, seen(12), moves)
        torch.testing.assert_close(found[row].double(), noisy[row].double() - level * flow, atol=ATOL, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("changes", [{}, {"reads": "image", "states_width": 8, "by_camera": False}], ids=str)
def test_a_network_without_cameras_equals_its_plain_twin(changes):
    """A prompt or a start image's states; a past of one latent and a chunk of three."""
    net = random_network(**changes)
    generator = torch.Generator().manual_seed(3)
    states = torch.randn(5, net.config.states_width, generator=generator)
    first, chunk = noise(1, 1, 1), noise(2, 2, 3)
    (kept,) = net(Latents(first, torch.zeros(1, 1), 0), [Past(states)], keep=True)
    past = Past(states, (kept,), (kept,))
    flow = net(Latents(chunk, torch.tensor([[700.0] * 3, [300.0] * 3]), 1), [past])
    twin = Twin(net)
    _, before = twin.latents(first[0], 0, 0, states, [])
    for row, timestep in enumerate((700, 300)):
        expected, _ = twin.latents(chunk[row], timestep, 1, states, [before])
        torch.testing.assert_close(flow[row].double(), expected, atol=ATOL, rtol=0)


@torch.no_grad()
def test_guidance_keeps_a_past_for_each_prompt():
    """Both pasts are written under their own prompt; cameras are in both."""
    (one, *_), negative = scenarios(), scenario(1).conditioning["text_states"]
    guided = tiny_world("ar_diffusion_tf", guidance=Guidance(3.0, negative))
    sigma, found = torch.full((2,), 0.7), []
    for world, batch in (
        (guided, [one]),
        (tiny_world("ar_diffusion_tf"), [one]),
        (tiny_world("ar_diffusion_tf"), [scenario(0, text_states=negative)]),
    ):
        context = world.remember(world.begin(batch), noise(1), chunk_of(batch, 0))
        context = world.attend(context, chunk_of(batch, 1))
        found.append(world.predict_clean(noise(2), sigma, chunk_of(batch, 1), context))
    torch.testing.assert_close(found[0], found[2] + 3 * (found[1] - found[2]), atol=1e-4, rtol=0)
    assert float((found[1] - found[2]).abs().max()) > 1e-2
