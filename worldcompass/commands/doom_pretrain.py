"""Train the embedded world: the autoencoder, then the transformer over its latents."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from worldcompass.commands._pretraining import add_pretrain_options, run_pretrain

if TYPE_CHECKING:
    from worldcompass.worlds.small.pretraining.blueprint import Blueprint

EXAMPLES = """\
  worldcompass doom pretrain --data data/doom
  worldcompass doom pretrain --data data/doom --minutes-autoencoder 10 --minutes-world 60 --device cuda
  worldcompass doom pretrain --data data/doom --resume
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass doom pretrain``."""
    add_pretrain_options(parser, "doom", "runs/pretrain")


def run(args: argparse.Namespace) -> int:
    """Pretrain the autoencoder and the world model."""
    return run_pretrain(args, "doom", _blueprint)


def _blueprint() -> Blueprint[Any]:
    from worldcompass.worlds.doom.pretraining import BLUEPRINT

    return BLUEPRINT
