"""What the autoencoder lets through: the judge on the engine's evaluation videos, encoded and decoded.

``python benchmarks/autoencoder.py`` prints, per map, PSNR beside that of a flat picture (each frame's mean colour),
sharpness relative to the engine, and the judge's accuracy on the reconstruction beside that on the engine's frames.
No world model on these latents can be expected to score higher than the reconstruction does.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from worldcompass.evaluate import measure
from worldcompass.worlds.doom.critics.motion import LabelReader
from worldcompass.worlds.doom.critics.weights import load_critics, load_judge
from worldcompass.worlds.doom.engine.scenarios import evaluation_plans, replay_all
from worldcompass.worlds.doom.network.autoencoder import Autoencoder
from worldcompass.worlds.doom.world import AUTOENCODER_FILE, SPEC, read_weights, shipped_weights


def psnr(a_F3hw: torch.Tensor, b_F3hw: torch.Tensor) -> float:
    error = (a_F3hw - b_F3hw).square().mean(dim=(1, 2, 3)).clamp_min(1e-8)
    return float((-10 * torch.log10(error)).mean())


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--latents", type=int, default=16, help="length of the videos (16 latents are 61 frames)"
    )
    parser.add_argument("--per-map", type=int, default=2, help="scenarios of each kind and map")
    parser.add_argument("--weights", type=Path, default=shipped_weights() / AUTOENCODER_FILE, metavar="FILE")
    args = parser.parse_args()
    autoencoder = Autoencoder().eval()
    autoencoder.load_state_dict(read_weights(args.weights, autoencoder.state_dict()))
    judge, reader = load_judge(), LabelReader(load_critics().motion)
    plans = [p for p in evaluation_plans() if int(p.id.rpartition("/")[2]) < args.per_map]
    columns = ("psnr", "flat", "sharp", "judge", "engine", "critic")
    print(f"{'map':26}" + "".join(f" {name:>7}" for name in columns))
    for name in dict.fromkeys(p.map_name for p in plans):
        scenarios = replay_all([p for p in plans if p.map_name == name], args.latents)
        true = torch.stack([s.truth.frames_F3hw for s in scenarios if s.truth is not None])
        frames = true.float() / 255
        rebuilt = torch.cat(
            [autoencoder.decode_chunk(autoencoder.encode_video(v[None]), None) for v in frames]
        )
        rebuilt = rebuilt.clamp(0, 1)
        flat = frames.mean(dim=(3, 4), keepdim=True).expand_as(frames)
        pixels = (rebuilt * 255).round().to(torch.uint8)
        got, best = (measure(v, scenarios, SPEC, judge, reader).values_VD for v in (pixels, true))
        rows = [psnr(v.flatten(0, 1), frames.flatten(0, 1)) for v in (rebuilt, flat)]
        rows.append(float(got["sharpness"].mean()))
        shares = (got["judge_accuracy"], best["judge_accuracy"], got["critic_accuracy"])
        rows += [100 * float(v.mean()) for v in shares]
        print(f"{name:26}" + "".join(f" {value:7.2f}" for value in rows))


if __name__ == "__main__":
    main()
