"""Randomness is an argument: generators that derive from a run's keys."""

from __future__ import annotations

import hashlib
import json
import random

import numpy as np
import torch

Key = int | str


def generator_for(*keys: Key) -> torch.Generator:
    """A CPU generator that depends on the keys alone, whatever the device or the number of processes."""
    digest = hashlib.sha256(json.dumps(keys).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def seed_globals(*keys: Key) -> None:
    """Set Python's, NumPy's and torch's own generators, which only foreign code asks, such as a critic's network.

    Set anew at every step they need no saving: a step begun again draws the same.
    """
    seed = generator_for(*keys).initial_seed()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
