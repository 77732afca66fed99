"""Filmstrips: of the finished comparison, and of every look that was taken during training, behind one slider.

Pictures are PNG files. They come in groups, and in a group by caption: one of a run, or one of each run.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from worldcompass.media.html import data_address, script

# One look at a time; without scripts all are shown under each other.
_CODE = """
const slider = document.getElementById("look"), said = document.getElementById("look-said");
const looks = document.querySelectorAll("#looks > div");
const show = () => {
  looks.forEach((look, i) => { look.hidden = i !== +slider.value; });
  said.textContent = data[+slider.value];
};
slider.closest("p").hidden = false;
slider.addEventListener("input", show);
show();
"""


Group = Mapping[str, bytes]


def filmstrip_section(scenarios: Mapping[str, Group]) -> str:
    """Before, after and engine of a few scenarios, by their names."""
    if not scenarios:
        return ""
    return f"<section><h2>Filmstrips</h2>{''.join(map(_figures, scenarios.values()))}</section>"


def looks_section(looks: Mapping[int, Group]) -> str:
    """What the held-out judge saw during training, by step."""
    if not looks:
        return ""
    names = [f"step {step}" for step in looks]
    figures = [f"<div>{_figures(group)}</div>" for group in looks.values()]
    return (
        '<section><h2>During training</h2><p class="muted">The same scenarios with the same noise, before training '
        'and after each step that the held-out judge looked at.</p><p hidden><label for="look">After </label>'
        f'<input type="range" id="look" min="0" max="{len(names) - 1}" value="{len(names) - 1}"> '
        f'<output id="look-said" for="look"></output></p><div id="looks">{"".join(figures)}</div>'
        f"{script(_CODE, names)}</section>"
    )


def _figures(group: Group) -> str:
    return "".join(_figure(caption, picture) for caption, picture in group.items())


def _figure(name: str, picture: bytes) -> str:
    said = escape(f"Filmstrip of {name}: frames from left to right", quote=True)
    image = f'<img alt="{said}" src="{data_address("image/png", picture)}">'
    return (
        f'<figure class="wide"><div class="scroll" role="region" tabindex="0" aria-label="{said}">{image}</div>'
        f"<figcaption>{escape(name)}</figcaption></figure>"
    )
