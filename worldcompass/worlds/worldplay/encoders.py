"""The encoders of WorldPlay's conditioning, from ``transformers`` (the extra ``hf``).

They run without padding. This is equivalent to the official code, which masks padding and drops it afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from worldcompass.errors import UserError
from worldcompass.worlds.open.decoder import VideoDecoder
from worldcompass.worlds.open.layouts import check_parts
from worldcompass.worlds.open.text import Umt5, need_ftfy, need_transformers, read_part, whole_network
from worldcompass.worlds.open.weights import read_pickled
from worldcompass.worlds.worldplay.decoder import load_decoder_5b, load_decoder_8b
from worldcompass.worlds.worldplay.layouts import BYT5, GLYPH, PARTS_5B, QWEN, SIGLIP, is_official, parts_8b

Fit = Callable[[Tensor, tuple[int, int]], Tensor]
"""(image (3, h, w), size (height, width)) -> image of this size."""

SIZE_8B, SIZE_5B = (480, 832), (704, 1280)  # height and width in pixels of the published models
MAX_TEXT_TOKENS = 1000  # of a caption, 8B
MAX_QUOTED_TOKENS = 256  # of the text that it quotes, 8B
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
_GLYPH_PREFIX = "module.text_tower.encoder."
_CAPTION = (
    "<<caption>>"  # placeholder that splits the chat template into the parts before and after the caption
)


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


def stretch(image_3hw: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize an image to (height, width) whatever its aspect; uint8.

    The method of the released RL data: bilinear without antialiasing.
    """
    stretched = functional.interpolate(image_3hw[None].float(), size, mode="bilinear", align_corners=False)
    return stretched[0].round().clamp(0, 255).byte()


FITS: dict[str, Fit] = {"crop": crop, "stretch": stretch}
"""Ways to give an image the model's size: of WorldPlay's inference, and of the released RL data."""


class Encoder8B:
    """Conditioning of the 8B model: autoencoder, Qwen2.5-VL, byT5 and SigLIP.

    Args:
        checkpoints: folder with the parts of ``parts_8b``.
        device: of all networks.
        dtype: of the encoders and the stored states; those of the released data when None (float16 on CUDA,
            and float32 for byT5). The autoencoder stays in float32.
        size: height and width in pixels of images.
        fit: how images get this size.

    Raises:
        UserError: when the extra is not installed, or when a file is missing, damaged or of another network.
    """

    def __init__(
        self,
        checkpoints: Path,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        size: tuple[int, int] = SIZE_8B,
        fit: Fit = crop,
    ) -> None:
        transformers = need_transformers()
        check_parts(checkpoints, parts_8b(checkpoints))
        half = dtype or (torch.float16 if device.startswith("cuda") else torch.float32)
        self.size, self.fit = size, fit
        self.decoder = load_decoder_8b(checkpoints / "vae", device)
        self.language, words = _language(transformers, checkpoints, device, half)
        self.tokenizer = read_part(transformers.AutoTokenizer.from_pretrained, words)
        self.quoted, words = _quoted(transformers, checkpoints, device, dtype or torch.float32)
        self.quoted_tokenizer = read_part(transformers.AutoTokenizer.from_pretrained, words)
        images = checkpoints / SIGLIP if is_official(checkpoints) else checkpoints
        self.pixels = read_part(
            transformers.SiglipImageProcessor.from_pretrained, images / "feature_extractor"
        )
        self.vision = whole_network(transformers.SiglipVisionModel, images / "image_encoder", device, half)

    @torch.no_grad()
    def encode(self, image_3hw: Tensor, caption: str) -> dict[str, Tensor]:
        """The start image's latent, and the states of the caption, its quoted text and the image."""
        cropped = self.fit(image_3hw, self.size)
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
    """Conditioning of the 5B model: autoencoder and UMT5; arguments and errors as in ``Encoder8B``.

    ``dtype`` is bfloat16 when None. Captions are cleaned, see ``cleaned``.
    """

    def __init__(
        self,
        checkpoints: Path,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        size: tuple[int, int] = SIZE_5B,
        fit: Fit = crop,
    ) -> None:
        need_transformers()
        need_ftfy()
        check_parts(checkpoints, PARTS_5B)
        self.size, self.fit = size, fit
        self.decoder = load_decoder_5b(checkpoints / "vae", device)
        self.language = Umt5(checkpoints, device, dtype or torch.bfloat16)

    @torch.no_grad()
    def encode(self, image_3hw: Tensor, caption: str) -> dict[str, Tensor]:
        """The start image's latent and the caption's states, padded with zeros to their full number."""
        latent = _latent(self.fit(image_3hw, self.size), self.decoder)
        return {"latent": latent, "text_states": self.language.encode(caption)}


def quotes_for_byt5(caption: str) -> str:
    """A caption's quotations without repetitions, in the form on which byT5 was trained; empty without any."""
    quotes = dict.fromkeys(straight or curly for straight, curly in _QUOTED.findall(caption))
    return "".join(f'Text "{quote}". ' for quote in quotes)


def _latent(cropped_3hw: Tensor, decoder: VideoDecoder) -> Tensor:
    """The latent (C, H, W) of a start image, in the transformer's scale."""
    frames_11F3hw = cropped_3hw[None, None].float() / 255
    device = next(decoder.net.parameters()).device
    return decoder.encode(frames_11F3hw.to(device))[0, :, 0]


def _language(transformers: Any, checkpoints: Path, device: str, dtype: torch.dtype) -> tuple[Any, Path]:
    """The language model, and the folder of its tokenizer."""
    if not is_official(checkpoints):
        net = whole_network(transformers.Qwen2_5_VLTextModel, checkpoints / "text_encoder", device, dtype)
        return net, checkpoints / "tokenizer"
    folder = checkpoints / QWEN  # the whole Qwen2.5-VL, of which only the language model is used
    return whole_network(transformers.Qwen2_5_VLModel, folder, device, dtype).language_model, folder


def _quoted(transformers: Any, checkpoints: Path, device: str, dtype: torch.dtype) -> tuple[Any, Path]:
    """byT5 with the weights for quoted text, and the folder of its tokenizer.

    The official weights have more rows than the tokenizer has words: of colours and fonts, which no caption names.

    Raises:
        UserError: when the official weights are damaged or of another network.
    """
    if not is_official(checkpoints):
        net = whole_network(transformers.T5EncoderModel, checkpoints / "text_encoder_2", device, dtype)
        return net, checkpoints / "tokenizer_2"
    file, plain = checkpoints / GLYPH, checkpoints / BYT5
    found = {
        name.removeprefix(_GLYPH_PREFIX): tensor for name, tensor in read_pickled(file, "state_dict").items()
    }
    if "embed_tokens.weight" not in found:
        raise UserError(f"{file} has no embed_tokens.weight: expected the byT5 of Glyph-SDXL-v2")
    config = read_part(transformers.T5Config.from_pretrained, plain)
    config.vocab_size = len(found["embed_tokens.weight"])
    net = transformers.T5EncoderModel(config)
    try:
        net.encoder.load_state_dict({name: found[name] for name in net.encoder.state_dict()})
    except (KeyError, RuntimeError) as why:
        raise UserError(f"{file} does not fit the byT5 in {plain} ({why}): fetch both again") from why
    return net.to(device, dtype).eval().requires_grad_(False), plain
