"""Data of the released WorldCompass: encoded images (``latents.json`` with ``.pt`` files), converted to a dataset.

An entry of the index is ``{"latent_path", "image_path", "caption"}``. A ``.pt`` file holds one image's tensors
with a leading axis of 1, in the transformer's scale.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worldcompass.errors import UserError
from worldcompass.runs.reading import read_json
from worldcompass.worlds.open.prepared import SUFFIX, Shape, load_prepared, read_metadata, save_prepared
from worldcompass.worlds.open.weights import read_pickled

ENTRY = "latent_path"
START, TEXT, TEXT_MASK = "image_cond", "prompt_embeds", "prompt_mask"
QUOTED, QUOTED_MASK, VISION = "byt5_text_states", "byt5_text_mask", "vision_states"
_NEEDED = (START, TEXT, TEXT_MASK, QUOTED, QUOTED_MASK, VISION)


@dataclass(frozen=True)
class OfficialImage:
    """One entry of an index."""

    id: str
    file: Path
    caption: str


def is_index(path: Path) -> bool:
    """Whether a file is an index of encoded images rather than a list of images."""
    try:
        raw = read_json(path) if path.is_file() else None
    except (OSError, ValueError):
        return False
    return isinstance(raw, list) and bool(raw) and isinstance(raw[0], dict) and ENTRY in raw[0]


def read_index(path: Path) -> list[OfficialImage]:
    """The images of an index. A file that is not at its place is looked for in ``latents/`` next to the index.

    Raises:
        UserError: when the index is damaged, a file is missing, or two have one name.
    """
    images = [_image(path, i, entry) for i, entry in enumerate(read_json(path))]
    names = [image.id for image in images]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{path} names two files {repeated}.pt, which would become one: rename one")
    return images


def convert(
    images: Sequence[OfficialImage], shapes: Mapping[str, Shape], out: Path
) -> Iterator[OfficialImage]:
    """Write every image without a finished file to ``out``; yields each once its file is finished.

    Raises:
        UserError: when a file is damaged, or its tensors do not fit the model.
    """
    for image in images:
        path = out / f"{image.id}{SUFFIX}"
        source = {"caption": image.caption, "official": str(image.file)}
        if not _is_done(path, source, shapes):
            save_prepared(path, conditioning(image.file), shapes, source)
        yield image


def conditioning(file: Path) -> dict[str, Tensor]:
    """The tensors of one ``.pt`` file in the form of ``worldcompass prepare``.

    Raises:
        UserError: when it is damaged or lacks a tensor.
    """
    found = read_pickled(file)
    if lacks := [name for name in _NEEDED if name not in found or found[name].shape[:1] != (1,)]:
        raise UserError(
            f"{file} has no {', '.join(lacks)} of one image: expected the released trainer's data"
        )
    own = {name: found[name][0] for name in _NEEDED}
    text, quoted = own[TEXT][own[TEXT_MASK].bool()], own[QUOTED][own[QUOTED_MASK].bool()]
    return {
        "latent": own[START][:, 0].float(),
        "text_states": text,
        "text_mask": torch.ones(len(text), dtype=torch.long),
        "byt5_states": quoted if len(quoted) else own[QUOTED][:1],
        "byt5_mask": torch.full((max(1, len(quoted)),), int(len(quoted) > 0)),
        "vision_states": own[VISION],
    }


def _image(path: Path, index: int, entry: Any) -> OfficialImage:
    named = entry.get(ENTRY) if isinstance(entry, dict) else None
    if not isinstance(named, str):
        raise UserError(f"{path}: entry {index} has no {ENTRY}: expected the index of the released trainer")
    file = next((f for f in (Path(named), path.parent / "latents" / Path(named).name) if f.is_file()), None)
    if file is None:
        raise UserError(
            f"{path}: entry {index} names {named}, which is neither there nor in latents/ next to it"
        )
    caption = entry.get("caption", "")
    return OfficialImage(file.stem, file, caption if isinstance(caption, str) else "")


def _is_done(path: Path, source: Mapping[str, str], shapes: Mapping[str, Shape]) -> bool:
    try:
        load_prepared(path, shapes)
        return read_metadata(path) == source
    except UserError:
        return False
