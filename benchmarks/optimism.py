"""How much the released best-of-three action reward flatters, against what the engine really did.

``python benchmarks/optimism.py`` plays videos on the unseen maps at 320 x 240 and reads every chunk's camera once,
frame by frame, with the OpenCV odometry (an arbitrary length unit, as the released code's estimators have). Each
chunk is then scored for its own commands and for those of every other chunk; the last rows read the same chunks
latent by latent with the embedded estimator. The truth is the same measure (mean of translation and rotation
accuracy) with the engine's own labels in the place of the estimator's. Optimism is score minus truth, with 95%
bootstrap intervals over videos. "Choosing" is the part that comes from the choice alone: best of three minus
whichever of the three is best for all chunks together. The one threshold is calibrated on the critics' maps.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import torch

from worldcompass.audit.clips import Clip, clips_of
from worldcompass.audit.degradations import PICTURE
from worldcompass.audit.measures import rank_correlation
from worldcompass.rewards.actions import ActionAccuracy, mean_of_both
from worldcompass.rewards.best_of_three import MOVES, TURN_DEG, BestOfThree
from worldcompass.rewards.cameras import Remembering, calibrated_thresholds
from worldcompass.rewards.odometry import Odometry
from worldcompass.seeding import generator_for
from worldcompass.types import Scenario
from worldcompass.worlds.doom.engine.engine import Engine
from worldcompass.worlds.doom.engine.facts import FRAMES_PER_LATENT, THRESHOLDS
from worldcompass.worlds.doom.engine.maps import CRITIC, UNSEEN, DoomMap
from worldcompass.worlds.doom.engine.scenarios import draw
from worldcompass.worlds.doom.rewards.cameras import DoomCameras

LATENTS, RESAMPLES = 12, 2000


def videos(maps: Sequence[DoomMap], per_map: int, size: tuple[int, int], seed: int) -> list[Scenario]:
    """Videos in which the engine carried out every command exactly."""
    found = []
    for doom_map in maps:
        rng, places, count = np.random.default_rng((seed, *doom_map.name.encode())), [], 0
        with Engine(doom_map, frame_size=size) as engine:
            while count < per_map:
                drawn = draw(engine, rng, f"optimism/{doom_map.name}/{count}", "mixed", LATENTS, places)
                if drawn is not None:
                    found.append(drawn[1])
                    count += 1
    return found


def measures(frame_move: float, latent_move: float, estimator: Remembering) -> dict[str, object]:
    """Critics by the words of the table; lengths are the odometry's, one for frames and one for latents."""
    embedded = Remembering(DoomCameras())
    around = tuple(round(frame_move * share, 4) for share in (0.4, 1.0, 2.0))  # as the released ones lie
    return {
        "best of three, released thresholds": BestOfThree(estimator),
        **{f"{move:g} alone": BestOfThree(estimator, moves=(move,)) for move in MOVES},
        "best of three, around the calibrated one": BestOfThree(estimator, moves=around),
        **{f"{move:g} alone (around)": BestOfThree(estimator, moves=(move,)) for move in around},
        "ActionAccuracy, one calibrated threshold": ActionAccuracy(
            estimator, replace(THRESHOLDS, move=latent_move), least_confidence=0.0
        ),
        "best of three, embedded estimator": BestOfThree(
            embedded, tuple(THRESHOLDS.move * move / MOVES[1] for move in MOVES), 4 * TURN_DEG, every=4
        ),
        "ActionAccuracy, embedded estimator": ActionAccuracy(embedded, THRESHOLDS, least_confidence=0.0),
    }


def calibrate(scenarios: Sequence[Scenario], every: int) -> float:
    """The length that best tells moving from standing over ``every`` frames."""
    paths, labels = [], []
    for scenario in scenarios:
        assert scenario.truth is not None
        intrinsics = scenario.actions.intrinsics_K4[0]
        paths.append(Odometry(per_view=True)(scenario.truth.frames_F3hw[None], intrinsics, every))
        labels.append(scenario.actions.labels_K[1:].repeat_interleave(FRAMES_PER_LATENT // every))
    return calibrated_thresholds(paths, labels, THRESHOLDS).move


def spoilt(clip: Clip, kind: str) -> Clip:
    """The same chunk and the frame before it, as a worse camera would have seen them."""
    seen = torch.cat([clip.past_F3hw[-1:], clip.frames_F3hw])
    made = PICTURE[kind](seen, seen[:1], 0.5, generator_for("optimism", kind, clip.name))
    return replace(clip, past_F3hw=made[:1], frames_F3hw=made[1:])


def scored(
    clips: Sequence[Clip], frame_move: float, latent_move: float
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Scores (clips, command sets) of every measure, and the truth."""
    estimator = Remembering(Odometry(per_view=True))
    critics = measures(frame_move, latent_move, estimator)
    found = {name: np.zeros((len(clips), len(clips))) for name in critics}
    truth = np.zeros((len(clips), len(clips)))
    for row, clip in enumerate(clips):
        frame_by_frame = [n for n, c in critics.items() if isinstance(c, BestOfThree)]
        for name in [
            *frame_by_frame,
            *(n for n in critics if n not in frame_by_frame),
        ]:  # one look for each pace
            for column, other in enumerate(clips):
                scores = critics[name](clip.group([clip.frames_F3hw], other.actions))
                found[name][row, column] = float(scores.values_G[0])
        for column, other in enumerate(clips):
            truth[row, column] = float(mean_of_both(clip.actions.labels_K, other.actions.labels_K).mean())
        print(f"\r{row + 1}/{len(clips)} chunks", end="", flush=True)
    print("\r", end="")
    return found, truth


def optimism(excess_CC: np.ndarray, owners: np.ndarray, seed: int = 0) -> str:
    """Mean over other commands with its interval over videos."""
    others = ~np.eye(len(excess_CC), dtype=bool)
    rows = np.array([excess[keep].mean() for excess, keep in zip(excess_CC, others, strict=True)])
    means = np.array([rows[owners == owner].mean() for owner in np.unique(owners)])
    picked = means[np.random.default_rng(seed).integers(len(means), size=(RESAMPLES, len(means)))].mean(1)
    low, high = np.percentile(picked, [2.5, 97.5])
    return f"{rows.mean():+.3f} [{low:+.3f}, {high:+.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", type=int, default=3, help="of every map (default: %(default)s)")
    parser.add_argument("--size", type=int, nargs=2, default=(240, 320), metavar=("H", "W"))
    parser.add_argument("--seed", type=int, default=0)
    text = "spoil the frames in this way, at half strength: the engine's labels stay true"
    parser.add_argument("--spoil", choices=("blurred", "noisy", "flickering"), help=text)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    known = videos(CRITIC, 1, tuple(args.size), args.seed)
    frame_move, latent_move = calibrate(known, 1), calibrate(known, FRAMES_PER_LATENT)
    shown = videos(UNSEEN, args.videos, tuple(args.size), args.seed)
    clips = clips_of(shown, [s.truth.frames_F3hw for s in shown if s.truth is not None])
    if args.spoil:
        clips = [spoilt(clip, args.spoil) for clip in clips]
    found, truth = scored(clips, frame_move, latent_move)
    owners, own = np.array([clip.video for clip in clips]), np.eye(len(clips), dtype=bool)
    print(
        f"{len(clips)} chunks of {len(shown)} videos; calibrated: {frame_move:.4f} a frame, {latent_move:.4f} a"
        " latent"
    )
    print(
        "| measure | own commands (truth 1) | other commands | truth | optimism | mean error | rank correlation |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, scores in found.items():
        ranks = np.mean([rank_correlation(s, t) for s, t in zip(scores, truth, strict=True)])
        print(
            f"| {name} | {scores[own].mean():.3f} | {scores[~own].mean():.3f} | {truth[~own].mean():.3f} |"
            f" {optimism(scores - truth, owners)} | {np.abs(scores - truth)[~own].mean():.3f} | {ranks:.2f} |"
        )
    names = list(found)
    for start, words in ((0, "released thresholds"), (4, "around the calibrated one")):
        single = max((found[name] for name in names[start + 1 : start + 4]), key=lambda s: s[own].mean())
        print(
            f"choosing, {words}: {optimism(found[names[start]] - single, owners)} for other commands,"
            f" {(found[names[start]] - single)[own].mean():+.3f} for their own"
        )


if __name__ == "__main__":
    main()
