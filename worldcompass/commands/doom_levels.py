"""Show levels from above and from within, or write their WAD files.

A level is a function of its name. Levels such as house_000 train the world, critic_000 and judge_000 only critics
and judge. No network sees unseen_000, a level of known style, or strange_000, one of another style.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from worldcompass.commands._options import add_seed, positive
from worldcompass.errors import UserError

if TYPE_CHECKING:
    from worldcompass.worlds.doom.levels.splits import Level

EXAMPLES = """\
  worldcompass doom levels --show levels.png
  worldcompass doom levels --split unseen --count 4 --show unseen.png
  worldcompass doom levels --out wads
"""

VIEWS, ROWS, ENLARGED = 10, 2, 4  # of each level: views in rows, each shown larger
DEFAULT_COUNT = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass doom levels``."""
    parser.add_argument("--show", type=Path, metavar="FILE.png", help="draw plans and views of the engine")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="write WAD files; the map in each is MAP01"
    )
    text = "house, critic, judge, unseen or strange (default: %(default)s)"
    parser.add_argument("--split", default="house", metavar="NAME", help=text)
    text = f"levels, from the first one (default: {DEFAULT_COUNT} to show, all of the split to write)"
    parser.add_argument("--count", type=positive, metavar="N", help=text)
    add_seed(parser)


def run(args: argparse.Namespace) -> int:
    """Draw the sheet and write the files."""
    from worldcompass.worlds.doom.levels import splits

    if args.show is None and args.out is None:
        raise UserError("nothing to do: give --show FILE.png, --out FOLDER, or both")
    if args.split not in splits.FAMILIES:
        raise UserError(f"unknown --split {args.split!r}: expected one of {', '.join(splits.FAMILIES)}")
    if args.count is not None and args.count > splits.MOST:
        raise UserError(f"--count {args.count} is too many: a split has at most {splits.MOST} levels")
    if args.show is not None and args.show.suffix.lower() != ".png":
        raise UserError(f"--show {args.show}: expected a name that ends with .png")
    if args.out is not None:
        _write(splits.levels(args.split, args.count), args.out)
    if args.show is not None:
        _show(splits.levels(args.split, args.count or DEFAULT_COUNT), args.show, args.seed)
    return 0


def _write(levels: Sequence[Level], folder: Path) -> None:
    """One file for each level."""
    from worldcompass.media.progress import progress
    from worldcompass.runs.atomic import writing

    with progress("writing levels", len(levels)) as advance:
        for level in levels:
            with writing(folder / f"{level.name}.wad", shared=True) as path:
                path.write_bytes(level.wad())
            advance()
    print(f"{folder}: {len(levels)} levels")


def _show(levels: Sequence[Level], path: Path, seed: int) -> None:
    import numpy as np
    import torch

    from worldcompass.media.progress import progress
    from worldcompass.media.video import save_png
    from worldcompass.worlds.doom.levels.sheet import strip, views

    strips = []
    with progress("drawing levels", len(levels)) as advance:
        for level in levels:
            strips.append(strip(level, views(level, VIEWS, seed), ROWS, ENLARGED))
            advance()
    print(save_png(path, torch.from_numpy(np.vstack(strips)).movedim(-1, 0)))
