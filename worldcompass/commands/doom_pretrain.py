"""Train the embedded world: the autoencoder, then the transformer over its latents."""

from __future__ import annotations

import argparse
from pathlib import Path

from worldcompass.commands._options import (
    add_device,
    add_out,
    add_resume,
    add_seed,
    check_device,
    minutes,
    need_folder,
)

EXAMPLES = """\
  worldcompass doom pretrain --data data/doom
  worldcompass doom pretrain --data data/doom --minutes-autoencoder 10 --minutes-world 60 --device cuda
  worldcompass doom pretrain --data data/doom --resume
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass doom pretrain``."""
    text = "data set made by `worldcompass doom collect` (default: %(default)s)"
    parser.add_argument("--data", type=Path, default=Path("data/doom"), metavar="FOLDER", help=text)
    add_out(parser, "runs/pretrain", "where checkpoints, curves and weights go")
    add_seed(parser)
    add_device(parser)
    add_resume(parser)
    text = "minutes for the autoencoder, converted into steps at the start (default: %(default)s)"
    parser.add_argument("--minutes-autoencoder", type=minutes, default=20.0, metavar="M", help=text)
    text = "minutes for the transformer, converted into steps at the start (default: %(default)s)"
    parser.add_argument("--minutes-world", type=minutes, default=120.0, metavar="M", help=text)


def run(args: argparse.Namespace) -> int:
    """Pretrain the autoencoder and the world model."""
    data = need_folder(args.data, "a data set made by `worldcompass doom collect`")
    device = check_device(args.device)
    from worldcompass.worlds.doom.pretraining.pretrain import pretrain

    pretrain(
        data=data,
        out=args.out,
        device=device,
        minutes_autoencoder=args.minutes_autoencoder,
        minutes_world=args.minutes_world,
        seed=args.seed,
        resume=args.resume,
    )
    return 0
