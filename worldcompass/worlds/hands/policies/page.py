"""The page about policies: their success in the engine and in world models next to each other."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from worldcompass.media.charts import Bar, Point, interval_chart, scatter_chart
from worldcompass.media.html import document
from worldcompass.runs.atomic import write_text
from worldcompass.statistics import number
from worldcompass.worlds.hands.policies.agreement import BOTH, Agreement, PolicyResults
from worldcompass.worlds.hands.policies.trials import BASE, ENGINE, PIXELS, TASKS, TRAINED

SIDE_WORDS = {
    ENGINE: "engine",
    PIXELS: "engine, by pixels",
    BASE: "base",
    TRAINED: "trained",
    "difference": "trained − base",
}
MEASURE_WORDS = {
    "spearman": "Spearman's rho",
    "kendall": "Kendall's tau-b",
    "error": "mean |error|",
    "bias": "mean error",
}
TASK_WORDS = {**{name: str(wanted).capitalize() for name, wanted in TASKS.items()}, BOTH: "Both tasks"}


def write_page(path: Path, results: PolicyResults) -> Path:
    """Write the page."""
    parts = [
        "<h1>Policies in the Hands world</h1>",
        f'<p class="headline">{escape(results.verdict)}</p>',
        f'<p class="muted">{results.scenes} scenes of the split {escape(results.split)} for each task,'
        f" {results.latents} latents, {results.seeds} noise seed(s). In the engine success is the engine's truth;"
        " in a world model it is judged by pixels. Intervals are 95%.</p>",
        "<h2>Does a world model say which policy is better?</h2>",
        _agreement_table([one for one in results.agreements if one.task == BOTH]),
        "<p class=\"muted\">“Engine, by pixels” is the engine's own video judged as a world model's is: what the"
        " judge alone costs.</p>",
        _scatter(results),
    ]
    for task in TASKS:
        parts += [f"<h2>{escape(TASK_WORDS[task])}</h2>", _bars(results, task)]
        parts.append(_agreement_table([one for one in results.agreements if one.task == task]))
    parts.append("<h2>The policies</h2>" + _who(results) + _weights(results))
    return write_text(path, document("Policies in the Hands world", parts))


def _agreement_table(rows: Sequence[Agreement]) -> str:
    head = "".join(f"<th>{escape(word)}</th>" for word in MEASURE_WORDS.values())
    body = "".join(
        f"<tr><th>{SIDE_WORDS[row.side]}</th>"
        + "".join(
            f"<td><b>{number(value.mean)}</b><small>{number(value.low)} to {number(value.high)}</small></td>"
            for value in (row.measures[name] for name in MEASURE_WORDS)
        )
        + "</tr>"
        for row in rows
    )
    return (
        '<div class="scroll" tabindex="0"><table><thead><tr><th>against the engine</th>'
        f"{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _sides(results: PolicyResults) -> list[str]:
    return [side for side in (BASE, TRAINED) if side in results.rows[0].success]


def _scatter(results: PolicyResults) -> str:
    charts = []
    for side in _sides(results):
        points = [
            Point(f"{row.policy}, {row.task}", row.success[ENGINE].mean, row.success[side].mean, side)
            for row in results.rows
        ]
        title = f"Success in the engine and in {SIDE_WORDS[side]}"
        chart = scatter_chart(title, "in the engine", f"in {SIDE_WORDS[side]}", points)
        charts.append(
            f'<figure class="chart">{chart}<figcaption>{title}: one mark a policy</figcaption></figure>'
        )
    return f'<div class="grid-of-charts">{"".join(charts)}</div>'


def _bars(results: PolicyResults, task: str) -> str:
    sides = [ENGINE, *_sides(results)]
    charts = []
    for row in (row for row in results.rows if row.task == task):
        bars = [Bar(SIDE_WORDS[side], row.success[side], side) for side in sides]
        chart = interval_chart(f"{row.policy}: success", bars)
        charts.append(
            f"<figure>{chart}<figcaption>{escape(row.policy)}: {escape(row.says)}</figcaption></figure>"
        )
    return f'<div class="grid-of-charts">{"".join(charts)}</div>'


def _who(results: PolicyResults) -> str:
    said = {row.policy: row.says for row in results.rows}
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(says)}</td></tr>" for name, says in said.items())
    return f'<div class="scroll" tabindex="0"><table><tbody>{rows}</tbody></table></div>'


def _weights(results: PolicyResults) -> str:
    named = "; ".join(f"{SIDE_WORDS[side]}: {which}" for side, which in results.weights.items())
    return f'<p class="muted">{escape(named)}</p>'
