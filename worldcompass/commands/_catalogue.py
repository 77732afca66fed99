"""All critics and camera estimators: those of any world, and those of the embedded worlds."""

from __future__ import annotations

from worldcompass.rewards.catalogue import ENTRIES as OF_ANY_WORLD
from worldcompass.worlds.doom.rewards.catalogue import CATALOGUE as OF_DOOM
from worldcompass.worlds.hands.rewards.catalogue import CATALOGUE as OF_HANDS

ENTRIES = (*OF_ANY_WORLD, *OF_DOOM, *OF_HANDS)
