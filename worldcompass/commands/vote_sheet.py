"""Make a sheet for a blind vote: numbered pairs of videos, with hidden controls, a form and instructions.

One run is compared with the shipped base, two runs with each other; the wins of the first one are counted. Give
raters the folder FOLDER/sheet alone: FOLDER/key holds the key and the single videos, which reveal the sides.
Score the answered forms with worldcompass votes FOLDER.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from worldcompass.commands._options import add_device, add_seed, check_device, positive
from worldcompass.commands._worlds import add_world, world_of
from worldcompass.errors import UserError
from worldcompass.recipes.catalogue import DOOM, EMBEDDED, HANDS

if TYPE_CHECKING:
    from worldcompass.judging.votes.subjects import Subjects

EXAMPLES = """\
  worldcompass vote-sheet runs/demo --pairs 24 --out runs/votes_demo
  worldcompass vote-sheet runs/new runs/old --pairs 40 --out runs/votes --strips
  worldcompass vote-sheet runs/demo --engine --out runs/votes_commands
"""

FRAMES = {DOOM: (125, 253, 381), HANDS: (93, 125)}  # the first is the default


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass vote-sheet``."""
    text = "run folders or folders of weights: one, or two to compare with each other"
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help=text)
    text = "pairs of the sheet; about 30%% of them are hidden controls (default: %(default)s)"
    parser.add_argument("--pairs", type=positive, default=24, metavar="N", help=text)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder of the study")
    add_world(parser, "doom or hands", EMBEDDED)
    lengths = "; ".join(f"{world}: {', '.join(map(str, some))}" for world, some in FRAMES.items())
    text = f"length of the videos ({lengths}; default: the first)"
    parser.add_argument("--frames", type=int, metavar="N", help=text)
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--only-videos", action="store_true", help="make videos and no filmstrips")
    kinds.add_argument("--strips", action="store_true", help="make filmstrips and no videos")
    text = "also show the engine's own video, and ask which side does what was commanded"
    parser.add_argument("--engine", action="store_true", help=text)
    add_seed(parser)
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Make the sheet, or what an earlier call left unfinished."""
    if len(args.runs) > 2:
        raise UserError(f"got {len(args.runs)} runs: name one to compare with the base, or two to compare")
    world = world_of(args.world, args.runs)
    frames = args.frames or FRAMES[world][0]
    if frames not in FRAMES[world]:
        known = ", ".join(map(str, FRAMES[world]))
        raise UserError(f"videos of {world} have {known} frames, got --frames {frames}")
    device = check_device(args.device)
    from worldcompass.judging.votes.make import Kinds, make_sheet
    from worldcompass.judging.votes.sheet import SheetFolder, draw_sheet
    from worldcompass.runs.folder import writable

    folder = SheetFolder(args.out)
    writable(folder.path)
    subjects = _subjects_of(world)(args.runs[0], args.runs[1] if args.runs[1:] else None, frames, device)
    sheet = draw_sheet(subjects, args.pairs, args.seed, args.engine)
    kinds = Kinds(videos=not args.strips, strips=not args.only_videos)
    made = make_sheet(folder, sheet, subjects, kinds)
    print(
        f"wrote {folder.sheet}: {len(made.pairs)} pairs, {len(made.controls)} of them controls. Give raters this"
        " folder alone."
    )
    print(f"key: {folder.key} (do not show it before the votes are in)")
    print(f"then put the answered forms into {folder.forms} and run: worldcompass votes {folder.path}")
    return 0


def _subjects_of(world: str) -> Callable[[Path, Path | None, int, str], Subjects]:
    """The function from (run, rival, frames, device) to what a study of this world can show."""
    if world == HANDS:
        from worldcompass.worlds.hands.subjects import hands_subjects

        return hands_subjects
    from worldcompass.worlds.doom.subjects import doom_subjects

    return doom_subjects
