"""Pretraining of the Doom world: teaching equals imagining, depth is learned, the command makes weights."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate

from worldcompass.cli import main
from worldcompass.errors import UserError
from worldcompass.seeding import generator_for
from worldcompass.types import CameraMoves
from worldcompass.worlds.doom.network.autoencoder import CODE, DoomAutoencoder
from worldcompass.worlds.doom.network.transformer import CONFIG, DoomTransformer
from worldcompass.worlds.doom.pretraining import BLUEPRINT, depth_loss
from worldcompass.worlds.doom.world import WEIGHTS, DoomWorld, load_doom_world
from worldcompass.worlds.small.context import SmallContext
from worldcompass.worlds.small.pretraining.loss import (
    Layout,
    commands_of,
    last_actions,
    rotary_of_rows,
    views_of,
)
from worldcompass.worlds.small.pretraining.pictures import Pictures
from worldcompass.worlds.small.pretraining.pretrain import pretrain
from worldcompass.worlds.small.pretraining.sequences import Latents, draw_batch

STAGES = ("autoencoder", "decoder", "depth", "world")


@pytest.fixture(scope="module")
def latents() -> Latents:
    torch.manual_seed(0)
    labels, poses = torch.randint(0, 81, (2, 30)), torch.eye(4).expand(2, 30, 4, 4).clone()
    return Latents(torch.randn(2, 30, 24, 6, 8).half(), CameraMoves(labels, poses, torch.ones(2, 30, 4)))


def test_one_pass_over_a_sequence_equals_the_chunk_after_its_past(latents):
    """The teacher-forced pass and the adapter's cached pass are the same function."""
    torch.manual_seed(1)
    net = DoomTransformer(replace(CONFIG, width=96, depth=2))
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    world = DoomWorld(DoomAutoencoder(), net)
    for layer in (world.autoencoder.to_pixels, world.autoencoder.depth.nearness):
        nn.init.normal_(layer.weight, std=0.05)  # so that what is seen from elsewhere differs
    batch = draw_batch(BLUEPRINT, world, latents, np.random.default_rng(3), 2)
    assert batch.starts
    clean, actions = batch.clean_BMCHW.transpose(1, 2), batch.actions
    layout = Layout.of(3, 0, copies=2)
    sigma = torch.full((2, 4), 0.6)
    noisy = torch.randn_like(clean[:, :, :4])
    rows = {0: lambda c: clean[:, :, 4 * c : 4 * c + 4], 1: lambda c: noisy, 2: lambda c: noisy}
    with torch.no_grad():
        # Finished latents declare the level that the adapter gives them; the start image declares none.
        own = world.memory.sigma
        levels = [
            torch.where(torch.arange(4) + 4 * c > 0, own, 0.0).expand(2, 4) if v == 0 else sigma
            for c, v in layout.rows
        ]
        before = [clean[:, :, 0] if c == 0 else clean[:, :, 4 * c - 1] for c, _ in layout.rows]
        ends = torch.stack([clean[:, :, 0], clean[:, :, 3], clean[:, :, 7]], 2)
        before_each = last_actions(world, batch)
        command = commands_of(world, actions, before_each, 4)
        seen = views_of(world, ends, clean, actions, before_each, starts=True)
        joint, _ = net(
            torch.cat([rows[v](c) for c, v in layout.rows]), torch.cat(levels),
            tuple(layout.repeat(x, 1, 4) for x in command), torch.cat(before), layout.repeat(seen, 2, 4),
            rotary=rotary_of_rows(world, actions, layout, 4), attend=layout.attend(2),
        )  # fmt: skip
        context = SmallContext(clean[:, :, 0], actions.latents(0, 1))
        for chunk in range(2):
            part = actions.latents(4 * chunk, 4 * chunk + 4)
            context = world.remember(
                world.attend(context, part), clean[:, :, 4 * chunk : 4 * chunk + 4], part
            )
        last = actions.latents(8, 12)
        predicted = world.predict_clean(noisy, sigma[:, 0], last, world.attend(context, last))
    expected = noisy - 0.6 * joint[-2:]
    torch.testing.assert_close(predicted, expected, atol=1e-4, rtol=1e-4)


def test_frames_between_belong_to_a_pair_alone():
    """A chunk decoded after its past equals the same chunk of the whole video."""
    torch.manual_seed(0)
    net = DoomAutoencoder().eval()
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    latents = torch.randn(2, CODE.channels, 6, *CODE.latent_shape[1:])
    with torch.no_grad():
        whole = net.decode_chunk(latents, None)
        parts = [
            net.decode_chunk(latents[:, :, :1], None),
            net.decode_chunk(latents[:, :, 1:4], net.look(latents[:, :, 0])),
        ]
        parts.append(net.decode_chunk(latents[:, :, 4:], net.look(latents[:, :, 3])))
    assert whole.shape[1] == 21
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-4, rtol=0)


def test_a_few_steps_of_depth_lower_its_loss_and_leave_the_code():
    torch.manual_seed(0)
    net = DoomAutoencoder().eval()
    wide = interpolate(torch.rand(6, 3, 6, 8), (48, 64), mode="bilinear")
    near = 0.1 + 0.4 * torch.rand(6, 1, 1).expand(-1, 24, 32)
    net.start_linear(wide)
    code = {name: value.clone() for name, value in net.encoder.state_dict().items()}
    optimiser = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0)
    losses = []
    for step in range(8):
        loss = depth_loss(net, Pictures(wide, (near, torch.ones(6))), generator_for("test", step))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.97 * losses[0]
    assert all(value.equal(code[name]) for name, value in net.encoder.state_dict().items())


def test_the_command_makes_weights_that_the_world_takes(dataset, tmp_path, monkeypatch, capsys):
    """``doom pretrain`` for real, two steps a stage; a second start asks for --resume."""
    monkeypatch.setattr("worldcompass.training.stage.MEASURED_STEPS", 1)
    for name, number in (("LINEAR_FRAMES", 64), ("LEAST_PICTURES", 4)):
        monkeypatch.setattr(f"worldcompass.worlds.small.pretraining.autoencoder.{name}", number)
    for module in ("small.pretraining.measures", "doom.pretraining"):
        monkeypatch.setattr(f"worldcompass.worlds.{module}.MEASURED_VIDEOS", 2)
    quick = replace(BLUEPRINT, teaching=replace(BLUEPRINT.teaching, sequences=1))
    monkeypatch.setattr("worldcompass.worlds.doom.pretraining.BLUEPRINT", quick)
    data, out = dataset, tmp_path / "pretrain"
    short = ["--minutes-autoencoder", "1e-9", "--minutes-world", "1e-9", "--device", "cpu"]
    words = ["doom", "pretrain", "--data", str(data), "--out", str(out), *short]
    assert main(words) == 0
    rows = {stage: json.loads((out / f"{stage}.jsonl").read_text()) for stage in STAGES}
    assert all(rows[stage]["step"] == 2 and rows[stage]["psnr"] > 10 for stage in STAGES)
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [p["sha256"] for p in printed] == [
        hashlib.sha256((out / name).read_bytes()).hexdigest() for name in (WEIGHTS.autoencoder, WEIGHTS.net)
    ]
    world = load_doom_world(out)
    assert not world.net.blocks[0].modulation.weight.equal(load_doom_world().net.blocks[0].modulation.weight)
    with pytest.raises(UserError, match="--resume"):
        pretrain(quick, data, out)
    assert main([*words, "--resume"]) == 0  # nothing is left to do
    assert {stage: json.loads((out / f"{stage}.jsonl").read_text()) for stage in STAGES} == rows
    capsys.readouterr()
    assert main(["doom", "measure", "--data", str(data), "--weights", str(out)]) == 0
    printed = capsys.readouterr().out  # of weights rounded to 16 bits, so the same within 0.02 dB
    measured = [float(x) for x in re.findall(r"(-?[\d.]+) dB", printed)]
    logged = rows["depth"]["psnr"], rows["world"]["psnr"], rows["world"]["psnr_of_last_frame"]
    assert measured[:3] == pytest.approx(logged, abs=0.02)
    assert main(["doom", "measure", "--data", str(data), "--weights", str(data)]) == 2
    assert str(data) in capsys.readouterr().err
