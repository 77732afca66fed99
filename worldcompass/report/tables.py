"""Markdown tables from stored results, between markers in a page; the seeds of a recipe form one result.

A stored result is a finished run reduced to a number per video and measure, with its command and versions.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from worldcompass.errors import UserError
from worldcompass.evaluate import FOLLOWED, KINDS, MEASURES, Measured, evaluation_of, pool, read_measured
from worldcompass.runs.atomic import write_json, write_text
from worldcompass.runs.folder import RunFolder
from worldcompass.runs.metrics import read_object
from worldcompass.runs.results import SIDES, Evaluation, read_results
from worldcompass.runs.settings import read_settings
from worldcompass.statistics import Estimate

SCHEMA = 1  # of a stored result
DIGITS = 5  # of a stored number
# <!-- table: demo --> or <!-- table: demo, short -->
PLACE = re.compile(r"(<!-- table: ([\w.-]+)(, short)? -->\n)(.*?)(<!-- /table -->)", re.DOTALL)
OPENED = re.compile(r"<!-- table: [^>]*-->")


@dataclass(frozen=True)
class Stored:
    """One finished run of a recipe."""

    recipe: str
    seed: int
    command: str
    version: str
    """Of this package."""
    weights: str
    """Version of the base weights."""
    scenarios_hash: str
    seconds: float
    engine: Measured
    base: Measured
    trained: Measured
    """Measured as means over depth, without actions."""

    def to_json(self) -> dict[str, Any]:
        """The content of the file."""
        plain = {part.name: getattr(self, part.name) for part in fields(self) if part.name not in SIDES}
        sides = {side: getattr(self, side).to_json() for side in ("engine", "base", "trained")}
        return {"schema": SCHEMA, **plain, **sides}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Stored:
        """The inverse of ``to_json``.

        Raises:
            ValueError: names the missing or malformed part.
        """
        if (schema := data.get("schema")) != SCHEMA:
            raise ValueError(f"it has schema {schema}, expected {SCHEMA}")
        kinds = {"seed": int, "seconds": (int, float)}
        for part in fields(Stored):
            expected = dict if part.name in SIDES else kinds.get(part.name, str)
            if not isinstance(data.get(part.name), expected):
                raise ValueError(f"{part.name} is missing or malformed")
        plain = {part.name: data[part.name] for part in fields(Stored) if part.name not in SIDES}
        engine, base, trained = (Measured.from_json(data[side]) for side in ("engine", "base", "trained"))
        return Stored(**plain, engine=engine, base=base, trained=trained)


def reduce_run(run_dir: Path) -> Stored:
    """A finished run of a recipe, reduced to a stored result.

    Raises:
        UserError: when the folder holds no finished run of a recipe.
    """
    folder = RunFolder(run_dir)
    if not folder.results.is_file():
        raise UserError(
            f"{run_dir} is not a finished run: {folder.results.name} is missing; finish the run first"
        )
    results = read_results(folder.results)
    settings = read_settings(folder.config)
    made = read_object(folder.record, "a run's command and environment")
    engine, base, trained = (_over_depth(folder.evaluation(side)) for side in ("engine", "base", "trained"))
    if not settings.get("recipe") or not {"command", "version", "weights"} <= made.keys():
        raise UserError(
            f"{run_dir} is no run of a recipe: config.json or run.json lacks its recipe, command or versions"
        )
    return Stored(
        recipe=str(settings["recipe"]),
        seed=int(settings.get("seed", 0)),
        command=_without_folder(str(made["command"])),
        version=str(made["version"]),
        weights=str(made["weights"]),
        scenarios_hash=results.scenarios_hash,
        seconds=round(results.seconds or 0.0, 1),
        engine=engine,
        base=base,
        trained=trained,
    )


def _over_depth(path: Path) -> Measured:
    measured = read_measured(path)
    if missing := set(MEASURES) - set(measured.values_VD):
        raise UserError(f"{path} lacks {', '.join(sorted(missing))}: run the recipe again with this version")
    values = {name: measured.values_VD[name].mean(1, keepdims=True).round(DIGITS) for name in MEASURES}
    nothing = np.zeros((len(measured.scenarios), 0), int)
    return replace(measured, values_VD=values, asked_VM=nothing, read_VM=nothing)


def _without_folder(command: str) -> str:
    """The command without ``--out``, which differs on every machine."""
    words = shlex.split(command)
    kept = [w for i, w in enumerate(words) if w != "--out" and (i == 0 or words[i - 1] != "--out")]
    return shlex.join(word for word in kept if not word.startswith("--out="))


def store(run_dir: Path, folder: Path) -> Path:
    """Store a finished run as ``folder/RECIPE_seedN.json``; an older file is replaced.

    Raises:
        UserError: when the folder holds no finished run of a recipe.
    """
    run = reduce_run(run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    return write_json(folder / f"{run.recipe}_seed{run.seed}.json", run.to_json())


def read_stored(folder: Path) -> list[Stored]:
    """All stored results, by recipe and seed.

    Raises:
        UserError: for a missing folder, or a malformed file, which it names.
    """
    if not folder.is_dir():
        raise UserError(
            f"there are no stored results at {folder}: store runs with worldcompass tables RUN --store FOLDER"
        )
    runs = []
    for path in sorted(folder.glob("*.json")):
        try:
            runs.append(Stored.from_json(read_object(path, "a stored result")))
        except ValueError as why:
            raise UserError(f"{path} is not a stored result: {why}") from None
    return sorted(runs, key=lambda run: (run.recipe, run.seed))


def pooled(runs: Sequence[Stored]) -> Evaluation:
    """Seeds of one recipe as one result: intervals over scenarios and seeds.

    Raises:
        UserError: when recipe, scenarios or weights differ, or a seed occurs twice.
    """
    for name in ("recipe", "scenarios_hash", "weights"):
        if len(values := sorted({getattr(run, name) for run in runs})) > 1:
            raise UserError(f"runs of different {name} are not one result: {', '.join(values)}")
    seeds = [run.seed for run in runs]
    if len(set(seeds)) < len(seeds):
        raise UserError(f"each seed counts once, got {', '.join(map(str, seeds))}")
    return evaluation_of(
        runs[0].engine, pool([run.base for run in runs]), pool([run.trained for run in runs])
    )


# --------------------------------------------------------------------------- tables


def table_of(recipe: str, stored: Sequence[Stored], short: bool = False) -> str:
    """The table of a recipe with its commands below; a sentence if nothing is stored."""
    runs = [run for run in stored if run.recipe == recipe]
    if not runs:
        return f"There are no stored results of `{recipe}` yet."
    rows = _short_rows(pooled(runs)) if short else _rows(runs)
    head = [_line("measure", *(f"{kind} actions" for kind in KINDS)), _rule(1 + len(KINDS))]
    body = [_line(words, *(cell(kind) for kind in KINDS)) for words, cell in rows]
    return "\n".join([*head, *body, "", _made(runs)])


def everything(runs: Sequence[Stored]) -> str:
    """The full table: every measure of the pooled runs."""
    found = pooled(runs)
    lines = [
        _line("from", "actions", "measure", "engine", "base", "trained", "difference"),
        _line(*["---"] * 7),
    ]
    parts = {"held-out starts": found} | ({"maps never trained on": found.unseen} if found.unseen else {})
    for place, part in parts.items():
        for kind in KINDS:
            for measure in MEASURES:
                means = [
                    f"{part.score(side, kind, measure).mean:.3f}" for side in ("engine", "base", "trained")
                ]
                change = _change(part.score("difference", kind, measure), 3)
                lines.append(_line(place, kind, measure, *means, change))
            lines.append(_line(place, kind, "gap closed", *"–––", part.closed(kind).in_percent()))
    return "\n".join([*lines, "", _made(runs)])


_Row = tuple[str, Callable[[str], str]]
"""A row's title, and the function from a kind of actions to its cell."""


def _short_rows(found: Evaluation) -> list[_Row]:
    rows: list[_Row] = [
        ("actions followed: base", lambda kind: _percent(found.score("base", kind, FOLLOWED))),
        ("actions followed: post-trained", lambda kind: _percent(found.score("trained", kind, FOLLOWED))),
        ("actions followed: difference, points", _points(found)),
    ]
    return rows + (
        [("maps never trained on: difference, points", _points(found.unseen))] if found.unseen else []
    )


def _rows(runs: Sequence[Stored]) -> list[_Row]:
    found, each = pooled(runs), {run.seed: pooled([run]) for run in runs}
    unseen = found.unseen
    rows = _short_rows(found)[:3]
    rows += [("share of the gap to the engine closed", _closed(found))]
    rows += [(f"seed {seed}: share of the gap", _closed(one)) for seed, one in each.items() if len(each) > 1]
    rows += [("maps never trained on: actions followed, points", _points(unseen))] if unseen else []
    rows += [("realism (logit)*", _changes(found, "quality", 2))]
    rows += [("maps never trained on: realism*", _changes(unseen, "quality", 2))] if unseen else []
    return [
        *rows,
        ("sharpness (log)*", _changes(found, "sharpness", 2)),
        ("drift of realism*", _changes(found, "drift", 2)),
        ("flicker", _changes(found, "flicker", 3)),
        ("colour", _changes(found, "colour", 3)),
    ]


def _points(found: Evaluation) -> Callable[[str], str]:
    return lambda kind: _change(found.score("difference", kind, FOLLOWED).times(100), 1)


def _closed(found: Evaluation) -> Callable[[str], str]:
    return lambda kind: found.closed(kind).in_percent()


def _changes(found: Evaluation, measure: str, digits: int) -> Callable[[str], str]:
    return lambda kind: _change(found.score("difference", kind, measure), digits)


def _made(runs: Sequence[Stored]) -> str:
    """Seeds, versions and commands of the runs, in a sentence."""
    seeds = ", ".join(str(run.seed) for run in runs)
    commands = ", ".join(f"`{command}`" for command in dict.fromkeys(run.command for run in runs))
    versions = ", ".join(dict.fromkeys(run.version for run in runs))
    many = "s" * (len(runs) > 1)
    return f"Seed{many} {seeds}, worldcompass {versions}, weights of version {runs[0].weights}: {commands}."


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(columns: int) -> str:
    return "|" + "---|" * columns


def _percent(value: Estimate) -> str:
    return f"{100 * value.mean:.1f}%"


def _change(value: Estimate, digits: int) -> str:
    return f"{value.mean:+.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


# --------------------------------------------------------------------------- pages


def with_tables(text: str, stored: Sequence[Stored], name: str = "the page") -> str:
    """The page with new tables between its markers ``<!-- table: NAME -->`` and ``<!-- /table -->``.

    Raises:
        UserError: when a marker is not closed; it names the page.
    """
    if len(OPENED.findall(text)) != len(PLACE.findall(text)) or any(
        OPENED.search(p[2]) for p in PLACE.findall(text)
    ):
        raise UserError(
            f"{name} opens a table and does not close it: expected <!-- /table --> after each table"
        )
    return PLACE.sub(
        lambda place: f"{place[1]}\n{table_of(place[2], stored, bool(place[3]))}\n\n{place[5]}", text
    )


def rewritten(pages: Sequence[Path], folder: Path) -> Iterator[tuple[Path, str]]:
    """Pages with stale tables, each with its corrected text.

    Raises:
        UserError: when a page or the stored results cannot be read, or a page has no table.
    """
    stored = read_stored(folder)
    for page in pages:
        if not page.is_file():
            raise UserError(f"there is no page {page}: expected a Markdown file")
        text = page.read_text(encoding="utf-8")
        if not OPENED.search(text):
            raise UserError(f"{page} has no table: expected a marker such as <!-- table: demo -->")
        new = with_tables(text, stored, str(page))
        if new != text:
            yield page, new


def write_tables(pages: Sequence[Path], folder: Path) -> list[Path]:
    """Rewrite the tables of pages; return the changed pages.

    Raises:
        UserError: as ``rewritten``; no page is written then.
    """
    changed = list(rewritten(pages, folder))
    for page, text in changed:
        write_text(page, text)
    return [page for page, _ in changed]
