"""The encoders of WorldPlay's conditioning, from ``transformers`` (the extra ``hf``).

They run without padding. This is equivalent to the official code, which masks padding and drops it afterwards.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from worldcompass.errors import UserError
from worldcompass.worlds.worldplay.decoder import VideoDecoder, load_decoder_5b, load_decoder_8b
from worldcompass.worlds.worldplay.weights import FILE_NAME

SIZE_8B, SIZE_5B = (480, 832), (704, 1280)  # height and width in pixels of the published models
MAX_TEXT_TOKENS = 1000  # of a caption, 8B
MAX_QUOTED_TOKENS = 256  # of the text that it quotes, 8B
NUM_CAPTION_STATES = 512  # 5B; the caption's states are padded with zeros, which the network reads
SKIPPED_LAYERS = 2  # last layers of the language model whose outputs are not used

# The 8B model was trained on states of captions with this instruction, including its runs of spaces.
INSTRUCTION = " ".join(
    [
        "You are a helpful assistant. Describe the video by detailing the following aspects:",
        "        1. The main content and theme of the video.",
        "        2. The color, shape, size, texture, quantity, text, and spatial relationships of the objects.",
        "        3. Actions, events, behaviors temporal relationships, physical movement changes of the objects.",
        "        4. background environment, light, style and atmosphere.",
        "        5. camera angles, movements, and transitions used in the video.",
    ]
)
_QUOTED = re.compile(r'"(.*?)"|“(.*?)”')
_CAPTION = (
    "<<caption>>"  # placeholder that splits the chat template into the parts before and after the caption
)


@dataclass(frozen=True)
class Part:
    """One folder of the encoders' checkpoints."""

    folder: str
    files: tuple[str, ...]
    """Patterns of files that it must contain."""
    what: str
    """Its content and origin, for messages."""


_NET, _WORDS = ("config.json", "*.safetensors"), ("tokenizer_config.json",)
_HUNYUAN = "hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-480p_i2v"
_WAN = "Wan-AI/Wan2.2-TI2V-5B-Diffusers"
PARTS_8B = (
    Part("vae", ("config.json", FILE_NAME), "the video autoencoder, folder vae of tencent/HunyuanVideo-1.5"),
    Part("text_encoder", _NET, f"Qwen2.5-VL, from {_HUNYUAN}"),
    Part("tokenizer", _WORDS, f"its tokenizer, from {_HUNYUAN}"),
    Part("text_encoder_2", _NET, f"byT5 for quoted text, from {_HUNYUAN}"),
    Part("tokenizer_2", _WORDS, f"its tokenizer, from {_HUNYUAN}"),
    Part("image_encoder", _NET, f"SigLIP, from {_HUNYUAN}"),
    Part("feature_extractor", ("preprocessor_config.json",), f"its image sizes, from {_HUNYUAN}"),
)
PARTS_5B = (
    Part("vae", ("config.json", FILE_NAME), f"the video autoencoder, from {_WAN}"),
    Part("text_encoder", _NET, f"UMT5, from {_WAN}"),
    Part("tokenizer", _WORDS, f"its tokenizer, from {_WAN}"),
)


def check_parts(checkpoints: Path, parts: tuple[Part, ...]) -> None:
    """Check that every folder exists with its files.

    Raises:
        UserError: listing all missing files and their origin.
    """
    missing = [
        f"{part.folder}/{file} ({part.what})"
        for part in parts
        for file in part.files
        if not any((checkpoints / part.folder).glob(file))
    ]
    if missing:
        raise UserError(f"{checkpoints} lacks {'; '.join(missing)}: download the missing files")


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


class Encoder8B:
    """Conditioning of the 8B model: autoencoder, Qwen2.5-VL, byT5 and SigLIP.

    Args:
        checkpoints: folder with ``PARTS_8B``.
        device: of all networks.
        dtype: of the encoders and the stored states; the autoencoder stays in float32.
        size: height and width in pixels to which images are cropped.

    Raises:
        UserError: when the extra is not installed, or when a file is missing, damaged or of another network.
    """

    def __init__(
        self,
        checkpoints: Path,
        device: str = "cpu",
        dtype: torch.dtype = torch.bfloat16,
        size: tuple[int, int] = SIZE_8B,
    ) -> None:
        transformers = need_transformers()
        check_parts(checkpoints, PARTS_8B)
        self.size = size
        self.decoder = load_decoder_8b(checkpoints / "vae", device)
        self.tokenizer = _read(transformers.AutoTokenizer.from_pretrained, checkpoints / "tokenizer")
        self.quoted_tokenizer = _read(transformers.AutoTokenizer.from_pretrained, checkpoints / "tokenizer_2")
        self.pixels = _read(
            transformers.SiglipImageProcessor.from_pretrained, checkpoints / "feature_extractor"
        )
        self.language = _network(
            transformers.Qwen2_5_VLTextModel, checkpoints / "text_encoder", device, dtype
        )
        self.quoted = _network(transformers.T5EncoderModel, checkpoints / "text_encoder_2", device, dtype)
        self.vision = _network(transformers.SiglipVisionModel, checkpoints / "image_encoder", device, dtype)

    @torch.no_grad()
    def encode(self, image_3hw: Tensor, caption: str) -> dict[str, Tensor]:
        """The start image's latent, and the states of the caption, its quoted text and the image."""
        cropped = crop(image_3hw, self.size)
        text, quoted = self._caption(caption), self._quoted(caption)
        return {
            "latent": _latent(cropped, self.decoder),
            "text_states": text,
            "text_mask": torch.ones(len(text), dtype=torch.long),
            "byt5_states": quoted if len(quoted) else torch.zeros(1, self.quoted.config.d_model),
            "byt5_mask": torch.ones(len(quoted), dtype=torch.long) if len(quoted) else torch.zeros(1).long(),
            "vision_states": self._image(cropped),
        }

    def _caption(self, caption: str) -> Tensor:
        """States (L, E) of the caption and the end of the chat, without the instruction before it."""
        chat = [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": _CAPTION}]
        text = self.tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        before, after = text.split(_CAPTION)
        count = len(self.tokenizer(before, add_special_tokens=False).input_ids)
        whole = self.tokenizer(before + (caption or " ") + after, add_special_tokens=False).input_ids
        tokens = torch.tensor([whole[: count + MAX_TEXT_TOKENS]], device=self.language.device)
        states = self.language(input_ids=tokens, output_hidden_states=True).hidden_states
        return states[-1 - SKIPPED_LAYERS][0, count:]

    def _quoted(self, caption: str) -> Tensor:
        """States (L, E) of the quoted text, with L = 0 when nothing is quoted."""
        text = quotes_for_byt5(caption)
        if not text:
            return torch.zeros(0, self.quoted.config.d_model)
        tokens = self.quoted_tokenizer(
            text, truncation=True, max_length=MAX_QUOTED_TOKENS, return_tensors="pt"
        ).input_ids
        return self.quoted(input_ids=tokens.to(self.quoted.device)).last_hidden_state[0]

    def _image(self, cropped_3hw: Tensor) -> Tensor:
        pixels = self.pixels(images=cropped_3hw.movedim(0, -1).numpy(), return_tensors="pt").pixel_values
        return self.vision(pixel_values=pixels.to(self.vision.device, self.vision.dtype)).last_hidden_state[0]


class Encoder5B:
    """Conditioning of the 5B model: autoencoder and UMT5; arguments and errors as in ``Encoder8B``."""

    def __init__(
        self,
        checkpoints: Path,
        device: str = "cpu",
        dtype: torch.dtype = torch.bfloat16,
        size: tuple[int, int] = SIZE_5B,
    ) -> None:
        transformers = need_transformers()
        check_parts(checkpoints, PARTS_5B)
        self.size = size
        self.decoder = load_decoder_5b(checkpoints / "vae", device)
        self.tokenizer = _read(transformers.AutoTokenizer.from_pretrained, checkpoints / "tokenizer")
        self.language = _network(transformers.UMT5EncoderModel, checkpoints / "text_encoder", device, dtype)

    @torch.no_grad()
    def encode(self, image_3hw: Tensor, caption: str) -> dict[str, Tensor]:
        """The start image's latent and the caption's states, padded with zeros to their full number."""
        text = " ".join(html.unescape(html.unescape(caption)).split())
        tokens = self.tokenizer(
            text, truncation=True, max_length=NUM_CAPTION_STATES, return_tensors="pt"
        ).input_ids
        states = self.language(input_ids=tokens.to(self.language.device)).last_hidden_state[0]
        padded = states.new_zeros(NUM_CAPTION_STATES, states.shape[-1])
        padded[: len(states)] = states
        return {"latent": _latent(crop(image_3hw, self.size), self.decoder), "text_states": padded}


def quotes_for_byt5(caption: str) -> str:
    """A caption's quotations without repetitions, in the form on which byT5 was trained; empty without any."""
    quotes = dict.fromkeys(straight or curly for straight, curly in _QUOTED.findall(caption))
    return "".join(f'Text "{quote}". ' for quote in quotes)


def crop(image_3hw: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize an image to cover (height, width), keeping its aspect, and crop the centre; uint8.

    The method is that of WorldPlay's inference: Lanczos, with rounded sides and offsets.
    """
    from PIL import Image  # pyright: ignore[reportMissingImports]

    height, width = image_3hw.shape[-2:]
    scale = max(size[0] / height, size[1] / width)
    resized_h, resized_w = round(height * scale), round(width * scale)
    picture = Image.fromarray(image_3hw.movedim(0, -1).numpy())
    covering = np.array(picture.resize((resized_w, resized_h), Image.Resampling.LANCZOS))
    top, left = round((resized_h - size[0]) / 2), round((resized_w - size[1]) / 2)
    cut = covering[top : top + size[0], left : left + size[1]]
    return torch.from_numpy(cut.copy()).movedim(-1, 0).contiguous()


def _latent(cropped_3hw: Tensor, decoder: VideoDecoder) -> Tensor:
    """The latent (C, H, W) of a start image, in the transformer's scale."""
    frames_11F3hw = cropped_3hw[None, None].float() / 255
    device = next(decoder.net.parameters()).device
    return decoder.encode(frames_11F3hw.to(device))[0, :, 0]


def _network(kind: Any, folder: Path, device: str, dtype: torch.dtype) -> Any:
    """A network with all its weights from a folder.

    Raises:
        UserError: when a file is damaged, or weights are missing.
    """
    net, report = _read(
        lambda path, **options: kind.from_pretrained(
            path, dtype=dtype, use_safetensors=True, output_loading_info=True, **options
        ),
        folder,
    )
    if report["missing_keys"]:
        examples = ", ".join(sorted(report["missing_keys"])[:3])
        raise UserError(f"{folder} lacks weights of a {kind.__name__}, {examples} missing: fetch it again")
    return net.to(device).eval().requires_grad_(False)


def _read(load: Callable[..., Any], folder: Path) -> Any:
    try:
        return load(folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as why:
        first_line = str(why).partition("\n")[0]
        raise UserError(f"{folder} cannot be read ({first_line}): fetch it again") from why
