"""Random generators that derive from keys such as seed, step and scenario."""

from __future__ import annotations

import hashlib
import json
import random
from typing import Any, cast

import numpy as np
import torch

Key = int | str


def generator_for(*keys: Key, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that depends only on the keys, not on the number of processes.

    Each kind of device draws numbers of its own: the default is a generator of the CPU, whose numbers are the same
    for every device. Another device's own generator is for many numbers that need not be.
    """
    digest = hashlib.sha256(json.dumps(keys).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def seed_globals(*keys: Key) -> None:
    """Seed the global generators of Python, NumPy and torch, which only foreign code uses, such as a critic.

    Seeded at every step, they need no saving: a repeated step draws the same numbers.
    """
    seed = generator_for(*keys).initial_seed()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    cast("Any", torch).manual_seed(seed)  # its parameter has no type
