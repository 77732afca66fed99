"""The transformer of the rooms: it mixes views that geometry carries along, and draws what they do not show."""

from __future__ import annotations

from worldcompass.worlds.doom.network.transformer import CameraCommands
from worldcompass.worlds.doom.rooms.autoencoder import CODE
from worldcompass.worlds.doom.rooms.views import PLANES, VIEWS
from worldcompass.worlds.small.linear import LinearCode
from worldcompass.worlds.small.mixing import MixingConfig, MixingTransformer

CONFIG = MixingConfig(
    CODE.latent_shape,
    seen=(PLANES + 1) * len(VIEWS),
    token=(2, 1),
    head=48,
    frame_size=CODE.frame_size,
    views=len(VIEWS),
    planes=PLANES,
)


class RoomsTransformer(CameraCommands, MixingTransformer):
    """Views are ``mixed_views``; commands are those of ``DoomWorld``."""

    def __init__(self, code: LinearCode) -> None:
        super().__init__(CONFIG, code)
