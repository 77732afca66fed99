"""An inverse-dynamics critic against the engine's truth, next to the specialised reader of the same world.

``python benchmarks/inverse_dynamics.py --data data/hands --critic critics/hands/inverse_dynamics.safetensors``
reads episodes of a split of an embedded world's data set. For every control it prints how often the way is read
right (down, rest, up; the mean of the three) by the specialised reader and by the critic, and how often the
commands and the engine's own motion agree. ``--as`` says which of these two is the truth.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worldcompass.commands._recorded import spec_and_reader
from worldcompass.recipes.catalogue import DOOM, HANDS
from worldcompass.rewards.inverse_dynamics.critic import InverseDynamics, read
from worldcompass.rewards.inverse_dynamics.measure import mean_of
from worldcompass.rewards.inverse_dynamics.sight import windows
from worldcompass.runs.metrics import read_object
from worldcompass.statistics import Estimate
from worldcompass.worlds.small.data import CARD, load


def hands_sides(data: Path, split: str, most: int) -> tuple[list[Tensor], dict[str, list[Tensor]]]:
    """Videos (F, 3, h, w) and the signs (M - 1, 4) by commands, by the gripper's true motion and by the reader."""
    from worldcompass.worlds.hands.actions import ACTIONS
    from worldcompass.worlds.hands.critics.following import GripperReader
    from worldcompass.worlds.hands.critics.weights import shared_reader
    from worldcompass.worlds.hands.facts import CONTROLS, labels_of
    from worldcompass.worlds.hands.recording import FORMAT

    reader, videos = GripperReader(shared_reader()), list[Tensor]()
    sides: dict[str, list[Tensor]] = {"commanded": [], "moved": [], "specialised": []}
    for shard in load(data, split, FORMAT):
        for episode in list(shard)[: most - len(videos)]:
            frames = torch.from_numpy(episode.frames_Fhw3.copy()).movedim(-1, 1)
            videos.append(frames)
            sides["commanded"].append(torch.from_numpy(episode.controls_M4.copy())[1:])
            sides["moved"].append(torch.from_numpy(CONTROLS[labels_of(episode.grip_F4)]).float()[1:])
            found = reader.labels(frames[None])[0, 1:]
            sides["specialised"].append(torch.tensor([ACTIONS.signs(int(label)) for label in found]).float())
    return videos, sides


def doom_sides(data: Path, split: str, most: int) -> tuple[list[Tensor], dict[str, list[Tensor]]]:
    """As ``hands_sides``, of a camera: right, forward, yaw and pitch."""
    from worldcompass.geometry import motion_signs
    from worldcompass.worlds.doom.critics.motion import LabelReader
    from worldcompass.worlds.doom.critics.weights import load_critics
    from worldcompass.worlds.doom.engine.collect import FORMAT, true_labels

    reader, videos = LabelReader(load_critics().motion), list[Tensor]()
    sides: dict[str, list[Tensor]] = {"commanded": [], "moved": [], "specialised": []}
    for shard in load(data, split, FORMAT):
        for episode in list(shard)[: most - len(videos)]:
            frames = torch.from_numpy(episode.frames_Fhw3.copy()).movedim(-1, 1)
            videos.append(frames)
            sides["commanded"].append(motion_signs(torch.from_numpy(episode.commands_M.astype("int64")))[1:])
            sides["moved"].append(motion_signs(true_labels(episode.cameras_F5))[1:])
            sides["specialised"].append(motion_signs(reader.labels(frames[None])[0, 1:]))
    return videos, sides


def right(signs_NA: Tensor, true_NA: Tensor, whose_N: Tensor) -> list[Estimate]:
    """How often the way of every control is right, and then how often those of all are."""
    hits = (signs_NA == true_NA).float()
    each = [mean_of(hits[:, axis], true_NA[:, axis], whose_N) for axis in range(hits.shape[1])]
    return [*each, mean_of(hits.prod(1), torch.zeros(len(hits), dtype=torch.long), whose_N)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--critic", type=Path, required=True)
    parser.add_argument("--split", default="heldout")
    parser.add_argument("--episodes", type=int, default=75)
    parser.add_argument("--as", choices=("commanded", "moved"), default="moved", dest="truth")
    args = parser.parse_args()
    world = read_object(args.data / CARD, "the record of a dataset").get("world", DOOM)
    spec, _ = spec_and_reader(world)
    critic: Any = InverseDynamics.load(args.critic, spec)
    videos, sides = (hands_sides if world == HANDS else doom_sides)(args.data, args.split, args.episodes)
    seen = torch.cat([windows(video[None], spec.frames_per_latent)[0] for video in videos])
    panel = critic.facts.panel
    whose = torch.arange(len(videos)).repeat_interleave(torch.tensor([len(x) for x in sides["moved"]]))
    signs = {name: panel.signs(torch.cat(values)) for name, values in sides.items()}
    signs["critic"] = panel.signs(read(critic.net, seen).ways())[:, 0]
    print(f"{len(videos)} episodes of {args.split}, {len(whose)} latents; ways by what was {args.truth}")
    print(f"{'':14}" + "".join(f"{name:>22}" for name in (*spec.actions.axes, "all")))
    for name, found in signs.items():
        if name != args.truth:
            shares = right(found, signs[args.truth], whose)
            print(f"{name:14}" + "".join(f"{share.in_percent():>22}" for share in shares))


if __name__ == "__main__":
    main()
