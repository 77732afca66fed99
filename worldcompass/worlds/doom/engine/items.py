"""The things of the pick-up scenes: what people call them, what the engine calls them, what taking them changes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """One kind of thing that a player takes by walking over it."""

    word: str
    """As instructions call it."""
    actor: str
    """As the engine calls it."""
    variable: str
    """Game variable of ViZDoom that rises when it is taken."""
    gain: float
    """By at least so much; less is another thing's doing."""


ITEMS = (
    Item("green armour", "GreenArmor", "ARMOR", 50),
    Item("health pack", "Medikit", "HEALTH", 20),
    Item("health flask", "HealthBonus", "ITEMCOUNT", 1),
)


def items_named(instruction: str) -> list[int]:
    """Indices of the items that an instruction names, in any case and in either spelling of armour."""
    text = " ".join(instruction.lower().replace("armor", "armour").split())
    return [index for index, item in enumerate(ITEMS) if item.word in text]
