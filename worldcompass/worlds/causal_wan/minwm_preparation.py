"""How ``worldcompass prepare`` makes minWM's data sets: prompts alone, or videos to go on from."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from worldcompass.errors import UserError
from worldcompass.media.video import VIDEOS, read_video
from worldcompass.worlds.causal_wan.autoencoder_files import VAE_FILE, load_decoder
from worldcompass.worlds.causal_wan.config import Config
from worldcompass.worlds.causal_wan.minwm import CHUNK, TEXT, VIDEO
from worldcompass.worlds.causal_wan.minwm_files import conditioning_shapes
from worldcompass.worlds.open.causal import FRAMES_PER_LATENT
from worldcompass.worlds.open.decoder import VideoDecoder
from worldcompass.worlds.open.layouts import Part, check_parts
from worldcompass.worlds.open.prepare import CAPTION, Preparation, Request

MODEL = "minwm"
CELL = 8  # pixels along each side of a cell
GIVEN_FRAMES = 1 + FRAMES_PER_LATENT * (CHUNK - 1)  # of a video, the first chunk
_DIFFUSERS = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
PARTS = (
    Part("text_encoder", ("config.json", "*.safetensors"), f"UMT5, from {_DIFFUSERS}"),
    Part("tokenizer", ("tokenizer_config.json",), f"its tokenizer, from {_DIFFUSERS}"),
    Part(".", (VAE_FILE,), "the video autoencoder, from Wan-AI/Wan2.1-T2V-1.3B"),
)


def preparation_of(config: Config, latent_size: tuple[int, int]) -> Preparation:
    """See ``Preparation``."""
    return Preparation(
        model=MODEL,
        shapes=conditioning_shapes(config, latent_size),
        check=_check,
        encoder=lambda checkpoints, device, fit: MinWMEncoder(checkpoints, device),
        read=lambda request: first_frames(request, latent_size),
        from_captions=True,
    )


def first_frames(request: Request, latent_size: tuple[int, int]) -> Tensor | None:
    """The frames of a video's first chunk in the model's size, uint8 (F, 3, h, w); None for a caption alone.

    Raises:
        UserError: for a picture, or for a video with fewer frames.
    """
    if request.image.suffix == CAPTION:
        return None
    if request.image.suffix.lower() not in VIDEOS:
        raise UserError(
            f"{request.image} is a picture, but minWM starts from a caption alone or goes on from a video: remove"
            f" the picture, or give a video of {GIVEN_FRAMES} frames or more"
        )
    size = (latent_size[0] * CELL, latent_size[1] * CELL)
    frames = read_video(request.image, max_frames=GIVEN_FRAMES, size=size)
    if len(frames) < GIVEN_FRAMES:
        raise UserError(
            f"{request.image} has {len(frames)} frames: minWM goes on from {GIVEN_FRAMES}; give a longer video, or"
            " its caption alone"
        )
    return frames


class MinWMEncoder:
    """Conditioning of minWM: UMT5, and for videos the autoencoder, which is loaded when the first one comes.

    Args:
        checkpoints: folder with ``PARTS``.
        device: of the networks.
        dtype: of UMT5. The autoencoder computes in float32.

    Raises:
        UserError: when the extra is not installed, or when a file is missing, damaged or of another network.
    """

    def __init__(self, checkpoints: Path, device: str = "cpu", dtype: torch.dtype = torch.bfloat16) -> None:
        from worldcompass.worlds.open.text import Umt5

        self.text = Umt5(checkpoints, device, dtype)
        self.file, self.device = checkpoints / VAE_FILE, device
        self._decoder: VideoDecoder | None = None

    @torch.no_grad()
    def encode(self, image_3hw: Tensor | None, caption: str) -> dict[str, Tensor]:
        """The caption's states with the zeros after them, and the latents of a video's frames.

        Args:
            image_3hw: frames (F, 3, h, w), see ``first_frames``.
            caption: of any length.
        """
        found = {TEXT: self.text.encode(caption)}
        if image_3hw is not None:
            self._decoder = self._decoder or load_decoder(self.file, self.device)
            found[VIDEO] = self._decoder.encode(image_3hw[None].to(self.device).float() / 255)[0]
        return found


def _check(checkpoints: Path) -> None:
    from worldcompass.worlds.open.text import need_ftfy, need_transformers

    need_transformers()
    need_ftfy()
    check_parts(checkpoints, PARTS)
