"""What of a run is kept and watched: settings that change no result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from worldcompass.doctor.guard import OnDisease
from worldcompass.runs.trackers import Track, installed
from worldcompass.settings import Rule, enforce


@dataclass(frozen=True, kw_only=True)
class Keeping:
    """What of a run is kept and watched."""

    save_every: int = 5
    """Steps between checkpoints; the last step is always saved."""
    keep_checkpoints: int = 2
    """Newest ones that stay; more while ``on_disease`` is ``rollback``, which goes back some steps."""
    probe_every: int = 0
    """Steps between looks: clips before training and now, scored where there is a held-out judge; 0 is never."""
    on_disease: OnDisease = "warn"
    """When the doctor finds one: ``warn``; ``stop`` after saving; ``rollback`` to the last healthy checkpoint."""
    track: Track = "none"
    """Where metrics go besides metrics.jsonl, offline: ``tensorboard``, ``wandb`` or ``trackio``."""
    accept_changes: bool = False
    """Resume a run whose other settings were not these; without it they are shown and refused."""
    recipe: str = ""
    """What the configuration was made by, for those who read a run later."""

    def __post_init__(self) -> None:
        answers = get_args(OnDisease)
        enforce(
            vars(self),
            [
                Rule(("save_every",), self.save_every >= 1, "save_every must be at least 1"),
                Rule(("probe_every",), self.probe_every >= 0, "probe_every must not be negative"),
                Rule(
                    ("on_disease",),
                    self.on_disease in answers,
                    f"on_disease must be one of {', '.join(answers)}",
                ),
                Rule(
                    ("track",),
                    installed(self.track),
                    f"track needs the package {self.track}: pip install 'worldcompass[track]'",
                ),
            ],
        )
