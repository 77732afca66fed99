"""Encode images and captions for WorldPlay, once, into a data set of one safetensors file per image.

Images are a folder of pictures, each with its caption next to it (lake.png, lake.txt), or a JSON list:
[{"image": "lake.png", "caption": "A lake in the mountains."}]. Finished images are skipped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from worldcompass.commands._options import add_device, check_device, need_folder

EXAMPLES = """\
  worldcompass prepare --model worldplay-8b --images pictures --checkpoints checkpoints --out data/prepared
  worldcompass prepare --model worldplay-5b --images list.json --checkpoints wan --out data/prepared --device cpu
"""

MODELS = ("worldplay-8b", "worldplay-5b")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass prepare``."""
    parser.add_argument("--model", choices=MODELS, required=True, help="model that the data set is for")
    text = "folder of pictures with .txt captions, or a JSON list"
    parser.add_argument("--images", type=Path, required=True, metavar="PATH", help=text)
    text = "folder with the encoders; missing parts are listed"
    parser.add_argument("--checkpoints", type=Path, required=True, metavar="FOLDER", help=text)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the data set goes")
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Prepare the data set."""
    device = check_device(args.device)
    from rich.console import Console
    from rich.progress import track

    from worldcompass.runs.folder import writable
    from worldcompass.worlds.worldplay.config import Config5B, Config8B
    from worldcompass.worlds.worldplay.encoders import (
        PARTS_5B,
        PARTS_8B,
        SIZE_5B,
        SIZE_8B,
        Encoder5B,
        Encoder8B,
        check_parts,
        need_transformers,
    )
    from worldcompass.worlds.worldplay.prepare import prepare, read_requests
    from worldcompass.worlds.worldplay.prepared import expected_shapes

    kind, config, (height, width), parts = {
        "worldplay-8b": (Encoder8B, Config8B(), SIZE_8B, PARTS_8B),
        "worldplay-5b": (Encoder5B, Config5B(), SIZE_5B, PARTS_5B),
    }[args.model]
    need_transformers()
    check_parts(need_folder(args.checkpoints, "the encoders' checkpoints"), parts)
    requests = read_requests(args.images)
    writable(args.out)
    shapes = expected_shapes(config, (height // 16, width // 16))
    done = prepare(requests, lambda: kind(args.checkpoints, device), args.model, shapes, args.out)
    for _ in track(done, "preparing", len(requests), console=Console(stderr=True)):
        pass
    print(f"{args.out}: {len(requests)} images prepared for {args.model}")
    return 0
