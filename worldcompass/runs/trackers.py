"""Optional trackers: TensorBoard, Weights & Biases and trackio, offline by default.

All write local files and need no account. ``metrics.jsonl`` stays the complete record of a run; a tracker may lack
the rows that it had not written when the run was killed.
"""

from __future__ import annotations

import importlib
import os
import uuid
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, cast, get_args

from worldcompass.runs.atomic import write_text
from worldcompass.runs.folder import RunFolder
from worldcompass.runs.metrics import StepMetrics
from worldcompass.runs.requirements import has_package

Track = Literal["none", "tensorboard", "wandb", "trackio"]
Send = Callable[[StepMetrics], None]

PROJECT = "worldcompass"


def installed(track: Track) -> bool:
    """Whether the package of a tracker is installed.

    Raises:
        ValueError: for an unknown tracker.
    """
    if track not in get_args(Track):
        raise ValueError(f"track must be one of {', '.join(get_args(Track))}, not {track!r}")
    return track == "none" or has_package(track)


@contextmanager
def tracking(
    track: Track, folder: RunFolder, first_step: int, config: Mapping[str, object]
) -> Generator[Send]:
    """Open a tracker for a run and yield a function that sends a row; all rows are sent when the block ends.

    Weights & Biases writes its last rows in a process of its own, a moment later.

    Args:
        first_step: last step that is done, after which the tracker's older rows are stale.
        config: JSON values.
    """
    if track == "none":
        yield lambda metrics: None
        return
    opened = {"tensorboard": _tensorboard, "wandb": _wandb, "trackio": _trackio}[track]
    send, close = opened(folder, first_step, config)
    try:
        yield lambda metrics: send(metrics.step, numbers(metrics))
    finally:
        close()


def numbers(metrics: StepMetrics) -> dict[str, float]:
    """The numbers of a step for a tracker, without ``step`` and nulls."""
    found = metrics.numbers().items()
    return {name: float(value) for name, value in found if value is not None and name != "step"}


_Opened = tuple[Callable[[int, dict[str, float]], None], Callable[[], object]]


def _tensorboard(folder: RunFolder, first_step: int, config: Mapping[str, object]) -> _Opened:
    from torch.utils.tensorboard import SummaryWriter

    # Its methods have no types.
    writer = cast("Any", SummaryWriter(str(folder.tensorboard), purge_step=first_step + 1))

    def send(step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return send, writer.close


def _wandb(folder: RunFolder, first_step: int, config: Mapping[str, object]) -> _Opened:
    wandb = importlib.import_module("wandb")
    mode = os.environ.get("WANDB_MODE", "offline")
    run_id = _run_id(folder)
    run = wandb.init(
        project=PROJECT,
        name=folder.path.name,
        id=run_id,
        # Else a server replaces the history of a resumed run; offline, W&B takes no such wish.
        resume=None if mode == "offline" else "allow",
        dir=str(folder.path),
        mode=mode,
        config=dict(config),
    )
    run.define_metric(
        "*", step_metric="step"
    )  # the built-in steps of W&B cannot go back, as a resumed run may
    return lambda step, values: run.log({"step": step, **values}), run.finish


def _trackio(folder: RunFolder, first_step: int, config: Mapping[str, object]) -> _Opened:
    trackio = importlib.import_module("trackio")
    name = f"{folder.path.name}-{_run_id(folder)}"
    trackio.init(project=PROJECT, name=name, config=dict(config), resume="allow", embed=False)
    return lambda step, values: trackio.log(values, step=step), trackio.finish


def _run_id(folder: RunFolder) -> str:
    """The run's id in a tracker, which stays the same after a resume."""
    path = folder.tracker_id
    if not path.is_file():
        write_text(path, uuid.uuid4().hex[:8] + "\n")
    return path.read_text(encoding="utf-8").strip()
