"""Sizes of the real networks, on the meta device, and what a window may hold."""

import dataclasses

import pytest
import torch
from nano_tiny import INJECTIONS, network

from worldcompass.worlds.nano.autoencoder import PictureAutoencoder, PictureDecoder
from worldcompass.worlds.nano.config import SIZES, NanoConfig, PictureConfig
from worldcompass.worlds.nano.transformer import Frames, NanoTransformer


def size_of(net):
    return sum(parameter.numel() for parameter in net.parameters()), len(net.state_dict())


def on_meta(**changes):
    with torch.device("meta"):
        return NanoTransformer(NanoConfig(**changes))


@pytest.mark.parametrize(
    ("changes", "parameters", "tensors"),
    [
        ({}, 158_600_464, 148),
        ({"injection": "adaln_fuse"}, 158_600_464, 148),
        ({"injection": "adaln"}, 201_123_088, 172),
        ({"injection": "film"}, 172_774_672, 172),
        ({"injection": "cross_attention"}, 186_958_096, 232),
        (
            {"num_blocks": 24, "width": 1024, "num_heads": 16, "num_frames": 16, "action_size": 51},
            558_724_112,
            280,
        ),
        ({"num_blocks": 12, "width": 384, "num_heads": 6}, 39_782_800, 148),
    ],
)
def test_real_networks_have_the_published_sizes(changes, parameters, tensors):
    assert size_of(on_meta(**changes)) == (parameters, tensors)


def test_the_sizes_of_architectures():
    assert SIZES["B"] == (12, 768, 12)
    assert {name: width // heads for name, (_, width, heads) in SIZES.items()} == {
        "S": 64, "B": 64, "L": 64, "XL": 72,
    }  # fmt: skip


def test_the_real_picture_autoencoder():
    with torch.device("meta"):
        net = PictureAutoencoder()
    assert size_of(net) == (83_653_863, 248)
    assert net.config.pixels_per_cell == 8
    assert net.config.scale == 0.18215


def frames(net, count, rows=1, seed=0):
    generator, config = torch.Generator().manual_seed(seed), net.config
    side = config.latent_size
    return Frames(
        torch.randn(rows, config.latent_channels, count, side, side, generator=generator),
        torch.full((rows, count), 300.0),
        torch.randn(rows, count, config.action_size, generator=generator),
    )


def replaced(given, **changes):
    return dataclasses.replace(
        given, **{name: change(getattr(given, name)) for name, change in changes.items()}
    )


@pytest.mark.parametrize("injection", INJECTIONS)
@torch.no_grad()
def test_a_latent_sees_no_later_one_and_the_first_action_of_a_window_is_not_read(injection):
    net = network(injection, num_blocks=4)
    given = frames(net, 3)
    before = net(given)

    def later(tensor):
        changed = tensor.clone()
        changed.select(2 if tensor.ndim == 5 else 1, 2).add_(1)
        return changed

    changed = net(replaced(given, latents_BCKHW=later, timesteps_BK=later, actions_BKA=later))
    torch.testing.assert_close(changed[:, :, :2], before[:, :, :2], atol=1e-6, rtol=0)
    assert (changed[:, :, 2] - before[:, :, 2]).abs().max() > 1e-3

    def first(actions):
        return torch.cat([actions[:, :1] + 1, actions[:, 1:]], 1)

    assert torch.equal(net(replaced(given, actions_BKA=first)), before)


@torch.no_grad()
def test_the_first_latent_has_no_action_rather_than_the_action_0():
    net = network()
    assert net(frames(net, 2), keep_keys=True).actions_PnD[:, 0].abs().max() == 0
    assert net.action_embedder(torch.zeros(1, net.config.action_size)).abs().max() > 1e-3


@torch.no_grad()
def test_rows_of_several_windows_share_their_prefix():
    net = network("cross_attention")
    past, own = frames(net, 2, rows=2, seed=1), frames(net, 2, rows=6, seed=2)
    prefix = net(past, keep_keys=True)
    together = net(own, prefix)
    for row in range(6):
        alone = net(
            replaced(own, **dict.fromkeys(vars(own), lambda x, r=row: x[r : r + 1])), prefix.select(row // 3)
        )
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=0)


def test_recomputed_activations_give_the_same_gradients():
    grads = []
    for recompute in (False, True):
        net = network("film")
        net.recompute = recompute
        prefix = torch.no_grad()(net)(frames(net, 1, seed=1), keep_keys=True)
        net(frames(net, 2), prefix).square().sum().backward()
        assert all(parameter.grad is not None for parameter in net.parameters())
        grads.append(net.blocks[0].attn.qkv.weight.grad)
    torch.testing.assert_close(*grads, atol=1e-6, rtol=1e-5)


def test_more_latents_than_a_window_are_refused():
    net = network()
    with pytest.raises(ValueError, match="5 latents after 0 are more than a window: expected at most 4"):
        net(frames(net, 5))
    with pytest.raises(ValueError, match="3 rows cannot be divided among 2 pasts"):
        net(frames(net, 1, rows=3), net(frames(net, 1, rows=2), keep_keys=True))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"injection": "concat"}, "expected one of additive, adaln"),
        ({"patch": 3}, "patches must fill a latent"),
        ({"width": 72}, "multiple of 4"),
        ({"num_frames": 1}, "a past and a next latent"),
        ({"num_blocks": 0}, "sizes must be positive"),
    ],
)
def test_sizes_that_no_network_has_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        NanoConfig(**changes)


def test_pictures_are_the_mean_of_the_posterior_and_whole_numbers_are_cut_off():
    net = PictureAutoencoder(PictureConfig(3, (4, 4), 1, 2))
    decoder, frames = PictureDecoder(net), torch.randint(0, 256, (9, 3, 4, 4), dtype=torch.uint8)
    latents = decoder.encode(frames)
    assert torch.equal(latents, decoder.encode(frames)), "nothing is drawn"
    mean = net.posterior(frames.float() / 127.5 - 1)[:, :3]
    torch.testing.assert_close(latents, 0.18215 * mean, atol=1e-6, rtol=1e-5)
    pixels = decoder.decode(latents)
    values = ((net.decode(latents) + 1) / 2).clamp(0, 1) * 255
    assert torch.equal(pixels, values.floor().byte())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(decoder.decode(latents), pixels), "float32 even under autocast"
