"""Waypoint's network and autoencoder against slow, plain versions in float64."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional
from waypoint_tiny import CONFIG, far_along, frame_of, noise, scenarios, world_of
from waypoint_twin import Twin

from worldcompass.worlds.open.weights import shapes_of
from worldcompass.worlds.waypoint.autoencoder import Autoencoder, FrameCoder
from worldcompass.worlds.waypoint.config import CoderConfig
from worldcompass.worlds.waypoint.weights import fused, unfused

ATOL = 5e-5  # float32 against float64: phases of the noise level reach 1000
CONFIGS = {
    "every option": CONFIG,
    "gates, several heads of keys, an offset": replace(
        CONFIG,
        width=128,
        num_heads=4,
        num_kv_heads=2,
        global_period=3,
        global_offset=-1,
        value_residual=False,
        prompt_width=64,
    ),
    "no option": replace(
        CONFIG,
        gated=False,
        value_residual=False,
        prompt_width=None,
        noise_conditioning="dit_air",
        patch=(2, 1),
    ),
    "matrices per layer": replace(CONFIG, noise_conditioning="plain", local_window=1, dilation=1),
}
FRAMES = 6


@pytest.mark.golden
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_rollout_equals_the_plain_network_that_keeps_every_frame(config):
    """Two pasts, several rows each; both kinds of rings wrap. Compared at every age of the past."""
    world = world_of(config)
    batch, twin, sigma = scenarios(world), Twin(world.net), torch.tensor([0.9, 0.3, 0.7, 0.05])
    histories = [[], []]
    context = far_along(world, batch, 0)
    for t in range(FRAMES):
        commands, noisy, clean = frame_of(batch, t), noise(world, 4, t), noise(world, 2, 50 + t)
        if t == 0:
            clean = torch.stack([s.conditioning["latent"] for s in batch])[:, :, None]
        with torch.no_grad():
            found = world.predict_clean(noisy, sigma, commands, context)
        for row in range(4 if t else 0):
            s, controls = batch[row // 2], commands.values_KTA[row // 2, 0, 0]
            states = s.conditioning.get("text_states")
            velocity, _ = twin.frame(noisy[row, :, 0], sigma[row], controls, t, states, histories[row // 2])
            expected = noisy[row, :, 0] - sigma[row] * velocity
            torch.testing.assert_close(found[row, :, 0].double(), expected, atol=ATOL, rtol=0)
        for row, s in enumerate(batch):
            controls, states = commands.values_KTA[row, 0, 0], s.conditioning.get("text_states")
            histories[row].append(twin.frame(clean[row, :, 0], 0, controls, t, states, histories[row])[1])
        context = world.attend(world.remember(context, clean, commands), frame_of(batch, t + 1))


class CoderTwin:
    """One half of the autoencoder; tensors are (C, h, w)."""

    def __init__(self, tensors, config):
        self.w, self.config = {name: t.double() for name, t in tensors.items()}, config

    def conv(self, name, x, groups=1):
        gain, direction = (self.w[f"{name}.parametrizations.weight.original{i}"] for i in (0, 1))
        weight = torch.stack([g * v / v.square().sum().sqrt() for g, v in zip(gain, direction, strict=True)])
        bias, reach = self.w.get(f"{name}.bias"), weight.shape[-1] // 2
        return functional.conv2d(x[None], weight, bias, padding=reach, groups=groups)[0]

    def block(self, name, x):
        y = self.conv(f"{name}.conv1", x)
        y = torch.maximum(y, y / 100)
        y = self.conv(f"{name}.conv2", y, groups=len(y) // 16)
        return x + self.conv(f"{name}.conv3", torch.maximum(y, y / 100))

    def blocks(self, name, x, count):
        for j in range(count):
            x = self.block(f"{name}.blocks.{j}", x)
        return x

    def encode(self, x):
        x = self.conv("conv_in.proj", resized(x, (32, 32)))
        for i, count in enumerate(self.config.blocks):
            y = self.conv(f"residuals.{i}.proj", x)
            side = torch.stack([y[:, a::2, b::2] for a in (0, 1) for b in (0, 1)], 1).flatten(0, 1)
            x = self.blocks(f"blocks.{i}", x, count)
            half = resized(x, (x.shape[1] // 2, x.shape[2] // 2))
            x = self.conv(f"blocks.{i}.down.proj", half) + side
        groups = x.split(self.config.latent_channels)
        return self.conv("conv_out.proj", x) + len(groups) ** 0.5 * sum(groups) / len(groups)

    def decode(self, x):
        repeats = self.config.widths[-1] // len(x)
        spread = torch.stack([channel for channel in x for _ in range(repeats)])
        x = self.conv("conv_in.proj", x) + spread / repeats**0.5
        for i, count in enumerate(self.config.blocks):
            y = self.conv(f"residuals.{i}.proj", x)
            side = y.new_zeros(len(y) // 4, 2 * y.shape[1], 2 * y.shape[2])
            for n, (a, b) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
                side[:, a::2, b::2] = y[n::4]
            name = f"blocks.{i}.up.proj"
            x = self.conv(name, x) if f"{name}.parametrizations.weight.original0" in self.w else x
            x = self.blocks(f"blocks.{i}", resized(x, (2 * x.shape[1], 2 * x.shape[2])), count) + side
        return resized(self.conv("conv_out.proj", x / (1 + torch.exp(-x))), (18, 32))


def resized(x_Chw, size):
    """Bicubic with the kernel of Keys (a = -3/4), one side after the other; edges are repeated."""
    for axis, after in zip((1, 2), size, strict=True):
        before = x_Chw.shape[axis]
        matrix = torch.zeros(after, before, dtype=torch.float64)
        for i in range(after):
            at = (i + 0.5) * before / after - 0.5
            for j in range(int(at // 1) - 1, int(at // 1) + 3):
                matrix[i, min(max(j, 0), before - 1)] += keys_kernel(abs(at - j))
        x_Chw = torch.tensordot(matrix, x_Chw, ([1], [axis])).movedim(0, axis)
    return x_Chw


def keys_kernel(distance, a=-0.75):
    if distance < 1:
        return (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    return a * (distance**3 - 5 * distance**2 + 8 * distance - 4) if distance < 2 else 0.0


@pytest.mark.golden
def test_the_autoencoder_equals_its_plain_twin(monkeypatch):
    """Several blocks, groups and channels beyond the colours, on smaller pictures than the official ones."""
    monkeypatch.setattr("worldcompass.worlds.waypoint.autoencoder.ENCODED_SIZE", (32, 32))
    monkeypatch.setattr("worldcompass.worlds.waypoint.autoencoder.FRAME_SIZE", (18, 32))
    generator = torch.Generator().manual_seed(0)
    config = CoderConfig(channels=4, latent_channels=2, width=16, max_width=32, blocks=(1, 2))
    net, twins = Autoencoder(config, config), []
    for half in (net.encoder, net.decoder):
        tensors = {
            name: 0.5 * torch.randn(shape, generator=generator)
            for name, shape in unfused(shapes_of(half)).items()
        }
        half.load_state_dict(fused(tensors))
        twins.append(CoderTwin(tensors, config))
    coder = FrameCoder(net)
    pictures = torch.randint(0, 256, (2, 3, 20, 31), generator=generator, dtype=torch.uint8)
    latents = coder.encode(pictures)
    for found, picture in zip(latents, pictures, strict=True):
        colours = torch.cat([picture.double() / 255 * 2 - 1, torch.zeros(1, 20, 31)])
        torch.testing.assert_close(found.double(), twins[0].encode(colours), atol=ATOL, rtol=1e-5)
    latents = torch.randn(2, 2, 8, 8, generator=generator)
    for found, latent in zip(coder.decode(latents), latents, strict=True):
        levels = (twins[1].decode(latent.double())[:3] / 2 + 0.5).clamp(0, 1) * 255
        assert float((found.double() - levels).abs().max()) <= 0.501
