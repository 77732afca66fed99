"""How often critics and judges of the Hands world are right, on held-out recordings and on made-up faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldcompass.critic import Critic
from worldcompass.types import ControlValues, Group, Scenario
from worldcompass.worlds.hands import looks
from worldcompass.worlds.hands.critic_training.data import MUSHES, blurred, mushes
from worldcompass.worlds.hands.critic_training.faults import spoilt_clip
from worldcompass.worlds.hands.critics.following import GripperReader
from worldcompass.worlds.hands.critics.reader import SceneReader, middles_of
from worldcompass.worlds.hands.critics.weights import load_judge, load_reader
from worldcompass.worlds.hands.facts import FRAMES_PER_LATENT, NOMINAL, THINGS, labels_of
from worldcompass.worlds.hands.footage import composites_of, shipped
from worldcompass.worlds.hands.recording import FORMAT, HandsEpisode
from worldcompass.worlds.hands.rewards.instruction import InstructionFollowing
from worldcompass.worlds.hands.rewards.interaction import GripperFollowing
from worldcompass.worlds.hands.rewards.objects import Grasp, Passivity, Permanence
from worldcompass.worlds.hands.scenarios import Plan
from worldcompass.worlds.hands.splits import scene
from worldcompass.worlds.hands.task_judge import find
from worldcompass.worlds.hands.tasks import PICK, Instruction, parse
from worldcompass.worlds.hands.view import project
from worldcompass.worlds.hands.world import load_hands_world
from worldcompass.worlds.small.data import load
from worldcompass.worlds.small.linear import LinearCode

CHUNK = 4  # latents
NEAR = 3.0  # pixels from the truth at which a place is right
KEPT = 2.0  # pixels by which a patch may move when a picture goes through the autoencoder
ERRAND_CHUNKS = 6  # of each errand of the package
FROM = 4  # frames of a clip before its fault begins


@dataclass(frozen=True)
class Recorded:
    """One held-out episode; frames are uint8 (F, 3, h, w)."""

    episode: HandsEpisode
    frames_F3hw: Tensor

    @property
    def number(self) -> int:
        """Of its scene."""
        return int(self.episode.number)


def report(data: Path, folder: Path | None, episodes: int) -> str:
    """All tables in Markdown.

    Args:
        data: recordings.
        folder: of weights; those of the package when None.
        episodes: of the held-out split.

    Raises:
        UserError: when there are no recordings or no weights.
    """
    reader, code = load_reader(folder), load_hands_world().autoencoder.code
    known = [
        Recorded(episode, _frames(episode.frames_Fhw3))
        for shard in load(data, "heldout", FORMAT)
        for episode in shard
    ][:episodes]
    views: dict[str, Callable[[Tensor], Tensor]] = {
        "engine": lambda frames: frames,
        "autoencoder": lambda frames: through(code, frames),
        "blurred": lambda frames: _bytes(blurred(frames.float() / 255, 1.0)),
    }
    readers = {"critic": GripperReader(reader).labels, "judge": load_judge(folder).labels}
    parts = [
        _table(
            ("commands read", "pictures", "latents", "exact", "plane", "height and grip"),
            _commands(known, views, readers),
        ),
        _table(("gripper", "pictures", "x mm", "y mm", "z mm", "opening mm"), _gripper(known, views, reader)),
        _table(
            ("things", "pictures", "found", "place right", "colour right", "absent seen"),
            _things(known, views, reader),
        ),
        _table(
            ("task judge", "found, engine", "found, autoencoder", "kept of those found"),
            _task_judge(known, code),
        ),
        _table(("critic", "fault", "clips", "true above faulty"), _faults(known, reader)),
        _table(("critic", "engine", *MUSHES), _mush(reader)),
        _table(("instructions", "tasks", "right"), _instructions(reader)),
    ]
    return "\n\n".join(parts)


def through(code: LinearCode, frames_F3hw: Tensor) -> Tensor:
    """uint8 frames through the autoencoder's code."""
    return _bytes(code.decode(code.encode(frames_F3hw.float() / 255)))


def _commands(
    known: Sequence[Recorded],
    views: dict[str, Callable[[Tensor], Tensor]],
    readers: dict[str, Callable[[Tensor], Tensor]],
) -> Iterator[tuple[str, ...]]:
    true = torch.stack([composites_of([int(a) for a in labels_of(r.episode.grip_F4)]) for r in known])[:, 1:]
    for who, read in readers.items():
        for view, change in views.items():
            found = torch.cat([read(change(r.frames_F3hw)[None]) for r in known])[:, 1:]
            planar, lifting = (_axes(found, part) == _axes(true, part) for part in (0, 1))
            right = (found == true, planar, lifting)
            yield who, view, str(true.numel()), *(_percent(part) for part in right)


def _axes(composites: Tensor, part: int) -> Tensor:
    """The composites with the signs of x and y (0), or of height and grip (1), alone."""
    from worldcompass.worlds.hands.actions import ACTIONS

    keep = ((1, 1, 0, 0), (0, 0, 1, 1))[part]
    table = [
        ACTIONS.composite([s * k for s, k in zip(ACTIONS.signs(c), keep, strict=True)])
        for c in range(ACTIONS.num_composites)
    ]
    return torch.tensor(table)[composites]


def _gripper(
    known: Sequence[Recorded], views: dict[str, Callable[[Tensor], Tensor]], reader: SceneReader
) -> Iterator[tuple[str, ...]]:
    for view, change in views.items():
        errors = [
            (
                reader.read(change(r.frames_F3hw[::FRAMES_PER_LATENT])).grip_N4.numpy()
                - r.episode.grip_F4[::FRAMES_PER_LATENT]
            )
            for r in known
        ]
        means = 1000 * np.abs(np.concatenate(errors)).mean(0)
        yield "mean error", view, *(f"{mean:.1f}" for mean in means)


def _things(
    known: Sequence[Recorded], views: dict[str, Callable[[Tensor], Tensor]], reader: SceneReader
) -> Iterator[tuple[str, ...]]:
    hues = torch.tensor([looks.rgb(value) for value in looks.HUES.values()])
    names = list(looks.HUES)
    for view, change in views.items():
        rows: dict[str, list[np.ndarray]] = {kind: [] for kind in THINGS}
        absent: dict[str, list[np.ndarray]] = {kind: [] for kind in THINGS}
        for recorded in known:
            frames = recorded.frames_F3hw[::FRAMES_PER_LATENT]
            seen, visible = (
                reader.read(change(frames)),
                find(frames, scene("heldout", recorded.number)).seen_FT,
            )
            truth = project(
                middles_of(recorded.episode.things_FT7[::FRAMES_PER_LATENT]).reshape(-1, 3)
            ).reshape(-1, len(THINGS), 2)
            nearest = (seen.colour_NT3[:, :, None] - hues).square().sum(-1).argmin(-1)
            for index, kind in enumerate(THINGS):
                there = (seen.there_NT[:, index] > 0.5).numpy()
                placed = scene("heldout", recorded.number).placed(kind)
                if placed is None:
                    absent[kind].append(there)
                    continue
                off = np.linalg.norm(seen.pixel_NT2[:, index].numpy() - truth[:, index], axis=1)
                colour = nearest[:, index].numpy() == names.index(placed.colour)
                rows[kind].append(
                    np.stack([there, there & (off < NEAR), there & colour], 1)[visible[:, index]]
                )
        for kind in THINGS:
            found = np.concatenate(rows[kind]).mean(0)
            ghosts = f"{100 * np.concatenate(absent[kind]).mean():.1f}%" if absent[kind] else ""
            yield kind, view, *(f"{100 * value:.1f}%" for value in found), ghosts


def _task_judge(known: Sequence[Recorded], code: LinearCode) -> Iterator[tuple[str, ...]]:
    rows: dict[str, list[np.ndarray]] = {kind: [] for kind in THINGS}
    for recorded in known:
        of, frames = scene("heldout", recorded.number), recorded.frames_F3hw[::FRAMES_PER_LATENT]
        plain, coded = find(frames, of), find(through(code, frames), of)
        moved = np.linalg.norm(plain.place_FT2 - coded.place_FT2, axis=-1)
        for index, kind in enumerate(THINGS):
            if of.placed(kind) is not None:
                both = plain.seen_FT[:, index] & coded.seen_FT[:, index]
                rows[kind].append(
                    np.stack(
                        [plain.seen_FT[:, index], coded.seen_FT[:, index], both & (moved[:, index] < KEPT)], 1
                    )
                )
    whole = {**rows, "all": [part for parts in rows.values() for part in parts]}
    for kind, parts in whole.items():
        plain, coded, kept = np.concatenate(parts).mean(0)
        yield kind, f"{100 * plain:.1f}%", f"{100 * coded:.1f}%", f"{100 * kept / plain:.1f}%"


def _faults(known: Sequence[Recorded], reader: SceneReader) -> Iterator[tuple[str, ...]]:
    critics: dict[str, tuple[Critic, Sequence[str]]] = {
        "permanence": (Permanence(reader), ("erased", "recoloured", "doubled")),
        "passivity": (Passivity(reader), ("moved",)),
        "grasp": (Grasp(reader), ("erased", "moved")),
    }
    for name, (critic, faults) in critics.items():
        for fault in faults:
            wins, count = 0.0, 0
            for recorded in known:
                for chunk in (1, 2, 3, 4):
                    index = _subject(recorded, chunk, held=name == "grasp")
                    if index is None:
                        continue
                    group = group_of(recorded, chunk)
                    plain = group.frames_GF3hw[0].movedim(1, -1).numpy()
                    of = scene("heldout", recorded.number)
                    wrong = spoilt_clip(plain, of, index, fault, recorded.number, FROM)
                    if wrong is None:
                        continue
                    pair = _with(group, torch.stack([group.frames_GF3hw[0], _frames(wrong)]))
                    scores = critic(pair)
                    if bool(scores.valid_G.all()):
                        wins += float(scores.values_G[0] > scores.values_G[1]) + 0.5 * float(
                            scores.values_G[0] == scores.values_G[1]
                        )
                        count += 1
            yield name, fault, str(count), _share(wins, count)
    critic, wins, count = GripperFollowing(reader), {"wrong commands": 0.0, "frozen": 0.0}, 0
    for recorded in known:
        for chunk in (1, 2, 3, 4):
            group = group_of(recorded, chunk)
            if not bool((group.actions.controls.flat_KA.abs() > 0.5).any()):
                continue
            count += 1
            own = group.frames_GF3hw[0]
            frozen = group.past_frames_F3hw[-1:].expand_as(own)
            scores = critic(_with(group, torch.stack([own, frozen]))).values_G
            wins["frozen"] += float(scores[0] > scores[1])
            mirrored = ControlValues(-group.actions.controls.values_KTA)
            other = critic(
                Group(group.frames_GF3hw, group.past_frames_F3hw, group.first_frame_3hw, mirrored, 4)
            )
            wins["wrong commands"] += float(scores[0] > other.values_G[0])
    for fault, won in wins.items():
        yield "interaction", fault, str(count), _share(won, count)


def _subject(recorded: Recorded, chunk: int, held: bool) -> int | None:
    """A thing for a fault: one that is held all through the chunk, or any one that the scene has."""
    frames = slice(FRAMES_PER_LATENT * (CHUNK * chunk - 1), FRAMES_PER_LATENT * CHUNK * (chunk + 1) - 3)
    if held:
        found = np.flatnonzero(recorded.episode.held_FT[frames].all(0))
        return int(found[0]) if len(found) else None
    here = np.flatnonzero(recorded.episode.present_T)
    return int(here[(recorded.number + chunk) % len(here)])


def _mush(reader: SceneReader) -> Iterator[tuple[str, ...]]:
    """Mean scores of the package's errands and of pictures that show nothing, with the number of scored clips."""
    groups = [
        errand_group(plan, scenario, chunk)
        for chunk in range(1, ERRAND_CHUNKS)
        for plan, scenario in shipped("errands")
    ]
    candidates = [torch.cat([g.frames_GF3hw, m]) for g, m in zip(groups, mushed_clips(groups), strict=True)]
    makers = (GripperFollowing, Permanence, Passivity, Grasp, InstructionFollowing)
    for critic in (make(reader) for make in makers):
        scores = [critic(_with(g, frames)) for g, frames in zip(groups, candidates, strict=True)]
        values, valid = (torch.stack([getattr(s, part) for s in scores]) for part in ("values_G", "valid_G"))
        columns = zip(values.T, valid.T, strict=True)
        yield critic.name, *(f"{float(v[ok].mean()):.3f} ({int(ok.sum())})" for v, ok in columns)


def mushed_clips(groups: Sequence[Group]) -> Tensor:
    """For each group its first candidate as each of ``MUSHES``, uint8 (N, kinds, F, 3, h, w).

    Neighbours among the groups must be of different scenes.
    """
    own_FN3hw = torch.stack([group.frames_GF3hw[0] for group in groups], 1)
    made = mushes(own_FN3hw.flatten(0, 1).float() / 255, torch.Generator().manual_seed(0))
    return _bytes(made).unflatten(1, own_FN3hw.shape[:2]).permute(2, 0, 1, 3, 4, 5)


def _instructions(reader: SceneReader) -> Iterator[tuple[str, ...]]:
    """Whether a task's last chunk scores above 0.5 for its own instruction, and below for others."""
    critic = InstructionFollowing(reader)
    own, other = [], []
    for plan, scenario in shipped("errands"):
        others = [t for t in scene(plan.split, plan.number).things if t.kind != parse(plan.instruction).kind]
        asked = [plan.instruction, *(str(Instruction(PICK, t.kind, t.colour)) for t in others)]
        for words in asked:
            scores = critic(replace(errand_group(plan, scenario, ERRAND_CHUNKS - 1), instruction=words))
            if bool(scores.valid_G[0]):
                (own if words == plan.instruction else other).append(float(scores.values_G[0]))
    yield "its own, above 0.5", str(len(own)), _share(sum(v > 0.5 for v in own), len(own))
    yield "of another thing, below 0.5", str(len(other)), _share(sum(v < 0.5 for v in other), len(other))


def errand_group(plan: Plan, scenario: Scenario, chunk: int) -> Group:
    """One chunk of an errand in the engine as a group of one candidate."""
    truth = scenario.truth
    assert truth is not None
    first, end = (FRAMES_PER_LATENT * (CHUNK * k - 1) + 1 for k in (chunk, chunk + 1))
    return Group(
        truth.frames_F3hw[None, first:end],
        truth.frames_F3hw[:first],
        truth.frames_F3hw[0],
        truth.actions.latents(CHUNK * chunk, CHUNK * (chunk + 1)),
        FRAMES_PER_LATENT,
        instruction=plan.instruction,
    )


def group_of(recorded: Recorded, chunk: int) -> Group:
    """One chunk of an episode as a group of one candidate; what was really done is the command."""
    episode, frames = recorded.episode, recorded.frames_F3hw
    first, end = (
        FRAMES_PER_LATENT * (CHUNK * chunk - 1) + 1,
        FRAMES_PER_LATENT * (CHUNK * (chunk + 1) - 1) + 1,
    )
    grips = episode.grip_F4[first - 1 : end : FRAMES_PER_LATENT]
    done = torch.from_numpy(np.diff(grips, axis=0) / NOMINAL).float().clamp(-1, 1)[:, None]
    return Group(frames[None, first:end], frames[:first], frames[0], ControlValues(done), FRAMES_PER_LATENT)


def _with(group: Group, frames_GF3hw: Tensor) -> Group:
    return replace(group, frames_GF3hw=frames_GF3hw)


def _frames(frames_Fhw3: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(frames_Fhw3)).movedim(-1, 1).contiguous()


def _bytes(frames: Tensor) -> Tensor:
    return (frames.clamp(0, 1) * 255).round().to(torch.uint8)


def _percent(right: Tensor) -> str:
    return f"{100 * float(right.double().mean()):.1f}%"


def _share(wins: float, count: int) -> str:
    return f"{100 * wins / count:.1f}%" if count else "no clip"


def _table(heads: Sequence[str], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
