"""How far to carry on the mean of several runs: the reward critic's word, the judge is not asked.

``python benchmarks/extend.py RUN [RUN ...] --factors 1 1.4 1.8`` takes the members of every run that has some, and
other runs themselves. It prints how far the ways that they went from the base agree (cosines), imagines fresh
training scenarios with the base and with ``w0 + factor (mean - w0)`` for every factor, and prints actions followed
as the interaction critic reads them, sharpness, realism, colour and flicker, each less the base's with its standard
error.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from worldcompass.evaluate import KINDS, Measured, imagine_all, measure
from worldcompass.report.export import AVERAGE
from worldcompass.runs.checkpoint import latest_checkpoint, load_checkpoint
from worldcompass.training.averaging import extended_mean
from worldcompass.types import Scenario
from worldcompass.worlds.doom.critics.motion import LabelReader
from worldcompass.worlds.doom.critics.weights import load_critics
from worldcompass.worlds.doom.engine.maps import TRAINING
from worldcompass.worlds.doom.engine.scenarios import draw_all
from worldcompass.worlds.doom.world import DoomWorld, load_doom_world

SHOWN = ("critic_accuracy", "sharpness", "quality", "colour", "flicker")
LATENTS = 32


class Critics:
    """The reward critics in the judge's place."""

    def __init__(self) -> None:
        nets = load_critics()
        self.reader, self.realism = LabelReader(nets.motion), nets.realism.score
        self.labels = self.reader.labels


def averages_of(run: Path) -> list[dict[str, Tensor]]:
    """The checkpoint averages of a run's members, or of the run."""
    folders = sorted((run / "members").glob("*")) or [run]
    found = [latest_checkpoint(folder / "checkpoints") for folder in folders]
    if missing := [str(folder) for folder, path in zip(folders, found, strict=True) if path is None]:
        raise SystemExit(f"error: no checkpoint in {', '.join(missing)}")
    loaded = [load_checkpoint(path)[0] for path in found if path is not None]
    return [{n.removeprefix(AVERAGE): t for n, t in x.items() if n.startswith(AVERAGE)} for x in loaded]


def flat(weights: dict[str, Tensor], start: dict[str, Tensor]) -> Tensor:
    """The way from the start as one vector."""
    return torch.cat([(weights[name] - start[name]).flatten() for name in sorted(start)])


def measured(world: DoomWorld, scenarios: list[Scenario], critics: Critics) -> Measured:
    """What the reward critics say of the world's videos."""
    return measure(imagine_all(world, scenarios, seed=11), scenarios, world.spec, critics, critics.reader)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--factors", nargs="+", type=float, default=[1.0, 1.4, 1.8, 2.4], metavar="F")
    parser.add_argument(
        "--scenarios", type=int, default=8, help="of each map and kind (default: %(default)s)"
    )
    args = parser.parse_args()
    members = [average for run in args.runs for average in averages_of(run)]
    world, critics = load_doom_world(), Critics()
    live = dict(world.net.named_parameters())
    start = {name: parameter.detach().clone() for name, parameter in live.items()}
    ways = [flat(weights, start) for weights in members]
    cosines = [cosine_similarity(a, b, 0).item() for a, b in itertools.combinations(ways, 2)] or [1.0]
    mean = sum(cosines) / len(cosines)
    print(f"{len(members)} members; cosine of two ways {mean:.3f} ({min(cosines):.3f} to {max(cosines):.3f})")
    scenarios = [s for _, s in draw_all(TRAINING, KINDS, args.scenarios, LATENTS, 5, "extend")]
    base = measured(world, scenarios, critics)
    print("base: " + ", ".join(f"{name} {base.values_VD[name].mean():.3f}" for name in SHOWN), flush=True)
    for factor in args.factors:
        with torch.no_grad():
            for name, value in extended_mean(start, members, factor).items():
                live[name].copy_(value)
        found = measured(world, scenarios, critics)
        cells = []
        for name in SHOWN:
            gain = (found.values_VD[name] - base.values_VD[name]).mean(1)
            cells.append(f"{name} {gain.mean():+.3f} +- {gain.std(ddof=1) / len(gain) ** 0.5:.3f}")
        print(f"x {factor:g}: {', '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
