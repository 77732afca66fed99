"""Scores of how well a clip follows an instruction in words: a judge model sees some of its frames.

``InstructionScore`` asks about each candidate separately (0 to 1). ``InstructionRank`` asks which of two follows it
better, in both orders, and converts the answers to strengths (Bradley and Terry, Biometrika 39, 1952).
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
from collections.abc import Sequence

import cv2
import torch
from torch import Tensor

from worldcompass.media.video import png
from worldcompass.rewards.abstain import abstain
from worldcompass.rewards.judge_model import JudgeModel, Message
from worldcompass.runs.reading import parse_json
from worldcompass.types import Group, Scores

PICTURES = 8  # frames of a clip, evenly spaced; the first is the last frame before it
LEAST_WIDTH = 320  # pixels: smaller frames are enlarged, as judge models see little in them
BEST = 10  # top of the judge's scale
# Ties against a virtual candidate of strength 0, which keep strengths finite and uncertain ones small.
PRIOR = 0.5
TOLERANCE = 1e-9  # largest change of a log strength at which the fit stops

_TASK = (
    "You see frames of a first-person video in the order of time. The player was asked to do one thing. Judge only "
    "whether the frames show it done, not how good they look: a thing that is taken is gone when the player stands "
    "where it lay. Think briefly, then end with one line of JSON: "
)
SCORE_TASK = _TASK + f'{{"score": N}}, N from 0 (surely not done) to {BEST} (surely done).'
RANK_TASK = (
    _TASK.replace("frames of a first-person video", "frames of two first-person videos, A and B, each")
    + '{"better": "A"}, {"better": "B"} or {"better": "tie"}: which shows it done rather?'
)
_OBJECT = re.compile(r"\{[^{}]*\}")


class InstructionScore:
    """The judge model's score of each candidate on a scale of 0 to 1.

    Abstains without an instruction, when the answer has no score, and when the budget is used up.
    """

    at_once = 1  # the model runs elsewhere, so it scores while the next groups are imagined

    def __init__(self, judge: JudgeModel, pictures: int = PICTURES, name: str = "instruction") -> None:
        self.judge, self.pictures, self.name = judge, pictures, name

    @property
    def tries(self) -> tuple[int, int]:
        """Tries of the judge's questions so far, and how many of them failed."""
        return _tries(self.judge)

    def __call__(self, group: Group) -> Scores:
        """Score the candidates."""
        frames = group.transitions()[0]
        if not group.instruction or frames.shape[1] < 2:
            return abstain(group)
        instruction = _instruction(group)
        answers = self.judge.ask(
            [_chat(SCORE_TASK, [instruction, *_images(clip, self.pictures)]) for clip in frames]
        )
        found = [None if answer is None else read_score(answer) for answer in answers]
        _count_unreadable(self.judge, answers, found)
        valid = torch.tensor([value is not None for value in found])
        return Scores(torch.tensor([value or 0.0 for value in found], dtype=torch.float32), valid)


class InstructionRank:
    """Strengths of the candidates from comparisons of pairs; 0 is average, larger is better.

    A candidate without any comparison gets no score, such as the only one of a group.
    """

    at_once = 1

    def __init__(
        self,
        judge: JudgeModel,
        opponents: int | None = None,
        pictures: int = PICTURES,
        name: str = "instruction_rank",
    ) -> None:
        """Compare with ``judge``.

        Args:
            judge: the model.
            opponents: approximate number of others that each candidate is compared with; all when None. They are
                chosen by content, so the order of the candidates does not matter.
            pictures: frames of each clip.
            name: of the scores.
        """
        self.judge, self.opponents, self.pictures, self.name = judge, opponents, pictures, name

    @property
    def tries(self) -> tuple[int, int]:
        """Tries of the judge's questions so far, and how many of them failed."""
        return _tries(self.judge)

    def __call__(self, group: Group) -> Scores:
        """Score the candidates."""
        frames = group.transitions()[0]
        size = len(frames)
        if not group.instruction or frames.shape[1] < 2:
            return abstain(group)
        images = [_images(clip, self.pictures) for clip in frames]
        matches = [(a, b) for pair in pairs_of(frames, self.opponents) for a, b in (pair, pair[::-1])]
        instruction = _instruction(group)
        first, second = ({"type": "text", "text": f"Video {name}:"} for name in "AB")
        questions = [
            _chat(RANK_TASK, [instruction, first, *images[a], second, *images[b]]) for a, b in matches
        ]
        answers = self.judge.ask(questions)
        found = [None if answer is None else read_better(answer) for answer in answers]
        _count_unreadable(self.judge, answers, found)
        wins_GG = torch.zeros(size, size, dtype=torch.float64)
        for (a, b), share in zip(matches, found, strict=True):
            if share is not None:
                wins_GG[a, b] += share
                wins_GG[b, a] += 1 - share
        valid = (wins_GG + wins_GG.T).sum(1) > 0
        return Scores(torch.where(valid, bradley_terry(wins_GG), 0).float(), valid)


def pairs_of(frames_GF3hw: Tensor, opponents: int | None) -> list[tuple[int, int]]:
    """Pairs (a, b) of candidates: all pairs, or each candidate with its neighbours in a ring sorted by content."""
    size = len(frames_GF3hw)
    if opponents is None or opponents >= size - 1:
        return list(itertools.combinations(range(size), 2))
    order = sorted(
        range(size), key=lambda g: hashlib.sha256(frames_GF3hw[g].cpu().numpy().tobytes()).digest()
    )
    steps = range(1, (opponents + 1) // 2 + 1)
    ring = {frozenset((order[i], order[(i + step) % size])) for i in range(size) for step in steps}
    return sorted((min(pair), max(pair)) for pair in ring)


def bradley_terry(wins_GG: Tensor) -> Tensor:
    """Log strengths (G,) from a table of wins (row over column); ties count half. Their mean is about 0.

    They maximise the likelihood with ``PRIOR`` ties of each candidate against strength 0, by the minorisation of
    Hunter (Annals of Statistics 32, 2004, equation 3).
    """
    wins = wins_GG.double()
    matches = wins + wins.T
    strength = torch.ones(len(wins), dtype=torch.float64)
    for _ in range(10_000):
        expected = matches / (strength[:, None] + strength[None]) + torch.diag(2 * PRIOR / (strength + 1))
        updated = (wins.sum(1) + PRIOR) / expected.sum(1)
        done = (updated.log() - strength.log()).abs().max() < TOLERANCE
        strength = updated
        if done:
            break
    return strength.log()


def read_score(answer: str) -> float | None:
    """The score in an answer on a scale of 0 to 1; None when it has none."""
    value = _last_object(answer, "score")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= BEST:
        return None
    return value / BEST


def read_better(answer: str) -> float | None:
    """1 when A is better, 0 when B is, one half for a tie; None when the answer has no verdict."""
    value = _last_object(answer, "better")
    return {"a": 1.0, "b": 0.0, "tie": 0.5}.get(value.strip().lower()) if isinstance(value, str) else None


def _last_object(answer: str, field: str) -> object:
    """The field's value in the last JSON object that has it, as models reason in text before they answer."""
    for text in reversed(_OBJECT.findall(answer)):
        try:
            parsed = parse_json(text)
        except ValueError:
            continue
        if field in parsed:
            return parsed[field]
    return None


def _instruction(group: Group) -> Message:
    return {"type": "text", "text": f"The player was asked to: {group.instruction}"}


def _chat(task: str, content: Sequence[Message]) -> list[Message]:
    return [{"role": "system", "content": task}, {"role": "user", "content": list(content)}]


def _images(clip_F3hw: Tensor, count: int) -> list[Message]:
    """Evenly spaced frames of a clip, including the first and the last, as image parts."""
    chosen = torch.linspace(0, len(clip_F3hw) - 1, min(count, len(clip_F3hw))).round().long()
    return [_image(clip_F3hw[index]) for index in chosen]


def _image(frame_3hw: Tensor) -> Message:
    scale = -(-LEAST_WIDTH // frame_3hw.shape[-1])
    frame = frame_3hw.cpu()
    if scale > 1:
        size = (frame.shape[-1] * scale, frame.shape[-2] * scale)
        large = cv2.resize(frame.movedim(0, -1).contiguous().numpy(), size, interpolation=cv2.INTER_CUBIC)
        frame = torch.from_numpy(large).movedim(-1, 0)
    code = base64.b64encode(png(frame)).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{code}"}}


def _tries(judge: JudgeModel) -> tuple[int, int]:
    tally = judge.tally
    return tally.requests, tally.failed


def _count_unreadable(
    judge: JudgeModel, answers: Sequence[str | None], found: Sequence[float | None]
) -> None:
    for answer, value in zip(answers, found, strict=True):
        if answer is not None and value is None:
            judge.count_unreadable()
