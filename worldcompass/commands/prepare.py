"""Encode images and captions for an open world model, once, into a data set of one safetensors file per image.

Images are a folder of pictures, each with its caption next to it (lake.png, lake.txt), or a JSON list:
[{"image": "lake.png", "caption": "A lake in the mountains."}]. Finished images are skipped. The released trainer's
latents.json, whose images are already encoded, is converted without encoders.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from worldcompass.commands._options import add_device, add_settings, check_device, need_folder
from worldcompass.commands._worlds import open_recipe
from worldcompass.errors import UserError
from worldcompass.recipes.catalogue import OPEN

EXAMPLES = """\
  worldcompass prepare --model worldplay-8b --images pictures --checkpoints checkpoints --out data/prepared
  worldcompass prepare --model worldplay-8b --images train_latents/latents.json --out data/prepared
  worldcompass prepare --model worldplay-5b --images list.json --checkpoints wan --out data/prepared --device cpu
"""
MODELS = tuple(name.replace("_", "-") for name in OPEN)


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
        "--fit", choices=("crop", "stretch"), default=None, help=f"{text} (default: as the model's inference)"
    )
    text = "change a setting of the model's recipe, such as source.checkpoints; may be repeated"
    add_settings(parser, text)
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Prepare the data set."""
    device = check_device(args.device)
    from worldcompass.media.progress import progress
    from worldcompass.runs.folder import writable
    from worldcompass.worlds.open.prepare import prepare, read_requests

    how = open_recipe(args.model.replace("-", "_"), args.assignments).preparation()
    if args.fit is not None and args.fit not in how.fits:
        raise UserError(f"--fit is {args.fit}: images of {args.model} are fitted by {' or '.join(how.fits)}")
    official = how.read_official(args.images)
    if official is not None:
        writable(args.out)
        requests, done = official, how.convert(official, how.shapes, args.out)
    else:
        checkpoints = args.checkpoints or how.encoders
        if checkpoints is None:
            raise UserError("images need encoders: give their folder with --checkpoints")
        requests = read_requests(args.images, how.from_captions, how.captions)
        how.check(need_folder(checkpoints, "the encoders' checkpoints"))
        writable(args.out)
        fit = args.fit or how.fits[0]
        made_by = args.model if fit == how.fits[0] else f"{args.model}, {fit}"
        make = partial(how.encoder, checkpoints, device, fit)
        done = prepare(requests, make, made_by, how.shapes, args.out, how.read, how.beside)
    with progress("preparing", len(requests)) as advance:
        for _ in done:
            advance()
    print(f"{args.out}: {len(requests)} images prepared for {args.model}")
    return 0
