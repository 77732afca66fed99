"""Folders of downloaded checkpoints and the files that they must hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from worldcompass.errors import UserError
from worldcompass.runs.requirements import lacks, visible


@dataclass(frozen=True)
class Part:
    """One folder of the encoders' checkpoints."""

    folder: str
    files: tuple[str, ...]
    """Patterns of files that it must contain."""
    what: str
    """Its content and origin, for messages."""


def check_parts(checkpoints: Path, parts: tuple[Part, ...]) -> None:
    """Check that every folder exists with its files.

    Raises:
        UserError: listing all missing files and their origin.
    """
    missing = [
        f"{part.folder}/{file} ({part.what})"
        for part in parts
        for file in part.files
        if not visible(checkpoints / part.folder, file)
    ]
    if missing:
        raise UserError(lacks(str(checkpoints), missing, "download what is missing"))
