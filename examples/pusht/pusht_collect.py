"""Record episodes of PushT: scripts that push the T about, with mistakes.

    python pusht_collect.py --out data/pusht --episodes 800

The same command goes on after a stop. Episode ``number`` of a split is a function of these two alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from pusht_engine import Engine, random_state
from pusht_recording import FORMAT, PER_LATENT, SIZE, PushEpisode
from pusht_scripts import Pusher, Script, Shaky, Wander, random_goal, to_goal
from worldcompass.worlds.small.data import claim, load, write_shard
from worldcompass.worlds.small.data import collect as collect_shards

KINDS = {"goal": 0.3, "elsewhere": 0.45, "wander": 0.25}
"""Where the T is pushed, with the share of episodes; ``wander`` bumps into it at random."""
SHAKY_SHARE = 0.5  # of pushing episodes in which some controls are replaced by any
EPISODE_LATENTS = 41  # the start and eight seconds
PER_SHARD = 25
SPLITS = {"train": 0, "heldout": 1}
MEDIAN_EVERY = 8  # pictures of an episode, one of which enters the median
FRAME_BYTES = SIZE * SIZE * 3


def script_of(kind: str, rng: np.random.Generator) -> Script:
    """What the agent does in an episode."""
    speed = float(rng.uniform(0.35, 1.0))
    if kind == "wander":
        return Wander(rng, speed)
    goal = to_goal() if kind == "goal" else random_goal(rng)
    script = Pusher(goal, speed, turns=float(rng.choice([0.0, 1.0, 1.0])))
    return Shaky(script, rng, float(rng.uniform(0.05, 0.4))) if rng.random() < SHAKY_SHARE else script


def record_episode(engine: Engine, split: str, number: int, latents: int = EPISODE_LATENTS) -> PushEpisode:
    """One episode of a split."""
    rng = np.random.default_rng((SPLITS[split], number))
    kind = int(rng.choice(len(KINDS), p=list(KINDS.values())))
    script = script_of(list(KINDS)[kind], rng)
    seen, controls = [engine.begin(random_state(rng))], [np.zeros((PER_LATENT, 2))]
    while len(seen) < latents:
        controls.append(np.clip(script(seen[-1].state_5), -1, 1))
        seen.append(engine.go(controls[-1]))
    return PushEpisode(
        np.stack([moment.picture_hw3 for moment in seen]),
        np.stack(controls).astype(np.float32),
        np.stack([moment.state_5 for moment in seen]).astype(np.float32),
        np.uint8(kind),
    )


def record_shard(plan: tuple[Path, str, range, int]) -> None:
    """The episodes of one shard."""
    folder, split, numbers, latents = plan
    engine = Engine()
    write_shard(folder, [record_episode(engine, split, number, latents) for number in numbers])


def collect(out: Path, episodes: int, latents: int = EPISODE_LATENTS, workers: int | None = None) -> None:
    """Record what is missing: ``episodes`` of the split ``train``, and an eighth of them held out.

    Raises:
        UserError: when the folder holds something else, or the disk is too full.
    """
    counts = {"train": episodes, "heldout": max(8, episodes // 8)}
    plans = {
        out / split / f"{first // PER_SHARD:05d}": range(first, min(count, first + PER_SHARD))
        for split, count in counts.items()
        for first in range(0, count, PER_SHARD)
    }
    missing = sum(len(numbers) for folder, numbers in plans.items() if not folder.is_dir())
    made_by = {"engine": "gym_pusht/PushT-v0", "latents": latents, "kinds": list(KINDS)}
    claim(out, FORMAT, made_by, missing * latents * FRAME_BYTES, "lower --episodes")
    shards = {folder: (folder, folder.parent.name, numbers, latents) for folder, numbers in plans.items()}
    collect_shards(shards, record_shard, workers)
    write_board(out)


def write_board(data: Path) -> None:
    """Write ``board.png``, in each pixel the median of the recordings: the scene without what moves.

    ``pusht_world.py`` reads it from the file of this name beside itself. For a scene of your own, copy it there.
    """
    shards = load(data, "train", FORMAT)
    frames = np.concatenate(
        [np.asarray(episode.frames_Fhw3[::MEDIAN_EVERY]) for shard in shards for episode in shard]
    )
    cv2.imwrite(str(data / "board.png"), np.median(frames, 0).astype(np.uint8)[..., ::-1])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("data/pusht"), metavar="FOLDER")
    parser.add_argument(
        "--episodes", type=int, default=800, metavar="N", help="to learn from; an eighth more is held out"
    )
    parser.add_argument(
        "--workers", type=int, default=None, metavar="N", help="processes (default: usable cores)"
    )
    parser.add_argument("--quick", action="store_true", help="eight short episodes, to see that it works")
    args = parser.parse_args(arguments)
    if args.quick:
        collect(args.out, 8, latents=9, workers=1)
    else:
        collect(args.out, args.episodes, workers=args.workers)


if __name__ == "__main__":
    main()
