"""The styles of levels: colours and patterns that go together.

A paint is ``pattern/colour/other colour`` in the words of ``textures`` and ``palette``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Style:
    """What a level looks like. Each room takes a wall, a floor and a ceiling of its own."""

    walls: tuple[str, ...]
    """Paints of rooms inside."""
    floors: tuple[str, ...]
    ceilings: tuple[str, ...]
    outside: tuple[str, ...]
    """Paints of the walls around courtyards."""
    grounds: tuple[str, ...]
    """Paints of the grounds of courtyards."""
    trim: str
    """Colour of door frames, skirtings and steps."""
    crates: tuple[tuple[str, str], ...]
    """Colours of a crate and of its edges."""
    sky: tuple[str, str, str]
    """Colours of the sky above and near the horizon, and of the clouds."""
    hills: str


TRAINING_STYLES: dict[str, Style] = {
    "cottage": Style(
        walls=(
            "bricks/soft red.4/soft amber.6", "wainscot/soft yellow.7/soft amber.3",
            "planks/soft amber.4/soft amber.1",
            "bands/soft amber.7/red.3", "panels/soft green.5/soft amber.2",
            "stones/soft amber.6/soft amber.3",
            "discs/soft yellow.6/green.3", "stripes/soft amber.7/soft red.6",
        ),
        floors=(
            "boards/amber.3/soft amber.1", "slabs/soft red.5/soft red.3", "tiles/soft amber.6/soft amber.4",
            "rug/red.2/amber.5",
        ),
        ceilings=("beams/soft yellow.7/soft amber.2", "plain/soft amber.7", "planks/soft amber.5/soft amber.3"),
        outside=("bricks/red.3/soft amber.7", "blobs/green.2/green.4"),
        grounds=("blobs/green.4/lime.5", "tiles/soft amber.5/soft green.3"),
        trim="soft amber.1", crates=(("amber.4", "soft amber.1"), ("red.3", "soft amber.6")),
        sky=("sky.5", "sky.7", "grey.14"), hills="green.3",
    ),
    "harbour": Style(
        walls=(
            "planks/soft sky.6/blue.2", "bands/grey.14/blue.3",
            "stripes/grey.13/sky.5", "waves/soft sky.7/blue.3",
            "wainscot/grey.14/sky.3", "discs/soft blue.6/orange.4",
            "panels/blue.3/grey.13", "bricks/grey.12/grey.8",
        ),
        floors=(
            "boards/soft amber.5/soft amber.2", "squares/grey.13/blue.2", "tiles/soft sky.6/soft blue.3",
            "herringbone/grey.11/grey.9",
        ),
        ceilings=("plain/grey.14", "beams/soft sky.7/blue.2", "coffers/soft sky.6/soft blue.4"),
        outside=("planks/orange.4/soft orange.1", "stones/grey.10/grey.6"),
        grounds=("boards/soft amber.4/soft amber.1", "blobs/soft amber.6/soft amber.7"),
        trim="blue.1", crates=(("orange.5", "orange.2"), ("grey.13", "blue.2")),
        sky=("sky.4", "sky.7", "grey.14"), hills="soft blue.3",
    ),
    "orchard": Style(
        walls=(
            "wainscot/soft lime.7/green.2", "diamonds/soft lime.6/green.3",
            "planks/lime.5/green.2", "arches/soft yellow.7/orange.4",
            "bands/soft lime.7/orange.4", "bricks/soft green.5/soft lime.7",
            "discs/lime.6/red.3", "chevrons/soft lime.7/lime.4",
        ),
        floors=(
            "boards/soft amber.5/soft amber.3", "slabs/soft lime.6/soft green.4",
            "tiles/soft yellow.6/soft green.4", "rug/green.2/lime.5",
        ),
        ceilings=("plain/soft lime.7", "beams/soft yellow.7/green.2", "coffers/soft lime.7/soft green.4"),
        outside=("blobs/green.2/green.3", "bricks/orange.4/soft yellow.7"),
        grounds=("blobs/lime.4/lime.6", "slabs/soft yellow.6/soft amber.5"),
        trim="green.1", crates=(("orange.5", "red.2"), ("lime.5", "green.1")),
        sky=("sky.6", "soft sky.7", "grey.14"), hills="green.2",
    ),
    "adobe": Style(
        walls=(
            "wainscot/soft orange.7/red.3", "arches/orange.5/teal.3",
            "diamonds/soft amber.6/red.3", "bands/amber.6/teal.3",
            "stones/orange.4/soft orange.2", "chevrons/soft amber.7/orange.4",
            "discs/soft orange.6/yellow.6", "bricks/soft orange.5/soft orange.7",
        ),
        floors=(
            "squares/orange.4/soft amber.6", "tiles/red.3/soft orange.6", "herringbone/soft amber.6/soft amber.4",
            "rug/teal.2/amber.5",
        ),
        ceilings=("plain/soft amber.7", "beams/soft orange.7/red.1", "planks/soft orange.5/soft orange.3"),
        outside=("stones/soft orange.6/soft orange.3", "arches/amber.6/red.3"),
        grounds=("blobs/soft amber.6/amber.5", "tiles/soft orange.6/orange.3"),
        trim="red.1", crates=(("teal.4", "teal.1"), ("amber.5", "red.2")),
        sky=("sky.5", "soft amber.7", "soft orange.7"), hills="orange.3",
    ),
    "winter": Style(
        walls=(
            "panels/soft sky.6/grey.14", "bricks/soft blue.5/grey.14",
            "diamonds/grey.14/sky.3", "wainscot/soft violet.7/blue.2",
            "stripes/grey.14/soft violet.5", "bands/soft sky.7/violet.3",
            "stones/soft sky.6/soft blue.3", "discs/soft violet.6/cyan.6",
        ),
        floors=(
            "squares/grey.14/soft blue.4", "boards/soft violet.5/soft violet.2", "tiles/soft sky.7/soft blue.5",
            "rug/violet.2/soft sky.7",
        ),
        ceilings=("plain/grey.14", "coffers/soft sky.7/soft blue.5", "beams/soft violet.7/blue.2"),
        outside=("stones/soft blue.6/soft blue.3", "blobs/soft teal.3/soft teal.6"),
        grounds=("blobs/grey.14/soft sky.7", "tiles/soft sky.7/soft blue.4"),
        trim="blue.1", crates=(("violet.4", "violet.1"), ("cyan.5", "blue.1")),
        sky=("soft blue.5", "soft violet.7", "grey.14"), hills="soft sky.6",
    ),
    "gallery": Style(
        walls=(
            "spots/grey.13/grey.11", "wainscot/grey.14/red.3",
            "stripes/soft yellow.6/soft yellow.7", "wainscot/grey.13/blue.2",
            "panels/grey.12/grey.14",
            "spots/soft teal.5/soft teal.7", "bands/grey.14/grey.3", "spots/soft red.4/soft red.6",
        ),
        floors=(
            "boards/soft amber.4/soft amber.2", "squares/grey.13/grey.2", "herringbone/soft amber.5/soft amber.3",
            "tiles/grey.11/grey.7",
        ),
        ceilings=("plain/grey.14", "lamps/grey.11/grey.14", "coffers/grey.13/grey.9"),
        outside=("panels/grey.11/grey.13", "stones/soft red.5/soft red.2"),
        grounds=("slabs/grey.12/grey.9", "blobs/green.4/green.5"),
        trim="grey.2", crates=(("red.3", "grey.1"), ("grey.13", "grey.4")),
        sky=("sky.5", "soft sky.7", "grey.14"), hills="soft green.3",
    ),
    "bazaar": Style(
        walls=(
            "arches/violet.3/yellow.6", "stripes/pink.4/soft pink.7",
            "diamonds/purple.2/amber.6", "wainscot/soft pink.7/purple.2",
            "chevrons/amber.6/pink.3", "discs/violet.4/orange.5",
            "bands/soft amber.7/purple.3", "bricks/pink.3/soft amber.7",
        ),
        floors=(
            "rug/red.2/yellow.6", "squares/soft amber.6/purple.2", "tiles/pink.3/amber.6",
            "boards/orange.3/red.1",
        ),
        ceilings=("plain/soft amber.7", "coffers/purple.2/amber.5", "lamps/violet.2/yellow.7"),
        outside=("arches/soft amber.7/blue.3", "bricks/amber.5/soft amber.7"),
        grounds=("tiles/soft amber.6/orange.4", "blobs/soft amber.6/soft amber.5"),
        trim="purple.1", crates=(("yellow.6", "red.2"), ("blue.4", "amber.6")),
        sky=("violet.3", "pink.6", "soft amber.7"), hills="purple.2",
    ),
    "library": Style(
        walls=(
            "wainscot/soft green.4/soft amber.2", "wainscot/red.2/soft amber.3",
            "panels/soft amber.4/soft amber.2", "stripes/soft amber.5/soft amber.6",
            "bands/soft green.3/amber.5", "diamonds/red.2/amber.5",
            "stones/soft amber.6/soft amber.4", "planks/soft orange.3/soft orange.1",
        ),
        floors=(
            "herringbone/soft amber.4/soft amber.2", "rug/green.1/amber.5", "boards/soft orange.4/soft orange.1",
            "squares/soft amber.6/red.1",
        ),
        ceilings=("beams/soft amber.6/soft amber.1", "plain/soft yellow.7", "coffers/soft amber.5/soft amber.2"),
        outside=("stones/soft amber.5/soft amber.2", "blobs/green.1/green.3"),
        grounds=("slabs/soft amber.6/soft amber.5", "blobs/green.3/green.4"),
        trim="soft orange.0", crates=(("green.2", "amber.5"), ("red.3", "soft amber.1")),
        sky=("soft sky.5", "soft amber.7", "grey.14"), hills="soft green.2",
    ),
}  # fmt: skip

UNSEEN_STYLES: dict[str, Style] = {
    "lagoon": Style(
        walls=(
            "waves/soft teal.7/teal.3", "discs/teal.4/soft yellow.7",
            "chevrons/soft teal.7/emerald.4", "arches/soft emerald.6/rose.4",
            "bands/teal.5/rose.4", "squares/soft teal.6/teal.4",
            "wainscot/soft rose.7/teal.2", "bricks/emerald.4/soft teal.7",
        ),
        floors=(
            "tiles/soft teal.6/teal.2", "slabs/soft yellow.7/soft teal.5", "rug/rose.3/soft teal.7",
            "herringbone/soft emerald.6/soft emerald.4",
        ),
        ceilings=("plain/soft teal.7", "lamps/teal.3/soft yellow.7", "coffers/soft rose.7/teal.3"),
        outside=("waves/teal.5/teal.2", "stones/soft teal.6/soft teal.3"),
        grounds=("blobs/soft yellow.7/soft yellow.6", "tiles/soft teal.7/rose.4"),
        trim="teal.1", crates=(("rose.4", "teal.1"), ("yellow.6", "teal.2")),
        sky=("cyan.5", "soft rose.7", "soft rose.7"), hills="emerald.3",
    ),
    "carnival": Style(
        walls=(
            "squares/yellow.6/red.3", "stripes/red.3/grey.14",
            "diamonds/blue.3/yellow.6", "discs/grey.14/pink.4",
            "chevrons/yellow.6/blue.3", "bands/pink.5/blue.2",
            "arches/cyan.5/red.3", "squares/grey.14/green.4",
        ),
        floors=(
            "squares/grey.14/red.3", "slabs/blue.4/blue.3", "herringbone/yellow.6/orange.5",
            "rug/blue.2/pink.5",
        ),
        ceilings=("plain/yellow.7", "lamps/blue.2/grey.14", "beams/grey.14/red.3"),
        outside=("stripes/blue.3/grey.14", "squares/orange.5/grey.14"),
        grounds=("blobs/lime.5/green.4", "squares/pink.5/soft pink.7"),
        trim="blue.0", crates=(("red.4", "yellow.6"), ("green.4", "grey.14")),
        sky=("blue.4", "cyan.7", "grey.14"), hills="pink.4",
    ),
}  # fmt: skip
STYLES = TRAINING_STYLES | UNSEEN_STYLES
