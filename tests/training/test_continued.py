"""Continued pretraining: what a step trains on, what it costs, where it leads, and what it needs."""

import pytest
import torch
from toy_runs import TINY, critics
from toy_truth import ideal_engine, with_truth

from worldcompass.errors import UserError
from worldcompass.geometry import motion_signs
from worldcompass.reachable import true_frames
from worldcompass.rollout import RolloutRequest
from worldcompass.runs.metrics import read_metrics
from worldcompass.toy import ToyWorld, toy_scenarios
from worldcompass.training.continued import recorded_rows
from worldcompass.training.loop import train
from worldcompass.training.objective import nft_loss
from worldcompass.training.rivals import flow_matching_loss

pytestmark = pytest.mark.usefixtures("one_thread")
RECORDED = TINY.changed(teacher="recordings", objective=flow_matching_loss)


@pytest.fixture(scope="module")
def known():
    return with_truth(ideal_engine(), toy_scenarios(6))


def far_from_the_engine(world):
    """How far the response to every action is from that of the engine."""
    signs = motion_signs(torch.arange(81)[None])
    return float((world.net(signs) - ideal_engine().net(signs)).square().mean().detach())


def test_the_loss_is_the_mean_squared_error_of_the_velocity():
    generator = torch.Generator().manual_seed(0)
    v, noise, x0 = (torch.randn(3, 2, 4, 2, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    s = torch.tensor([0.9, 0.5, 0.1]).double().view(-1, 1, 1, 1, 1)
    v.requires_grad_()
    ours, _ = flow_matching_loss(((1 - s) * x0 + s * noise - s * v) / s, v, x0 / s, torch.ones(3), 1.0)
    theirs = torch.stack([((v[i] - (noise[i] - x0[i])) ** 2).mean() for i in range(3)])
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(x.sum(), v)[0] for x in (ours, theirs)))


def test_rows_are_the_recorded_chunk_with_noise_of_its_own_in_every_row(known):
    world = ToyWorld()
    request = RolloutRequest(known[:2], 1, 4, 4, (0, 1), world.spec.sigmas())
    updates, passes = recorded_rows(world, request, 6, 2, 4)
    assert [[len(rows.sigma_B) for rows in part] for part in updates] == [[4, 2], [4, 2]]
    assert passes == 4  # prefixes of two scenarios: of the recorded chunk, and before the trained one
    clean = world.encode(true_frames(world, known[:2], 8))[:, :, 4:8]
    allowed = set(world.spec.sigmas()[:-1].tolist())
    seen = []
    for rows in (rows for part in updates for rows in part):
        per_past = len(rows.sigma_B) // 2
        assert set(rows.sigma_B.tolist()) <= allowed and torch.equal(rows.unit_B, rows.sigma_B)
        assert torch.equal(rows.clean_BCKHW, clean.repeat_interleave(per_past, 0))
        s = rows.sigma_B.view(-1, 1, 1, 1, 1)
        seen += [*((rows.noisy_BCKHW - (1 - s) * rows.clean_BCKHW) / s)]
        assert torch.equal(rows.context.latents_PCMHW, world.encode(true_frames(world, known[:2], 4)))
    assert len(seen) == 12
    assert all((a - b).abs().max() > 0.1 for i, a in enumerate(seen) for b in seen[:i])


def test_it_leads_to_the_engine_and_asks_no_critic(known, tmp_path):
    class Counting:
        name, calls = "counting", 0

        def __call__(self, group):
            self.calls += 1
            return critics()[0](group)

    world, counting = ToyWorld(), Counting()
    before = far_from_the_engine(world)
    train(world, [counting], known, RECORDED.changed(steps=20), tmp_path)
    assert counting.calls == 1  # the check before the first step
    assert far_from_the_engine(world) < before / 4
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert len(rows) == 20 and rows[0].rewards == {} and rows[0].objective.keys() == {"error"}


def test_a_step_counts_the_passes_of_pasts_and_updates(known, tmp_path):
    train(ToyWorld(), critics(), known, RECORDED.changed(steps=2), tmp_path / "recorded")
    train(ToyWorld(), critics(), known, TINY.changed(steps=2), tmp_path / "rewards")
    recorded, rewards = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("recorded", "rewards"))
    rows = 2 * 2 * 3  # scenarios, candidates, levels
    first = rows // 2  # one micro-batch of the first update, whose distance from the start is measured
    assert [m.forward_passes for m in recorded] == [0, 4]
    assert [m.update_passes for m in recorded] == [3 * rows + first] * 2
    assert [m.update_passes for m in rewards] == [(1 + 3) * rows + first] * 2


def test_a_resumed_run_equals_the_uninterrupted_one(known, tmp_path):
    straight = train(ToyWorld(), critics(), known, RECORDED, tmp_path / "a").state()
    train(ToyWorld(), critics(), known, RECORDED.changed(steps=2), tmp_path / "b")
    again = train(ToyWorld(), critics(), known, RECORDED, tmp_path / "b", resume=True).state()
    assert all(torch.equal(straight[name], again[name]) for name in straight)


def test_what_it_lacks_is_said(tmp_path):
    with pytest.raises(ValueError, match="teacher=recordings and flow_matching_loss need each other"):
        RECORDED.changed(objective=nft_loss)
    with pytest.raises(ValueError, match="teacher=recordings needs data_share=0"):
        RECORDED.changed(data_share=0.1, true_pasts=0.5)
    with pytest.raises(UserError, match="teacher=recordings needs 15 frames of the engine's continuation"):
        train(ToyWorld(), critics(), toy_scenarios(4), RECORDED, tmp_path)
