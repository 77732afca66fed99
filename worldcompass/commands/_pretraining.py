"""``pretrain`` and ``measure`` of the small worlds that the package can make from recordings."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldcompass.commands._options import (
    add_device,
    add_out,
    add_resume,
    add_seed,
    check_device,
    minutes,
    minutes_or_none,
    need_folder,
    positive,
)
from worldcompass.errors import UserError

if TYPE_CHECKING:
    from worldcompass.worlds.small.pretraining.blueprint import Blueprint


def add_pretrain_options(parser: argparse.ArgumentParser, world: str, out: str) -> None:
    """Options of ``worldcompass WORLD pretrain``."""
    _add_data(parser, world)
    add_out(parser, out, "where checkpoints, curves and weights go")
    add_seed(parser)
    add_device(parser)
    add_resume(parser)
    text = (
        "minutes for the autoencoder, converted into steps at the start; 0 leaves the one of --start as it is"
        " (default: %(default)s)"
    )
    parser.add_argument("--minutes-autoencoder", type=minutes_or_none, default=20.0, metavar="M", help=text)
    text = "minutes for the transformer, converted into steps at the start (default: %(default)s)"
    parser.add_argument("--minutes-world", type=minutes, default=120.0, metavar="M", help=text)
    text = "sequences of a step (default: the world's own, for a CPU; 64 suits a large GPU)"
    parser.add_argument("--sequences", type=positive, metavar="N", help=text)
    text = "folder of weights to go on from, whose code of pictures stays (default: from nothing)"
    parser.add_argument("--start", type=Path, metavar="FOLDER", help=text)


def run_pretrain(args: argparse.Namespace, world: str, blueprint: Callable[[], Blueprint[Any]]) -> int:
    """Pretrain the autoencoder and the world model.

    Args:
        args: of the command.
        world: its name.
        blueprint: imports and returns it, once the arguments are known to be right.
    """
    data, device = _need_data(args, world), check_device(args.device)
    start = args.start and need_folder(args.start, f"weights made by `worldcompass {world} pretrain`")
    if not args.minutes_autoencoder and start is None:
        raise UserError("--minutes-autoencoder 0 needs an autoencoder: name its folder with --start")
    from worldcompass.worlds.small.pretraining.pretrain import pretrain

    pretrain(
        blueprint(),
        data=data,
        out=args.out,
        device=device,
        minutes_autoencoder=args.minutes_autoencoder,
        minutes_world=args.minutes_world,
        seed=args.seed,
        resume=args.resume,
        sequences=args.sequences,
        start=start,
    )
    return 0


def add_measure_options(parser: argparse.ArgumentParser, world: str) -> None:
    """Options of ``worldcompass WORLD measure``."""
    _add_data(parser, world)
    text = f"folder of weights made by `worldcompass {world} pretrain` (default: the shipped weights)"
    parser.add_argument("--weights", type=Path, metavar="FOLDER", help=text)


def run_measure(
    args: argparse.Namespace,
    world: str,
    blueprint: Callable[[], Blueprint[Any]],
    words: Mapping[str, str],
) -> int:
    """Print the measures that pretraining logs, for finished weights.

    Args:
        args: of the command.
        world: its name.
        blueprint: imports and returns it, once the arguments are known to be right.
        words: the line of each measure of the world's own, such as ``actions read: {:.1%}``.
    """
    data = _need_data(args, world)
    weights = args.weights and need_folder(args.weights, f"weights made by `worldcompass {world} pretrain`")
    from worldcompass.worlds.small.pretraining.pretrain import measure

    found = measure(blueprint(), data, weights)
    print(f"autoencoder, whole videos: {found.autoencoder_psnr:.2f} dB")
    for name, value in found.own.items():
        print(words[name].format(value))
    gain = found.one_chunk_psnr - found.last_frame_psnr
    print(
        f"one chunk from a true past: {found.one_chunk_psnr:.2f} dB, repeating the last frame"
        f" {found.last_frame_psnr:.2f} dB, {gain:+.2f} dB"
    )
    return 0


def _add_data(parser: argparse.ArgumentParser, world: str) -> None:
    text = f"data set made by `worldcompass {world} collect` (default: %(default)s)"
    parser.add_argument("--data", type=Path, default=Path("data") / world, metavar="FOLDER", help=text)


def _need_data(args: argparse.Namespace, world: str) -> Path:
    return need_folder(args.data, f"a data set made by `worldcompass {world} collect`")
