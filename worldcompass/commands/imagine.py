"""Imagine a video from a picture along a path.

A path lists keys, each with a number of latents of 4 frames, and + combines them. In the Doom world w s a d move
and up down left right turn: "w-3, right-1, w+left-4". In the Hands world left right pull reach up down move a
gripper, and close open its fingers: "reach-2, right+down-3, close-1, up-4".
"""

from __future__ import annotations

import argparse
from pathlib import Path

from worldcompass.commands._options import add_device, add_seed, check_device, positive
from worldcompass.commands._worlds import add_world, check_picture, start_picture, world_maker, world_of
from worldcompass.errors import UserError
from worldcompass.recipes.catalogue import HANDS

EXAMPLES = """\
  worldcompass imagine --image my.png --path "w-3, right-1, w+left-4" --out clip.mp4
  worldcompass imagine --world hands --path "reach-2, right+down-3, close-1, up-4" --scale 8
  worldcompass imagine --world my_world.py:make --image my.png --path "w-8" --out clip.mp4
  worldcompass imagine --image my.png --path "w-8" --weights runs/demo --scale 8 --out clip.mp4
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass imagine``."""
    text = "picture to start from, up to 4 : 1; the Hands world has one of its own"
    parser.add_argument("--image", type=Path, default=None, metavar="FILE", help=text)
    parser.add_argument("--path", required=True, metavar="PATH", help='such as "w-3, right-1, w+left-4"')
    text = "MP4 file to write (default: %(default)s)"
    parser.add_argument("--out", type=Path, default=Path("clip.mp4"), metavar="FILE", help=text)
    add_world(parser)
    text = "run folder or folder of weights (default: the shipped weights)"
    parser.add_argument("--weights", type=Path, default=None, metavar="PATH", help=text)
    text = "denoising steps; fewer are faster and blurrier (default: the world's)"
    parser.add_argument("--steps", type=positive, default=None, metavar="N", help=text)
    text = "enlarge the frames by this factor; 1 suits 'worldcompass score' best (default: %(default)s)"
    parser.add_argument("--scale", type=positive, default=1, metavar="N", help=text)
    add_seed(parser)
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Imagine and write the video."""
    if args.out.suffix.lower() != ".mp4":
        raise UserError(f"--out is {args.out}: expected a file that ends in .mp4")
    world_name = world_of(args.world, [args.weights])
    device = check_device(args.device)
    from worldcompass import api
    from worldcompass.media import video
    from worldcompass.runs.atomic import check_name
    from worldcompass.runs.folder import writable

    make = world_maker(world_name)
    check_name(args.out)
    image = start_picture(world_name) if args.image is None else video.read_image(args.image)
    if world_name == HANDS and args.image is not None:
        check_picture(args.image, image)
    folder = args.out.parent
    writable(folder)
    if not folder.exists():
        print(f"{folder} does not exist yet: it is made for the video", flush=True)
    world = make(args.weights, device)
    frames = api.imagine(world, image, args.path, args.seed, args.steps)
    video.write_mp4(args.out, video.enlarge(video.to_array(frames), args.scale), world.spec.fps)
    print(f"wrote {args.out}: {len(frames)} frames, {len(frames) / world.spec.fps:.1f} s of video")
    return 0
