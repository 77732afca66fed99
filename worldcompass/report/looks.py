"""Filmstrips: of the finished comparison, and of every look that was taken during training, behind one slider."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from worldcompass.report.html import data_address, script

# One look at a time; without scripts all are shown under each other.
_CODE = """
const slider = document.getElementById("look"), said = document.getElementById("look-said");
const looks = document.querySelectorAll("#looks figure");
const show = () => {
  looks.forEach((look, i) => { look.hidden = i !== +slider.value; });
  said.textContent = data[+slider.value];
};
slider.closest("p").hidden = false;
slider.addEventListener("input", show);
show();
"""


def filmstrip_section(filmstrips: Mapping[str, bytes]) -> str:
    """Before, after and engine of a few scenarios; PNG by name."""
    if not filmstrips:
        return ""
    figures = [_figure(name.replace("_", " "), data) for name, data in filmstrips.items()]
    return f"<section><h2>Filmstrips</h2>{''.join(figures)}</section>"


def looks_section(looks: Mapping[int, bytes]) -> str:
    """What the held-out judge saw during training; PNG by step."""
    if not looks:
        return ""
    names = [f"step {step}" for step in looks]
    figures = [_figure(name, data) for name, data in zip(names, looks.values(), strict=True)]
    return (
        '<section><h2>During training</h2><p class="muted">The same scenarios with the same noise, before training '
        'and after each step that the held-out judge looked at.</p><p hidden><label for="look">After </label>'
        f'<input type="range" id="look" min="0" max="{len(names) - 1}" value="{len(names) - 1}"> '
        f'<output id="look-said" for="look"></output></p><div id="looks">{"".join(figures)}</div>'
        f"{script(_CODE, names)}</section>"
    )


def _figure(name: str, picture: bytes) -> str:
    said = escape(f"Filmstrip of {name}: frames from left to right", quote=True)
    image = f'<img alt="{said}" src="{data_address("image/png", picture)}">'
    return (
        f'<figure class="wide"><div class="scroll" role="region" tabindex="0" aria-label="{said}">{image}</div>'
        f"<figcaption>{escape(name)}</figcaption></figure>"
    )
