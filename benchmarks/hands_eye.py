"""How often the eye and the task judge of Hands find things: in the engine's frames, and through the autoencoder.

``python benchmarks/hands_eye.py`` records held-out episodes and prints, for each kind of thing, the share of
frames in which it is found within 3 pixels of its visible middle, among those that show 30% of its outline.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from worldcompass.media.progress import progress
from worldcompass.worlds.hands.collect import record_episode
from worldcompass.worlds.hands.engine import Engine
from worldcompass.worlds.hands.facts import ABSENT_POSE, FRAMES_PER_LATENT, THINGS
from worldcompass.worlds.hands.sight import ColourEye
from worldcompass.worlds.hands.silhouettes import silhouettes
from worldcompass.worlds.hands.splits import SPLITS, scene
from worldcompass.worlds.hands.starts import draw_start
from worldcompass.worlds.hands.task_judge import find
from worldcompass.worlds.hands.world import HandsWorld, load_hands_world

NEAR = 3.0  # pixels
SEEN = 0.3  # of a thing's outline


def truth(grip_4: np.ndarray, things_T7: np.ndarray, kind: int) -> tuple[float, np.ndarray]:
    """Which share of a thing's outline is seen, and the middle of that, (column, row)."""
    alone = np.where(np.arange(len(THINGS))[:, None] == kind, things_T7, ABSENT_POSE)
    far_gripper = np.array([9.0, 9.0, 0.1, 0.1])
    whole = (silhouettes(far_gripper, alone) == kind).sum()
    rows, columns = np.nonzero(silhouettes(grip_4, things_T7) == kind)
    middle = np.array([columns.mean(), rows.mean()]) if len(rows) else np.full(2, np.nan)
    return len(rows) / max(1, int(whole)), middle


@torch.inference_mode()
def coded(world: HandsWorld, frames_N3hw: torch.Tensor) -> torch.Tensor:
    """Frames through the autoencoder."""
    pictures = world.autoencoder.pictures(world.autoencoder.encode(frames_N3hw.float() / 255))
    return (pictures.clamp(0, 1) * 255).round().byte()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--episodes", type=int, default=60, help="(default: %(default)s)")
    parser.add_argument("--split", choices=list(SPLITS), default="heldout", help="(default: %(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    world = load_hands_world()
    hits: dict[tuple[str, str, str], list[bool]] = {}
    with Engine() as engine, progress("episodes", args.episodes) as advance:
        for number in range(args.episodes):
            episode = record_episode(engine, args.split, number)
            start_scene = scene(args.split, number)
            eye = ColourEye(start_scene, draw_start(engine, start_scene))
            sel = np.arange(0, len(episode.frames_Fhw3), FRAMES_PER_LATENT)
            frames = torch.from_numpy(episode.frames_Fhw3[sel]).movedim(-1, 1)
            for source, shown in (("engine", frames), ("autoencoder", coded(world, frames))):
                found = {"eye": eye(shown), "task judge": find(shown, start_scene).place_FT2}
                for row, frame in enumerate(sel):
                    for kind in np.flatnonzero(episode.present_T):
                        part, middle = truth(episode.grip_F4[frame], episode.things_FT7[frame], int(kind))
                        if part >= SEEN:
                            for who, places in found.items():
                                near = bool(np.linalg.norm(places[row, kind] - middle) < NEAR)
                                hits.setdefault((who, source, THINGS[kind]), []).append(near)
            advance()
    print(f"{'found by':<12} {'frames of':<12} {'thing':<8} {'shown':>6} {'found':>7}")
    for who, source in (
        ("eye", "engine"),
        ("eye", "autoencoder"),
        ("task judge", "engine"),
        ("task judge", "autoencoder"),
    ):
        rows = {kind: hits.get((who, source, kind), []) for kind in THINGS}
        rows["all"] = [hit for row in rows.values() for hit in row]
        for kind, own in rows.items():
            print(f"{who:<12} {source:<12} {kind:<8} {len(own):>6} {np.mean(own):>7.1%}")


if __name__ == "__main__":
    main()
