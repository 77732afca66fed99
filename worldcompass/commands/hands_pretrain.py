"""Train the embedded Hands world: the frames between pictures, then the transformer over its latents."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from worldcompass.commands._options import share
from worldcompass.commands._pretraining import add_pretrain_options, run_pretrain

if TYPE_CHECKING:
    from worldcompass.worlds.small.pretraining.blueprint import Blueprint

EXAMPLES = """\
  worldcompass hands pretrain --data data/hands
  worldcompass hands pretrain --data data/hands --minutes-autoencoder 2 --minutes-world 7 --device cuda
  worldcompass hands pretrain --data data/hands --resume
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass hands pretrain``."""
    add_pretrain_options(parser, "hands", "runs/hands_pretrain")
    text = "share of the recordings' commands that are replaced by any, as labels of found videos are often wrong"
    parser.add_argument("--wrong-labels", type=share, default=0.0, metavar="SHARE", help=text)


def run(args: argparse.Namespace) -> int:
    """Pretrain the autoencoder and the world model."""
    return run_pretrain(args, "hands", lambda: _blueprint(args.wrong_labels))


def _blueprint(wrong_share: float) -> Blueprint[Any]:
    from worldcompass.worlds.hands.pretraining import blueprint_of

    return blueprint_of(wrong_share)
