"""Score a video: does it follow the path, and does it look good?

The video must have the path's length: 4 frames for every latent and one for the start image. Its frames are cropped
and resized to the critics' world. The critics expect that world's motions: 22 map units or 8 degrees per latent.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

EXAMPLES = """\
  worldcompass score --video clip.mp4 --path "w-3, right-1, w+left-4"
  worldcompass score --video clip.mp4 --path "w-8" --json
  worldcompass score --video clip.mp4 --path "w-8" --critic quality --critic my_critic.py:make
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
    text = "interaction, quality, ... or FILE.py:FUNCTION; may be repeated (default: interaction and quality)"
    parser.add_argument("--critic", action="append", default=[], metavar="CRITIC", help=text)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Score the video and print the scores."""
    from worldcompass import api
    from worldcompass.commands.audit import critic_of

    critics = [critic_of(name)[0] for name in args.critic]
    scores = api.score(args.video, args.path, critics or None)
    if args.json:
        print(json.dumps(scores))
    else:
        print("higher is better; compare videos of one path by one critic alone")
        for name, value in scores.items():
            print(f"{name:12} {'abstains' if value is None else f'{value:.3f}'}")
    return 0
