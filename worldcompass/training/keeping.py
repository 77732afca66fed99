"""Settings of saving and monitoring, which change no result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from worldcompass.doctor.guard import OnDisease
from worldcompass.runs.trackers import Track, installed
from worldcompass.settings import Rule, enforce


@dataclass(frozen=True, kw_only=True)
class Keeping:
    """What a run saves and monitors."""

    save_every: int = 5
    """Steps between checkpoints; the last step is always saved."""
    keep_checkpoints: int = 2
    """Number of newest checkpoints to keep; ``on_disease=rollback`` keeps more, as it returns to earlier steps."""
    probe_every: int = 0
    """Steps between probes, which save clips and score them if there is a held-out judge; 0 for none."""
    on_disease: OnDisease = "warn"
    """Reaction to a disease: ``warn``, ``stop`` after saving, or ``rollback`` to the last healthy checkpoint."""
    track: Track = "none"
    """Offline tracker in addition to metrics.jsonl: ``tensorboard``, ``wandb`` or ``trackio``."""
    accept_changes: bool = False
    """Resume a run with changed settings; otherwise changes are shown and refused."""
    recipe: str = ""
    """Name of the recipe, for readers of the run."""

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
