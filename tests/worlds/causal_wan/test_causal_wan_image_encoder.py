"""Wan2.1's image encoder with tiny random weights: names, the layer that is not run, a plain twin."""

import pytest
import torch
from torch.nn import functional

from worldcompass.errors import UserError
from worldcompass.worlds.causal_wan.image_encoder import MEAN, STD, ImageEncoder, ImageEncoderConfig
from worldcompass.worlds.open.tiny import randomise

TINY = ImageEncoderConfig(width=12, num_heads=2, num_layers=3, mlp_width=20, patch=4, image_size=8)


def random_encoder():
    net = ImageEncoder(TINY)
    randomise(net, torch.Generator().manual_seed(0))
    return net


def file_of(net):
    """All tensors of a file, with those that are never used."""
    last = {
        name.replace("transformer.0.", "transformer.2."): t
        for name, t in net.state_dict().items()
        if name.startswith("transformer.0.")
    }
    unused = {"post_norm.weight": torch.ones(12), "post_norm.bias": torch.ones(12), "head": torch.ones(12, 4)}
    own = {f"visual.{name}": t for name, t in {**net.state_dict(), **last, **unused}.items()}
    return {**own, "textual.token_embedding.weight": torch.ones(2, 2), "log_scale": torch.ones(())}


def picture(size=(6, 10)):
    return 2 * torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)) - 1


def test_the_real_encoder_gives_257_tokens_from_31_layers():
    with torch.device("meta"):
        net = ImageEncoder()
    assert net.config.num_tokens == 257 and len(net.transformer) == 31
    assert sum(p.numel() for p in net.parameters()) == 611_086_080


def test_its_own_tensors_are_taken_from_the_whole_file():
    net = random_encoder()
    tensors = file_of(net)
    config = ImageEncoderConfig.of_shapes({name: tuple(t.shape) for name, t in tensors.items()}, num_heads=2)
    assert config == TINY
    other = ImageEncoder(config)
    other.load_state_dict(other.own(tensors))
    assert torch.equal(net(picture()), other(picture()))


def test_a_tensor_that_belongs_nowhere_is_not_dropped_silently():
    net = random_encoder()
    with pytest.raises(RuntimeError, match="Unexpected key"):
        net.load_state_dict(net.own({**file_of(net), "visual.mask_token": torch.ones(1)}))
    with pytest.raises(UserError, match=r"not those of Wan2\.1's image encoder .*: give models_clip_open"):
        ImageEncoderConfig.of_shapes({"vision_model.embeddings.class_embedding": (12,)})


def channels(values):
    return torch.tensor(values, dtype=torch.float64).view(3, 1, 1)


class Twin:
    def __init__(self, net):
        self.w = {name: t.double() for name, t in net.state_dict().items()}

    def linear(self, name, x):
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def norm(self, name, x):
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        return x * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def tokens(self, image):
        small = functional.interpolate(image.double(), (8, 8), mode="bicubic")[0] / 2 + 0.5
        small = (small - channels(MEAN)) / channels(STD)
        kernel = self.w["patch_embedding.weight"].flatten(1)
        patches = [kernel @ small[:, y : y + 4, x : x + 4].flatten() for y in (0, 4) for x in (0, 4)]
        x = torch.stack([self.w["cls_embedding"][0, 0], *patches]) + self.w["pos_embedding"][0]
        x = self.norm("pre_norm", x)
        for layer in ("transformer.0", "transformer.1"):
            q, k, v = self.linear(f"{layer}.attn.to_qkv", self.norm(f"{layer}.norm1", x)).chunk(3, -1)
            heads = [
                torch.softmax(a @ b.T / 6**0.5, -1) @ c
                for a, b, c in zip(q.split(6, -1), k.split(6, -1), v.split(6, -1), strict=True)
            ]
            x = x + self.linear(f"{layer}.attn.proj", torch.cat(heads, -1))
            h = self.linear(f"{layer}.mlp.0", self.norm(f"{layer}.norm2", x))
            x = x + self.linear(f"{layer}.mlp.2", h * (1 + torch.erf(h / 2**0.5)) / 2)
        return x


@pytest.mark.golden
@torch.no_grad()
def test_tokens_equal_the_twin():
    net, image = random_encoder().double(), picture().double()
    torch.testing.assert_close(net(image)[0], Twin(net).tokens(image), atol=1e-9, rtol=0)
