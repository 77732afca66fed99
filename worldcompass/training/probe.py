"""Probes: score a few fixed videos with a held-out judge during training, to detect reward hacking.

Every probe also saves a clip that shows the scenarios before training and after the step, next to each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldcompass.media import video
from worldcompass.parallel.team import Team
from worldcompass.rollout import batches, imagine_video
from worldcompass.runs.folder import RunFolder
from worldcompass.runs.metrics import Judged
from worldcompass.seeding import Key
from worldcompass.training.run import Run
from worldcompass.types import Scenario

MIN_VIDEOS = 4  # fewer give no interval of a change
SHOWN = 4  # scenarios in a clip
SHOWN_WIDTH = 128  # pixels: smaller frames are enlarged by whole factors up to this width


@dataclass(frozen=True)
class HeldOut:
    """A judge and the scenarios that it scores; a few short ones suffice, as each probe imagines all of them."""

    judge: Callable[[Tensor, Sequence[Scenario]], Tensor] | None
    """(videos uint8 (V, F, 3, h, w), scenarios) -> finite scores (V,), higher is better. It must be independent of
    the critics. When None, probes save clips without scores."""
    scenarios: Sequence[Scenario]
    """Four or more of one length, used neither in training nor in the final evaluation."""
    num_steps: int | None = None
    """Denoising steps; the world's own when None."""

    def __post_init__(self) -> None:
        lengths = {len(scenario.actions) for scenario in self.scenarios}
        if (self.judge is not None and len(self.scenarios) < MIN_VIDEOS) or len(lengths) > 1:
            raise ValueError(
                f"expected {MIN_VIDEOS} or more held-out scenarios of one length, got {len(self.scenarios)} of "
                f"lengths {sorted(lengths)}"
            )


def unscored_clips(scenarios: Sequence[Scenario]) -> HeldOut:
    """The first training scenarios, for clips only: training scenarios must not be judged."""
    same_length = [s for s in scenarios if len(s.actions) == len(scenarios[0].actions)]
    return HeldOut(None, same_length[:SHOWN])


def probe(
    run: Run,
    held_out: HeldOut,
    folder: RunFolder,
    step: int,
) -> Judged | None:
    """Imagine the videos with the checkpoint weights and fixed noise, judge them and save a clip.

    Args:
        run: gives the checkpoint weights and the precision.
        folder: of the run, which gets the clip.
        step: number of steps that are done.

    Returns:
        The mean and single scores; None without a judge.

    Raises:
        ValueError: when the judge does not return one finite score per video.
    """
    world, key = run.world, ("held out", run.config.seed)
    with run.policy.checkpoint(), run.autocast():
        videos = _imagined(run, held_out, key)
    judged = (
        None if held_out.judge is None else _judged(held_out.judge(videos, held_out.scenarios), len(videos))
    )
    team = Team.current()  # all processes imagine, the main one writes
    before, clip, fps = folder.untrained, folder.clip(step), world.spec.fps
    keys = [world.spec.keys_of_frames(scenario.actions) for scenario in held_out.scenarios]
    shown = _shown(videos, keys)
    if team.agree(not _fits(before, shown)):
        with run.policy.reference(), run.autocast():
            base = _imagined(run, held_out, key)
        if team.is_main:
            video.write_mp4(before, _shown(base, keys), fps)
    if team.is_main:
        columns = [video.read_video(before), shown]
        video.write_mp4(clip, video.side_by_side(columns, ["before", clip.stem], scale=1), fps)
    return judged


def _imagined(run: Run, held_out: HeldOut, key: tuple[Key, ...]) -> Tensor:
    """The videos, as many at once as this process has groups in a step, so that they fit where those do."""
    most = len(run.team.share(range(run.config.sampling.prompts_per_step)))
    parts = batches(run.world, held_out.scenarios, most)
    return torch.cat([imagine_video(run.world, part, key, num_steps=held_out.num_steps) for part in parts])


def _judged(scores_V: Tensor, num_videos: int) -> Judged:
    scores = scores_V.double().cpu()
    if scores.shape != (num_videos,) or not bool(scores.isfinite().all()):
        raise ValueError(f"the held-out judge must return {num_videos} finite scores, got {scores}")
    return Judged(scores.mean().item(), tuple(round(float(value), 6) for value in scores))


def due(every: int, step: int) -> bool:
    """Whether to probe after this step: the first and every ``every``-th; never for 0."""
    return every > 0 and (step == 1 or step % every == 0)


def _fits(clip: Path, shown: np.ndarray) -> bool:
    """Whether a clip exists and its frames are as large; earlier versions drew no keys."""
    return clip.is_file() and video.read_video(clip, max_frames=1).shape[-2:] == shown.shape[-2:]


def _shown(videos_VF3hw: Tensor, keys_VF: Sequence[Sequence[str]]) -> np.ndarray:
    """The first videos stacked vertically above their commanded keys, with small frames enlarged."""
    scale = max(1, SHOWN_WIDTH // videos_VF3hw.shape[-1])
    rows = [video.enlarge(video.to_array(frames), scale) for frames in videos_VF3hw[:SHOWN]]
    return video.stack_rows([video.above_keys(*row) for row in zip(rows, keys_VF[:SHOWN], strict=True)])
