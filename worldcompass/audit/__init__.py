"""The reward lab: how well a critic agrees with the truth, which errors it misses, and how it can be exploited."""

from typing import Literal

ClipKind = Literal["mixed", "out and back", "pickups"]
"""Any motion; motion that returns to earlier views; paths on which an item is picked up."""
