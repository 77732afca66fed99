"""Score a video: does it follow the path, and does it look good?

The video must have the path's length: 4 frames for every latent and one for the start image. Its frames are cropped
and resized to the critics' world. The critics of Doom expect its motions: 22 map units or 8 degrees per latent.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from worldcompass.errors import UserError
from worldcompass.recipes.catalogue import DOOM

EXAMPLES = """\
  worldcompass score --video clip.mp4 --path "w-3, right-1, w+left-4"
  worldcompass score --video clip.mp4 --path "w-8" --json
  worldcompass score --video clip.mp4 --path "w-8" --critic quality --critic my_critic.py:make
  worldcompass score --video arm.mp4 --path "reach-3, close-2" --world hands --critic interaction
  worldcompass score --video mine.mp4 --path "w-8" --world my_world.py:make \\
    --critic inverse_dynamics=critics/inverse_dynamics.safetensors
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass score``."""
    parser.add_argument("--video", type=Path, required=True, metavar="FILE", help="video such as an MP4")
    parser.add_argument(
        "--path",
        required=True,
        metavar="PATH",
        help='path that the video should follow, such as "w-3, right-1"',
    )
    text = "whose path and critics it is (default: %(default)s)"
    parser.add_argument("--world", default=DOOM, metavar="WORLD", help=text)
    text = (
        "interaction, quality, ..., inverse_dynamics=FILE or FILE.py:FUNCTION; may be repeated (default: both"
        " of Doom)"
    )
    parser.add_argument("--critic", action="append", default=[], metavar="CRITIC", help=text)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Score the video and print the scores."""
    from worldcompass import api
    from worldcompass.commands._recorded import spec_and_reader
    from worldcompass.commands.audit import known_critic

    spec, _ = spec_and_reader(args.world)
    if not args.critic and args.world != DOOM:
        raise UserError(f"--world {args.world} has no critics of its own here: name one with --critic")
    critics = [known_critic(name, args.world, spec).make() for name in args.critic]
    scores = api.score(args.video, args.path, critics or None, spec)
    if args.json:
        print(json.dumps(scores))
    else:
        print("higher is better; compare videos of one path by one critic alone")
        for name, value in scores.items():
            print(f"{name:12} {'abstains' if value is None else f'{value:.3f}'}")
    return 0
