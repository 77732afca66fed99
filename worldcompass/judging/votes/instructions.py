"""What a rater reads first."""

from __future__ import annotations

from worldcompass.judging.votes.sheet import Sheet

TEXT = """\
# Which is better?

You will see {count} numbered pairs. Each pair shows two versions of the same short video, **A** and **B**. Both
begin at the same picture and get the same commands. Which version is which is hidden; please do not look for it.

{what}

## The questions

Answer each on its own. A version may look better and yet lose the place.

1. **looks**: which looks better? Think of sharpness, clean colours, shapes that hold together, calm motion.
   Grain, stripes and glaring contrast are faults, and so is blur.
2. **place**: which still shows the place of the start picture? What is commanded may move. Everything else,
   such as walls, a table and the things on it, should stay what and where it was.
3. **overall**: which would you rather play?
{commands}
Write `A`, `B` or `tie`. A tie is a good answer: some pairs hardly differ, and some do not differ at all. If both
are bad, the better one still wins.

## The form

Copy `form.csv`, name the copy after yourself (such as `ada.csv`) and fill in a row for each pair. Any spreadsheet
opens it; save it as CSV. Leave the columns `pair` and `sheet` as they are. If you like, grade the last picture of
each version in `grade_A` and `grade_B`:

| grade | meaning |
|---|---|
| 5 | as good as a real game |
| 4 | small faults |
| 3 | clear faults |
| 2 | hard to recognise |
| 1 | unrecognisable |

Answer all pairs, in any order, without talking to other raters. It takes about {minutes} minutes.
"""
COMMANDS = """\
4. **commands**: which does more of what was commanded? The video named *real* is the game itself, which carries
   out every command. Compare where the gripper or the camera goes, step by step, and leave looks aside.
"""
VIDEOS = """\
`pair_01.mp4` and so on are videos at true speed: the start picture on the left, then {rows}. The current command
is below them. Watch each video as often as you like."""
STRIPS = """\
`pair_01.png` and so on are filmstrips: the start picture first, then {rows} from top to bottom, at equal times.
Time goes from left to right, in two bands."""
SECONDS_PER_PAIR = 40


def instructions(sheet: Sheet, videos: bool, strips: bool) -> str:
    """The text of INSTRUCTIONS.md."""
    rows = "the real video, A and B" if sheet.engine else "A and B"
    what = "\n\n".join([VIDEOS] * videos + [STRIPS] * strips).format(rows=rows)
    minutes = max(1, round(len(sheet.pairs) * SECONDS_PER_PAIR / 60))
    commands = COMMANDS if sheet.engine else ""
    return TEXT.format(count=len(sheet.pairs), what=what, minutes=minutes, commands=commands)
