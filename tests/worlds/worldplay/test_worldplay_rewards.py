"""The paper's rewards: made from local weights, checked before loading, and used in training."""

import dataclasses
import sys
import types
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from camera_paths import commanded, parse_path
from drawn_room import CAMERA, drawn_video
from ranks import bf16_anywhere
from worldplay_tiny import prepare, random_network, write_vae

from worldcompass import cli
from worldcompass.errors import UserError
from worldcompass.geometry import Motion, nominal_poses
from worldcompass.recipes import worldplay_5b, worldplay_8b
from worldcompass.rewards import paper
from worldcompass.rewards.hpsv3 import QUALITY_SENTENCE
from worldcompass.rewards.paper import PaperRewards
from worldcompass.rewards.remote import RemoteCritic
from worldcompass.rewards.stability import PictureStability
from worldcompass.rewards.wire import VERSION, pack_scores, unpack_group
from worldcompass.runs.metrics import read_metrics
from worldcompass.runs.requirements import GIB
from worldcompass.testing import check_critic, noise_group
from worldcompass.types import Group
from worldcompass.worlds.open.weights import FILE_NAME, export_weights
from worldcompass.worlds.worldplay.decoder import load_decoder_8b
from worldcompass.worlds.worldplay.sources import OfficialFiles
from worldcompass.worlds.worldplay.tiny import TINY_8B
from worldcompass.worlds.worldplay.weights import load_8b


class WalkingCameras:
    """A stand-in for Depth-Anything-3 that reads the forward motion from a video's brightness."""

    confidence = 4.0

    @classmethod
    def from_pretrained(cls, folder):
        assert (Path(folder) / "config.json").exists()
        return cls()

    def to(self, device):
        return self

    def eval(self):
        return self

    def inference(self, image, process_res):
        camera_from_world = np.tile(np.eye(4, dtype=np.float32)[:3], (len(image), 1, 1))
        camera_from_world[:, 2, 3] = -0.05 * np.arange(len(image)) * (image[-1].mean() > 100)
        maps = np.full((len(image), 4, 6), self.confidence, np.float32)
        matrix = np.array([[6, 0, 3], [0, 4, 2], [0, 0, 1]], np.float32)
        return types.SimpleNamespace(
            extrinsics=camera_from_world,
            intrinsics=np.tile(matrix, (len(image), 1, 1)),
            conf=maps,
            depth=maps,
        )


class Preference:
    """A stand-in for HPSv3 that prefers bright pictures."""

    prompts: ClassVar[set[str]] = set()

    def __init__(self, config_path, checkpoint_path, device):
        assert config_path.endswith("HPSv3_7B.yaml") and checkpoint_path.endswith("HPSv3.safetensors")

    def reward(self, image_paths, prompts):
        self.prompts.update(prompts)
        return torch.tensor([[float(np.asarray(picture).mean()) / 100, 1.0] for picture in image_paths])


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Both packages and their files; the rewards that find them."""
    for name, content in (
        ("depth_anything_3", {"__spec__": types.SimpleNamespace(origin="here")}),
        ("depth_anything_3.api", {"DepthAnything3": WalkingCameras}),
        ("PIL", {}),
        ("PIL.Image", {"fromarray": lambda picture: picture}),
        ("hpsv3", {"HPSv3RewardInferencer": Preference, "__spec__": types.SimpleNamespace(origin="here")}),
    ):
        module = types.ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    rewards = PaperRewards(
        cameras_weights=tmp_path / "da3",
        quality_weights=tmp_path / "HPSv3.safetensors",
        quality_config=tmp_path / "HPSv3_7B.yaml",
    )
    (tmp_path / "da3").mkdir()
    for file in rewards.files():
        file.path.touch()
    return rewards


def walking(*brightness):
    """Candidates of these brightnesses, all commanded to move forward."""
    group = noise_group(len(brightness))
    frames = torch.ones_like(group.frames_GF3hw) * torch.tensor(brightness, dtype=torch.uint8).view(
        -1, 1, 1, 1, 1
    )
    first = torch.full_like(group.first_frame_3hw, 120)
    actions = commanded(parse_path("w-4")[1:], Motion(0.1, 2, 2, level=False), CAMERA)
    return dataclasses.replace(
        group, frames_GF3hw=frames, first_frame_3hw=first, actions=actions, caption="a cave"
    )


def test_the_papers_rewards_obey_their_networks(installed):
    interaction, quality = installed.critics("cpu")
    assert (interaction.name, quality.name) == ("interaction", "quality")
    for critic in (interaction, quality):
        check_critic(critic, walking(10, 130, 200))
    assert interaction(walking(10, 130, 200)).values_G.tolist() == [
        0.5,
        1.0,
        1.0,
    ]  # who stands turns right at least
    torch.testing.assert_close(quality(walking(10, 120, 200)).values_G, torch.tensor([-1.1, 0.0, -0.8]))
    assert Preference.prompts == {QUALITY_SENTENCE}
    mean = dataclasses.replace(installed, quality="hpsv3").visual_quality("cpu")
    torch.testing.assert_close(mean(walking(10, 120, 200)).values_G, torch.tensor([0.1, 1.2, 2.0]))
    assert Preference.prompts == {QUALITY_SENTENCE, "a cave"}
    strict = dataclasses.replace(installed, move=0.3).interaction("cpu")
    assert strict(walking(10, 130)).values_G.tolist() == [0.5, 0.5]


def test_no_frame_of_depth_anything_is_distrusted_as_in_the_released_reward(installed, monkeypatch):
    """Its confidence has never been compared with truth; a gate on it could silence whole groups."""
    monkeypatch.setattr(WalkingCameras, "confidence", 1.0)  # a pure guess in its own words
    found = installed.interaction("cpu")(walking(10, 130))
    assert found.valid_G.all() and found.values_G.tolist() == [0.5, 1.0]


def test_a_server_may_be_waited_for_as_long_as_the_recipe_says(monkeypatch):
    """Eight processes send their groups at once, and a server scores one after another."""
    asked = []
    monkeypatch.setattr(paper, "RemoteCritic", lambda address, name, timeout: asked.append((name, timeout)))
    PaperRewards(cameras_at="http://a", quality_at="http://b", timeout_s=77.0).critics("cpu")
    assert asked == [("interaction", 77.0), ("quality", 77.0)]


def test_odometry_and_formulas_score_action_following():
    """In a drawn room, following the command scores 1 and turning the other way at most a half."""
    rewards = PaperRewards(cameras="odometry", quality="formulas")
    assert rewards.files() == rewards.modules() == () and rewards.gpu_bytes() == 0
    labels = parse_path("w-2, right-2")
    fine = Motion(move=0.2, yaw_deg=1.0, pitch_deg=1.0, level=False)  # a quarter of a latent
    videos = [
        drawn_video(nominal_poses(torch.cat([done[:1], done[1:].repeat_interleave(4)]), fine))
        for done in (labels, parse_path("none-2, left-2"))
    ]
    frames = torch.stack(videos)
    actions = commanded(labels[1:], Motion(0.8, 4, 4, level=False), CAMERA)
    group = Group(frames[:, 1:], frames[0, :1], frames[0, 0], actions, 4)
    interaction, quality = rewards.critics("cpu")
    obeys, does_not = interaction(group).values_G.tolist()
    assert obeys == 1 and does_not <= 0.5
    assert quality.name == "quality" and quality(group).valid_G.all()


def test_remote_critics_need_no_local_files_and_score_the_same(monkeypatch):
    """The server answers at once, and the size of a request does not grow with the past."""
    there = {"1": PaperRewards(cameras="odometry").interaction("cpu"), "2": PictureStability()}
    sizes = []

    def ask(self, path, body, timeout):
        if path == "/health":
            return {"critic": "whoever", "wire": VERSION}
        sizes.append(len(body))
        return pack_scores("whoever", there[self.address[-1]](unpack_group(body)))

    monkeypatch.setattr(RemoteCritic, "_ask", ask)
    rewards = PaperRewards(cameras_at="http://127.0.0.1:1", quality_at="http://127.0.0.1:2")
    assert rewards.files() == rewards.modules() == () and rewards.gpu_bytes() == 0
    critics = rewards.critics("cpu")
    assert [critic.name for critic in critics] == ["interaction", "quality"]
    for length in (9, 90):
        group = noise_group()
        past = group.frames_GF3hw[0, :9].repeat(length // 9, 1, 1, 1)
        group = dataclasses.replace(group, past_frames_F3hw=past)
        for critic, own in zip(critics, there.values(), strict=True):
            assert torch.equal(critic(group).values_G, own(group).values_G)
    assert sizes[:2] == sizes[2:]
    assert PaperRewards(quality_at="http://127.0.0.1:2").gpu_bytes() == 4 * GIB


@pytest.mark.parametrize("module", [worldplay_8b, worldplay_5b])
def test_the_recipes_take_the_papers_rewards(module):
    name = module.__name__.rpartition(".")[2]
    for recipe in (getattr(module, name)(), module.lora()):
        assert recipe.rewards == PaperRewards()
        assert recipe.config.rewards.weights == {"interaction": 2.0, "quality": 1.0}


def test_missing_files_are_reported_before_loading(tmp_path, capsys):
    words = ["worldplay_8b:lora", "--set", f"rewards.cameras_weights={tmp_path / 'cameras'}"]
    assert cli.main(["train", *words, "--device", "cpu", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    for part in ("worldplay-8b/ar_model", "worldplay-8b/vae", "data/worldplay-8b", str(tmp_path / "cameras"),
                 "HPSv3.safetensors", "rewards.cameras=odometry", "rewards.quality=formulas"):  # fmt: skip
        assert part in said
    assert (
        said.count("\n") == 11 and not (tmp_path / "out").exists()
    )  # a sentence, and a line for each of ten


@pytest.fixture
def official(tmp_path):
    """The official files of a tiny 8B model, and two prepared images."""
    export_weights(random_network("8b"), tmp_path / "checkpoints" / "transformer" / FILE_NAME)
    write_vae("8b", tmp_path / "checkpoints" / "vae")
    return OfficialFiles(
        tmp_path / "checkpoints",
        prepare(tmp_path / "data"),
        trajectories_per_image=2,
        load_decoder=tiny_decoder,
    )


def tiny_decoder(folder, device, dtype):
    """Not ``load_decoder_8b`` itself, whose files are checked for the real sizes."""
    return load_decoder_8b(folder, device, dtype)


def tiny(official, rewards, **config):
    """The LoRA recipe with other sizes and lengths."""
    recipe, smoke = worldplay_8b.lora(), worldplay_8b.smoke()
    sizes = smoke.config.flat()
    shorter = {
        name: sizes[name] for name in ("last_chunk", "denoising_steps", "noise_levels", "updates_per_rollout")
    }
    changed = recipe.config.changed(steps=1, group_size=4, best=1, worst=1, **shorter, **config)
    return dataclasses.replace(
        recipe, config=changed, network=TINY_8B, latent_size=(6, 8), source=official, rewards=rewards
    )


def test_with_all_files_in_place_a_recipe_trains_on_the_papers_rewards(official, installed, tmp_path):
    """From official files and prepared images to official files; only the packages are stand-ins."""
    with bf16_anywhere():
        tiny(official, installed, first_chunk=1).run(tmp_path / "run", "cpu", resume=False)
    (step,) = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert {name: reward.valid for name, reward in step.rewards.items()} == {
        "interaction": 1,
        "quality": 1,
    }
    assert step.rewards["quality"].std > 0 and step.applied == 1
    load_8b(tmp_path / "run" / "weights", TINY_8B)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "this run lacks .*ar_model.*WorldPlay's transformer"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "damaged"),
        (
            lambda path: export_weights(random_network("5b"), path),
            "is not WorldPlay.s transformer as this recipe needs",
        ),
    ],
)
def test_missing_truncated_or_unrelated_checkpoints_are_refused(spoil, message, official, tmp_path):
    spoil(official.checkpoints / "transformer" / FILE_NAME)
    with pytest.raises(UserError, match=message):
        tiny(official, PaperRewards(cameras="odometry", quality="formulas")).run(
            tmp_path / "run", "cpu", False
        )
    assert not (tmp_path / "run").exists()


def test_the_default_thresholds_and_the_network_that_they_belong_to_are_the_released_ones():
    """The middle of the three released lengths and their angle, per frame, over the four frames of a latent."""
    limits = PaperRewards()._thresholds(paper.MOVE_DEPTH_ANYTHING)
    assert (limits.move, limits.yaw_deg, limits.pitch_deg) == pytest.approx((4 * 0.005, 4 * 0.2, 4 * 0.2))
    assert "depth-anything/DA3-GIANT-1.1" in PaperRewards().files()[0].what
