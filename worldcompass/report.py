"""One self-contained HTML page of a run, finished or not: verdict, table, video, curves, configuration."""

from __future__ import annotations

import base64
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from worldcompass.charts import Interval, interval_chart, line_chart, number
from worldcompass.doctor import Diagnosis, diagnose, read_record
from worldcompass.doctor.page import section
from worldcompass.errors import UserError
from worldcompass.report_style import CSS

SCHEMA = 1
KINDS = {"combined": "Combined actions", "basic": "Basic actions"}
# Key in results.json -> (words, whether it is a share shown in percent).
MEASURES = {
    "judge_accuracy": ("Actions followed, held-out judge", True),
    "critic_accuracy": ("Actions followed, reward critic", True),
    "quality": ("Realism, held-out judge", False),
    "sharpness": ("Sharpness, relative to the engine", False),
    "flicker": ("Flicker", False),
    "drift": ("Drift from the first frame", False),
    "colour": ("Colour, distance to the engine's at that moment", False),
}
VERDICTS = {
    "learning": "The model learned: the interval of the paired difference lies above zero.",
    "no significant change": "The interval of the paired difference contains zero: nothing is proved either way.",
    "worse": "The model got worse: the interval of the paired difference lies below zero.",
    "unfinished": "This run has no before-and-after comparison yet.",
}
NEXT = {
    "learning": "Go further with a longer run: <code>worldcompass train doom_full</code>. "
    "Repeat with <code>--seed 1</code> and <code>--seed 2</code> before quoting a number.",
    "no significant change": "Give it more steps or more scenarios: <code>worldcompass train doom_full</code>. "
    "If rewards below rise while the judge stands still, look at the reward critics first.",
    "worse": "Lower the learning rate, for example <code>--set lr=…</code>, and compare the curves "
    "of the rewards with the judge: a reward that rises while the judge falls is being exploited.",
    "unfinished": "Continue the run with <code>--resume</code>, then write this page again.",
}


@dataclass(frozen=True)
class Run:
    """What a run folder holds; everything but one of results and metrics may be missing."""

    folder: Path
    results: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    """One flat row for each training step."""
    diagnosis: Diagnosis | None
    """None without metrics of training steps."""
    config: Mapping[str, Any]
    command: Mapping[str, Any]
    """run.json: command line and environment."""
    video: bytes
    filmstrips: Mapping[str, bytes]


@dataclass(frozen=True)
class Score:
    """One mean with its 95% interval; NaN where unknown."""

    mean: float
    low: float
    high: float
    n: int | None


def write_report(run_dir: Path) -> Path:
    """Write ``report.html`` into a run folder.

    Raises:
        UserError: when the folder is not a run, or a file in it cannot be read.
    """
    page = render(load_run(run_dir))
    path = run_dir / "report.html"
    partial = run_dir / "report.html.partial"
    partial.write_text(page, encoding="utf-8")
    os.replace(partial, path)
    return path


def load_run(run_dir: Path) -> Run:
    """Read a run folder.

    Raises:
        UserError: when it is not one, or a file in it is malformed.
    """
    if not run_dir.is_dir():
        raise UserError(f"{run_dir} is not a run folder: there is no such folder")
    if not any((run_dir / name).is_file() for name in ("results.json", "metrics.jsonl")):
        raise UserError(f"{run_dir} is not a run folder: expected results.json or metrics.jsonl in it")
    results = _read_object(run_dir / "results.json")
    if results and results.get("schema", SCHEMA) != SCHEMA:
        raise UserError(f"{run_dir / 'results.json'} has schema {results['schema']}, expected {SCHEMA}")
    video = run_dir / "before_after.mp4"
    return Run(
        folder=run_dir,
        results=results,
        metrics=[flatten(row) for row in _read_lines(run_dir / "metrics.jsonl")],
        diagnosis=_diagnosis(run_dir),
        config=_read_object(run_dir / "config.json"),
        command=_read_object(run_dir / "run.json"),
        video=video.read_bytes() if video.is_file() else b"",
        filmstrips={p.stem: p.read_bytes() for p in sorted((run_dir / "filmstrips").glob("*.png"))},
    )


def flatten(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested metrics as ``outer/inner``."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        flat |= flatten(value, f"{prefix}{name}/") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def verdict(results: Mapping[str, Any]) -> str:
    """``learning``, ``no significant change``, ``worse`` or ``unfinished``, from the paired interval."""
    difference = score(results, "difference", "combined", "judge_accuracy")
    if not (math.isfinite(difference.low) and math.isfinite(difference.high)):
        return "unfinished"
    if difference.low > 0:
        return "learning"
    return "worse" if difference.high < 0 else "no significant change"


def headline(results: Mapping[str, Any], kind: str) -> str:
    """One sentence, such as ``Combined actions: 24.1% → 41.3% (engine 88.0%); 27.0% of the gap closed …``."""
    base, trained, engine = (
        score(results, side, kind, "judge_accuracy") for side in ("base", "trained", "engine")
    )
    if math.isnan(base.mean) and math.isnan(trained.mean):
        return ""
    text = f"{KINDS[kind]}: {percent(base.mean)} → {percent(trained.mean)}"
    if math.isfinite(engine.mean):
        text += f" (engine {percent(engine.mean)})"
    gap = _as_score(_mapping(results.get("gap_closed")).get(kind))
    if math.isfinite(gap.mean):
        text += f"; {percent(gap.mean)} of the gap closed"
    if math.isfinite(gap.low):
        text += f" (95% interval {percent(gap.low)} to {percent(gap.high)})"
    return text + "."


def score(results: Mapping[str, Any], side: str, kind: str, measure: str) -> Score:
    """One entry of results.json, NaN where it is missing."""
    return _as_score(_mapping(_mapping(results.get(side)).get(kind)).get(measure))


def percent(value: float, digits: int = 1) -> str:
    """A share as percent for people."""
    return f"{100 * value:.{digits}f}%".replace("-", "−") if math.isfinite(value) else "–"


def render(run: Run) -> str:
    """The whole page."""
    title = f"WorldCompass run: {run.folder.resolve().name}"
    parts = [
        _header(run, title),
        _video(run.video),
        _scores(run.results),
        _passes(run.results),
        section(run.diagnosis) if run.diagnosis else "",
        _curves(run.metrics),
        _filmstrips(run.filmstrips),
        _next(run),
        _details(run),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head>\n"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


# --------------------------------------------------------------------------- sections


def _header(run: Run, title: str) -> str:
    kind = verdict(run.results)
    sentences = [s for s in (headline(run.results, name) for name in KINDS) if s]
    lines = [f'<p class="headline">{escape(sentences[0])}</p>'] if sentences else []
    lines += [f"<p>{escape(sentence)}</p>" for sentence in sentences[1:]]
    basic = score(run.results, "difference", "basic", "judge_accuracy")
    if basic.high < 0:
        lines.append("<p><strong>Basic actions got worse.</strong></p>")
    return (
        f"<header><h1>{escape(title)}</h1>"
        f'<p><span class="badge {kind.split()[0]}">{kind}</span> {VERDICTS[kind]}</p>'
        f'{"".join(lines)}<p class="muted">{escape(_facts(run))}</p></header>'
    )


def _facts(run: Run) -> str:
    facts = []
    if run.metrics:
        facts.append(f"{len(run.metrics)} training steps")
    seconds = run.results.get("seconds")
    if isinstance(seconds, int | float):
        facts.append(f"{seconds / 60:.1f} minutes")
    n = score(run.results, "difference", "combined", "judge_accuracy").n
    if n:
        facts.append(f"{n} paired rollouts of combined actions")
    if run.results.get("scenarios_hash"):
        facts.append(f"scenarios {str(run.results['scenarios_hash'])[:12]}")
    return " · ".join(facts)


def _video(video: bytes) -> str:
    if not video:
        return ""
    return (
        "<section><h2>Before and after</h2>"
        '<video controls loop muted playsinline preload="metadata" aria-label="The same scenarios before '
        f'training, after training, and in the engine" src="{_data("video/mp4", video)}"></video>'
        '<p class="muted">Same scenarios, same seeds. The engine shows what was asked for.</p></section>'
    )


def _scores(results: Mapping[str, Any]) -> str:
    tables = [_table(results, kind) for kind in KINDS if _has_kind(results, kind)]
    if not tables:
        return ""
    return (
        "<section><h2>Scores</h2><p class='muted'>Means with 95% intervals; higher is better everywhere. "
        "The difference is paired: same scenario, same seed. Bold: its interval excludes zero.</p>"
        f"{''.join(tables)}</section>"
    )


def _has_kind(results: Mapping[str, Any], kind: str) -> bool:
    return any(kind in _mapping(results.get(side)) for side in ("base", "trained", "engine", "difference"))


def _table(results: Mapping[str, Any], kind: str) -> str:
    rows = "".join(_row(results, kind, measure) for measure in MEASURES)
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("Base", "Trained", "Difference", "Engine"))
    return (
        f"<h3>{KINDS[kind]}</h3>{_interval_figure(results, kind)}"
        f'<div class="scroll" role="region" tabindex="0" aria-label="Scores of {KINDS[kind].lower()}"><table>'
        f'<thead><tr><th scope="col">Measure</th>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _row(results: Mapping[str, Any], kind: str, measure: str) -> str:
    words, share = MEASURES[measure]
    cells = []
    for side in ("base", "trained", "difference", "engine"):
        value = score(results, side, kind, measure)
        sure = side == "difference" and (value.low > 0 or value.high < 0)
        style = f' class="{"good" if value.low > 0 else "bad"}"' if sure else ""
        cells.append(f"<td{style}>{_cell(value, share, signed=side == 'difference')}</td>")
    return f'<tr><th scope="row">{words}</th>{"".join(cells)}</tr>'


def _cell(value: Score, share: bool, signed: bool) -> str:
    if math.isnan(value.mean):
        return '<span class="muted">–</span>'
    show = percent if share else number
    plus = "+" if signed and value.mean > 0 else ""
    interval = f"<small>{show(value.low)} to {show(value.high)}</small>" if math.isfinite(value.low) else ""
    return f"<b>{plus}{show(value.mean)}</b>{interval}"


def _interval_figure(results: Mapping[str, Any], kind: str) -> str:
    rows = []
    for side in ("base", "trained", "engine"):
        value = score(results, side, kind, "judge_accuracy")
        if math.isfinite(value.mean):
            low = value.low if math.isfinite(value.low) else value.mean
            high = value.high if math.isfinite(value.high) else value.mean
            rows.append(Interval(side, 100 * value.mean, 100 * low, 100 * high, side))
    if not rows:
        return ""
    caption = f"{KINDS[kind]} followed, by the held-out judge"
    return f'<figure class="wide">{interval_chart(caption, rows)}<figcaption>{caption}</figcaption></figure>'


def _passes(results: Mapping[str, Any]) -> str:
    passes = _mapping(results.get("forward_passes"))
    clip, whole = passes.get("clip_level"), passes.get("whole_video")
    if not (isinstance(clip, int | float) and isinstance(whole, int | float) and clip > 0):
        return ""
    return (
        "<section><h2>Cost of imagining</h2>"
        f"<p>Sharing the past and imagining one clip took <b>{clip:,.0f}</b> forward passes; whole videos would "
        f"have taken <b>{whole:,.0f}</b>, {whole / clip:.1f} times as many.</p></section>"
    )


def _curves(metrics: Sequence[Mapping[str, Any]]) -> str:
    names = sorted(_series_names(metrics), key=_curve_order)
    if not names:
        return ""
    figures = [
        f"<figure>{_curve(metrics, name)}<figcaption>{escape(name)}</figcaption></figure>" for name in names
    ]
    return (
        "<section><h2>Curves</h2><p class='muted'>Faint: every step. Strong: moving average.</p>"
        f'<div class="grid-of-charts">{"".join(figures)}</div></section>'
    )


def _curve(metrics: Sequence[Mapping[str, Any]], name: str) -> str:
    points = [
        (_number(row.get("step"), index), _number(row[name], math.nan))
        for index, row in enumerate(metrics)
        if name in row
    ]
    return line_chart(name, [step for step, _ in points], [value for _, value in points])


def _series_names(metrics: Sequence[Mapping[str, Any]]) -> set[str]:
    return {name for row in metrics for name, value in row.items() if name != "step" and _is_number(value)}


def _curve_order(name: str) -> tuple[int, str]:
    groups = ("reward", "loss", "grad")
    return next((i for i, group in enumerate(groups) if name.startswith(group)), len(groups)), name


def _filmstrips(filmstrips: Mapping[str, bytes]) -> str:
    if not filmstrips:
        return ""
    figures = [_filmstrip(name.replace("_", " "), data) for name, data in filmstrips.items()]
    return f"<section><h2>Filmstrips</h2>{''.join(figures)}</section>"


def _filmstrip(name: str, picture: bytes) -> str:
    said = escape(f"Filmstrip of {name}: frames from left to right", quote=True)
    image = f'<img alt="{said}" src="{_data("image/png", picture)}">'
    return (
        f'<figure class="wide"><div class="scroll" role="region" tabindex="0" aria-label="{said}">{image}</div>'
        f"<figcaption>{escape(name)}</figcaption></figure>"
    )


def _next(run: Run) -> str:
    return f"<section><h2>What to do next</h2><p>{NEXT[verdict(run.results)]}</p></section>"


def _details(run: Run) -> str:
    blocks = [
        _block("Command and environment", run.command),
        _block("Configuration", run.config),
        _block("results.json", run.results),
    ]
    return f"<section>{''.join(blocks)}</section>" if any(blocks) else ""


def _block(title: str, content: Mapping[str, Any]) -> str:
    if not content:
        return ""
    text = escape(json.dumps(content, indent=2, ensure_ascii=False))
    return f'<details><summary>{title}</summary><pre tabindex="0">{text}</pre></details>'


# --------------------------------------------------------------------------- reading


def _diagnosis(run_dir: Path) -> Diagnosis | None:
    """The doctor's opinion; a page of other curves does without it."""
    try:
        return diagnose(read_record(run_dir))
    except UserError:
        return None


def _read_object(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    value = _parse(path.read_bytes(), str(path))
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold one JSON object, not {type(value).__name__}")
    return value


def _read_lines(path: Path) -> list[Mapping[str, Any]]:
    """Rows of a metrics file; a last line that an interruption cut short is left out."""
    if not path.is_file():
        return []
    data = path.read_bytes()
    lines = data.split(b"\n")
    complete, rest = lines[:-1], lines[-1]
    rows = [_parse(line, f"{path} line {i}") for i, line in enumerate(complete, 1) if line.strip()]
    if rest.strip().endswith(b"}"):
        rows.append(_parse(rest, f"{path} line {len(lines)}"))
    if bad := next((row for row in rows if not isinstance(row, dict)), None):
        raise UserError(f"{path} must hold one JSON object on each line, not {type(bad).__name__}")
    return rows


def _parse(data: bytes, where: str) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise UserError(f"{where} is not valid JSON: {error}") from None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _as_score(value: Any) -> Score:
    entry = _mapping(value)
    ends = entry.get("ci95")
    ends = ends if isinstance(ends, list) and len(ends) == 2 else (None, None)
    n = entry.get("n")
    return Score(
        _number(entry.get("mean"), math.nan),
        _number(ends[0], math.nan),
        _number(ends[1], math.nan),
        n if isinstance(n, int) else None,
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: Any, otherwise: float) -> float:
    return float(value) if _is_number(value) else otherwise


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
