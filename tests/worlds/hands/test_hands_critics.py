"""The critics of Hands keep the contract, prefer the engine's clips to wrong ones, and pay nothing for noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hands_clips import beside, group_of

from worldcompass.critic import Critic
from worldcompass.errors import UserError
from worldcompass.testing import check_critic, noise_group
from worldcompass.types import ControlValues, Group
from worldcompass.worlds.hands.collect import record_episode
from worldcompass.worlds.hands.critic_training import fit
from worldcompass.worlds.hands.critic_training.drawn import drawn
from worldcompass.worlds.hands.critic_training.faults import erased, mask_of, spoilt_clip
from worldcompass.worlds.hands.critic_training.fit import train_critics
from worldcompass.worlds.hands.critic_training.report import mushed_clips
from worldcompass.worlds.hands.critics.following import GripperReader, nearness_by
from worldcompass.worlds.hands.critics.reader import GRID, SceneReader, above, seen_of
from worldcompass.worlds.hands.critics.weights import COMMAND, JUDGE, READER, load_judge, load_reader
from worldcompass.worlds.hands.facts import NOMINAL, THINGS
from worldcompass.worlds.hands.footage import scene_of, shipped, shipped_scenarios
from worldcompass.worlds.hands.rewards.instruction import InstructionFollowing
from worldcompass.worlds.hands.rewards.interaction import GripperFollowing
from worldcompass.worlds.hands.rewards.objects import Grasp, Passivity, Permanence
from worldcompass.worlds.hands.tasks import PICK, Instruction
from worldcompass.worlds.hands.view import project
from worldcompass.worlds.hands.world import SPEC, load_hands_world, shipped_weights

MAKERS = (GripperFollowing, Permanence, Passivity, Grasp, InstructionFollowing)


@pytest.mark.parametrize("make", MAKERS)
def test_untrained_critics_keep_the_contract(make):
    critic = make(SceneReader().eval())
    assert isinstance(critic, Critic)
    check_critic(critic, noise_group(spec=SPEC))


@pytest.mark.parametrize("make", MAKERS)
def test_trained_critics_keep_the_contract_on_the_engine_s_clips(make):
    group = group_of("errands", 0, 3)
    check_critic(make(), beside(group, group.frames_GF3hw[0].flip(0), group.frames_GF3hw[0].flip(-1)))


def test_pixels_and_heights_lead_back_to_points_of_the_world():
    points = torch.tensor([[0.1, -0.1, 0.05], [-0.2, 0.15, 0.12]])
    pixels = torch.from_numpy(project(points.numpy())).float()
    torch.testing.assert_close(above(pixels, points[:, 2]), points, atol=1e-4, rtol=0)


def test_a_spot_is_read_at_its_place_and_a_second_one_counts_as_more():
    reader = SceneReader().eval()
    maps = reader(torch.zeros(1, 3, 64, 64))
    rows, columns = (torch.arange(size).float() for size in GRID)

    def spot(row, column):
        near = (columns - column).square()[None] + (rows - row).square()[:, None]
        return (-near / (2 * 0.7**2)).exp()

    one, two = spot(5.3, 8.0), (spot(5.3, 8.0) + spot(12, 3)).clamp(max=1)
    spots = torch.stack([one, two, 0 * one, one])[None].clamp(1e-4, 1 - 1e-4)
    seen = seen_of(type(maps)(**{**vars(maps), "spots_NTyx": spots.logit()}))
    assert seen.pixel_NT2[0, 0].tolist() == pytest.approx([33.5, 22.7], abs=0.3)
    assert seen.there_NT[0].tolist() == pytest.approx([1, 1, 0, 1], abs=0.1)
    assert seen.more_NT[0, 1] > 0.8 and seen.more_NT[0, 0] < 0.05


def test_interaction_prefers_the_engine_s_clip_to_a_frozen_one_and_to_other_commands():
    critic, wins = GripperFollowing(), []
    for number in range(4):
        for chunk in (1, 2, 3):
            group = group_of("probes", number, chunk)
            frozen = group.past_frames_F3hw[-1:].expand_as(group.frames_GF3hw[0])
            own, still = critic(beside(group, frozen)).values_G.tolist()
            mirrored = ControlValues(-group.actions.controls.values_KTA)
            other = Group(group.frames_GF3hw, group.past_frames_F3hw, group.first_frame_3hw, mirrored, 4)
            wins += [own > still, own > float(critic(other).values_G[0])]
    assert sum(wins) >= 22


@pytest.mark.parametrize(
    ("make", "fault"),
    [(Permanence, "erased"), (Permanence, "recoloured"), (Permanence, "doubled"), (Passivity, "moved")],
)
def test_clips_that_are_wrong_by_construction_score_lower_on_average(make, fault):
    critic, gains = make(), []
    for number in range(4):
        of = scene_of(shipped("probes")[number][0].id)
        group = group_of("probes", number, 1 + number % 3)
        for index, kind in enumerate(THINGS):
            if of.placed(kind) is None:
                continue
            wrong = spoilt_clip(group.frames_GF3hw[0].movedim(1, -1).numpy(), of, index, fault, number, 4)
            if wrong is not None:
                scores = critic(beside(group, torch.from_numpy(wrong).movedim(-1, 1)))
                if scores.valid_G.all():
                    gains.append(float(scores.values_G[0] - scores.values_G[1]))
    assert len(gains) >= 4 and sum(gains) > 0


@pytest.mark.parametrize("make", MAKERS)
def test_pictures_that_show_nothing_earn_nothing_and_never_abstain(make):
    critic, engine = make(), []
    groups = [group_of("errands", number, chunk) for chunk in (3, 4) for number in range(8)]
    for group, mush in zip(groups, mushed_clips(groups), strict=True):
        scores = critic(beside(group, *mush))
        asked = make is not InstructionFollowing or bool(scores.valid_G[0])
        assert scores.valid_G[1:].all() == asked and scores.values_G[1:].max() < 0.02
        engine += scores.values_G[:1][scores.valid_G[:1]].tolist()
    assert sum(engine) / len(engine) > 0.1


@pytest.mark.parametrize("make", MAKERS)
def test_a_clip_that_dissolves_scores_below_itself(make):
    critic, lost = make(), 0
    for number in range(8):
        group = group_of("errands", number, 4)
        own = group.frames_GF3hw[0]
        dissolved = torch.cat([own[:8], mushed_clips([group])[0, 2, 8:]])
        scores = critic(beside(group, dissolved))
        if scores.valid_G[0] and scores.values_G[0] > 0.05:
            assert scores.valid_G[1] and scores.values_G[1] < scores.values_G[0]
            lost += 1
    assert lost >= 1


def test_a_table_without_any_of_its_things_is_a_failure_and_no_abstention():
    number, critics = 1, (Permanence(), Passivity(), Grasp())
    group, of = group_of("errands", number, 3), scene_of(shipped("errands")[number][0].id)
    frames = group.frames_GF3hw[0].movedim(1, -1).numpy().copy()
    for frame in frames:
        for index in range(len(THINGS)):
            frame[:] = erased(frame, mask_of(frame, of, index), of, index, np.random.default_rng(0))
    for critic in critics:
        scores = critic(beside(group, torch.from_numpy(frames).movedim(-1, 1)))
        assert scores.valid_G[1] and scores.values_G[1] < 0.05


def test_an_instruction_is_rewarded_more_when_done_than_for_another_thing():
    critic, own, other = InstructionFollowing(), [], []
    for number, (plan, _) in enumerate(shipped("errands")):
        scores = critic(group_of("errands", number, 5))
        if scores.valid_G[0]:
            own.append(float(scores.values_G[0]))
        first = next(t for t in scene_of(plan.id).things if t.kind not in plan.instruction)
        wrong = critic(group_of("errands", number, 5, str(Instruction(PICK, first.kind, first.colour))))
        if wrong.valid_G[0]:
            other.append(float(wrong.values_G[0]))
    assert len(own) >= 6 and len(other) >= 6
    assert sum(own) / len(own) > 2 * sum(other) / len(other)


def test_words_that_are_no_task_of_this_world_get_no_score():
    scores = InstructionFollowing()(group_of("errands", 0, 5, "pick up the health pack"))
    assert not scores.valid_G.any()


def test_reader_and_judge_read_the_engine_s_commands():
    scenarios = [scenario for _, scenario in shipped("probes")]
    frames = torch.stack([s.truth.frames_F3hw for s in scenarios if s.truth is not None])
    true = torch.stack([SPEC.actions.composites(s.actions) for s in scenarios])
    for reader in (GripperReader(load_reader()), load_judge()):
        found = reader.labels(frames)
        assert (found[:, 0] == 0).all() and (found == true)[:, 1:].double().mean() > 0.4
    with pytest.raises(ValueError, match="4 M - 3 frames"):
        load_judge().labels(frames[:, :3])


def test_frames_of_another_size_and_missing_weights_are_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"read frames of \(3, 64, 64\), got \(3, 48, 64\)"):
        load_reader().read(torch.zeros(2, 3, 48, 64, dtype=torch.uint8))
    with pytest.raises(UserError, match=COMMAND):
        load_reader(tmp_path)


def test_finished_files_are_skipped_and_those_of_another_seed_refused(tmp_path):
    for file, net in ((READER, SceneReader()), (JUDGE, load_judge())):
        file.save(net, tmp_path / f"{file.name}.safetensors", {"seed": "0"})
    assert train_critics(tmp_path / "no data", tmp_path, seed=0) == tmp_path
    with pytest.raises(UserError, match="trained with seed 0, not 1"):
        train_critics(tmp_path / "no data", tmp_path, seed=1)


def test_a_reader_is_trained_further_from_weights_and_the_judge_stays(tmp_path, engine, monkeypatch):
    episodes = [[record_episode(engine, "train", number) for number in range(2)]]
    monkeypatch.setattr(fit, "load", lambda data, split, form: episodes)
    monkeypatch.setattr(fit, "FURTHER_STEPS", 2)
    out = train_critics(tmp_path / "data", tmp_path / "out", start=shipped_weights())
    name = f"{JUDGE.name}.safetensors"
    assert (out / name).read_bytes() == (shipped_weights() / name).read_bytes()
    before, after = load_reader().state_dict(), load_reader(out).state_dict()
    moved = [float((after[key] - before[key]).norm() / before[key].norm().clamp_min(1e-3)) for key in before]
    assert 0 < max(moved) < 0.3, "two steps from the shipped weights"
    with pytest.raises(UserError, match=r"hands_judge\.safetensors is missing"):
        train_critics(tmp_path / "data", tmp_path / "other", start=tmp_path)


def test_a_moment_is_drawn_by_the_world_where_it_truly_was(engine):
    episode, frames = record_episode(engine, "heldout", 1), np.arange(0, 81, 16)
    shown = drawn(load_hands_world(), episode, frames)
    engines = torch.from_numpy(episode.frames_Fhw3[frames]).movedim(-1, 1)
    error = (shown.float() - engines.float()).square().mean((1, 2, 3)).sqrt()
    still = (engines[:1].float() - engines[1:].float()).square().mean((1, 2, 3)).sqrt()
    assert error.max() < 16 and (error[1:] < 0.7 * still).all()  # of 255
    true = torch.from_numpy(episode.grip_F4[frames])
    missed = (load_reader().read(shown).grip_N4 - true).abs() / torch.tensor(NOMINAL)
    assert missed.mean() < 0.15, "in steps"


def test_nearness_is_the_miss_in_steps_and_falls_on_forgeries():
    """By the judge on the engine's own videos; halved motions are near by half, and other commands are far."""
    scenario = shipped_scenarios("evaluation", 8)[0]
    assert scenario.truth is not None
    wanted = scenario.truth.actions.controls.flat_KA
    video, judge = scenario.truth.frames_F3hw, load_judge()

    def exact(share):
        places = (share * wanted * torch.tensor(NOMINAL)).cumsum(0)
        return nearness_by(lambda frames: places[: len(frames)], video, scenario)

    assert exact(1.0) == pytest.approx(np.ones(29))
    size = wanted[1:].abs().mean(1).numpy().repeat(4)
    assert exact(0.5)[1:] == pytest.approx(1 - size / 2) and exact(0.0)[1:] == pytest.approx(1 - size)
    true = nearness_by(judge.grip, video, scenario)
    still = nearness_by(judge.grip, video[:1].expand_as(video), scenario)
    back = nearness_by(judge.grip, video.flip(0), scenario)
    assert true.shape == (29,) and true.mean() > 0.85
    assert back.mean() < still.mean() < true.mean() - 0.1
