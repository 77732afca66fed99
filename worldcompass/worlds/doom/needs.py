"""What a recipe of the embedded world needs, for ``worldcompass plan``."""

from __future__ import annotations

from dataclasses import replace

from worldcompass.cost.plan import Needs
from worldcompass.training.config import Config
from worldcompass.worlds.doom.critics.weights import FILES
from worldcompass.worlds.doom.network.autoencoder import DoomAutoencoder
from worldcompass.worlds.doom.network.transformer import CONFIG, DoomTransformer
from worldcompass.worlds.doom.world import SPEC, WEIGHTS, DoomWorld, shipped_weights
from worldcompass.worlds.small.post_training import needs
from worldcompass.worlds.small.post_training.needs import Modules, Plain


def needs_of(config: Config) -> Needs:
    """The embedded world under this configuration, on the meta device."""
    of = Plain(SPEC, WEIGHTS, shipped_weights(), CONFIG.depth, _modules, DoomWorld, tuple(FILES))
    return needs.needs_of(of, config)


def _modules(depth: int) -> Modules:
    return DoomAutoencoder(), DoomTransformer(replace(CONFIG, depth=depth))
