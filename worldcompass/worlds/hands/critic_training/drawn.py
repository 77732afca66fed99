"""Recorded moments as the world draws them: its pictures with the engine's truth, for networks that read them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from worldcompass.worlds.hands.facts import FRAMES_PER_LATENT
from worldcompass.worlds.hands.network.shadows import shadows_of
from worldcompass.worlds.hands.network.state import State, numbers_of
from worldcompass.worlds.hands.recording import HandsEpisode
from worldcompass.worlds.hands.world import HandsWorld


@torch.no_grad()
def drawn(world: HandsWorld, episode: HandsEpisode, frames_N: np.ndarray) -> Tensor:
    """Frames of an episode, put together from the parts of its first picture; uint8 (N, 3, h, w).

    So an imagined video would show them, were all things and the gripper where they truly were.
    """
    first = torch.from_numpy(episode.frames_Fhw3[:1].copy()).movedim(-1, 1)
    start = world.autoencoder.look(world.encode(first[None])[:, :, 0])
    parts = world.parts(start).pick(torch.zeros(len(frames_N), dtype=torch.long))
    before_N = np.maximum(frames_N - FRAMES_PER_LATENT, 0)
    numbers = [
        numbers_of(episode.grip_F4[now], episode.things_FT7[now], episode.things_FT7[before])
        for now, before in zip(frames_N, before_N, strict=True)
    ]
    state = State.of(torch.from_numpy(np.stack(numbers)))
    pictures = parts.picture(state, parts.layers(state), shadows_of(state))
    code = world.autoencoder.code
    return (255 * code.decode(code.encode(pictures)).clamp(0, 1)).round().to(torch.uint8)
