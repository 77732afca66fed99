"""Text encoders that several open checkpoints share, from ``transformers`` (the extra ``hf``)."""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from worldcompass.errors import UserError
from worldcompass.runs.reading import reason

NUM_CAPTION_STATES = 512  # of UMT5; the caption's states are padded with zeros, which networks read


def need_transformers() -> Any:
    """The package ``transformers``.

    Raises:
        UserError: when it or Pillow is not installed.
    """
    try:
        import PIL  # noqa: F401 # pyright: ignore[reportMissingImports] - transformers resizes images with it
        import transformers  # pyright: ignore[reportMissingImports]
    except ImportError as why:
        raise UserError(
            f"preparing images needs the package {why.name}: pip install 'worldcompass[hf]'"
        ) from why
    return transformers


def need_ftfy() -> Any:
    """The package ``ftfy``, which mends broken text.

    Raises:
        UserError: when it is not installed.
    """
    try:
        import ftfy  # pyright: ignore[reportMissingImports]
    except ImportError as why:
        raise UserError("captions are cleaned by the package ftfy: pip install 'worldcompass[hf]'") from why
    return ftfy


def cleaned(caption: str) -> str:
    """A caption mended by ``ftfy``, without entities of HTML, with single spaces, as for the training of Wan.

    Raises:
        UserError: when ``ftfy`` is not installed.
    """
    return " ".join(html.unescape(html.unescape(need_ftfy().fix_text(caption))).split())


class Umt5:
    """UMT5 and its tokenizer, for cleaned captions.

    Args:
        checkpoints: folder with ``text_encoder`` and ``tokenizer``.
        device: of the network.
        dtype: of the network and the states.

    Raises:
        UserError: when the extra is not installed, or when a file is missing, damaged or of another network.
    """

    def __init__(self, checkpoints: Path, device: str, dtype: torch.dtype = torch.bfloat16) -> None:
        transformers = need_transformers()
        need_ftfy()
        self.tokenizer = read_part(transformers.AutoTokenizer.from_pretrained, checkpoints / "tokenizer")
        folder = checkpoints / "text_encoder"
        self.network = whole_network(transformers.UMT5EncoderModel, folder, device, dtype)

    @torch.no_grad()
    def encode(self, caption: str) -> Tensor:
        """The states (512, E) of a caption, padded with zeros."""
        tokens = self.tokenizer(
            cleaned(caption), truncation=True, max_length=NUM_CAPTION_STATES, return_tensors="pt"
        ).input_ids
        states = self.network(input_ids=tokens.to(self.network.device)).last_hidden_state[0]
        padded = states.new_zeros(NUM_CAPTION_STATES, states.shape[-1])
        padded[: len(states)] = states
        return padded


def whole_network(kind: Any, folder: Path, device: str, dtype: torch.dtype) -> Any:
    """A network of ``transformers`` with all its weights from a folder.

    Raises:
        UserError: when a file is damaged, or weights are missing.
    """
    net, report = read_part(
        lambda path, **options: kind.from_pretrained(
            path, dtype=dtype, use_safetensors=True, output_loading_info=True, **options
        ),
        folder,
    )
    if report["missing_keys"]:
        examples = ", ".join(sorted(report["missing_keys"])[:3])
        raise UserError(f"{folder} lacks weights of a {kind.__name__}, {examples} missing: fetch it again")
    return net.to(device).eval().requires_grad_(False)


def read_part(load: Callable[..., Any], folder: Path) -> Any:
    """What ``load`` reads from a folder, without the network.

    Raises:
        UserError: when it cannot be read.
    """
    try:
        return load(folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as why:
        first_line = reason(why).partition("\n")[0]
        raise UserError(f"{folder} cannot be read ({first_line}): fetch it again") from why
