"""Hidden controls: pairs with a known answer, which show whether a rater looks at the pictures.

The expected choice is known because one video is the engine's, both are the same, or one is a forgery of the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from worldcompass.judging.forgeries import forge

CONTROL_SHARE = 0.3  # of the pairs of a study
BASE, ENGINE = "base", "engine"  # videos that controls show

Choice = Literal["good", "bad", "tie"]
"""A preference for the better video of a control, for the other one, or for neither."""
Outcome = Literal["passed", "missed", "failed"]
"""``missed``: a tie where a difference was to be seen."""


@dataclass(frozen=True)
class Source:
    """What one side of a pair shows."""

    video: str
    """A model's name, such as ``base``, or ``engine``."""
    forgeries: tuple[tuple[str, float], ...] = ()
    """Names and strengths of ``worldcompass.judging.forgeries``, in the order of their application."""

    def shown(self, video_F3hw: Tensor, given: int, generator: torch.Generator) -> Tensor:
        """The video with its forgeries, uint8 (F, 3, h, w).

        The first ``given`` frames stay as they are: both sides of every pair begin alike, so a changed start would
        reveal a control.
        """
        forged = forge(video_F3hw[given:], dict(self.forgeries), generator)
        return torch.cat([video_F3hw[:given], forged])

    def to_json(self) -> dict[str, Any]:
        """The inverse of ``from_json``."""
        return {"video": self.video, "forgeries": dict(self.forgeries)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Source:
        """Read a source.

        Raises:
            KeyError, TypeError, AttributeError: for malformed data.
        """
        return Source(str(data["video"]), tuple((str(k), float(v)) for k, v in data["forgeries"].items()))


@dataclass(frozen=True)
class Control:
    """A kind of hidden control."""

    name: str
    says: str
    """The two videos in words, the better one first."""
    good: Source
    bad: Source
    tie: Outcome = "missed"
    """The outcome of a tie in the main question."""
    excludes: bool = False
    """Whether a rater who fails it is left out of the verdict."""

    @property
    def same(self) -> bool:
        """Whether both sides show the same video, so that only ties are right."""
        return self.good == self.bad


_BASE = Source(BASE)
CONTROLS: Mapping[str, Control] = {
    control.name: control
    for control in (
        Control("engine", "engine against base", Source(ENGINE), _BASE, tie="failed", excludes=True),
        Control(
            "sharpened",
            "base against its sharpened copy",
            _BASE,
            Source(BASE, (("sharpened", 1.0), ("contrasted", 0.2))),
            excludes=True,
        ),
        Control(
            "grainy", "base against its grainy copy", _BASE, Source(BASE, (("grainy", 6.0),)), excludes=True
        ),
        Control("same", "base against itself", _BASE, _BASE, tie="passed"),
        Control("blurred", "base against its blurred copy", _BASE, Source(BASE, (("blurred", 1.0),))),
    )
}
"""In the order in which a study takes them; a study with few pairs has the first ones only."""


def outcome(control: Control, choices: Mapping[str, Choice]) -> Outcome:
    """Whether a rater's choices about a control are right.

    Args:
        control: the kind of control.
        choices: by question. ``overall`` is the main question, or ``looks`` without it. The same video twice must
            be a tie in every question. Otherwise only these two questions count, since a copy of a video shows the
            same place.
    """
    if control.same:
        return "passed" if set(choices.values()) == {"tie"} else "failed"
    main = choices["overall"] if "overall" in choices else choices["looks"]
    if "bad" in (choices["looks"], main):
        return "failed"
    return control.tie if main == "tie" else "passed"
