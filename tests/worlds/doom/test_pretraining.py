"""Pretraining: its masks let nothing leak from the future, its stages resume, its noise levels are right."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate, pixel_unshuffle

from worldcompass.cli import main
from worldcompass.errors import UserError
from worldcompass.seeding import generator_for
from worldcompass.training.optim import adamw
from worldcompass.types import CameraMoves
from worldcompass.worlds.doom.engine import collect
from worldcompass.worlds.doom.network.autoencoder import LATENT_CHANNELS, LATENT_SHAPE, Autoencoder
from worldcompass.worlds.doom.network.transformer import DoomTransformer
from worldcompass.worlds.doom.pretraining.autoencoder import Pictures, decoder_loss, depth_loss, picture_loss
from worldcompass.worlds.doom.pretraining.pretrain import pretrain
from worldcompass.worlds.doom.pretraining.stage import Stage, StageRun, learning_rate
from worldcompass.worlds.doom.pretraining.transformer import (
    CHUNK,
    CHUNKS,
    FINE_LEVELS,
    FINE_SHARE,
    Latents,
    Layout,
    _noise_levels,
    _rotary,
    _seen,
    blur_past,
    draw_batch,
    world_loss,
)
from worldcompass.worlds.doom.world import (
    AUTOENCODER_FILE,
    CONTEXT_SIGMA,
    WORLD_FILE,
    DoomContext,
    DoomWorld,
    load_doom_world,
)

STAGES = ("autoencoder", "decoder", "depth", "world")


@pytest.fixture(scope="module")
def latents() -> Latents:
    torch.manual_seed(0)
    return Latents(
        torch.randn(2, 30, 24, 6, 8).half(),
        torch.randint(0, 81, (2, 30)),
        torch.eye(4).expand(2, 30, 4, 4).clone(),
    )


@pytest.mark.parametrize("chunk", [1, 4])
def test_rows_see_themselves_and_earlier_clean_chunks_only(chunk):
    """Values that name their chunk and version show what attention reads."""
    layout = Layout.of(CHUNKS * CHUNK // chunk, CHUNK // chunk)
    names = [10 * c + v for c, v in layout.rows]
    value = torch.tensor(names).float().view(-1, 1, 1, 1)
    seen = layout.attend(1)(0, torch.zeros_like(value), torch.zeros_like(value), value).flatten()
    for (at, _), name, mean in zip(layout.rows, names, seen.tolist(), strict=True):
        expected = [10 * c for c in range(at)] + [name]
        assert mean == pytest.approx(np.mean(expected))


def test_one_pass_over_a_sequence_equals_the_chunk_after_its_past(latents):
    """The teacher-forced pass and the adapter's cached pass are the same function."""
    torch.manual_seed(1)
    net = DoomTransformer(width=96, depth=2)
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    world = DoomWorld(Autoencoder(), net)
    for layer in (world.autoencoder.to_pixels, world.autoencoder.depth.nearness):
        nn.init.normal_(layer.weight, std=0.05)  # so that what is seen from elsewhere differs
    batch = draw_batch(latents, np.random.default_rng(3), 2)
    while not batch.starts:
        batch = draw_batch(latents, np.random.default_rng(4), 2)
    clean = batch.clean_BMCHW.transpose(1, 2)
    poses = batch.poses_BM44
    actions = CameraMoves(batch.labels_BM, poses, torch.ones(*poses.shape[:2], 4))
    layout = Layout.of(CHUNKS, 0)
    sigma = torch.full((2, 4), 0.6)
    noisy = torch.randn_like(clean[:, :, :4])
    rows = {0: lambda c: clean[:, :, 4 * c : 4 * c + 4], 1: lambda c: noisy, 2: lambda c: noisy}
    with torch.no_grad():
        # Finished latents declare the level that the adapter gives them; the start image declares none.
        levels = [
            torch.where(torch.arange(4) + 4 * c > 0, CONTEXT_SIGMA, 0.0).expand(2, 4) if v == 0 else sigma
            for c, v in layout.rows
        ]
        before = [clean[:, :, 0] if c == 0 else clean[:, :, 4 * c - 1] for c, _ in layout.rows]
        ends = torch.stack([clean[:, :, 0], clean[:, :, 3], clean[:, :, 7]], 2)
        seen = _seen(world.autoencoder, ends, clean, batch, "cpu")
        joint, _ = net(
            torch.cat([rows[v](c) for c, v in layout.rows]), torch.cat(levels),
            layout.gather([batch.labels_BM] * 3, 1, 4), layout.gather([batch.motion_BM5] * 3, 1, 4),
            torch.cat(before), layout.gather([seen] * 3, 2, 4),
            rotary=_rotary(poses, layout, 4), attend=layout.attend(2),
        )  # fmt: skip
        context = DoomContext(clean[:, :, 0], poses[:, 0])
        for chunk in range(2):
            part = actions.latents(4 * chunk, 4 * chunk + 4)
            context = world.remember(
                world.attend(context, part), clean[:, :, 4 * chunk : 4 * chunk + 4], part
            )
        last = actions.latents(8, 12)
        predicted = world.predict_clean(noisy, sigma[:, 0], last, world.attend(context, last))
    expected = noisy - 0.6 * joint[-2:]
    torch.testing.assert_close(predicted, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("seed", [0, 3])
def test_blurred_pasts_lose_edges_and_keep_the_start_and_the_target(latents, seed):
    torch.manual_seed(0)
    net = Autoencoder().eval()
    net.start_linear(smooth_frames(6)[..., :64])
    batch = draw_batch(latents, np.random.default_rng(seed), 4)
    with torch.no_grad():
        latent = net.encode(smooth_frames(48)[..., :64]).unflatten(0, (4, 12))
    batch = replace(batch, clean_BMCHW=latent, past_BMCHW=latent, entry_B2CHW=latent[:, :2])
    blurred = blur_past(batch, net, np.random.default_rng(0))
    assert blurred.blurred and blurred.clean_BMCHW.equal(latent)
    with torch.no_grad():
        pictures = [
            net.picture(x.flatten(0, 1))[0].unflatten(0, (4, 12)) for x in (latent, blurred.past_BMCHW)
        ]
    before, after = (p.diff(dim=-1).abs().mean((-3, -2, -1)) for p in pictures)
    assert (after[:, 1:] < before[:, 1:]).all()
    assert (pictures[0].mean((-2, -1)) - pictures[1].mean((-2, -1))).abs().max() < 0.01
    assert blurred.past_BMCHW[:, 0].equal(latent[:, 0]) == batch.starts
    assert blurred.entry_B2CHW[:, 0].equal(latent[:, 0]) == batch.starts


def test_what_is_seen_after_a_blurred_past_is_blurred_and_what_is_asked_for_is_not(latents):
    """The loss of a network that gives zero is that of the sharp target, whatever the past."""
    net = DoomTransformer(width=96, depth=1)
    batch = draw_batch(latents, np.random.default_rng(0), 4)
    autoencoder = Autoencoder().eval()
    pasts = [replace(batch, past_BMCHW=scale * batch.past_BMCHW, blurred=True) for scale in (1, 0)]
    full, empty = (world_loss(net, autoencoder, b, 4, generator_for(0), "cpu").item() for b in pasts)
    assert full == empty
    nn.init.normal_(net.head.weight, std=0.05)
    full, empty = (world_loss(net, autoencoder, b, 4, generator_for(0), "cpu").item() for b in pasts)
    assert full != empty


def test_fine_noise_levels_are_drawn_as_often_as_said():
    levels = _noise_levels(2000, CHUNK, CHUNK, generator_for(0))
    assert levels.min() >= 0.02 and levels.max() < 1
    usual_below = 0.19  # of the logit-normal levels, by its distribution
    expected = FINE_SHARE + (1 - FINE_SHARE) * usual_below
    assert (levels[:, 0] < FINE_LEVELS[1]).float().mean().item() == pytest.approx(expected, abs=0.05)


def test_world_loss_starts_at_the_variance_of_the_target(latents):
    """A network that predicts zero velocity has loss E|noise - clean|^2 = 2 for unit latents."""
    net = DoomTransformer(width=96, depth=1)
    batch = draw_batch(latents, np.random.default_rng(0), 4)
    assert abs(world_loss(net, Autoencoder().eval(), batch, 4, generator_for(0), "cpu").item() - 2) < 0.1


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
    net = Autoencoder().eval()
    net.start_linear(frames)
    cells = pixel_unshuffle(frames - 0.5, 8).movedim(1, -1).flatten(0, -2).double().numpy()
    mean = cells.mean(0)
    axes = np.linalg.svd(cells - mean, full_matrices=False)[2][:LATENT_CHANNELS]
    expected = (cells - mean) @ axes.T @ axes + mean
    with torch.no_grad():
        pictures, _ = net.picture(net.encode(frames))
    found = pixel_unshuffle(pictures - 0.5, 8).movedim(1, -1).flatten(0, -2).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_frames_between_belong_to_a_pair_alone():
    """A chunk decoded after its past equals the same chunk of the whole video."""
    torch.manual_seed(0)
    net = Autoencoder().eval()
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    latents = torch.randn(2, LATENT_SHAPE[0], 6, *LATENT_SHAPE[1:])
    with torch.no_grad():
        whole = net.decode_chunk(latents, None)
        parts = [
            net.decode_chunk(latents[:, :, :1], None),
            net.decode_chunk(latents[:, :, 1:4], net.look(latents[:, :, 0])),
        ]
        parts.append(net.decode_chunk(latents[:, :, 4:], net.look(latents[:, :, 3])))
    assert whole.shape[1] == 21
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-4, rtol=0)


@pytest.mark.parametrize("stage", ["code", "decoder", "depth"])
def test_a_few_steps_of_each_stage_lower_its_loss(stage):
    torch.manual_seed(0)
    net = Autoencoder()
    frames = torch.cat([smooth_frames(2)[..., shift : shift + 64] for shift in (0, 8, 16)])
    net.start_linear(frames)
    near = 0.1 + 0.4 * torch.rand(6, 1, 1).expand(-1, 24, 32)
    code = {name: value.clone() for name, value in net.encoder.state_dict().items()}
    optimiser = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0)
    losses = []
    for step in range(8):
        generator = generator_for("test", step)
        if stage == "code":
            loss = picture_loss(net.train(), frames, generator)
        elif stage == "decoder":
            loss = decoder_loss(net.eval(), frames, generator)
        else:
            loss = depth_loss(net.eval(), Pictures(frames, near, torch.ones(6)), generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.97 * losses[0]
    if stage != "code":
        assert all(value.equal(code[name]) for name, value in net.encoder.state_dict().items())


class Killed(Exception):
    """Stands for the process ending between two saves."""


def test_a_stage_that_is_killed_ends_as_if_it_never_was(tmp_path, monkeypatch):
    """Weights after a kill and a resume are bitwise those of a run that was left alone."""
    monkeypatch.setattr(
        "worldcompass.worlds.doom.pretraining.stage.SAVE_SECONDS", -1.0
    )  # save after every step

    def run_to(folder, die_at: int | None) -> nn.Module:
        torch.manual_seed(0)
        run = StageRun(Stage("x", 1, 1e-2, 2), nn.Linear(3, 1), folder, "cpu", adamw)
        run.total = 6
        run.resume()

        def loss_of(step: int) -> torch.Tensor:
            if step == die_at:
                raise Killed
            return run.net(torch.randn(8, 3, generator=generator_for(step))).square().mean()

        return run.run(loss_of, lambda _: {})

    expected = run_to(tmp_path / "a", None)
    with pytest.raises(Killed):
        run_to(tmp_path / "b", 4)
    resumed = run_to(tmp_path / "b", None)
    for a, b in zip(expected.parameters(), resumed.parameters(), strict=True):
        assert a.equal(b)


def test_a_finished_stage_can_be_made_longer(tmp_path):
    """Twice the minutes: twice the steps, from half of the old ones, where the rate had not fallen yet."""
    steps: list[int] = []

    def run_for(minutes: float) -> StageRun:
        torch.manual_seed(0)
        run = StageRun(Stage("x", minutes, 1e-2, 2), nn.Linear(3, 1), tmp_path, "cpu", adamw)
        run.total = 8
        run.resume()

        def loss_of(step: int) -> torch.Tensor:
            steps.append(step)
            return run.net(torch.ones(1, 3)).square().mean()

        run.run(loss_of, lambda _: {})
        return run

    assert run_for(1).step == 8
    assert run_for(1).step == 8 and len(steps) == 8
    assert run_for(2).step == 16 and steps[8] == 4
    assert learning_rate(Stage("x", 2, 1e-2, 2), 7, 16) == 1e-2


def test_the_command_makes_weights_that_the_world_takes(tmp_path, monkeypatch, capsys):
    """``doom collect`` and ``doom pretrain`` for real, two steps a stage; a second start asks for --resume."""
    monkeypatch.setattr("worldcompass.worlds.doom.pretraining.stage.MEASURED_STEPS", 1)
    monkeypatch.setattr("worldcompass.worlds.doom.pretraining.autoencoder.LINEAR_FRAMES", 256)
    for module in ("autoencoder", "transformer"):
        monkeypatch.setattr(f"worldcompass.worlds.doom.pretraining.{module}.MEASURED_VIDEOS", 4)
    data, out = tmp_path / "data", tmp_path / "pretrain"
    collect.collect(data, frames=1, maps=["my_way_home"], workers=1)
    pretrain(data, out, minutes_autoencoder=0, minutes_world=0)
    rows = {stage: json.loads((out / f"{stage}.jsonl").read_text()) for stage in STAGES}
    assert all(rows[stage]["step"] == 2 and rows[stage]["psnr"] > 10 for stage in STAGES)
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [p["sha256"] for p in printed] == [
        hashlib.sha256((out / name).read_bytes()).hexdigest() for name in (AUTOENCODER_FILE, WORLD_FILE)
    ]
    world = load_doom_world(out)
    assert not world.net.blocks[0].modulation.weight.equal(load_doom_world().net.blocks[0].modulation.weight)
    with pytest.raises(UserError, match="--resume"):
        pretrain(data, out)
    pretrain(data, out, minutes_autoencoder=0, minutes_world=0, resume=True)  # nothing is left to do
    assert {stage: json.loads((out / f"{stage}.jsonl").read_text()) for stage in STAGES} == rows
    capsys.readouterr()
    assert main(["doom", "measure", "--data", str(data), "--weights", str(out)]) == 0
    printed = capsys.readouterr().out  # of weights rounded to 16 bits, so the same within 0.02 dB
    measured = [float(x) for x in re.findall(r"(-?[\d.]+) dB", printed)]
    logged = rows["depth"]["psnr"], rows["world"]["psnr"], rows["world"]["psnr_of_last_frame"]
    assert measured[:3] == pytest.approx(logged, abs=0.02)
    assert main(["doom", "measure", "--data", str(data), "--weights", str(data)]) == 2
    assert str(data) in capsys.readouterr().err
