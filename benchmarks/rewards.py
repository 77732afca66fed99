"""What each critic costs, and what a round trip through video files would add.

``python benchmarks/rewards.py`` times every critic that is installed on one group of the embedded world (12
candidates, 4 latents, engine frames with a little noise each) and prints milliseconds of processor time per
candidate, which other work on the machine hardly changes: the median of several calls. The last rows give the same
frames to the interaction critic from memory, and through an MP4 and JPEGs as the released code does, and how far
that moves its scores.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from worldcompass.critic import Critic
from worldcompass.media import video
from worldcompass.rewards.actions import ActionAccuracy
from worldcompass.rewards.best_of_three import BestOfThree
from worldcompass.rewards.cycle import CycleClosure
from worldcompass.rewards.formulas import FormulaCritic, keeps_colours, keeps_exposure, keeps_sharpness
from worldcompass.rewards.frame_score import FrameScore, ScoreDrift
from worldcompass.rewards.latency import ResponseLatency
from worldcompass.rewards.odometry import Odometry
from worldcompass.rewards.pose_error import PoseError
from worldcompass.rewards.purity import DirectionPurity
from worldcompass.rewards.quality import flicker_of
from worldcompass.rewards.reference import TrueContinuation, psnr, ssim
from worldcompass.rewards.stability import PictureStability
from worldcompass.types import Group, Truth
from worldcompass.worlds.doom.critics.weights import load_judge
from worldcompass.worlds.doom.engine.facts import ACTIONS, FPS, FRAMES_PER_LATENT, MOTION, THRESHOLDS
from worldcompass.worlds.doom.engine.scenarios import evaluation_plans, replay_all
from worldcompass.worlds.doom.rewards.cameras import DoomCameras
from worldcompass.worlds.doom.rewards.interaction import InteractionFollowing
from worldcompass.worlds.doom.rewards.pickup import PickupFollowing
from worldcompass.worlds.doom.rewards.quality import VisualQuality
from worldcompass.worlds.doom.rewards.realism import EmbeddedRealism

CHUNK, NOISE = 4, 4  # latents; levels of 255 by which candidates differ
JPEG_QUALITY = 75  # of the released code's frames


def engine_group(size: int) -> Group:
    """One chunk of an evaluation scenario, its candidates the engine's frames with noise."""
    scenario = replay_all(evaluation_plans()[:1], 2 * CHUNK)[0]
    assert scenario.truth is not None
    start = FRAMES_PER_LATENT * (CHUNK - 1) + 1
    frames = scenario.truth.frames_F3hw
    noise = NOISE * torch.randn(size, *frames[start:].shape, generator=torch.Generator().manual_seed(0))
    labels = torch.cat(
        [scenario.actions.cameras.labels_K[:CHUNK], torch.tensor([1, 1, 2, 2])]
    )  # comes back, for cycles
    actions = ACTIONS.commanded(labels)
    return Group(
        (frames[start:] + noise).clamp(0, 255).to(torch.uint8),
        frames[:start],
        frames[0],
        actions.latents(CHUNK, 2 * CHUNK),
        FRAMES_PER_LATENT,
        truth=Truth(frames[start:], scenario.truth.actions.latents(CHUNK, len(scenario.truth.actions))),
        past_actions=actions.latents(0, CHUNK),
        instruction="pick up the health pack",
    )


def critics() -> dict[str, Critic]:
    """Every critic that needs nothing but the package, by the words of the table."""
    doom, opencv = DoomCameras(), Odometry(per_view=True)
    return {
        "interaction (embedded)": InteractionFollowing(),
        "actions, embedded estimator": ActionAccuracy(doom, THRESHOLDS),
        "pose_error, embedded estimator": PoseError(doom, MOTION),
        "purity, embedded estimator": DirectionPurity(doom, THRESHOLDS),
        "actions, odometry": ActionAccuracy(opencv, THRESHOLDS),
        "pose_error, odometry": PoseError(Odometry(), MOTION),
        "latency, odometry (every frame)": ResponseLatency(opencv, THRESHOLDS),
        "best_of_three, odometry (every frame)": BestOfThree(opencv),
        "quality (embedded)": VisualQuality(),
        "stability": PictureStability(),
        "sharpness": FormulaCritic(keeps_sharpness),
        "flicker": FormulaCritic(flicker_of),
        "colours": FormulaCritic(keeps_colours),
        "exposure": FormulaCritic(keeps_exposure),
        "realism (embedded)": FrameScore(EmbeddedRealism()),
        "realism drift (embedded)": ScoreDrift(EmbeddedRealism()),
        "psnr to the truth": TrueContinuation(psnr, "psnr"),
        "ssim to the truth": TrueContinuation(ssim, "ssim"),
        "cycle (ssim)": CycleClosure(THRESHOLDS),
        "pickup (embedded)": PickupFollowing(),
    }


def milliseconds(work: Callable[[], object], repeats: int) -> float:
    """Median processor time of a call after one to warm up."""
    times = []
    for _ in range(repeats + 1):
        begun = time.process_time()
        work()
        times.append(1000 * (time.process_time() - begun))
    return statistics.median(times[1:])


def through_files(frames_F3hw: Tensor, folder: Path) -> Tensor:
    """Frames written as an MP4, read back frame by frame, and each through a JPEG."""
    path = video.write_mp4(folder / "candidate.mp4", frames_F3hw, FPS)
    found = []
    for index, frame in enumerate(video.read_video(path)[: len(frames_F3hw)]):
        picture = np.ascontiguousarray(frame.permute(1, 2, 0).numpy()[:, :, ::-1])
        name = str(folder / f"{index}.jpg")
        cv2.imwrite(name, picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        found.append(torch.from_numpy(cv2.imread(name)[:, :, ::-1].copy()).permute(2, 0, 1))
    return torch.stack(found)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--group", type=int, default=12, help="candidates (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="timed calls (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    group = engine_group(args.group)
    print("| critic | ms per candidate | valid |\n|---|---|---|")
    for name, critic in critics().items():
        cost = milliseconds(lambda critic=critic: critic(group), args.repeats) / args.group
        print(f"| {name} | {cost:.2f} | {int(critic(group).valid_G.sum())} of {args.group} |", flush=True)
    judge, (frames, _) = load_judge(), group.transitions()
    cost = milliseconds(lambda: judge.labels(frames), args.repeats) / args.group
    print(f"| judge (evaluation only) | {cost:.2f} | - |")
    critic = InteractionFollowing()
    with tempfile.TemporaryDirectory() as folder:

        def returned() -> Group:
            files = [through_files(candidate, Path(folder)) for candidate in group.frames_GF3hw]
            return replace(group, frames_GF3hw=torch.stack(files))

        trip = milliseconds(returned, args.repeats) / args.group
        direct, after = critic(group).values_G, critic(returned()).values_G
    memory = milliseconds(lambda: critic(group), args.repeats) / args.group
    moved = (after - direct).abs().mean()
    print(f"interaction from memory {memory:.1f} ms per candidate, by MP4 and JPEG {memory + trip:.1f} ms;")
    print(f"the files move a score by {moved:.3f} in the mean, candidates differ by {direct.std():.3f} (std)")


if __name__ == "__main__":
    main()
