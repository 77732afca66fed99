"""``worldcompass train doom_full``."""

from worldcompass.recipes.doom import doom_full

__all__ = ["doom_full"]
