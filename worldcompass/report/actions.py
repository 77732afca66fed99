"""Heat maps of followed actions: the table of a world's composites for every chunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from worldcompass.actions import ROTATIONS, TRANSLATIONS
from worldcompass.media.html import script
from worldcompass.runs.results import ActionCounts

Counts = Sequence[tuple[int, int]]
"""(commanded, followed) latents of each composite action."""

# The slider selects one chunk or all of them; without scripts the page shows all chunks.
_CODE = """
const slider = document.getElementById("horizon"), label = document.getElementById("horizon-said");
slider.closest("p").hidden = false;
slider.addEventListener("input", () => {
  const chunk = +slider.value;
  label.textContent = chunk ? `chunk ${chunk} of ${slider.max}` : "all chunks";
  data.forEach((chunks, map) => {
    const chosen = chunk ? [chunks[chunk - 1]] : chunks;
    document.querySelectorAll(`#map-${map} td`).forEach((cell, action) => {
      const sum = part => chosen.reduce((total, counts) => total + counts[action][part], 0);
      const commanded = sum(0), share = sum(1) / commanded;
      cell.textContent = commanded ? Math.round(100 * share) : "";
      const small = Object.assign(document.createElement("small"), {textContent: `${sum(1)}/${commanded}`});
      if (commanded) cell.append(small);
      cell.title = commanded ? `${sum(1)} of ${commanded} latents` : "never commanded";
      cell.style.setProperty("--share", commanded ? share : 0);
    });
  });
});
"""


def heat_maps(entries: Mapping[str, ActionCounts]) -> str:
    """The section with a map for every name whose entry holds counts; empty without counts."""
    sides = {name: chunks for name, entry in entries.items() if (chunks := by_chunk(entry))}
    if not sides:
        return ""
    chunks = min(map(len, sides.values()))
    maps = "".join(_map(i, name, entries[name]) for i, name in enumerate(sides))
    return (
        '<section><h2>Which actions are followed</h2><p class="muted">Percent of the latents of each commanded '
        "action in which the held-out judge reads that action, above their counts: a row with a column. Commands "
        "that never occurred are empty. Way of walking: rollout.</p>"
        f'<p hidden><label for="horizon">How far into the video: </label><input type="range" id="horizon" min="0" '
        f'max="{chunks}" value="0"> <output id="horizon-said" for="horizon">all chunks</output></p>'
        f'<div class="maps">{maps}</div>{script(_CODE, list(sides.values()))}</section>'
    )


def by_chunk(entry: ActionCounts) -> list[list[tuple[int, int]]]:
    """Counts of each chunk."""
    return [
        list(zip(commanded, followed, strict=True))
        for commanded, followed in zip(entry.asked, entry.followed, strict=True)
    ]


def over_chunks(chunks: Sequence[Counts]) -> Counts:
    """Counts of all chunks together."""
    return [tuple(map(sum, zip(*pairs, strict=True))) for pairs in zip(*chunks, strict=True)]  # type: ignore[misc]


def _map(index: int, name: str, entry: ActionCounts) -> str:
    shown, counts, width = (
        escape(name, quote=True),
        over_chunks(by_chunk(entry)),
        len(entry.columns or ROTATIONS),
    )
    head = "".join(
        f'<th scope="col"><span>{escape(column)}</span></th>' for column in entry.columns or ROTATIONS
    )
    rows = "".join(
        f'<tr><th scope="row">{escape(row)}</th>'
        f"{''.join(_cell(*pair) for pair in counts[width * i : width * (i + 1)])}</tr>"
        for i, row in enumerate(entry.rows or TRANSLATIONS)
    )
    return (
        f'<figure><div class="scroll" role="region" tabindex="0" aria-label="Actions followed, {shown}">'
        f'<table class="map" id="map-{index}"><thead><tr><th scope="col">row + column</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div><figcaption>{shown}</figcaption></figure>"
    )


def _cell(commanded: int, followed: int) -> str:
    share = followed / commanded if commanded else 0.0
    title = f"{followed} of {commanded} latents" if commanded else "never commanded"
    text = f"{round(100 * share)}<small>{followed}/{commanded}</small>" if commanded else ""
    return f'<td title="{title}" style="--share:{share:.3f}">{text}</td>'
