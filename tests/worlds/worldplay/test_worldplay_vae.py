"""The two video autoencoders with tiny random weights: names, decoding from a stored memory, strict loading."""

import json

import pytest
import torch
from worldplay_tiny import random_decoder, raw_vae_config, write_vae

from worldcompass.errors import UserError
from worldcompass.worlds.open.weights import FILE_NAME
from worldcompass.worlds.worldplay.decoder import load_decoder_5b, load_decoder_8b
from worldcompass.worlds.worldplay.vae_5b import Autoencoder5B
from worldcompass.worlds.worldplay.vae_8b import Autoencoder8B

KINDS = ["8b", "5b"]
LOAD = {"8b": load_decoder_8b, "5b": load_decoder_5b}


def layer(name, *shape):
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def official_8b():
    """The list of HunyuanVideo-1.5, in words: 5 resolutions, 2 blocks each on the way down and 3 on the way up."""

    def conv(name, out, channels):
        return layer(f"{name}.conv", out, channels, 3, 3, 3)

    def block(name, width):
        norms = {f"{name}.norm{i}.gamma": (width, 1, 1, 1) for i in (1, 2)}
        return {**norms, **conv(f"{name}.conv1", width, width), **conv(f"{name}.conv2", width, width)}

    def middle(name):
        parts = {**block(f"{name}.block_1", 1024), **block(f"{name}.block_2", 1024)}
        parts[f"{name}.attn_1.norm.gamma"] = (1024, 1, 1, 1)
        for part in ("q", "k", "v", "proj_out"):
            parts |= layer(f"{name}.attn_1.{part}", 1024, 1024, 1, 1, 1)
        return parts

    names = {**conv("encoder.conv_in", 128, 3), **conv("decoder.conv_in", 1024, 32)}
    names |= {**middle("encoder.mid"), **middle("decoder.mid")}
    names |= {"encoder.norm_out.gamma": (1024, 1, 1, 1), "decoder.norm_out.gamma": (128, 1, 1, 1)}
    names |= {**conv("encoder.conv_out", 64, 1024), **conv("decoder.conv_out", 3, 128)}
    for i, (width, narrow) in enumerate([(128, 64), (256, 128), (512, 128), (1024, 128), (1024, None)]):
        for j in range(2):
            names |= block(f"encoder.down.{i}.block.{j}", width)
        names |= conv(f"encoder.down.{i}.downsample.conv", narrow, width) if narrow else {}
    for i, (width, wide) in enumerate([(1024, 8192), (1024, 4096), (512, 1024), (256, 512), (128, None)]):
        for j in range(3):
            names |= block(f"decoder.up.{i}.block.{j}", width)
        names |= conv(f"decoder.up.{i}.upsample.conv", wide, width) if wide else {}
    return names


def official_5b():
    """The list of Wan2.2-TI2V-5B as ``diffusers`` names it."""

    def conv(name, out, channels):
        return layer(name, out, channels, 3, 3, 3)

    def block(name, out, channels):
        norms = {f"{name}.norm1.gamma": (channels, 1, 1, 1), f"{name}.norm2.gamma": (out, 1, 1, 1)}
        beside = layer(f"{name}.conv_shortcut", out, channels, 1, 1, 1) if out != channels else {}
        return {**norms, **conv(f"{name}.conv1", out, channels), **conv(f"{name}.conv2", out, out), **beside}

    def middle(name, width):
        parts = {**block(f"{name}.resnets.0", width, width), **block(f"{name}.resnets.1", width, width)}
        parts[f"{name}.attentions.0.norm.gamma"] = (width, 1, 1)
        parts |= layer(f"{name}.attentions.0.to_qkv", 3 * width, width, 1, 1)
        return parts | layer(f"{name}.attentions.0.proj", width, width, 1, 1)

    names = {**layer("quant_conv", 96, 96, 1, 1, 1), **layer("post_quant_conv", 48, 48, 1, 1, 1)}
    names |= {**conv("encoder.conv_in", 160, 12), **conv("decoder.conv_in", 1024, 48)}
    names |= {**middle("encoder.mid_block", 640), **middle("decoder.mid_block", 1024)}
    names |= {"encoder.norm_out.gamma": (640, 1, 1, 1), "decoder.norm_out.gamma": (256, 1, 1, 1)}
    names |= {**conv("encoder.conv_out", 96, 640), **conv("decoder.conv_out", 12, 256)}
    for i, (width, before) in enumerate([(160, 160), (320, 160), (640, 320), (640, 640)]):
        down = f"encoder.down_blocks.{i}"
        names |= {**block(f"{down}.resnets.0", width, before), **block(f"{down}.resnets.1", width, width)}
        names |= layer(f"{down}.downsampler.resample.1", width, width, 3, 3) if i < 3 else {}
        names |= layer(f"{down}.downsampler.time_conv", width, width, 3, 1, 1) if i in (1, 2) else {}
    for i, (width, before) in enumerate([(1024, 1024), (1024, 1024), (512, 1024), (256, 512)]):
        up = f"decoder.up_blocks.{i}"
        for j in range(3):
            names |= block(f"{up}.resnets.{j}", width, before if j == 0 else width)
        names |= layer(f"{up}.upsampler.resample.1", width, width, 3, 3) if i < 3 else {}
        names |= layer(f"{up}.upsampler.time_conv", 2 * width, width, 3, 1, 1) if i < 2 else {}
    return names


@pytest.mark.parametrize(
    ("network", "official", "tensors", "billions"),
    [(Autoencoder8B, official_8b, 218, 1.261), (Autoencoder5B, official_5b, 196, 0.705)],
)
def test_the_real_networks_have_the_official_names_and_shapes(network, official, tensors, billions):
    with torch.device("meta"):
        state = network().state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == official()
    assert len(state) == tensors
    assert round(sum(value.numel() for value in state.values()) / 1e9, 3) == billions


@torch.no_grad()
def test_the_5b_autoencoder_equals_that_of_diffusers():
    """No official outputs of Wan2.2's autoencoder are stored, so this runs its published implementation."""
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    raw, ours = raw_vae_config("5b"), random_decoder("5b").net
    theirs = diffusers.AutoencoderKLWan(**raw).eval()
    theirs.load_state_dict(ours.state_dict())
    generator = torch.Generator().manual_seed(0)
    video, latents_BCKHW = (torch.randn(s, generator=generator) for s in ((2, 3, 9, 32, 48), (2, 3, 4, 2, 3)))
    posterior = theirs.encode(video).latent_dist.parameters
    torch.testing.assert_close(ours.posterior(video), posterior, atol=1e-5, rtol=0)
    spread, average = (torch.tensor(raw[k]).view(-1, 1, 1, 1) for k in ("latents_std", "latents_mean"))
    frames = theirs.decode(latents_BCKHW * spread + average).sample
    torch.testing.assert_close(ours.decode(latents_BCKHW)[0].clamp(-1, 1), frames, atol=1e-5, rtol=0)


def latents(rows, count, seed=0):
    return torch.randn(rows, 3, count, 1, 2, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [(2, 2, 2), (1, 4, 1)])
def test_a_video_decoded_piece_by_piece_equals_the_whole(kind, lengths):
    decoder, whole = random_decoder(kind), latents(1, 6)
    expected = decoder.decode(whole, None)
    assert expected.shape == (1, 21, 3, decoder.pixels_per_cell, 2 * decoder.pixels_per_cell)
    memory, frames = None, []
    for piece in whole.split(lengths, 2):
        frames.append(decoder.decode(piece, memory))
        memory = decoder.advance(piece, memory)
    torch.testing.assert_close(torch.cat(frames, 1), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_past_is_needed_all_of_it(kind):
    """Decoding a clip after a shortened past, as the released training does, gives other frames."""
    decoder, past, clip = random_decoder(kind), latents(1, 6), latents(1, 2, seed=1)
    expected = decoder.decode(clip, decoder.advance(past, None))
    shortened = torch.cat([past[:, :, :1], past[:, :, -2:]], 2)
    jumped = decoder.decode(clip, decoder.advance(shortened, None))
    assert float((jumped - expected).abs().max()) > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_candidates_of_one_past_equal_single_calls_and_share_its_memory(kind):
    decoder, candidates = random_decoder(kind), latents(3, 2)
    memory = decoder.advance(latents(1, 2, seed=1), None)
    before = [(x.data_ptr(), x.clone()) for x in memory]
    together = decoder.decode(candidates, memory)
    batched, _ = decoder.net.decode(candidates, memory)
    torch.testing.assert_close(together, (batched.transpose(1, 2) / 2 + 0.5).clamp(0, 1), atol=1e-5, rtol=0)
    for row in range(3):
        assert torch.equal(decoder.decode(candidates[row : row + 1], memory), together[row : row + 1])
    assert all(len(x) == 1 for x in memory)
    assert all(
        x.data_ptr() == where and torch.equal(x, was) for x, (where, was) in zip(memory, before, strict=True)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_memory_does_not_grow_and_holds_nothing_larger_than_itself(kind):
    decoder = random_decoder(kind)
    memories = [decoder.advance(latents(1, 2), None)]
    memories.append(decoder.advance(latents(1, 3, seed=1), memories[0]))
    sizes = [[x.shape for x in memory] for memory in memories]
    assert sizes[0] == sizes[1]
    assert all(x.shape[2] == 2 and x.untyped_storage().nbytes() == x.nbytes for x in memories[1])


@pytest.mark.parametrize("kind", KINDS)
def test_later_frames_never_change_earlier_ones(kind):
    decoder = random_decoder(kind)
    longer = torch.cat([latents(1, 2), latents(1, 2, seed=1)], 2)
    assert torch.equal(decoder.decode(longer, None)[:, :5], decoder.decode(longer[:, :, :2], None))
    side = decoder.pixels_per_cell
    video = torch.rand(1, 9, 3, side, side, generator=torch.Generator().manual_seed(0))
    assert torch.equal(decoder.encode(video)[:, :, :2], decoder.encode(video[:, :5]))
    with pytest.raises(ValueError, match=r"1, 5, 9, \.\.\. frames, not 4"):
        decoder.encode(video[:, :4])


@pytest.mark.parametrize("kind", KINDS)
def test_latents_are_scaled_once_on_each_way(kind):
    """The encoder returns the mean in the transformer's scale, and decoding inverts exactly that."""
    decoder = random_decoder(kind)
    net, side = decoder.net, decoder.pixels_per_cell
    video = torch.rand(1, 3, 5, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        mean, _ = net.posterior(video).chunk(2, 1)
        if kind == "8b":
            expected = mean * net.config.scale
        else:
            average, spread = (torch.tensor(x).view(-1, 1, 1, 1) for x in (net.config.mean, net.config.std))
            expected = (mean - average) / spread
        torch.testing.assert_close(net.encode(video), expected)
        seen = []
        net.decoder.conv_in.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
        decoder.decode(expected, None)
        raw = torch.cat(seen, 2)
        if kind == "5b":
            mean = net.post_quant_conv(mean)
    torch.testing.assert_close(raw, mean, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_follows_float32(kind):
    exact, rough = random_decoder(kind), random_decoder(kind)
    rough.net.bfloat16()
    expected, found = (decoder.decode(latents(1, 2), None) for decoder in (exact, rough))
    assert found.dtype == torch.float32
    assert float((found - expected).abs().mean()) < 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_exact_where_the_transformer_runs_in_bfloat16(kind):
    decoder, piece = random_decoder(kind), latents(1, 2)
    expected = decoder.decode(piece, decoder.advance(piece, None))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(decoder.decode(piece, decoder.advance(piece, None)), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_official_files_are_read(kind, tmp_path):
    write_vae(kind, tmp_path)
    decoder = LOAD[kind](tmp_path)
    assert decoder.net.config == random_decoder(kind).net.config
    assert torch.equal(decoder.decode(latents(1, 2), None), random_decoder(kind).decode(latents(1, 2), None))
    assert not any(p.requires_grad for p in decoder.net.parameters())


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("8b", {"shift_factor": 0.1}, "shift_factor is 0.1 instead of None"),
        ("8b", {"ffactor_spatial": 32}, "ffactor_spatial is 32, the widths make 8"),
        ("8b", {"ffactor_temporal": 8}, "must stand for 4 frames, not 8"),
        ("8b", {"block_out_channels": [4, 4]}, "two halvings"),
        ("5b", {"is_residual": False}, "another network than Wan2.2's autoencoder .is_residual is False"),
        ("5b", {"z_dim": 4}, "z_dim is 4, there are 3 means"),
        ("5b", {"latents_std": [1.0]}, "3 means and 1 standard deviations"),
        ("5b", {"temperal_downsample": [False, True]}, "frames are halved 1 times"),
        ("5b", {"dim_mult": [1, 2]}, "2 resolutions, 3 changes"),
        ("5b", {"in_channels": 3, "out_channels": 3}, "in_channels are 3, patches hold 12"),
    ],
)  # fmt: skip
def test_configurations_of_other_autoencoders_are_refused(kind, changes, message, tmp_path):
    write_vae(kind, tmp_path, **changes)
    with pytest.raises(UserError, match=message):
        LOAD[kind](tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_other_networks_and_missing_files_are_refused(kind, tmp_path):
    other = "5b" if kind == "8b" else "8b"
    write_vae(other, tmp_path)
    with pytest.raises(UserError, match=r"config\.json"):
        LOAD[kind](tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(raw_vae_config(kind)))
    with pytest.raises(UserError, match=r"belongs to another network: of .* disagree"):
        LOAD[kind](tmp_path)
    (tmp_path / FILE_NAME).unlink()
    with pytest.raises(UserError, match="no weights at"):
        LOAD[kind](tmp_path)
