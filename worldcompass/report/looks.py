"""Filmstrips of the finished comparison, and of the judge's looks during training with a slider.

Pictures are PNG files in groups. A group maps captions to pictures, one for a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from worldcompass.media.html import data_address, script

# Shows one look at a time; without scripts the page shows all of them.
_CODE = """
const slider = document.getElementById("look"), label = document.getElementById("look-said");
const looks = document.querySelectorAll("#looks > div");
const show = () => {
  looks.forEach((look, i) => { look.hidden = i !== +slider.value; });
  label.textContent = data[+slider.value];
};
slider.closest("p").hidden = false;
slider.addEventListener("input", show);
show();
"""


Group = Mapping[str, bytes]


def filmstrip_section(scenarios: Mapping[str, Group]) -> str:
    """The section with before, after and engine of a few scenarios by name; empty without pictures."""
    if not scenarios:
        return ""
    return (
        '<section class="strips"><h2>Filmstrips</h2><p class="muted">Time runs from left to right; below each '
        "picture are the commanded keys. A strip wider than the screen scrolls sideways.</p>"
        f"{''.join(map(_figures, scenarios.values()))}</section>"
    )


def looks_section(looks: Mapping[int, Group]) -> str:
    """The section with the held-out judge's clips during training by step; empty without clips."""
    if not looks:
        return ""
    names = [f"step {step}" for step in looks]
    figures = [f"<div>{_figures(group)}</div>" for group in looks.values()]
    return (
        '<section><h2>During training</h2><p class="muted">The same scenarios with the same noise, before training '
        'and after each step with a look of the held-out judge.</p><p hidden><label for="look">After </label>'
        f'<input type="range" id="look" min="0" max="{len(names) - 1}" value="{len(names) - 1}"> '
        f'<output id="look-said" for="look"></output></p><div id="looks">{"".join(figures)}</div>'
        f"{script(_CODE, names)}</section>"
    )


def _figures(group: Group) -> str:
    return "".join(_figure(caption, picture) for caption, picture in group.items())


def _figure(name: str, picture: bytes) -> str:
    label = escape(f"Filmstrip of {name}: frames from left to right", quote=True)
    image = f'<img alt="{label}" src="{data_address("image/png", picture)}">'
    return (
        f'<figure class="wide"><div class="scroll" role="region" tabindex="0" aria-label="{label}">{image}</div>'
        f"<figcaption>{escape(name)}</figcaption></figure>"
    )
