"""Types, kernels and memory at real size as on CUDA, on tensors without data (the stand-in of ``devices.cuda``)."""

import dataclasses

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from worldplay_tiny import random_latents, random_network, text_states

from worldcompass.cost.trace import LiveBytes, without_data
from worldcompass.devices.attention import cuda_kernel
from worldcompass.devices.autocast import in_bf16
from worldcompass.devices.cuda import as_on_cuda
from worldcompass.runs.requirements import GIB
from worldcompass.worlds.open import attention
from worldcompass.worlds.open.attention import plain_attention, plain_attention_backward
from worldcompass.worlds.worldplay.branches import Latents
from worldcompass.worlds.worldplay.config import Config5B, Config8B
from worldcompass.worlds.worldplay.transformer_5b import Past5B, Transformer5B
from worldcompass.worlds.worldplay.transformer_8b import Transformer8B

CASES = {
    "8b": (Config8B(num_blocks=1), Transformer8B, (30, 52), 20, 1985),
    "5b": (Config5B(num_blocks=1), Transformer5B, (44, 80), 16, 512),
}
CANDIDATES, CHUNK = 12, 4


def latents(channels, rows, count, size, first):
    return Latents(
        torch.zeros(rows, channels, count, *size),
        torch.full((rows, count), 700.0),
        torch.ones(rows, count, dtype=torch.long),
        torch.eye(4).expand(rows, count, 4, 4),
        torch.full((rows, count, 4), 0.5),
        first,
    )


class Seen:
    """What one block does at real size under CUDA's autocast: kernels, keys that are kept, peaks in bytes."""

    def __init__(self, kind, monkeypatch, weights=torch.float32):
        config, make, size, remembered, words = CASES[kind]
        self.kernels = []
        self._listen(monkeypatch)
        channels = 2 * config.latent_channels + 1 if kind == "8b" else config.latent_channels
        with torch.device("meta"):
            net = make(config, recompute=True).to(weights)
        with FakeTensorMode(allow_non_fake_inputs=True), as_on_cuda():
            without_data(net)
            for name, parameter in net.named_parameters():
                parameter.requires_grad_(not net.is_text_only(name))
            keys = torch.zeros(1, config.num_heads, words, config.head, dtype=torch.bfloat16)
            text = [(keys.expand(2, -1, -1, -1),) * 2] if kind == "8b" else Past5B([(keys, keys)])
            with LiveBytes() as live:
                with torch.no_grad(), in_bf16("cpu"):
                    past = net(latents(channels, 1, remembered, size, 0), [text], keep_keys=True)
                    self.kept = [t for pair in (past[0] if kind == "8b" else past[0].memory) for t in pair]
                    self.after_prefix, self.attend = live.now, live.above()
                    net(latents(channels, CANDIDATES, CHUNK, size, remembered), past)
                    self.imagine = live.above()
                with in_bf16("cpu"):
                    velocity = net(latents(channels, 1, CHUNK, size, remembered), past)
                velocity.float().square().mean().backward()

    def _listen(self, monkeypatch):
        forward, backward = attention._kernel, attention._kernel_backward
        seen = nn.functional.scaled_dot_product_attention

        def kernel(q, k, v):
            self.kernels.append(cuda_kernel(q, k, v))
            return forward(q, k, v)

        def kernel_backward(saved, rest):
            self.kernels.append(cuda_kernel(*saved[1:4]))
            return backward(saved, rest)

        def sdpa(q, k, v):
            self.kernels.append(cuda_kernel(q, k, v))
            return seen(q, k, v)

        monkeypatch.setattr(attention, "_kernel", kernel)
        monkeypatch.setattr(attention, "_kernel_backward", kernel_backward)
        monkeypatch.setattr(attention.functional, "scaled_dot_product_attention", sdpa)


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16], ids=["trained", "frozen"])
@pytest.mark.parametrize("kind", CASES)
def test_attention_runs_on_flash_and_keeps_halves_at_real_size(kind, weights, monkeypatch):
    """Autocast on CUDA normalises queries and keys in float32; they must be bfloat16 again before attention."""
    seen = Seen(kind, monkeypatch, weights)
    assert set(seen.kernels) == {"flash"} and len(seen.kernels) > 5
    assert {t.dtype for t in seen.kept} == {torch.bfloat16}
    config, _, size, remembered, words = CASES[kind]
    tokens = remembered * size[0] * size[1] // (1 if kind == "8b" else 4) + (words if kind == "8b" else 0)
    width = config.num_heads * config.head
    keys = 2 * 2 * 2 * tokens * width  # keys and values of two branches, two bytes each
    assert keys <= seen.after_prefix < 1.1 * keys  # no copy of the weights stays behind
    assert seen.attend < 4 * GIB and seen.imagine < 11 * GIB


@pytest.mark.parametrize("kind", ["8b", "5b"])
def test_text_is_kept_in_halves_on_cuda(kind):
    net = random_network(kind)
    with torch.no_grad(), as_on_cuda(), in_bf16("cpu"):
        text = net(text_states(kind))
    pairs = text if kind == "8b" else text.text
    assert {t.dtype for pair in pairs for t in pair} == {torch.bfloat16}


@pytest.mark.parametrize("kind", ["8b", "5b"])
def test_the_types_of_cuda_cost_no_more_accuracy_than_bfloat16_itself(kind, monkeypatch):
    """With CUDA's types, and with attention spelled out instead of flash, which computes nothing without a GPU."""
    monkeypatch.setattr(attention, "fits_flash", lambda q, k, v: False)
    net = random_network(kind)
    chunk = random_latents(kind, 2, first_position=2)

    def velocity():
        text = net(text_states(kind))
        past = net(random_latents(kind, 1, count=2, seed=5), [text], keep_keys=True)
        return net(chunk, past).float()

    with torch.no_grad():
        exact = velocity()
        with in_bf16("cpu"):
            on_cpu = velocity()
        with as_on_cuda(), in_bf16("cpu"):
            as_cuda = velocity()
    assert not torch.equal(on_cpu, as_cuda)
    error = (as_cuda - exact).norm() / exact.norm()
    assert error < 1.3 * (on_cpu - exact).norm() / exact.norm()


def test_attention_without_a_kernel_never_holds_all_scores(monkeypatch):
    q, k, v = (torch.randn(2, 3, n, 8) for n in (400, 30, 30))
    grad = torch.randn(2, 3, 400, 8)
    whole = plain_attention(q, k, v)
    grads = plain_attention_backward(grad, q, k, v, *whole)
    monkeypatch.setattr(attention, "MAX_SCORES", 7 * 2 * 3 * 30)
    with LiveBytes() as live:
        parts = plain_attention(q, k, v)
    assert live.peak < 2 * 3 * 400 * 30 * 4  # less than all scores once
    for a, b in zip(
        (*whole, *grads), (*parts, *plain_attention_backward(grad, q, k, v, *parts)), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_seen_cases_are_the_real_sizes():
    for kind, full in (("8b", Config8B()), ("5b", Config5B())):
        assert dataclasses.replace(CASES[kind][0], num_blocks=full.num_blocks) == full
