"""Make a sheet: imagine the videos it needs, draw its pictures, write form and instructions.

Everything finished is kept, so the same command resumes a stopped one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from safetensors.torch import load_file
from torch import Tensor

from worldcompass.errors import UserError
from worldcompass.judging.votes.controls import ENGINE, Source
from worldcompass.judging.votes.form import write_form
from worldcompass.judging.votes.instructions import instructions
from worldcompass.judging.votes.pictures import Shown, panel, strip
from worldcompass.judging.votes.sheet import (
    PURPOSE,
    Pair,
    Sheet,
    SheetFolder,
    file_hash,
    write_key,
)
from worldcompass.judging.votes.subjects import Subjects
from worldcompass.media.progress import progress
from worldcompass.media.video import save_png, to_array, write_mp4
from worldcompass.runs.atomic import write_tensors, write_text
from worldcompass.runs.folder import claim
from worldcompass.seeding import generator_for
from worldcompass.types import Scenario
from worldcompass.world import WorldSpec

BATCH = 6  # videos that are imagined together, and lost together when the command is stopped


@dataclass(frozen=True)
class Kinds:
    """Which files a sheet has for each pair."""

    videos: bool = True
    strips: bool = True


def make_sheet(folder: SheetFolder, sheet: Sheet, subjects: Subjects, kinds: Kinds) -> Sheet:
    """Make all files of a sheet, or those that an earlier call did not finish.

    Returns:
        The sheet with the hashes of its files, as key.json holds it.

    Raises:
        UserError: when the folder holds another sheet or something else.
    """
    _claim(folder, sheet)
    scenarios = {s.id: s for s in subjects.prepare(sorted({pair.scenario for pair in sheet.pairs}))}
    _imagine(folder, sheet, subjects, scenarios)
    wanted = [
        (pair, name)
        for pair in sheet.pairs
        for name in [f"{pair.name}.mp4"] * kinds.videos + [f"{pair.name}.png"] * kinds.strips
    ]
    with progress("drawing the pairs", len(wanted)) as advance:
        for pair, name in wanted:
            path = folder.sheet / name
            if not path.exists():
                shown = _shown(folder, sheet, subjects.spec, pair, scenarios[pair.scenario])
                if path.suffix == ".mp4":
                    write_mp4(path, panel(shown), shown.fps)
                else:
                    save_png(path, strip(shown))
            advance()
    write_form(folder.form, sheet)
    found = sorted({*folder.sheet.glob("pair_*.mp4"), *folder.sheet.glob("pair_*.png")})
    any_videos, any_strips = (any(p.suffix == kind for p in found) for kind in (".mp4", ".png"))
    write_text(folder.instructions, instructions(sheet, any_videos, any_strips))
    finished = replace(sheet, files={path.name: file_hash(path) for path in found})
    write_key(folder, finished)
    return finished


def _claim(folder: SheetFolder, sheet: Sheet) -> None:
    found = claim(folder.path, folder.key, sheet.to_json(), "a vote sheet")
    if found is None:
        return
    wanted = sheet.to_json()
    differ = [k for k in {**wanted, **found} if found.get(k) != wanted.get(k)]
    changed = [k for k in differ if k not in ("titles", "files")]
    if changed:
        raise UserError(
            f"{folder.path} holds another sheet, with other {', '.join(changed)}: choose another --out"
        )


# --------------------------------------------------------------------------- videos


def _batches(sheet: Sheet) -> Iterator[tuple[str, int, int, Sequence[Pair]]]:
    """The videos to imagine: (model, noise, number of the batch, pairs). They depend on the sheet alone."""
    needed: dict[tuple[str, int], dict[str, Pair]] = {}
    for pair in sheet.pairs:
        for source in (pair.A, pair.B):
            if source.video != ENGINE:
                needed.setdefault((source.video, pair.noise), {})[pair.scenario] = pair
    for (video, noise), by_scenario in sorted(needed.items()):
        pairs = [by_scenario[scenario] for scenario in sorted(by_scenario)]
        for batch in range(0, len(pairs), BATCH):
            yield video, noise, batch // BATCH, pairs[batch : batch + BATCH]


def _imagine(
    folder: SheetFolder, sheet: Sheet, subjects: Subjects, scenarios: Mapping[str, Scenario]
) -> None:
    batches = list(_batches(sheet))
    with progress("imagining the videos", sum(len(pairs) for *_, pairs in batches)) as advance:
        done = 0
        if not folder.imagined(*batches[0][:3]).exists():
            advance(0)
        for video, noise, batch, pairs in batches:
            path = folder.imagined(video, noise, batch)
            if not path.exists():
                asked = [scenarios[pair.scenario] for pair in pairs]
                videos = subjects.imagine(video, asked, noise)
                write_tensors(path, {s.id: v.contiguous() for s, v in zip(asked, videos, strict=True)})
            done += len(pairs)
            advance(done)


def _video(
    folder: SheetFolder, sheet: Sheet, spec: WorldSpec, pair: Pair, source: Source, scenario: Scenario
) -> Tensor:
    """The frames of one side, uint8 (F, 3, h, w)."""
    if source.video == ENGINE:
        assert scenario.truth is not None, f"{scenario.id} has no engine truth"
        frames = scenario.truth.frames_F3hw
    else:
        frames = next(
            load_file(folder.imagined(video, noise, batch))[pair.scenario]
            for video, noise, batch, pairs in _batches(sheet)
            if (video, noise) == (source.video, pair.noise)
            and any(p.scenario == pair.scenario for p in pairs)
        )
    generator = generator_for(PURPOSE, sheet.seed, "forgery", pair.number)
    return source.shown(frames[: sheet.num_frames], spec.first_latent_frames, generator)


def _shown(folder: SheetFolder, sheet: Sheet, spec: WorldSpec, pair: Pair, scenario: Scenario) -> Shown:
    a, b = (to_array(_video(folder, sheet, spec, pair, source, scenario)) for source in (pair.A, pair.B))
    start = a[0].copy() if scenario.image_3hw is None else scenario.image_3hw.cpu().numpy()
    a, b = a.copy(), b.copy()
    a[0] = b[0] = start  # a model may decode its start image with a loss, which would tell it from the engine
    real = to_array(_video(folder, sheet, spec, pair, Source(ENGINE), scenario)) if sheet.engine else None
    return Shown(start, a, b, commands(spec, scenario, len(a)), spec.fps, real)


def commands(spec: WorldSpec, scenario: Scenario, num_frames: int) -> tuple[str, ...]:
    """The command during each frame in words; the start image has the first command, which comes next."""
    composites = spec.actions.composites(scenario.actions).tolist()
    says = {key.word: key.says for key in spec.actions.keys}
    names = [", ".join(says[w] for w in spec.actions.words(c)) or "stand still" for c in composites]
    frames = torch.arange(num_frames) - spec.first_latent_frames
    latents = (frames.div(spec.frames_per_latent, rounding_mode="floor") + 1).clamp(1, len(names) - 1)
    return tuple(names[i] for i in latents.tolist())
