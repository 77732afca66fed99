"""How ``worldcompass prepare`` makes the data sets of Matrix-Game 2 and ForgeWM."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from worldcompass.media.video import fit
from worldcompass.worlds.causal_wan.autoencoder_files import VAE_FILE, load_decoder
from worldcompass.worlds.causal_wan.config import Config
from worldcompass.worlds.causal_wan.game_files import IMAGE_FILE, PARTS, load_image_encoder
from worldcompass.worlds.causal_wan.image_encoder import ImageEncoderConfig
from worldcompass.worlds.causal_wan.matrix_game import LATENTS, TOKENS
from worldcompass.worlds.causal_wan.vae import WanAutoencoder, WanVaeConfig
from worldcompass.worlds.open.layouts import check_parts
from worldcompass.worlds.open.prepare import Preparation
from worldcompass.worlds.open.prepared import Shape

CROP, STRETCH = "crop", "stretch"


def expected_shapes(config: Config, latent_size: tuple[int, int]) -> dict[str, Shape]:
    """Names and shapes of a prepared file's tensors."""
    still = (config.out_channels, WanVaeConfig().settled, *latent_size)
    return {LATENTS: still, TOKENS: (ImageEncoderConfig().num_tokens, config.states_width)}


def preparation_of(model: str, config: Config, latent_size: tuple[int, int]) -> Preparation:
    """See ``Preparation``. Images are cropped as in Matrix-Game 2, or stretched as in ForgeWM's inference."""
    return Preparation(
        model=model,
        shapes=expected_shapes(config, latent_size),
        check=partial(check_parts, parts=PARTS),
        encoder=partial(_encoder, latent_size),
        fits=(CROP, STRETCH),
    )


class StartEncoder:
    """Implements ``Encoder``: the autoencoder and the image encoder, both in float32. Captions have no effect.

    Args:
        checkpoints: folder of both files.
        device: of both.
        latent_size: cells of a latent, (height, width).
        stretches: give images the frame's size whatever their aspect, instead of cropping them.

    Raises:
        UserError: when a file is missing, damaged or of another network.
    """

    def __init__(
        self, checkpoints: Path, device: str, latent_size: tuple[int, int], stretches: bool = False
    ) -> None:
        net = load_decoder(checkpoints / VAE_FILE, device).net
        assert isinstance(net, WanAutoencoder)
        self.vae, self.images = net, load_image_encoder(checkpoints / IMAGE_FILE, device)
        self.device, self.stretches = device, stretches
        side = net.pixels_per_cell
        self.frame_size = (latent_size[0] * side, latent_size[1] * side)

    @torch.no_grad()
    def encode(self, image_3hw: Tensor, caption: str) -> dict[str, Tensor]:
        """Latents of the image and grey frames after it, and the image's tokens."""
        picture = self._fitted(image_3hw).to(self.device) / 127.5 - 1
        return {LATENTS: self.vae.encode_still(picture)[0], TOKENS: self.images(picture)[0]}

    def _fitted(self, image_3hw: Tensor) -> Tensor:
        """The image in the frame's size, float32 (1, 3, h, w) from 0 to 255."""
        if not self.stretches:
            return fit(image_3hw[None], self.frame_size).float()
        return interpolate(image_3hw[None].float(), self.frame_size, mode="bilinear", antialias=True)


def _encoder(latent_size: tuple[int, int], checkpoints: Path, device: str, how: str) -> StartEncoder:
    return StartEncoder(checkpoints, device, latent_size, how == STRETCH)
