"""One self-contained HTML page of a run, finished or not: verdict, table, video, curves, configuration."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from worldcompass.doctor.page import section
from worldcompass.evaluate import FOLLOWED
from worldcompass.media.charts import Bar, interval_chart, line_chart
from worldcompass.media.html import data_address, document
from worldcompass.report.actions import heat_maps
from worldcompass.report.depth import depth_section
from worldcompass.report.looks import filmstrip_section, looks_section
from worldcompass.report.runs import (
    KINDS,
    MEASURES,
    Run,
    answer,
    headline,
    load_run,
    verdict,
    walked_text,
)
from worldcompass.runs.atomic import write_text
from worldcompass.runs.folder import RunFolder
from worldcompass.runs.metrics import StepMetrics
from worldcompass.runs.results import ActionCounts, Count, Evaluation, ForwardPasses, Results
from worldcompass.statistics import Estimate, number, percent

NEXT = {
    "learning": "Try more steps, or a longer recipe: <code>worldcompass train --list</code> shows all. "
    "Repeat with other seeds before quoting a number.",
    "undecided": "Use more steps or more scenarios, or a longer recipe: <code>worldcompass train --list</code> "
    "shows all. If the rewards below rise while the judge does not, check the reward critics first.",
    "unfinished": "Resume the run with <code>--resume</code>, then write this page again.",
}


def write_report(run_dir: Path, out: Path | None = None) -> Path:
    """Write the page of a run to ``out``, or as ``report.html`` into its folder.

    Raises:
        UserError: when the folder is not a run, or a file in it cannot be read.
    """
    return write_text(out or RunFolder(run_dir).report, render(load_run(run_dir)), shared=True)


def render(run: Run) -> str:
    """The whole page."""
    title = f"WorldCompass run: {run.folder.resolve().name}"
    parts = [
        _header(run, title),
        filmstrip_section({name: {name: strip} for name, strip in run.filmstrips.items()}),
        _video(run.video),
        _scores(run.results),
        depth_section(run.results.per_depth),
        _actions(run.results.per_action),
        looks_section({step: {f"step {step}": strip} for step, strip in run.looks.items()}),
        section(run.diagnosis) if run.diagnosis.steps else "",
        _next(run),
        _passes(run.results.forward_passes),
        _curves(run.metrics),
        _details(run),
    ]
    return document(title, parts)


# --------------------------------------------------------------------------- sections


def _header(run: Run, title: str) -> str:
    sentences = [
        said
        for way, found in run.results.evaluation.by_way().items()
        for kind in KINDS
        if (said := headline(found, kind, way))
    ]
    lines = [f'<p class="headline">{escape(sentences[0])}</p>'] if sentences else []
    lines += [f"<p>{escape(sentence)}</p>" for sentence in sentences[1:]]
    if run.results.evaluation.score("difference", "basic", FOLLOWED).falls:
        lines.append("<p><strong>Basic actions got worse.</strong></p>")
    return (
        f"<header><h1>{escape(title)}</h1>"
        f"<p>{badge(run)} {escape(answer(run))}</p>"
        f'{"".join(lines)}<p class="muted">{escape(_facts(run))}</p></header>'
    )


def badge(run: Run) -> str:
    """The verdict in a word or two, as HTML."""
    kind = verdict(run)
    return f'<span class="badge {kind.split()[0]}">{kind}</span>'


def _facts(run: Run) -> str:
    facts = []
    if run.metrics:
        members = run.record.members
        together = f" of each of {members} members, curves are their means" if members != 1 else ""
        facts.append(f"{len(run.metrics)} training steps{together}")
    if run.results.seconds is not None:
        facts.append(f"{run.results.seconds / 60:.1f} minutes")
    n = run.results.evaluation.score("difference", "combined", FOLLOWED).n
    if n:
        facts.append(f"{n} paired rollouts of combined actions")
    if run.results.scenarios_hash:
        facts.append(f"scenarios {run.results.scenarios_hash[:12]}")
    return " · ".join(facts)


def _video(video: bytes) -> str:
    if not video:
        return ""
    return (
        '<section class="moving"><h2>Before and after</h2>'
        '<video controls loop muted playsinline preload="metadata" aria-label="The same scenarios before '
        f'training, after training, and in the engine" src="{data_address("video/mp4", video)}"></video>'
        '<p class="muted">Same scenarios, same seeds, way of walking: rollout. The bar shows the commanded keys; '
        "the engine carries them out.</p></section>"
    )


def _scores(results: Results) -> str:
    """A table for every kind of actions in every way of walking."""
    tables = [
        _table(found, kind, walked_text(results, way))
        for way, found in results.evaluation.by_way().items()
        for kind in KINDS
        if found.has(kind)
    ]
    if not tables:
        return ""
    return (
        "<section><h2>Scores</h2><p class='muted'>Means with 95% intervals; higher is always better. "
        "The difference is paired: same scenario, same seed. Bold: the interval excludes zero. A share is the mean "
        "over chunks, of which the first has a latent less, so it can differ a little from its count of latents. "
        f"People and agents walk in the way play.</p>{''.join(tables)}</section>"
    )


def _table(found: Evaluation, kind: str, way: str) -> str:
    rows = "".join(_row(found, kind, measure) for measure in MEASURES)
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("Base", "Trained", "Difference", "Engine"))
    title = f"{KINDS[kind]}, {escape(way)}"
    return (
        f"<h3>{title}</h3>{_interval_figure(found, kind)}"
        f'<div class="scroll" role="region" tabindex="0" aria-label="Scores of {title.lower()}"><table>'
        f'<thead><tr><th scope="col">Measure</th>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _row(found: Evaluation, kind: str, measure: str) -> str:
    words, share = MEASURES[measure]
    cells = "".join(
        difference_cell(value, share)
        if side == "difference"
        else f"<td>{shown(value, share, count=found.count(side, kind) if measure == FOLLOWED else None)}</td>"
        for side in ("base", "trained", "difference", "engine")
        for value in [found.score(side, kind, measure)]
    )
    return f'<tr><th scope="row">{words}</th>{cells}</tr>'


def difference_cell(value: Estimate, share: bool) -> str:
    """A table cell, highlighted when the interval excludes zero."""
    sure = value.rises or value.falls
    style = f' class="{"good" if value.rises else "bad"}"' if sure else ""
    return f"<td{style}>{shown(value, share, signed=True)}</td>"


def shown(value: Estimate, share: bool, signed: bool = False, count: Count | None = None) -> str:
    """A mean with its interval below it; a share as percent, with a plus sign if ``signed``, beside its count."""
    if not value.known:
        return '<span class="muted">–</span>'
    show = percent if share else number
    plus = "+" if signed and value.mean > 0 else ""
    interval = f"<small>{show(value.low)} to {show(value.high)}</small>" if math.isfinite(value.low) else ""
    counted = f"<small>{count}</small>" if count else ""
    return f"<b>{plus}{show(value.mean)}</b>{counted}{interval}"


def _interval_figure(found: Evaluation, kind: str) -> str:
    rows = []
    for side in ("base", "trained", "engine"):
        value = found.score(side, kind, FOLLOWED)
        if value.known:
            rows.append(
                Bar(side, value if value.bounded else Estimate(value.mean, value.mean, value.mean), side)
            )
    if not rows:
        return ""
    caption = f"{KINDS[kind]} followed, by the held-out judge"
    return f'<figure class="chart">{interval_chart(caption, rows)}<figcaption>{caption}</figcaption></figure>'


def _actions(counts: Mapping[str, ActionCounts]) -> str:
    return heat_maps({name.capitalize(): counts[name] for name in ("base", "trained") if name in counts})


def _passes(passes: ForwardPasses | None) -> str:
    if passes is None or passes.clip_level <= 0:
        return ""
    clip, whole = passes.clip_level, passes.whole_video
    return (
        "<section><h2>Cost of imagining</h2>"
        f"<p>Shared pasts and single clips took <b>{clip:,.0f}</b> forward passes. Whole videos would take "
        f"<b>{whole:,.0f}</b>, {whole / clip:.1f} times as many.</p></section>"
    )


def _curves(metrics: Sequence[StepMetrics]) -> str:
    rows = [(row.step, row.numbers()) for row in metrics]
    names = {name for _, row in rows for name, value in row.items() if value is not None} - {"step"}
    if not names:
        return ""
    constant: dict[str, float | None] = {}
    figures = []
    for name in sorted(names, key=_curve_order):
        points = [(step, row[name]) for step, row in rows if name in row]
        if len(rows) > 1 and len(values := {value for _, value in points}) == 1:
            constant[name] = values.pop()
        else:
            chart = line_chart(
                name, *zip(*((s, math.nan if v is None else v) for s, v in points), strict=True)
            )
            figures.append(f"<figure>{chart}<figcaption>{escape(name)}</figcaption></figure>")
    same = ", ".join(f"{escape(name)} {number(value)}" for name, value in constant.items())
    return (
        "<section><h2>Curves</h2><p class='muted'>Faint: every step. Strong: moving average.</p>"
        f'<div class="grid-of-charts">{"".join(figures)}</div>'
        f"{same and f'<p>Constant: {same}.</p>'}</section>"
    )


def _curve_order(name: str) -> tuple[int, str]:
    groups = ("reward", "loss", "grad")
    return next((i for i, group in enumerate(groups) if name.startswith(group)), len(groups)), name


def _next(run: Run) -> str:
    advice = NEXT.get(verdict(run)) or escape(run.diagnosis.hint)
    walk = f" Walk in it: <code>worldcompass play --after {escape(str(run.folder))}</code>."
    walk = walk if run.results.walking else ""  # only worlds that are shipped compare ways of walking
    return f"<section><h2>What to do next</h2><p>{advice}{walk}</p></section>"


def _details(run: Run) -> str:
    blocks = [
        _block("Command and environment", run.record.to_json()),
        _block("Configuration", run.config.values),
        _block("results.json", {} if run.results == Results() else run.results.to_json()),
    ]
    return f"<section>{''.join(blocks)}</section>" if any(blocks) else ""


def _block(title: str, content: Mapping[str, object]) -> str:
    if not content:
        return ""
    text = escape(json.dumps(content, indent=2, ensure_ascii=False))
    return f'<details><summary>{title}</summary><pre tabindex="0">{text}</pre></details>'
