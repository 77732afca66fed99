"""Wan2.1's video autoencoder with tiny random weights: names, pieces, memory, and a plain twin in float64."""

import pytest
import torch
from torch.nn import functional
from wan_vae_tiny import TINY_VAE, latents, random_decoder, random_vae, video

from worldcompass.errors import UserError
from worldcompass.worlds.causal_wan.vae import MEAN, STD, WanAutoencoder, WanVaeConfig


def shapes_of(net):
    return {name: tuple(t.shape) for name, t in net.state_dict().items()}


def official():
    """The list of Wan2.1_VAE.pth, in words: 4 resolutions, 2 blocks each on the way down and 3 on the way up."""

    def layer(name, *shape):
        return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}

    def conv(name, out, channels):
        return layer(name, out, channels, 3, 3, 3)

    def block(name, out, channels):
        names = {f"{name}.residual.0.gamma": (channels, 1, 1, 1), f"{name}.residual.3.gamma": (out, 1, 1, 1)}
        names |= {**conv(f"{name}.residual.2", out, channels), **conv(f"{name}.residual.6", out, out)}
        return names | (layer(f"{name}.shortcut", out, channels, 1, 1, 1) if out != channels else {})

    def middle(name):
        names = {
            **block(f"{name}.0", 384, 384),
            **block(f"{name}.2", 384, 384),
            f"{name}.1.norm.gamma": (384, 1, 1),
        }
        return names | layer(f"{name}.1.to_qkv", 1152, 384, 1, 1) | layer(f"{name}.1.proj", 384, 384, 1, 1)

    names = {**layer("conv1", 32, 32, 1, 1, 1), **layer("conv2", 16, 16, 1, 1, 1)}
    names |= {**conv("encoder.conv1", 96, 3), **conv("decoder.conv1", 384, 16)}
    names |= {**middle("encoder.middle"), **middle("decoder.middle")}
    names |= {"encoder.head.0.gamma": (384, 1, 1, 1), "decoder.head.0.gamma": (96, 1, 1, 1)}
    names |= {**conv("encoder.head.2", 32, 384), **conv("decoder.head.2", 3, 96)}
    down = [
        (96, 96),
        (96, 96),
        96,
        (192, 96),
        (192, 192),
        192,
        (384, 192),
        (384, 384),
        384,
        (384, 384),
        (384, 384),
    ]
    for i, sizes in enumerate(down):
        name = f"encoder.downsamples.{i}"
        names |= (
            block(name, *sizes)
            if isinstance(sizes, tuple)
            else layer(f"{name}.resample.1", sizes, sizes, 3, 3)
        )
        names |= layer(f"{name}.time_conv", sizes, sizes, 3, 1, 1) if i in (5, 8) else {}
    up = [*[(384, 384)] * 3, 384, (384, 192), *[(384, 384)] * 2, 384, *[(192, 192)] * 3, 192, *[(96, 96)] * 3]
    for i, sizes in enumerate(up):
        name = f"decoder.upsamples.{i}"
        if isinstance(sizes, tuple):
            names |= block(name, *sizes)
        else:
            names |= layer(f"{name}.resample.1", sizes // 2, sizes, 3, 3)
        names |= layer(f"{name}.time_conv", 2 * sizes, sizes, 3, 1, 1) if i in (3, 7) else {}
    return names


def test_the_real_network_has_the_official_names_and_shapes():
    with torch.device("meta"):
        net = WanAutoencoder()
    assert shapes_of(net) == official()
    assert sum(p.numel() for p in net.parameters()) == 126_892_531
    assert net.pixels_per_cell == 8 and len(MEAN) == len(STD) == 16


@pytest.mark.parametrize("config", [WanVaeConfig(), TINY_VAE, WanVaeConfig(3, (1, 1, 2), 2, (True, True))])
def test_the_sizes_follow_from_the_tensors(config):
    with torch.device("meta"):
        assert WanVaeConfig.of_shapes(shapes_of(WanAutoencoder(config))) == config


def test_tensors_of_another_network_are_refused():
    shapes = shapes_of(random_vae())
    for wrong in ({}, {k: v for k, v in shapes.items() if "time_conv" not in k}):
        with pytest.raises(
            UserError, match=r"not those of Wan2\.1's video autoencoder .*: give Wan2\.1_VAE\.pth"
        ):
            WanVaeConfig.of_shapes(wrong)


@pytest.mark.parametrize("lengths", [(2, 2, 1), (1, 3, 1)])
def test_a_video_decoded_piece_by_piece_equals_the_whole(lengths):
    decoder, whole = random_decoder(), latents(1, 5)
    expected = decoder.decode(whole, None)
    assert expected.shape == (1, 17, 3, 8, 16)
    memory, frames = None, []
    for piece in whole.split(lengths, 2):
        frames.append(decoder.decode(piece, memory))
        before = [t.clone() for t in memory or ()]
        after = decoder.advance(piece, memory)
        assert all(torch.equal(a, b) for a, b in zip(before, memory or (), strict=True))
        memory = after
    # Convolutions over other numbers of frames round otherwise, on some processors by 5e-5.
    torch.testing.assert_close(torch.cat(frames, 1), expected, atol=2e-4, rtol=0)


def test_candidates_share_one_memory_and_equal_single_calls():
    decoder, rows = random_decoder(), latents(3, 2, seed=2)
    memory = decoder.advance(latents(1, 2), None)
    together = decoder.decode(rows, memory)
    assert all(len(t) == 1 for t in memory)
    for row in range(3):
        assert torch.equal(decoder.decode(rows[row : row + 1], memory)[0], together[row])


@torch.no_grad()
def test_a_start_picture_is_encoded_with_grey_frames_until_nothing_changes():
    net = random_vae()
    picture = video(1)[:, :, 0]
    still, count = net.encode_still(picture), net.config.settled
    assert still.shape[2] == count == 22 and WanVaeConfig().settled == 30
    longer = torch.cat([picture[:, :, None], torch.zeros(1, 3, 4 * (count + 2), 8, 16)], 2)
    further = net.encode(longer)
    torch.testing.assert_close(further[:, :, :count], still, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        further[:, :, count:], still[:, :, -1:].expand(-1, -1, 3, -1, -1), atol=1e-5, rtol=0
    )
    assert float((still[:, :, 1] - still[:, :, -1]).abs().max()) > 1e-3  # the picture still shows in latent 1
    assert float(still[:, :, -1].abs().max()) > 1e-3  # grey frames are no latents of zeros


@pytest.mark.parametrize(
    ("frames", "size", "sentence"),
    [
        (4, (8, 16), "1, 5, 9, ... frames, not 4"),
        (5, (8, 12), "frames have 8x12 pixels: expected multiples of 8"),
    ],
)
def test_videos_that_fill_no_latents_are_refused(frames, size, sentence):
    with pytest.raises(ValueError, match=sentence):
        random_vae().encode(video(frames, size=size))


def channels(values):
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 1, 1)


class Twin:
    """Whole videos at once in float64; tensors are (C, F, H, W)."""

    def __init__(self, net):
        self.w = {name: t.double() for name, t in net.state_dict().items()}

    def conv(self, name, x):
        x = functional.pad(x, (1, 1, 1, 1, 2, 0))
        return functional.conv3d(x[None], self.w[f"{name}.weight"], self.w[f"{name}.bias"])[0]

    def point(self, name, x):
        weight = self.w[f"{name}.weight"].flatten(1)
        return torch.einsum("oc,cfhw->ofhw", weight, x) + self.w[f"{name}.bias"][:, None, None, None]

    def norm(self, name, x):
        return x / x.square().mean(0).sqrt() * self.w[f"{name}.gamma"].view(-1, 1, 1, 1)

    def block(self, name, x):
        y = self.conv(f"{name}.residual.2", functional.silu(self.norm(f"{name}.residual.0", x)))
        y = self.conv(f"{name}.residual.6", functional.silu(self.norm(f"{name}.residual.3", y)))
        return y + (self.point(f"{name}.shortcut", x) if f"{name}.shortcut.weight" in self.w else x)

    def attention(self, name, x):
        q, k, v = self.point(f"{name}.to_qkv", self.norm(f"{name}.norm", x)).chunk(3)
        seen = torch.zeros_like(v)
        for f in range(x.shape[1]):
            a, b, c = (t[:, f].flatten(1).T for t in (q, k, v))
            seen[:, f] = (torch.softmax(a @ b.T / a.shape[1] ** 0.5, -1) @ c).T.view_as(v[:, f])
        return x + self.point(f"{name}.proj", seen)

    def middle(self, name, x):
        return self.block(f"{name}.2", self.attention(f"{name}.1", self.block(f"{name}.0", x)))

    def head(self, name, x):
        return self.conv(f"{name}.2", functional.silu(self.norm(f"{name}.0", x)))

    def halved(self, name, x):
        w, b = self.w[f"{name}.resample.1.weight"], self.w[f"{name}.resample.1.bias"]
        x = functional.conv2d(functional.pad(x.transpose(0, 1), (0, 1, 0, 1)), w, b, stride=2).transpose(0, 1)
        if f"{name}.time_conv.weight" not in self.w:
            return x
        w, b = self.w[f"{name}.time_conv.weight"], self.w[f"{name}.time_conv.bias"]
        # The first frame stays; from then on every second frame looks at itself and the two before it.
        rest = functional.conv3d(x[None], w, b, stride=(2, 1, 1))[0] if x.shape[1] > 2 else x[:, :0]
        return torch.cat([x[:, :1], rest], 1)

    def doubled(self, name, x):
        if f"{name}.time_conv.weight" in self.w and x.shape[1] > 1:
            w, b = self.w[f"{name}.time_conv.weight"], self.w[f"{name}.time_conv.bias"]
            rest = functional.conv3d(functional.pad(x[:, 1:], (0, 0, 0, 0, 2, 0))[None], w, b)[0]
            early, late = rest.chunk(2)
            x = torch.cat([x[:, :1], torch.stack([early, late], 2).flatten(1, 2)], 1)
        w, b = self.w[f"{name}.resample.1.weight"], self.w[f"{name}.resample.1.bias"]
        wide = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        return functional.conv2d(wide.transpose(0, 1), w, b, padding=1).transpose(0, 1)

    def layers(self, name, x, change):
        count = 1 + max(int(n.split(".")[2]) for n in self.w if n.startswith(f"{name}."))
        for i in range(count):
            own = f"{name}.{i}"
            x = change(own, x) if f"{own}.resample.1.weight" in self.w else self.block(own, x)
        return x

    def encode(self, x):
        x = self.layers("encoder.downsamples", self.conv("encoder.conv1", x), self.halved)
        mean = self.point("conv1", self.head("encoder.head", self.middle("encoder.middle", x)))[:16]
        return (mean - channels(MEAN)) / channels(STD)

    def decode(self, z):
        z = self.point("conv2", z * channels(STD) + channels(MEAN))
        x = self.middle("decoder.middle", self.conv("decoder.conv1", z))
        return self.head("decoder.head", self.layers("decoder.upsamples", x, self.doubled))


@pytest.mark.golden
@torch.no_grad()
def test_whole_videos_equal_the_twin():
    net = random_vae().double()
    twin, frames, codes = Twin(net), video(13).double(), latents(1, 4).double()
    torch.testing.assert_close(net.encode(frames)[0], twin.encode(frames[0]), atol=1e-9, rtol=0)
    torch.testing.assert_close(net.decode(codes)[0][0], twin.decode(codes[0]), atol=1e-9, rtol=0)
