"""Measure weights of the embedded Hands world on held-out episodes: pictures, and one chunk from a true past."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from worldcompass.commands._pretraining import add_measure_options, run_measure

if TYPE_CHECKING:
    from worldcompass.worlds.small.pretraining.blueprint import Blueprint

EXAMPLES = """\
  worldcompass hands measure --data data/hands
  worldcompass hands measure --data data/hands --weights runs/hands_pretrain
"""


WORDS = {
    "between_psnr": "frames between two true pictures: {:.2f} dB",
    "cross_fade_psnr": "a cross-fade instead: {:.2f} dB",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass hands measure``."""
    add_measure_options(parser, "hands")


def run(args: argparse.Namespace) -> int:
    """Print the measures that pretraining logs, for finished weights."""
    return run_measure(args, "hands", _blueprint, WORDS)


def _blueprint() -> Blueprint[Any]:
    from worldcompass.worlds.hands.pretraining import BLUEPRINT

    return BLUEPRINT
