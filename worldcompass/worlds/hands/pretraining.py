"""Pretraining of the Hands world from recordings of its engine."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from worldcompass.types import ControlValues
from worldcompass.worlds.hands.facts import FRAMES_PER_LATENT
from worldcompass.worlds.hands.network.autoencoder import HandsAutoencoder
from worldcompass.worlds.hands.network.transformer import HandsTransformer
from worldcompass.worlds.hands.recording import FORMAT, HandsEpisode
from worldcompass.worlds.hands.world import WEIGHTS, HandsWorld
from worldcompass.worlds.small.pretraining.between import between_loss, between_psnr, frames_up_to
from worldcompass.worlds.small.pretraining.blueprint import MIXING, Blueprint
from worldcompass.worlds.small.pretraining.pictures import PictureStage


def actions_of(episode: HandsEpisode) -> ControlValues:
    """The controls that were really commanded: the gripper obeys within its range."""
    return ControlValues(torch.from_numpy(np.array(episode.controls_M4))[:, None])


BLUEPRINT = Blueprint(
    recordings=FORMAT,
    weights=WEIGHTS,
    autoencoder=HandsAutoencoder,
    net=lambda autoencoder: HandsTransformer(autoencoder.code),
    world=HandsWorld,
    actions_of=actions_of,
    stages=(PictureStage("between", 1.0, between_loss),),
    truth_of=partial(frames_up_to, frames_per_latent=FRAMES_PER_LATENT),
    measure_pictures=between_psnr,
    teaching=MIXING,
)
