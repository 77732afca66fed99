"""WorldPlay's video autoencoders against slow, plain twins: float64, whole videos at once, nothing kept between
stretches. Tensors are (C, F, H, W)."""

from functools import partial

import pytest
import torch
from torch.nn import functional
from worldplay_tiny import VAE_5B, VAE_8B, random_decoder

pytestmark = pytest.mark.golden
ATOL = 5e-5  # float32 against float64


def silu(x):
    return x / (1 + torch.exp(-x))


class Twin:
    """What both have in common; ``conv`` is the causal convolution, in which they differ."""

    def __init__(self, net, conv):
        self.w, self.conv = {name: t.double() for name, t in net.state_dict().items()}, partial(conv, self)

    def norm(self, name, x):
        return x / x.square().mean(0).sqrt() * self.w[f"{name}.gamma"].view(-1, 1, 1, 1)

    def point(self, name, x):
        """A convolution of single pixels."""
        weight, bias = self.w[f"{name}.weight"].flatten(1), self.w[f"{name}.bias"]
        return torch.einsum("oc,cfhw->ofhw", weight, x) + bias[:, None, None, None]

    def block(self, name, x):
        y = self.conv(f"{name}.conv1", silu(self.norm(f"{name}.norm1", x)))
        y = self.conv(f"{name}.conv2", silu(self.norm(f"{name}.norm2", y)))
        return y + (self.point(f"{name}.conv_shortcut", x) if f"{name}.conv_shortcut.weight" in self.w else x)

    @staticmethod
    def attend(q, k, v):
        """One head, frame by frame."""
        seen = torch.zeros_like(v)
        for f in range(v.shape[1]):
            a, b, c = (x[:, f].flatten(1).T for x in (q, k, v))
            weights = (a @ b.T / a.shape[1] ** 0.5).exp()
            seen[:, f] = (weights / weights.sum(-1, keepdim=True) @ c).T.view_as(v[:, f])
        return seen


class Twin8B(Twin):
    def __init__(self, net):
        super().__init__(net, Twin8B.edges_repeated)

    def edges_repeated(self, name, x):
        x = torch.cat([x[:, :1], x[:, :1], x], 1)
        x = functional.pad(x, (1, 1, 1, 1), mode="replicate")
        w, b = self.w[f"{name}.conv.weight"], self.w[f"{name}.conv.bias"]
        return functional.conv3d(x[None], w, b)[0]

    def middle(self, name, x):
        x = self.block(f"{name}.block_1", x)
        normed = self.norm(f"{name}.attn_1.norm", x)
        seen = self.attend(*(self.point(f"{name}.attn_1.{part}", normed) for part in "qkv"))
        return self.block(f"{name}.block_2", x + self.point(f"{name}.attn_1.proj_out", seen))

    @staticmethod
    def spread(x, time):
        """Channels (time, 2, 2, c) become neighbours."""
        channels, frames, height, width = x.shape
        out = x.new_zeros(channels // (4 * time), frames * time, 2 * height, 2 * width)
        for part, piece in enumerate(x.chunk(4 * time)):
            t, i, j = part // 4, part // 2 % 2, part % 2
            out[:, t::time, i::2, j::2] = piece
        return out

    @staticmethod
    def gather(x, time):
        """Neighbours become channels (time, 2, 2, c)."""
        return torch.cat([x[:, t::time, i::2, j::2] for t in range(time) for i in (0, 1) for j in (0, 1)])

    def up(self, name, x, out, time):
        y = self.conv(f"{name}.conv", x)
        if time == 1:
            return self.spread(y, 1) + self.spread(x.repeat_interleave(4 * out // len(x), 0), 1)
        pieces = [(y[:, :1], x[:, :1], 1)] + ([(y[:, 1:], x[:, 1:], 2)] if x.shape[1] > 1 else [])
        return torch.cat(
            [
                self.spread(inner, t)[:out]
                + (beside := self.spread(outer, t)).repeat_interleave(out // len(beside), 0)
                for inner, outer, t in pieces
            ],
            1,
        )

    def down(self, name, x, out, time):
        y = self.conv(f"{name}.conv", x)
        pieces = [(y[:, :1], x[:, :1], 1), (y[:, 1:], x[:, 1:], 2)] if time == 2 else [(y, x, 1)]
        results = []
        for inner, outer, t in pieces:
            inner, outer = self.gather(inner, t), self.gather(outer, t)
            doubled = torch.cat([inner] * (out // len(inner)))
            results.append(doubled + outer.unflatten(0, (out, -1)).mean(1))
        return torch.cat(results, 1)

    def decode(self, x):
        widths = VAE_8B.widths[::-1]
        x = x / VAE_8B.scale
        x = self.conv("decoder.conv_in", x) + x.repeat_interleave(widths[0] // len(x), 0)
        x = self.middle("decoder.mid", x)
        for i in range(len(widths)):
            for j in range(VAE_8B.num_blocks + 1):
                x = self.block(f"decoder.up.{i}.block.{j}", x)
            if i + 1 < len(widths):
                x = self.up(f"decoder.up.{i}.upsample", x, widths[i + 1], 2 if i < 2 else 1)
        return self.conv("decoder.conv_out", silu(self.norm("decoder.norm_out", x)))

    def encode(self, x):
        widths = VAE_8B.widths
        x = self.conv("encoder.conv_in", x)
        for i in range(len(widths)):
            for j in range(VAE_8B.num_blocks):
                x = self.block(f"encoder.down.{i}.block.{j}", x)
            if i + 1 < len(widths):
                time = 2 if i + 1 >= len(widths) - 2 else 1
                x = self.down(f"encoder.down.{i}.downsample", x, widths[i + 1], time)
        x = self.middle("encoder.mid", x)
        beside = x.unflatten(0, (2 * VAE_8B.latent_channels, -1)).mean(1)
        out = self.conv("encoder.conv_out", silu(self.norm("encoder.norm_out", x))) + beside
        return out[: VAE_8B.latent_channels] * VAE_8B.scale


class Twin5B(Twin):
    def __init__(self, net):
        super().__init__(net, Twin5B.edges_blank)

    def edges_blank(self, name, x):
        x = functional.pad(x, (1, 1, 1, 1, 2, 0))
        return functional.conv3d(x[None], self.w[f"{name}.weight"], self.w[f"{name}.bias"])[0]

    def picture(self, name, x, stride=1):
        """A convolution of each frame."""
        w, b = self.w[f"{name}.weight"], self.w[f"{name}.bias"]
        frames = [functional.conv2d(frame[None], w, b, stride)[0] for frame in x.unbind(1)]
        return torch.stack(frames, 1)

    def in_time(self, name, x, stride=1):
        w, b = self.w[f"{name}.weight"], self.w[f"{name}.bias"]
        return functional.conv3d(x[None], w, b, (stride, 1, 1))[0]

    def middle(self, name, x):
        x = self.block(f"{name}.resnets.0", x)
        at = f"{name}.attentions.0"
        seen = self.attend(*self.point(f"{at}.to_qkv", self.norm(f"{at}.norm", x)).chunk(3))
        return self.block(f"{name}.resnets.1", x + self.point(f"{at}.proj", seen))

    def down(self, name, x, out, time):
        """A shortcut of averages of the input, with a black frame before the first."""
        early = torch.cat([torch.zeros_like(x[:, :1]), x], 1) if time == 2 else x
        pieces = [early[:, t::time, i::2, j::2] for t in range(time) for i in (0, 1) for j in (0, 1)]
        beside = torch.stack(pieces, 1).flatten(0, 1).unflatten(0, (out, -1)).mean(1)
        for j in range(VAE_5B.num_blocks):
            x = self.block(f"{name}.resnets.{j}", x)
        x = self.picture(f"{name}.downsampler.resample.1", functional.pad(x, (0, 1, 0, 1)), 2)
        if time == 2:
            x = torch.cat([x[:, :1], self.in_time(f"{name}.downsampler.time_conv", x, 2)], 1)
        return x + beside

    def up(self, name, x, out, time):
        """A shortcut of copies of the input; the first frame stays one and is unknown to later frames."""
        copies = x.repeat_interleave(out * time * 4 // len(x), 0).view(out, time, 2, 2, *x.shape[1:])
        beside = x.new_zeros(out, time * x.shape[1], 2 * x.shape[2], 2 * x.shape[3])
        for t in range(time):
            for i in (0, 1):
                for j in (0, 1):
                    beside[:, t::time, i::2, j::2] = copies[:, t, i, j]
        for j in range(VAE_5B.num_blocks + 1):
            x = self.block(f"{name}.resnets.{j}", x)
        if time == 2:
            later = torch.cat([torch.zeros_like(x[:, :1]).expand(-1, 2, -1, -1), x[:, 1:]], 1)
            first, second = self.in_time(f"{name}.upsampler.time_conv", later).chunk(2)
            x = torch.cat([x[:, :1], torch.stack([first, second], 2).flatten(1, 2)], 1)
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        x = self.picture(f"{name}.upsampler.resample.1", functional.pad(x, (1, 1, 1, 1)))
        return x + beside[:, time - 1 :]

    def decode(self, x):
        average, spread = (torch.tensor(v).double().view(-1, 1, 1, 1) for v in (VAE_5B.mean, VAE_5B.std))
        x = self.middle(
            "decoder.mid_block",
            self.conv("decoder.conv_in", self.point("post_quant_conv", x * spread + average)),
        )
        widths = [VAE_5B.decoder_width * m for m in VAE_5B.multipliers[::-1]]
        for i, halves in enumerate(VAE_5B.halves_time[::-1]):
            x = self.up(f"decoder.up_blocks.{i}", x, widths[i], 2 if halves else 1)
        for j in range(VAE_5B.num_blocks + 1):
            x = self.block(f"decoder.up_blocks.{len(widths) - 1}.resnets.{j}", x)
        x = self.conv("decoder.conv_out", silu(self.norm("decoder.norm_out", x)))
        video = x.new_zeros(3, x.shape[1], 2 * x.shape[2], 2 * x.shape[3])
        for i in (0, 1):
            for j in (0, 1):
                video[:, :, i::2, j::2] = x[2 * j + i :: 4]
        return video

    def encode(self, video):
        average, spread = (torch.tensor(v).double().view(-1, 1, 1, 1) for v in (VAE_5B.mean, VAE_5B.std))
        x = torch.stack([video[:, :, i::2, j::2] for j in (0, 1) for i in (0, 1)], 1).flatten(0, 1)
        x = self.conv("encoder.conv_in", x)
        widths = [VAE_5B.width * m for m in VAE_5B.multipliers]
        for i, halves in enumerate(VAE_5B.halves_time):
            x = self.down(f"encoder.down_blocks.{i}", x, widths[i], 2 if halves else 1)
        last, beside = f"encoder.down_blocks.{len(widths) - 1}", x
        for j in range(VAE_5B.num_blocks):
            x = self.block(f"{last}.resnets.{j}", x)
        x = self.middle("encoder.mid_block", x + beside.unflatten(0, (widths[-1], -1)).mean(1))
        x = self.point("quant_conv", self.conv("encoder.conv_out", silu(self.norm("encoder.norm_out", x))))
        return (x[: len(average)] - average) / spread


@torch.no_grad()
@pytest.mark.parametrize(("kind", "twin"), [("8b", Twin8B), ("5b", Twin5B)])
def test_the_autoencoder_equals_its_plain_twin(kind, twin):
    net = random_decoder(kind).net
    plain, generator = twin(net), torch.Generator().manual_seed(0)
    side = net.pixels_per_cell
    latents, video = (torch.randn(s, generator=generator) for s in ((3, 4, 2, 3), (3, 9, 2 * side, 3 * side)))
    found, expected = net.decode(latents[None])[0][0], plain.decode(latents.double())
    assert found.shape == (3, 13, 2 * side, 3 * side)
    torch.testing.assert_close(found.double(), expected, atol=ATOL, rtol=ATOL)
    torch.testing.assert_close(
        net.encode(video[None])[0].double(), plain.encode(video.double()), atol=ATOL, rtol=ATOL
    )
