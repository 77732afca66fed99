"""How ``worldcompass prepare`` makes Waypoint's data set: the start image's latent and the caption's states."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from worldcompass.media.video import fit
from worldcompass.worlds.open.layouts import Part, check_parts
from worldcompass.worlds.open.prepare import Encoder, Preparation
from worldcompass.worlds.open.prepared import Shape
from worldcompass.worlds.open.text import Umt5, need_ftfy, need_transformers
from worldcompass.worlds.waypoint.autoencoder import FRAME_SIZE
from worldcompass.worlds.waypoint.config import WaypointConfig
from worldcompass.worlds.waypoint.weights import DECODER_FILES, ENCODER_FILES, load_coder

AUTOENCODER = "autoencoder"  # its folder in the checkpoints
NO_CAPTION = "An explorable world"  # what the official engine says when nothing is said
_CODER = Part(
    AUTOENCODER,
    (*ENCODER_FILES, *DECODER_FILES),
    "the autoencoder that ae_uri in config.yaml names, OpenWorldLabs/owl_vae_f16_c16_distill_v0_nogan",
)
_WORDS = (
    Part("text_encoder", ("config.json", "*.safetensors"), "UMT5, google/umt5-xl"),
    Part("tokenizer", ("tokenizer_config.json",), "its tokenizer, google/umt5-xl"),
)


def expected_shapes(config: WaypointConfig) -> dict[str, Shape]:
    """Names and shapes of a prepared file's tensors. The caption's padding is part of its states."""
    shapes: dict[str, Shape] = {"latent": config.latent_shape}
    if config.prompt_width is not None:
        shapes["text_states"] = (config.prompt_length, config.prompt_width)
    return shapes


def preparation_of(config: WaypointConfig) -> Preparation:
    """See ``Preparation``. Images are squeezed as in the official code, or cropped to the frames' aspect first."""
    reads_text = config.prompt_width is not None

    def check(checkpoints: Path) -> None:
        if reads_text:
            need_transformers()
            need_ftfy()
        check_parts(checkpoints, (_CODER, *_WORDS) if reads_text else (_CODER,))

    def encoder(checkpoints: Path, device: str, how: str) -> Encoder:
        return StartEncoder(checkpoints, device, how == "crop", reads_text)

    return Preparation("waypoint", expected_shapes(config), check, encoder, fits=("stretch", "crop"))


class StartEncoder:
    """Implements ``Encoder`` with the official autoencoder and UMT5.

    Args:
        checkpoints: folder of both.
        device: of both.
        crops: cut images to the frames' aspect instead of squeezing them.
        reads_text: whether the model reads captions.
    """

    def __init__(self, checkpoints: Path, device: str, crops: bool, reads_text: bool) -> None:
        self.coder, self.crops, self.device = load_coder(checkpoints / AUTOENCODER, device), crops, device
        self.language = Umt5(checkpoints, device) if reads_text else None

    def encode(self, image_3hw: Tensor, caption: str) -> dict[str, Tensor]:
        """The start image's latent, and the states of the caption or of the official one if it is empty."""
        image = fit(image_3hw[None], FRAME_SIZE) if self.crops else image_3hw[None]
        found = {"latent": self.coder.encode(image.to(self.device))[0]}
        if self.language is not None:
            found["text_states"] = self.language.encode(caption or NO_CAPTION)
        return found
