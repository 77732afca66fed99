"""What the world model is worth: held-out episodes imagined from their first picture and their controls alone.

    python pusht_measure.py --data data/pusht                                  # the weights beside this file
    python pusht_measure.py --data data/pusht --weights runs/pusht --films out
    python pusht_measure.py --data data/pusht --weights runs/pusht_rl --before runs/pusht

Nothing but the start and the controls is given, for eight seconds. The reader says where agent and T are in every
picture, and the environment knows where they should be.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from pusht_reader import Read, StateReader, errors, load_reader, shape
from pusht_recording import FORMAT, PushEpisode
from pusht_world import FPS, HERE, PushWorld, controls_of, make
from worldcompass.evaluate import imagine_all
from worldcompass.statistics import Estimate, bootstrap, number, resamples
from worldcompass.types import Scenario, Truth
from worldcompass.worlds.small.data import load

AT = (1, 5, 10, 20, 30, 40)  # latents after the start that are looked at, as far as the videos go
WORLD = "world model"
EVERY = 4  # latents between two pictures of a film


def episodes_of(data: Path, split: str, count: int) -> list[PushEpisode]:
    """The first episodes of a split, taken from all shards in turn."""
    shards = load(data, split, FORMAT)
    found = [shard[row] for row in range(max(map(len, shards))) for shard in shards if row < len(shard)]
    return found[:count]


def scenario_of(name: str, episode: PushEpisode) -> Scenario:
    """An episode as a start, its controls, and the environment's own continuation."""
    frames = torch.from_numpy(np.array(episode.frames_Fhw3)).movedim(-1, 1)
    actions = controls_of(episode)
    return Scenario(name, actions, image_3hw=frames[0], truth=Truth(frames, actions))


def scenarios_of(data: Path, split: str, count: int, latents: int, first: int = 0) -> list[Scenario]:
    """Some latents of the first episodes of a split, from ``first`` on."""
    windows = [e.window(first, first + latents, 1) for e in episodes_of(data, split, count)]
    return [scenario_of(f"{split}/{index}", window) for index, window in enumerate(windows)]


def psnr(frames: Tensor, true: Tensor) -> np.ndarray:
    """Of each picture in dB, at most 60."""
    error = (frames.float() - true.float()).square().mean((-3, -2, -1)) / 255**2
    return (-10 * error.clamp_min(1e-6).log10()).numpy()


def measured(
    videos_VF3hw: Tensor, true_VF3hw: Tensor, states_VF5: np.ndarray, reader: StateReader
) -> dict[str, np.ndarray]:
    """Errors of every picture of videos, (V, F) each; see ``errors`` and ``shape``."""
    size = videos_VF3hw.shape[:2]
    frames = videos_VF3hw.flatten(0, 1)
    read: Read = reader.read(frames)
    found = errors(read, states_VF5.reshape(-1, 5)) | {"shape": shape(frames, read)}
    return {name: values.reshape(size) for name, values in found.items()} | {
        "psnr": psnr(videos_VF3hw, true_VF3hw)
    }


def table(sides: dict[str, dict[str, np.ndarray]], at: Sequence[int]) -> list[str]:
    """One line for each measure and side: means at some latents, with intervals over episodes at the last one."""
    rows = resamples([str(i) for i in range(len(next(iter(sides.values()))["psnr"]))])
    lines = ["".join([f"{'':22s}", *(f"{latent / FPS:>8.1f} s" for latent in at)])]
    for name in ("agent", "T", "angle", "shape", "psnr"):
        for side, values in sides.items():
            means = [values[name][:, latent].mean() for latent in at]
            last = values[name][:, at[-1]]
            interval = bootstrap(last[rows].mean(1), float(last.mean()), len(last))
            cells = "".join(f"{number(mean):>10s}" for mean in means)
            lines.append(f"{name:6s}{side:16s}{cells}   {span(interval)}")
    return lines


def changes(before: dict[str, np.ndarray], after: dict[str, np.ndarray], at: Sequence[int]) -> list[str]:
    """One line for each measure: its change on the same episodes, with an interval over them, at some latents."""
    rows = resamples([str(i) for i in range(len(before["psnr"]))])
    lines = ["".join([f"{'change':8s}", *(f"{f'{latent / FPS:.1f} s':>31s}" for latent in at)])]
    for name in ("agent", "T", "angle", "shape", "psnr"):
        cells = []
        for latent in at:
            change = after[name][:, latent] - before[name][:, latent]
            interval = bootstrap(change[rows].mean(1), float(change.mean()), len(change))
            cells.append(f"{number(interval.mean)} {span(interval)}")
        lines.append("".join([f"{name:8s}", *(f"{cell:>31s}" for cell in cells)]))
    return lines


def span(estimate: Estimate) -> str:
    """Its interval in brackets."""
    return f"[{number(estimate.low)}, {number(estimate.high)}]"


def film(videos: Sequence[Tensor], every: int = EVERY, scale: int = 2) -> np.ndarray:
    """Equally long videos below one another, every so many pictures, uint8 sRGB."""
    rows = [np.hstack(list(video[::every].movedim(1, -1).numpy())) for video in videos]
    return cv2.resize(np.vstack(rows), None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)


def write_films(folder: Path, true_VF3hw: Tensor, imagined_VF3hw: Tensor, per_page: int = 6) -> None:
    """Pages of films: the environment, and the world model below it."""
    folder.mkdir(parents=True, exist_ok=True)
    for page, first in enumerate(range(0, len(true_VF3hw), per_page)):
        part = slice(first, first + per_page)
        pairs = [video for pair in zip(true_VF3hw[part], imagined_VF3hw[part], strict=True) for video in pair]
        cv2.imwrite(str(folder / f"film_{page}.png"), film(pairs)[..., ::-1])


def measure(
    world: PushWorld, reader: StateReader, data: Path, episodes: int, latents: int, seed: int = 0
) -> tuple[dict[str, dict[str, np.ndarray]], Tensor, Tensor]:
    """Measures of the environment's own videos, the world's, and the start repeated; and both kinds of videos."""
    windows = [e.window(0, latents, 1) for e in episodes_of(data, "heldout", episodes)]
    scenarios = [scenario_of(f"heldout/{index}", window) for index, window in enumerate(windows)]
    true = torch.stack([s.truth.frames_F3hw for s in scenarios if s.truth is not None])
    states = np.stack([np.asarray(window.state_M5, float) for window in windows])
    imagined = imagine_all(world, scenarios, seed)
    repeated = true[:, :1].expand_as(true)
    sides = {"environment": true, WORLD: imagined, "start repeated": repeated}
    return {name: measured(v, true, states, reader) for name, v in sides.items()}, true, imagined


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("data/pusht"), metavar="FOLDER")
    parser.add_argument(
        "--weights",
        type=Path,
        default=None,
        metavar="FOLDER",
        help="or a run (default: those beside this file)",
    )
    parser.add_argument(
        "--before", type=Path, default=None, metavar="FOLDER", help="other weights, to show what changed"
    )
    parser.add_argument("--reader", type=Path, default=HERE / "weights", metavar="FOLDER")
    parser.add_argument("--episodes", type=int, default=48, metavar="N")
    parser.add_argument("--films", type=Path, default=None, metavar="FOLDER", help="where to draw films")
    parser.add_argument("--quick", action="store_true", help="two short episodes, to see that it works")
    args = parser.parse_args(arguments)
    episodes, latents = (2, 6) if args.quick else (args.episodes, 41)
    reader, at = load_reader(args.reader), [latent for latent in AT if latent < latents]
    sides, true, imagined = measure(make(args.weights), reader, args.data, episodes, latents)
    print("\n".join(table(sides, at)))
    if args.before:
        before = measure(make(args.before), reader, args.data, episodes, latents)[0]
        print("\n".join(["", *changes(before[WORLD], sides[WORLD], at[1::2])]))
    if args.films:
        write_films(args.films, true, imagined)


if __name__ == "__main__":
    main()
