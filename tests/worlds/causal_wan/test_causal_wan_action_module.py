"""The keyboard-and-mouse module: a slow plain twin in float64, and what it must and must not depend on."""

import math

import pytest
import torch
from torch.nn import functional

from worldcompass.worlds.causal_wan.action_module import ActionConfig, ActionModule, Windows
from worldcompass.worlds.open.tiny import randomise

WIDTH, TOKENS, KEYS = 10, 2, 4
BOTH = ActionConfig(KEYS, key_width=3, keyboard_width=128, mouse_width=64)
ATOL = 2e-5  # float32 against float64


def module(config=BOTH):
    net = ActionModule(WIDTH, config)
    randomise(net, torch.Generator().manual_seed(0))
    return net


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs(count, rows=1, pasts=1, seed=0):
    windows = Windows(draw(pasts, count, 12 * KEYS, seed=seed), draw(pasts, count, 24, seed=seed + 1))
    return draw(rows, count, TOKENS, WIDTH, seed=seed + 2), windows


class Twin:
    """One video, latent by latent and token by token, in float64; ``seen`` says which latents each one looks at."""

    def __init__(self, net):
        self.w = {name: t.double() for name, t in net.state_dict().items()}
        self.has_mouse = net.config.has_mouse

    def linear(self, name, x):
        return self.w[f"{name}.weight"] @ x + self.w.get(f"{name}.bias", 0)

    @staticmethod
    def heads(vector, place):
        """Each head normalised; neighbouring pairs of its first 8 dimensions turn with time, and nothing else."""
        heads = vector.view(-1, 64)
        heads = heads / (heads.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        for pair in range(4):
            angle = place * 256 ** (-2 * pair / 8)
            a, b = heads[:, 2 * pair].clone(), heads[:, 2 * pair + 1].clone()
            heads[:, 2 * pair] = a * math.cos(angle) - b * math.sin(angle)
            heads[:, 2 * pair + 1] = b * math.cos(angle) + a * math.sin(angle)
        return heads

    @staticmethod
    def attend(q_hd, keys, values):
        """One query to some keys, head by head."""
        scores = torch.stack([(q_hd * k).sum(-1) / 8 for k in keys])
        weights = scores.exp() / scores.exp().sum(0)
        return sum(w[:, None] * v.view(-1, 64) for w, v in zip(weights, values, strict=True)).flatten()

    def run(self, x, keyboard, mouse, seen):
        """Latents (M, T, D) after the module."""
        x = x.double().clone()
        count, tokens = x.shape[:2]
        if self.has_mouse:
            qkv = {
                (i, t): self.of_mouse(x[i, t], mouse[i].double()) for i in range(count) for t in range(tokens)
            }
            keys = {place: self.heads(k, place[0]) for place, (_, k, _) in qkv.items()}
            for i, t in qkv:
                others = [(j, t) for j in seen(i)]
                q = self.heads(qkv[i, t][0], i)
                out = self.attend(q, [keys[o] for o in others], [qkv[o][2] for o in others])
                x[i, t] += self.linear("proj_mouse", out)
        kv = [self.of_keyboard(keyboard[i].double()) for i in range(count)]
        keys = [self.heads(k, place) for place, (k, _) in enumerate(kv)]
        for i in range(count):
            for t in range(tokens):
                q = self.heads(self.linear("mouse_attn_q", x[i, t]), i)
                out = self.attend(q, [keys[j] for j in seen(i)], [kv[j][1] for j in seen(i)])
                x[i, t] += self.linear("proj_keyboard", out)
        return x

    def of_mouse(self, token, moves):
        h = self.linear(
            "mouse_mlp.2",
            functional.gelu(self.linear("mouse_mlp.0", torch.cat([token, moves])), approximate="tanh"),
        )
        h = (h - h.mean()) / (h.var(correction=0) + 1e-5).sqrt()
        h = h * self.w["mouse_mlp.3.weight"] + self.w["mouse_mlp.3.bias"]
        return self.linear("t_qkv", h).chunk(3)

    def of_keyboard(self, pressed):
        frames = []
        for keys in pressed.view(12, KEYS):
            h = self.linear("keyboard_embed.0", keys)
            frames.append(self.linear("keyboard_embed.2", h / (1 + torch.exp(-h))))
        return self.linear("keyboard_attn_kv", torch.cat(frames)).chunk(2)


@pytest.mark.golden
@pytest.mark.parametrize("has_mouse", [True, False])
@torch.no_grad()
def test_blocks_after_a_shortened_past_equal_the_twin(has_mouse):
    """Blocks of 2, of which each sees its own latents and the last one before them."""
    net = module(ActionConfig(KEYS, has_mouse, key_width=3, keyboard_width=128, mouse_width=64))
    x, windows = inputs(6)
    whole, kept = [], ()
    for first in (0, 2, 4):
        own = slice(first, first + 2)
        part = Windows(windows.keyboard_PKE[:, own], windows.mouse_PKE[:, own])
        out, left = net(x[:, own], part, [tuple(t[-1:] for t in kept)] if kept else [], first)
        kept = tuple(t[0] for t in left)
        whole.append(out[0])
    expected = Twin(net).run(
        x[0],
        windows.keyboard_PKE[0],
        windows.mouse_PKE[0],
        lambda i: range(max(0, i - i % 2 - 1), i - i % 2 + 2),
    )
    torch.testing.assert_close(torch.cat(whole).double(), expected, atol=ATOL, rtol=0)


@torch.no_grad()
def test_the_scales_of_the_norms_have_no_effect():
    """Official files hold them, and the official code never multiplies by them."""
    net = module()
    x, windows = inputs(2)
    before = net(x, windows, [], 0)[0]
    for norm in (net.img_attn_q_norm, net.img_attn_k_norm, net.key_attn_q_norm, net.key_attn_k_norm):
        assert norm.weight.shape == (64,) and not norm.weight.requires_grad
        norm.weight.fill_(7.0)
    assert torch.equal(net(x, windows, [], 0)[0], before)


@torch.no_grad()
def test_a_mouse_at_rest_is_not_the_absence_of_a_mouse():
    net = module()
    x, windows = inputs(2)
    still = Windows(windows.keyboard_PKE, torch.zeros_like(windows.mouse_PKE))
    bare = module(ActionConfig(KEYS, False, key_width=3, keyboard_width=128))
    bare.load_state_dict({name: t for name, t in net.state_dict().items() if name in bare.state_dict()})
    with_rest, without = net(x, still, [], 0), bare(x, still, [], 0)
    assert float((with_rest[0] - without[0]).abs().max()) > 0.01
    assert (len(with_rest[1]), len(without[1])) == (4, 2)


@torch.no_grad()
def test_places_count_from_the_beginning_of_the_video():
    net = module()
    x, windows = inputs(2)
    alone = net(x, windows, [], 0)
    # Both latents move together, so that alone they see the same; their keys do not.
    torch.testing.assert_close(net(x, windows, [], 9)[0], alone[0], atol=1e-5, rtol=0)
    later = net(x, windows, [], 9)[1]
    for key in (0, 2):
        assert float((later[key] - alone[1][key]).abs().max()) > 0.1
        still = slice(8, None)
        assert torch.equal(later[key][..., still], alone[1][key][..., still])
    past = [tuple(t[0] for t in alone[1])]
    near, far = net(x, windows, past, 2)[0], net(x, windows, past, 9)[0]
    assert float((near - far).abs().max()) > 1e-3


@torch.no_grad()
def test_rows_and_pasts_equal_single_calls():
    net = module()
    before, windows_before = inputs(2, rows=2, pasts=2, seed=10)
    kept = net(before, windows_before, [], 0)[1]
    pasts = [tuple(t[row] for t in kept) for row in range(2)]
    x, windows = inputs(3, rows=4, pasts=2, seed=20)
    for shown in (pasts, []):
        together, own = net(x, windows, shown, 2)
        every_row = Windows(*(t.repeat_interleave(2, 0) for t in (windows.keyboard_PKE, windows.mouse_PKE)))
        for row in range(4):
            past, one = row // 2, slice(row // 2, row // 2 + 1)
            part = Windows(windows.keyboard_PKE[one], windows.mouse_PKE[one])
            alone, left = net(x[row : row + 1], part, shown[one], 2)
            torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=0)
            assert past < 2 and all(
                torch.allclose(a[row], b[0], atol=1e-5) for a, b in zip(own, left, strict=True)
            )
        torch.testing.assert_close(net(x, every_row, shown, 2)[0], together, atol=1e-5, rtol=0)


def test_what_the_past_keeps_of_the_mouse_depends_on_its_tokens_and_of_the_keyboard_does_not():
    net = module()
    x, windows = inputs(2)
    with torch.no_grad():
        own, other = (net(tokens, windows, [], 0)[1] for tokens in (x, x + 1))
    assert all(torch.equal(a, b) for a, b in zip(own[:2], other[:2], strict=True))
    assert all(float((a - b).abs().max()) > 0.01 for a, b in zip(own[2:], other[2:], strict=True))
    assert own[0].shape == (1, 2, 2, 64) and own[2].shape == (1, 2, TOKENS, 1, 64)
