"""Folders of the encoders, as the official scripts download them and as ``diffusers`` repositories keep them."""

from __future__ import annotations

from pathlib import Path

from worldcompass.worlds.open.layouts import Part
from worldcompass.worlds.open.weights import FILE_NAME

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
# As the official download scripts arrange them, in one folder with the autoencoder.
QWEN, BYT5 = "text_encoder/llm", "text_encoder/byt5-small"
GLYPH = "text_encoder/Glyph-SDXL-v2/checkpoints/byt5_model.pt"
SIGLIP = "vision_encoder/siglip"
_REDUX = "black-forest-labs/FLUX.1-Redux-dev"
OFFICIAL_8B = (
    PARTS_8B[0],
    Part(QWEN, (*_NET, *_WORDS), "Qwen2.5-VL, Qwen/Qwen2.5-VL-7B-Instruct"),
    Part(BYT5, ("config.json", *_WORDS), "google/byt5-small"),
    Part(str(Path(GLYPH).parent), (Path(GLYPH).name,), "byT5 for quoted text, AI-ModelScope/Glyph-SDXL-v2"),
    Part(f"{SIGLIP}/image_encoder", _NET, f"SigLIP, from {_REDUX}"),
    Part(f"{SIGLIP}/feature_extractor", ("preprocessor_config.json",), f"its image sizes, from {_REDUX}"),
)
PARTS_5B = (
    Part("vae", ("config.json", FILE_NAME), f"the video autoencoder, from {_WAN}"),
    Part("text_encoder", _NET, f"UMT5, from {_WAN}"),
    Part("tokenizer", _WORDS, f"its tokenizer, from {_WAN}"),
)


def is_official(checkpoints: Path) -> bool:
    """Whether a folder was made by the official download scripts rather than from a ``diffusers`` repository."""
    return (checkpoints / QWEN).is_dir() or (checkpoints / SIGLIP).is_dir()


def parts_8b(checkpoints: Path) -> tuple[Part, ...]:
    """The parts that the 8B's encoders need of this folder."""
    return OFFICIAL_8B if is_official(checkpoints) else PARTS_8B
