"""Train the embedded world: the autoencoder, then the transformer over its latents."""

from __future__ import annotations

import argparse

from worldcompass.commands._pretraining import add_pretrain_options, check_pretrain, run_pretrain

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
    data, device = check_pretrain(args, "doom")
    from worldcompass.worlds.doom.pretraining import BLUEPRINT

    return run_pretrain(args, BLUEPRINT, data, device)
