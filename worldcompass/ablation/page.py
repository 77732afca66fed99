"""The report of a grid as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from worldcompass.ablation.comparison import Compared
from worldcompass.ablation.compute import Equal
from worldcompass.ablation.grid import Grid
from worldcompass.evaluate import FOLLOWED, KINDS
from worldcompass.statistics import Estimate

EQUAL = {
    "steps": "the same number of steps",
    "passes": "the same number of forward passes in rollouts and updates, a backward pass counted as two",
    "seconds": "the same time of training",
}


def page_of(grid: Grid, equal: Equal, rows: Sequence[Compared]) -> str:
    """The report: verdicts, costs, and every difference with its interval."""
    unfinished = [f"{row.row.name} (seeds {', '.join(map(str, row.missing))})" for row in rows if row.missing]
    lines = [
        f"# Does each part of {grid.full.recipe} earn its place?",
        "",
        f"Every row changes one thing and gets {EQUAL[equal]}. Differences are row minus `{grid.full.name}`, in"
        " points for shares. Intervals are over scenarios and seeds, and hold for all rows of a measure together"
        " at 95%. The first row is the full method against the weights before training.",
        "",
        f"Missing: {'; '.join(unfinished)}." if unfinished else "No run is missing.",
        "",
        *_table(rows),
        "",
        "## All measures",
        "",
        *_measures(rows),
    ]
    return "\n".join(lines) + "\n"


def _table(rows: Sequence[Compared]) -> list[str]:
    followed = [f"{kind} actions followed" for kind in KINDS]
    heads = ["row", "changes", "verdict", *followed, "steps", "passes", "seconds", "seeds"]
    return [_line(heads), _line(["---"] * len(heads)), *(_cells(row, row is rows[0]) for row in rows)]


def _cells(row: Compared, is_full: bool) -> str:
    verdict = f"against the base: {row.verdict}" if is_full else row.verdict
    followed = [_points(row.changes.get(kind, {}).get(FOLLOWED)) for kind in KINDS]
    cost = ["–", "–"] if row.cost is None else [f"{row.cost.passes:,.0f}", f"{row.cost.seconds:,.0f}"]
    seeds = ", ".join(map(str, row.seeds)) or "–"
    return _line(
        [f"`{row.row.name}`", row.row.changes, verdict, *followed, str(row.steps or "–"), *cost, seeds]
    )


def _measures(rows: Sequence[Compared]) -> list[str]:
    names = list(dict.fromkeys(n for row in rows for of_kind in row.changes.values() for n in of_kind))
    lines = [_line(["row", "actions", *names]), _line(["---"] * (len(names) + 2))]
    for row in rows:
        for kind, found in row.changes.items():
            lines.append(_line([f"`{row.row.name}`", kind, *(_plain(found.get(name)) for name in names)]))
    return lines


def _points(value: Estimate | None) -> str:
    return "–" if value is None or not value.known else _written(value.times(100), 1)


def _plain(value: Estimate | None) -> str:
    return "–" if value is None or not value.known else _written(value, 3)


def _written(value: Estimate, digits: int) -> str:
    return f"{value.mean:+.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
