"""The lies that a critic must notice to be sound."""

from __future__ import annotations

from dataclasses import dataclass

from worldcompass.audit.clips import NO_ITEM, OTHER_ITEM
from worldcompass.audit.degradations import FORGED, MOTION, PICTURE
from worldcompass.audit.tricks import Trick

MOTION_LIES = (*MOTION, "wrong commands")
PICTURE_LIES = tuple(name for name in PICTURE if name != "dropped")
ITEM_LIES = (OTHER_ITEM, NO_ITEM)
"""Only for clips of pick-ups."""
THING_LIES = ("erased", "recoloured", "doubled", "moved")
"""One thing is wrong; only for clips that know their things."""
SINGLE_LIES = ("dropped", "cut", "shuffled", "other video")
"""Required only by name: pictures are right, and of the first two most of the motion is too."""
FORGERIES = tuple(FORGED)
"""Changes that a policy makes to please a critic of detail."""
KINDS = {
    "motion": MOTION_LIES,
    "pictures": PICTURE_LIES,
    "both": (*MOTION_LIES, *PICTURE_LIES),
    "forgeries": FORGERIES,
}


@dataclass(frozen=True)
class Expected:
    """The lies that a critic must notice."""

    words: str
    """``motion``, ``pictures``, ``both`` or the lies themselves."""
    lies: tuple[str, ...]

    @property
    def motion(self) -> bool:
        """Whether it must notice that commands are not followed."""
        return set(MOTION_LIES) <= set(self.lies)

    @property
    def pictures(self) -> tuple[str, ...]:
        """Those of the lies that are about pictures."""
        return tuple(lie for lie in PICTURE_LIES if lie in self.lies)

    def counts(self, trick: Trick) -> bool:
        """Whether a trick lies about something that the critic must notice."""
        whole = set(PICTURE_LIES) <= set(self.lies)
        return (
            (self.motion and trick.lies_about_motion)
            or (whole and trick.lies_about_pictures)
            or (whole and self.motion)
        )


def expected(words: str) -> Expected:
    """Parse kinds of critics or lies, separated by commas.

    Raises:
        ValueError: for a word that is neither a kind nor a lie.
    """
    named = [word.strip() for word in words.split(",")]
    lies = tuple(dict.fromkeys(lie for word in named for lie in KINDS.get(word, (word,))))
    known = (*KINDS["both"], *FORGERIES, *SINGLE_LIES, *ITEM_LIES, *THING_LIES)
    if unknown := [lie for lie in lies if lie not in known]:
        raise ValueError(
            f"a critic cannot be expected to notice {unknown[0]!r}: expected {', '.join(KINDS)}, or some of"
            f" {', '.join((*KINDS['both'], *FORGERIES, *SINGLE_LIES))}"
        )
    return Expected(words, lies)
