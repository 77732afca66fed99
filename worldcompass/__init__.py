"""WorldCompass: reinforcement-learning post-training of interactive video world models.

In a few lines (see ``worldcompass.api``)::

    import worldcompass as wc

    world = wc.load_world()
    frames = wc.imagine(world, "my.png", "w-3, right-1, w+left-4")
    print(wc.score(frames, "w-3, right-1, w+left-4"))
"""

import importlib
from typing import TYPE_CHECKING, Any

from worldcompass.version import __version__

if TYPE_CHECKING:
    from worldcompass.api import imagine, load_world, post_train, score

__all__ = ["__version__", "imagine", "load_world", "post_train", "score"]


def __getattr__(name: str) -> Any:
    """Import the interface on first use, so that ``worldcompass --help`` does not import torch."""
    if name not in __all__:
        raise AttributeError(f"module 'worldcompass' has no attribute {name!r}")
    return getattr(importlib.import_module("worldcompass.api"), name)


def _register_environments() -> None:
    """Register the environments on import, as Gymnasium 1 has no other way."""
    try:
        import gymnasium
    except ImportError:
        return
    gymnasium.register(
        "worldcompass/Doom-v0",
        entry_point="worldcompass.worlds.doom.gymnasium:make_doom",
        vector_entry_point="worldcompass.worlds.doom.gymnasium:make_doom_vector",
    )
    gymnasium.register(
        "worldcompass/Hands-v0",
        entry_point="worldcompass.worlds.hands.gymnasium:make_hands",
        vector_entry_point="worldcompass.worlds.hands.gymnasium:make_hands_vector",
    )
    gymnasium.register(
        "worldcompass/HandsEngine-v0",
        entry_point="worldcompass.worlds.hands.gymnasium:make_hands_engine",
        vector_entry_point="worldcompass.worlds.hands.gymnasium:make_hands_engine_vector",
    )


_register_environments()
