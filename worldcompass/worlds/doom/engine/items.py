"""The items of the pick-up scenes: their words, their names in the engine, and the effect of taking them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """A kind of item that a player takes by moving over it."""

    word: str
    """Its name in instructions."""
    actor: str
    """Its name in the engine."""
    variable: str
    """Game variable of ViZDoom that rises when it is taken."""
    gain: float
    """Smallest rise of the variable; smaller rises have other causes."""


ITEMS = (
    Item("green armour", "GreenArmor", "ARMOR", 50),
    Item("health pack", "Medikit", "HEALTH", 20),
    Item("health flask", "HealthBonus", "ITEMCOUNT", 1),
)


def items_named(instruction: str) -> list[int]:
    """Indices of the items in an instruction, in any case and with either spelling of armour."""
    text = " ".join(instruction.lower().replace("armor", "armour").split())
    return [index for index, item in enumerate(ITEMS) if item.word in text]
