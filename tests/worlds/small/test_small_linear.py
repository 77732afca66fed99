"""A linear code keeps what it is given, and frames between pictures of a still camera can be learned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bouncing import BLUEPRINT, CODE, FORMAT, BouncingWorld, play, random_world, recordings, scenarios
from torch import Tensor, nn

from worldcompass.seeding import generator_for
from worldcompass.testing import check_world_model
from worldcompass.worlds.small.autoencoder import Codec, Look
from worldcompass.worlds.small.data import load
from worldcompass.worlds.small.interpolation import Interpolator, pixel_centres, sample
from worldcompass.worlds.small.linear import LinearAutoencoder
from worldcompass.worlds.small.pretraining import loss as module
from worldcompass.worlds.small.pretraining.between import between_loss, between_psnr, frames_up_to
from worldcompass.worlds.small.pretraining.pictures import Pictures, to_unit
from worldcompass.worlds.small.pretraining.sequences import blur_past, draw_batch, encode_dataset


class Interpolating(LinearAutoencoder):
    def __init__(self) -> None:
        super().__init__(replace(CODE, channels=24))
        self.interpolator = Interpolator(self.config)

    def between(self, looks: Look) -> Tensor:
        before, after = looks.picture[:, :-1], looks.picture[:, 1:]
        frames = self.interpolator(before.flatten(0, 1), after.flatten(0, 1))
        return frames.unflatten(0, before.shape[:2])


def frames_of(count: int) -> Tensor:
    """Pictures (B, 3, 16, 16) of a square at random places, with a little noise."""
    rng = np.random.default_rng(0)
    frames = np.concatenate([play(np.ones((2, 2)), rng.uniform(0, 11, 2)) for _ in range(count)])
    noise = 0.02 * torch.rand(len(frames), 3, 16, 16, generator=generator_for(0))
    return to_unit(frames) * 0.95 + noise


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return recordings(tmp_path_factory.mktemp("bouncing") / "data")


def test_what_a_linear_code_decodes_is_encoded_to_the_same_latent():
    """So a picture that is carried along chunk after chunk stays as it is, and all channels have a share in it."""
    net = LinearAutoencoder(CODE)
    net.start_linear(frames_of(40))
    latents = torch.randn(3, *CODE.latent_shape)
    torch.testing.assert_close(net.encode(net.pictures(latents)), latents, atol=1e-4, rtol=0)
    own = net.encode(frames_of(40)).movedim(1, 0).flatten(1)
    assert own.square().mean().item() == pytest.approx(1, abs=0.01)
    deviation = own.std(1)
    assert (deviation.diff() < 0).all() and deviation[-1] > 0.02 * deviation[0]


def test_more_channels_show_more_and_all_of_them_everything():
    frames, errors = frames_of(40), []
    for channels in (2, 6, 48):
        net = LinearAutoencoder(replace(CODE, channels=channels))
        net.start_linear(frames)
        errors.append((net.pictures(net.encode(frames)) - frames).abs().mean().item())
    assert errors[0] > 1.5 * errors[1] and errors[2] < 1e-4


def test_a_plane_beside_colour_has_channels_of_its_own():
    """An error of depth is none of colour, and colour is coded as without depth."""
    frames = frames_of(40)
    depth = frames.mean(1, keepdim=True).square()
    alone = LinearAutoencoder(replace(CODE, channels=12))
    both = LinearAutoencoder(replace(CODE, channels=16, extra=(4,)))
    alone.start_linear(frames)
    both.start_linear(torch.cat([frames, depth], 1))
    latents = both.encode_planes(torch.cat([frames, depth], 1))
    shown = both.code.decode(latents)
    torch.testing.assert_close(
        both.pictures(latents), alone.pictures(alone.encode(frames)), atol=1e-4, rtol=0
    )
    assert (shown[:, 3:] - depth).abs().mean() < 0.5 * depth.std()
    wrong = latents.clone()
    wrong[:, 12:] += 1
    assert both.pictures(wrong).equal(both.pictures(latents))
    assert not both.code.decode(wrong)[:, 3:].allclose(shown[:, 3:])
    with pytest.raises(ValueError, match="none are left"):
        replace(CODE, channels=4, extra=(4,))


def test_a_world_with_a_linear_code_keeps_the_contract():
    autoencoder = LinearAutoencoder(CODE)
    autoencoder.start_linear(frames_of(40))
    check_world_model(BouncingWorld(autoencoder, random_world().net), scenarios(20))


def test_places_in_pixels_fetch_those_pixels():
    picture = torch.rand(1, 3, 16, 24)
    shifted = sample(picture, (pixel_centres(picture) + torch.tensor([3.0, -2.0]))[None, None], "bilinear")
    torch.testing.assert_close(shifted[0, 0, :, 2:, :-3], picture[0, :, :-2, 3:], atol=1e-5, rtol=0)


def test_a_new_interpolator_fades_from_one_picture_to_the_next():
    net, frames = Interpolating(), frames_of(3)
    looks = net.look(net.encode(frames)).unflatten((1, -1))
    with torch.no_grad():
        torch.testing.assert_close(net.between(looks), Codec.between(net, looks), atol=1e-5, rtol=0)


def test_nothing_flickers_that_stands_still_whatever_the_network_says():
    net = Interpolator(replace(CODE, frame_size=(32, 32)))
    nn.init.normal_(net.head.weight, std=0.5)
    before = torch.rand(1, 3, 32, 32)
    after = before.clone()
    after[:, :, :8, :8] = torch.rand(1, 3, 8, 8)
    frames = net(before, after)[0]
    torch.testing.assert_close(frames[:, :, :, 12:], before.expand_as(frames)[:, :, :, 12:])
    assert (frames - before).abs()[..., :8, :8].max() > 0.1


def test_a_picture_comes_with_the_frames_that_lead_to_it(data):
    episode = load(data, "train", FORMAT)[0][0]
    for latent, (first, last) in {0: (0, 4), 1: (0, 4), 3: (8, 12)}.items():
        (frames,) = frames_up_to(episode, latent, 4)
        assert np.array_equal(frames, episode.frames_Fhw3[first : last + 1])


def test_frames_between_are_learned_from_moving_pictures_and_the_code_stays(data, monkeypatch):
    monkeypatch.setattr("worldcompass.worlds.small.pretraining.between.MEASURED_VIDEOS", 8)
    shards = load(data, "train", FORMAT)
    torch.manual_seed(0)
    net = Interpolating()
    net.start_linear(frames_of(40))
    code = net.code.axes.clone()
    rng, optimiser = np.random.default_rng(0), torch.optim.AdamW(net.parameters(), 3e-3)
    before = between_psnr(net, shards)
    assert before["between_psnr"] == pytest.approx(before["cross_fade_psnr"], abs=1e-3)
    for step in range(60):
        episodes = [shards[0][int(rng.integers(2))] for _ in range(8)]
        frames = np.stack([frames_up_to(e, int(rng.integers(1, 20)), 4)[0] for e in episodes])
        truth = Pictures(to_unit(frames[:, -1]), (torch.from_numpy(frames),))
        loss = between_loss(net, truth, generator_for(step))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    after = between_psnr(net, shards)
    assert after["between_psnr"] > after["cross_fade_psnr"] + 1 and net.code.axes.equal(code)


class Recalling(BouncingWorld):
    """Notes the oldest latent that its views are made of."""

    oldest: list[Tensor | None]

    def views(self, look, last, older, actions) -> Tensor:
        self.oldest.append(None if older is None else older[0][:, :, 0])
        assert older is None or older[0].shape[2] == len(older[1])
        return super().views(look, last, older, actions)


def test_the_start_image_is_the_oldest_of_every_past_where_teaching_says_so(data, tmp_path):
    plain = random_world()
    world = Recalling(plain.autoencoder, plain.net)
    latents = encode_dataset(BLUEPRINT, world, data, "train", tmp_path / "latents.safetensors")
    blueprint = replace(BLUEPRINT, teaching=replace(BLUEPRINT.teaching, shows_start=True, start_share=0.0))
    rng = np.random.default_rng(0)
    batch = blur_past(blueprint, world, draw_batch(blueprint, world, latents, rng), rng)
    for taught, shown in ((BLUEPRINT, False), (blueprint, True)):
        world.oldest = []
        module.world_loss(taught, world, batch, 4, generator_for(0))
        found = [oldest is not None and oldest.equal(batch.start_BCHW) for oldest in world.oldest]
        assert found == [shown] * 3
    starts = latents.latents_EMCHW[:, 0].float()
    assert all(any(start.equal(own) for own in starts) for start in batch.start_BCHW)


def test_errors_below_the_floor_count_by_the_level_and_others_as_before(data, tmp_path, monkeypatch):
    world = random_world()
    latents = encode_dataset(BLUEPRINT, world, data, "train", tmp_path / "latents.safetensors")
    batch = draw_batch(BLUEPRINT, world, latents, np.random.default_rng(0))
    floored = replace(BLUEPRINT, teaching=replace(BLUEPRINT.teaching, level_floor=0.25))
    for level, share in ((0.1, 0.16), (0.5, 1.0)):
        levels = torch.full(batch.clean_BMCHW.shape[:2], level)
        monkeypatch.setattr(module, "noise_levels", lambda *_, levels=levels: levels.clone())
        plain, less = (module.world_loss(b, world, batch, 4, generator_for(0)) for b in (BLUEPRINT, floored))
        assert less.item() == pytest.approx(share * plain.item(), rel=1e-4)


def test_a_worlds_own_error_of_clean_latents_is_added(data, tmp_path):
    """It is told what is guessed and, row by row, what is true."""
    world = random_world()
    latents = encode_dataset(BLUEPRINT, world, data, "train", tmp_path / "latents.safetensors")
    batch = draw_batch(BLUEPRINT, world, latents, np.random.default_rng(0))
    asked = []

    def own(autoencoder, guessed, true):
        asked.append((guessed, true))
        return guessed.new_tensor(7.0)

    plain, more = (
        module.world_loss(b, world, batch, 4, generator_for(0)).item()
        for b in (BLUEPRINT, replace(BLUEPRINT, misplaced=own))
    )
    assert more == pytest.approx(plain + 7)
    ((guessed, true),) = asked
    known = batch.clean_BMCHW.flatten(0, 1)
    assert guessed.shape == true.shape and not guessed.equal(true)
    assert all((known - row).abs().amax((1, 2, 3)).min() < 1e-5 for row in true)


def test_blurred_pasts_can_be_noisy_too_and_the_start_never_is(data, tmp_path):
    world = random_world()
    nn.init.zeros_(world.autoencoder.to_pixels.weight)
    latents = encode_dataset(BLUEPRINT, world, data, "train", tmp_path / "latents.safetensors")
    noisy = replace(BLUEPRINT, teaching=replace(BLUEPRINT.teaching, blurred_noise=0.5, start_share=1.0))
    batch = draw_batch(noisy, world, latents, np.random.default_rng(1), 8)
    quiet, loud = (blur_past(b, world, batch, np.random.default_rng(0)) for b in (BLUEPRINT, noisy))
    added = (loud.past_BMCHW - quiet.past_BMCHW).flatten(2).std(2)
    assert not added[:, 0].any() and 0 < (added[:, 1:].mean(1) > 0).sum() < 8
