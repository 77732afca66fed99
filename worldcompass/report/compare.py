"""A page that compares runs: scores, curves on common axes, settings that differ."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from worldcompass.errors import UserError
from worldcompass.evaluate import FOLLOWED, gap_share
from worldcompass.media.charts import Bar, Series, curves_chart, interval_chart
from worldcompass.media.html import document
from worldcompass.report.actions import heat_maps
from worldcompass.report.depth import compared_section
from worldcompass.report.looks import filmstrip_section, looks_section
from worldcompass.report.page import badge, difference_cell
from worldcompass.report.runs import (
    KINDS,
    MEASURES,
    Run,
    answer,
    flatten,
    load_run,
)
from worldcompass.runs.atomic import write_text
from worldcompass.runs.results import Evaluation
from worldcompass.statistics import percent

MAX_RUNS = 8  # the number of distinct colours


def write_comparison(folders: Sequence[Path], out: Path) -> Path:
    """Write the page about several runs to ``out``.

    Raises:
        UserError: when a folder is not a run, there are too few or too many, or they were evaluated on
            different scenarios.
    """
    if not 2 <= len(folders) <= MAX_RUNS:
        raise UserError(
            f"a comparison needs 2 to {MAX_RUNS} runs, got {len(folders)}: name that many folders"
        )
    runs = [load_run(folder) for folder in folders]
    hashes = {run.results.scenarios_hash for run in runs if run.results.scenarios_hash}
    if len(hashes) > 1:
        raise UserError(
            f"{', '.join(map(str, folders))} were evaluated on different scenarios: name runs of the same ones"
        )
    return write_text(out, render(runs, names_of(folders)), shared=True)


def names_of(folders: Sequence[Path]) -> list[str]:
    """The folders' names, with as many parents as it takes to distinguish them.

    Raises:
        UserError: when a folder is named twice.
    """
    paths = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, paths)) + 1):
        names = ["/".join(parts[-depth:]) for parts in paths]
        if len(set(names)) == len(names):
            return names
    raise UserError(f"{folders[0]} is named twice: name different runs")


def render(runs: Sequence[Run], names: Sequence[str]) -> str:
    """The whole page."""
    title = "WorldCompass runs: " + " · ".join(names)
    parts = [
        f"<header><h1>{escape(title)}</h1>{_verdicts(runs, names)}</header>",
        *(_scores(runs, names, kind, way) for way in _ways(runs) for kind in KINDS),
        compared_section([run.results.per_depth for run in runs], names),
        _actions(runs, names),
        filmstrip_section(_together([run.filmstrips for run in runs], names)),
        looks_section(dict(sorted(_together([run.looks for run in runs], names).items()))),
        _curves(runs, names),
        _differences(runs, names),
    ]
    return document(title, parts)


def _verdicts(runs: Sequence[Run], names: Sequence[str]) -> str:
    lines = []
    for index, (run, name) in enumerate(zip(runs, names, strict=True)):
        gap = gap_share(run.results.evaluation, "combined")
        closed = f" {percent(gap.mean)} of the gap of combined actions closed." if gap.known else ""
        lines.append(
            f'<li><b class="run{index}">{escape(name)}</b> {badge(run)} {escape(answer(run))}{closed}</li>'
        )
    return f'<ul class="runs">{"".join(lines)}</ul>'


def _ways(runs: Sequence[Run]) -> list[str]:
    """The ways of walking that any run measured."""
    return list(dict.fromkeys(way for run in runs for way in run.results.evaluation.by_way()))


def _scores(runs: Sequence[Run], names: Sequence[str], kind: str, way: str) -> str:
    evaluations = [run.results.evaluation.by_way().get(way, Evaluation()) for run in runs]
    sides = [("base", evaluations[0], "base")] if kind in evaluations[0].base else []
    sides += [
        (f"run{i}", found, name) for i, (found, name) in enumerate(zip(evaluations, names, strict=True))
    ]
    bars = []
    for style, found, name in sides:
        value = found.score("base" if style == "base" else "trained", kind, FOLLOWED)
        if value.bounded:
            bars.append(Bar(name, value, style))
    if not bars:
        return ""
    caption = f"{KINDS[kind]} followed, by the held-out judge"
    label = f"{KINDS[kind]}, {escape(way)}, differences"
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    rows = "".join(
        f'<tr><th scope="row">{words}</th>'
        + "".join(difference_cell(found.score("difference", kind, m), share) for found in evaluations)
        + "</tr>"
        for m, (words, share) in MEASURES.items()
    )
    return (
        f"<section><h2>{KINDS[kind]}, {escape(way)}</h2>"
        f'<figure class="chart">{interval_chart(caption, bars)}<figcaption>{caption}</figcaption></figure>'
        '<p class="muted">Differences to each run\'s base, paired, with 95% intervals.</p>'
        f'<div class="scroll" role="region" tabindex="0" aria-label="{label}"><table><thead><tr>'
        f'<th scope="col">Measure</th>{heads}</tr></thead><tbody>{rows}</tbody></table></div></section>'
    )


def _actions(runs: Sequence[Run], names: Sequence[str]) -> str:
    """Heat maps of followed actions: the first run's base, then every run."""
    counts = [run.results.per_action for run in runs]
    shown = [("base", counts[0].get("base"))]
    shown += [(name, one.get("trained")) for name, one in zip(names, counts, strict=True)]
    return heat_maps({name: one for name, one in shown if one})


def _together(pictures: Sequence[Mapping[Any, bytes]], names: Sequence[str]) -> dict[Any, dict[str, bytes]]:
    """Pictures of several runs, grouped by their key, then by run."""
    shown = list(dict.fromkeys(key for one in pictures for key in one))
    return {
        key: {
            f"{name}: {key if isinstance(key, str) else f'step {key}'}": one[key]
            for name, one in zip(names, pictures, strict=True)
            if key in one
        }
        for key in shown
    }


def _curves(runs: Sequence[Run], names: Sequence[str]) -> str:
    """Curves of rewards, losses and the judge that at least two runs share; constant ones are left out."""
    rows = [[(row.step, row.numbers()) for row in run.metrics] for run in runs]
    counts = Counter(name for one in rows for name in {key for _, row in one for key in row})
    figures = []
    for name in sorted(name for name, count in counts.items() if count > 1):
        values = {row[name] for one in rows for _, row in one if name in row}
        if not name.startswith(("reward", "loss", "judge")) or len(values) < 2:
            continue
        series = [
            Series(run_name, [(float(step), _or_nan(row.get(name))) for step, row in one])
            for one, run_name in zip(rows, names, strict=True)
        ]
        if chart := curves_chart(name, series):
            figures.append(f"<figure>{chart}<figcaption>{escape(name)}</figcaption></figure>")
    if not figures:
        return ""
    return (
        '<section><h2>Curves</h2><p class="muted">Moving averages, in the colours of the names above.</p>'
        f'<div class="grid-of-charts">{"".join(figures)}</div></section>'
    )


def _differences(runs: Sequence[Run], names: Sequence[str]) -> str:
    """The table of settings that differ between the runs."""
    settings = [flatten(run.config.values) for run in runs]
    keys = sorted({key for one in settings for key in one})
    shown = [[json.dumps(one[key]) if key in one else "not set" for one in settings] for key in keys]
    rows = "".join(
        f'<tr><th scope="row">{escape(key)}</th>{"".join(f"<td>{escape(v)}</td>" for v in values)}</tr>'
        for key, values in zip(keys, shown, strict=True)
        if len(set(values)) > 1
    )
    if not rows:
        return "<section><h2>Settings</h2><p>All settings are the same.</p></section>"
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    return (
        '<section><h2>Settings that differ</h2><div class="scroll" role="region" tabindex="0" '
        f'aria-label="Settings that differ"><table><thead><tr><th scope="col">Setting</th>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
