"""Curves of the scores over a rollout: how deep into the video obedience and looks hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from worldcompass.media.charts import Band, depth_chart
from worldcompass.report.runs import KINDS, MEASURES
from worldcompass.runs.results import SIDES, Curve, Depths

SHOWN = ("judge_accuracy", "quality", "sharpness", "colour")  # of the measures
_SAYS = (
    "Means of every chunk with 95% intervals, from the start of the video to its end, on the starts of the scores"
    " above. A dot: the paired difference to the base excludes zero. Way of walking: rollout."
)
Side = tuple[str, Depths, Depths]
"""Style of the chart, curves, and those of the paired difference to the base, empty without one."""


def depth_section(per_depth: Mapping[str, Depths]) -> str:
    """The section of one run: engine, base and trained by chunk; empty without curves."""
    changes = {"trained": per_depth.get("difference", {})}
    sides = [side for side in SIDES if side != "difference" and side in per_depth]
    return _section({side: (side, per_depth[side], changes.get(side, {})) for side in sides})


def compared_section(runs: Sequence[Mapping[str, Depths]], names: Sequence[str]) -> str:
    """The section of several runs: the first one's base, then the trained weights of each, by chunk."""
    sides: dict[str, Side] = {"base": ("base", runs[0]["base"], {})} if "base" in runs[0] else {}
    for index, (run, name) in enumerate(zip(runs, names, strict=True)):
        if "trained" in run:
            sides[name] = (f"run{index}", run["trained"], run.get("difference", {}))
    return _section(sides)


def _section(sides: Mapping[str, Side]) -> str:
    """Charts by kind and measure of sides by name."""
    parts = []
    for kind, title in KINDS.items():
        figures = "".join(_figure(title, kind, measure, sides) for measure in SHOWN)
        parts += [f'<h3>{title}</h3><div class="grid-of-charts large">{figures}</div>'] if figures else []
    if not parts:
        return ""
    legend = "".join(f'<b class="{style}">{escape(name)}</b>' for name, (style, *_) in sides.items())
    return (
        f'<section><h2>How deep it holds</h2><p class="muted">{_SAYS}</p><p class="legend">{legend}</p>'
        f"{''.join(parts)}</section>"
    )


def _figure(title: str, kind: str, measure: str, sides: Mapping[str, Side]) -> str:
    words, share = MEASURES[measure]
    bands = []
    for name, (style, curves, changes) in sides.items():
        if curve := curves.get(kind, {}).get(measure):
            change = changes.get(kind, {}).get(measure, Curve(()))
            sure = [low > 0 or high < 0 for low, high in zip(change.low, change.high, strict=True)]
            bands.append(Band(name, curve.mean, curve.low, curve.high, style, sure))
    chart = depth_chart(f"{title}: {words} by chunk", bands, share)
    return f"<figure>{chart}<figcaption>{words}</figcaption></figure>" if chart else ""
