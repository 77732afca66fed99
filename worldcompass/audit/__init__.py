"""The reward lab: what does a critic know of the truth, what does it overlook, and how can it be cheated?"""

from typing import Literal

ClipKind = Literal["mixed", "out and back", "pickups"]
"""Any motion; motion that comes back to where the camera has been; walks that take an item."""
