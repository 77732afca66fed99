"""WorldPlay's poses, labels, memory and timesteps against numbers from the official code.

The folder is named by the environment variable WORLDCOMPASS_GOLDEN; sizes come from each case's config.json.
The noise schedule and the Euler step are the core's: see test_golden_core.py.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from camera_paths import parse_path
from safetensors.torch import load_file

from worldcompass.geometry import LabelThresholds, rigid_inverse, split_label
from worldcompass.rewards.frame_score import FrameScore, ScoreDrift
from worldcompass.types import CameraMoves, Group
from worldcompass.worlds.open.poses import (
    INTRINSICS,
    camera_path,
    labels_from_cameras,
    normalised_intrinsics,
)
from worldcompass.worlds.worldplay.context import (
    MemoryRule,
    keep_in_view,
    overlap,
    select_memory,
    timesteps,
    whole_timesteps,
)

ROOT = os.environ.get("WORLDCOMPASS_GOLDEN")
pytestmark = [
    pytest.mark.golden,
    pytest.mark.skipif(not ROOT, reason="WORLDCOMPASS_GOLDEN names no folder of official numbers"),
]


def case(name):
    folder = Path(ROOT or ".") / name
    files = {kind: folder / f"{kind}.safetensors" for kind in ("inputs", "outputs")}
    loaded = [load_file(file) if file.exists() else {} for file in files.values()]
    return json.loads((folder / "config.json").read_text()), *loaded


def test_labels_of_poses():
    config, inputs, outputs = case("d_pose_to_action")
    poses = rigid_inverse(inputs["w2c"])
    turn = config["dataset_rot_threshold_deg"]
    dataset = LabelThresholds(config["dataset_move_norm_valid"], turn, turn)
    assert torch.equal(labels_from_cameras(poses, dataset), outputs["label_dataset"].long())
    third = labels_from_cameras(poses, dataset, third_person=True)
    assert torch.equal(third, outputs["label_dataset_third_person"].long())
    for i, limits in enumerate(config["reward_thresholds"]):
        turn = limits["rot_threshold_deg"]
        ours = labels_from_cameras(
            rigid_inverse(inputs["w2c"].float()), LabelThresholds(limits["move_norm_valid"], turn, turn)
        )
        assert torch.equal(ours, outputs["label_reward"][:, i].long())


def test_labels_and_accuracy_of_the_released_reward():
    """Which command each frame is held against, and what is read from estimated cameras at each threshold.

    The released reward keeps the threshold that agrees best. So does ``BestOfThree``, which is for comparison, but
    it leaves out the vertical part of a step, which the released one counts as length.
    """
    config, inputs, outputs = case("j_reward")
    for index, part in enumerate(config["cases"]):
        labels = inputs[f"{index}.gt_action"][0].long()
        size, count = (1, 3, 1, 1), part["frames"]
        past = torch.zeros(0 if part["first_chunk"] else 1, *size[1:], dtype=torch.uint8)
        chunk = torch.zeros(1, count - len(past), *size[1:], dtype=torch.uint8)
        actions = CameraMoves(labels, torch.eye(4).expand(len(labels), 4, 4), torch.ones(len(labels), 4))
        frames, commands = Group(chunk, past, chunk[0, 0], actions, 4).transitions()
        commanded = commands.cameras.labels_K.repeat_interleave(4)
        assert frames.shape[1] == count == 1 + len(commanded)
        cameras = torch.eye(4).repeat(count, 1, 1)
        cameras[:, :3] = inputs[f"{index}.extrinsics"]
        readings = [
            labels_from_cameras(rigid_inverse(cameras), LabelThresholds(move, turn, turn))[1:]
            for move, turn in config["thresholds"]
        ]
        seen = max(readings, key=lambda seen: int((seen == commanded).sum()))
        both = []
        for kind, ours, theirs in zip(
            ("trans", "rotate"), split_label(seen), split_label(commanded), strict=True
        ):
            assert torch.equal(ours, outputs[f"{index}.pred_{kind}_one_label"])
            assert torch.equal(theirs, outputs[f"{index}.gt_{kind}_one_label"])
            both.append((ours == theirs).double().mean())
        accuracy = (seen == commanded).double().mean()
        torch.testing.assert_close(accuracy[None], outputs[f"{index}.action_acc"], atol=1e-6, rtol=0)
        torch.testing.assert_close(
            (sum(both) / 2)[None], outputs[f"{index}.fine_action_acc"], atol=1e-6, rtol=0
        )


def test_picture_scores_of_the_released_reward():
    """Mean of a scorer's numbers for the caption and for one sentence, and their drift from the first frame.

    Which frames are scored differs on purpose: here the last one of every latent, there the one before it.
    """
    config, inputs, outputs = case("j_reward")
    for index, part in enumerate(config["cases"]):
        count = len(part["scored_frame_indices"])
        frames = torch.arange(1, 4 * count + 1, dtype=torch.uint8).view(1, -1, 1, 1, 1).expand(1, -1, 3, 1, 1)
        first = torch.zeros(3, 1, 1, dtype=torch.uint8)
        actions = CameraMoves(
            torch.zeros(count).long(), torch.eye(4).expand(count, 4, 4), torch.ones(count, 4)
        )
        group = Group(frames, first[None], first, actions, 4)
        scores = {
            name: torch.cat([inputs[f"{index}.hps_first_frame"], inputs[f"{index}.hps_{name}"]])
            for name in ("caption", "quality")
        }
        for critic, expected in (
            (FrameScore(Scored(scores["caption"])), "hpsv3_acc"),
            (FrameScore(Scored(scores["quality"])), "hpsv3_quality_acc"),
            (ScoreDrift(Scored(scores["quality"])), "hpsv3_quality_drift_score"),
        ):
            ours = critic(group).values_G.double()
            torch.testing.assert_close(ours, outputs[f"{index}.{expected}"], atol=1e-6, rtol=0)


class Scored:
    """A scorer of frames that carry 4 times the place of their score; the first frame's stands in front."""

    name = "scored"

    def __init__(self, scores):
        self.scores = scores

    def __call__(self, frames_F3hw, caption):
        return self.scores[frames_F3hw[:, 0, 0, 0].long() // 4]


def as_33(intrinsics_4):
    fx, fy, cx, cy = intrinsics_4.unbind(-1)
    zero, one = torch.zeros_like(fx), torch.ones_like(fx)
    return torch.stack([fx, zero, cx, zero, fy, cy, zero, zero, one], -1).unflatten(-1, (3, 3))


def test_normalised_intrinsics():
    _, inputs, outputs = case("d_pose_to_action")
    ours = as_33(normalised_intrinsics(inputs["K"]))
    torch.testing.assert_close(ours, outputs["K_normalised"], atol=1e-12, rtol=0)


def test_paths_of_pose_strings():
    config, _, outputs = case("d2_pose_string")
    for i, text in enumerate(config["strings"]):
        labels = parse_path(text)
        assert torch.equal(labels, outputs[f"{i}.action"])
        path = camera_path(labels)
        torch.testing.assert_close(path, outputs[f"{i}.c2w"], atol=1e-9, rtol=0)
        torch.testing.assert_close(rigid_inverse(path), outputs[f"{i}.w2c"], atol=1e-9, rtol=0)
        assert torch.equal(labels_from_cameras(path), labels)
        intrinsics = torch.tensor(INTRINSICS, dtype=torch.float64).expand(len(labels), 4)
        torch.testing.assert_close(as_33(intrinsics), outputs[f"{i}.K_normalised"], atol=1e-9, rtol=0)


def rule_of(config):
    return MemoryRule(
        config["memory_frames"],
        config["temporal_context_size"],
        config["pred_latent_size"],
        config["pred_latent_size"],
        (config["fov_h_deg"], config["fov_v_deg"]),
        config["radius"],
    )


@pytest.mark.parametrize(
    ("name", "dtype"), [("selected_inference", torch.float64), ("selected_rl_float32", torch.float32)]
)
def test_remembered_latents(name, dtype):
    config, inputs, outputs = case("e_memory_retrieval")
    rule = rule_of(config)
    points = keep_in_view(inputs["points"], rule)
    for trajectory, theirs in zip(inputs["w2c"].to(dtype), outputs[name].tolist(), strict=True):
        poses = rigid_inverse(trajectory)
        for current, expected in zip(config["current_indices"], theirs, strict=True):
            ours = select_memory(poses[: current + rule.chunk], current, points, rule)
            assert ours == [index for index in expected if index >= 0], current


def test_overlap_of_views():
    config, inputs, outputs = case("e_memory_retrieval")
    rule = rule_of(config)
    points = keep_in_view(inputs["points"], rule)
    for trajectory, theirs in zip(rigid_inverse(inputs["w2c"]), outputs["overlap"], strict=True):
        history = trajectory[config["overlap_history_frames"]]
        rows = [overlap(trajectory[q], history, points, rule) for q in config["overlap_query_frames"]]
        torch.testing.assert_close(torch.stack(rows), theirs, atol=1e-6, rtol=0)


def test_timesteps():
    config, _, outputs = case("f_sigma_flux_step")
    for steps in config["steps"]:
        sigmas = outputs[f"sigmas.{steps}"][:-1]
        torch.testing.assert_close(timesteps(sigmas), outputs[f"float_timesteps.{steps}"], atol=1e-3, rtol=0)
        assert torch.equal(whole_timesteps(sigmas), outputs[f"int_timesteps.{steps}"])
