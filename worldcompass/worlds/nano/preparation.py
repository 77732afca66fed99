"""How ``worldcompass prepare`` makes the data set: latents of given frames, and the controls of recordings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from worldcompass.controls import Controls
from worldcompass.errors import UserError
from worldcompass.media.video import VIDEOS, fit, frame_rate, read_video
from worldcompass.recordings import RATE, actions_in
from worldcompass.worlds.nano.checkpoint import Checkpoint
from worldcompass.worlds.nano.weights import PICTURES, load_pictures
from worldcompass.worlds.nano.world import START, Pictures
from worldcompass.worlds.open.layouts import Part, check_parts
from worldcompass.worlds.open.prepare import Encoder, Preparation, Request
from worldcompass.worlds.open.prepared import Shape
from worldcompass.worlds.open.weights import FILE_NAME

ACTIONS = ".json"  # ending of the file with the controls of a recording
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
    checkpoint: Checkpoint,
    given: int,
    fps: float,
    space: Controls,
    checkpoints: Path | None,
    check: Callable[[], None],
) -> Preparation:
    """See ``Preparation``. Frames are stretched as in the official code, or cropped to a square first.

    Args:
        checkpoint: the configuration.
        given: frames that a video starts from.
        fps: latents per second.
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
        read=lambda request: Play(given_frames(request, given, fps), recorded_controls(request, space)),
        captions=False,
        beside=(ACTIONS,),
        encoders=checkpoints,
    )


@dataclass(frozen=True)
class Play:
    """The beginning of a recording."""

    frames_F3hw: Tensor
    """uint8 sRGB, of any size: those that are given."""
    controls_MTA: Tensor
    """Raw; the start's first."""


def given_frames(request: Request, given: int, fps: float) -> Tensor:
    """The frames that a video starts from, uint8 (given, 3, h, w); a picture is a video of one frame.

    Raises:
        UserError: when it cannot be read, is too short, or has another rate than ``fps`` though several are given.
    """
    if request.image.suffix.lower() in VIDEOS:
        frames = read_video(request.image, max_frames=given)
    else:
        frames = request.read()[None]
    if len(frames) < given:
        raise UserError(
            f"{request.image} has {len(frames)} of the {given} frames from which this model starts: give a longer"
            " video"
        )
    rate = frame_rate(request.image) if given > 1 else None
    if rate is not None and abs(rate / fps - 1) > RATE:
        raise UserError(
            f"{request.image} has {rate:g} frames per second, this model shows {fps:g}: resample the video to one"
            " frame per latent, or set fps"
        )
    return frames


def recorded_controls(request: Request, space: Controls) -> Tensor:
    """The controls next to a recording, (M, T, A); a single resting latent without a file.

    Raises:
        UserError: when the file cannot be read.
    """
    file = request.image.with_suffix(ACTIONS)
    if not file.is_file():
        return space.commanded(torch.zeros(1, dtype=torch.long)).values_KTA.contiguous()
    return actions_in(file, space).controls.values_KTA


class StartEncoder:
    """Implements ``Encoder`` of ``Play`` with the official autoencoder; captions are not read.

    Args:
        decoder: the autoencoder.
        size: height and width of a frame.
        crops: cut frames to a square instead of squeezing them.
        device: of the autoencoder.
    """

    def __init__(self, decoder: Pictures, size: tuple[int, int], crops: bool, device: str) -> None:
        self.decoder, self.size, self.crops, self.device = decoder, size, crops, device

    def encode(self, image_3hw: Play, caption: str) -> dict[str, Tensor]:
        """The latents of the given frames, (C, given, H, W), and the controls."""
        frames = image_3hw.frames_F3hw
        shown = fit(frames, self.size).float() if self.crops else stretched(frames, self.size)
        latents = self.decoder.encode(shown.to(self.device)).transpose(0, 1)
        return {START: latents.cpu(), CONTROLS: image_3hw.controls_MTA}


def stretched(frames_F3hw: Tensor, size: tuple[int, int]) -> Tensor:
    """Frames of a size whatever their aspect, float32 from 0 to 255: bilinear without antialiasing."""
    return interpolate(frames_F3hw.float(), size, mode="bilinear", align_corners=False)
