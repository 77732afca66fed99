"""The transformer's faster ways compute the same, and its positions tell places and times apart."""

from __future__ import annotations

from dataclasses import replace

import torch
from bouncing import NET

from worldcompass.worlds.small import transformer
from worldcompass.worlds.small.transformer import (
    ChunkTransformer,
    after_prefix,
    feed_forward,
    rotate,
    still_rotary,
)


def test_onednn_computes_the_layers_that_it_replaces(monkeypatch):
    up, down, x = torch.nn.Linear(96, 384), torch.nn.Linear(384, 96), torch.randn(3, 4, 96)
    with torch.no_grad():
        fast = feed_forward(up, down, x)
        monkeypatch.setattr(transformer, "ONEDNN_LINEAR", None)
        torch.testing.assert_close(fast, feed_forward(up, down, x), atol=1e-5, rtol=1e-5)


def test_rotation_has_the_gradient_of_its_formula():
    cos, sin = (f(torch.randn(2, 1, 5, 24, dtype=torch.float64)) for f in (torch.cos, torch.sin))
    x = torch.randn(2, 3, 5, 48, dtype=torch.float64, requires_grad=True)
    a, b = x.chunk(2, -1)
    expected = torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
    torch.testing.assert_close(rotate(x, (cos, sin)), expected)
    assert torch.autograd.gradcheck(lambda x: rotate(x, (cos, sin)), x, fast_mode=True)


def test_tokens_of_any_size_hold_their_own_cells_and_come_back():
    cells = torch.arange(2 * 3 * 4 * 4).view(2, 3, 4, 4).float()
    for down, across in ((1, 1), (2, 1), (1, 2), (2, 4)):
        net = ChunkTransformer(replace(NET, token=(down, across)))
        tokens = net._fold(cells)
        assert tokens.shape == (2, net.config.tokens, 3 * down * across)
        assert set(tokens[0, 0].tolist()) == set(cells[0, :, :down, :across].flatten().tolist())
        assert net._unfold(tokens).equal(cells)


def test_rows_that_nobody_asks_for_are_seen_but_not_answered():
    config = replace(NET, controls=4, seen=0)
    net = ChunkTransformer(config)
    torch.nn.init.normal_(net.head.weight, std=0.1)
    shape, latents = config.latent_shape, 2
    noisy = torch.randn(3, shape[0], latents, *shape[1:])
    rotary = still_rotary(torch.arange(float(latents)).expand(3, -1), config)
    asked = torch.tensor([True, False, True])

    def velocity(asked_B):
        return net(
            noisy, torch.rand(3, latents, generator=torch.Generator().manual_seed(0)), (torch.ones(3, latents, 4),),
            noisy[:, :, 0], noisy.new_zeros(3, 0, latents, *shape[1:]),
            rotary=rotary, attend=after_prefix(None), asked_B=asked_B,
        )  # fmt: skip

    (all_rows, keys), (two, same_keys) = velocity(None), velocity(asked)
    torch.testing.assert_close(two, all_rows[asked])
    assert keys[-1][0].equal(same_keys[-1][0])


def test_a_still_cameras_positions_differ_by_row_column_and_time_alone():
    """The product of two rotated vectors depends on how far apart their tokens are, and on nothing else."""
    config = replace(NET, token=(1, 1))
    rotary = still_rotary(torch.arange(5.0)[None], config)
    x = torch.ones(1, 1, 5 * config.tokens, config.head)
    product = (lambda r: r @ r.mT)(rotate(x, rotary))[0, 0].view(5, 4, 4, 5, 4, 4)
    same = product[0, 0, 0, 1, 2, 1], product[2, 1, 2, 3, 3, 3]
    torch.testing.assert_close(*same)
    others = [product[0, 0, 0, 1, 1, 1], product[0, 0, 0, 1, 2, 2], product[0, 0, 0, 2, 2, 1]]
    assert all((other - same[0]).abs() > 1e-3 for other in others)
