"""How ``worldcompass prepare`` makes the data set: latents of given frames, and the controls of recordings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from worldcompass.controls import Controls
from worldcompass.media.video import fit
from worldcompass.recordings import actions_in
from worldcompass.worlds.nano.checkpoint import Checkpoint
from worldcompass.worlds.nano.weights import PICTURES, load_pictures
from worldcompass.worlds.nano.world import START, Pictures
from worldcompass.worlds.open.layouts import Part, check_parts
from worldcompass.worlds.open.prepare import Encoder, Preparation
from worldcompass.worlds.open.prepared import Shape
from worldcompass.worlds.open.weights import FILE_NAME

CONTROLS = "controls"  # tensor of recorded controls, raw, (M, T, A); a single resting latent when unknown
_PARTS = (Part(PICTURES, ("config.json", FILE_NAME), "the autoencoder, stabilityai/sd-vae-ft-mse"),)


def expected_shapes(checkpoint: Checkpoint, given: int, space: Controls) -> dict[str, Shape]:
    """Names and shapes of a prepared file's tensors."""
    network = checkpoint.network
    return {
        START: (network.latent_channels, given, network.latent_size, network.latent_size),
        CONTROLS: (None, space.per_latent, len(space.axes)),
    }


def preparation_of(
    checkpoint: Checkpoint, given: int, space: Controls, checkpoints: Path | None, check: Callable[[], None]
) -> Preparation:
    """See ``Preparation``. Frames are stretched as in the official code, or cropped to a square first.

    Args:
        checkpoint: the configuration.
        given: frames that a video starts from.
        space: the controls.
        checkpoints: folder of checkpoint and autoencoder.
        check: refuses a folder that lacks more than the autoencoder.
    """
    size = (checkpoint.side, checkpoint.side)

    def check_all(folder: Path) -> None:
        check()
        check_parts(folder, _PARTS)

    def encoder(folder: Path, device: str, how: str) -> Encoder:
        return StartEncoder(load_pictures(folder / PICTURES, device), size, how == "crop", device)

    return Preparation(
        "nano",
        expected_shapes(checkpoint, given, space),
        check_all,
        encoder,
        fits=("stretch", "crop"),
        captions=False,
        frames=given,
        read_actions=lambda file: {CONTROLS: recorded_controls(file, space)},
        encoders=checkpoints,
    )


def recorded_controls(file: Path, space: Controls) -> Tensor:
    """The controls next to a recording, (M, T, A); a single resting latent without a file.

    Raises:
        UserError: when the file cannot be read.
    """
    if not file.is_file():
        return space.commanded(torch.zeros(1, dtype=torch.long)).values_KTA.contiguous()
    return actions_in(file, space).controls.values_KTA


class StartEncoder:
    """Implements ``Encoder`` with the official autoencoder; captions are not read.

    Args:
        decoder: the autoencoder.
        size: height and width of a frame.
        crops: cut frames to a square instead of squeezing them.
        device: of the autoencoder.
    """

    def __init__(self, decoder: Pictures, size: tuple[int, int], crops: bool, device: str) -> None:
        self.decoder, self.size, self.crops, self.device = decoder, size, crops, device

    def encode(self, image: Tensor, caption: str) -> dict[str, Tensor]:
        """The latents of the given frames, (C, given, H, W)."""
        frames = image if image.ndim == 4 else image[None]
        shown = fit(frames, self.size).float() if self.crops else stretched(frames, self.size)
        return {START: self.decoder.encode(shown.to(self.device)).transpose(0, 1).cpu()}


def stretched(frames_F3hw: Tensor, size: tuple[int, int]) -> Tensor:
    """Frames of a size whatever their aspect, float32 from 0 to 255: bilinear without antialiasing."""
    return interpolate(frames_F3hw.float(), size, mode="bilinear", align_corners=False)
