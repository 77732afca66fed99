"""Run the cells of a grid one after another, each as a process of its own that saves and resumes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from worldcompass.ablation.compute import Equal, cost_of, fair_steps
from worldcompass.ablation.grid import Cell, Grid, cell_of, cells_of
from worldcompass.errors import LAUNCHED, UserError
from worldcompass.runs.atomic import write_json
from worldcompass.runs.metrics import read_metrics, read_object
from worldcompass.runs.settings import read_settings

RECORD = "ablation.json"
LOG = "log.txt"
POLL = 0.5  # seconds between looks at a run's metrics
GRACE = 60.0  # seconds that a stopped run gets to save


@dataclass(frozen=True)
class Finished:
    """How a cell ended."""

    cell: Cell
    error: str = ""
    """Why it has no results; empty when it has them."""


def claim_grid(grid: Grid, equal: Equal, settings: Sequence[str], out: Path) -> None:
    """Write what the folder holds, or refuse one of another grid.

    Raises:
        UserError: naming what differs.
    """
    own = {
        "rows": {row.name: row.recipe for row in grid.rows},
        "seeds": list(grid.seeds),
        "equal": equal,
        "settings": list(settings),
    }
    file = out / RECORD
    if file.is_file():
        found = read_object(file, "the record of a grid")
        for name in ("equal", "settings"):
            if found.get(name) != own[name]:
                raise UserError(
                    f"{out} holds a grid with {name} {found.get(name)!r}, not {own[name]!r}: choose another --out"
                )
        rows = found.get("rows", {})
        if changed := [name for name, recipe in own["rows"].items() if rows.get(name, recipe) != recipe]:
            raise UserError(f"{out} holds another recipe for {changed[0]}: choose another --out")
        own["rows"] = {**rows, **own["rows"]}
        own["seeds"] = sorted({*found.get("seeds", []), *own["seeds"]})
    write_json(file, own, indent=1)


def run_grid(
    grid: Grid, equal: Equal, settings: Sequence[str], out: Path, said: Callable[[str], None]
) -> Iterator[Finished]:
    """Run every cell that has no results yet; a cell that fails is named, and the next ones go on.

    Args:
        grid: the rows and seeds.
        equal: what all rows share.
        settings: ``KEY=VALUE`` for all rows.
        out: folder of the runs.
        said: told what happens.
    """
    for cell in cells_of(grid, out):
        yield Finished(cell, "" if cell.done else _run(cell, grid, equal, settings, out, said))


def _run(
    cell: Cell, grid: Grid, equal: Equal, settings: Sequence[str], out: Path, said: Callable[[str], None]
) -> str:
    """Run a cell; the reason of a failure, else an empty string."""
    full, known = cell_of(grid.full, cell.seed, out), out / cell.row.name / "steps.json"
    if cell.row == grid.full or not cell.row.trains:
        return _train(cell, settings, None)
    if not full.done:
        return f"it needs the results of {grid.full.name} with this seed, by which its steps are measured"
    if not known.is_file():
        steps, first = _planned(full), read_metrics(full.folder.metrics)[: grid.curriculum]
        if equal != "steps":
            error = _train(cell, settings, steps, until=len(first))
            if error:
                return error
            spent = cost_of(read_metrics(cell.folder.metrics)[: len(first)])
            fair = fair_steps(steps, cost_of(first), spent, equal)
            if fair != steps:
                said(f"{cell.row.name}: {fair} steps cost what {steps} of {grid.full.name} do")
                shutil.rmtree(cell.path)
            steps = fair
        write_json(known, {"steps": steps})
    return _train(cell, settings, int(read_object(known, "the number of steps")["steps"]))


def _planned(full: Cell) -> int:
    planned = read_settings(full.folder.config).steps
    assert planned is not None, "a run of the grid stores its configuration"
    return planned


def _train(cell: Cell, settings: Sequence[str], steps: int | None, until: int | None = None) -> str:
    """Run a cell, with ``until`` only up to so many steps; the reason of a failure, else an empty string."""
    chosen = [*settings, f"config.seed={cell.seed}", *([] if steps is None else [f"config.steps={steps}"])]
    words = ["train", cell.row.recipe, "--out", str(cell.path)]
    for setting in chosen:
        words += ["--set", setting]
    log = cell.path.parent / f"{cell.path.name}.{LOG}"
    log.parent.mkdir(parents=True, exist_ok=True)
    unsafe = [] if sys.path[:1] in ([""], [os.getcwd()]) else ["-P"]
    environment = os.environ | {LAUNCHED: str(os.getpid())}
    with log.open("ab") as told:
        process = subprocess.Popen(
            [sys.executable, *unsafe, "-m", "worldcompass", *words], stdout=told, stderr=told, env=environment
        )
        try:
            _wait(process, cell, until)
        finally:
            _stop(process)
    if process.returncode == 0 or (until is not None and _steps_done(cell) >= until):
        return ""
    return _last_line(log) or f"it ended with exit code {process.returncode}"


def _wait(process: subprocess.Popen[bytes], cell: Cell, until: int | None) -> None:
    while process.poll() is None:
        if until is not None and _steps_done(cell) >= until:
            return
        time.sleep(POLL)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _steps_done(cell: Cell) -> int:
    try:
        return len(read_metrics(cell.folder.metrics)) if cell.folder.metrics.is_file() else 0
    except (UserError, json.JSONDecodeError):  # a line that is being written
        return 0


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
