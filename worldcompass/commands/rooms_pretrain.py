"""Train the embedded world of rooms: its depth, then the transformer over its latents."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from worldcompass.commands._pretraining import add_pretrain_options, run_pretrain

if TYPE_CHECKING:
    from worldcompass.worlds.small.pretraining.blueprint import Blueprint

EXAMPLES = """\
  worldcompass rooms pretrain --data data/doom
  worldcompass rooms pretrain --data data/doom --minutes-autoencoder 1 --minutes-world 8 --device cuda
  worldcompass rooms pretrain --data data/doom --resume
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass rooms pretrain``."""
    add_pretrain_options(parser, "doom", "runs/rooms")


def run(args: argparse.Namespace) -> int:
    """Pretrain the autoencoder and the world model."""
    return run_pretrain(args, "doom", _blueprint)


def _blueprint() -> Blueprint[Any]:
    from worldcompass.worlds.doom.rooms.pretraining import BLUEPRINT

    return BLUEPRINT
