"""Markdown tables from stored results, between markers in a page; the seeds of a recipe form one result.

A stored result is a finished run reduced to a number per video and measure, with its command and versions.
"""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from worldcompass.errors import UserError
from worldcompass.evaluate import (
    FOLLOWED,
    KINDS,
    MEASURES,
    Measured,
    evaluation_of,
    gap_text,
    pool,
    read_measured,
    with_ways,
)
from worldcompass.report import horizon
from worldcompass.runs.atomic import write_json, write_text
from worldcompass.runs.folder import RunFolder
from worldcompass.runs.metrics import read_object
from worldcompass.runs.record import read_run_record
from worldcompass.runs.results import Evaluation, read_results, read_walking
from worldcompass.runs.settings import read_settings
from worldcompass.statistics import UNKNOWN, Estimate
from worldcompass.ways import ROLLOUT, Walking

SCHEMA = 2  # of a stored result; 1 held the way ``rollout`` alone
DIGITS = 5  # of a stored number
# <!-- table: demo --> or <!-- table: demo, short -->
PLACE = re.compile(r"(<!-- table: ([\w.-]+)(, short)? -->\n)(.*?)(<!-- /table -->)", re.DOTALL)
# <!-- change: demo, combined, judge_accuracy -->+1.8 [-4.0, 7.6]<!-- /change -->
FIGURE = re.compile(r"(<!-- change: ([\w.-]+), (\w+), (\w+) -->)(.*?)(<!-- /change -->)")
OPENED = re.compile(r"<!-- table: [^>]*-->")
CODE = re.compile(r"`[^`]*`")
PAGE_WIDTH = 120  # characters of a line of prose


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
    """Measured as means over depth, without actions, in the way ``rollout``."""
    walking: Mapping[str, Walking] = field(default_factory=dict[str, Walking])
    """The measured ways of walking; empty in files of schema 1."""
    ways: Mapping[str, tuple[Measured, Measured]] = field(
        default_factory=dict[str, tuple[Measured, Measured]]
    )
    """Base and trained in the other ways, maybe on fewer scenarios."""

    def to_json(self) -> dict[str, Any]:
        """The content of the file."""
        plain = {name: getattr(self, name) for name in _PLAIN}
        sides = {side: getattr(self, side).to_json() for side in _SIDES}
        walking = {name: vars(way) for name, way in self.walking.items()}
        ways = {
            name: {"base": base.to_json(), "trained": trained.to_json()}
            for name, (base, trained) in self.ways.items()
        }
        return {"schema": SCHEMA, **plain, **sides, "walking": walking, "ways": ways}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Stored:
        """The inverse of ``to_json``.

        Raises:
            ValueError: names the missing or malformed part.
        """
        if (schema := data.get("schema")) not in (1, SCHEMA):
            raise ValueError(f"it has schema {schema}, expected {SCHEMA} or 1")
        kinds = {"seed": int, "seconds": (int, float)} | dict.fromkeys((*_SIDES, *_ADDED), dict)
        data = {**{name: {} for name in _ADDED if schema == 1}, **data}
        for part in fields(Stored):
            if not isinstance(data.get(part.name), kinds.get(part.name, str)):
                raise ValueError(f"{part.name} is missing or malformed")
        return Stored(
            **{name: data[name] for name in _PLAIN},
            engine=Measured.from_json(data["engine"]),
            base=Measured.from_json(data["base"]),
            trained=Measured.from_json(data["trained"]),
            walking=read_walking(data["walking"]),
            ways={name: _pair(way, f"ways.{name}") for name, way in data["ways"].items()},
        )


_SIDES, _ADDED = ("engine", "base", "trained"), ("walking", "ways")
_PLAIN = tuple(part.name for part in fields(Stored) if part.name not in (*_SIDES, *_ADDED))


def _pair(data: Any, name: str) -> tuple[Measured, Measured]:
    if not isinstance(data, Mapping) or not {"base", "trained"} <= data.keys():
        raise ValueError(f"{name} is malformed: expected base and trained")
    return Measured.from_json(data["base"]), Measured.from_json(data["trained"])


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
    made = read_run_record(folder.record)
    engine, base, trained = (_over_depth(folder.evaluation(side)) for side in _SIDES)
    ways = {
        way: (_over_depth(folder.evaluation("base", way)), _over_depth(folder.evaluation("trained", way)))
        for way in results.walking
        if way != ROLLOUT
    }
    if not (settings.recipe and made.command and made.version and made.weights):
        raise UserError(
            f"{run_dir} is no run of a recipe: config.json or run.json lacks its recipe, command or versions"
        )
    return Stored(
        recipe=settings.recipe,
        seed=settings.seed or 0,
        command=without_folder(made.command),
        version=made.version,
        weights=made.weights,
        scenarios_hash=results.scenarios_hash,
        seconds=round(results.seconds or 0.0, 1),
        engine=engine,
        base=base,
        trained=trained,
        walking=results.walking,
        ways=ways,
    )


def _over_depth(path: Path) -> Measured:
    measured = read_measured(path)
    if missing := set(MEASURES) - set(measured.values_VD):
        raise UserError(f"{path} lacks {', '.join(sorted(missing))}: run the recipe again with this version")
    values = {name: of_VD.mean(1, keepdims=True).round(DIGITS) for name, of_VD in measured.values_VD.items()}
    nothing = np.zeros((len(measured.scenarios), 0), int)
    return replace(measured, values_VD=values, asked_VM=nothing, read_VM=nothing)


def without_folder(command: str) -> str:
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
    for path in sorted(folder.glob("*_seed*.json")):
        try:
            runs.append(Stored.from_json(read_object(path, "a stored result")))
        except ValueError as why:
            raise UserError(f"{path} is not a stored result: {why}") from None
    return sorted(runs, key=lambda run: (run.recipe, run.seed))


def pooled(runs: Sequence[Stored]) -> Evaluation:
    """Seeds of one recipe as one result: intervals over scenarios and seeds, in every way that all have measured.

    Raises:
        UserError: when recipe, scenarios or weights differ, or a seed occurs twice.
    """
    for name in ("recipe", "scenarios_hash", "weights"):
        if len(values := sorted({getattr(run, name) for run in runs})) > 1:
            raise UserError(f"runs of different {name} are not one result: {', '.join(values)}")
    seeds = [run.seed for run in runs]
    if len(set(seeds)) < len(seeds):
        raise UserError(f"each seed counts once, got {', '.join(map(str, seeds))}")
    by_way = {ROLLOUT: [(run.base, run.trained) for run in runs]}
    shared = [way for way in runs[0].ways if all(way in run.ways for run in runs)]
    by_way |= {way: [run.ways[way] for run in runs] for way in shared}
    return with_ways({way: _of_pairs(runs[0].engine, pairs) for way, pairs in by_way.items()})


def _of_pairs(engine: Measured, pairs: Sequence[tuple[Measured, Measured]]) -> Evaluation:
    base, trained = (pool(side) for side in zip(*pairs, strict=True))
    return evaluation_of(engine.only(set(base.scenarios)), base, trained)


# --------------------------------------------------------------------------- tables


def table_of(recipe: str, stored: Sequence[Stored], short: bool = False) -> str:
    """The table of a recipe with its commands below; a sentence if nothing is stored."""
    runs = [run for run in stored if run.recipe == recipe]
    if not runs:
        return f"There are no stored results of `{recipe}` yet."
    found = pooled(runs)
    by_way = found.by_way().items()
    if short:
        rows = {way: _short_rows(part) for way, part in by_way}
        heads = ["way", "starts", *(f"{kind} actions followed" for kind in KINDS)]
    else:
        rows = {way: _rows(runs) if way == ROLLOUT else _rows_of_play(part) for way, part in by_way}
        heads = ["way", "measure", *(f"{kind} actions" for kind in KINDS)]
    head = [_line(*heads), _rule(len(heads))]
    body = [
        _line(way, words, *(cell(kind) for kind in KINDS))
        for way, part in rows.items()
        for words, cell in part
    ]
    return "\n".join([*head, *body, "", _made(runs)])


def everything(runs: Sequence[Stored]) -> str:
    """The full table: every measure of the pooled runs."""
    found = pooled(runs)
    lines = [
        _line("way", "from", "actions", "measure", "engine", "base", "trained", "difference"),
        _line(*["---"] * 8),
    ]
    for way, one in found.by_way().items():
        parts = {"held-out starts": one} | ({"never trained on": one.unseen} if one.unseen else {})
        for place, part in parts.items():
            for kind in KINDS:
                lines += [_line(way, place, kind, *cells) for cells in _everything_of(part, kind)]
    return "\n".join([*lines, "", _made(runs)])


def _everything_of(found: Evaluation, kind: str) -> Iterator[tuple[str, ...]]:
    """The cells of every measure of one kind of actions, then of the closed gap."""
    for measure in MEASURES:
        means = (f"{found.score(side, kind, measure).mean:.3f}" for side in _SIDES)
        yield measure, *means, _change(found.score("difference", kind, measure), 3)
    yield "gap closed", *"–––", gap_text(found, kind)


_Row = tuple[str, Callable[[str], str]]
"""A row's title, and the function from a kind of actions to its cell."""


def _short_rows(found: Evaluation) -> list[_Row]:
    """Actions followed before and after, and their difference in points."""
    rows = [("held out", _before_and_after(found))]
    return rows + ([("never trained on", _before_and_after(found.unseen))] if found.unseen else [])


def _before_and_after(found: Evaluation) -> Callable[[str], str]:
    def cell(kind: str) -> str:
        base, trained = (_percent(found.score(side, kind, FOLLOWED)) for side in ("base", "trained"))
        return f"{base} to {trained}, {_points(found)(kind)}"

    return cell


def _rows_of_play(found: Evaluation) -> list[_Row]:
    rows = _followed_rows(found)
    return rows + ([("never trained on: difference, points", _points(found.unseen))] if found.unseen else [])


def _followed_rows(found: Evaluation) -> list[_Row]:
    return [
        ("actions followed: base", lambda kind: _percent(found.score("base", kind, FOLLOWED))),
        ("actions followed: post-trained", lambda kind: _percent(found.score("trained", kind, FOLLOWED))),
        ("actions followed: difference, points", _points(found)),
    ]


def _rows(runs: Sequence[Stored]) -> list[_Row]:
    found, each = pooled(runs), {run.seed: pooled([run]) for run in runs}
    unseen = found.unseen
    rows = _followed_rows(found)
    rows += [("share of the gap to the engine closed", _closed(found))]
    rows += [(f"seed {seed}: share of the gap", _closed(one)) for seed, one in each.items() if len(each) > 1]
    rows += [("never trained on: actions followed, points", _points(unseen))] if unseen else []
    own = [name for name in runs[0].base.values_VD if name not in MEASURES]
    rows += [(f"{name}, points", _points(found, name)) for name in own]
    rows += [("realism (logit)*", _changes(found, "quality", 2))]
    rows += [("never trained on: realism*", _changes(unseen, "quality", 2))] if unseen else []
    return [
        *rows,
        ("sharpness (log)*", _changes(found, "sharpness", 2)),
        ("drift of realism*", _changes(found, "drift", 2)),
        ("flicker", _changes(found, "flicker", 3)),
        ("colour", _changes(found, "colour", 3)),
    ]


def _points(found: Evaluation, measure: str = FOLLOWED) -> Callable[[str], str]:
    return lambda kind: _change(found.score("difference", kind, measure).times(100), 1)


def _closed(found: Evaluation) -> Callable[[str], str]:
    return lambda kind: gap_text(found, kind)


def _changes(found: Evaluation, measure: str, digits: int) -> Callable[[str], str]:
    return lambda kind: _change(found.score("difference", kind, measure), digits)


def _made(runs: Sequence[Stored]) -> str:
    """Seeds, versions and commands of the runs, and the ways of walking, in a sentence or two."""
    seeds = ", ".join(str(run.seed) for run in runs)
    commands = ", ".join(f"`{command}`" for command in dict.fromkeys(run.command for run in runs))
    versions = ", ".join(dict.fromkeys(run.version for run in runs))
    many = "s" * (len(runs) > 1)
    ways = "; ".join(f"`{name}`: {way.describe()}" for name, way in runs[0].walking.items())
    made = f"Seed{many} {seeds}, worldcompass {versions}, weights of version {runs[0].weights}: {commands}."
    made += f" Ways of walking: {ways}." if ways else ""
    whole = CODE.sub(lambda code: code[0].replace(" ", "\0"), made)  # a command stays on one line
    return textwrap.fill(whole, PAGE_WIDTH, break_long_words=False, break_on_hyphens=False).replace("\0", " ")


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

    A single figure inside a sentence or a cell has the markers ``<!-- change: RECIPE, KIND, MEASURE -->`` and
    ``<!-- /change -->``, see ``change_of``.

    Raises:
        UserError: when a table's marker is not closed, or a figure asks for what is not stored; it names the page.
    """
    if len(OPENED.findall(text)) != len(PLACE.findall(text)) or any(
        OPENED.search(p[2]) for p in PLACE.findall(text)
    ):
        raise UserError(
            f"{name} opens a table and does not close it: expected <!-- /table --> after each table"
        )
    text = PLACE.sub(
        lambda place: f"{place[1]}\n{table_of(place[2], stored, bool(place[3]))}\n\n{place[5]}", text
    )
    return FIGURE.sub(lambda f: f"{f[1]}{change_of(f[2], f[3], f[4], stored, name)}{f[6]}", text)


def change_of(recipe: str, kind: str, measure: str, stored: Sequence[Stored], page: str) -> str:
    """What training changed over the seeds of a recipe in the way ``rollout``: mean and interval.

    Followed actions are in points.

    Raises:
        UserError: when nothing of that name is stored; it names the page.
    """
    runs = [run for run in stored if run.recipe == recipe]
    found = pooled(runs).score("difference", kind, measure) if runs else UNKNOWN
    if not found.known:
        raise UserError(
            f"{page} asks for {measure} of {kind} actions of {recipe}, which no stored result has"
        )
    return _change(found.times(100), 1) if measure == FOLLOWED else _change(found, 3)


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
        if not (OPENED.search(text) or horizon.OPENED.search(text)):
            raise UserError(f"{page} has no table: expected a marker such as <!-- table: demo -->")
        new = horizon.with_horizons(with_tables(text, stored, str(page)), folder)
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
