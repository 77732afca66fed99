"""Options that several commands share, and their checks."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from worldcompass.errors import UserError

if TYPE_CHECKING:
    from worldcompass.training.run import Parts


def add_seed(parser: argparse.ArgumentParser, default: int = 0) -> None:
    """``--seed``."""
    parser.add_argument(
        "--seed", type=seed, default=default, metavar="N", help="random seed (default: %(default)s)"
    )


def add_settings(parser: argparse.ArgumentParser, text: str = "change one setting; may be repeated") -> None:
    """``--set``, for ``recipes.overrides.override``."""
    parser.add_argument(
        "--set", action="append", default=[], dest="assignments", metavar="KEY=VALUE", help=text
    )


def parts_of(args: argparse.Namespace, done: str) -> Parts:
    """The inputs of training of ``args.recipe`` with its ``args.assignments``, on ``args.device``.

    Args:
        args: of the command line.
        done: what the command does with them, such as ``profiled``.

    Raises:
        UserError: for an unknown recipe, setting or device, and a recipe without ``parts``.
    """
    from worldcompass.recipes.load import make_recipe
    from worldcompass.recipes.overrides import override

    recipe = override(make_recipe(args.recipe), args.assignments)
    if not hasattr(recipe, "parts"):
        raise UserError(
            f"{args.recipe} cannot be {done}: give it a method parts(device) -> worldcompass.training.run.Parts"
        )
    return recipe.parts(check_device(args.device))


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """``--checkpoint``, see ``check_checkpoint``."""
    text = "run folder or folder of weights (default: the shipped weights alone)"
    parser.add_argument("--checkpoint", type=Path, default=None, metavar="PATH", help=text)


def check_checkpoint(path: Path | None) -> None:
    """Before long work.

    Raises:
        UserError: when it does not exist.
    """
    if path is not None and not path.exists():
        raise UserError(f"{path} does not exist: expected a run folder or a folder of weights")


def add_out(parser: argparse.ArgumentParser, default: str, what: str) -> None:
    """``--out``."""
    text = f"{what} (default: %(default)s)"
    parser.add_argument("--out", type=Path, default=Path(default), metavar="FOLDER", help=text)


def add_resume(parser: argparse.ArgumentParser) -> None:
    """``--resume``."""
    parser.add_argument("--resume", action="store_true", help="resume the run in the output folder exactly")


def add_automatic_resume(parser: argparse.ArgumentParser) -> None:
    """``--resume``, which is the default, and ``--accept-changes``."""
    text = "resume the run in the output folder exactly; optional, as an existing run is always resumed"
    parser.add_argument("--resume", action="store_true", help=text)
    text = "resume with changed settings; without this, changed settings are listed and refused"
    parser.add_argument("--accept-changes", action="store_true", help=text)


def add_device(parser: argparse.ArgumentParser) -> None:
    """``--device``."""
    text = "cpu, cuda, cuda:1 or auto (default: %(default)s, a GPU if there is one)"
    parser.add_argument("--device", default="auto", metavar="NAME", help=text)


def check_port(port: int, lowest: int = 1) -> None:
    """Refuse port numbers out of range.

    Raises:
        UserError: names the range.
    """
    if not lowest <= port < 2**16:
        free = " (0 picks a free one)" if lowest == 0 else ""
        raise UserError(f"--port {port} is out of range: expected {lowest} to 65535{free}")


def seed(text: str) -> int:
    """A whole number of 0 or more, as an argument type."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number of 0 or more, not {text!r}")
    return int(text)


def positive(text: str) -> int:
    """A whole number of 1 or more, as an argument type."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of 1 or more, not {text!r}")
    return int(text)


def minutes(text: str) -> float:
    """A positive number of minutes, as an argument type."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of minutes above 0, not {text!r}")
    return value


def minutes_or_none(text: str) -> float:
    """A number of minutes that may be 0, as an argument type."""
    return 0.0 if text.strip() == "0" else minutes(text)


def share(text: str) -> float:
    """A share from 0 to 1, as an argument type."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a share from 0 to 1, not {text!r}")
    return value


def check_device(name: str) -> str:
    """The device to use.

    Raises:
        UserError: for an unknown name, or a device that this machine lacks.
    """
    import torch

    gpus = torch.cuda.device_count()
    if name == "auto":
        return "cuda" if gpus else "cpu"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise UserError(f"unknown device {name!r}: expected cpu, cuda, cuda:1 or auto")
    if kind == "cuda" and int(index or 0) >= gpus:
        raise UserError(f"device {name} is not available, PyTorch sees {gpus} GPU(s): use --device cpu")
    return name


def need_folder(path: Path, what: str) -> Path:
    """``path``, which must be a folder.

    Raises:
        UserError: when it is none; ``what`` says what was expected.
    """
    if not path.is_dir():
        raise UserError(f"{path} is not a folder: expected {what}")
    return path
