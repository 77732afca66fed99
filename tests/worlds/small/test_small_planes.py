"""Views are mixed pixel by pixel, planes beside colour behind gates of their own."""

from __future__ import annotations

import pytest
import torch

from worldcompass.worlds.small.autoencoder import CodeConfig
from worldcompass.worlds.small.linear import LinearCode
from worldcompass.worlds.small.mixing import MixingConfig, MixingTransformer, mixed
from worldcompass.worlds.small.transformer import Inputs

CODE = CodeConfig((16, 16), 1, channels=16, extra=(4,))
CONFIG = MixingConfig(
    CODE.latent_shape,
    seen=2 * 4 + 2,
    token=(1, 1),
    width=48,
    depth=1,
    head=12,
    frame_size=CODE.frame_size,
    views=2,
    planes=4,
    grids=(16, 16, 16),
)


def test_an_open_gate_of_colour_leaves_depth_to_the_views():
    views = torch.rand(1, 8, 16, 16)
    planes = torch.zeros(1, CONFIG.views + CONFIG.own, 16, 16)
    planes[:, 0], planes[:, 2], planes[:, 3] = 50, 50, -50  # the first view; colour drawn, depth not
    out = mixed(planes, views, CONFIG)
    torch.testing.assert_close(out[:, :3], torch.full_like(out[:, :3], 0.5))
    torch.testing.assert_close(out[:, 3], views[:, 3])


def test_a_new_network_takes_the_view_that_is_real():
    """Where the first view's mask is empty and the second one's is full, and the other way round."""
    torch.manual_seed(0)
    code = LinearCode(CODE)
    code.fit(torch.rand(40, 4, 16, 16))
    net = MixingTransformer(CONFIG, code)
    with torch.no_grad():  # no preference but that of the masks
        net.head.bias.view(-1, CONFIG.finest**2)[0] = 0
    pictures = [code.decode(torch.randn(1, *CODE.latent_shape)) for _ in range(2)]
    noise = torch.randn(1, *CODE.latent_shape)
    for real in (0, 1):
        masks = torch.zeros(1, 2, 16, 16)
        masks[:, real] = 1
        seen = torch.cat([*pictures, masks], 1)
        sigma = torch.ones(1)
        inputs = Inputs(noise, sigma, noise, seen[:, None], torch.zeros(1, CONFIG.condition))
        tokens, kept = net.enter(inputs)
        shown = code.decode(noise - net.leave(tokens, kept, inputs))
        near, far = ((shown - pictures[i]).abs().mean() for i in (real, 1 - real))
        assert near < 0.15 * far


def test_planes_and_masks_of_views_fit_what_is_seen():
    with pytest.raises(ValueError, match="2 views have 8 planes, seen says 7"):
        MixingConfig(
            CODE.latent_shape,
            seen=7,
            token=(1, 1),
            frame_size=(16, 16),
            views=2,
            planes=4,
            grids=(16, 16, 16),
        )
