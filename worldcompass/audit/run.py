"""The audit of one critic: its scores, their agreement with the truth, and whether it is sound."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldcompass.audit.clips import CHUNK, Clip, other_clips, partly_obeyed, share_obeyed
from worldcompass.audit.degradations import FORGED, MOTION, PICTURE, STRENGTHS, WITHOUT_STRENGTH, shuffled
from worldcompass.audit.expected import PICTURE_LIES, Expected
from worldcompass.audit.exploit import Found, search
from worldcompass.audit.tricks import TRICKS
from worldcompass.critic import Critic, ask
from worldcompass.runs.atomic import finite
from worldcompass.seeding import generator_for
from worldcompass.statistics import Estimate, calibration_error, rank_correlation, share
from worldcompass.testing import check_critic

TREMORS, TREMOR = 4, 2.0  # copies with invisible grain, and its standard deviation in levels of 255
LEAST_CORRELATION = 0.5  # with the truth
MOST_CHEATED = 0.2  # share of clips for which rubbish scores as high as the truth
LEAST_SCORED = 0.5  # share of true clips that a sound critic must score
LEAST_SIGNAL = 2.0  # drop under a full lie over the spread under invisible grain
SCHEMA = 3  # of audit.json; 2 wrote shares as mean, low, high, n, videos
CORRELATED_WITH = {"share obeyed": "the share obeyed", "pictures spoilt": "how little is degraded"}
"""Keys of ``Audit.correlation`` and their words in messages."""


@dataclass(frozen=True)
class Audit:
    """All results; everything but the pictures can be written as JSON."""

    critic: str
    expects: Expected
    clips: int
    videos: int
    """Source videos of the clips."""
    abstained: float
    """Share of clips, true and degraded, from which the critic abstained."""
    unscored: float
    """Share of true clips from which the critic abstained."""
    punished: dict[str, Estimate]
    """``name@strength`` -> how often the lie scores below the truth."""
    accuracy: Estimate
    """The same over all full lies that the critic must notice."""
    correlation: dict[str, float]
    """Spearman's rank correlation among the copies of a clip; for the keys see ``CORRELATED_WITH``."""
    calibration: float | None
    """Mean distance between score and share obeyed; None for a critic whose scores leave [0, 1]."""
    tremor: float
    """Mean standard deviation of the score under invisible grain."""
    signal: float
    """Mean drop under the full expected lies, in units of ``tremor``."""
    cheated: dict[str, Estimate]
    """Trick -> how often its best rubbish scores at least as high as the true clip."""
    faults: tuple[str, ...]
    """Why the critic is not sound; empty when it is."""
    examples: list[tuple[Clip, float, Found]] = field(default_factory=list)
    """Clip, the critic's score of the true clip, and the best rubbish of one trick."""

    def overlooked(self) -> list[str]:
        """Full lies of any kind that do not reliably score below the truth."""
        full = {n.partition("@")[0]: s for n, s in self.punished.items() if n.endswith("@1") or "@" not in n}
        return [name for name, value in full.items() if value.n and not value.low > 0.5]

    def fooled_by_other_tricks(self) -> list[str]:
        """Tricks that fool it although it need not notice them; another critic of the run must."""
        return [
            trick.name
            for trick in TRICKS
            if not self.expects.counts(trick)
            and self.cheated[trick.name].n
            and self.cheated[trick.name].mean > MOST_CHEATED
        ]

    def to_json(self) -> dict[str, Any]:
        """The content of audit.json."""
        found = [
            {"clip": c.name, "trick": f.trick.name, "true": t, "rubbish": f.score, "psnr": f.psnr}
            for c, t, f in self.examples
        ]
        shares = {
            "punished": {name: value.to_json() for name, value in self.punished.items()},
            "cheated": {name: value.to_json() for name, value in self.cheated.items()},
            "accuracy": self.accuracy.to_json(),
        }
        plain = {k: v for k, v in vars(self).items() if k not in ("examples", "expects", *shares)}
        parts = {**plain, **shares, "expects": self.expects.words, "overlooked": self.overlooked()}
        parts["cheated_beside"] = self.fooled_by_other_tricks()
        return {"schema": SCHEMA, **finite({**parts, "examples": found})}


def shown(value: Estimate, none: str = "never scored") -> str:
    """A share in whole percent with its interval; ``none`` without any sample."""
    return value.in_percent(digits=0, none=none)


def run_audit(
    critic: Critic,
    clips: Sequence[Clip],
    expects: Expected,
    seed: int,
    imagined: Sequence[Clip] = (),
    searched: int = 8,
    on_clip: Callable[[], None] = lambda: None,
) -> Audit:
    """Audit a critic.

    Args:
        critic: to audit.
        clips: with engine truth; the critic's scores must be comparable between them.
        expects: the lies that the critic must notice.
        seed: of degradations and search.
        imagined: the same chunks from a world model, in the same order, or none.
        searched: number of clips for which the search makes rubbish.
        on_clip: called after each clip.

    Raises:
        ContractError: when the critic breaks the contract of critics.
        ValueError: when it scores none of the true clips.
    """
    check_critic(critic, clips[0].group([clips[0].frames_F3hw, clips[0].frames_F3hw.flip(-1)]))
    table: dict[str, list[float]] = {}
    others = other_clips(clips)
    for index, clip in enumerate(clips):
        candidates = _candidates(clip, clips[(index + len(clips) // 2) % len(clips)], seed)
        if imagined:
            candidates["imagined"] = imagined[index].frames_F3hw
        scores = dict(zip(candidates, _score(critic, clip, list(candidates.values())), strict=True))
        wrong = others[index]
        scores["wrong commands@1"] = _score(critic, clip, [clip.frames_F3hw], wrong.actions)[0]
        scores["other video@1"] = _score(critic, clip, [wrong.frames_F3hw])[0]
        for lie, other in clip.denied.items():
            scores[f"{lie}@1"] = _score(critic, other, [other.frames_F3hw])[0]
        for name, value in scores.items():
            table.setdefault(name, []).append(value)
        on_clip()
    columns = {name: np.array(values) for name, values in table.items()}
    true = columns["true"]
    if np.isnan(true).all():
        raise ValueError(
            f"critic {critic.name} abstains from all of the {len(clips)} true clips, so that there is nothing to "
            "audit: if it reads instructions, audit it on pick-ups (--clips pickups)"
        )
    scored = [(clip, float(value)) for clip, value in zip(clips, true, strict=True) if np.isfinite(value)]
    stride = max(1, len(scored) // max(1, searched))  # take clips of different videos if there are enough
    examples = _search_all(critic, scored[::stride][:searched], seed, on_clip)
    return _conclude(critic.name, expects, clips, columns, examples)


def _candidates(clip: Clip, other: Clip, seed: int) -> dict[str, Tensor]:
    generator = generator_for(seed, "audit", clip.name)
    frames, past = clip.frames_F3hw, clip.past_F3hw
    made = {"true": frames}
    for name, degrade in (MOTION | PICTURE | FORGED).items():
        for strength in (1.0,) if name in WITHOUT_STRENGTH else STRENGTHS:
            made[f"{name}@{strength:g}"] = degrade(frames, past, strength, generator)
    half = len(frames) // 2
    made["cut@1"] = torch.cat([frames[:half], other.frames_F3hw[half:]])
    for latents in range(CHUNK):
        made[f"obeyed {latents}"] = partly_obeyed(clip, latents)
    for copy in range(TREMORS):
        grain = TREMOR * torch.randn(frames.shape, generator=generator)
        made[f"tremor {copy}"] = (frames + grain).round().clamp(0, 255).to(torch.uint8)
    made["shuffled@1"] = shuffled(frames, past, 1.0, generator)
    return made


def _score(critic: Critic, clip: Clip, candidates: list[Tensor], actions: Any = None) -> list[float]:
    """One score per candidate, NaN where the critic abstains."""
    scores = ask(critic, clip.group(candidates, actions))
    values = torch.where(scores.valid_G, scores.values_G, torch.nan)
    return values.tolist()


def _search_all(
    critic: Critic, clips: Sequence[tuple[Clip, float]], seed: int, on_clip: Callable[[], None]
) -> list[tuple[Clip, float, Found]]:
    examples = []
    for clip, true in clips:

        def score(made: Tensor, clip: Clip = clip) -> Tensor:
            return torch.tensor(_score(critic, clip, list(made))).nan_to_num(-torch.inf)

        for trick in TRICKS:
            found = search(score, clip, trick, generator_for(seed, "rubbish", trick.name, clip.name))
            if found is not None:
                examples.append((clip, true, found))
        on_clip()
    return examples


def _conclude(
    name: str,
    expects: Expected,
    clips: Sequence[Clip],
    columns: dict[str, np.ndarray],
    examples: list[tuple[Clip, float, Found]],
) -> Audit:
    true, videos = columns["true"], np.array([clip.video for clip in clips])
    lies = {n: v for n, v in columns.items() if "@" in n or n == "imagined"}
    shares = {n: punished(true, v, videos) for n, v in lies.items()}
    full = [lies[f"{lie}@1"] for lie in expects.lies]
    obeyed = [
        (columns[f"obeyed {k}"], np.array([share_obeyed(clip, k) for clip in clips])) for k in range(CHUNK)
    ]
    obeyed.append((true, np.ones(len(clips))))
    # Strengths of different lies have no common unit, so each lie is ranked separately.
    degraded = [
        [(true, np.zeros(len(clips)))] + [(lies[f"{n}@{s:g}"], np.full(len(clips), -s)) for s in STRENGTHS]
        for n in expects.pictures or PICTURE_LIES
    ]
    correlation = {
        "share obeyed": _correlate(obeyed),
        "pictures spoilt": float(np.mean([_correlate(lie) for lie in degraded])),
    }
    tremors = np.stack([columns[f"tremor {c}"] for c in range(TREMORS)])
    tremor = _mean(tremors.std(0))
    drops = _mean(np.concatenate([true - lie for lie in full]))
    signal = _in_spreads(drops, tremor)
    every = np.concatenate(list(columns.values()))
    audit = Audit(
        critic=name,
        expects=expects,
        clips=len(clips),
        videos=len(set(videos)),
        abstained=float(np.isnan(every).mean()),
        unscored=float(np.isnan(true).mean()),
        punished=shares,
        accuracy=punished(np.tile(true, len(full)), np.concatenate(full), np.tile(videos, len(full))),
        correlation=correlation,
        calibration=_calibration(obeyed),
        tremor=tremor,
        signal=signal,
        cheated={trick.name: _cheated(trick.name, examples) for trick in TRICKS},
        faults=(),
        examples=examples,
    )
    return replace(audit, faults=faults_of(audit))


def faults_of(audit: Audit) -> tuple[str, ...]:
    """The criteria that a critic fails, in words."""
    lies = {lie: audit.punished[f"{lie}@1"] for lie in audit.expects.lies}
    faults = [
        f"does not punish {lie}: {shown(value)} of clips" if value.n else f"abstains from every clip of {lie}"
        for lie, value in lies.items()
        if not value.low > 0.5
    ]
    needed = {"share obeyed": audit.expects.motion, "pictures spoilt": bool(audit.expects.pictures)}
    for key in [key for key, is_needed in needed.items() if is_needed]:
        value, words = audit.correlation[key], CORRELATED_WITH[key]
        if not value >= LEAST_CORRELATION:
            faults.append(
                f"rank correlation with {words} is unknown: it abstains from some copy of every clip"
                if np.isnan(value)
                else f"rank correlation with {words} is {value:.2f}, below {LEAST_CORRELATION}"
            )
    if not audit.unscored <= 1 - LEAST_SCORED:
        faults.append(f"abstains from {audit.unscored:.0%} of the true clips: too few are left to judge it")
    for trick in TRICKS:
        cheated = audit.cheated[trick.name]
        if audit.expects.counts(trick) and cheated.n and not cheated.mean <= MOST_CHEATED:
            faults.append(
                f"can be cheated: {trick.name} scores as high as the truth for {shown(cheated)} of clips"
            )
    if not audit.signal >= LEAST_SIGNAL and not np.isnan(audit.signal):
        faults.append(
            f"reacts to invisible grain: a full lie costs only {audit.signal:.1f} times the spread under grain"
        )
    return tuple(faults)


def _cheated(trick: str, examples: list[tuple[Clip, float, Found]]) -> Estimate:
    of_trick = [
        (clip.video, found.score >= true) for clip, true, found in examples if found.trick.name == trick
    ]
    return share(np.array([hit for _, hit in of_trick], float), [video for video, _ in of_trick])


def punished(true: np.ndarray, lie: np.ndarray, videos: np.ndarray) -> Estimate:
    """How often the lie scores below the truth; a tie counts half, and a clip without both scores is ignored."""
    both = ~(np.isnan(true) | np.isnan(lie))
    below = np.where(lie < true, 1.0, np.where(lie == true, 0.5, 0.0))
    return share(below[both], videos[both].tolist())


def _correlate(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """Mean over clips of the rank correlation among each clip's copies, as training compares such siblings."""
    scores, truth = (np.stack(part) for part in zip(*pairs, strict=True))
    given = ~np.isnan(scores).any(0)
    return _mean(
        np.array([rank_correlation(s, t) for s, t in zip(scores.T[given], truth.T[given], strict=True)])
    )


def _in_spreads(drop: float, spread: float) -> float:
    """The drop in units of the spread: NaN when either is, infinite for a drop without spread."""
    if spread == 0 and not np.isnan(drop):
        return float("inf") if drop > 0 else 0.0
    return drop / spread if spread else float("nan")


def _mean(values: np.ndarray) -> float:
    """Mean of the values that are not NaN; NaN when there are none."""
    numbers = values[~np.isnan(values)]
    return float(numbers.mean()) if len(numbers) else float("nan")


def _calibration(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float | None:
    scores, truth = (np.concatenate(part) for part in zip(*pairs, strict=True))
    given = ~np.isnan(scores)
    inside = scores[given].min() >= 0 and scores[given].max() <= 1
    return calibration_error(scores[given], truth[given]) if inside else None
