"""Evaluation of open checkpoints: videos along fixed trajectories, scored by the recipe's critics, and compared.

These critics are also the rewards of training, so that a difference shows what the run optimised. A judge that was
held out does not exist for real videos; look at the videos, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from worldcompass.critic import Critic
from worldcompass.devices.autocast import in_bf16
from worldcompass.errors import UserError
from worldcompass.media.video import write_mp4
from worldcompass.rewards.video_score import score_video
from worldcompass.rollout import imagine_video
from worldcompass.runs.atomic import write_json
from worldcompass.runs.folder import RunFolder
from worldcompass.runs.metrics import read_object
from worldcompass.runs.requirements import digest_of, parts
from worldcompass.settings import recorded
from worldcompass.statistics import Estimate, bootstrap, resamples
from worldcompass.types import Scenario
from worldcompass.worlds.open.recipe import OpenRecipe, OpenWorld

SEED = 7_000_000  # of trajectories that no run draws, as its own seeds are far below
USUAL = 16  # scenarios
BASE = "base"
REQUEST = "request.json"
NAMED = 5  # differences that a message names


@dataclass(frozen=True)
class Request:
    """What is imagined and scored."""

    count: int | None
    """Scenarios, the first ones of the recipe's dataset; at most ``USUAL`` of them when None."""
    latents: int
    """Of every video, a multiple of the world's chunk."""
    steps: int | None
    """Denoising steps; the world's own when None."""
    seed: int


def scenarios_of(recipe: OpenRecipe, request: Request) -> list[Scenario]:
    """The evaluated scenarios: the recipe's images, each along one trajectory that the training does not draw.

    Raises:
        UserError: when the dataset has fewer images, or the length is no multiple of a chunk.
    """
    if request.latents % recipe.chunk:
        raise UserError(f"--latents is {request.latents}: expected a multiple of {recipe.chunk}")
    found = recipe.scenarios_along(request.latents, SEED + request.seed)
    if not found:
        raise UserError("these settings leave no scenarios: expected one or more images and trajectories")
    if request.count is None:
        return found[:USUAL]
    if len(found) < request.count:
        raise UserError(f"the dataset has {len(found)} scenarios: lower --scenarios from {request.count}")
    return found[: request.count]


def weights_file(recipe: OpenRecipe, path: Path) -> Path:
    """The file of a run, of a folder of weights such as ``ar_rl_model``, or the file itself.

    Raises:
        UserError: when there is none.
    """
    folder = RunFolder(path).weights if RunFolder(path).weights.is_dir() else path
    file = recipe.file_in(folder) if folder.is_dir() else folder
    if not file.is_file():
        raise UserError(f"there are no weights at {path}: expected a run, a folder of weights, or their file")
    return file


def sides_of(checkpoints: Sequence[Path]) -> dict[str, Path | None]:
    """The recipe's own weights and others, by the names of their folders of videos.

    Raises:
        UserError: when two of them would have the same name.
    """
    sides: dict[str, Path | None] = {BASE: None}
    for path in checkpoints:
        whole = path.resolve()
        long = str(whole).strip("/").replace("/", "_")
        if whole.name == BASE or long in sides or path in sides.values():
            raise UserError(
                f"--checkpoint {path} has the name of another side: give every folder once, and none named"
                f" {BASE!r}, which is the name of the recipe's own weights"
            )
        sides[long if whole.name in sides else whole.name] = path
    return sides


def digest_of_weights(recipe: OpenRecipe, path: Path | None) -> str:
    """SHA-256 of the files of weights, the recipe's own for None.

    Raises:
        UserError: when there are none.
    """
    files = recipe.source.weight_files() if path is None else parts(weights_file(recipe, path))
    return hashlib.sha256(" ".join(map(digest_of, files)).encode()).hexdigest()


def settings_of(recipe: OpenRecipe) -> dict[str, object]:
    """The settings that a recipe's videos and their scores depend on, as JSON values; without its training's."""
    own = recorded(recipe, without="config")
    return own | {"config.autocast_bf16": recipe.config.optimiser.autocast_bf16}


def evaluate(
    recipe: OpenRecipe, sides: Mapping[str, Path | None], request: Request, out: Path, device: str
) -> Iterator[str]:
    """Make and score every side's videos, a file of each; finished ones are kept. Yields what is finished.

    Args:
        recipe: whose world, dataset and critics are used.
        sides: weights by name; None stands for the recipe's own.
        request: see there.
        out: folder of videos and scores.
        device: of everything.

    Raises:
        UserError: when a file is missing or of another network, or ``out`` holds another evaluation.
    """
    _check_same(out, recipe, sides, request)
    scenarios, critics = scenarios_of(recipe, request), recipe.rewards.critics(device)
    unfinished = [s for s in sides if not all(_file(out, s, scenario.id).exists() for scenario in scenarios)]
    world = blank_world(recipe, device) if unfinished else None
    loaded = None
    # All sides are loaded once before the first video, as a file of another network would else be refused late.
    for loaded in reversed(unfinished):
        assert world is not None
        use_weights(world.net, sides[loaded], recipe, device)
    for side, path in sides.items():
        for scenario in scenarios:
            if not _file(out, side, scenario.id).exists():
                assert world is not None
                if loaded != side:
                    use_weights(world.net, path, recipe, device)
                    loaded = side
                _evaluate_one(world, critics, scenario, request, out, side, recipe)
            yield f"{side}/{scenario.id}"


def _evaluate_one(
    world: OpenWorld,
    critics: Sequence[Critic],
    scenario: Scenario,
    request: Request,
    out: Path,
    side: str,
    recipe: OpenRecipe,
) -> None:
    kind = next(world.net.parameters()).device.type
    with torch.no_grad(), in_bf16(kind, recipe.config.optimiser.autocast_bf16):
        frames = imagine_video(world, [scenario], (request.seed,), num_steps=request.steps)[0]
    scores = score_video(frames.cpu(), scenario.actions.to("cpu"), critics, world.spec)
    file = _file(out, side, scenario.id)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_mp4(file.with_suffix(".mp4"), frames.cpu(), world.spec.fps)
    write_json(file, scores, indent=1)


def compare(sides: Sequence[str], scenarios: Sequence[str], out: Path) -> dict[str, dict[str, Estimate]]:
    """Mean of every score by side, and for every side but the first its difference from it, paired by scenario."""
    what = "the scores of a video"
    values = {side: [read_object(_file(out, side, name), what) for name in scenarios] for side in sides}
    found: dict[str, dict[str, Estimate]] = {}
    for critic in values[sides[0]][0]:
        table = {
            side: np.array([np.nan if row.get(critic) is None else row[critic] for row in rows], float)
            for side, rows in values.items()
        }
        known = np.all([np.isfinite(column) for column in table.values()], 0)
        names = [name for name, one in zip(scenarios, known, strict=True) if one]
        if not names:
            continue
        rows = resamples(names)
        columns = {side: column[known] for side, column in table.items()}
        columns |= {f"{side} - {sides[0]}": columns[side] - columns[sides[0]] for side in sides[1:]}
        found[critic] = {
            name: bootstrap(column[rows].mean(1), column.mean(), len(names))
            for name, column in columns.items()
        }
    return found


def use_weights(net: nn.Module, path: Path | None, recipe: OpenRecipe, device: str) -> None:
    """Load weights, the recipe's own for None."""
    if path is None:
        recipe.source.fill(net, _dtype(recipe), device)
    else:
        recipe.load(net, weights_file(recipe, path), _dtype(recipe), device)


def _check_same(out: Path, recipe: OpenRecipe, sides: Mapping[str, Path | None], request: Request) -> None:
    """Refuse a folder with videos of other weights, settings or requests.

    Raises:
        UserError: naming what differs.
    """
    own = {f"the weights of {name}": digest_of_weights(recipe, path) for name, path in sides.items()}
    own |= {f"--{name}": value for name, value in vars(request).items()} | settings_of(recipe)
    file = out / REQUEST
    if file.is_file():
        found = read_object(file, "the record of an evaluation")
        changed = sorted(n for n in own.keys() | found.keys() if own.get(n, ...) != found.get(n, ...))
        if changed:
            more = f" and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
            raise UserError(
                f"{out} holds an evaluation with other {', '.join(changed[:NAMED])}{more}: choose another --out"
            )
    write_json(file, own, indent=1)


def _file(out: Path, side: str, scenario: str) -> Path:
    return out / side / f"{scenario.replace('/', '_')}.json"


def blank_world(recipe: OpenRecipe, device: str) -> OpenWorld:
    """The recipe's world, still without weights."""
    return recipe.world(lambda net: net.to_empty(device=device), recipe.source.decoder(device))


def _dtype(recipe: OpenRecipe) -> torch.dtype:
    """Of the whole network, as nothing is trained."""
    return torch.bfloat16 if recipe.half_weights else torch.float32
