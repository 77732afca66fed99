"""Conversion of images and captions to a dataset of conditioning, one file each; finished files are skipped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from worldcompass.errors import UserError
from worldcompass.media.video import VIDEOS, check_aspect, read_image, read_video
from worldcompass.runs.reading import read_json, reason
from worldcompass.runs.requirements import digest_of, visible
from worldcompass.worlds.open.prepared import SUFFIX, Shape, load_prepared, read_metadata, save_prepared

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
CAPTION = ".txt"


class Encoder(Protocol):
    """Computes conditioning from an image and its caption."""

    def encode(self, image_3hw: Any, caption: str) -> dict[str, Tensor]:
        """The conditioning of a uint8 sRGB image of any size, or of what ``Preparation.read`` makes instead."""
        ...


@dataclass(frozen=True)
class Preparation:
    """How the data set of one model is made."""

    model: str
    """Name of the model, stored in the files."""
    shapes: Mapping[str, Shape]
    """Names and shapes of a file's tensors."""
    check: Callable[[Path], None]
    """Refuses a folder that lacks a part of the encoders, or a missing package, with a ``UserError``."""
    encoder: Callable[[Path, str, str], Encoder]
    """(folder of the encoders, device, one of ``fits``) -> loaded encoders."""
    fits: tuple[str, ...] = ("crop",)
    """How images can be given the model's size; the first one is the usual way."""
    read_official: Callable[[Path], Sequence[Any] | None] = lambda images: None
    """The entries of a file of images that official code has encoded already; None for another file."""
    convert: Callable[[Sequence[Any], Mapping[str, Shape], Path], Iterator[Any]] | None = None
    """(entries, shapes, folder) -> converts such entries one by one."""
    read: Callable[[Request], Any] = lambda request: request.read()
    """What an encoder gets of a request besides its caption."""
    from_captions: bool = False
    """Whether a caption alone is a start, ``lake.txt`` without an image next to it."""
    captions: bool = True
    """Whether every image needs a caption."""
    beside: tuple[str, ...] = ()
    """Endings of further files next to an image from which its file is made, if they exist, such as ``.json``."""
    encoders: Path | None = None
    """Folder of the encoders if the command names none."""


@dataclass(frozen=True)
class Request:
    """One image to prepare."""

    id: str
    image: Path
    """The picture or video; of a caption alone its own file."""
    caption: str

    def source(self, model: str, beside: Sequence[str] = ()) -> dict[str, str]:
        """The inputs of the result, stored in its file; a file with other inputs is made again.

        ``model`` names the model, and how images are fitted to it if not in the usual way; for ``beside`` see
        ``Preparation``.
        """
        others = {ending: self.image.with_suffix(ending) for ending in beside}
        return {
            "model": model,
            "caption": self.caption,
            "image_sha256": digest_of(self.image),
            **{f"{ending}_sha256": digest_of(file) for ending, file in others.items() if file.is_file()},
        }

    def read(self) -> Tensor:
        """The picture, or the first frame of a video; uint8 (3, h, w).

        Raises:
            UserError: when it cannot be read.
        """
        if self.image.suffix.lower() in VIDEOS:
            return read_video(self.image, max_frames=1)[0]
        return read_image(self.image)


def read_requests(images: Path, from_captions: bool = False, captions: bool = True) -> list[Request]:
    """Images with their captions, in the order of their names or of the list.

    Args:
        from_captions: see ``Preparation``; only in a folder.
        images: a folder of pictures, each with a caption file next to it (``lake.png``, ``lake.txt``), or of
            videos, whose first frames are prepared, or a JSON
            list of objects with ``image`` (a path, relative to the list), ``caption`` and optionally ``id``. The
            released trainer's lists, with ``image_path``, are read too.
        captions: whether every image needs a caption.

    Raises:
        UserError: when there are no images, a caption or image is missing or unreadable, or names repeat.
    """
    if not images.exists():
        raise UserError(f"there is no {images}: expected a folder of images or a JSON list of them")
    requests = (
        _from_folder(images, from_captions, captions) if images.is_dir() else _from_list(images, captions)
    )
    if not requests:
        raise UserError(
            f"{images} holds no images: expected {', '.join(PICTURES)} files or a JSON list of them"
        )
    seen: dict[str, Path] = {}
    for request in requests:
        if request.id in seen:
            raise UserError(
                f"{seen[request.id]} and {request.image} would both become {request.id}{SUFFIX}: rename one"
            )
        seen[request.id] = request.image
        if request.image.suffix == CAPTION:
            continue
        height, width = request.read().shape[-2:]
        try:
            check_aspect(width, height)  # a narrow strip would take GiB when scaled before the crop
        except UserError as why:
            raise UserError(f"{request.image}: {why}") from why
    return requests


def prepare(
    requests: Sequence[Request],
    make_encoder: Callable[[], Encoder],
    model: str,
    shapes: Mapping[str, Shape],
    out: Path,
    read: Callable[[Request], Any] = Request.read,
    beside: Sequence[str] = (),
) -> Iterator[Request]:
    """Encode images without a finished file in ``out``; yields each image once its file is finished.

    Args:
        requests: see ``read_requests``.
        make_encoder: called only if an image needs encoding, as loading takes minutes.
        model: name of the model, stored in the files.
        shapes: of a file's tensors, see ``expected_shapes``.
        out: folder of the files.
        read: see ``Preparation``.
        beside: see there.

    Raises:
        UserError: when an encoder's result differs from ``shapes``.
    """
    out.mkdir(parents=True, exist_ok=True)
    encoder: Encoder | None = None
    for request in requests:
        path, source = out / f"{request.id}{SUFFIX}", request.source(model, beside)
        if not _is_done(path, source, shapes):
            encoder = encoder or make_encoder()
            tensors = encoder.encode(read(request), request.caption)
            save_prepared(path, tensors, shapes, source)
        yield request


def _is_done(path: Path, source: Mapping[str, str], shapes: Mapping[str, Shape]) -> bool:
    """Whether there is a readable file made from exactly this image and caption."""
    try:
        load_prepared(path, shapes)
        return read_metadata(path) == source
    except UserError:
        return False


def _from_folder(folder: Path, from_captions: bool, captions: bool) -> list[Request]:
    requests, files = [], visible(folder, "*")
    images = [path for path in files if path.suffix.lower() in (*PICTURES, *VIDEOS)]
    if from_captions:
        shown = {image.stem for image in images}
        images += [path for path in files if path.suffix == CAPTION and path.stem not in shown]
    for image in sorted(images):
        file = image.with_suffix(CAPTION)
        if not captions and not file.is_file():
            requests.append(Request(image.stem, image, ""))
            continue
        if not file.is_file():
            raise UserError(f"{image} has no caption: expected one in {file}, which may be empty")
        try:
            caption = file.read_text(encoding="utf-8-sig").strip()  # some editors mark the byte order
        except UnicodeDecodeError as why:
            raise UserError(f"{file} is not UTF-8 text ({why.reason}): save it as UTF-8") from why
        requests.append(Request(image.stem, image, caption))
    return requests


def _from_list(path: Path, captions: bool) -> list[Request]:
    try:
        raw = read_json(path)
    except (OSError, ValueError) as why:
        raise UserError(
            f"{path} is neither a folder of images nor a readable JSON list of them ({reason(why)}):"
            " give one of the two"
        ) from why
    if not isinstance(raw, list):
        raise UserError(
            f'{path} holds no list: expected [{{"image": "lake.png", "caption": "A lake."}}, ...]'
        )
    return [_from_entry(path, i, entry, captions) for i, entry in enumerate(raw)]


def _from_entry(path: Path, index: int, entry: Any, captions: bool) -> Request:
    values = dict(entry) if isinstance(entry, dict) else {}
    if not captions:
        values.setdefault("caption", "")
    if "image_path" in values and "image" not in values:
        values["image"] = values.pop("image_path")
    unknown = sorted(values.keys() - {"image", "caption", "id"})
    if unknown:
        raise UserError(
            f"{path}: entry {index} has unknown keys {', '.join(unknown)}: expected image, caption, id"
        )
    if not all(isinstance(values.get(key), str) for key in ("image", "caption")):
        raise UserError(f"{path}: entry {index} needs an image and a caption, both strings")
    image = path.parent / values["image"]
    name = values.get("id", image.stem)
    if not isinstance(name, str) or not name or name != Path(name).name or name.startswith("."):
        raise UserError(f"{path}: entry {index} has the id {name!r}: expected a plain file name")
    return Request(name, image, values["caption"])
