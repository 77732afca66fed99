"""Critics and camera estimators of the Hands world, for display only."""

from __future__ import annotations

from worldcompass.rewards.catalogue import INTERACTION, LANGUAGE, PACKAGED, THINGS, Entry

WORLD = "hands"
CATALOGUE = (
    Entry(
        "interaction",
        INTERACTION,
        "worlds.hands.rewards.interaction:GripperFollowing",
        "how near the gripper's motion is to the command",
        weights=PACKAGED,
        world=WORLD,
    ),
    Entry(
        "permanence",
        THINGS,
        "worlds.hands.rewards.objects:Permanence",
        "nothing appears, vanishes, or changes its colour or kind",
        weights=PACKAGED,
        world=WORLD,
    ),
    Entry(
        "passivity",
        THINGS,
        "worlds.hands.rewards.objects:Passivity",
        "what nothing touches stays where it is",
        weights=PACKAGED,
        world=WORLD,
    ),
    Entry(
        "grasp",
        THINGS,
        "worlds.hands.rewards.objects:Grasp",
        "what is lifted hangs between the fingers and comes along",
        weights=PACKAGED,
        world=WORLD,
    ),
    Entry(
        "instruction",
        LANGUAGE,
        "worlds.hands.rewards.instruction:InstructionFollowing",
        "how far the named thing is picked up or pushed",
        weights=PACKAGED,
        world=WORLD,
    ),
)
