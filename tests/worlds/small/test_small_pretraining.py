"""A world of the kit is pretrained from recordings: nothing leaks from the future, and a kill changes nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bouncing import BLUEPRINT, CODE, FORMAT, SPEC, BouncingWorld, random_world, recordings, scenarios
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import interpolate, pixel_unshuffle

from worldcompass.errors import UserError
from worldcompass.rollout import imagine_chunk, imagine_video
from worldcompass.seeding import generator_for
from worldcompass.testing import check_world_model
from worldcompass.types import ControlValues
from worldcompass.worlds.small.autoencoder import Autoencoder, CodeConfig
from worldcompass.worlds.small.context import SmallContext
from worldcompass.worlds.small.pretraining import pretrain as module
from worldcompass.worlds.small.pretraining.autoencoder import draw_pictures
from worldcompass.worlds.small.pretraining.loss import (
    Layout,
    commands_of,
    imagine_past,
    last_actions,
    noise_levels,
    world_loss,
)
from worldcompass.worlds.small.pretraining.pictures import Pictures, decoder_loss, picture_loss, to_unit
from worldcompass.worlds.small.pretraining.sequences import Latents, blur_past, draw_batch, encode_dataset
from worldcompass.worlds.small.world import SmallWorld

STAGES = ("autoencoder", "decoder", "world")
WIDE = CodeConfig((48, 64), frames_per_latent=4, fine=24, coarse=48)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return recordings(tmp_path_factory.mktemp("bouncing") / "data")


@pytest.fixture(scope="module")
def world() -> SmallWorld:
    return random_world()


@pytest.fixture(scope="module")
def latents(world, data, tmp_path_factory) -> Latents:
    cache = tmp_path_factory.mktemp("cache") / "latents.safetensors"
    return encode_dataset(BLUEPRINT, world, data, "train", cache)


@pytest.fixture
def quick(monkeypatch) -> None:
    """Stages of two steps that save after each, and few measured videos."""
    monkeypatch.setattr("worldcompass.training.stage.MEASURED_STEPS", 1)
    monkeypatch.setattr("worldcompass.training.stage.SAVE_SECONDS", -1.0)
    monkeypatch.setattr("worldcompass.worlds.small.pretraining.autoencoder.LINEAR_FRAMES", 64)
    monkeypatch.setattr("worldcompass.worlds.small.pretraining.measures.MEASURED_VIDEOS", 2)


class Killed(Exception):
    """Stands for the process ending between two saves."""


@pytest.mark.usefixtures("quick")
def test_a_world_is_pretrained_killed_and_resumed_and_keeps_the_contract(data, tmp_path, monkeypatch):
    """The weights are byte for byte those of a run that was left alone."""

    def run(out: Path, **options) -> Path:
        module.pretrain(BLUEPRINT, data, out, minutes_autoencoder=0, minutes_world=0, **options)
        return out

    whole = run(tmp_path / "whole")
    loss = module.world_loss

    def dies(*args):
        if (tmp_path / "killed" / "world.state.safetensors").exists():
            raise Killed
        return loss(*args)

    monkeypatch.setattr(module, "world_loss", dies)
    with pytest.raises(Killed):
        run(tmp_path / "killed")
    monkeypatch.setattr(module, "world_loss", loss)
    with pytest.raises(UserError, match="resume with --resume"):
        run(tmp_path / "killed")
    resumed = run(tmp_path / "killed", resume=True)
    names = (BLUEPRINT.weights.autoencoder, BLUEPRINT.weights.net)
    assert [(whole / name).read_bytes() for name in names] == [
        (resumed / name).read_bytes() for name in names
    ]
    rows = {stage: (whole / f"{stage}.jsonl").read_text().splitlines() for stage in STAGES}
    assert all(json.loads(found[-1])["step"] == 2 for found in rows.values())
    measures = module.measure(BLUEPRINT, data, resumed)
    assert measures.one_chunk_psnr == pytest.approx(json.loads(rows["world"][-1])["psnr"], abs=0.05)
    world = module.load_world(BLUEPRINT, resumed)
    assert imagine_video(world, scenarios(8), num_steps=2).shape == (2, 29, 3, 16, 16)
    for modulation in (block.modulation for block in world.net.blocks):
        nn.init.normal_(modulation.weight, std=0.1)  # after two steps, commands hardly matter yet
    check_world_model(world, scenarios(20))


def test_an_encoding_that_was_killed_counts_for_nothing(world, data, tmp_path, monkeypatch):
    cache = tmp_path / "latents.safetensors"

    def half(path, tensors, metadata=None):
        path.write_bytes(b"half")
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(
            "worldcompass.runs.atomic.save_file", lambda tensors, path, metadata: half(path, tensors)
        )
        with pytest.raises(Killed):
            encode_dataset(BLUEPRINT, world, data, "train", cache)
    assert not cache.exists()
    made = encode_dataset(BLUEPRINT, world, data, "train", cache)
    stamp = cache.stat().st_mtime_ns
    again = encode_dataset(BLUEPRINT, world, data, "train", cache)
    assert again.latents_EMCHW.equal(made.latents_EMCHW)
    assert again.actions.values_KTA.equal(made.actions.values_KTA) and cache.stat().st_mtime_ns == stamp


def test_an_encoding_by_other_weights_is_made_again(world, data, tmp_path):
    """A longer training of the autoencoder changes what latents mean."""
    cache = tmp_path / "latents.safetensors"
    save_file({"latents": torch.zeros(1), "labels": torch.zeros(1)}, cache)
    first = encode_dataset(BLUEPRINT, world, data, "train", cache)
    assert first.latents_EMCHW.shape == (4, 20, 6, 4, 4)
    other = random_world()
    nn.init.zeros_(other.autoencoder.linear_encoder.weight)
    assert not encode_dataset(BLUEPRINT, other, data, "train", cache).latents_EMCHW.equal(first.latents_EMCHW)
    assert encode_dataset(BLUEPRINT, world, data, "train", cache).latents_EMCHW.equal(first.latents_EMCHW)


def test_recordings_in_which_nothing_moves_cannot_be_measured(world, data, monkeypatch):
    def still(episode):
        actions = BLUEPRINT.actions_of(episode)
        return replace(actions, values_KTA=torch.zeros_like(actions.values_KTA))

    monkeypatch.setattr("worldcompass.worlds.small.pretraining.measures.MOST_TRIES", 5)
    with pytest.raises(UserError, match="hardly any held-out video has 4 latents in a row with a command"):
        module.one_chunk_psnr(replace(BLUEPRINT, actions_of=still), world, data)


def test_pictures_come_with_the_truth_of_their_own_latent(data):
    def position(episode, latent):
        return (np.array(np.argwhere(episode.frames_Fhw3[4 * latent, ..., 0] > 100)[0]),)

    shards = module.load(data, "train", FORMAT)
    pictures = draw_pictures(replace(BLUEPRINT, truth_of=position), shards, np.random.default_rng(0))
    (corner_B2,) = pictures.truth
    for frame, (row, column) in zip(pictures.frames_B3hw, corner_B2.tolist(), strict=True):
        assert (frame[0, row : row + 5, column : column + 5] > 0.8).all() and (frame[0] > 0.8).sum() == 25


@pytest.mark.parametrize("chunk", [1, 4])
def test_rows_see_themselves_and_earlier_clean_chunks_only(chunk):
    """Values that name their chunk and version show what attention reads."""
    layout = Layout.of(12 // chunk, 4 // chunk, copies=2)
    names = [10 * c + v for c, v in layout.rows]
    value = torch.tensor(names).float().view(-1, 1, 1, 1)
    seen = layout.attend(1)(0, torch.zeros_like(value), torch.zeros_like(value), value).flatten()
    for (at, _), name, mean in zip(layout.rows, names, seen.tolist(), strict=True):
        expected = [10 * c for c in range(at)] + [name]
        assert mean == pytest.approx(np.mean(expected))


def test_sequences_have_the_commands_that_led_to_each_latent(world):
    """A video that begins in the middle of an episode begins at rest; a memory comes before what is recent."""
    numbers = torch.arange(1, 101).view(5, 20, 1, 1)  # of episodes in twenties
    numbered = Latents(
        numbers[..., None].expand(-1, -1, *SPEC.latent_shape).half(), ControlValues(numbers.float())
    )
    kinds = set()
    for seed in range(8):
        batch = draw_batch(BLUEPRINT, world, numbered, np.random.default_rng(seed), 3)
        number = batch.clean_BMCHW[:, :, 0, 0, 0]
        last = last_actions(world, batch)
        (value,) = (x[..., 0] for x in commands_of(world, batch.actions, last, 4))
        assert last.flat_KA[:, 5:, 0].equal(number[:, 5:] - 1)
        assert last.latents(0, 5).flat_KA[:, ::4].equal(batch.entry.flat_KA)
        assert value[:, 1:].equal(number[:, 1:]) and value[:, 0].any() == (not batch.starts)
        steps, entry = number.diff(dim=1), batch.entry_B2CHW[:, :, 0, 0, 0]
        assert (steps[:, :3] == 1).all() and (steps[:, 4:] == 1).all()
        assert (steps[:, 3] == 1).all() if batch.starts else (steps[:, 3] >= 1).all()
        assert entry.equal(torch.stack([number[:, 0] - int(not batch.starts), number[:, 4] - 1], 1))
        assert batch.entry.flat_KA[..., 0].equal(entry)
        kinds.add(batch.starts)
    assert kinds == {True, False}


@pytest.mark.parametrize("seed", [0, 3])
def test_blurred_pasts_lose_edges_and_keep_the_start_and_the_target(seed, latents):
    torch.manual_seed(0)
    net = Autoencoder(WIDE).eval()
    net.start_linear(smooth_frames(6)[..., :64])
    world = random_world()
    batch = draw_batch(BLUEPRINT, world, latents, np.random.default_rng(seed), 4)
    with torch.no_grad():
        latent = net.encode(smooth_frames(48)[..., :64]).unflatten(0, (4, 12))
    batch = replace(batch, clean_BMCHW=latent, past_BMCHW=latent, entry_B2CHW=latent[:, :2])
    blurred = blur_past(BLUEPRINT, BouncingWorld(net, world.net), batch, np.random.default_rng(0))
    assert blurred.worn and blurred.clean_BMCHW.equal(latent)
    with torch.no_grad():
        pictures = [
            net.picture(x.flatten(0, 1))[0].unflatten(0, (4, 12)) for x in (latent, blurred.past_BMCHW)
        ]
    before, after = (p.diff(dim=-1).abs().mean((-3, -2, -1)) for p in pictures)
    assert (after[:, 1:] < before[:, 1:]).all()
    assert (pictures[0].mean((-2, -1)) - pictures[1].mean((-2, -1))).abs().max() < 0.01
    assert blurred.past_BMCHW[:, 0].equal(latent[:, 0]) == batch.starts
    assert blurred.entry_B2CHW[:, 0].equal(latent[:, 0]) == batch.starts


def test_an_imagined_past_is_what_the_world_itself_imagines(latents, data):
    """The first chunk after the start image, against the contract's own rollout with the same noise."""
    world = random_world()
    nn.init.normal_(world.net.head.weight, std=0.05)
    batch = next(
        b
        for seed in range(9)
        if (b := draw_batch(BLUEPRINT, world, latents, np.random.default_rng(seed), 3)).starts
    )
    worn = imagine_past(BLUEPRINT, world, batch, 4, generator_for("past"))
    assert worn.worn and worn.clean_BMCHW.equal(batch.clean_BMCHW)
    assert worn.past_BMCHW[:, 0].equal(batch.clean_BMCHW[:, 0])
    assert worn.entry_B2CHW[:, 1].equal(worn.past_BMCHW[:, 3])
    noise = torch.randn(batch.clean_BMCHW.transpose(1, 2).shape, generator=generator_for("past"))[:, :, :4]
    part = batch.actions.latents(0, 4)
    context = SmallContext(batch.clean_BMCHW[:, 0], batch.actions.latents(0, 1))
    attended = world.attend(context, part)
    clean = imagine_chunk(world, attended, part, lambda step: noise, SPEC.schedule.sigmas(2))
    torch.testing.assert_close(worn.past_BMCHW[:, :4], clean.transpose(1, 2), rtol=1e-4, atol=1e-4)


def test_a_memory_stays_exact_when_a_past_is_imagined(latents):
    world = random_world()
    batch = next(
        b
        for seed in range(9)
        if not (b := draw_batch(BLUEPRINT, world, latents, np.random.default_rng(seed), 3)).starts
    )
    worn = imagine_past(BLUEPRINT, world, batch, 4, generator_for("past"))
    assert worn.past_BMCHW[:, :4].equal(batch.clean_BMCHW[:, :4])
    assert worn.entry_B2CHW.equal(batch.entry_B2CHW)
    assert not worn.past_BMCHW[:, 4:].isclose(batch.clean_BMCHW[:, 4:]).any(dim=(2, 3, 4)).all()


def test_what_is_seen_after_a_blurred_past_is_blurred_and_what_is_asked_for_is_not(latents):
    """The loss of a network that gives zero is that of the sharp target, whatever the past."""
    world = random_world()
    for layer in (world.net.head.weight, world.net.head.bias):
        nn.init.zeros_(layer)
    batch = draw_batch(BLUEPRINT, world, latents, np.random.default_rng(0), 4)
    pasts = [replace(batch, past_BMCHW=scale * batch.past_BMCHW, worn=True) for scale in (1, 0)]
    full, empty = (world_loss(BLUEPRINT, world, b, 4, generator_for(0)).item() for b in pasts)
    assert full == empty
    nn.init.normal_(world.net.head.weight, std=0.05)
    full, empty = (world_loss(BLUEPRINT, world, b, 4, generator_for(0)).item() for b in pasts)
    assert full != empty


def test_fine_noise_levels_are_drawn_as_often_as_said(world):
    teaching = BLUEPRINT.teaching
    levels = noise_levels(teaching, world, 2000, 4, 4, generator_for(0))
    assert levels.min() >= 0.02 and levels.max() < 1
    usual_below = 0.19  # of the logit-normal levels, by its distribution
    expected = teaching.fine_share + (1 - teaching.fine_share) * usual_below
    assert (levels[:, 0] < teaching.fine_levels[1]).float().mean().item() == pytest.approx(expected, abs=0.05)


def test_as_many_levels_are_noise_alone_as_said(world):
    levels = noise_levels(replace(BLUEPRINT.teaching, whole_share=0.3), world, 2000, 4, 4, generator_for(0))
    assert (levels[:, 0] == 1).float().mean().item() == pytest.approx(0.3, abs=0.05)


def test_world_loss_starts_at_the_variance_of_the_target(latents):
    """A new network predicts zero velocity; its loss is E|noise - clean|^2 = 2 for unit latents."""
    world = BouncingWorld(autoencoder := Autoencoder(CODE), BLUEPRINT.net(autoencoder))
    nn.init.zeros_(world.net.head.bias)
    unit = replace(
        latents, latents_EMCHW=torch.randn(latents.latents_EMCHW.shape, generator=generator_for(1))
    )
    batch = draw_batch(BLUEPRINT, world, unit, np.random.default_rng(0), 8)
    assert abs(world_loss(BLUEPRINT, world, batch, 4, generator_for(0)).item() - 2) < 0.1


def smooth_frames(count: int) -> torch.Tensor:
    """Random pictures (B, 3, 48, 96) with structure at several scales."""
    generator = torch.Generator().manual_seed(0)
    sizes = ((6, 12), (24, 48))
    parts = [
        interpolate(torch.rand(count, 3, *size, generator=generator), (48, 96), mode="bilinear")
        for size in sizes
    ]
    return torch.stack(parts).mean(0)


def test_the_autoencoder_begins_as_the_best_linear_code():
    frames = smooth_frames(6)[..., :64]
    net = Autoencoder(WIDE).eval()
    net.start_linear(frames)
    cells = pixel_unshuffle(frames - 0.5, 8).movedim(1, -1).flatten(0, -2).double().numpy()
    mean = cells.mean(0)
    axes = np.linalg.svd(cells - mean, full_matrices=False)[2][: net.config.channels]
    expected = (cells - mean) @ axes.T @ axes + mean
    with torch.no_grad():
        pictures, _ = net.picture(net.encode(frames))
    found = pixel_unshuffle(pictures - 0.5, 8).movedim(1, -1).flatten(0, -2).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_frames_between_fade_from_one_picture_to_the_next(data, world):
    frames = to_unit(module.load(data, "train", FORMAT)[0][0].frames_Fhw3[:9])[None]
    with torch.no_grad():
        latents = world.autoencoder.encode_video(frames)
        video = world.autoencoder.decode_chunk(latents, None)[0]
    assert video.shape[0] == SPEC.num_frames(0, 3)
    torch.testing.assert_close(video[5], torch.lerp(video[4], video[8], 0.25))


@pytest.mark.parametrize("stage", [picture_loss, decoder_loss])
def test_a_few_steps_of_each_stage_lower_its_loss(stage):
    torch.manual_seed(0)
    net = Autoencoder(WIDE)
    net.train(stage is picture_loss)
    frames = torch.cat([smooth_frames(2)[..., shift : shift + 64] for shift in (0, 8, 16)])
    net.start_linear(frames)
    code = {name: value.clone() for name, value in net.encoder.state_dict().items()}
    optimiser = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0)
    losses = []
    for step in range(8):
        loss = stage(net, Pictures(frames), generator_for("test", step))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.97 * losses[0]
    same = all(value.equal(code[name]) for name, value in net.encoder.state_dict().items())
    assert same == (stage is decoder_loss)
