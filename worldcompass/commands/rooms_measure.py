"""Measure an embedded world's weights on held-out episodes: the autoencoder, and one chunk from a true past."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from worldcompass.commands._pretraining import add_measure_options, run_measure

if TYPE_CHECKING:
    from worldcompass.worlds.small.pretraining.blueprint import Blueprint

EXAMPLES = """\
  worldcompass rooms measure --data data/doom
  worldcompass rooms measure --data data/doom --weights runs/rooms
"""


WORDS = {
    "motions_read": "actions that the decoder reads from pictures: {:.1%}",
    "depth_error": "error of the logarithm of depth: {:.3f}",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass rooms measure``."""
    add_measure_options(parser, "doom")


def run(args: argparse.Namespace) -> int:
    """Print the measures that pretraining logs, for finished weights."""
    return run_measure(args, "doom", _blueprint, WORDS)


def _blueprint() -> Blueprint[Any]:
    from worldcompass.worlds.doom.rooms.pretraining import BLUEPRINT

    return BLUEPRINT
