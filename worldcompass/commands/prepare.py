"""Encode images and captions for WorldPlay, once, into a data set of one safetensors file per image.

Images are a folder of pictures, each with its caption next to it (lake.png, lake.txt), or a JSON list:
[{"image": "lake.png", "caption": "A lake in the mountains."}]. Finished images are skipped. The released trainer's
latents.json, whose images are already encoded, is converted without encoders.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from worldcompass.commands._options import add_device, check_device, need_folder
from worldcompass.errors import UserError

EXAMPLES = """\
  worldcompass prepare --model worldplay-8b --images pictures --checkpoints checkpoints --out data/prepared
  worldcompass prepare --model worldplay-8b --images train_latents/latents.json --out data/prepared
  worldcompass prepare --model worldplay-5b --images list.json --checkpoints wan --out data/prepared --device cpu
"""

MODELS = ("worldplay-8b", "worldplay-5b")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass prepare``."""
    parser.add_argument("--model", choices=MODELS, required=True, help="model that the data set is for")
    text = "folder of pictures with .txt captions, or a JSON list"
    parser.add_argument("--images", type=Path, required=True, metavar="PATH", help=text)
    text = "folder with the encoders; missing parts are listed"
    parser.add_argument("--checkpoints", type=Path, default=None, metavar="FOLDER", help=text)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the data set goes")
    text = (
        "how images get the model's size: crop, as WorldPlay's inference, or stretch, as the released RL data"
    )
    parser.add_argument(
        "--fit", choices=("crop", "stretch"), default="crop", help=f"{text} (default: %(default)s)"
    )
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Prepare the data set."""
    device = check_device(args.device)
    from worldcompass.media.progress import progress
    from worldcompass.runs.folder import writable
    from worldcompass.worlds.worldplay.config import Config5B, Config8B
    from worldcompass.worlds.worldplay.encoders import (
        FITS,
        SIZE_5B,
        SIZE_8B,
        Encoder5B,
        Encoder8B,
        need_ftfy,
        need_transformers,
    )
    from worldcompass.worlds.worldplay.layouts import PARTS_5B, check_parts, parts_8b
    from worldcompass.worlds.worldplay.official_data import convert, is_index, read_index
    from worldcompass.worlds.worldplay.prepare import prepare, read_requests
    from worldcompass.worlds.worldplay.prepared import expected_shapes

    kind, config, (height, width) = {
        "worldplay-8b": (Encoder8B, Config8B(), SIZE_8B),
        "worldplay-5b": (Encoder5B, Config5B(), SIZE_5B),
    }[args.model]
    shapes = expected_shapes(config, (height // 16, width // 16))
    if is_index(args.images):
        if args.model != "worldplay-8b":
            raise UserError(f"{args.images} is data of the released trainer, which knows only worldplay-8b")
        requests = read_index(args.images)
        writable(args.out)
        done = convert(requests, shapes, args.out)
    else:
        if args.checkpoints is None:
            raise UserError("images need encoders: give their folder with --checkpoints")
        need_transformers()
        if args.model == "worldplay-5b":
            need_ftfy()
        folder = need_folder(args.checkpoints, "the encoders' checkpoints")
        check_parts(folder, parts_8b(folder) if args.model == "worldplay-8b" else PARTS_5B)
        requests = read_requests(args.images)
        writable(args.out)
        made_by = args.model if args.fit == "crop" else f"{args.model}, {args.fit}"
        make = partial(kind, args.checkpoints, device, fit=FITS[args.fit])
        done = prepare(requests, make, made_by, shapes, args.out)
    with progress("preparing", len(requests)) as advance:
        for _ in done:
            advance()
    print(f"{args.out}: {len(requests)} images prepared for {args.model}")
    return 0
