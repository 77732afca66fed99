"""Pretraining: its masks let nothing leak from the future, its stages resume, its noise levels are right."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from worldcompass.doom.autoencoder import Autoencoder
from worldcompass.doom.pretrain_autoencoder import autoencoder_loss
from worldcompass.doom.pretrain_world import (
    CHUNK,
    CHUNKS,
    COPIES,
    Latents,
    attention_mask,
    draw_batch,
    world_loss,
)
from worldcompass.doom.stage import Stage, StageRun
from worldcompass.doom.transformer import TOKENS, DoomTransformer
from worldcompass.optim import adamw
from worldcompass.rollout import generator_for


@pytest.fixture(scope="module")
def latents() -> Latents:
    torch.manual_seed(0)
    return Latents(
        torch.randn(2, 30, 24, 6, 8).half(),
        torch.randn(2, 30, 24, 6, 8).half(),
        torch.randint(0, 81, (2, 30)),
        torch.eye(4).expand(2, 30, 4, 4).clone(),
    )


@pytest.mark.parametrize("chunk", [1, 4])
def test_noisy_chunks_see_themselves_and_earlier_clean_ones_only(chunk):
    length, first = CHUNK * CHUNKS, CHUNK
    mask = attention_mask(chunk, length, first)[::TOKENS, ::TOKENS]
    assert mask.shape == (length + COPIES * (length - first),) * 2
    for copy in range(COPIES):
        for latent in range(first, length):
            row = mask[length + copy * (length - first) + latent - first]
            seen_clean = row[:length].nonzero().flatten().tolist()
            assert seen_clean == list(range(latent // chunk * chunk))
            own = row[length:].nonzero().flatten().tolist()
            start = copy * (length - first) + latent // chunk * chunk - first
            assert own == list(range(start, start + chunk))
    assert not mask[:length, length:].any()


def test_one_pass_over_a_sequence_equals_the_chunk_after_its_past(latents):
    """The teacher-forced pass and the adapter's cached pass are the same function."""
    torch.manual_seed(1)
    net = DoomTransformer(width=128, depth=2, detail=32)
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    clean = latents.moving_EMCHW[:1, :8].float().transpose(1, 2)
    noisy = torch.randn_like(clean[:, :, :4])
    labels, motion, zero = latents.labels_EM[:1, :12], torch.randn(1, 12, 5), torch.zeros(1, 8)
    before = torch.cat(
        [clean[:, :, :1].expand(-1, -1, 4, -1, -1), clean[:, :, 3:4].expand(-1, -1, 4, -1, -1)], 2
    )
    with torch.no_grad():
        last = clean[:, :, 7]
        mask = torch.ones(12, 12).tril().bool() | torch.block_diag(*[torch.ones(4, 4)] * 3).bool()
        joint, _ = net(
            torch.cat([clean, noisy], 2), torch.cat([zero, torch.full((1, 4), 0.6)], 1), labels, motion,
            torch.cat([before, last[:, :, None].expand(-1, -1, 4, -1, -1)], 2),
            positions_K=torch.arange(12.0), mask=mask.repeat_interleave(TOKENS, 0).repeat_interleave(TOKENS, 1),
        )  # fmt: skip
        _, keys_0 = net(clean[:, :, :4], zero[:, :4], labels[:, :4], motion[:, :4], before[:, :, 0],
                        positions_K=torch.arange(4.0), keep_keys=True)  # fmt: skip
        first = (keys_0, torch.arange(4.0))
        _, keys_1 = net(clean[:, :, 4:], zero[:, :4], labels[:, 4:8], motion[:, 4:8], before[:, :, 4],
                        positions_K=torch.arange(4.0, 8.0), prefix=first, keep_keys=True)  # fmt: skip
        keys = [
            tuple(torch.cat(pair, 2) for pair in zip(a, b, strict=True))
            for a, b in zip(keys_0, keys_1, strict=True)
        ]
        cached, _ = net(noisy, torch.full((1, 4), 0.6), labels[:, 8:], motion[:, 8:], last,
                        positions_K=torch.arange(8.0, 12.0), prefix=(keys, torch.arange(8.0)))  # fmt: skip
    torch.testing.assert_close(joint[:, :, 8:], cached, atol=1e-4, rtol=1e-4)


def test_world_loss_starts_at_the_variance_of_the_target(latents):
    """A network that predicts zero velocity has loss E|noise - clean|^2 = 2 for unit latents."""
    net = DoomTransformer(width=128, depth=1, detail=32)
    batch = draw_batch(latents, np.random.default_rng(0), 4)
    assert abs(world_loss(net, batch, 4, generator_for(0), "cpu").item() - 2) < 0.1


def test_a_few_steps_of_the_autoencoder_lower_its_loss():
    torch.manual_seed(0)
    net = Autoencoder()
    frames = torch.rand(1, 1, 1, 3, 48, 64).expand(2, 4, 4, -1, -1, -1)
    optimiser = torch.optim.AdamW(net.parameters(), 1e-3)
    losses = []
    for step in range(6):
        loss = autoencoder_loss(net.train(), frames, generator_for("test", step))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


class Killed(Exception):
    """Stands for the process ending between two saves."""


def test_a_stage_that_is_killed_ends_as_if_it_never_was(tmp_path, monkeypatch):
    """Weights after a kill and a resume are bitwise those of a run that was left alone."""
    monkeypatch.setattr("worldcompass.doom.stage.SAVE_SECONDS", -1.0)  # save after every step

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
