"""What a recipe of the Hands world needs, for ``worldcompass plan``."""

from __future__ import annotations

from dataclasses import replace

from worldcompass.cost.plan import Needs
from worldcompass.training.config import Config
from worldcompass.worlds.hands.critics.weights import JUDGE, READER
from worldcompass.worlds.hands.network.autoencoder import HandsAutoencoder
from worldcompass.worlds.hands.network.transformer import CONFIG, HandsTransformer
from worldcompass.worlds.hands.world import SPEC, WEIGHTS, HandsWorld, shipped_weights
from worldcompass.worlds.small.post_training import needs
from worldcompass.worlds.small.post_training.needs import Modules, Plain


def needs_of(config: Config) -> Needs:
    """The Hands world under this configuration, on the meta device."""
    files = (READER.name, JUDGE.name)
    of = Plain(SPEC, WEIGHTS, shipped_weights(), CONFIG.depth, _modules, HandsWorld, files)
    return needs.needs_of(of, config)


def _modules(depth: int) -> Modules:
    autoencoder = HandsAutoencoder()
    return autoencoder, HandsTransformer(autoencoder, replace(CONFIG, depth=depth))
