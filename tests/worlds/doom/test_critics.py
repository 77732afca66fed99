import dataclasses
import importlib.resources
from pathlib import Path

import numpy as np
import pytest
import torch
from camera_paths import commanded
from safetensors.torch import save_file

from worldcompass.critic import Critic
from worldcompass.errors import UserError
from worldcompass.geometry import motion_signs
from worldcompass.rewards.quality import drift, flicker, sharpness, sharpness_loss
from worldcompass.testing import check_critic, noise_group
from worldcompass.types import Group
from worldcompass.worlds.doom.critic_training import report as critic_report
from worldcompass.worlds.doom.critics import motion as motion_critic
from worldcompass.worlds.doom.critics import weights as critic_files
from worldcompass.worlds.doom.critics.judge import Judge, match_volumes, mirror_volumes
from worldcompass.worlds.doom.critics.motion import (
    MotionCritic,
    clips_of,
    features_of,
    labels_of,
    mirror_features,
    mirror_labels,
)
from worldcompass.worlds.doom.critics.realism import ALL_KINDS, Realism, degrade
from worldcompass.worlds.doom.engine.facts import INTRINSICS, MOTION
from worldcompass.worlds.doom.rewards.interaction import InteractionFollowing
from worldcompass.worlds.doom.rewards.quality import VisualQuality

torch.manual_seed(0)
WEIGHTS = importlib.resources.files("worldcompass.worlds.doom") / "weights"
PATH = torch.tensor([0, 9, 9, 1, 1, 18, 2, 9, 0])  # forward, yaw right, backward, yaw left, forward, stay


def need_weights(*names):
    missing = [name for name in names if not (WEIGHTS / f"{name}.safetensors").is_file()]
    if missing:
        pytest.skip(f"no weights {missing} in the package: make them with '{critic_files.COMMAND}'")


@pytest.fixture(scope="module")
def video():
    """Frames (F, 3, h, w) of an engine video and what the engine did, latent by latent."""
    from worldcompass.worlds.doom.engine import collect
    from worldcompass.worlds.doom.engine.engine import Engine
    from worldcompass.worlds.doom.engine.maps import find_map

    with Engine(find_map("my_way_home")) as engine:
        steps = [engine.reset(3)]
        steps += [engine.act(int(action)) for action in PATH[1:]]
    frames = torch.from_numpy(np.concatenate([s.frames_Fhw3 for s in steps])).permute(0, 3, 1, 2).contiguous()
    return frames, collect.true_labels(np.concatenate([s.cameras_F5 for s in steps]))


def group_of(video, labels_GK=None):
    """The first 8 moving latents as one chunk with one candidate."""
    frames, labels = video
    actions = commanded(labels, MOTION, torch.tensor(INTRINSICS))
    return Group(frames[None, 1:], frames[:1], frames[0], actions.latents(1, len(labels)), 4)


def blurred(frames):
    return torch.nn.functional.avg_pool2d(frames.float(), 3, 1, 1).round().to(torch.uint8)


def noisy(frames, levels):
    generator = torch.Generator().manual_seed(0)
    return (frames + levels * torch.randn(frames.shape, generator=generator)).clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize(
    "make", [lambda: InteractionFollowing(MotionCritic().eval()), lambda: VisualQuality(Realism())]
)
def test_untrained_critics_keep_the_contract(make):
    assert isinstance(make(), Critic)
    check_critic(make())


@pytest.mark.parametrize("make", [InteractionFollowing, VisualQuality])
def test_shipped_critics_keep_the_contract(make, video):
    need_weights("motion_critic", "realism")
    check_critic(make())
    check_critic(make(), group_of(video))


def test_critics_abstain_without_motion():
    group = noise_group()
    start = dataclasses.replace(
        group,
        frames_GF3hw=group.frames_GF3hw[:, :1],
        past_frames_F3hw=group.past_frames_F3hw[:0],
        actions=group.actions.latents(0, 1),
    )
    for critic in (InteractionFollowing(MotionCritic()), VisualQuality(Realism())):
        scores = critic(start)
        assert not scores.valid_G.any() and torch.equal(scores.values_G, torch.zeros(3))


def test_interaction_refuses_other_latents():
    with pytest.raises(ValueError, match="4 frames"):
        InteractionFollowing(MotionCritic())(dataclasses.replace(noise_group(), frames_per_latent=2))


def test_quality_formulas_move_in_the_right_direction(video):
    frames = video[0]
    assert (sharpness(blurred(frames)) < sharpness(frames)).all()
    assert sharpness_loss(blurred(frames), frames[0]) < sharpness_loss(frames, frames[0])
    assert sharpness_loss(noisy(frames, 40), frames[0]) < sharpness_loss(frames, frames[0])
    pulsing = frames.clone()
    pulsing[::2] = (pulsing[::2].float() * 0.8).to(torch.uint8)
    assert flicker(pulsing) < 3 * flicker(frames) < 0
    assert flicker(frames[:1].expand(6, -1, -1, -1)) == 0 == flicker(frames[:2])
    tinted = frames.clone()
    tinted[:, 0] = (tinted[:, 0].float() * 0.5).to(torch.uint8)
    assert drift(tinted, frames[0]) < drift(frames, frames[0])
    assert drift(frames[:1], frames[0]) == 0


def test_mirror_swaps_right_and_left():
    labels = torch.arange(81)
    swapped = motion_signs(mirror_labels(labels)) * torch.tensor([-1, 1, -1, 1])
    assert torch.equal(swapped, motion_signs(labels))


def test_mirrored_features_are_those_of_mirrored_frames(video):
    clips = clips_of(video[0][None])[0]
    volumes = match_volumes(clips)
    mirrored = mirror_volumes(match_volumes(clips.flip(-1)))
    assert (volumes.float() - mirrored.float()).abs().max() <= 2
    assert torch.equal(mirror_volumes(mirror_volumes(volumes)), volumes)
    features = features_of(clips)
    error = (
        (features - mirror_features(features_of(clips.flip(-1)))).abs().mean()
    )  # DIS is not quite symmetric
    assert error < 0.3 * features.std()


def test_networks_read_mirrored_features_as_mirrored(video):
    clips = clips_of(video[0][None])[0]
    for net, look, mirror in (
        (MotionCritic().eval(), features_of, mirror_features),
        (Judge().eval().reader, match_volumes, mirror_volumes),
    ):
        features = look(clips)
        with torch.no_grad():
            direct = motion_critic.mirrored_probabilities(net, features, mirror)
            turned = motion_critic.mirrored_probabilities(net, mirror(features), mirror)
        assert torch.equal(mirror_labels(labels_of(direct)), labels_of(turned))


def test_shipped_readers_know_what_the_engine_did(video):
    need_weights("motion_critic", "realism", "judge")
    frames, labels = video
    judge = critic_files.load_judge()
    found = {"critic": labels_of(critic_files.load_critics().motion.probabilities(clips_of(frames[None])[0]))}
    found["judge"] = judge.labels(frames[None])[0, 1:]
    for who, read in found.items():
        assert (read == labels[1:]).float().mean() >= 0.75, (who, read, labels)
    turned = judge.labels(frames[None].flip(-1))[0]
    assert (turned == mirror_labels(labels)).float().mean() >= 0.75
    assert torch.equal(judge.labels(frames[None, :1]), torch.zeros(1, 1, dtype=torch.long))
    with pytest.raises(ValueError, match="4 M - 3"):
        judge.labels(frames[None, :4])


def test_shipped_interaction_prefers_obedience(video):
    need_weights("motion_critic", "realism")
    group = group_of(video)
    disobeyed = commanded((video[1] + 40) % 81, MOTION, torch.tensor(INTRINSICS)).latents(1, len(video[1]))
    critic = InteractionFollowing()
    good, bad = critic(group).values_G, critic(dataclasses.replace(group, actions=disobeyed)).values_G
    assert 0 <= bad < 0.4 < 0.8 < good <= 1


@pytest.mark.parametrize("who", ["critic", "judge"])
def test_shipped_realism_falls_with_degradation(video, who):
    need_weights("motion_critic", "realism", "judge")
    score = (
        critic_files.load_critics().realism.score if who == "critic" else critic_files.load_judge().realism
    )
    frames = video[0]
    steps = [frames, blurred(frames), blurred(blurred(blurred(frames)))]
    values = [float(score(step).mean()) for step in steps]
    assert values[0] > values[1] > values[2]
    assert float(score(noisy(frames, 20)).mean()) < values[0]


def test_shipped_quality_falls_with_degradation(video):
    need_weights("motion_critic", "realism")
    group = group_of(video)
    candidates = torch.cat(
        [group.frames_GF3hw, blurred(group.frames_GF3hw[0])[None], noisy(group.frames_GF3hw, 25)]
    )
    values = VisualQuality()(dataclasses.replace(group, frames_GF3hw=candidates)).values_G
    assert values[0] > values[1:].max()


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_degradations_keep_shape_and_change_more_with_strength(video, kind):
    frames = video[0][:5].permute(0, 2, 3, 1).contiguous().numpy()
    changes = []
    for strength in (0.2, 1.0):
        changed = kind(frames, strength, np.random.default_rng(0))
        assert changed.shape == frames.shape and changed.dtype == np.uint8
        changes.append(np.abs(changed.astype(int) - frames).mean())
    assert changes[0] < changes[1]
    again = [degrade(frames, 0.5, np.random.default_rng(1)) for _ in range(2)]
    assert np.array_equal(*again)


def test_wrong_weights_are_named(tmp_path: Path):
    with pytest.raises(UserError, match="missing"):
        critic_files.load_judge(tmp_path)
    (tmp_path / "judge.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match="cannot be read"):
        critic_files.load_judge(tmp_path)
    critic_files.save(Realism(), tmp_path / "judge.safetensors", "realism", {})
    with pytest.raises(UserError, match="worldcompass realism"):
        critic_files.load_judge(tmp_path)
    facts = {"format": "worldcompass judge", "version": "0"}
    save_file({"a": torch.zeros(1)}, tmp_path / "judge.safetensors", facts)
    with pytest.raises(UserError, match="version 0"):
        critic_files.load_judge(tmp_path)
    critic_files.save(nn_of_other_width(), tmp_path / "motion_critic.safetensors", "motion_critic", {})
    with pytest.raises(UserError, match="does not fit"):
        critic_files.load("motion_critic", tmp_path)
    critic_files.save(Judge(), tmp_path / "judge.safetensors", "judge", {"seed": "0"})
    assert isinstance(critic_files.load_judge(tmp_path), Judge)


def nn_of_other_width():
    return MotionCritic(width=8)


def test_accuracy_counts():
    true = torch.tensor([0, 9, 10, 80])
    row = critic_report.accuracy(torch.tensor([0, 9, 1, 80]), true, ["a", "a", "b", "b"])
    assert (row.exact, row.translation, row.rotation) == (75.0, 75.0, 100.0)
    assert row.kinds == {"none": 100.0, "basic": 100.0, "combined": 50.0}
    assert row.maps == {"a": 100.0, "b": 50.0}
    assert row.confusion[0][1][0] == 1 and sum(map(sum, row.confusion[1])) == 4
