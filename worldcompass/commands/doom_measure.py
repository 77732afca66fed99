"""Measure an embedded world's weights on held-out episodes: the autoencoder, and one chunk from a true past."""

from __future__ import annotations

import argparse
from pathlib import Path

from worldcompass.commands._options import need_folder

EXAMPLES = """\
  worldcompass doom measure --data data/doom
  worldcompass doom measure --data data/doom --weights runs/pretrain
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass doom measure``."""
    text = "data set made by `worldcompass doom collect` (default: %(default)s)"
    parser.add_argument("--data", type=Path, default=Path("data/doom"), metavar="FOLDER", help=text)
    text = "folder of weights made by `worldcompass doom pretrain` (default: the shipped weights)"
    parser.add_argument("--weights", type=Path, metavar="FOLDER", help=text)


def run(args: argparse.Namespace) -> int:
    """Print the measures that pretraining logs, for finished weights."""
    data = need_folder(args.data, "a data set made by `worldcompass doom collect`")
    weights = args.weights and need_folder(args.weights, "weights made by `worldcompass doom pretrain`")
    from worldcompass.worlds.doom.pretraining.pretrain import measure

    found = measure(data, weights)
    print(f"autoencoder, whole videos: {found.autoencoder_psnr:.2f} dB")
    print(f"actions that the decoder reads from pictures: {found.motions_read:.1%}")
    gain = found.one_chunk_psnr - found.last_frame_psnr
    print(
        f"one chunk from a true past: {found.one_chunk_psnr:.2f} dB, repeating the last frame"
        f" {found.last_frame_psnr:.2f} dB, {gain:+.2f} dB"
    )
    return 0
