"""The mixing transformer's savings compute what its plain formulas say."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from worldcompass.worlds.small.autoencoder import CodeConfig
from worldcompass.worlds.small.linear import LinearCode
from worldcompass.worlds.small.mixing import MixingConfig, MixingTransformer, mixed
from worldcompass.worlds.small.transformer import after_prefix, spread, still_rotary

CODE = CodeConfig((16, 16), 4, channels=8, cell=8)
CONFIG = MixingConfig(
    CODE.latent_shape, seen=6, controls=4, token=(1, 1), width=96, depth=1, head=48,
    condition=32, frame_size=CODE.frame_size, views=2, grids=(16, 32, 48),
)  # fmt: skip
PASTS, ROWS, LATENTS = 2, 3, 4


@pytest.fixture
def net() -> MixingTransformer:
    """With every weight drawn, as a new network ignores most of what it sees."""
    torch.manual_seed(0)
    net = MixingTransformer(CONFIG, LinearCode(CODE))
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return net


@pytest.fixture
def seen() -> torch.Tensor:
    """Views of every past, (P, D, K, h, w)."""
    return torch.rand(PASTS, CONFIG.seen, LATENTS, *CONFIG.frame_size)


def velocity(net: MixingTransformer, seen_PDKhw: torch.Tensor, known: int = 0) -> torch.Tensor:
    rows = PASTS * ROWS
    generator = torch.Generator().manual_seed(1)
    noisy = torch.randn(rows, CODE.channels, LATENTS, 2, 2, generator=generator)
    sigma, command = torch.full((rows, LATENTS), 0.7), (torch.ones(rows, LATENTS, 4),)
    rotary = still_rotary(torch.arange(float(LATENTS)).expand(rows, -1), CONFIG)
    attend = after_prefix(None)
    out, _ = net(noisy, sigma, command, noisy[:, :, 0], seen_PDKhw, rotary=rotary, attend=attend, known=known)
    return out


def gradients(net: MixingTransformer, seen_PDKhw: torch.Tensor) -> list[torch.Tensor]:
    net.zero_grad()
    velocity(net, seen_PDKhw).square().sum().backward()
    return [parameter.grad.clone() for parameter in net.parameters() if parameter.grad is not None]


def test_rows_that_share_their_pasts_views_get_what_rows_with_copies_get(net, seen):
    copies = seen.repeat_interleave(ROWS, 0)
    torch.testing.assert_close(velocity(net, seen), velocity(net, copies), atol=1e-5, rtol=1e-4)
    assert (velocity(net, seen) - velocity(net, seen.flip(0))).abs().max() > 1e-3  # each past has its own
    for shared, own in zip(gradients(net, seen), gradients(net, copies), strict=True):
        torch.testing.assert_close(shared, own, atol=1e-4 * float(own.abs().max()), rtol=1e-3)


def test_the_stem_convolves_pictures_and_views_as_one(net, seen):
    seen_PKDhw = seen.transpose(1, 2)
    picture = torch.rand(PASTS * ROWS * LATENTS, 3, *CONFIG.frame_size)
    whole = torch.cat([picture, spread(seen_PKDhw, len(picture))], 1)
    plain = net.stem(whole - 0.5) + net.where
    torch.testing.assert_close(net._stem(picture, seen_PKDhw), plain, atol=1e-5, rtol=1e-5)


def test_known_latents_are_seen_but_not_answered(net, seen):
    answers = velocity(net, seen)
    torch.testing.assert_close(velocity(net, seen, known=1), answers[:, :, 1:], atol=1e-5, rtol=1e-4)


def test_without_gradients_the_same_comes_out(net, seen):
    """What is then written in its place is needed by nobody."""
    with torch.no_grad():
        quick = velocity(net, seen)
    torch.testing.assert_close(quick, velocity(net, seen).detach(), atol=1e-5, rtol=1e-4)


def test_pictures_are_weighted_sums_of_views_and_a_colour_behind_a_gate():
    planes, views = torch.randn(2, 7 + 4, 8, 8), torch.rand(2, 21, 8, 8)
    shares, colour = planes[:, :7].softmax(1), planes[:, 8:] + 0.5
    shown = torch.einsum("nvyx,nvcyx->ncyx", shares, views.unflatten(1, (7, 3)))
    gate = functional.sigmoid(planes[:, 7:8])
    config = replace(CONFIG, views=7, seen=21)
    torch.testing.assert_close(mixed(planes, views, config), (1 - gate) * shown + gate * colour)
