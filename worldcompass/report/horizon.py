"""The table of long videos: each measure by depth, and where it breaks down."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from worldcompass.evaluate import FOLLOWED
from worldcompass.judging.horizon import CHANCE, ENGINE, Horizon, read_horizon
from worldcompass.runs.results import Curve

# <!-- horizon: hands -->
PLACE = re.compile(r"(<!-- horizon: ([\w.-]+) -->\n)(.*?)(<!-- /horizon -->)", re.DOTALL)
OPENED = re.compile(r"<!-- horizon: [^>]*-->")
SHOWN = (1, 2, 3, 5, 10, 15, 20, 30, 50, 100)  # windows, counted from 1
WORDS = {
    FOLLOWED: "commands followed",
    "permanence": "things that are there",
    "place": "frames that show the start's map",
    "quality": "realism (logit)",
    "sharpness": "sharpness (log)",
    "colour": "colour",
}
"""Of the measures in the table, in its order; the rule's are shares."""
DIGITS = {"colour": 3}
"""Of numbers that are no shares; 2 else."""


def table_of(found: Horizon) -> str:
    """A Markdown table, with what was run below it."""
    windows = [n for n in SHOWN if n * found.window < found.frames] + [found.frames // found.window]
    ends = [str(n * found.window) for n in windows]
    head = ("measure", "side", *(f"to {end}" for end in ends), "breaks down at")
    lines = [_line(*head), "|" + "---|" * len(head)]
    lines += [_line(*row) for row in _rows(found, windows)]
    weights = ", ".join(f"{side} `{digits}`" for side, digits in found.weights.items())
    made = f"Means of the {found.window} frames up to the frame of the head, with 95% intervals over"
    made += (
        f" {found.scenarios} scenarios.\nworldcompass {found.version}, weights {weights}:\n`{found.command}`."
    )
    return "\n".join([*lines, "", made])


def _rows(found: Horizon, windows: list[int]) -> Iterator[tuple[str, ...]]:
    for measure in (*found.ruled, *(m for m in WORDS if m not in found.ruled)):
        if measure not in found.sides[ENGINE].values_VD:
            continue
        share = measure in found.ruled
        for side in (ENGINE, *found.models, CHANCE) if share else (ENGINE, *found.models):
            curve = found.curve(side, measure)
            model = side in found.models
            digits = 0 if share else DIGITS.get(measure, 2)
            cells = [_cell(curve, n - 1, digits, model) for n in windows]
            end = found.breakdown(side, measure).text(found.frames) if share and model else ""
            yield WORDS.get(measure, measure) if side == ENGINE else "", side, *cells, end
        if share and len(found.models) > 1:
            change = found.change(measure)
            yield "", "trained − base", *(_cell(change, n - 1, 0, True, "+") for n in windows), ""


def _cell(curve: Curve, index: int, digits: int, interval: bool, sign: str = "") -> str:
    """A mean, maybe with its interval; without digits a share in percent, with a sign in points."""
    factor = 1 if digits else 100
    ends = (curve.mean[index], curve.low[index], curve.high[index])
    mean, low, high = (round(factor * end, digits) + 0.0 for end in ends)  # + 0.0: no minus before zero
    text = f"{mean:{sign}.{digits}f}" + ("" if digits or sign else "%")
    return f"{text} [{low:.{digits}f}, {high:.{digits}f}]" if interval else text


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def with_horizons(text: str, folder: Path) -> str:
    """The page with new tables between ``<!-- horizon: NAME -->`` and ``<!-- /horizon -->``.

    Args:
        text: of the page.
        folder: with ``horizon_NAME.json``.

    Raises:
        UserError: when a file is missing or malformed.
    """

    def new(place: re.Match[str]) -> str:
        table = table_of(read_horizon(folder / f"horizon_{place[2]}.json"))
        return f"{place[1]}\n{table}\n\n{place[4]}"

    return PLACE.sub(new, text)
