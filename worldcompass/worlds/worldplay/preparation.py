"""How ``worldcompass prepare`` makes the data sets of both WorldPlay models."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from worldcompass.errors import UserError
from worldcompass.worlds.open.layouts import check_parts
from worldcompass.worlds.open.prepare import Encoder, Preparation
from worldcompass.worlds.worldplay.config import Config5B, Config8B, expected_shapes
from worldcompass.worlds.worldplay.layouts import PARTS_5B, parts_8b
from worldcompass.worlds.worldplay.official_data import OfficialImage, convert, is_index, read_index

MODELS = {Config8B: "worldplay-8b", Config5B: "worldplay-5b"}


def preparation_of(network: Config8B | Config5B, latent_size: tuple[int, int]) -> Preparation:
    """See ``Preparation``. The released trainer's ``latents.json`` is converted for the 8B."""
    is_8b = isinstance(network, Config8B)
    return Preparation(
        model=MODELS[type(network)],
        shapes=expected_shapes(network, latent_size),
        check=_check_8b if is_8b else _check_5b,
        encoder=partial(_encoder, is_8b),
        fits=("crop", "stretch"),
        read_official=_read_8b if is_8b else _refuse,
        convert=convert,
    )


def _check_8b(checkpoints: Path) -> None:
    from worldcompass.worlds.open.text import need_transformers

    need_transformers()
    check_parts(checkpoints, parts_8b(checkpoints))


def _check_5b(checkpoints: Path) -> None:
    from worldcompass.worlds.open.text import need_ftfy, need_transformers

    need_transformers()
    need_ftfy()
    check_parts(checkpoints, PARTS_5B)


def _encoder(is_8b: bool, checkpoints: Path, device: str, fit: str) -> Encoder:
    from worldcompass.worlds.worldplay.encoders import FITS, Encoder5B, Encoder8B

    return (Encoder8B if is_8b else Encoder5B)(checkpoints, device, fit=FITS[fit])


def _read_8b(images: Path) -> Sequence[OfficialImage] | None:
    return read_index(images) if is_index(images) else None


def _refuse(images: Path) -> None:
    if is_index(images):
        raise UserError(f"{images} is data of the released trainer, which knows only worldplay-8b")
