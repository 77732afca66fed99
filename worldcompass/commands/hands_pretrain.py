"""Train the embedded Hands world: the frames between pictures, then the transformer over its latents."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

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
    text = (
        "the second network, in the making: things and gripper are cut out once and moved (bases/hands_parts)"
    )
    parser.add_argument("--parts", action="store_true", help=text)


def run(args: argparse.Namespace) -> int:
    """Pretrain the autoencoder and the world model."""
    return run_pretrain(args, "hands", lambda: _blueprint(args.parts))


def _blueprint(parts: bool) -> Blueprint[Any]:
    if parts:
        from worldcompass.worlds.hands.parts import pretraining

        return pretraining.BLUEPRINT
    from worldcompass.worlds.hands.pretraining import BLUEPRINT

    return BLUEPRINT
