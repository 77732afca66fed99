"""Critics and camera estimators of the Doom world, for display only."""

from __future__ import annotations

from worldcompass.rewards.catalogue import CAMERAS, INTERACTION, LANGUAGE, PACKAGED, QUALITY, Entry

WORLD = "doom"
CATALOGUE = (
    Entry(
        "interaction",
        INTERACTION,
        "worlds.doom.rewards.interaction:InteractionFollowing",
        "probability of the commanded action",
        weights=PACKAGED,
        world=WORLD,
    ),
    Entry(
        "doom",
        CAMERAS,
        "worlds.doom.rewards.cameras:DoomCameras",
        "motion critic of the package, map units",
        weights=PACKAGED,
        world=WORLD,
    ),
    Entry(
        "quality",
        QUALITY,
        "worlds.doom.rewards.quality:VisualQuality",
        "sharpness, flicker, drift and realism",
        weights=PACKAGED,
        world=WORLD,
    ),
    Entry(
        "realism",
        QUALITY,
        "worlds.doom.rewards.realism:EmbeddedRealism",
        "learned realism of frames; scorer",
        weights=PACKAGED,
        world=WORLD,
    ),
    Entry(
        "pickup",
        LANGUAGE,
        "worlds.doom.rewards.pickup:PickupFollowing",
        "whether the named item is picked up; items of the engine",
        weights=PACKAGED,
        world=WORLD,
    ),
)
