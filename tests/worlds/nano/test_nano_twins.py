"""The network and the rollout against slow, plain versions: float64, one window at a time, no stored keys.

Written from the equations alone, so that nothing but the weights and the random numbers is shared.
"""

import math
from functools import cache

import pytest
import torch
from nano_tiny import INJECTIONS, STATISTICS, network, noising_of, scenario, world_of

from worldcompass.rollout import imagine_video
from worldcompass.seeding import generator_for
from worldcompass.worlds.nano.transformer import Frames

pytestmark = pytest.mark.golden
ATOL = 5e-5  # float32 against float64
SIZES = {"num_blocks": 4, "num_frames": 5, "width": 24}
"""Two blocks of each kind, as the place embedding precedes only the first block along time."""


def silu(x):
    return x / (1 + torch.exp(-x))


def norm(x):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def turned(x, angles):
    """Component j with its partner half a head away, as a complex number."""
    half = x.shape[-1] // 2
    z = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([z.real, z.imag], -1)


class Plain:
    """A window (F, N, D) of one row, token by token."""

    def __init__(self, net):
        self.w = {name: tensor.detach().double() for name, tensor in net.state_dict().items()}
        self.config = net.config

    def linear(self, name, x):
        bias = self.w.get(f"{name}.bias", torch.zeros(1).double())
        return x @ self.w[f"{name}.weight"].T + bias

    def embed(self, name, x):
        return self.linear(f"{name}.mlp.2", silu(self.linear(f"{name}.mlp.0", x)))

    def modulation(self, name, x):
        return self.linear(f"{name}.1", silu(x))

    def attend(self, q, k, v):
        heads = []
        for q_, k_, v_ in zip(*(x.chunk(self.config.num_heads, -1) for x in (q, k, v)), strict=True):
            scores = (q_ @ k_.T / math.sqrt(q_.shape[-1])).exp()
            heads.append(scores / scores.sum(-1, keepdim=True) @ v_)
        return torch.cat(heads, -1)

    def self_attention(self, name, x, angles, may_see):
        """Of one sequence (L, D); ``may_see`` gives the tokens that a token reads."""
        q, k, v = self.linear(f"{name}.qkv", x).chunk(3, -1)
        width = self.config.head
        for_heads = lambda part, scale: torch.cat(  # noqa: E731
            [
                turned(h / (h.square().mean(-1, keepdim=True) + 1e-6).sqrt() * self.w[scale], angles)
                for h in part.split(width, -1)
            ],
            -1,
        )
        q, k = for_heads(q, f"{name}.q_norm.weight"), for_heads(k, f"{name}.k_norm.weight")
        seen = [self.attend(q[i : i + 1], k[may_see(i)], v[may_see(i)]) for i in range(len(x))]
        return self.linear(f"{name}.proj", torch.cat(seen))

    def spatial_angles(self):
        grid, quarter = self.config.grid, self.config.head // 4
        rates = 10_000.0 ** (-torch.arange(quarter).double() / quarter)
        rows = [torch.cat([y * rates, x * rates]) for y in range(grid) for x in range(grid)]
        return torch.stack(rows)

    def temporal_angles(self, count):
        half = self.config.head // 2
        return torch.arange(count).double()[:, None] * 10_000.0 ** (-torch.arange(half).double() / half)

    def block(self, index, x, time, actions):
        name, count = f"blocks.{index}", len(x)
        kind, in_time = self.config.injection, index % 2 == 1
        if kind == "additive":
            x = x + actions[:, None]
        parts = self.modulation(f"{name}.adaLN_modulation", time + actions * (kind == "adaln_fuse"))
        if kind == "adaln":
            parts = parts + self.modulation(f"{name}.action_adaLN_modulation", actions)
        shift, scale, gate, shift_2, scale_2, gate_2 = parts[:, None].chunk(6, -1)
        normed = norm(x) * (1 + scale) + shift
        if in_time:
            angles = self.temporal_angles(count)
            mixed = [
                self.self_attention(f"{name}.attn", normed[:, n], angles, lambda i: slice(0, i + 1))
                for n in range(x.shape[1])
            ]
            x = x + gate * torch.stack(mixed, 1)
        else:
            angles = self.spatial_angles()
            mixed = [self.self_attention(f"{name}.attn", f, angles, lambda _: slice(None)) for f in normed]
            x = x + gate * torch.stack(mixed)
        if kind == "film":
            gamma, beta = self.modulation(f"{name}.film_modulation", actions)[:, None].chunk(2, -1)
            x = (1 + gamma) * x + beta
        normed = norm(x) * (1 + scale_2) + shift_2
        inner = silu(self.linear(f"{name}.mlp.w1", normed)) * self.linear(f"{name}.mlp.w2", normed)
        x = x + gate_2 * self.linear(f"{name}.mlp.w3", inner)
        if kind == "cross_attention":
            q = self.linear(f"{name}.cross_attn.q", norm(x))
            k, v = self.linear(f"{name}.cross_attn.kv", actions).chunk(2, -1)
            rows = [slice(0, f + 1) if in_time else slice(f, f + 1) for f in range(count)]
            seen = [self.attend(q[f], k[rows[f]], v[rows[f]]) for f in range(count)]
            out = self.linear(f"{name}.cross_attn.proj", torch.stack(seen))
            x = x + self.w[f"{name}.cross_gate"] * out
        return x

    def patches(self, latents_FCHW):
        p, grid = self.config.patch, self.config.grid
        kernel, bias = self.w["x_embedder.proj.weight"], self.w["x_embedder.proj.bias"]
        tokens = [
            torch.einsum("fcij,dcij->fd", latents_FCHW[:, :, y * p : y * p + p, x * p : x * p + p], kernel)
            for y in range(grid)
            for x in range(grid)
        ]
        return torch.stack(tokens, 1) + bias

    def __call__(self, latents_FCHW, timesteps_F, actions_FA):
        rates = 10_000.0 ** (-torch.arange(128).double() / 128)
        angle = timesteps_F.double()[:, None] * rates
        time = self.embed("t_embedder", torch.cat([angle.cos(), angle.sin()], -1))
        actions = self.embed("action_embedder", actions_FA.double())
        actions[0] = 0
        x = self.patches(latents_FCHW.double()) + self.w["pos_embed"]
        for index in range(self.config.num_blocks):
            if index == 1:
                x = x + self.w["temp_embed"][0, : len(x), None]
            x = self.block(index, x, time, actions)
        shift, scale = self.modulation("final_layer.adaLN_modulation", time)[:, None].chunk(2, -1)
        tokens = self.linear("final_layer.linear", norm(x) * (1 + scale) + shift)
        p, grid = self.config.patch, self.config.grid
        out = torch.zeros_like(latents_FCHW.double())
        for n in range(grid**2):
            y, x_ = (n // grid) * p, (n % grid) * p
            out[:, :, y : y + p, x_ : x_ + p] = tokens[:, n].unflatten(-1, (p, p, -1)).permute(0, 3, 1, 2)
        return out


@pytest.mark.parametrize("injection", INJECTIONS)
def test_the_network_in_one_pass_and_after_a_prefix(injection):
    net = network(injection, **SIZES)
    generator = torch.Generator().manual_seed(3)
    count, width = net.config.num_frames, net.config.action_size
    latents = torch.randn(2, 3, count, 4, 4, generator=generator)
    timesteps = torch.tensor([[0.0, 20, 20, 500, 999], [0, 0, 0.5, 999, 3]])
    actions = torch.randn(2, count, width, generator=generator)
    plain = Plain(net)
    expected = torch.stack(
        [
            plain(frames.transpose(0, 1), told, own)
            for frames, told, own in zip(latents, timesteps, actions, strict=True)
        ]
    ).transpose(1, 2)
    with torch.no_grad():
        whole = net(Frames(latents, timesteps, actions))
        prefix = net(Frames(latents[:, :, :3], timesteps[:, :3], actions[:, :3]), keep_keys=True)
        after = net(Frames(latents[:, :, 3:], timesteps[:, 3:], actions[:, 3:]), prefix)
    torch.testing.assert_close(whole.double(), expected, atol=ATOL, rtol=0)
    torch.testing.assert_close(after.double(), expected[:, :, 3:], atol=ATOL, rtol=0)


@cache
def signal_and_noise(noising, timestep):
    """Coefficients of the clean latent and the noise at an integer timestep, in the network's own space."""
    total = noising.num_timesteps
    if noising.prediction == "flow":
        return 1 - (timestep + 1) / total, (timestep + 1) / total
    if noising.prediction == "epsilon":
        betas = [(1e-4 + (0.02 - 1e-4) * i / (total - 1)) * 1000 / total for i in range(total)]
    else:
        f = lambda u: math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2  # noqa: E731
        betas = [min(1 - f((i + 1) / total) / f(i / total), 0.999) for i in range(total)]
    roots = [math.sqrt(math.prod(1 - b for b in betas[: i + 1])) for i in (0, timestep, total - 1)]
    if noising.prediction == "epsilon":
        return roots[1], math.sqrt(1 - roots[1] ** 2)
    signal = (roots[1] - roots[2]) * roots[0] / (roots[0] - roots[2])
    return signal, math.sqrt(1 - signal**2)


def clean_and_noise(noising, output, x, timestep):
    """Both parts of a noisy latent in the network's own space, from the network's output."""
    a, b = signal_and_noise(noising, timestep)
    if noising.prediction == "flow":
        return x + b * output, x - a * output
    if noising.prediction == "v":
        return a * x - b * output, b * x + a * output
    if noising.prediction == "x":
        return output, (x - a * output) / b
    return (x - b * output) / a, output


@pytest.mark.parametrize(
    ("prediction", "regime", "injection"),
    [
        ("v", "full", "additive"),
        ("v", "respaced", "film"),
        ("flow", "full", "cross_attention"),
        ("x", "full", "adaln"),
        ("epsilon", "respaced", "adaln_fuse"),
    ],
)
def test_the_sliding_rollout_in_each_parameterisation(prediction, regime, injection):
    """DDIM with eta 0 in the network's own space equals the project's Euler steps."""
    steps, given, history = 3, 2, 3
    world = world_of(injection, prediction, given, history, steps, regime)
    first = scenario(world, "right+up-2, left-2, down-1")
    video = imagine_video(world, [first], keys=(7,))[0]
    total, plain, noising = 1000, Plain(world.net), noising_of(prediction)
    if regime == "full":
        told = [int(t) for t in torch.linspace(-1, total - 1, steps + 1)[1:]][::-1]
        stable = round(0.02 * (total - 1))
    else:
        told = [round(j * (total - 1) / (steps - 1)) for j in range(steps)][::-1]
        stable = told[::-1][round(0.02 * (steps - 1))]
    raw = first.actions.values_KTA.double()
    numbers = ((raw - torch.tensor(STATISTICS.mean)) / (torch.tensor(STATISTICS.std) + 1e-6)).flatten(1)
    latents = list(first.conditioning["latent"].double().unbind(1))
    for place in range(given, len(raw)):
        keys = (7, first.id)
        window = torch.stack(latents[-history:])
        shape = (3, len(window), 4, 4)
        drawn = torch.randn(shape, generator=generator_for(*keys, place, "attend")).transpose(0, 1)
        a, b = signal_and_noise(noising, stable)
        window = a * window + b * drawn.double()
        start = torch.randn((3, 1, 4, 4), generator=generator_for(*keys, place))[:, 0].double()
        _, b = signal_and_noise(noising, told[0])
        x = b * start
        own = numbers[place - len(window) : place + 1]
        for now, after in zip(told, [*told[1:], None], strict=True):
            timesteps = torch.tensor([*[stable] * len(window), now])
            clean, noise = clean_and_noise(
                noising, plain(torch.cat([window, x[None]]), timesteps, own)[-1], x, now
            )
            a, b = (1.0, 0.0) if after is None else signal_and_noise(noising, after)
            x = a * clean + b * noise
        latents.append(x)
        seen = world.decoder.decode(x[None].float())[0]
        assert (video[place].int() - seen.int()).abs().max() <= 1
