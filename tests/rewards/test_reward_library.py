"""Quality, likeness to the truth, cycle closure, and adapters of third-party networks."""

import dataclasses
import sys
import types

import numpy as np
import pytest
import torch
from camera_paths import commanded, parse_path
from optional import installed

from worldcompass.errors import UserError
from worldcompass.geometry import nominal_poses, opposite, pose, rotation_from_angles
from worldcompass.rewards.cycle import CycleClosure, returns
from worldcompass.rewards.depth_anything import DepthAnything3
from worldcompass.rewards.formulas import FormulaCritic, keeps_colours, keeps_exposure, keeps_sharpness
from worldcompass.rewards.frame_score import FrameScore, ScoreDrift
from worldcompass.rewards.hpsv3 import QUALITY_SENTENCE, Hpsv3
from worldcompass.rewards.lpips import Lpips
from worldcompass.rewards.quality import flicker_of
from worldcompass.rewards.reference import PSNR_CEILING, TrueContinuation, psnr, ssim
from worldcompass.rollout import make_group
from worldcompass.testing import check_critic, noise_group
from worldcompass.toy import ToyWorld, toy_scenarios
from worldcompass.types import Truth

TOY = ToyWorld().spec


class Brightness:
    """A scorer of frames with known answers; remembers captions."""

    name = "brightness"

    def __init__(self):
        self.captions = []

    def __call__(self, frames_F3hw, caption):
        self.captions.append(caption)
        return frames_F3hw.float().mean((1, 2, 3))


def with_truth(group):
    frames = group.frames_GF3hw[1]
    return dataclasses.replace(group, truth=Truth(frames, group.actions))


@pytest.mark.parametrize(
    "critic",
    [
        *(FormulaCritic(f) for f in (keeps_sharpness, keeps_colours, keeps_exposure, flicker_of)),
        FrameScore(Brightness()), ScoreDrift(Brightness()),
        TrueContinuation(psnr, "psnr"), TrueContinuation(ssim, "ssim"), CycleClosure(TOY.actions.thresholds),
    ],
    ids=lambda critic: critic.name,
)  # fmt: skip
def test_critics_keep_the_contract(critic):
    check_critic(critic)
    check_critic(critic, with_truth(noise_group()))
    group = noise_group()
    path = commanded(
        parse_path("right-2, left-2")[1:], TOY.actions.motion, torch.tensor([1.0, 1.0, 0.5, 0.5])
    )
    check_critic(critic, dataclasses.replace(group, actions=path))


def test_exposure_and_scores_of_known_frames():
    group = noise_group(2)
    frames = torch.full_like(group.frames_GF3hw, 100)
    frames[1] = 151
    first = torch.full_like(group.first_frame_3hw, 100)
    group = dataclasses.replace(group, frames_GF3hw=frames, first_frame_3hw=first, caption="a room")
    assert FormulaCritic(keeps_exposure)(group).values_G.tolist() == pytest.approx([0, -0.2])
    scorer = Brightness()
    assert FrameScore(scorer)(group).values_G.tolist() == [100, 151]
    assert ScoreDrift(scorer)(group).values_G.tolist() == [0, -51]
    assert ScoreDrift(scorer).name == "brightness_drift" and set(scorer.captions) == {"a room"}


@pytest.mark.golden
def test_ssim_and_psnr_against_plain_loops():
    generator = np.random.default_rng(0)
    a = generator.integers(0, 256, (1, 3, 14, 13)).astype(np.uint8)
    b = np.clip(a + generator.normal(0, 30, a.shape), 0, 255).astype(np.uint8)
    x, y = (np.tensordot([0.299, 0.587, 0.114], p[0].astype(float), 1) for p in (a, b))
    line = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window, found = np.outer(line, line) / line.sum() ** 2, []
    for top in range(4):
        for left in range(3):
            p, q = x[top : top + 11, left : left + 11], y[top : top + 11, left : left + 11]
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
            cov = (window * (p - mp) * (q - mq)).sum()
            c1, c2 = 2.55**2, 7.65**2
            found.append((2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    ta, tb = torch.from_numpy(a), torch.from_numpy(b)
    assert float(ssim(ta, tb)) == pytest.approx(np.mean(found), abs=1e-4)
    assert float(psnr(ta, tb)) == pytest.approx(10 * np.log10(255**2 / ((a.astype(float) - b) ** 2).mean()))
    assert float(ssim(ta, ta)) == pytest.approx(1) and float(psnr(ta, ta)) == PSNR_CEILING
    with pytest.raises(ValueError, match="11 pixels"):
        ssim(ta[..., :8], tb[..., :8])


def test_the_true_continuation_wins_and_without_one_the_critic_abstains():
    group = with_truth(noise_group())
    for likeness in (psnr, ssim):
        scores = TrueContinuation(likeness, "truth")(group)
        assert scores.valid_G.all() and scores.values_G.argmax() == 1
    assert not TrueContinuation(psnr, "psnr")(noise_group()).valid_G.any()
    shorter = dataclasses.replace(group.truth, frames_F3hw=group.truth.frames_F3hw[1:])
    assert not TrueContinuation(psnr, "psnr")(dataclasses.replace(group, truth=shorter)).valid_G.any()


def test_opposites_undo_each_action():
    for label in range(81):
        there_and_back = torch.tensor([0, label, opposite(label)])
        poses = nominal_poses(
            there_and_back, dataclasses.replace(TOY.actions.motion, yaw_deg=0.1, pitch_deg=0.1)
        )
        torch.testing.assert_close(poses[2], poses[0], atol=5e-3, rtol=0)


def test_returns_are_found_where_the_path_comes_back():
    poses = nominal_poses(parse_path("w-2, s-2, right-3, left-1"), TOY.actions.motion)
    # latents: 0 start, 1-2 away, 3-4 back, 5-7 turned, 8 one turn back
    assert returns(poses, TOY.actions.thresholds, 9) == [(3, 1), (4, 0), (8, 6)]
    assert returns(poses, TOY.actions.thresholds, 2) == [(8, 6)]
    still = nominal_poses(torch.zeros(5, dtype=torch.long), TOY.actions.motion)
    assert returns(still, TOY.actions.thresholds, 5) == []


def test_returning_to_the_same_view_scores_higher():
    scenario = toy_scenarios(1)[0]
    labels = parse_path("right-2, w-1, s-1, left-2, none-1")
    scenario = dataclasses.replace(
        scenario, actions=commanded(labels, TOY.actions.motion, torch.tensor([1.0, 1, 0.5, 0.5]))
    )
    spec = dataclasses.replace(TOY, frame_size=(16, 16))
    world = types.SimpleNamespace(spec=spec)
    video = noise_group(1, 16, 16).frames_GF3hw[0]
    past = video[:7]  # latents 0-3, two frames each but the first
    frames = torch.stack([video[7:15], video[7:15].flip(0)])
    for frame, before in ((1, 4), (3, 2), (5, 0), (7, 0)):  # latents 4 to 7 are 2, 1, 0 and 0 again
        frames[1, frame] = past[before]
    group = make_group(world, scenario, frames, past, 4, 8)
    assert group.past_actions is not None and len(group.past_actions) == 4
    scores = CycleClosure(TOY.actions.thresholds)(group)
    assert scores.valid_G.all() and scores.values_G[0] < 0.2 and scores.values_G[1] == pytest.approx(1)
    alone = CycleClosure(TOY.actions.thresholds)(dataclasses.replace(group, past_actions=None))
    assert not alone.valid_G.any()


# What the networks of others would say of 5 frames: walking forward and turning right.
FREE = dataclasses.replace(TOY.actions.motion, level=False)
WALK = nominal_poses(parse_path("w-1, right-1, w+right-1, d-1"), FREE)
MATRIX = torch.tensor([[60.0, 0, 35], [0, 70.0, 21], [0, 0, 1]])


def fake_package(monkeypatch, **modules):
    for name, content in modules.items():
        dotted = name.replace("__", ".")
        for depth in range(1, dotted.count(".") + 1):
            parent = ".".join(dotted.split(".")[:depth])
            monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
        module = types.ModuleType(dotted)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, dotted, module)


class FakeNetwork(torch.nn.Module):
    """Loads like a hub model, from a local folder only."""

    @classmethod
    def from_pretrained(cls, folder):
        assert folder.startswith("/")
        return cls()


def shifted(poses):
    """The same path seen from a world that begins elsewhere."""
    return (
        pose(rotation_from_angles(torch.tensor(30.0), torch.tensor(10.0)), torch.tensor([1.0, 2, 3])) @ poses
    )


class FakeDepthAnything(FakeNetwork):
    def inference(self, image, process_res):
        assert (
            len(image) == 5 and image[0].dtype == np.uint8 and image[0].shape[-1] == 3 and process_res == 70
        )
        rows = torch.linalg.inv(shifted(WALK))[:, :3].numpy()
        size = np.full((5, 42, 70), 4.0, np.float32)
        return types.SimpleNamespace(
            extrinsics=rows, intrinsics=MATRIX.expand(5, 3, 3).numpy(), conf=size, depth=size
        )


PACKAGES = {
    "depth_anything": (DepthAnything3, 42, {"depth_anything_3__api": {"DepthAnything3": FakeDepthAnything}}),
}


@pytest.mark.parametrize("name", PACKAGES)
def test_other_peoples_cameras_become_paths(name, monkeypatch, tmp_path):
    make, height, modules = PACKAGES[name]
    fake_package(monkeypatch, **modules)
    estimator = make(tmp_path, device="cpu", width=70)
    frames = noise_group(2).frames_GF3hw[:, :5]
    path = estimator(frames, torch.zeros(4), every=2)
    torch.testing.assert_close(path.world_from_camera_VS44, WALK[::2].expand(2, 3, 4, 4), atol=1e-5, rtol=0)
    intrinsics = torch.tensor([60 / 70, 70 / height, 35 / 70, 21 / height])
    torch.testing.assert_close(path.intrinsics_VS4, intrinsics.expand(2, 3, 4))
    torch.testing.assert_close(path.confidence_VS, torch.full((2, 2), 0.75))
    with pytest.raises(ValueError, match="1 \\+ 3 S"):
        estimator(frames, torch.zeros(4), every=3)
    with pytest.raises(UserError, match=r"no weights at .*nowhere"):
        make(tmp_path / "nowhere", device="cpu")


@pytest.mark.parametrize("name", PACKAGES)
def test_unrelated_weights_give_one_sentence_with_their_path(name, monkeypatch, tmp_path):
    class Damaged(FakeNetwork):
        @classmethod
        def from_pretrained(cls, folder):
            raise RuntimeError("size mismatch for head.weight\n\tand many more lines")

    make, _, modules = PACKAGES[name]
    fake_package(
        monkeypatch,
        **{m: {k: Damaged if isinstance(v, type) else v for k, v in c.items()} for m, c in modules.items()},
    )
    with pytest.raises(
        UserError, match=r"cannot use the weights at .* \(size mismatch for head.weight\): download"
    ):
        make(tmp_path, device="cpu")


@pytest.mark.parametrize("make", [DepthAnything3, Hpsv3, Lpips])
def test_missing_packages_say_how_to_get_them(make, monkeypatch, tmp_path):
    for name in ("depth_anything_3", "hpsv3", "lpips"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"needs the Python module .*: .*(pip|PYTHONPATH)"):
        make(tmp_path)


def test_hpsv3_scores_frames_for_caption_or_sentence(monkeypatch, tmp_path):
    asked = []

    class Inferencer:
        def __init__(self, config_path, checkpoint_path, device):
            assert (config_path, device) == (None, "cpu") and checkpoint_path == str(tmp_path)

        def reward(self, image_paths, prompts):
            asked.extend(prompts)
            return torch.tensor([[float(np.mean(picture)), 9.0] for picture in image_paths])

    fake_package(monkeypatch, hpsv3={"HPSv3RewardInferencer": Inferencer})
    fake_package(monkeypatch, PIL__Image={"fromarray": lambda picture: picture})
    group = dataclasses.replace(noise_group(5), caption="a cave")
    values = FrameScore(Hpsv3(tmp_path, device="cpu"))(group).values_G
    expected = group.frames_GF3hw[:, 3::4].float().mean((1, 2, 3, 4))
    torch.testing.assert_close(values, expected)
    quality = Hpsv3(tmp_path, QUALITY_SENTENCE, device="cpu")
    assert (
        ScoreDrift(quality).name == "hpsv3_quality_drift" and (ScoreDrift(quality)(group).values_G <= 0).all()
    )
    assert asked == ["a cave"] * 20 + [QUALITY_SENTENCE] * 21


def test_lpips_with_a_random_backbone(tmp_path):
    vision = installed("torchvision.models")
    installed("lpips")
    torch.manual_seed(0)
    backbone = vision.alexnet(weights=None)
    torch.save(backbone.state_dict(), tmp_path / "alexnet.pth")
    lpips = Lpips(tmp_path / "alexnet.pth")
    group = with_truth(noise_group())
    torch.testing.assert_close(
        lpips.net.net.get_submodule("slice2.3").weight, backbone.features[3].weight, check_stride=False
    )
    scores = TrueContinuation(lpips, "lpips")(group)
    assert scores.values_G[0] < -1e-3 and scores.values_G[1] == pytest.approx(0, abs=1e-6)
    check_critic(TrueContinuation(lpips, "lpips"), group)
    torch.save({"features.0.weight": backbone.features[0].weight}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="no AlexNet"):
        Lpips(tmp_path / "other.pth")
    for name in ("broken.pth", "broken.safetensors"):
        (tmp_path / name).write_bytes(b"no weights at all")
        with pytest.raises(UserError, match=rf"LPIPS cannot use the weights at .*{name}"):
            Lpips(tmp_path / name)


def test_depth_anything_3_with_random_weights(tmp_path):
    api = installed("depth_anything_3.api")
    torch.manual_seed(0)
    api.DepthAnything3(model_name="da3-small").save_pretrained(tmp_path)
    estimator = DepthAnything3(tmp_path, device="cpu", width=112)
    path = estimator(noise_group(2).frames_GF3hw[:, :5], torch.zeros(4), every=4)
    assert path.world_from_camera_VS44.shape == (2, 2, 4, 4) and path.world_from_camera_VS44.isfinite().all()
    torch.testing.assert_close(
        path.world_from_camera_VS44[:, 0], torch.eye(4).expand(2, 4, 4), atol=1e-4, rtol=0
    )
    assert ((path.confidence_VS >= 0) & (path.confidence_VS < 1)).all()
