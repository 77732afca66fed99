"""The commands of the Hands world: four continuous controls, of which 81 combinations have words.

A control of 1 or -1 moves the gripper by ``facts.NOMINAL`` over a latent. Composites are numbered by the action
space; the engine's own numbers (``facts.CONTROLS``) differ: the values of the controls lead from one to the other.
"""

from __future__ import annotations

from worldcompass.controls import Axis, Controls
from worldcompass.worlds.hands.facts import AXES, WORDS

KEYS = (("KeyA", "KeyD"), ("KeyS", "KeyW"), ("ArrowDown", "ArrowUp"), ("ArrowLeft", "ArrowRight"))
"""Keys of each axis' words, in their order."""

ACTIONS = Controls(
    tuple(Axis(name, words=words, codes=codes) for name, words, codes in zip(AXES, WORDS, KEYS, strict=True))
)
