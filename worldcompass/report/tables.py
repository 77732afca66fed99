"""Tables of Markdown from stored results: several seeds of a recipe as one result, between markers in a page.

A stored result is a finished run reduced to what tables need: a number per video and measure, and how it was made.
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
from worldcompass.statistics import Estimate

SCHEMA = 1  # of a stored result
DIGITS = 5  # of a stored number
SUMMARY = "summary"  # name of the table of all recipes
PLACE = re.compile(r"(<!-- table: ([\w.-]+) -->\n)(.*?)(<!-- /table -->)", re.DOTALL)
OPENED = re.compile(r"<!-- table: [\w.-]+ -->")


@dataclass(frozen=True)
class Stored:
    """One finished run of a recipe."""

    recipe: str
    seed: int
    command: str
    version: str
    """Of this package."""
    weights: str
    """Version of the weights that the run began from."""
    scenarios_hash: str
    seconds: float
    engine: Measured
    base: Measured
    trained: Measured
    """Measured as means over depth, without actions."""

    def to_json(self) -> dict[str, Any]:
        """The file."""
        plain = {part.name: getattr(self, part.name) for part in fields(self) if part.name not in SIDES}
        sides = {side: getattr(self, side).to_json() for side in ("engine", "base", "trained")}
        return {"schema": SCHEMA, **plain, **sides}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Stored:
        """The inverse of ``to_json``.

        Raises:
            ValueError: naming what is missing or malformed.
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
    """A finished run of a recipe.

    Raises:
        UserError: when it is none.
    """
    folder = RunFolder(run_dir)
    if not folder.results.is_file():
        raise UserError(f"{run_dir} is no finished run: {folder.results.name} is missing")
    results = read_results(folder.results)
    config = read_object(folder.config, "a run's configuration")
    made = read_object(folder.record, "a run's command and environment")
    engine, base, trained = (_over_depth(folder.evaluation(side)) for side in ("engine", "base", "trained"))
    if "recipe" not in config or not {"command", "version", "weights"} <= made.keys():
        raise UserError(
            f"{run_dir} is no run of a recipe: config.json or run.json does not say how it was made"
        )
    return Stored(
        recipe=str(config["recipe"]),
        seed=int(config.get("seed", 0)),
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
    """The command without where it wrote, which is nobody else's business."""
    words = shlex.split(command)
    kept = [w for i, w in enumerate(words) if w != "--out" and (i == 0 or words[i - 1] != "--out")]
    return shlex.join(word for word in kept if not word.startswith("--out="))


def store(run_dir: Path, folder: Path) -> Path:
    """Keep a finished run as ``folder/RECIPE_seedN.json``, in place of an older one.

    Raises:
        UserError: when it is no finished run of a recipe.
    """
    run = reduce_run(run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    return write_json(folder / f"{run.recipe}_seed{run.seed}.json", run.to_json())


def read_stored(folder: Path) -> list[Stored]:
    """All stored results, by recipe and seed.

    Raises:
        UserError: when there is no such folder, or naming the file that is malformed.
    """
    if not folder.is_dir():
        raise UserError(
            f"there are no stored results at {folder}: keep runs with worldcompass tables RUN --store"
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
        UserError: when they do not belong together.
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


def table_of(name: str, stored: Sequence[Stored]) -> str:
    """The table of a name: of one recipe, or ``summary`` of all of them; a sentence where nothing is stored."""
    chosen = [run for run in stored if name in (SUMMARY, run.recipe)]
    if not chosen:
        return f"There are no stored results of `{name}` yet."
    if name == SUMMARY:
        return _summary(chosen)
    return f"{_recipe(chosen)}\n\n{_made(chosen)}"


def everything(runs: Sequence[Stored]) -> str:
    """Every measure of pooled runs, for one who reads results."""
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


def _summary(stored: Sequence[Stored]) -> str:
    lines = [
        _line("recipe", "actions", "base", "post-trained", "difference, points", "gap to the engine closed"),
        _line(*["---"] * 6),
    ]
    for recipe in dict.fromkeys(run.recipe for run in stored):
        found = pooled([run for run in stored if run.recipe == recipe])
        for kind in KINDS:
            base, trained = (_percent(found.score(side, kind, FOLLOWED)) for side in ("base", "trained"))
            points = _points(found.score("difference", kind, FOLLOWED))
            lines.append(_line(f"`{recipe}`", kind, base, trained, points, found.closed(kind).in_percent()))
    return "\n".join(lines)


def _recipe(runs: Sequence[Stored]) -> str:
    """The rows of one recipe, a column for each kind of actions."""
    found, each = pooled(runs), {run.seed: pooled([run]) for run in runs}

    def change(measure: str, digits: int, part: Evaluation = found) -> Callable[[str], str]:
        return lambda kind: _change(part.score("difference", kind, measure), digits)

    rows: list[tuple[str, Callable[[str], str]]] = [
        ("actions followed: base", lambda kind: _percent(found.score("base", kind, FOLLOWED))),
        ("actions followed: post-trained", lambda kind: _percent(found.score("trained", kind, FOLLOWED))),
        (
            "actions followed: difference, points",
            lambda kind: _points(found.score("difference", kind, FOLLOWED)),
        ),
        ("share of the gap to the engine closed", lambda kind: found.closed(kind).in_percent()),
    ]
    if len(each) > 1:
        rows += [
            (f"seed {seed}: share of the gap", lambda kind, one=one: one.closed(kind).in_percent())
            for seed, one in each.items()
        ]
    if unseen := found.unseen:
        rows += [
            (
                "maps never trained on: actions followed, points",
                lambda kind: _points(unseen.score("difference", kind, FOLLOWED)),
            )
        ]
    rows += [("realism (logit)*", change("quality", 2))]
    rows += [("maps never trained on: realism*", change("quality", 2, unseen))] if unseen else []
    rows += [
        ("sharpness (log)*", change("sharpness", 2)),
        ("drift of realism*", change("drift", 2)),
        ("flicker", change("flicker", 3)),
        ("colour", change("colour", 3)),
    ]
    head = [_line("measure", *(f"{kind} actions" for kind in KINDS)), _line("---", *["---"] * len(KINDS))]
    return "\n".join([*head, *(_line(words, *(cell(kind) for kind in KINDS)) for words, cell in rows)])


def _made(runs: Sequence[Stored]) -> str:
    """How the numbers were made, in a sentence."""
    seeds = ", ".join(str(run.seed) for run in runs)
    commands = ", ".join(f"`{command}`" for command in dict.fromkeys(run.command for run in runs))
    versions = ", ".join(dict.fromkeys(run.version for run in runs))
    many = "s" * (len(runs) > 1)
    return f"Seed{many} {seeds}, worldcompass {versions}, weights of version {runs[0].weights}: {commands}."


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _percent(value: Estimate) -> str:
    return f"{100 * value.mean:.1f}%"


def _points(value: Estimate) -> str:
    return _change(value.times(100), 1)


def _change(value: Estimate, digits: int) -> str:
    return f"{value.mean:+.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


# --------------------------------------------------------------------------- pages


def with_tables(text: str, stored: Sequence[Stored], name: str = "the page") -> str:
    """A page with the tables between its markers ``<!-- table: NAME -->`` and ``<!-- /table -->`` written anew.

    Raises:
        UserError: when a table is opened and not closed, naming the page.
    """
    if len(OPENED.findall(text)) != len(PLACE.findall(text)) or any(
        OPENED.search(p[2]) for p in PLACE.findall(text)
    ):
        raise UserError(f"{name} opens a table and does not close it: expected <!-- /table --> after each")
    return PLACE.sub(lambda place: f"{place[1]}\n{table_of(place[2], stored)}\n\n{place[4]}", text)


def rewritten(pages: Sequence[Path], folder: Path) -> Iterator[tuple[Path, str]]:
    """Pages whose tables are stale, with their text as it should be.

    Raises:
        UserError: when a page or the stored results cannot be read, or a page has no table.
    """
    stored = read_stored(folder)
    for page in pages:
        if not page.is_file():
            raise UserError(f"there is no page {page}")
        text = page.read_text(encoding="utf-8")
        if not OPENED.search(text):
            raise UserError(f"{page} has no table: expected a marker such as <!-- table: {SUMMARY} -->")
        new = with_tables(text, stored, str(page))
        if new != text:
            yield page, new


def write_tables(pages: Sequence[Path], folder: Path) -> list[Path]:
    """Write the tables of pages anew; those that changed.

    Raises:
        UserError: as ``rewritten``; no page is written then.
    """
    changed = list(rewritten(pages, folder))
    for page, text in changed:
        write_text(page, text)
    return [page for page, _ in changed]
