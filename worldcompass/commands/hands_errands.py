"""Carry out the package's instructions by scripted commands, in the engine, in the base and in trained weights.

The task judge says whether each video ends with the thing picked up, or pushed. The engine's own share is the most
that can be expected, and tells how often the judge errs.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from worldcompass.commands._options import (
    add_checkpoint,
    add_device,
    add_seed,
    check_checkpoint,
    check_device,
)

if TYPE_CHECKING:
    import numpy as np

EXAMPLES = """\
  worldcompass hands errands                              # engine and base
  worldcompass hands errands --checkpoint runs/hands_demo
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass hands errands``."""
    add_checkpoint(parser)
    add_seed(parser)
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Print the share of tasks done, with Wilson's 95% intervals."""
    check_checkpoint(args.checkpoint)
    device = check_device(args.device)
    import torch

    from worldcompass.evaluate import imagine_all
    from worldcompass.media.progress import progress
    from worldcompass.runs.folder import weights_folder
    from worldcompass.worlds.hands.footage import shipped
    from worldcompass.worlds.hands.task_judge import errands_done
    from worldcompass.worlds.hands.world import WEIGHTS, load_hands_world

    scenarios = [scenario for _, scenario in shipped("errands")]
    videos = {"engine": torch.stack([s.truth.frames_F3hw for s in scenarios if s.truth is not None])}
    sides: dict[str, Path | None] = {"base": None}
    if args.checkpoint is not None:
        sides["trained"] = weights_folder(args.checkpoint, WEIGHTS.net)
    for name, folder in sides.items():
        with progress(f"imagining, {name}", len(scenarios)) as advance:
            videos[name] = imagine_all(
                load_hands_world(folder, device), scenarios, args.seed, on_video=advance
            )
    for name, of in videos.items():
        print(_line(name, errands_done(of, scenarios), [s.instruction for s in scenarios]))
    return 0


def _line(name: str, done_V: np.ndarray, instructions: list[str]) -> str:
    """One line for a side: all tasks, then picks and pushes."""
    import numpy as np

    from worldcompass.statistics import share

    picks = np.array([words.startswith("pick up") for words in instructions])
    every = np.ones_like(picks)
    cells = [
        f"{what} {share(done_V[rows].astype(float), [str(i) for i in np.flatnonzero(rows)]).in_percent()}"
        for what, rows in (("all", every), ("pick up", picks), ("push", ~picks))
    ]
    return f"{name:8} " + "  ".join(cells)
